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

// TestRejected: a person's no is a record, and that release is not proposed again,
// after a restart neither, until somebody chooses it.
func TestRejected(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	h.target.obedient = true
	stop := h.start(t)
	h.release(t, "ada", "one")
	h.proposed(t, "production", 1)
	h.approve(t, "jun")
	h.healthy(t, "production", 1)
	h.release(t, "ada", "two")
	h.healthy(t, "staging", 2)
	p := h.proposed(t, "production", 2)
	if !p.MayReject {
		t.Fatalf("jun may not reject: %+v", p)
	}

	var refused *show.Error
	for who, kind := range map[string]show.Kind{"eve": show.Forbidden, "": show.Forbidden} {
		if _, err := h.rc.Reject(t.Context(), "hello", "production", actor(who), "", ""); !errors.As(err, &refused) ||
			refused.Kind != kind {
			t.Fatalf("%q rejects: %v", who, err)
		}
	}
	narrow := access.Identity{User: "jun", Via: access.ViaToken, Scope: access.Scope{Highest: access.Write}}
	if _, err := h.rc.Reject(t.Context(), "hello", "production", narrow, "", ""); !errors.As(err, &refused) ||
		refused.Kind != show.Forbidden {
		t.Fatalf("a token to write rejects: %v", err)
	}
	if _, _, err := h.rc.ApprovePush(t.Context(), "hello", "production", narrow, repoHash(t, p.Proposal),
		""); !errors.As(err, &refused) ||
		refused.Kind != show.Forbidden || !strings.Contains(refused.Where[0], "a token made with --approve") {
		t.Fatalf("a token to write approves: %v", err)
	}
	if _, err := h.rc.Reject(t.Context(), "hello", "production", actor("jun"), strings.Repeat("0", 40),
		""); !errors.As(err, &refused) || refused.Kind != show.Denied {
		t.Fatalf("another tree: %v", err)
	}
	if what := "the proposal for production is not tree " + strings.Repeat("0", 40); refused.What != what ||
		refused.Command != "promotion diff hello production" {
		t.Errorf("another tree: %+v", refused)
	}
	for tree, what := range map[string]string{
		"main": `"main" is not a tree`,
		"123":  `tree "123" is too short to tell contents apart`,
	} {
		_, err := h.rc.Approve(t.Context(), "hello", "production", actor("jun"), tree, "")
		if !errors.As(err, &refused) || refused.Kind != show.Usage || refused.What != what {
			t.Errorf("approve --tree %s: %v", tree, err)
		}
	}
	if _, err := h.rc.Choose(t.Context(), "hello", "production", 1, actor("jun")); !errors.As(err, &refused) ||
		refused.What != "release 1 is what production declares already" || refused.Command != "" {
		t.Errorf("what is declared is chosen: %v", err)
	}
	done, err := h.rc.Reject(t.Context(), "hello", "production", actor("jun"), p.Tree[:10], "the fee\nis wrong")
	if err != nil || done.Release != 2 || done.Next != 0 {
		t.Fatalf("rejected %+v, %v", done, err)
	}

	gone := func() show.Environment {
		t.Helper()
		return h.eventually(t, "production", "without a proposal",
			func(e show.Environment) bool { return e.Promotion == nil })
	}
	e := gone()
	if then := done.Then("ssh host", "hello", "production"); then !=
		"it is not proposed again until somebody says so: ssh host promote hello production 2" {
		t.Errorf("then: %s", then)
	}
	// Jun approved release 1 once; a yes now is to what was rejected, and there is nothing to say yes to.
	if _, err := h.rc.Approve(t.Context(), "hello", "production", actor("jun"), "", ""); !errors.As(err, &refused) ||
		refused.Kind != show.NotFound || !strings.Contains(refused.Where[0], "release 2 was rejected by jun") {
		t.Errorf("approved after it was rejected: %v", err)
	}
	if len(e.Rejected) != 1 || e.Rejected[0].By != "jun" || e.Rejected[0].Reason != "the fee is wrong" ||
		e.Rejected[0].Release != 2 {
		t.Fatalf("rejections: %+v", e.Rejected)
	}
	out, err := h.hello.Git(t.Context(), "log", "-1", "--format=%s%n%b", e.Rejected[0].Commit)
	if err != nil || !strings.Contains(string(out), "reject release 2 of hello for production") ||
		!strings.Contains(string(out), "Rejected-by: jun") {
		t.Fatalf("the record is %s, %v", out, err)
	}
	kind, raw, err := h.hello.Raw(done.Commit)
	if err != nil {
		t.Fatal(err)
	}
	if err := (repo.Signers{h.store.Signer().PublicKey()}).VerifyObject(kind, raw); err != nil {
		t.Fatalf("the record: %v", err)
	}
	again, err := h.rc.Reject(t.Context(), "hello", "production", actor("jun"), "", "")
	if err != nil || !again.Repeated ||
		again.Sentence("production", "jun") != "already rejected release 2 for production, as jun" {
		t.Fatalf("once more: %+v, %v", again, err)
	}

	stop()
	h.start(t)
	h.healthy(t, "staging", 2)
	if err := h.settled(t); err != nil {
		t.Fatal(err)
	}
	gone()
	w, err := h.rc.Why(t.Context(), actor("jun"), "hello", "production")
	if err != nil || !strings.Contains(w.Answer, "release 2 was rejected by jun") ||
		!strings.Contains(w.Next[0], "promote hello production 2") {
		t.Fatalf("why: %+v, %v", w, err)
	}
	if _, err := h.rc.Approve(t.Context(), "hello", "production", actor("sam"), "", ""); !errors.As(err, &refused) ||
		!strings.Contains(refused.Where[0], "the fee is wrong") {
		t.Fatalf("approved: %v", err)
	}

	// Chosen, it is judged like any other; rejected by a push, it is gone again.
	if _, err := h.rc.Choose(t.Context(), "hello", "production", 2, actor("sam")); err != nil {
		t.Fatal(err)
	}
	p = h.proposed(t, "production", 2)
	if _, err := h.rc.RejectPush(t.Context(), "hello", "production", actor("jun"), done.Commit, ""); !errors.As(err,
		&refused) || refused.Kind != show.Denied {
		t.Fatalf("a push of another commit: %v", err)
	}
	lines, err := h.rc.RejectPush(t.Context(), "hello", "production", actor("ada"), repoHash(t, p.Proposal), "still")
	if err != nil || len(lines) != 2 || lines[0] != "rejected release 2 for production, as ada" {
		t.Fatalf("by push: %q, %v", lines, err)
	}
	gone()

	// What is newer is proposed, and says what was rejected before it.
	h.release(t, "ada", "three")
	h.proposed(t, "production", 3)
	h.approve(t, "jun")
	h.healthy(t, "production", 3)
	all, err := record.Rejections(h.hello, "production")
	if err != nil || len(all) != 2 || all[0].Reason != "still" || all[0].Via != "push" ||
		all[1].Reason != "the fee is wrong" {
		t.Fatalf("rejections: %+v, %v", all, err)
	}
	h.checkVerifies(t, 5, 0, 2)
}

