package reconciler

import (
	"errors"
	"strings"
	"testing"

	"github.com/headgate-cd/headgate/gitd/access"
	"github.com/headgate-cd/headgate/gitd/repo"
	"github.com/headgate-cd/headgate/gitd/show"
	"github.com/headgate-cd/headgate/reconciler/record"
)

const stagingOnly = "environments:\n  staging: {target: services, path: deploy/staging}\n"

// TestRemovalIsAPromotionOfNothing: an environment that headgate.yaml does not name
// any more goes on until somebody else than who removed it says yes. Its history
// stays, and it can come back.
func TestRemovalIsAPromotionOfNothing(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	h.target.obedient = true
	stop := h.start(t)
	h.release(t, "jun", "one")
	h.proposed(t, "production", 1)
	h.approve(t, "sam")
	before := h.healthy(t, "production", 1)

	if _, err := h.land(t.Context(), version1("ada", "one"), map[string]string{"headgate.yaml": stagingOnly}); err != nil {
		t.Fatal(err)
	}
	e := h.eventually(t, "production", "about to leave",
		func(e show.Environment) bool { return e.Promotion != nil && e.Promotion.Removal })
	if err := h.settled(t); err != nil {
		t.Fatal(err)
	}
	if e.State != show.Healthy || e.Declared != before.Declared || h.target.last("production").Commit != before.Declared {
		t.Fatalf("one deleted line stopped production: %+v", e)
	}
	if !strings.Contains(e.Reason, "until its removal is promoted") || e.Promotion.Decision != "manual" {
		t.Fatalf("production: %+v", e)
	}
	w, err := h.rc.Why(t.Context(), actor("jun"), "hello", "production")
	if err != nil || !strings.Contains(w.Answer, "production is to be removed: the removal waits for 1 approval") {
		t.Fatalf("why: %+v, %v", w, err)
	}
	var refused *show.Error
	if _, err := h.rc.Approve(t.Context(), "hello", "production", actor("ada"), "", ""); !errors.As(err, &refused) ||
		!strings.Contains(refused.Where[0], "the removal carries a change of ada") {
		t.Fatalf("ada approves: %v", err)
	}

	done, err := h.rc.Approve(t.Context(), "hello", "production", actor("jun"), "", "")
	if err != nil || done.Promoted == repo.Zero ||
		!strings.Contains(done.Sentence, "approved the removal for production") {
		t.Fatalf("approve: %+v, %v", done, err)
	}
	gone := h.eventually(t, "production", "empty",
		func(e show.Environment) bool { return e.State == show.Empty && e.Promotion == nil })
	if h.target.last("production").Commit != "" {
		t.Fatal("it still runs")
	}
	if len(gone.History) != 2 || gone.History[0].Subject != "removed" || gone.History[1].Release != 1 ||
		gone.History[1].MayRollback {
		t.Fatalf("history: %+v", gone.History)
	}
	all, err := h.rc.Environments(t.Context(), access.Identity{}, "hello")
	if err != nil || len(all) != 1 || all[0].Name != "staging" {
		t.Fatalf("environments: %+v, %v", all, err)
	}

	// A restart brings nothing back; headgate.yaml does.
	stop()
	stop = h.start(t)
	if h.target.last("production").Commit != "" {
		t.Fatal("a restart brought it back")
	}
	again := helloFiles("two")
	if _, err := h.land(t.Context(), version1("jun", "two"), again); err != nil {
		t.Fatal(err)
	}
	h.proposed(t, "production", 3)
	h.approve(t, "sam")
	if back := h.healthy(t, "production", 3); len(back.History) != 3 {
		t.Fatalf("history: %+v", back.History)
	}
	stop()
	releases, err := taggedReleases(h.hello)
	if err != nil {
		t.Fatal(err)
	}
	v, err := record.Verify(t.Context(), h.hello, repo.Signers{h.store.Signer().PublicKey()}, releases)
	if err != nil || len(v.Findings) > 0 || v.Approvals != 3 {
		t.Fatalf("verified %+v, %v", v, err)
	}
}
