package e2e

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"sort"
	"strings"
	"testing"
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
		if _, err := os.Stat(filepath.Join(path, "go.mod")); err == nil && path != ".." {
			return filepath.SkipDir // another program
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

// elsewhere are points that no chapter passes without a fault of its own.
var elsewhere = map[string]bool{
	"push.moving-back": true, // undoing an atomic push that lost a race: hooks/receive

	"publish.noted": true, "publish.pushed": true, // TestForgeKillsPublication
	"forge.promotion-opened": true, "forge.promotion-approved": true, // TestForgeKillsPromotion

	// A machine enrols: gitd/enrolment, reconciler/agent and TestAgents.
	"enrolment.making": true, "enrolment.made": true, "enrolment.claiming": true, "enrolment.claimed": true,
	"enrolment.spending": true, "enrolment.spent": true, "join.key-made": true, "join.accepted": true, "join.noted": true,
	"services.secrets-kept": true, // reconciler/target/services: TestKilledBesideSecrets
	// The same: TestKilledWhereARunBegins.
	"services.before-run-kept": true, "services.run-kept": true,

	"hosts.declared-kept": true, // by an agent on another machine
	// reconciler/target/hosts: TestKilledInTraffic, TestKilledAsDeployed.
	"hosts.traffic-moving": true, "hosts.traffic-moved": true, "hosts.traffic-kept": true, "hosts.deployed": true,
	"agent.keys-followed": true, // reconciler/agent: TestKilledAsKeysAreFollowed
	// TestUpgrades; reconciler/agent: TestTrial.
	"agent.program-received": true, "agent.program-reporting": true, "agent.program-noted": true,

	// A release that fails, and what people say to a deployment: the kill test of reconciler.
	"rollback.decided-by-itself": true, "steer.before-noted": true, "steer.noted": true,
}

// TestKill is the kill story: the same work, with the server killed by SIGKILL
// at each named point in turn and started again, ends in the same state as
// when nobody kills it, and nothing is done twice.
//
// A journey without a kill is recorded first, chapter by chapter: what there was
// before each, which points it passed, and its end. A kill then begins with what
// there was before the chapter of its point, and must come to that chapter's end.
func TestKill(t *testing.T) {
	t.Parallel()
	points := crashPoints(t)
	if len(points) < 20 {
		t.Errorf("the program has only %d crash points", len(points))
	}
	recorded := record(t)

	passed := map[string]bool{}
	for _, settingUp := range []bool{true, false} {
		seen := map[string]bool{}
		for _, r := range recorded {
			if r.settingUp != settingUp {
				continue
			}
			for _, point := range r.passed {
				if slices.Contains(r.byChance, point) {
					continue
				}
				passed[point] = true
				if seen[point] {
					continue
				}
				seen[point] = true
				t.Run(r.name+"/"+point, func(t *testing.T) {
					t.Parallel()
					killAt(t, r, point)
				})
			}
		}
	}
	for _, point := range points {
		// A host's deployments have a kill story of their own, in reconciler/target/hosts/deploy,
		// and so has a function's alias, in reconciler/target/function.
		if !passed[point] && !elsewhere[point] && !strings.HasPrefix(point, "deploy.") &&
			!strings.HasPrefix(point, "function.") {
			t.Errorf("no chapter passes %s", point)
		}
	}
}

// recording is a chapter of the journey that nobody killed.
type recording struct {
	chapter
	before string   // a copy of everything, as it was then
	passed []string // points, each once, in the order of their first time
	refs   []string // names of what there was at its end
	end    string
}

func record(t *testing.T) (all []*recording) {
	dir, err := os.MkdirTemp("/var/tmp", "headgate-e2e-") // a disk, wherever other tests are
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	h, err := newHarness(dir, plain)
	if err != nil {
		t.Fatal(err)
	}
	h.extraEnv = sameCommits
	t.Cleanup(h.abandon)
	log := filepath.Join(t.TempDir(), "passed")

	for _, c := range chapters {
		r := &recording{chapter: c, before: t.TempDir()}
		duplicate(t, h.dir, r.before)
		if err := os.RemoveAll(log); err != nil {
			t.Fatal(err)
		}
		j := travel(t, h, c, "HEADGATE_CRASH_LOG="+log)
		j.arrive(nil)
		r.refs, r.end = refNames(t, h), endState(t, h)
		text, err := os.ReadFile(log)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(text)) {
			if point := strings.TrimSpace(line); !slices.Contains(r.passed, point) {
				r.passed = append(r.passed, point)
			}
		}
		if err := errors.Join(h.stop(false), h.stopAgent()); err != nil {
			t.Fatalf("%s: the server did not stop well: %v\n%s", c.name, err, h.tail())
		}
		all = append(all, r)
	}
	return all
}

