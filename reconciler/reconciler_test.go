package reconciler

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/headgate-cd/headgate/gitd/decision"
	"github.com/headgate-cd/headgate/gitd/repo"
	"github.com/headgate-cd/headgate/gitd/show"
	"github.com/headgate-cd/headgate/reconciler/record"
	"github.com/headgate-cd/headgate/reconciler/target"
)

// TestFromReleaseToProduction is the whole way of one release, as people and
// git see it.
func TestFromReleaseToProduction(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	h := newHarness(t)
	defer h.store.Close()
	h.target.obedient = true
	stop := h.start(t)
	defer stop()
	h.release(t, "ada", "one")
	staging := h.healthy(t, "staging", 1)
	if staging.History[0].By != "policy" || staging.Behind != 0 || len(staging.URLs) != 1 {
		t.Fatalf("staging: %+v", staging)
	}
	given := h.target.last("staging")
	if given.Sequence != 2 || string(given.Files["compose.yaml"]) != helloFiles("one")["deploy/staging/compose.yaml"] ||
		given.Release.Artifacts["hello"] == "" {
		t.Fatalf("the target was given %+v", given)
	}

	p := h.proposed(t, "production", 1)
	if p.Decision != "manual" || !p.MayApprove || p.Checks[0].Met || !strings.Contains(p.Summary, "1 approval") {
		t.Fatalf("promotion: %+v", p)
	}
	if len(p.Files) != 3 || p.Files[0].Path != "apps/hello/compose.yaml" || p.Files[0].State != "added" ||
		len(p.Carries) != 1 {
		t.Fatalf("files %+v, carries %+v", p.Files, p.Carries)
	}
	var refused *show.Error
	for who, why := range map[string]string{"ada": "nobody approves their own", "eve": "may not write hello",
		"": "not signed in"} {
		_, err := h.rc.Approve(t.Context(), "hello", "production", actor(who), "", "")
		if !errors.As(err, &refused) || refused.Kind != show.Forbidden ||
			!strings.Contains(refused.What+refused.Where[0], why) {
			t.Fatalf("%q approves: %v", who, err)
		}
		if refused.Hint != "ask one of: jun, sam" {
			t.Fatalf("who may approve: %q", refused.Hint)
		}
	}
	if _, err := h.rc.Approve(t.Context(), "hello", "production", actor("jun"), strings.Repeat("0", 40),
		""); !errors.As(err, &refused) || !strings.Contains(refused.Where[0], p.Tree[:7]) {
		t.Fatalf("another tree: %v", err)
	}
	done, err := h.rc.Approve(t.Context(), "hello", "production", actor("jun"), p.Tree[:12], "looks good")
	if err != nil || done.Promoted == repo.Zero || !strings.Contains(done.Sentence, "approved release 1 for production") {
		t.Fatalf("approve: %+v, %v", done, err)
	}
	production := h.healthy(t, "production", 1)
	if by := production.History[0].By; by != "policy" {
		t.Fatalf("decided by %q; jun only approved", by)
	}
	if a := production.History[0].Approvals; len(a) != 1 || a[0].By != "jun" || a[0].Why != "looks good" ||
		a[0].Tree != p.Tree {
		t.Fatalf("approvals: %+v", a)
	}
	h.eventually(t, "production", "without a proposal", func(e show.Environment) bool { return e.Promotion == nil })
	if at, _ := h.hello.Ref(record.ProposalRef("production")); at != repo.Zero {
		t.Fatalf("promote/production is still at %s", at)
	}
	// Plain git shows it: the tree, the message, the signature.
	log, err := h.hello.Git(t.Context(), "log", "--format=%s%n%(trailers)", "env/production")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"promote hello to production: release 1", "\nRelease: 1\n", "Decision: auto d-",
		"Approved-by: jun <jun@example.com> tree=" + p.Tree, "Promoted-From: env/staging@" + staging.Declared} {
		if !strings.Contains(string(log), want) {
			t.Fatalf("log has no %q:\n%s", want, log)
		}
	}
	h.checkVerifies(t, 2, 0, 1)
	live, err := h.rc.LiveIn(t.Context(), "hello", repoHash(t, production.Commit))
	if err != nil || len(live) != 2 || live[1].Environment != "production" || live[1].State != show.Healthy {
		t.Fatalf("live in %+v, %v", live, err)
	}
}

