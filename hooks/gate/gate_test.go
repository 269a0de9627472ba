package gate

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/go-git/go-git/v5/plumbing/filemode"

	"github.com/headgate-cd/headgate/gitd/access"
	"github.com/headgate-cd/headgate/gitd/buildsettings"
	"github.com/headgate-cd/headgate/gitd/repo"
	"github.com/headgate-cd/headgate/gitd/show"
	"github.com/headgate-cd/headgate/gitd/signal"
	"github.com/headgate-cd/headgate/hooks/change"
	"github.com/headgate-cd/headgate/hooks/gate/plan"
	"github.com/headgate-cd/headgate/hooks/release"
	"github.com/headgate-cd/headgate/hooks/verdict"
)

func TestGreenLands(t *testing.T) {
	w := newHarness(t)
	first := w.commit("begin", files("a", "1"))
	a := w.propose(ada, first)
	if a.Change != 1 || a.Revision != 1 || a.Attached {
		t.Fatalf("%+v", a)
	}
	p := w.end(1)
	if p.Kind != Landed || p.Landed != first || !p.FastForward || p.Release != 1 || p.Old != repo.Zero {
		t.Fatalf("%+v", p)
	}
	if w.main() != first {
		t.Fatalf("main is at %s", w.main())
	}
	second := w.commit("Show fees", files("b", "2"), first)
	if p := w.land(ada, second); p.Landed != second || p.Old != first || p.Release != 2 {
		t.Fatalf("%+v", p)
	}
	s := w.story(2)
	if got := events(s); got != "pushed tested landed" {
		t.Fatalf("story: %s", got)
	}
	log := w.git("log", "--first-parent", "--format=%s", "refs/changes/2/log")
	want := "landed on main as " + show.Short(second.String()) +
		"\ntested main + 2: green\nada pushed revision 1 to main: Show fees\nchanges of hello, to main\n"
	if log != want {
		t.Fatalf("the log reads\n%s, want\n%s", log, want)
	}
	if h, _ := w.r.Ref("refs/changes/2/head"); h != second {
		t.Fatalf("head is %s", h)
	}
	vs, err := verdict.On(w.r, mustTree(t, w.r, second))
	if err != nil || len(vs) != 1 || vs[0].Result != verdict.Green || vs[0].Change != 2 {
		t.Fatalf("%+v, %v", vs, err)
	}
	w.git("fsck", "--strict")
}

// TestObjectsOfALanding: what the server writes for a landing, without what was
// pushed. The chain of each change begins with the same commit.
func TestObjectsOfALanding(t *testing.T) {
	w := newHarness(t)
	tip := w.commit("begin", files("a", "0"))
	w.land(ada, tip)
	for i := range 3 {
		tip = w.commit("again", files("a", fmt.Sprint(i+1)), tip)
		before := w.objects()
		w.land(ada, tip)
		var kinds []string
		for hash, kind := range w.objects() {
			if before[hash] == "" {
				kinds = append(kinds, kind)
			}
		}
		slices.Sort(kinds)
		// Commits: pushed, tested, landed; the policy's decision; the note's.
		want := "blob commit commit commit commit commit tag tree"
		if got := strings.Join(kinds, " "); got != want {
			t.Errorf("a landing writes %s, want %s", got, want)
		}
	}
}

// objects are all objects of the repository and what they are.
func (w *harness) objects() map[string]string {
	all := map[string]string{}
	for line := range strings.Lines(w.git("cat-file", "--batch-all-objects",
		"--batch-check=%(objectname) %(objecttype)")) {
		hash, kind, _ := strings.Cut(strings.TrimSpace(line), " ")
		all[hash] = kind
	}
	return all
}

// What hangs on a landing is done before the landing is told.
func TestLandedIsCalledBeforeItIsTold(t *testing.T) {
	var w *harness
	var called atomic.Bool
	w = newHarness(t, func(c *Config) {
		c.Landed = func(_ context.Context, repository, _ string) {
			l, err := w.gate.loop(repository)
			called.Store(err == nil && l.progress.of(1) != nil) // who follows it still waits
		}
	})
	w.land(ada, w.commit("begin", files("a", "1")))
	if !called.Load() {
		t.Fatal("told before")
	}
}

// Who has heard that a change has ended does not find it in the queue.
func TestEndedIsNotQueued(t *testing.T) {
	b := progressBoard{open: map[int]*revisionProgress{}}
	b.begin(1)
	b.begin(2)
	b.show([]Entry{{Change: 1}, {Change: 2}}, nil)
	b.add(Progress{Kind: Building, Change: 1})
	if q := b.snapshot(noon); len(q) != 2 {
		t.Fatalf("%+v", q)
	}
	b.add(Progress{Kind: Landed, Change: 1})
	if q := b.snapshot(noon); len(q) != 1 || q[0].Change != 2 {
		t.Fatalf("%+v", q)
	}
}