// killAt goes through a chapter with a server that is killed at a point.
func killAt(t *testing.T, r *recording, point string) {
	dir := t.TempDir()
	duplicate(t, r.before, dir)
	h, err := newHarness(dir, plain)
	if err != nil {
		t.Fatal(err)
	}
	h.extraEnv = sameCommits
	t.Cleanup(h.abandon)

	// The server dies there, or the agent, which its supervisor starts again.
	passed := filepath.Join(t.TempDir(), "passed")
	j := travel(t, h, r.chapter, "HEADGATE_CRASH_AT="+point, "HEADGATE_CRASH_LOG="+passed)
	j.arrive(func() error {
		text, _ := os.ReadFile(passed) // nothing has passed any yet
		if j.killed != 1 && !slices.Contains(strings.Split(string(text), "\n"), point) {
			return fmt.Errorf("it never passed %s", point)
		}
		if names := refNames(t, h); !slices.Equal(names, r.refs) {
			return fmt.Errorf("there are the refs\n%s\nunkilled there are\n%s", strings.Join(names, "\n"),
				strings.Join(r.refs, "\n"))
		}
		return nil
	})

	// Starting it once more changes nothing, but what it was about to do when it was
	// stopped: to propose the newest release in place of the one before, say. Once more,
	// then, changes nothing.
	for restarts := 1; ; restarts++ {
		before := refs(t, h)
		if err := h.stop(false); err != nil {
			t.Errorf("the server did not stop well: %v\n%s", err, h.tail())
		}
		h.endAgent(t.Errorf)
		if err := h.start(nil); err != nil {
			t.Fatal(err)
		}
		j.arrive(nil)
		after := refs(t, h)
		if settled(after) == settled(before) {
			break
		}
		if restarts == 3 {
			t.Errorf("a restart changed\n%s\ninto\n%s\n%s", before, after, h.tail())
			break
		}
	}
	if end := endState(t, h); end != r.end {
		t.Errorf("killed at %s the end is\n%s\nunkilled it is\n%s", point, end, r.end)
	}
	h.finish(t.Errorf)
}

// duplicate copies everything in a directory, as it is, into another that is there.
func duplicate(t *testing.T, from, to string) {
	t.Helper()
	out, errs, err := within(waitTimeout, from, os.Environ(), "cp", "-a", "--reflink=auto", ".", to)
	if err != nil {
		t.Fatalf("copy %s: %v\n%s%s", from, err, out, errs)
	}
}