func repoHash(t *testing.T, s string) repo.Hash {
	t.Helper()
	h, ok := repo.ParseHash(s)
	if !ok {
		t.Fatalf("%q is no hash", s)
	}
	return h
}

// checkVerifies expects Verify to find nothing wrong among so many commits.
func (h *harness) checkVerifies(t *testing.T, promotions, rollbacks, approvals int) {
	t.Helper()
	releases, err := taggedReleases(h.hello)
	if err != nil {
		t.Fatal(err)
	}
	v, err := record.Verify(t.Context(), h.hello, repo.Signers{h.store.Signer().PublicKey()}, releases)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range v.Findings {
		t.Error(f)
	}
	if v.Promotions != promotions || v.Rollbacks != rollbacks || v.Approvals != approvals ||
		v.Decisions != promotions+rollbacks {
		t.Fatalf("verified %+v, want %d promotions, %d rollbacks, %d approvals", v, promotions, rollbacks, approvals)
	}
}

// TestDefinitionsAreGiven: the target is given what artifacts say of images, and no
// fallback to a release whose artifacts are gone.
func TestDefinitionsAreGiven(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	h.target.obedient = true
	var gone atomic.Int64 // a release
	h.rc.Definitions = func(_ context.Context, kind string, files target.Files, r target.Release) (
		map[string][]byte, error,
	) {
		if kind != "services" || files["compose.yaml"] == nil || r.Artifacts["hello"] == "" {
			t.Errorf("asked about %s, %v, %+v", kind, files, r)
		}
		if int64(r.Number) == gone.Load() {
			return nil, fs.ErrNotExist
		}
		return map[string][]byte{"hello": fmt.Append(nil, "of ", r.Number)}, nil
	}
	h.start(t)
	h.release(t, "ada", "one")
	h.healthy(t, "staging", 1)
	h.release(t, "ada", "two")
	h.healthy(t, "staging", 2)
	gone.Store(2)
	h.release(t, "ada", "three")
	h.healthy(t, "staging", 3)
	given := h.target.last("staging")
	if string(given.Release.Definitions["hello"]) != "of 3" || given.Fallback == nil ||
		string(given.Fallback.Release.Definitions["hello"]) != "of 1" {
		t.Errorf("the target was given %+v", given)
	}

	// What is declared cannot be read: that is said, and what ran goes on.
	gone.Store(4)
	h.release(t, "ada", "four")
	h.eventually(t, "staging", "failed with the reason", func(e show.Environment) bool {
		return e.State == show.Failed && strings.Contains(e.Reason,
			"what release 4 runs from cannot be read, and what ran before goes on: file does not exist; restore it from a backup")
	})
	if given := h.target.last("staging"); given.Release.Number != 3 {
		t.Errorf("the target was given %+v", given)
	}
	gone.Store(0)
	h.release(t, "ada", "five")
	h.healthy(t, "staging", 5)
}

