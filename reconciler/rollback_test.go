package reconciler

import (
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/headgate-cd/headgate/gitd/decision"
	"github.com/headgate-cd/headgate/gitd/repo"
	"github.com/headgate-cd/headgate/gitd/show"
	"github.com/headgate-cd/headgate/policies"
	"github.com/headgate-cd/headgate/reconciler/record"
	"github.com/headgate-cd/headgate/reconciler/target"
)

// refused rolls back and expects a refusal that says all of want.
func (h *harness) refused(t *testing.T, release int, want ...string) {
	t.Helper()
	before, _ := h.hello.Ref(record.EnvironmentRef("staging"))
	_, err := h.rc.Rollback(t.Context(), "hello", "staging", release, actor("jun"), "")
	var refused *show.Error
	if !errors.As(err, &refused) {
		t.Fatalf("rollback to %d: %v", release, err)
	}
	said := refused.What + "\n" + strings.Join(refused.Where, "\n") + "\n" + refused.Hint + "\n" + refused.Command
	for _, w := range want {
		if !strings.Contains(said, w) {
			t.Errorf("rollback to %d says\n%s\nand not %q", release, said, w)
		}
	}
	if after, _ := h.hello.Ref(record.EnvironmentRef("staging")); after != before {
		t.Errorf("rollback to %d was refused and moved staging to %s", release, after)
	}
}

// TestRollbackNeverGoesForward: what was rolled back comes again by approval only,
// and is not what people are advised to go back to.
func TestRollbackNeverGoesForward(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	h.target.obedient = true
	h.start(t)
	for i, version := range []string{"one", "two", "six"} {
		h.release(t, "ada", version)
		h.healthy(t, "staging", i+1)
	}
	if _, err := h.rc.Rollback(t.Context(), "hello", "staging", 2, actor("jun"), ""); err != nil {
		t.Fatal(err)
	}
	e := h.healthy(t, "staging", 2)
	if e.History[1].Release != 3 || e.History[1].MayRollback ||
		!strings.Contains(e.History[1].WhyNot, "newer than what is declared") {
		t.Fatalf("history: %+v", e.History)
	}
	h.proposed(t, "staging", 3)
	h.refused(t, 3, "it is newer than what is declared now", "approve hello staging")
	if _, err := h.rc.Reject(t.Context(), "hello", "staging", actor("jun"), "", ""); err != nil {
		t.Fatal(err)
	}
	h.refused(t, 3, "it is newer than what is declared now", "promote hello staging 3")
	h.refused(t, 0, "the last healthy one is 1")

	// Forward again, by approval; what was rolled back once is not advised then.
	h.release(t, "ada", "ten")
	h.proposed(t, "staging", 4)
	if _, err := h.rc.Approve(t.Context(), "hello", "staging", actor("jun"), "", ""); err != nil {
		t.Fatal(err)
	}
	if e := h.healthy(t, "staging", 4); e.RollbackTo != 2 {
		t.Errorf("its page offers release %d to go back to", e.RollbackTo)
	}
	h.refused(t, 0, "the last healthy one is 2")
}

