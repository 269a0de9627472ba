package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"sort"
	"strings"
	"testing"
	"time"
)

// crashPoints finds every named crash point in the program's source.
func crashPoints(t *testing.T) []string {
	t.Helper()
	call := regexp.MustCompile(`crash\.Point\("([^"]+)"\)`)
	seen := map[string]string{}
	var points []string
	err := filepath.WalkDir("..", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return nil
		}
		source, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for _, m := range call.FindAllSubmatch(source, -1) {
			name := string(m[1])
			if other, twice := seen[name]; twice {
				t.Errorf("crash point %q stands in %s and in %s", name, other, path)
			}
			seen[name] = path
			points = append(points, name)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	sort.Strings(points)
	return points
}

// elsewhere are points that no journey reaches without a fault of its own.
var elsewhere = map[string]bool{
	"push.moving-back": true, // undoing an atomic push that lost a race: hooks/receive
}

// TestKill is the kill story: the same work, with the server killed by SIGKILL
// at each named point in turn and started again, ends in the same state as
// when nobody kills it, and nothing is done twice.
func TestKill(t *testing.T) {
	points := crashPoints(t)
	if len(points) < 20 {
		t.Errorf("the program has only %d crash points", len(points))
	}
	undisturbed := journey(t, "")
	for _, point := range points {
		if elsewhere[point] {
			continue
		}
		t.Run(point, func(t *testing.T) {
			t.Parallel()
			if got := journey(t, point); got != undisturbed {
				t.Errorf("killed at %s the end is\n%s\nundisturbed it is\n%s", point, got, undisturbed)
			}
		})
	}
}

// journey takes a new server from its first start to a rollback in production,
// killing it at one point on the way, and returns the state at the end without
// anything that differs from run to run.
func journey(t *testing.T, point string) string {
	w, err := newWorld(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer w.stop(true)
	w.bin = plain
	// The same commits in every run, so that whole contents can be compared.
	w.extraEnv = []string{"GIT_AUTHOR_DATE=2026-11-24T12:00:00Z", "GIT_COMMITTER_DATE=2026-11-24T12:00:00Z"}
	killed := 0
	crash := []string{}
	if point != "" {
		crash = append(crash, "HEADGATE_CRASH_AT="+point)
	}
	up := func() error {
		err := w.start(crash)
		if err != nil && w.cmd == nil && len(crash) > 0 { // killed on the way up
			killed++
			crash = nil
			err = w.start(nil)
		}
		return err
	}
	if err := up(); err != nil {
		t.Fatal(err)
	}
	// step tries until it succeeds, starting the server again when it has died:
	// what a person does who is told that the connection was closed.
	step := func(name string, do func() error) {
		t.Helper()
		var err error
		for deadline := time.Now().Add(2 * patience); time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
			if err = do(); err == nil {
				return
			}
			if w.ended(0) {
				killed++
				crash = nil
				if err := w.start(nil); err != nil {
					t.Fatalf("%s: start again: %v", name, err)
				}
			}
		}
		t.Fatalf("%s: %v\n%s", name, err, w.tail())
	}
	hg := func(args ...string) (string, error) {
		out, errs, err := within(patience, w.dir, w.env(), "ssh", append(append(w.sshArgs("ada"), "127.0.0.1"), args...)...)
		if err != nil {
			err = fmt.Errorf("ssh %v: %w: %s", args, err, errs)
		}
		return out, err
	}
	work := filepath.Join(w.dir, "hello")
	git := func(args ...string) error {
		_, errs, err := within(patience, work, w.env(), "git", args...)
		if err != nil {
			err = fmt.Errorf("git %v: %w: %s", args, err, errs)
		}
		return err
	}
	runs := func(environment string, release int, state string) func() error {
		return func() error {
			// Its exit code tells whether something waits; here the facts count.
			out, err := hg("env", "show", "hello", environment, "--json")
			if err != nil && out == "" {
				return err
			}
			var e struct {
				State   string `json:"state"`
				Release int    `json:"release"`
			}
			if err := json.Unmarshal([]byte(out), &e); err != nil {
				return err
			}
			if state != "" && e.State != state || e.Release != release {
				return fmt.Errorf("%s is %s with release %d", environment, e.State, e.Release)
			}
			return nil
		}
	}
	approve := func(release int) func() error {
		return func() error {
			if runs("production", release, "healthy")() == nil {
				return nil
			}
			if _, err := hg("approve", "hello", "production"); err != nil {
				return err
			}
			return errors.New("approved, not healthy there yet")
		}
	}
	push := func() error { return git("push", "-q", "origin", "main") }

	step("repo create", func() error {
		out, err := hg("repo", "list")
		if err == nil && strings.Contains(out, "hello") {
			return nil
		}
		_, err = hg("repo", "create", "hello")
		return err
	})
	if err := w.sample(work, "hello"); err != nil {
		t.Fatal(err)
	}
	write := func(name, content string) {
		if err := os.WriteFile(filepath.Join(work, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("headgate.yaml", strings.Replace(sampleFiles["headgate.yaml"], "approvals: 1", "approvals: {count: 1, own: true}", 1))
	if err := git("commit", "-qam", "Approve my own"); err != nil {
		t.Fatal(err)
	}
	step("push", push)
	step("staging", runs("staging", 1, "healthy"))
	step("approve", approve(1))

	// A red change on the way: it must stay refused, once.
	write("words.txt", "goodbye\n")
	if err := git("commit", "-qam", "Break it"); err != nil {
		t.Fatal(err)
	}
	// listed waits for a change to have come to an end; it proposes it with push
	// unless the server has it already.
	listed := func(number int, state string, push func() error) func() error {
		return func() error {
			out, err := hg("change", "list", "hello")
			if err != nil {
				return err
			}
			line := regexp.MustCompile(fmt.Sprintf(`(?m)^%d +(\w+)`, number)).FindStringSubmatch(out)
			switch {
			case line == nil:
				_ = push() // what it came to is read from the list
				return fmt.Errorf("change %d was not there", number)
			case line[1] != state:
				return fmt.Errorf("change %d is %s", number, line[1])
			}
			return nil
		}
	}
	step("red push", listed(2, "refused", push))
	write("words.txt", "hello again\n")
	if err := git("commit", "-q", "-a", "--amend", "-m", "Say it again"); err != nil {
		t.Fatal(err)
	}
	step("second push", listed(3, "landed", push))
	step("staging again", runs("staging", 2, "healthy"))
	step("plain branches", func() error { return git("push", "-q", "origin", "HEAD:refs/heads/side", "HEAD:refs/heads/other") })
	step("approve by push", func() error {
		if runs("production", 2, "healthy")() == nil {
			return nil
		}
		if err := git("fetch", "-q", "origin"); err != nil {
			return err
		}
		if err := git("push", "-q", "origin", "origin/promote/production:env/production"); err != nil {
			return err
		}
		return errors.New("approved, not healthy there yet")
	})

	// From behind, and nothing that runs: a merge lands, and its release is what
	// runs already.
	if err := git("checkout", "-q", "--detach", "HEAD~1"); err != nil {
		t.Fatal(err)
	}
	write("NOTES", "nothing that runs\n")
	for _, args := range [][]string{{"add", "NOTES"}, {"commit", "-q", "-m", "Take notes"}} {
		if err := git(args...); err != nil {
			t.Fatal(err)
		}
	}
	proposal := func(options ...string) func() error {
		return func() error {
			return git(append(append([]string{"push", "-q"}, options...), "origin", "HEAD:refs/for/main")...)
		}
	}
	step("from behind", listed(4, "landed", proposal()))
	step("covered", runs("production", 3, "healthy"))

	// A change that is taken back while it is built.
	write("test.sh", "sleep 60\n")
	if err := git("commit", "-q", "-a", "-m", "Take for ever"); err != nil {
		t.Fatal(err)
	}
	step("slow push", listed(5, "running", proposal("-o", "nowait")))
	step("withdraw", func() error {
		err := listed(5, "withdrawn", nil)()
		if err != nil {
			_ = proposal("-o", "cancel=5")() // what it came to is read from the list
		}
		return err
	})

	step("rollback", func() error {
		if runs("production", 1, "healthy")() == nil {
			return nil
		}
		if runs("production", 1, "")() != nil {
			if _, err := hg("rollback", "hello", "production", "1", "--reason", "story"); err != nil {
				return err
			}
		}
		return errors.New("rolled back, not healthy yet")
	})
	step("held proposal", func() error {
		if !strings.Contains(refs(t, w), "refs/heads/promote/production ") {
			return errors.New("the newest release is not proposed yet")
		}
		return nil
	})
	if point != "" && killed != 1 {
		t.Errorf("the journey never passed %s: killed %d times", point, killed)
	}

	before := refs(t, w)
	if err := w.stop(false); err != nil {
		t.Errorf("the server did not stop well: %v\n%s", err, w.tail())
	}
	if left := w.leftovers(); len(left) > 0 {
		t.Errorf("processes left over:\n%s", strings.Join(left, "\n"))
	}
	if err := w.start(nil); err != nil {
		t.Fatal(err)
	}
	step("production after a restart", runs("production", 1, "healthy"))
	if after := refs(t, w); settled(after) != settled(before) {
		t.Errorf("a restart changed\n%s\ninto\n%s", before, after)
	}
	return endState(t, w)
}

// refs lists the refs of the server's own repository hello, read past the server.
func refs(t *testing.T, w *world) string {
	t.Helper()
	out, errs, err := within(patience, w.dir, w.env(), "git", "-c", "safe.directory=*", "--git-dir="+filepath.Join(w.data(), "repositories", "hello.git"), "for-each-ref", "--format=%(refname) %(objectname)")
	if err != nil {
		t.Fatalf("for-each-ref: %v %s", err, errs)
	}
	return out
}

// settled drops what may rightly go on moving: the record of outcomes.
func settled(refs string) string {
	lines := strings.Split(refs, "\n")
	return strings.Join(slices.DeleteFunc(lines, func(l string) bool {
		return strings.HasPrefix(l, "refs/notes/deployments") || strings.HasPrefix(l, "refs/decisions/")
	}), "\n")
}

// endState tells what became of everything, from a mirror clone alone.
func endState(t *testing.T, w *world) string {
	t.Helper()
	mirror := filepath.Join(w.dir, "mirror.git")
	run := func(name string, args ...string) string {
		t.Helper()
		out, errs, err := within(patience, w.dir, w.env(), name, args...)
		if err != nil {
			t.Fatalf("%s %v: %v\n%s%s", name, args, err, out, errs)
		}
		return out
	}
	run("git", "clone", "-q", "--mirror", "ssh://"+w.SSH+"/hello", mirror)
	run("git", "-C", mirror, "fsck", "--strict", "--no-dangling")
	signers := filepath.Join(w.dir, "signers")
	if err := os.WriteFile(signers, []byte(run("ssh", append(append(w.sshArgs("ada"), "127.0.0.1"), "signers")...)), 0o600); err != nil {
		t.Fatal(err)
	}
	run(filepath.Join(w.bin, "headgate"), "verify", "--signers", signers, mirror)

	git := func(args ...string) string { return run("git", append([]string{"-C", mirror}, args...)...) }
	var b strings.Builder
	fmt.Fprintln(&b, "main:", git("log", "--first-parent", "--format=%s %T", "main"))
	for _, e := range []string{"staging", "production"} {
		fmt.Fprintln(&b, e+":", git("log", "--format=%s", "env/"+e), git("rev-parse", "env/"+e+":apps/hello"))
	}
	fmt.Fprintln(&b, "holds:", git("ls-tree", "--name-only", "-r", "env/production", "holds"))
	fmt.Fprintln(&b, "refs:", git("for-each-ref", "--format=%(refname)", "refs/heads", "refs/changes", "refs/releases"))
	// The story of each change: which events it has, in order, once each. A build
	// that was cut off may be told of; nothing else may differ.
	for _, ref := range strings.Fields(git("for-each-ref", "--format=%(refname)", "refs/changes/*/log")) {
		fmt.Fprintln(&b, ref, git("log", "--first-parent", "--reverse", "--format=%(trailers:key=Event,valueonly,separator=%x20)", ref))
	}
	fmt.Fprintln(&b, "verdicts:", len(strings.Fields(git("notes", "--ref=verdicts", "list")))/2)
	return b.String()
}