// TestRollbackHoldsUntilPromotedForward rolls back to a release that was
// healthy to the end, and no other, and stays there until somebody approves.
func TestRollbackHoldsUntilPromotedForward(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	h.target.obedient = true
	h.start(t)
	h.release(t, "ada", "one")
	h.healthy(t, "staging", 1)
	h.release(t, "ada", "two")
	h.healthy(t, "staging", 2)
	h.target.report("staging", target.Failed, "web does not answer")
	h.eventually(t, "staging", "failed", func(e show.Environment) bool { return e.State == show.Failed })
	h.release(t, "ada", "three")
	before := h.healthy(t, "staging", 3)
	if h := before.History; !h[2].MayRollback || h[1].MayRollback || !strings.Contains(h[1].WhyNot, "failed at") ||
		h[0].MayRollback {
		t.Fatalf("history: %+v", h)
	}

	var refused *show.Error
	for release, want := range map[int]string{0: "say which release; the last healthy one is 1", 2: "it failed at",
		3: "what is declared now", 9: "never ran"} {
		_, err := h.rc.Rollback(t.Context(), "hello", "staging", release, actor("jun"), "")
		if !errors.As(err, &refused) || !strings.Contains(refused.What, want) ||
			refused.Command != "rollback hello staging 1" {
			t.Fatalf("rollback to %d: %v, %+v", release, err, refused)
		}
	}
	if _, err := h.rc.Rollback(t.Context(), "hello", "staging", 1, actor("eve"), ""); !errors.As(err, &refused) ||
		refused.Kind != show.Forbidden {
		t.Fatalf("eve rolls back: %v", err)
	}
	// What is declared and fails runs nowhere, and whoever is asked to take it again
	// hears of that.
	h.target.report("staging", target.Failed, "web gives up")
	failed := h.eventually(t, "staging", "failed with release 3",
		func(e show.Environment) bool { return e.Release == 3 && e.State == show.Failed })
	live, err := h.rc.LiveIn(t.Context(), "hello", repoHash(t, failed.Commit))
	if err != nil || len(live) != 1 || live[0].Serves || live[0].State != show.Failed || live[0].Reason != "web gives up" {
		t.Fatalf("live in %+v, %v", live, err)
	}
	done, err := h.rc.Rollback(t.Context(), "hello", "staging", 1, actor("jun"), "5xx rate 8 %\nApproved-by: eve")
	if err != nil {
		t.Fatal(err)
	}
	e := h.healthy(t, "staging", 1)
	if e.Held == nil || e.Held.By != "jun" || !e.History[0].Rollback || e.History[0].By != "jun" ||
		len(e.History[0].Approvals) != 0 {
		t.Fatalf("after the rollback: %+v", e)
	}
	was, err := h.hello.Git(t.Context(), "rev-parse", done.Restores.String()+":apps/hello",
		done.Commit.String()+":apps/hello")
	if err != nil {
		t.Fatal(err)
	}
	if two := strings.Fields(string(was)); two[0] != two[1] {
		t.Fatalf("restored %v", two)
	}
	if last := h.target.last("staging"); last.Sequence != 5 || last.Release.Number != 1 {
		t.Fatalf("the target was given %+v", last)
	}
	// The newest release is proposed, and so is the next; neither moves by itself.
	if p := h.proposed(t, "staging", 3); p.FailedAt.IsZero() || p.Failure != "web gives up" {
		t.Fatalf("it failed here, and the proposal says %v: %q", p.FailedAt, p.Failure)
	}
	why, err := h.rc.Why(t.Context(), actor("jun"), "hello", "staging")
	if err != nil || !slices.ContainsFunc(why.Facts, func(f show.Fact) bool {
		return f.Label == "before" && strings.HasPrefix(f.Text, "release 3 was here before and failed at ")
	}) {
		t.Errorf("why: %+v, %v", why, err)
	}
	h.release(t, "ada", "four")
	p := h.proposed(t, "staging", 4)
	if !p.FailedAt.IsZero() {
		t.Fatalf("it was never here, and the proposal says that it failed: %+v", p)
	}
	if p.Decision != "manual" || e.Declared != h.healthy(t, "staging", 1).Declared {
		t.Fatalf("held, but %+v", p)
	}
	if _, err := h.rc.Approve(t.Context(), "hello", "staging", actor("jun"), "", ""); err != nil {
		t.Fatal(err)
	}
	if e := h.healthy(t, "staging", 4); e.Held != nil {
		t.Fatalf("still held: %+v", e.Held)
	}
	if err := h.settled(t); err != nil {
		t.Fatal(err)
	}
	h.checkVerifies(t, 4, 1, 1)
}