func mustTree(t testing.TB, r *repo.Repository, commit repo.Hash) repo.Hash {
	t.Helper()
	tree, err := r.TreeOf(commit)
	if err != nil {
		t.Fatal(err)
	}
	return tree
}

func TestRedIsRefused(t *testing.T) {
	w := newHarness(t)
	first := w.commit("begin", files())
	w.land(ada, first)
	bad := w.commit("break", files("test", "red"), first)
	a := w.propose(ada, bad)
	ps := w.follow(a.Change)
	p := ps[len(ps)-1]
	if p.Kind != Refused || p.Reason != `build: "go test ./..." exited 1` || p.Log == "" ||
		p.Cause != change.BuildFailed || p.Tip != first || p.Hint == "" {
		t.Fatalf("%+v", p)
	}
	if w.main() != first {
		t.Fatal("main moved")
	}
	// The same tree again is refused at once, naming the log of before.
	runs := w.build.runs()
	again := w.propose(ada, bad)
	if again.Change == a.Change {
		t.Fatalf("%+v", again)
	}
	q := w.end(again.Change)
	if q.Kind != Refused || q.Log != p.Log || !strings.Contains(q.Hint, "-o rebuild") || w.build.runs() != runs {
		t.Fatalf("%+v after %d builds", q, w.build.runs()-runs)
	}
	// And built again on request.
	q = w.end(w.propose(ada, bad, "rebuild").Change)
	if q.Kind != Refused || w.build.runs() != runs+1 {
		t.Fatalf("%+v after %d builds", q, w.build.runs()-runs)
	}
}

func TestFlakyTreeLandsWhenRebuilt(t *testing.T) {
	w := newHarness(t)
	c := w.commit("begin", files("test", "red flaky"))
	if p := w.end(w.propose(ada, c).Change); p.Kind != Refused {
		t.Fatalf("%+v", p)
	}
	w.land(ada, c, "rebuild")
	// Green is final: the red one before it does not count any more.
	vs, err := verdict.On(w.r, mustTree(t, w.r, c))
	if err != nil || len(vs) != 2 || vs.Of(vs[0].Key).Result != verdict.Green {
		t.Fatalf("%+v, %v", vs, err)
	}
}

func TestIdenticalTreeIsNotBuiltTwice(t *testing.T) {
	w := newHarness(t)
	first := w.commit("begin", files("a", "1"))
	w.land(ada, first)
	second := w.commit("b", files("a", "2"), first)
	w.land(ada, second)
	runs := w.build.runs()
	back := w.commit("revert b", files("a", "1"), second) // the tree of first
	a := w.propose(ada, back)
	ps := w.follow(a.Change)
	if p := ps[len(ps)-1]; p.Kind != Landed || w.build.runs() != runs {
		t.Fatalf("%+v after %d builds", p, w.build.runs()-runs)
	}
	if e := w.story(a.Change).Events[1]; e.Kind != change.Tested || !strings.Contains(e.Subject, "green since") ||
		!strings.Contains(e.Subject, "change 1") {
		t.Fatalf("%+v", e)
	}
}

func TestMergeLandsWhenMainHasMoved(t *testing.T) {
	w := newHarness(t)
	base := w.commit("begin", files("a", "1"))
	w.land(ada, base)
	release := w.build.holdBuilds()
	defer release()
	one := w.propose(ada, w.commit("one", files("b", "1"), base))
	theirs := w.commit("two", files("c", "1"), base)
	two := w.propose(jun, theirs)
	w.until("change 3 is queued behind change 2", func() bool {
		q := w.gate.Queue("hello")
		return len(q) == 2 && q[0].Change == one.Change && q[0].State == show.Running && q[1].Change == two.Change &&
			q[1].Behind == one.Change && q[1].Place == 2
	})
	release()
	if p := w.end(one.Change); p.Kind != Landed || !p.FastForward {
		t.Fatalf("%+v", p)
	}
	p := w.end(two.Change)
	if p.Kind != Landed || p.FastForward || !strings.Contains(p.Hint, "git pull") {
		t.Fatalf("%+v", p)
	}
	m, err := w.r.Commit(p.Landed)
	if err != nil {
		t.Fatal(err)
	}
	if m.ParentHashes[0] != p.Old || m.ParentHashes[1] != theirs || repo.TrailerValue(m.Message, "Change") != "3" {
		t.Fatalf("%v\n%s", m.ParentHashes, m.Message)
	}
	signers := repo.Signers{w.store.Signer().PublicKey()}
	kind, raw, err := w.r.Raw(p.Landed)
	if err != nil || signers.VerifyObject(kind, raw) != nil {
		t.Fatalf("the merge is not signed by the server: %v", err)
	}
}