// TestRollbackIsAQueryOfItsOwn: neither a freeze nor a policy that is broken closes
// the way out; a rule about rollbacks does.
func TestRollbackIsAQueryOfItsOwn(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		rego, refused string
		byDefault     bool
	}{
		"freeze": {rego: "package headgate.promote\n\ndeny contains {\"rule\": \"freeze\", \"msg\": \"frozen until Monday\"}\n"},
		"broken": {rego: "package headgate.promote\n\ndeny contains x if", byDefault: true},
		"rule": {
			rego:    "package headgate.rollback\n\nneed contains {\"rule\": \"reason\", \"msg\": \"say why, with --reason\"} if input.reason == \"\"\n",
			refused: "say why, with --reason",
		},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHarness(t)
			h.target.obedient = true
			var mu sync.Mutex
			text := ""
			h.rc.Engine = func(_ *repo.Repository, tip repo.Hash) (*policies.Engine, error) {
				mu.Lock()
				defer mu.Unlock()
				if text == "" || tip == repo.Zero {
					return engine()
				}
				return policies.New(map[string][]byte{"policies/own.rego": []byte(text)})
			}
			h.start(t)
			h.release(t, "ada", "one")
			h.healthy(t, "staging", 1)
			h.release(t, "ada", "two")
			h.healthy(t, "staging", 2)
			mu.Lock()
			text = c.rego
			mu.Unlock()

			if c.refused != "" {
				h.refused(t, 1, "policy does not allow", c.refused)
			}
			if _, err := h.rc.Rollback(t.Context(), "hello", "staging", 1, actor("jun"), "5xx"); err != nil {
				t.Fatal(err)
			}
			h.healthy(t, "staging", 1)
			list, _, err := decision.List(t.Context(), h.hello, repo.Zero, 100)
			if err != nil {
				t.Fatal(err)
			}
			about := "rollback of staging to release 1 by jun"
			if c.byDefault {
				about += ", by the default policy"
			}
			if !slices.ContainsFunc(list,
				func(d decision.Saved) bool { return d.Query == "rollback" && d.Answer == "auto" && d.About == about }) {
				t.Fatalf("no decision about %s among %+v", about, list)
			}
		})
	}
}

// TestNothingMovesToBytesThatAreGone: a rollback to a release whose artifact is
// gone is refused before Git moves, and such a release is not promoted.
func TestNothingMovesToBytesThatAreGone(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	h.target.obedient = true
	var mu sync.Mutex
	lost := ""
	h.rc.Artifact = func(digest string) bool {
		mu.Lock()
		defer mu.Unlock()
		return lost == "" || !strings.HasSuffix(digest, lost)
	}
	h.start(t)
	h.release(t, "ada", "one")
	h.healthy(t, "staging", 1)
	h.release(t, "ada", "two")
	h.healthy(t, "staging", 2)
	mu.Lock()
	lost = "one"
	mu.Unlock()
	h.refused(t, 1, "the bytes of artifact hello", "nothing has moved", "restore the artifact from a backup")

	mu.Lock()
	lost = "six"
	mu.Unlock()
	h.release(t, "ada", "six")
	e := h.eventually(t, "staging", "explained", func(e show.Environment) bool { return e.Behind == 1 })
	w, err := h.rc.Why(t.Context(), actor("jun"), "hello", "staging")
	if err != nil || e.Release != 2 || e.Promotion != nil ||
		!strings.Contains(w.Answer, "the bytes of an artifact of release 3 are not on this server") {
		t.Fatalf("staging: %+v, why: %+v, %v", e, w, err)
	}
}

// TestItRollsBackByItself: what its deployment gives up is rolled back by a commit that
// says why, with a hold, before the target is given anything else; and only
// once: what was rolled back to and fails as well is left to people.
func TestItRollsBackByItself(t *testing.T) {
	t.Parallel()
	const why = "web: release 2 failed 3 times: web-3 exited 1"
	h := newHarness(t)
	h.target.obedient = true
	h.start(t)
	h.release(t, "ada", "one")
	h.healthy(t, "staging", 1)
	h.target.mu.Lock()
	h.target.obedient = false
	h.target.mu.Unlock()

	h.release(t, "ada", "two")
	h.eventually(t, "staging", "given",
		func(show.Environment) bool { return h.target.last("staging").Release.Number == 2 })
	h.target.giveUp("staging", why)
	e := h.eventually(t, "staging", "rolled back",
		func(e show.Environment) bool { return e.Release == 1 && len(e.History) == 3 })
	if e.Held == nil || e.Held.By != record.Automatic || !strings.Contains(e.Held.Reason, "exited 1") {
		t.Errorf("held: %+v", e.Held)
	}
	if b := e.History[0]; !b.Rollback || b.By != record.Automatic || e.History[1].Outcome != show.Failed {
		t.Errorf("history: %+v", e.History)
	}
	message, err := h.hello.Git(t.Context(), "log", "-1", "--format=%B", record.EnvironmentRef("staging"))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"rollback hello in staging to release 1", `Reason: "` + why + `"`,
		"Trigger: (deployment)", "Hold: hello until promoted forward", "Decision: auto"} {
		if !strings.Contains(string(message), want) {
			t.Errorf("the commit says\n%s\nand not %q", message, want)
		}
	}
	list, _, err := decision.List(t.Context(), h.hello, repo.Zero, 100)
	if err != nil || !slices.ContainsFunc(list, func(d decision.Saved) bool {
		return d.Query == "rollback" && d.About == "rollback of staging to release 1 by (deployment)"
	}) {
		t.Errorf("decisions: %+v %v", list, err)
	}

	// What was rolled back to fails as well: that is for people.
	h.eventually(t, "staging", "given",
		func(show.Environment) bool { return h.target.last("staging").Release.Number == 1 })
	h.target.giveUp("staging", "web: release 1 failed 3 times: web-4 exited 1")
	e = h.eventually(t, "staging", "failed", func(e show.Environment) bool { return e.State == show.Failed })
	if len(e.History) != 3 {
		t.Errorf("history: %+v", e.History)
	}
}

