package gate

import (
	"errors"
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/go-git/go-git/v5/plumbing/filemode"

	"github.com/headgate-cd/headgate/gitd/access"
	"github.com/headgate-cd/headgate/gitd/buildsettings"
	"github.com/headgate-cd/headgate/gitd/repo"
	"github.com/headgate-cd/headgate/gitd/show"
	"github.com/headgate-cd/headgate/hooks/release"
)

// came has a forge move main past the gate.
func (w *harness) came(old, new repo.Hash) {
	w.t.Helper()
	if err := w.gate.RecordMirrored(w.t.Context(), w.r, "main", old, new, time.Now()); err != nil {
		w.t.Fatal(err)
	}
	if err := w.r.Move(w.t.Context(), "refs/heads/main", old, new); err != nil {
		w.t.Fatal(err)
	}
}

// tip waits until the tip that a forge has moved main to is in a state.
func (w *harness) tip(commit repo.Hash, state show.State) (found Tip) {
	w.t.Helper()
	w.until(string(state), func() bool {
		all, err := w.gate.Tips("hello")
		if err != nil {
			w.t.Fatal(err)
		}
		if len(all) != 1 || all[0].Branch != "main" || all[0].Commit != commit {
			return false
		}
		found = all[0]
		return found.State == state && (state != show.Green || found.Release > 0)
	})
	return found
}

// TestTipsOfAForgeAreBuilt: where a forge has moved a gated branch past the gate, it is
// built. Green it has a release, like a landing, after a restart, too; red or without a
// buildspec it has none, and says why. What is built upon it lands.
func TestTipsOfAForgeAreBuilt(t *testing.T) {
	t.Parallel()
	w := newHarness(t)
	first := w.commit("first", files("a", "1\n"))
	w.came(repo.Zero, first)
	if tip := w.tip(first, show.Green); tip.Release != 1 || tip.Log == "" {
		t.Errorf("%+v", tip)
	}
	rel, err := release.Of(w.r).Read(1)
	if err != nil || rel.Commit != first || rel.Subject != "first" || len(rel.Changes) != 0 || rel.Manifest.By != "@" ||
		rel.Previous != "" {
		t.Errorf("%+v, %v", rel.Manifest, err)
	}

	red := w.commit("red", files("test", "red\n"), first)
	w.came(first, red)
	if tip := w.tip(red, show.Failed); tip.Release != 0 || !strings.Contains(tip.Reason, "go test") {
		t.Errorf("%+v", tip)
	}
	none := w.commit("none", map[string]string{"buildspec.yml": "", "test": ""}, red)
	w.came(red, none)
	if tip := w.tip(none, show.Waits); !strings.Contains(tip.Reason, "no buildspec.yml") {
		t.Errorf("%+v", tip)
	}
	w.build.suffer(unable{})
	unable := w.commit("unable", files("b", "1\n"), none)
	w.came(none, unable)
	if tip := w.tip(unable, show.Waits); !strings.Contains(tip.Reason, "bubblewrap is not installed") {
		t.Errorf("%+v", tip)
	}

	// Killed while it is built, and what was there meanwhile is never built: nor is what waited,
	// which may be tried again by now.
	letGo := w.build.holdBuilds()
	defer letGo()
	w.build.suffer(nil)
	passing := w.commit("passing", files("c", "1\n"), unable)
	w.came(unable, passing)
	w.tip(passing, show.Running)
	over := w.commit("over", files("c", "2\n"), passing)
	w.came(passing, over)
	w.tip(over, show.Running)
	w.stop()
	letGo()
	w.start()
	if tip := w.tip(over, show.Green); tip.Release != 2 {
		t.Errorf("%+v", tip)
	}
	if _, err := release.Of(w.r).At(passing); !errors.Is(err, release.ErrNone) {
		t.Errorf("what was pushed over has a release: %v", err)
	}

	landed := w.commit("landed", files("d", "1\n"), over)
	if p := w.land(ada, landed); p.Landed != landed {
		t.Errorf("%+v", p)
	}
	// The very tree again: no build.
	runs := w.build.runs()
	again := w.commit("again", nil, landed)
	w.came(landed, again)
	if tip := w.tip(again, show.Green); tip.Release != 4 || w.build.runs() != runs {
		t.Errorf("%+v, %d builds", tip, w.build.runs()-runs)
	}

	signers, err := repo.ParseSigners([]byte(w.r.Signer().AllowedSigners()))
	if err != nil {
		t.Fatal(err)
	}
	rep, err := Verify(t.Context(), w.r, signers)
	if err != nil || len(rep.Findings) > 0 || rep.Releases != 4 || rep.Mirrored != 7 || rep.Tips != 8 {
		t.Errorf("%+v, %v", rep, err)
	}

	// A release of a tip that was red is a finding, whoever signed it.
	v := rel.Manifest
	_, err = release.Of(w.r).Make(t.Context(),
		release.Landing{Branch: "main", Commit: red, Subject: "red", By: "@", At: v.At})
	if err != nil {
		t.Fatal(err)
	}
	if rep, err = Verify(t.Context(), w.r, signers); err != nil || len(rep.Findings) != 1 ||
		!strings.Contains(rep.Findings[0].What, "nor came from the forge") {
		t.Errorf("%v, %v", rep.Findings, err)
	}
}