func TestConflictNamesFilesAndChange(t *testing.T) {
	w := newHarness(t)
	base := w.commit("begin", files("a", "1\n", "b", "1\n"))
	w.land(ada, base)
	w.land(ada, w.commit("theirs", map[string]string{"a": "2\n"}, base))
	tip := w.main()
	a := w.propose(jun, w.commit("mine", map[string]string{"a": "3\n", "b": "2\n"}, base))
	p := w.end(a.Change)
	if p.Kind != Conflict || !strings.HasPrefix(p.Reason, "conflicts with 2, which landed at ") ||
		p.Short != "conflict with 2 in 1 file" ||
		!slices.Equal(p.Files, []string{"a"}) || p.MoreFiles != 0 || p.Tip != tip ||
		!strings.Contains(p.Hint, "git pull --rebase origin main") {
		t.Fatalf("%+v", p)
	}
	if w.main() != tip {
		t.Fatal("main moved")
	}
}

// A merge that needs a program which only its authors have is theirs to make.
func TestMergeDriverIsRefused(t *testing.T) {
	w := newHarness(t)
	base := w.commit("begin", files("a", "1\n", ".gitattributes", "a merge=ours\n"))
	w.land(ada, base)
	theirs := w.commit("theirs", map[string]string{"a": "2\n"}, base)
	w.land(ada, theirs)
	p := w.end(w.propose(jun, w.commit("mine", map[string]string{"a": "3\n"}, base)).Change)
	if p.Kind != Refused || p.Cause != change.MergeDriver || !slices.Equal(p.Files, []string{"a"}) ||
		!strings.Contains(p.Reason, `a is merged by the driver "ours"`) ||
		!strings.Contains(p.Hint, "git pull --rebase origin main") {
		t.Fatalf("%+v", p)
	}
	w.land(jun, w.commit("rebased", map[string]string{"a": "3\n"}, theirs))
}

// The server's settings are below a project's, those of its repository above, and
// all of them are part of what a verdict is for.
func TestWhatTheServerAddsToABuild(t *testing.T) {
	w := newHarness(t, func(c *Config) {
		c.Server = func(string) ServerSettings {
			no := false
			return ServerSettings{
				Variables: map[string]string{"AWS_REGION": "eu-north-1", "A": "server", "B": "server", "C": "server"},
				Own:       map[string]string{"C": "repository"},
				Network:   &no,
				Limits:    buildsettings.Limits{Memory: 1 << 30},
			}
		}
	})
	const yaml = "build: {network: true, variables: {A: project, C: project}, limits: {memory: 2 GiB, cpu: 1}}\n"
	base := w.commit("begin", files("headgate.yaml", yaml))
	w.land(ada, base)
	w.build.mu.Lock()
	j := w.build.jobs[len(w.build.jobs)-1]
	w.build.mu.Unlock()
	want := map[string]string{"AWS_REGION": "eu-north-1", "A": "project", "B": "server", "C": "repository"}
	if !maps.Equal(j.Variables, want) || j.Network ||
		j.Limits != (buildsettings.Limits{Memory: 1 << 30, CPU: 1}) || j.Outside {
		t.Errorf("%+v", j)
	}
	tree, err := w.r.TreeOf(base)
	if err != nil {
		t.Fatal(err)
	}
	vs, err := verdict.On(w.r, tree)
	if err != nil || len(vs) != 1 || vs[0].Server == "" || vs[0].Network {
		t.Errorf("%+v %v", vs, err)
	}
	rep, err := Verify(t.Context(), w.clone(true), repo.Signers{w.store.Signer().PublicKey()})
	if err != nil || rep.Verdicts != 1 || len(rep.Findings) > 0 {
		t.Errorf("%+v %v", rep, err)
	}
}

func TestFastForwardOnly(t *testing.T) {
	w := newHarness(t)
	base := w.commit("begin", files("headgate.yaml", "land: {strategy: fast-forward}\n"))
	w.land(ada, base)
	w.land(ada, w.commit("theirs", files("a", "2"), base))
	p := w.end(w.propose(jun, w.commit("mine", files("b", "2"), base)).Change)
	if p.Kind != Refused || !strings.Contains(p.Reason, "only fast-forwards") ||
		!strings.Contains(p.Hint, "pull --rebase") {
		t.Fatalf("%+v", p)
	}
}

