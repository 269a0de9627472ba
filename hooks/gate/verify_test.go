package gate

import (
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/headgate-cd/headgate/gitd/access"
	"github.com/headgate-cd/headgate/gitd/decision"
	"github.com/headgate-cd/headgate/gitd/repo"
	"github.com/headgate-cd/headgate/hooks/change"
	"github.com/headgate-cd/headgate/hooks/release"
	"github.com/headgate-cd/headgate/hooks/verdict"
)

// clone makes a plain clone, as anybody could.
func (w *harness) clone(mirror bool) *repo.Repository {
	w.t.Helper()
	dir := filepath.Join(w.t.TempDir(), "clone")
	run := func(args ...string) {
		w.t.Helper()
		cmd := exec.Command("git", args...)
		cmd.Env = repo.Env("/dev/null")
		if out, err := cmd.CombinedOutput(); err != nil {
			w.t.Fatalf("git %v: %v\n%s", args, err, out)
		}
	}
	if mirror {
		run("clone", "--quiet", "--mirror", w.r.Dir(), dir)
	} else {
		run("clone", "--quiet", w.r.Dir(), dir)
		run("-C", dir, "fetch", "--quiet", "origin", "refs/changes/*:refs/changes/*", "refs/notes/*:refs/notes/*",
			"refs/releases/*:refs/releases/*", "refs/decisions/*:refs/decisions/*")
	}
	r, err := repo.OpenClone(dir)
	if err != nil {
		w.t.Fatal(err)
	}
	return r
}

func (w *harness) verify() *Report {
	w.t.Helper()
	rep, err := Verify(w.t.Context(), w.clone(true), repo.Signers{w.store.Signer().PublicKey()})
	if err != nil {
		w.t.Fatal(err)
	}
	return rep
}