// TestTipsOfAForgeAreBuiltAsTheServerSays, and as a change with that tree would be: its
// verdict is theirs, too.
func TestTipsOfAForgeAreBuiltAsTheServerSays(t *testing.T) {
	t.Parallel()
	w := newHarness(t, func(c *Config) {
		c.Server = func(string) ServerSettings {
			return ServerSettings{
				Variables: map[string]string{"AWS_REGION": "eu-north-1"},
				Limits:    buildsettings.Limits{Memory: 1 << 30},
			}
		}
	})
	first := w.commit("first", files("headgate.yaml", "build: {variables: {A: project}, limits: {memory: 2 GiB}}\n"))
	w.came(repo.Zero, first)
	w.tip(first, show.Green)
	w.build.mu.Lock()
	j := w.build.jobs[len(w.build.jobs)-1]
	w.build.mu.Unlock()
	want := map[string]string{"AWS_REGION": "eu-north-1", "A": "project"}
	if !maps.Equal(j.Variables, want) || j.Limits.Memory != 1<<30 {
		t.Errorf("%+v", j)
	}
	runs := w.build.runs()
	w.land(ada, w.commit("the same", nil, first))
	if w.build.runs() != runs {
		t.Error("a change with that tree was built again")
	}
}

// TestBranchesThatAreNotGatedAreNotRecorded: a forge's other branches are nobody's to prove.
func TestBranchesThatAreNotGatedAreNotRecorded(t *testing.T) {
	t.Parallel()
	w := newHarness(t)
	for _, branch := range []string{"side", "feature/1"} {
		commit := w.commit(branch, files("a", branch))
		if err := w.gate.RecordMirrored(t.Context(), w.r, branch, repo.Zero, commit, time.Now()); err != nil {
			t.Fatal(err)
		}
	}
	if tip, err := w.r.Ref(MirrorRef); err != nil || tip != repo.Zero {
		t.Errorf("%s is at %s, %v", MirrorRef, tip, err)
	}
}

// TestVerifyKnowsMirrors: tips that came from a forge, on record as such, are part
// of a branch's line: pushed over, gone back to, and landed upon. Without a record,
// or with one that another key signed, they are findings.
func TestVerifyKnowsMirrors(t *testing.T) {
	t.Parallel()
	w := newHarness(t)
	begin := w.commit("begin", files("a", "1\n"))
	over := w.commit("over", files("b", "1\n"), begin)
	came := w.came
	came(repo.Zero, begin)
	came(begin, over)
	came(over, begin)
	landed := w.commit("landed", files("a", "1\n", "c", "1\n"), begin)
	w.land(ada, landed)
	next := w.commit("next", files("d", "1\n"), landed)
	came(landed, next)
	came(next, landed) // which landed before
	deleted := w.commit("deleted", files("e", "1\n"), landed)
	w.land(ada, deleted)
	came(deleted, landed)
	came(landed, repo.Zero)
	came(repo.Zero, next)

	signers, err := repo.ParseSigners([]byte(w.r.Signer().AllowedSigners()))
	if err != nil {
		t.Fatal(err)
	}
	check := func(signers repo.Signers, findings bool) *Report {
		t.Helper()
		rep, err := Verify(t.Context(), w.r, signers)
		if err != nil {
			t.Fatal(err)
		}
		if (len(rep.Findings) > 0) != findings {
			t.Errorf("findings: %v", rep.Findings)
		}
		return rep
	}
	if rep := check(signers, false); rep.Verdicts != 2 || rep.Mirrored != 7 {
		t.Errorf("%+v", rep)
	}
	check(repo.Signers{}, true)

	tip, err := w.r.Ref(MirrorRef)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.r.Move(t.Context(), MirrorRef, tip, repo.Zero); err != nil {
		t.Fatal(err)
	}
	check(signers, true)
}