// How a tree is built is its own matter; what the build may reach is the branch's.
func TestTheTreeIsBuiltAsItSays(t *testing.T) {
	w := newHarness(t)
	base := w.commit("begin", files())
	w.land(ada, base)
	moved := map[string]string{
		"headgate.yaml": "build: {buildspec: ci/b.yml, timeout: 2h, network: true}\n", "ci/b.yml": buildspec,
		"buildspec.yml": "",
	}
	next := w.commit("mine", moved, base)
	w.land(ada, next)
	w.build.mu.Lock()
	j := w.build.jobs[len(w.build.jobs)-1]
	w.build.mu.Unlock()
	if j.Buildspec != "ci/b.yml" || j.Timeout != 2*time.Hour || j.Network {
		t.Fatalf("%+v", j)
	}
	w.land(ada, w.commit("then", map[string]string{"a": "1"}, next))
	w.build.mu.Lock()
	j = w.build.jobs[len(w.build.jobs)-1]
	w.build.mu.Unlock()
	if j.Buildspec != "ci/b.yml" || !j.Network {
		t.Fatalf("the branch does not choose: %+v", j)
	}
}

func TestUnfitTreesAreRefused(t *testing.T) {
	for name, c := range map[string]struct {
		files  map[string]string
		reason string
	}{
		"no buildspec":      {map[string]string{"a": "1", "buildspec.yml": ""}, "no buildspec.yml"},
		"bad headgate.yaml": {files("headgate.yaml", "land: {strategy: rebase}\n"), "headgate.yaml:1"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newHarness(t)
			base := w.commit("begin", files())
			w.land(ada, base)
			p := w.end(w.propose(ada, w.commit(name, c.files, base)).Change)
			if p.Kind != Refused || !strings.Contains(p.Reason, c.reason) || p.Hint == "" {
				t.Fatalf("%+v", p)
			}
			if w.main() != base {
				t.Fatal("main moved")
			}
		})
	}
	t.Run("no shared history", func(t *testing.T) {
		w := newHarness(t)
		w.land(ada, w.commit("begin", files()))
		p := w.end(w.propose(ada, w.commit("other", files("b", "1"))).Change)
		if p.Kind != Refused || !strings.Contains(p.Reason, "no history") {
			t.Fatalf("%+v", p)
		}
	})
}

func TestAttachAndRevise(t *testing.T) {
	w := newHarness(t)
	base := w.commit("begin", files())
	w.land(ada, base)
	release := w.build.holdBuilds()
	defer release()
	c1 := w.commit("one", files("a", "1"), base)
	first := w.propose(ada, c1)
	if a := w.propose(jun, c1); !a.Attached || a.Change != first.Change || a.Revision != 1 {
		t.Fatalf("same commit: %+v", a)
	}
	gone := make(chan Progress, 1)
	followed := make(chan struct{})
	go func() {
		var last Progress
		for p := range w.gate.Follow(context.Background(), "hello", first.Change) {
			if last.Kind == "" {
				close(followed)
			}
			last = p
		}
		gone <- last
	}()
	<-followed
	c2 := w.commit("two", files("a", "2"), c1)
	if a := w.propose(ada, c2); a.Attached || a.Change != first.Change || a.Revision != 2 {
		t.Fatalf("descendant: %+v", a)
	}
	if p := <-gone; p.Kind != Withdrawn || !strings.Contains(p.Reason, "revision 2") {
		t.Fatalf("the follower of revision 1 saw %+v", p)
	}
	if a := w.propose(jun, w.commit("three", files("a", "3"), c2)); a.Change == first.Change {
		t.Fatalf("somebody else's: %+v", a)
	}
	amended := w.commit("two, better", files("a", "4"), base)
	if a := w.propose(ada, amended, "change=2"); a.Change != first.Change || a.Revision != 3 {
		t.Fatalf("option change: %+v", a)
	}
	_, err := w.gate.Propose(t.Context(), Proposal{Repository: "hello", Branch: "main",
		Commit: w.commit("x", files("x", "1"), base), By: jun, Options: []string{"change=2"}})
	if se := (*show.Error)(nil); !errors.As(err, &se) || se.Kind != show.Denied {
		t.Fatalf("somebody else's change: %v", err)
	}
	release()
	if p := w.end(first.Change); p.Kind != Landed || p.Landed != amended || p.Revision != 3 {
		t.Fatalf("%+v", p)
	}
	if got := events(w.story(first.Change)); got != "pushed pushed pushed tested landed" {
		t.Fatal(got)
	}
	// Every revision stays alive through the log.
	for _, c := range []repo.Hash{c1, c2, amended} {
		if out := w.git("rev-list", "refs/changes/2/log"); !strings.Contains(out, c.String()) {
			t.Fatalf("%s is not kept", c)
		}
	}
	// What the branch holds is attached to what brought it, or is no change.
	if a := w.propose(jun, amended); !a.Attached || a.Change != first.Change {
		t.Fatalf("landed: %+v", a)
	}
}