// TestPauseReachesTheTarget: what people say to a deployment is on record with its
// commit, and given to the target, also by the next process; who may not write may not.
func TestPauseReachesTheTarget(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	h.target.obedient = true
	h.start(t)
	h.release(t, "ada", "one")
	h.healthy(t, "staging", 1)
	var refused *show.Error
	if _, _, err := h.rc.Pause(t.Context(), "hello", "staging", actor("eve"), ""); !errors.As(err, &refused) ||
		refused.Kind != show.Forbidden {
		t.Errorf("%v", err)
	}
	if _, err := h.rc.Continue(t.Context(), "hello", "staging", actor("jun")); !errors.As(err, &refused) ||
		refused.Kind != show.Denied {
		t.Errorf("%v", err)
	}
	if _, over, err := h.rc.Pause(t.Context(), "hello", "staging", actor("jun"), "let us look"); err != nil || !over {
		t.Fatalf("paused a deployment that was over: %t, %v", over, err)
	}
	if !h.target.last("staging").Paused {
		t.Error("the target was not told of the pause")
	}
	tip, err := h.hello.Ref(record.EnvironmentRef("staging"))
	if err != nil {
		t.Fatal(err)
	}
	if o, err := record.OutcomeOf(h.hello, tip); err != nil || o.Paused == nil || o.Paused.By != "jun" ||
		o.Paused.Reason != "let us look" {
		t.Errorf("noted: %+v %v", o, err)
	}

	h.target.mu.Lock()
	report := h.target.reports["staging"]
	report.Waits = "people"
	h.target.reports["staging"] = report
	h.target.mu.Unlock()
	if _, err := h.rc.Continue(t.Context(), "hello", "staging", actor("jun")); err != nil {
		t.Fatal(err)
	}
	if d := h.target.last("staging"); d.Paused || !slices.Equal(d.Continued, []string{"people"}) {
		t.Errorf("the target was told %+v", d.Steer)
	}
}

// stepwise is a target that deploys to one host after the other.
type stepwise struct{ *fakeTarget }

func (stepwise) Steps(target.Key) error { return nil }