func TestVerify(t *testing.T) {
	w := newHarness(t)
	base := w.commit("begin", files("headgate.yaml", "land: {strategy: merge}\n"))
	w.land(ada, base)
	w.land(ada, w.commit("one", files("a", "1"), base))
	p := w.land(jun, w.commit("two", files("b", "1"), base)) // a merge
	w.end(w.propose(ada, w.commit("red", files("test", "red"), p.Landed)).Change)
	signers := repo.Signers{w.store.Signer().PublicKey()}
	for _, mirror := range []bool{true, false} {
		rep, err := Verify(t.Context(), w.clone(mirror), signers)
		if err != nil {
			t.Fatal(err)
		}
		if len(rep.Findings) > 0 || rep.Tips != 3 || rep.Verdicts != 3 || rep.Releases != 3 || rep.Signed < 15 ||
			!slices.Equal(rep.Branches, []string{"main"}) {
			t.Fatalf("mirror %v: %+v", mirror, rep)
		}
	}

	found := func(what string) {
		t.Helper()
		rep := w.verify()
		if !slices.ContainsFunc(rep.Findings, func(f Finding) bool { return strings.Contains(f.String(), what) }) {
			t.Fatalf("want %q among %v", what, rep.Findings)
		}
	}
	move := func(ref string, to repo.Hash) (undo func()) {
		t.Helper()
		old, err := w.r.Ref(ref)
		if err != nil {
			t.Fatal(err)
		}
		if err := w.r.Move(t.Context(), ref, old, to); err != nil {
			t.Fatal(err)
		}
		return func() {
			if err := w.r.Move(t.Context(), ref, to, old); err != nil {
				t.Fatal(err)
			}
		}
	}
	t.Run("a tip past the gate", func(t *testing.T) {
		undo := move("refs/heads/main", w.commit("smuggled", files("c", "1"), p.Landed))
		defer undo()
		found("no change landed as that")
	})
	t.Run("a landing left out", func(t *testing.T) {
		undo := move("refs/heads/main", p.Old)
		defer undo()
		found("which is not in the line of refs/heads/main")
	})
	t.Run("verdicts by somebody else", func(t *testing.T) {
		old, err := w.r.Ref(verdict.Ref)
		if err != nil {
			t.Fatal(err)
		}
		undo := move(verdict.Ref, w.commit("forged", nil, old))
		defer undo()
		found("refs/notes/verdicts: commit")
	})
	t.Run("verdicts taken away", func(t *testing.T) {
		undo := move(verdict.Ref, repo.Zero)
		defer undo()
		found("has no green verdict for buildspec.yml")
	})
	t.Run("a pause and a rejection by somebody else", func(t *testing.T) {
		forged := w.commit("resume landing on main\n\nLanding: resumed\nBranch: main\nBy: ada", nil)
		defer move(decision.Landings+"main", forged)()
		found("refs/decisions/landing/main at ")
		rejected := w.commit("reject release 1 of hello for production\n\nRelease: 1", nil, base)
		defer move(decision.Rejections+"production", rejected)()
		found("refs/decisions/rejected/production at ")
	})
	t.Run("a log by somebody else", func(t *testing.T) {
		s := w.story(2)
		undo := move(change.Ref(2), w.commit("forged\n\nEvent: landed\nRevision: 1", nil, s.Tip))
		defer undo()
		found("refs/changes/2/log: commit")
	})
	t.Run("an ancestor by replacement", func(t *testing.T) {
		x := w.commit("unrelated", files("c", "1"))
		holds := w.commit("stands in", files("c", "1"), p.Landed)
		undo := move("refs/replace/"+x.String(), holds)
		defer undo()
		if holds, err := w.clone(true).Contains(t.Context(), x, p.Landed); err != nil || holds {
			t.Fatalf("%v, %v", holds, err)
		}
	})
	t.Run("a log that names a revision it has not", func(t *testing.T) {
		s := w.story(2)
		undo := move(change.Ref(2), w.commit("forged\n\nEvent: landed\nChange: 2\nRevision: 99\nNew: "+
			w.main().String(), nil, s.Tip))
		defer undo()
		if _, err := Verify(t.Context(), w.clone(true), signers); err == nil ||
			!strings.Contains(err.Error(), "is of revision 99, of 1") {
			t.Fatal(err)
		}
	})
	t.Run("a log of another change", func(t *testing.T) {
		undo := move(change.Ref(4), w.story(2).Tip)
		defer undo()
		found(`refs/changes/4/log: is the log of change 2`)
	})
	t.Run("a log taken away", func(t *testing.T) {
		undo := move(change.Ref(1), repo.Zero)
		defer undo()
		found("refs/changes/1/log: is not there")
	})
	t.Run("a gated branch without landings", func(t *testing.T) {
		undo := move("refs/heads/master", w.commit("smuggled", files("c", "1")))
		defer undo()
		found("refs/heads/master: is gated and at ")
	})
	t.Run("a landing that was never tested", func(t *testing.T) {
		l, err := w.gate.loop("hello")
		if err != nil {
			t.Fatal(err)
		}
		s, err := l.log.Open(t.Context(),
			change.Push{Branch: "main", Commit: w.commit("x", files("x", "1"), p.Landed), By: "ada", At: time.Now()})
		if err != nil {
			t.Fatal(err)
		}
		x := s.Head().Commit
		if _, err := l.log.Append(t.Context(), s, change.Event{Kind: change.Landed, At: time.Now(), Subject: "landed",
			Facts: change.Facts{Old: p.Landed, New: x}}); err != nil {
			t.Fatal(err)
		}
		undo := move("refs/heads/main", x)
		defer undo()
		found("has no green verdict")
		in, err := inputs(w.r, mustTree(t, w.r, x), Settings{}.filled())
		if err != nil {
			t.Fatal(err)
		}
		w.verdict(in, verdict.Green)
		found("does not say before that it was green")
	})
	t.Run("a release of something else", func(t *testing.T) {
		c := w.commit("other", files("z", "1"))
		rel, err := release.Of(w.r).Make(t.Context(), release.Landing{Branch: "main", Commit: c, By: "ada", At: time.Now()})
		if err != nil {
			t.Fatal(err)
		}
		defer func() { move(release.Ref(rel.Number), repo.Zero) }()
		found("which did not land")
	})
	t.Run("another key", func(t *testing.T) {
		other := newHarness(t)
		rep, err := Verify(t.Context(), w.clone(true), repo.Signers{other.store.Signer().PublicKey()})
		if err != nil || len(rep.Findings) < rep.Signed-3 {
			t.Fatalf("%v, %d of %d", err, len(rep.Findings), rep.Signed)
		}
	})
}

