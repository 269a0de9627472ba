package gate

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/headgate-cd/headgate/gitd/access"
	"github.com/headgate-cd/headgate/gitd/repo"
	"github.com/headgate-cd/headgate/hooks/change"
)

// points reads the crash points out of the source of the packages that a change
// passes through here.
func points(t *testing.T) []string {
	t.Helper()
	var names []string
	form := regexp.MustCompile(`crash\.Point\("([^"]+)"\)`)
	for _, dir := range []string{".", "../change", "../verdict", "../release", "../../gitd/decision"} {
		sources, err := filepath.Glob(dir + "/*.go")
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range sources {
			if strings.HasSuffix(file, "_test.go") {
				continue
			}
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			for _, m := range form.FindAllStringSubmatch(string(data), -1) {
				if strings.HasPrefix(m[1], "decision.all-") || strings.HasPrefix(m[1], "mirror.") {
					continue // pushes save theirs many at a time, before they get here; no forge is followed here
				}
				if slices.Contains(names, m[1]) {
					t.Fatalf("crash point %s is there twice", m[1])
				}
				names = append(names, m[1])
			}
		}
	}
	if len(names) < 14 {
		t.Fatalf("only %d crash points: %v", len(names), names)
	}
	return names
}

// forward keeps another branch of each name, as a forge does: it moves there once,
// however often it is asked.
func forward(ctx context.Context, r *repo.Repository, branch string, old, new repo.Hash) error {
	ref := "refs/elsewhere/" + branch
	at, err := r.Ref(ref)
	if err != nil || at == new {
		return err
	}
	if at != repo.Zero && at != old {
		return fmt.Errorf("%s is at %s: %w", ref, at, repo.ErrMoved)
	}
	return r.Move(ctx, ref, at, new)
}

// push is one thing that somebody does in the kill story.
type push struct {
	Name     string
	By       string
	Commit   string
	Withdraw bool
	End      Kind // that it must come to
}

// TestKilledAtEveryPoint kills a process with SIGKILL at every crash point on the
// way of some changes, starts another one on the same directory, and wants the same
// end as without a kill.
func TestKilledAtEveryPoint(t *testing.T) {
	for _, point := range points(t) {
		nths := []int{1}
		if strings.HasPrefix(point, "land.") || strings.HasPrefix(point, "push.") {
			nths = append(nths, 2)
		}
		for _, nth := range nths {
			t.Run(fmt.Sprintf("%s:%d", point, nth), func(t *testing.T) {
				t.Parallel()
				killAt(t, point, nth)
			})
		}
	}
}