// TestStopRetrySkip: what people say to a deployment to hosts is on record with its commit and
// given to the target, with what was noted of the try before; other targets do not know it.
func TestStopRetrySkip(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	h.rc.Targets["services"] = stepwise{h.target}
	h.start(t)
	h.release(t, "ada", "one")
	h.eventually(t, "staging", "given", func(show.Environment) bool { return h.target.last("staging").Sequence > 0 })
	var refused *show.Error
	denied := func(what string, err error, kind show.Kind, why string) {
		t.Helper()
		if !errors.As(err, &refused) || refused.Kind != kind || !strings.Contains(refused.What, why) {
			t.Errorf("%s: %v", what, err)
		}
	}
	ctx, rc := t.Context(), h.rc
	other := &snapshot{repo: h.hello, environment: "staging"}
	denied("another target", rc.steps(other), show.Denied, "does not deploy to one host after the other")
	_, err := rc.Stop(ctx, "hello", "staging", actor("eve"), "")
	denied("who may not write", err, show.Forbidden, "")
	_, err = rc.Retry(ctx, "hello", "staging", "", actor("jun"))
	denied("nothing failed", err, show.Denied, "nothing has failed")
	_, err = rc.Skip(ctx, "hello", "staging", "db", actor("jun"))
	denied("another host", err, show.Denied, "db is not one of its hosts")

	if _, err := rc.Stop(ctx, "hello", "staging", actor("jun"), "it is\nslow"); err != nil {
		t.Fatal(err)
	}
	if d := h.target.last("staging"); d.Stopped != "stopped by jun: it is slow" || d.GaveUp != "" {
		t.Errorf("the target was told %+v", d.Steer)
	}
	_, err = rc.Continue(ctx, "hello", "staging", actor("jun"))
	denied("continue what was stopped", err, show.Denied, "was stopped")

	h.target.report("staging", target.Failed, "stopped by jun: it is slow")
	h.eventually(t, "staging", "noted", func(e show.Environment) bool {
		return e.History[0].Outcome == show.Failed && e.Stopped != nil && e.Stepwise
	})
	if _, err = rc.Skip(ctx, "hello", "staging", "web", actor("jun")); err != nil {
		t.Fatal(err)
	}
	h.target.report("staging", target.Failed, "again")
	if _, err = rc.Retry(ctx, "hello", "staging", "web", actor("jun")); err != nil {
		t.Fatal(err)
	}
	d := h.target.last("staging")
	if d.Stopped != "" || len(d.Skipped) != 0 || d.Retried["web"] != 1 || d.Retried[""] != 2 || d.GaveUp != "" {
		t.Errorf("the target was told %+v", d)
	}
	tip, err := h.hello.Ref(record.EnvironmentRef("staging"))
	if err != nil {
		t.Fatal(err)
	}
	if o, err := record.OutcomeOf(h.hello, tip); err != nil || o.State != target.Failed || o.Attempt != 0 ||
		o.Retried["web"] != 1 || o.Stopped != nil || o.GaveUp() != "" {
		t.Errorf("noted: %+v %v", o, err)
	}
}

// TestWhatPolicyDeniesStaysFailed: a policy may keep what has failed for people to look at.
func TestWhatPolicyDeniesStaysFailed(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	h.target.obedient = true
	h.rc.Engine = func(*repo.Repository, repo.Hash) (*policies.Engine, error) {
		return policies.New(map[string][]byte{"policies/own.rego": []byte(
			"package headgate.rollback\n\ndeny contains {\"rule\": \"people\", \"msg\": \"people decide\"} if input.user.name == \"(deployment)\"\n",
		)})
	}
	h.start(t)
	h.release(t, "ada", "one")
	h.healthy(t, "staging", 1)
	h.release(t, "ada", "two")
	h.healthy(t, "staging", 2)
	h.target.giveUp("staging", "alarm errors: 1 is above 0")
	h.eventually(t, "staging", "decided", func(e show.Environment) bool {
		list, _, err := decision.List(t.Context(), h.hello, repo.Zero, 100)
		return err == nil && e.State == show.Failed && slices.ContainsFunc(list, func(d decision.Saved) bool {
			return d.Query == "rollback" && d.Answer == "deny"
		})
	})
	if e := h.eventually(t, "staging", "there", func(show.Environment) bool { return true }); e.Release != 2 ||
		e.Held != nil {
		t.Errorf("%+v", e)
	}
	if _, err := h.rc.Rollback(t.Context(), "hello", "staging", 1, actor("jun"), "I have looked at it"); err != nil {
		t.Fatal(err)
	}
	h.healthy(t, "staging", 1)
}