// TestApprovingByPush accepts the proposal as it was fetched, and as it was
// before another person's approval, and nothing else.
func TestApprovingByPush(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	h.target.obedient = true
	h.start(t)
	files := helloFiles("one")
	files["headgate.yaml"] = strings.Replace(helloYAML, "approvals: 1", "approvals: 2", 1)
	if _, err := h.land(t.Context(), version1("ada", "one"), files); err != nil {
		t.Fatal(err)
	}
	p := h.proposed(t, "production", 1)
	first := repoHash(t, p.Proposal)

	tree := repoHash(t, p.Tree)
	forged, err := h.hello.WriteCommit(repo.NewCommit{Tree: tree, At: h.clock.Now(),
		Message: "promote hello to production"})
	if err != nil {
		t.Fatal(err)
	}
	staging, _ := h.hello.Ref(record.EnvironmentRef("staging"))
	for what, commit := range map[string]repo.Hash{"hand-made": forged, "another environment's": staging, "absent": tree} {
		if is, err := h.rc.Proposed(t.Context(), "hello", "production", commit); is || err != nil {
			t.Fatalf("%s is proposed: %v, %v", what, is, err)
		}
		_, _, err := h.rc.ApprovePush(t.Context(), "hello", "production", actor("jun"), commit, "")
		var refused *show.Error
		if !errors.As(err, &refused) || refused.Kind != show.Denied ||
			!strings.Contains(strings.Join(refused.Where, "\n"), p.Proposal[:7]) {
			t.Fatalf("%s: %v", what, err)
		}
	}
	landed, lines, err := h.rc.ApprovePush(t.Context(), "hello", "production", actor("jun"), first, "")
	if err != nil || landed != repo.Zero || len(lines) != 3 || lines[1] != "now waits for 1 approval" {
		t.Fatalf("first approval: %s, %q, %v", landed, lines, err)
	}
	// Again, by the same person: nothing changes.
	before, _ := h.hello.Ref(record.ProposalRef("production"))
	if _, lines, err = h.rc.ApprovePush(t.Context(), "hello", "production", actor("jun"), first, ""); err != nil ||
		!strings.HasPrefix(lines[0], "already approved") {
		t.Fatalf("second time: %q, %v", lines, err)
	}
	if now, _ := h.hello.Ref(record.ProposalRef("production")); now != before {
		t.Fatal("approving twice made a new proposal")
	}
	// Sam fetched before jun approved, and pushes that commit.
	proposed := func() {
		t.Helper()
		if is, err := h.rc.Proposed(t.Context(), "hello", "production", first); !is || err != nil {
			t.Fatalf("what was proposed first: %v, %v", is, err)
		}
	}
	proposed()
	landed, _, err = h.rc.ApprovePush(t.Context(), "hello", "production", actor("sam"), first, "")
	if err != nil {
		t.Fatal(err)
	}
	if tip, _ := h.hello.Ref(record.EnvironmentRef("production")); tip != landed {
		t.Fatalf("landed %s, but env/production is %s", landed, tip)
	}
	if e := h.healthy(t, "production", 1); len(e.History[0].Approvals) != 2 {
		t.Fatalf("approvals: %+v", e.History[0].Approvals)
	}
	// The answer got lost, and sam pushes again.
	proposed()
	if again, lines, err := h.rc.ApprovePush(t.Context(), "hello", "production", actor("sam"), first, ""); err != nil ||
		again != landed || !strings.Contains(lines[0], "already") {
		t.Fatalf("pushed again: %s, %q, %v", again, lines, err)
	}
	h.checkVerifies(t, 2, 0, 2)
}

// TestSoakWakesExactly waits with a real timer for a condition of time.
func TestSoakWakesExactly(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	h.rc.Now, h.target.now = time.Now, time.Now
	h.target.obedient = true
	h.start(t)
	files := helloFiles("one")
	files["headgate.yaml"] = strings.Replace(helloYAML, "approvals: 1", "soak: 2s", 1)
	if _, err := h.land(t.Context(), version1("ada", "one"), files); err != nil {
		t.Fatal(err)
	}
	staging := h.healthy(t, "staging", 1)
	production := h.healthy(t, "production", 1)
	if soaked := production.DeclaredAt.Sub(staging.Since.Truncate(time.Second)); soaked < 2*time.Second {
		t.Fatalf("soaked for %s", soaked)
	}
}