// TestCutRecordsShow: of each record of the gate, rewound by one or taken away,
// something else says so.
func TestCutRecordsShow(t *testing.T) {
	w := newHarness(t)
	config, err := writers()
	if err != nil {
		t.Fatal(err)
	}
	w.config.Access = func() *access.Config { return config }
	w.stop()
	w.start()
	base := w.commit("begin", files("headgate.yaml", "land: {strategy: merge}\n"))
	w.land(ada, base)
	red := w.propose(ada, w.commit("red", files("test", "red"), base)).Change
	w.end(red)
	if _, _, err := w.gate.Pause(t.Context(), "hello", "main", showActor("ada"), "a look at it"); err != nil {
		t.Fatal(err)
	}
	if _, _, err := w.gate.Resume(t.Context(), "hello", "main", showActor("ada"), ""); err != nil {
		t.Fatal(err)
	}
	w.land(ada, w.commit("one", files("a", "1"), base))
	w.land(jun, w.commit("two", files("b", "1"), base))
	if found := w.verify().Findings; len(found) > 0 {
		t.Fatalf("before anything was cut: %v", found)
	}
	refs, err := w.r.Refs("refs/")
	if err != nil {
		t.Fatal(err)
	}
	for _, ref := range refs {
		to := []repo.Hash{repo.Zero}
		if c, err := w.r.Commit(ref.Hash); err == nil && len(c.ParentHashes) > 0 {
			to = append(to, c.ParentHashes[0])
		}
		for _, to := range to {
			if err := w.r.Move(t.Context(), ref.Name, ref.Hash, to); err != nil {
				t.Fatal(err)
			}
			found := w.verify().Findings
			where := ref.Name
			if strings.HasPrefix(where, "refs/releases/") {
				where = "refs/releases/" // a missing one is told of by its landing
			}
			if !slices.ContainsFunc(found, func(f Finding) bool { return strings.Contains(f.String(), where) }) {
				t.Errorf("%s from %s to %s: found %v", ref.Name, ref.Hash, to, found)
			}
			if err := w.r.Move(t.Context(), ref.Name, to, ref.Hash); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// TestVerifyOldBuildRule: histories from before a tree said itself how it is built
// hold, by what was in force then.
func TestVerifyOldBuildRule(t *testing.T) {
	w := newHarness(t)
	base := w.commit("begin", files("a", "1"))
	w.land(ada, base)
	moved := w.commit("move", files("headgate.yaml", "build: {buildspec: ci/b.yml}\n", "ci/b.yml", buildspec), base)
	p := w.land(ada, moved)
	if found := w.verify().Findings; len(found) > 0 {
		t.Fatalf("by today's rule: %v", found)
	}

	// The same landing as the branch's rule would have had it built.
	tree, err := w.r.TreeOf(p.Landed)
	if err != nil {
		t.Fatal(err)
	}
	in, err := inputs(w.r, tree, Settings{}.filled())
	if err != nil {
		t.Fatal(err)
	}
	before := []change.Event{{Kind: change.Tested, Facts: change.Facts{Candidate: p.Landed, Verdict: in.Key()}}}
	vs := verdict.List{{Key: in.Key(), Result: verdict.Green}}
	if what := tested(vs, in, p.Landed, before); what != "" {
		t.Errorf("tested: %s", what)
	}
	if what := tested(vs, in, p.Landed, nil); !strings.Contains(what, "does not say before") {
		t.Errorf("untold: %q", what)
	}
}