// refs lists the refs of the server's repositories, in git's order and read past
// the server: from their files, since a journey looks often, and each git would be
// a process.
func refs(t *testing.T, h *harness) string {
	t.Helper()
	var all strings.Builder
	for _, name := range []string{"headgate", "hello", "copy"} {
		dir := filepath.Join(h.data(), "repositories", name+".git")
		at, err := refsIn(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, ref := range slices.Sorted(maps.Keys(at)) {
			fmt.Fprintf(&all, "%s %s %s\n", name, ref, at[ref])
		}
	}
	return all.String()
}

// refsIn reads what is packed after what is loose: a ref that is packed meanwhile
// is in the one or the other.
func refsIn(dir string) (map[string]string, error) {
	at := map[string]string{}
	err := filepath.WalkDir(filepath.Join(dir, "refs"), func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // it has gone since its directory was listed, or there is no repository
		}
		if err != nil || d.IsDir() || strings.HasSuffix(path, ".lock") {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		text, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		at[name] = strings.TrimSpace(string(text))
		return err
	})
	if err != nil {
		return nil, err
	}

	packed, err := os.ReadFile(filepath.Join(dir, "packed-refs"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	for line := range strings.Lines(string(packed)) {
		hash, name, ok := strings.Cut(strings.TrimSpace(line), " ")
		if _, loose := at[name]; ok && hash != "#" && !loose {
			at[name] = hash
		}
	}
	return at, nil
}

func refNames(t *testing.T, h *harness) (names []string) {
	t.Helper()
	for line := range strings.Lines(refs(t, h)) {
		names = append(names, line[:strings.LastIndex(line, " ")])
	}
	return names
}

// settled drops what may rightly go on moving: the record of outcomes.
func settled(refs string) string {
	lines := strings.Split(refs, "\n")
	return strings.Join(slices.DeleteFunc(lines, func(l string) bool {
		return strings.Contains(l, " refs/notes/deployments ") || strings.Contains(l, " refs/decisions/")
	}), "\n")
}

// endState tells what became of everything: of what people push, from a mirror
// clone alone.
func endState(t *testing.T, h *harness) string {
	t.Helper()
	run := func(name string, args ...string) string {
		t.Helper()
		out, errs, err := within(waitTimeout, h.dir, h.env(), name, args...)
		if err != nil {
			t.Fatalf("%s %v: %v\n%s%s", name, args, err, out, errs)
		}
		return out
	}
	var b strings.Builder
	own := filepath.Join(h.data(), "repositories", "headgate.git")
	fmt.Fprintln(&b, "server.yaml:", run("git", "--git-dir="+own, "log", "--first-parent", "--format=%s %T", "main"))
	tokens, err := h.ask("ada", "token", "list", "--json")
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range regexp.MustCompile(`"name":"([^"]*)"`).FindAllStringSubmatch(tokens, -1) {
		fmt.Fprintln(&b, "token:", m[1])
	}
	for line := range strings.Lines(refs(t, h)) {
		name, _, keys := strings.Cut(line, " refs/keys/log ")
		_, tips, mirrored := strings.Cut(line, " refs/mirror/log ")
		switch {
		case keys: // a new key is another each time
			fmt.Fprintln(&b, name, "refs/keys/log")
		case mirrored: // when is another each time
			path := filepath.Join(h.data(), "repositories", name[:strings.Index(name, " ")]+".git")
			fmt.Fprintln(&b, "refs/mirror/log:",
				run("git", "--git-dir="+path, "log", "--first-parent", "--format=%s", strings.TrimSpace(tips)))
		case strings.HasPrefix(line, "copy "):
			b.WriteString(line)
		}
	}
	if _, err := os.Stat(filepath.Join(h.data(), "repositories", "hello.git")); err != nil {
		return b.String()
	}

	mirror, err := os.MkdirTemp(h.dir, "mirror-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(mirror)
	run("git", "clone", "-q", "--mirror", "ssh://"+h.SSH+"/hello", mirror)
	git := func(args ...string) string { t.Helper(); return run("git", append([]string{"-C", mirror}, args...)...) }
	git("fsck", "--strict", "--no-dangling")
	names := git("for-each-ref", "--format=%(refname)")
	has := func(ref string) bool { return slices.Contains(strings.Fields(names), ref) }
	if !has("refs/heads/main") {
		return b.String() + names
	}
	signers := filepath.Join(h.dir, "signers")
	if text, err := h.ask("ada", "signers"); err != nil {
		t.Fatal(err)
	} else if err := os.WriteFile(signers, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	run(filepath.Join(h.bin, "headgate"), "verify", "--signers", signers, mirror)

	fmt.Fprintln(&b, "main:", git("log", "--first-parent", "--format=%s %T", "main"))
	for _, e := range []string{"staging", "production", "live"} {
		if !has("refs/heads/env/" + e) {
			continue
		}
		fmt.Fprintln(&b, e+":", git("log", "--format=%s", "env/"+e), git("ls-tree", "env/"+e, "apps/"),
			git("ls-tree", "--name-only", "env/"+e, "holds/"))
	}
	fmt.Fprintln(&b, "refs:", names)
	// The story of each change and schedule: which events it has, in order, once
	// each. A build that was cut off may be told of; nothing else may differ.
	for _, ref := range strings.Fields(names) {
		if strings.HasPrefix(ref, "refs/changes/") && strings.HasSuffix(ref, "/log") ||
			strings.HasPrefix(ref, "refs/schedules/") {
			fmt.Fprintln(&b, ref, git("log", "--first-parent", "--reverse",
				"--format=%(trailers:key=Event,valueonly,separator=%x20)", ref))
		}
	}
	told, err := toldEvents(h)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintln(&b, "events:", told)
	fmt.Fprintln(&b, "verdicts:", len(strings.Fields(git("notes", "--ref=verdicts", "list")))/2)
	return b.String()
}