// TestStaleApprovalsAreShownAndDoNotCount: an approved proposal stays though newer
// ones come, until a person chooses one of these.
func TestStaleApprovalsAreShownAndDoNotCount(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	h.target.obedient = true
	h.start(t)
	two := func(version string) map[string]string {
		files := helloFiles(version)
		files["headgate.yaml"] = strings.Replace(helloYAML, "approvals: 1",
			"approvals: {count: 2, own: true, from: release}", 1)
		return files
	}
	if _, err := h.land(t.Context(), version1("ada", "one"), two("one")); err != nil {
		t.Fatal(err)
	}
	old := h.proposed(t, "production", 1)
	h.clock.add(time.Minute)
	var refused *show.Error
	if _, err := h.rc.Approve(t.Context(), "hello", "production", actor("sam"), "", ""); !errors.As(err, &refused) ||
		!strings.Contains(refused.Where[0], "not in the group release") {
		t.Fatalf("sam is not in release: %v", err)
	}
	done, err := h.rc.Approve(t.Context(), "hello", "production", actor("ada"), "", "")
	if err != nil || done.Promoted != repo.Zero || done.Waits != "1 approval" {
		t.Fatalf("own approval: %+v, %v", done, err)
	}
	if p := h.proposed(t, "production", 1); !p.ProposedAt.Equal(old.ProposedAt) || len(p.Approvals) != 1 {
		t.Fatalf("proposed at %s, with one approval more at %s", old.ProposedAt, p.ProposedAt)
	}
	if _, err := h.land(t.Context(), version1("ada", "two"), two("two")); err != nil {
		t.Fatal(err)
	}
	h.healthy(t, "staging", 2)
	if err := h.settled(t); err != nil {
		t.Fatal(err)
	}
	h.proposed(t, "production", 1)
	if _, err := h.rc.Choose(t.Context(), "hello", "production", 2, actor("eve")); !errors.As(err, &refused) ||
		refused.Kind != show.Forbidden {
		t.Fatalf("eve chooses: %v", err)
	}
	if chosen, err := h.rc.Choose(t.Context(), "hello", "production", 2, actor("sam")); err != nil ||
		chosen.Release != 2 || chosen.Promoted != repo.Zero || chosen.Waits != "2 approvals" {
		t.Fatalf("chosen %+v, %v", chosen, err)
	}
	p := h.proposed(t, "production", 2)
	if p.Chosen == nil || p.Chosen.By != "sam" || len(p.Approvals) != 1 || !p.Approvals[0].Stale ||
		p.Approvals[0].Tree != old.Tree {
		t.Fatalf("approvals: %+v", p.Approvals)
	}
	if _, _, err := h.rc.ApprovePush(t.Context(), "hello", "production", actor("jun"), repoHash(t, old.Proposal),
		""); !errors.As(err, &refused) || refused.Kind != show.Denied {
		t.Fatalf("the superseded proposal was taken: %v", err)
	}
	if done, err := h.rc.Approve(t.Context(), "hello", "production", actor("jun"), "", ""); err != nil ||
		done.Promoted != repo.Zero {
		t.Fatalf("one of two: %+v, %v", done, err)
	}
	w, err := h.rc.Why(t.Context(), actor("ada"), "hello", "production")
	if err != nil || !strings.Contains(w.Answer, "release 2 is not in production: it waits for ") || len(w.Next) != 2 {
		t.Fatalf("why: %+v, %v", w, err)
	}
	if done, err := h.rc.Approve(t.Context(), "hello", "production", actor("ada"), "", ""); err != nil ||
		done.Promoted == repo.Zero {
		t.Fatalf("two of two: %+v, %v", done, err)
	}

	// The same yes again is no error, and does nothing; somebody else's is none.
	again, err := h.rc.Approve(t.Context(), "hello", "production", actor("ada"), "", "")
	if err != nil || !again.Repeated || !strings.HasPrefix(again.Sentence, "already approved release 2 for production") {
		t.Fatalf("approved again: %+v, %v", again, err)
	}
	if _, err := h.rc.Approve(t.Context(), "hello", "production", actor("sam"), "", ""); !errors.As(err, &refused) ||
		refused.Kind != show.NotFound {
		t.Fatalf("sam approves what is promoted: %v", err)
	}
	if _, err := h.rc.Approve(t.Context(), "hello", "production", actor("ada"), strings.Repeat("0", 40),
		""); !errors.As(err, &refused) {
		t.Fatalf("ada approves another content: %v", err)
	}
	h.healthy(t, "production", 2)
	h.checkVerifies(t, 3, 0, 2)
}

// TestCoAuthorsAreAuthors: whoever a carried commit names cannot approve it.
func TestCoAuthorsAreAuthors(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	h.target.obedient = true
	h.start(t)
	says := version1("ada", "one")
	says.Author, says.Subject = "jun", "Say one\n\nCo-authored-by: Sam <SAM@example.com>"
	if _, err := h.land(t.Context(), says, helloFiles("one")); err != nil {
		t.Fatal(err)
	}
	if p := h.proposed(t, "production", 1); !p.Stuck || p.Summary != "waits for 1 approval that nobody is there to give" ||
		!strings.HasSuffix(p.WayOut, ", or set own: true under approvals in headgate.yaml") {
		t.Fatalf("nobody may approve: %+v", p)
	}
	for _, who := range []string{"ada", "jun", "sam"} {
		var refused *show.Error
		if _, err := h.rc.Approve(t.Context(), "hello", "production", actor(who), "", ""); !errors.As(err, &refused) ||
			!strings.Contains(refused.Hint, "own: true") {
			t.Fatalf("%s approves: %v", who, err)
		}
	}
}