func TestWithdraw(t *testing.T) {
	w := newHarness(t)
	release := w.build.holdBuilds()
	defer release()
	a := w.propose(ada, w.commit("begin", files()))
	w.until("it builds", func() bool { return w.build.runs() == 1 })
	if err := w.gate.Withdraw(t.Context(), "hello", a.Change, jun); err == nil {
		t.Fatal("somebody else withdrew it")
	}
	if err := w.gate.Withdraw(t.Context(), "hello", a.Change, ada); err != nil {
		t.Fatal(err)
	}
	if p := w.end(a.Change); p.Kind != Withdrawn {
		t.Fatalf("%+v", p)
	}
	w.until("its build is stopped", func() bool { machine, _ := w.gate.Load(); return machine.Busy == 0 })
	if w.main() != repo.Zero || len(w.gate.Queue("hello")) != 0 {
		t.Fatal("it landed")
	}
	if err := w.gate.Withdraw(t.Context(), "hello", a.Change, ada); err == nil {
		t.Fatal("withdrawn twice")
	}
}

func TestPolicyWaitsDeniesAndIsWoken(t *testing.T) {
	w := newHarness(t)
	w.policy.say(Answer{Decision: "manual", Reasons: []string{"waits for 1 approval"},
		Missing: []string{"1 approval from owners"}}, nil)
	base := w.commit("begin", files())
	a := w.propose(ada, base)
	w.until("it waits", func() bool {
		q := w.gate.Queue("hello")
		return len(q) == 1 && q[0].State == show.Waits && strings.Contains(q[0].Reason, "1 approval from owners")
	})
	if got := events(w.story(1)); got != "pushed waits" {
		t.Fatal(got)
	}
	if w.main() != repo.Zero {
		t.Fatal("it landed")
	}
	w.policy.say(auto, nil)
	w.gate.Wake("hello")
	if p := w.end(a.Change); p.Kind != Landed {
		t.Fatalf("%+v", p)
	}
	// A change that waits is passed by others.
	w.policy.say(Answer{Decision: "manual", Reasons: []string{"frozen"}, NotBefore: time.Now().Add(time.Hour)}, nil)
	two := w.propose(ada, w.commit("two", files("a", "1"), base))
	w.until("it waits", func() bool { q := w.gate.Queue("hello"); return len(q) == 1 && q[0].State == show.Waits })
	w.policy.say(auto, nil)
	if p := w.land(jun, w.commit("three", files("b", "1"), base)); p.Landed != w.main() {
		t.Fatalf("%+v", p)
	}
	w.policy.say(Answer{Decision: "deny", Reasons: []string{"no"}}, nil)
	w.gate.Wake("hello")
	if p := w.end(two.Change); p.Kind != Refused || !strings.Contains(p.Reason, "policy: no") {
		t.Fatalf("%+v", p)
	}
	if records := w.git("log", "--format=%s", "refs/decisions/log"); strings.Count(records, "\n") < 5 {
		t.Fatalf("decisions:\n%s", records)
	}
}

func TestNotBeforeWakesByItself(t *testing.T) {
	w := newHarness(t)
	w.policy.soon = 50 * time.Millisecond
	a := w.propose(ada, w.commit("begin", files()))
	if p := w.end(a.Change); p.Kind != Landed {
		t.Fatalf("%+v", p)
	}
	if got := events(w.story(a.Change)); got != "pushed waits tested landed" {
		t.Fatal(got)
	}
}

// TestChangedRulesWakeWhoWaits: a landing that changes what the policy is made
// from wakes the changes that wait on its branch; any other landing does not.
func TestChangedRulesWakeWhoWaits(t *testing.T) {
	for _, file := range []string{"policies/land.rego", "headgate.yaml"} {
		t.Run(file, func(t *testing.T) {
			w := newHarness(t)
			base := w.land(ada, w.commit("begin", files())).Landed
			manual := Answer{Decision: "manual", Reasons: []string{"waits for owners"}}
			w.policy.say(manual, nil)
			waits := w.propose(ada, w.commit("waits", files("a", "1"), base))
			w.until("it waits", func() bool { q := w.gate.Queue("hello"); return len(q) == 1 && q[0].State == show.Waits })

			w.policy.say(auto, nil)
			other := w.land(jun, w.commit("other", files("b", "1"), base)).Landed
			if q := w.gate.Queue("hello"); len(q) != 1 || q[0].State != show.Waits {
				t.Fatalf("a landing that changes no rule woke it: %+v", q)
			}
			w.land(jun, w.commit("rules", files(file, "# of another day\n"), other))
			if p := w.end(waits.Change); p.Kind != Landed {
				t.Fatalf("%+v", p)
			}
		})
	}
}