// TestJudge: what a forge's own queue asks about is built as the next tip of its target, and
// is no release, nor on record.
func TestJudge(t *testing.T) {
	t.Parallel()
	w := newHarness(t)
	base := w.commit("begin", files("a", "1\n"))
	w.land(ada, base)
	for test, want := range map[string]show.State{"green": show.Green, "red": show.Failed} {
		commit := w.commit(test, files("test", test+"\n"), base)
		var got Tip
		w.until(test, func() bool {
			var err error
			if got, err = w.gate.Judge("hello", "main", commit); err != nil {
				t.Fatal(err)
			}
			return got.State == want
		})
		if got.Release != 0 || got.Commit != commit || got.Log == "" {
			t.Errorf("%+v", got)
		}
	}
	if list, err := release.Of(w.r).List(); err != nil || len(list) != 1 {
		t.Errorf("%d releases, %v", len(list), err)
	}
	if tip, err := w.r.Ref(MirrorRef); err != nil || tip != repo.Zero {
		t.Errorf("%s is at %s, %v", MirrorRef, tip, err)
	}
}

// TestFetchedTreeBombs: what comes by a forge has not been measured at a push. Neither
// as a request nor as a tip does a tree whose trees multiply hold up who comes after.
func TestFetchedTreeBombs(t *testing.T) {
	t.Parallel()
	w := newHarness(t)
	first := w.commit("first", files("a", "1\n"))
	w.land(ada, first)

	below := repo.Blob(nil)
	mode := filemode.Regular
	for range 40 {
		var entries []repo.Entry
		for i := range 16 {
			entries = append(entries, repo.Entry{Name: fmt.Sprintf("%02d", i), Mode: mode, Hash: below.Hash()})
		}
		if err := w.r.Write(below); err != nil {
			t.Fatal(err)
		}
		below, mode = repo.TreeObject(entries), filemode.Dir
	}
	if err := w.r.Write(below); err != nil {
		t.Fatal(err)
	}
	tree, err := w.r.TreeWith(repo.Zero, map[string]repo.Edit{"bomb": {Mode: filemode.Dir, Hash: below.Hash()}})
	if err != nil {
		t.Fatal(err)
	}
	bomb, err := w.r.WriteCommit(repo.NewCommit{Tree: tree, Parents: []repo.Hash{first}, Message: "bomb"})
	if err != nil {
		t.Fatal(err)
	}
	second := w.commit("second", files("a", "2\n"), first)
	w.land(ada, second) // so that the bomb would be merged

	a, err := w.gate.ProposeRequest(t.Context(), Proposal{
		Repository: "hello",
		Branch:     "main",
		Commit:     bomb,
		By:         access.ByForge("hub", "mallory"),
		Options:    []string{OptionFork},
	}, 0)
	if err != nil {
		t.Fatal(err)
	}
	p := w.end(a.Change)
	if p.Kind == Landed || !strings.Contains(p.Reason, "bomb") ||
		!strings.Contains(p.Reason, "holds more than 1000000 entries") {
		t.Errorf("%+v", p)
	}
	w.land(ada, w.commit("third", files("a", "3\n"), second))

	w.came(w.main(), bomb)
	if tip := w.tip(bomb, show.Waits); !strings.Contains(tip.Reason, "holds more than 1000000 entries") {
		t.Errorf("%+v", tip)
	}
}