// TestSameContentNeedsNoPromotion covers releases that change nothing there.
func TestSameContentNeedsNoPromotion(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	h.target.obedient = true
	h.start(t)
	h.release(t, "ada", "one")
	first := h.healthy(t, "staging", 1)
	says := version1("ada", "one")
	if _, err := h.land(t.Context(), says, map[string]string{"README": "read me\n"}); err != nil {
		t.Fatal(err)
	}
	second := h.eventually(t, "staging", "release 2", func(e show.Environment) bool { return e.Release == 2 })
	if second.Declared != first.Declared || second.Commit == first.Commit || second.Behind != 0 {
		t.Fatalf("covered: %+v", second)
	}
	if runs := second.Runs(); !slices.Equal(runs, []int{2}) {
		t.Fatalf("release 2 is declared, and %v run", runs)
	}
	live, err := h.rc.LiveIn(t.Context(), "hello", repoHash(t, second.Commit))
	if err != nil || len(live) != 1 || live[0].Release != 2 || !live[0].Serves {
		t.Fatalf("live in %+v, %v", live, err)
	}
	h.proposed(t, "production", 2)
}

// TestProblemsAreSaid: a release without the folder, and one that does not verify.
func TestProblemsAreSaid(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	h.target.obedient = true
	h.start(t)
	files := helloFiles("one")
	files["headgate.yaml"] = strings.Replace(helloYAML, "path: deploy/staging", "path: deploy/nowhere", 1)
	if _, err := h.land(t.Context(), version1("ada", "one"), files); err != nil {
		t.Fatal(err)
	}
	h.eventually(t, "staging", "explained", func(e show.Environment) bool {
		return e.State == show.Empty && strings.Contains(e.Reason, "no directory deploy/nowhere")
	})
	says := version1("ada", "two")
	says.Unverified = "its provenance names other bytes"
	if _, err := h.land(t.Context(), says, helloFiles("two")); err != nil {
		t.Fatal(err)
	}
	if p := h.proposed(t, "staging", 2); p.Decision != "deny" || !strings.Contains(p.Summary, "provenance") {
		t.Fatalf("promotion: %+v", p)
	}
	if _, err := h.rc.Approve(t.Context(), "hello", "nowhere", actor("jun"), "", ""); err == nil ||
		!strings.Contains(hint(err), "staging, production") {
		t.Fatalf("no such environment: %v", err)
	}
	h.release(t, "ada", "three")
	h.healthy(t, "staging", 3)
}

// TestRestartsChangeNothing stops and starts the reconciler at rest.
func TestRestartsChangeNothing(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	h.target.obedient = true
	stop := h.start(t)
	h.release(t, "ada", "one")
	h.healthy(t, "staging", 1)
	h.proposed(t, "production", 1)
	if err := h.settled(t); err != nil { // the decision about it is saved, too
		t.Fatal(err)
	}
	stop()
	before := allRefs(t, h.hello)
	for range 2 {
		stop := h.start(t)
		h.healthy(t, "staging", 1)
		if err := h.settled(t); err != nil {
			t.Fatal(err)
		}
		stop()
		if after := allRefs(t, h.hello); after != before {
			t.Fatalf("refs before\n%s\nand after\n%s", before, after)
		}
	}
}