// TestWakeAll: what all repositories share wakes those who wait in any.
func TestWakeAll(t *testing.T) {
	w := newHarness(t)
	w.policy.say(Answer{Decision: "manual", Reasons: []string{"waits for owners"}}, nil)
	a := w.propose(ada, w.commit("begin", files()))
	w.until("it waits", func() bool { q := w.gate.Queue("hello"); return len(q) == 1 && q[0].State == show.Waits })
	w.policy.say(auto, nil)
	w.gate.Wake(signal.All)
	if p := w.end(a.Change); p.Kind != Landed {
		t.Fatalf("%+v", p)
	}
}

// TestDenialUntilATimeWaits: a denial that says when it ends refuses nobody.
func TestDenialUntilATimeWaits(t *testing.T) {
	w := newHarness(t)
	until := time.Now().Add(time.Hour)
	w.policy.say(Answer{Decision: "deny", Reasons: []string{"frozen"}, NotBefore: until}, nil)
	a := w.propose(ada, w.commit("begin", files()))
	w.until("it waits", func() bool {
		q := w.gate.Queue("hello")
		return len(q) == 1 && q[0].State == show.Waits && q[0].Until.Equal(until)
	})
	w.policy.say(auto, nil)
	w.gate.Wake("hello")
	if p := w.end(a.Change); p.Kind != Landed {
		t.Fatalf("%+v", p)
	}
}

// TestNotBeforeThatIsPast: a policy that names a time that is past is asked at
// leisure, not without end.
func TestNotBeforeThatIsPast(t *testing.T) {
	w := newHarness(t, func(c *Config) { c.Retry = time.Hour })
	w.policy.say(Answer{Decision: "manual", Reasons: []string{"confused"}, NotBefore: time.Now().Add(-time.Hour)}, nil)
	a := w.propose(ada, w.commit("begin", files()))
	w.until("it waits", func() bool { q := w.gate.Queue("hello"); return len(q) == 1 && q[0].State == show.Waits })
	w.policy.mu.Lock()
	asked := len(w.policy.asked)
	w.policy.mu.Unlock()
	if asked != 1 {
		t.Errorf("asked %d times", asked)
	}
	w.policy.say(auto, nil)
	w.gate.Wake("hello")
	if p := w.end(a.Change); p.Kind != Landed {
		t.Fatalf("%+v", p)
	}
}

func TestPolicyThatCannotAnswerMovesNothing(t *testing.T) {
	w := newHarness(t)
	w.policy.say(Answer{}, errors.New("no policy"))
	a := w.propose(ada, w.commit("begin", files()))
	w.until("it was asked again",
		func() bool { w.policy.mu.Lock(); defer w.policy.mu.Unlock(); return len(w.policy.asked) > 2 })
	if w.main() != repo.Zero {
		t.Fatal("it landed")
	}
	w.policy.say(Answer{}, nil) // an empty answer is a denial
	if p := w.end(a.Change); p.Kind != Refused {
		t.Fatalf("%+v", p)
	}
}

func TestBuildThatCannotRunIsNotGreen(t *testing.T) {
	for how, why := range map[string]string{"panic": "the server's log says why under ",
		"unable": "bubblewrap is not installed"} {
		w := newHarness(t)
		release := w.build.holdBuilds()
		var p Progress
		var tries []string
		for p = range w.gate.Follow(t.Context(), "hello", w.propose(ada, w.commit("begin", files("test", how))).Change) {
			release() // whoever follows is told of everything from here on
			if try, told, ok := strings.Cut(p.Reason, ": "); ok && p.Kind == Queued {
				tries = append(tries, try)
				if !strings.HasPrefix(told, why) {
					t.Errorf("%+v", p)
				}
			}
		}
		if !slices.Equal(tries, []string{"the build could not run, try 1 of 3", "the build could not run, try 2 of 3"}) {
			t.Errorf("told of %q", tries)
		}
		if p.Kind != Refused || !strings.Contains(p.Reason, "its build could not run, so it is not green; "+why) ||
			strings.Contains(p.Reason, "/path") || w.build.runs() != 3 {
			t.Fatalf("%+v after %d tries", p, w.build.runs())
		}
		if note, _ := w.r.Ref(verdict.Ref); note != repo.Zero {
			t.Fatal("it left a verdict")
		}
	}
}