// TestChosen: any release that is newer than what is declared can be chosen, and
// goes where it is allowed to.
func TestChosen(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	h.target.obedient = true
	h.start(t)
	for _, version := range []string{"one", "two", "three"} {
		n := h.release(t, "ada", version)
		h.healthy(t, "staging", n)
	}
	h.proposed(t, "production", 3)
	var refused *show.Error
	if _, err := h.rc.Choose(t.Context(), "hello", "production", 9, actor("jun")); !errors.As(err, &refused) ||
		refused.Kind != show.NotFound {
		t.Fatalf("a release that is not there: %v", err)
	}
	if _, err := h.rc.Choose(t.Context(), "hello", "production", 2, actor("jun")); err != nil {
		t.Fatal(err)
	}
	if p := h.proposed(t, "production", 2); p.Chosen.By != "jun" {
		t.Fatalf("chosen: %+v", p)
	}
	h.approve(t, "sam")
	h.healthy(t, "production", 2)
	h.proposed(t, "production", 3)
	if _, err := h.rc.Choose(t.Context(), "hello", "production", 1, actor("jun")); !errors.As(err, &refused) ||
		!strings.Contains(refused.What, "going back is a rollback") || refused.Command != "rollback hello production 1" {
		t.Fatalf("an older one: %v", err)
	}
	h.checkVerifies(t, 4, 0, 1)
}