func killAt(t *testing.T, point string, nth int) {
	w := newHarness(t)
	base := w.commit("begin", files("a", "1\n", "b", "1\n"))
	w.land(ada, base)
	one := w.commit("one", files("c", "1\n"), base)
	pushes := []push{
		{"one", "ada", one.String(), false, Landed},
		{"two, merged", "jun", w.commit("two", files("d", "1\n"), base).String(), false, Landed},
		{"red", "eve", w.commit("red", files("test", "red"), base).String(), false, Refused},
		{"conflict", "pat", w.commit("conflict", files("c", "2\n"), base).String(), false, Conflict},
		{"taken back", "kim", w.commit("back", files("e", "1\n"), base).String(), true, Withdrawn},
	}
	w.stop()
	story, err := json.Marshal(pushes)
	if err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), lastResort)
	defer cancel()
	cmd := exec.CommandContext(ctx, self, "-test.run=^TestVictim$", "-test.count=1")
	cmd.Env = append(os.Environ(), "HEADGATE_TEST_VICTIM="+w.dir, "HEADGATE_TEST_PUSHES="+string(story),
		fmt.Sprintf("HEADGATE_CRASH_AT=%s:%d", point, nth))
	out := new(lockedBuffer)
	cmd.Stderr = out
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	accepted := map[string]bool{} // what the victim said before it died
	for in := bufio.NewScanner(stdout); in.Scan(); {
		if name, ok := strings.CutPrefix(in.Text(), "accepted "); ok {
			accepted[name] = true
		}
		fmt.Fprintln(out, in.Text())
	}
	_ = cmd.Wait() // how it ended is in its state
	if status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); !ok || !status.Signaled() ||
		status.Signal() != syscall.SIGKILL {
		t.Fatalf("the process was not killed at %s: %v\n%s", point, cmd.ProcessState, out.String())
	}

	config, err := writers()
	if err != nil {
		t.Fatal(err)
	}
	w.config.Access = func() *access.Config { return config }
	w.start()
	if _, _, err := w.gate.Resume(t.Context(), "hello", "main", showActor("ada"), ""); err != nil {
		t.Fatal(err)
	}
	byCommit := func(commit string) (change.Change, bool) {
		stories, err := change.Of(w.r).List()
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range stories {
			if s.Head().Commit.String() == commit {
				return s, true
			}
		}
		return change.Change{}, false
	}
	for _, p := range pushes {
		s, there := byCommit(p.Commit)
		if accepted[p.Name] && !there {
			t.Fatalf("%s was accepted and is lost", p.Name)
		}
		if !there { // its pusher has seen the connection break, and pushes again
			h, _ := repo.ParseHash(p.Commit)
			a := w.propose(showActor(p.By), h)
			s = w.story(a.Change)
		}
		if p.Withdraw && s.Open() {
			if err := w.gate.Withdraw(t.Context(), "hello", s.Number, showActor(p.By)); err != nil {
				// It may have been too late: it had landed by then.
				if s = w.story(s.Number); s.Open() {
					t.Fatal(err)
				}
			}
		}
	}
	for _, p := range pushes {
		s, _ := byCommit(p.Commit)
		got := w.end(s.Number)
		if got.Kind != p.End && !(p.Withdraw && got.Kind == Landed) {
			t.Errorf("%s: %s %s, want %s; %s", p.Name, got.Kind, got.Reason, p.End, events(w.story(s.Number)))
		}
		if n := strings.Count(events(w.story(s.Number)), string(p.End)); n > 1 {
			t.Errorf("%s ended %d times: %s", p.Name, n, events(w.story(s.Number)))
		}
	}
	tree := mustTree(t, w.r, w.main())
	for path, want := range map[string]string{"a": "1\n", "c": "1\n", "d": "1\n"} {
		if got, err := w.r.File(tree, path); err != nil || string(got) != want {
			t.Errorf("main: %s is %q, %v", path, got, err)
		}
	}
	w.until("heads and releases are mended", func() bool {
		rep := w.verify()
		for _, p := range pushes {
			s, _ := byCommit(p.Commit)
			if h, _ := w.r.Ref(change.HeadRef(s.Number)); h != s.Head().Commit {
				return false
			}
		}
		return rep.Releases == rep.Tips
	})
	rep := w.verify()
	if len(rep.Findings) > 0 || rep.Tips < 3 {
		t.Errorf("%+v", rep)
	}
	w.git("fsck", "--strict")
	// Starting once more changes nothing.
	before := w.git("for-each-ref")
	w.stop()
	w.start()
	for _, p := range pushes {
		s, _ := byCommit(p.Commit)
		w.end(s.Number)
	}
	if after := w.git("for-each-ref"); after != before {
		t.Errorf("a second start changed refs:\n%s\n%s", before, after)
	}
}

// TestVictim is the process that is killed. It is no test of its own.
func TestVictim(t *testing.T) {
	dir := os.Getenv("HEADGATE_TEST_VICTIM")
	if dir == "" {
		return // TestKilledAtEveryPoint starts it
	}
	var pushes []push
	if err := json.Unmarshal([]byte(os.Getenv("HEADGATE_TEST_PUSHES")), &pushes); err != nil {
		t.Fatal(err)
	}
	w := &harness{t: t, dir: dir, build: newFakeBuilder(), policy: &fakePolicy{answer: auto}, logged: new(lockedBuffer)}
	w.config = Config{Builder: w.build, Settings: FileSettings, Ask: w.policy.ask, Workers: 2, Forward: forward}
	config, err := writers()
	if err != nil {
		t.Fatal(err)
	}
	w.config.Access = func() *access.Config { return config }
	w.start()
	defer w.stop()
	last := 0
	for _, p := range pushes {
		h, _ := repo.ParseHash(p.Commit)
		a := w.propose(showActor(p.By), h)
		fmt.Println("accepted " + p.Name)
		if p.Withdraw {
			_ = w.gate.Withdraw(t.Context(), "hello", a.Change, showActor(p.By)) // too late, if it has landed
		}
		last = a.Change
	}
	// Nothing lands for a moment; what is open then lands after it.
	if _, _, err := w.gate.Pause(t.Context(), "hello", "main", showActor("ada"), "a moment"); err != nil {
		t.Fatal(err)
	}
	if _, _, err := w.gate.Resume(t.Context(), "hello", "main", showActor("ada"), ""); err != nil {
		t.Fatal(err)
	}
	for n := 1; n <= last; n++ {
		w.end(n)
	}
}