// A tree that nobody can check out is refused at the first try.
func TestFaultOfTheTreeIsNotTriedAgain(t *testing.T) {
	t.Parallel()
	w := newHarness(t)
	what := `the tree holds the path ".git\r", which cannot be checked out`
	w.build.suffer(fmt.Errorf("check out: %w", &repo.TreeFault{What: what}))
	p := w.end(w.propose(ada, w.commit("begin", files("a", "1"))).Change)
	if p.Kind != Refused || !strings.Contains(p.Reason, what) || w.build.runs() != 1 {
		t.Errorf("%+v after %d tries", p, w.build.runs())
	}
}

// Two trees that each hold what one may can hold more together, and one that only
// attributes can merge may hold too many of them: both are refused with the bound, and
// hold up nobody.
func TestMergesAreMeasured(t *testing.T) {
	t.Parallel()
	w := newHarness(t)
	large := func(parent repo.Hash, dir string) repo.Hash {
		t.Helper()
		blob := repo.Blob(nil)
		at, mode := blob.Hash(), filemode.Regular
		if err := w.r.Write(blob); err != nil {
			t.Fatal(err)
		}
		for _, width := range []int{1000, 501} {
			var entries []repo.Entry
			for i := range width {
				entries = append(entries, repo.Entry{Name: fmt.Sprintf("%03d", i), Mode: mode, Hash: at})
			}
			o := repo.TreeObject(entries)
			if err := w.r.Write(o); err != nil {
				t.Fatal(err)
			}
			at, mode = o.Hash(), filemode.Dir
		}
		tree, err := w.r.TreeOf(parent)
		if err == nil {
			tree, err = w.r.TreeWith(tree, map[string]repo.Edit{dir: {Mode: mode, Hash: at}})
		}
		if err != nil {
			t.Fatal(err)
		}
		c, err := w.r.WriteCommit(repo.NewCommit{Tree: tree, Parents: []repo.Hash{parent}, Message: dir})
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	first := w.commit("first", files("a", "1\n"))
	w.land(ada, first)
	left, right := large(first, "left"), large(first, "right")
	w.land(ada, left)
	p := w.end(w.propose(jun, right).Change)
	if want := "the tree holds more than 1000000 entries"; p.Kind != Refused || !strings.Contains(p.Reason, want) {
		t.Errorf("%+v, want %q", p, want)
	}

	many := map[string]string{}
	for i := range 1001 {
		many[fmt.Sprintf("%d/.gitattributes", i)] = "* text\n"
	}
	w.land(ada, w.commit("attributes", many, w.main()))
	p = w.end(w.propose(jun, w.commit("late", files("b", "1\n"), first)).Change)
	if want := "it holds more than 1000 files .gitattributes"; p.Kind != Refused || !strings.Contains(p.Reason, want) {
		t.Errorf("%+v, want %q", p, want)
	}
	w.land(ada, w.commit("on it", files("c", "1\n"), w.main()))
}

// What is wrong with the server refuses nobody's change, however long it lasts.
func TestTroubleOfTheServerRefusesNothing(t *testing.T) {
	for name, c := range map[string]struct {
		err error
		why string
	}{
		"disk": {fmt.Errorf("write log: %w", syscall.ENOSPC),
			"the server's disk is full; its build could not run, and is tried again"},
		"git": {errors.New("fatal: write error: No space left on device"),
			"the server's disk is full; its build could not run, and is tried again"},
		"files": {fmt.Errorf("open: %w", syscall.EMFILE),
			"the server has too many open files; its build could not run, and is tried again"},
		"unknown": {errors.New("git checkout-index: exit 128"), "its build could not run, and is tried again"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newHarness(t)
			w.build.suffer(c.err)
			commit := w.commit("begin", files())
			a := w.propose(ada, commit)
			w.until("it was tried more often than a fault of its own would be",
				func() bool { return w.build.runs() > plan.MaxFailures+1 })
			w.until("it waits and says why", func() bool {
				queue := w.gate.Queue("hello")
				return len(queue) == 1 && queue[0].State == show.Waits && queue[0].Reason == c.why && !queue[0].Until.IsZero()
			})
			if got := events(w.story(a.Change)); got != "pushed" {
				t.Fatalf("its story is %q", got)
			}
			w.build.suffer(nil)
			if p := w.end(a.Change); p.Kind != Landed || w.main() != commit {
				t.Fatalf("%+v", p)
			}
		})
	}
}