// settled makes both environments look once more.
func (h *harness) settled(t *testing.T) error {
	for _, env := range []string{"staging", "production"} {
		var err error
		deadline := time.Now().Add(lastResort)
		for {
			var w *worker
			if w, err = h.rc.worker(h.hello, env); err == nil {
				err = w.on(t.Context(), func(ctx context.Context) error { _, err := w.settle(ctx); return err })
				break
			}
			if time.Now().After(deadline) {
				return err
			}
			time.Sleep(5 * time.Millisecond) // until Run has started it
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func allRefs(t *testing.T, r *repo.Repository) string {
	t.Helper()
	out, err := r.Git(t.Context(), "for-each-ref")
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

func hint(err error) string {
	var e *show.Error
	if errors.As(err, &e) {
		return e.Hint
	}
	return ""
}

const twoApplications = `applications:
  web:
    artifacts: [hello]
    environments:
      web-staging: {target: services}
      web-production: {target: services, after: web-staging, approvals: 1}
  api:
    path: services/api
    artifacts: [api]
    environments:
      api-staging: {target: services}
`

// TestTwoApplications lets two applications of one repository go their own ways:
// environments, directories, artifacts and histories.
func TestTwoApplications(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	h.target.obedient = true
	h.start(t)
	land := func(web, api string) {
		t.Helper()
		says := tagged{By: "ada", Subject: "web " + web + ", api " + api, Artifacts: []record.Artifact{
			{Name: "hello", Digest: "sha256:" + strings.Repeat("a", 60) + web},
			{Name: "api", Digest: "sha256:" + strings.Repeat("b", 60) + api},
		}}
		_, err := h.land(t.Context(), says, map[string]string{
			"headgate.yaml":                                twoApplications,
			"web/deploy/web-staging/compose.yaml":          "services: {web: {command: web " + web + "}}\n",
			"web/deploy/web-production/compose.yaml":       "services: {web: {command: web " + web + "}}\n",
			"services/api/deploy/api-staging/compose.yaml": "services: {api: {command: api " + api + "}}\n",
		})
		if err != nil {
			t.Fatal(err)
		}
	}

	land("one", "one")
	web := h.healthy(t, "web-staging", 1)
	h.healthy(t, "api-staging", 1)
	if web.Application != "web" || web.Repository != "hello" {
		t.Fatalf("staging of web: %+v", web)
	}
	given := h.target.last("web-staging")
	if given.Application != "web" || len(given.Release.Artifacts) != 1 || given.Release.Artifacts["hello"] == "" ||
		len(given.Files) != 1 {
		t.Fatalf("the target was given %+v", given)
	}
	p := h.proposed(t, "web-production", 1)
	if len(p.Files) != 2 || p.Files[0].Path != "apps/web/compose.yaml" ||
		p.Commands[0] != "ssh -p 2222 127.0.0.1 approve hello web-production" {
		t.Fatalf("promotion: %+v", p)
	}
	if _, err := h.rc.Approve(t.Context(), "hello", "web-production", actor("jun"), "", ""); err != nil {
		t.Fatal(err)
	}
	h.healthy(t, "web-production", 1)

	// Only the api changes: that of the web is the same content.
	land("one", "two")
	if api := h.healthy(t, "api-staging", 2); len(api.History) != 2 {
		t.Fatalf("history of the api: %+v", api.History)
	}
	same := h.eventually(t, "web-staging", "release 2", func(e show.Environment) bool { return e.Release == 2 })
	if same.Declared != web.Declared || len(same.History) != 1 {
		t.Fatalf("the web was promoted for nothing: %+v", same)
	}

	// The api goes back; the web does not notice.
	if _, err := h.rc.Rollback(t.Context(), "hello", "api-staging", 1, actor("jun"), "slow"); err != nil {
		t.Fatal(err)
	}
	back := h.healthy(t, "api-staging", 1)
	if back.Held == nil || h.healthy(t, "web-staging", 2).Held != nil {
		t.Fatalf("after the rollback: %+v", back)
	}
	if out, err := h.hello.Git(t.Context(), "ls-tree", "-r", "--name-only", "env/api-staging"); err != nil ||
		string(out) != "apps/api/compose.yaml\napps/api/release.json\nholds/api.json\n" {
		t.Fatalf("env/api-staging holds %s, %v", out, err)
	}
	h.checkVerifies(t, 4, 1, 1)
}

// TestDriftIsDecidedOnce: every release is asked about, and what is recorded is that
// the answer has changed.
func TestDriftIsDecidedOnce(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	h.target.obedient = true
	stop := h.start(t)
	defer stop()
	for _, version := range []string{"one", "two", "six"} {
		h.healthy(t, "staging", h.release(t, "ada", version))
	}
	list, _, err := decision.List(t.Context(), h.hello, repo.Zero, 100)
	if err != nil {
		t.Fatal(err)
	}
	var about []string
	for _, d := range list {
		if d.Query == "converge" {
			about = append(about, d.About)
		}
	}
	if !slices.Equal(about, []string{"drift in staging"}) {
		t.Errorf("decided about drift: %q", about)
	}
}