func TestStopKeepsThePlace(t *testing.T) {
	w := newHarness(t)
	release := w.build.holdBuilds()
	defer release()
	base := w.commit("begin", files())
	a := w.propose(ada, base)
	b := w.propose(jun, w.commit("other", files("a", "1"), base))
	w.until("it builds", func() bool { return w.build.runs() == 1 })
	ended := make(chan Progress, 1)
	go func() {
		var last Progress
		for last = range w.gate.Follow(context.Background(), "hello", a.Change) {
		}
		ended <- last
	}()
	w.stop()
	if p := <-ended; p.Kind != Restarting {
		t.Fatalf("%+v", p)
	}
	if _, err := w.gate.Propose(t.Context(),
		Proposal{Repository: "hello", Branch: "main", Commit: base, By: ada}); err == nil {
		t.Fatal("a stopped gate takes pushes")
	}
	if got := events(w.story(1)); got != "pushed" {
		t.Fatalf("a stopped build left %q", got)
	}
	release()
	w.start()
	if p := w.end(a.Change); p.Kind != Landed {
		t.Fatalf("%+v", p)
	}
	if p := w.end(b.Change); p.Kind != Landed || p.Old != base {
		t.Fatalf("%+v", p)
	}
}

func TestManyPushersAllLandInOrder(t *testing.T) {
	w := newHarness(t)
	base := w.commit("begin", files())
	w.land(ada, base)
	const n = 12
	var wg sync.WaitGroup
	ends := make([]Progress, n)
	for i := range n {
		c := w.commit("change", files("f"+string(rune('a'+i)), "1"), base)
		wg.Go(func() {
			who := access.Identity{User: "user" + string(rune('a'+i))}
			a, err := w.gate.Propose(t.Context(), Proposal{Repository: "hello", Branch: "main", Commit: c, By: who})
			if err != nil {
				t.Error(err)
				return
			}
			for p := range w.gate.Follow(t.Context(), "hello", a.Change) {
				ends[i] = p
			}
		})
	}
	wg.Wait()
	seen := map[int]bool{}
	for _, p := range ends {
		if p.Kind != Landed || seen[p.Release] {
			t.Fatalf("%+v", p)
		}
		seen[p.Release] = true
		if p.Release != p.Change {
			t.Fatalf("change %d made release %d: not in order", p.Change, p.Release)
		}
	}
	w.git("fsck", "--strict")
	if out := w.git("rev-list", "--first-parent", "--count", "main"); strings.TrimSpace(out) != "13" {
		t.Fatalf("%s landings", out)
	}
}

func TestRepositoriesAndBranchesShareTheWorkers(t *testing.T) {
	w := newHarness(t, func(c *Config) { c.Workers = 1 })
	if _, err := w.store.Create(t.Context(), "other"); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for _, branch := range []string{"main", "next"} {
		c := w.commit("begin "+branch, files("branch", branch))
		wg.Go(func() {
			a, err := w.gate.Propose(t.Context(), Proposal{Repository: "hello", Branch: branch, Commit: c, By: ada})
			if err != nil {
				t.Error(err)
				return
			}
			var last Progress
			for last = range w.gate.Follow(t.Context(), "hello", a.Change) {
			}
			if last.Kind != Landed || last.Branch != branch {
				t.Errorf("%+v", last)
			}
		})
	}
	wg.Wait()
	if w.build.most != 1 {
		t.Fatalf("%d builds at once", w.build.most)
	}
}

func TestContainedChangeLandsWithTheOther(t *testing.T) {
	w := newHarness(t)
	base := w.commit("begin", files())
	w.land(ada, base)
	release := w.build.holdBuilds()
	defer release()
	one := w.commit("one", files("a", "1"), base)
	a := w.propose(ada, one)
	b := w.propose(jun, w.commit("two", files("b", "1"), one), "priority=high")
	release()
	if p := w.end(b.Change); p.Kind != Landed {
		t.Fatalf("%+v", p)
	}
	p := w.end(a.Change)
	if p.Kind != Landed || p.Landed == repo.Zero {
		t.Fatalf("%+v", p)
	}
	rels, err := release2(w)
	if err != nil || len(rels) > 3 {
		t.Fatalf("%d releases, %v", len(rels), err)
	}
}

func release2(w *harness) ([]release.Release, error) { return release.Of(w.r).List() }

// BenchmarkIdenticalTree is from the push of a tree that is green already to
// main having moved and the release being there.
func BenchmarkIdenticalTree(b *testing.B) {
	w := newHarness(b)
	first := w.commit("begin", files("a", "1"))
	w.land(ada, first)
	tip := w.commit("other", files("a", "2"), first)
	w.land(ada, tip)
	for i := 0; b.Loop(); i++ {
		tip = w.commit("again", files("a", string(rune('1'+i%2))), tip)
		w.land(ada, tip)
	}
	if w.build.runs() != 2 {
		b.Fatalf("%d builds", w.build.runs())
	}
}
