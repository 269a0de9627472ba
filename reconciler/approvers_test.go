package reconciler

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/headgate-cd/headgate/gitd/headgateyaml"
	"github.com/headgate-cd/headgate/gitd/repo"
	"github.com/headgate-cd/headgate/gitd/show"
	"github.com/headgate-cd/headgate/policies"
	"github.com/headgate-cd/headgate/reconciler/record"
)

// TestTwoAuthorsApproveTogether: each carried change needs a yes of somebody who
// did not write it, and an environment that is new does not carry all of history.
func TestTwoAuthorsApproveTogether(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	h.target.obedient = true
	h.start(t)
	h.release(t, "sam", "one")
	h.proposed(t, "production", 1)
	h.approve(t, "jun")
	h.healthy(t, "production", 1)
	for i, by := range []string{"ada", "jun", "sam"} {
		n := h.release(t, by, []string{"two", "three", "four"}[i])
		h.healthy(t, "staging", n)
	}
	p := h.proposed(t, "production", 4)
	if len(p.Cover) != 3 || p.Cover[1].What() != "change 3 by jun" ||
		p.Cover[1].Answer() != "1 approval missing, from ada or sam" || p.Stuck {
		t.Fatalf("cover: %+v", p.Cover)
	}

	done, err := h.rc.Approve(t.Context(), "hello", "production", actor("ada"), "", "")
	if err != nil || done.Promoted != repo.Zero || done.Waits != "1 approval" {
		t.Fatalf("ada approves: %+v, %v", done, err)
	}
	w, err := h.rc.Why(t.Context(), actor("jun"), "hello", "production")
	if err != nil || !slices.Contains(w.Facts,
		show.Fact{Label: "approval", Text: "change 2 by ada: 1 approval missing, from jun or sam"}) ||
		!slices.Contains(w.Facts, show.Fact{Label: "approval", Text: "change 3 by jun: yes from ada"}) {
		t.Fatalf("why: %+v, %v", w, err)
	}
	done, err = h.rc.Approve(t.Context(), "hello", "production", actor("jun"), "", "")
	if err != nil || done.Promoted == repo.Zero {
		t.Fatalf("jun approves: %+v, %v", done, err)
	}
	h.healthy(t, "production", 4)

	// What wrote all that is left cannot, and is told what that is.
	h.release(t, "jun", "five")
	h.healthy(t, "staging", 5)
	files := helloFiles("six")
	files["headgate.yaml"] += "  canary: {target: services, path: deploy/staging, after: staging, approvals: 1}\n"
	if _, err := h.land(t.Context(), version1("sam", "six"), files); err != nil {
		t.Fatal(err)
	}
	h.proposed(t, "canary", 6)
	canary, err := h.rc.Promotion(t.Context(), actor("jun"), "hello", "canary")
	if err != nil || len(canary.Cover) != 1 || !slices.Equal(canary.Cover[0].Changes, []int{6}) {
		t.Fatalf("a new environment carries %+v, %v", canary.Cover, err)
	}
	h.proposed(t, "production", 6)
	h.approve(t, "jun")
	var refused *show.Error
	_, err = h.rc.Approve(t.Context(), "hello", "canary", actor("sam"), "", "")
	if !errors.As(err, &refused) ||
		!strings.Contains(refused.Where[0], "carries a change of sam, and nobody approves their own") {
		t.Fatalf("sam approves what is theirs: %v", err)
	}
	h.approve(t, "sam")
	h.healthy(t, "production", 6)
}

// TestCoverIsWhatPoliciesSay: whose yes covers which changes is told from the same
// facts as the policies judge by, and comes to the same.
func TestCoverIsWhatPoliciesSay(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	e, err := engine()
	if err != nil {
		t.Fatal(err)
	}
	names := []string{"ada", "jun", "sam", "eve"}
	rapid.Check(t, func(t *rapid.T) {
		want := headgateyaml.Approvals{
			Count: rapid.IntRange(0, 3).Draw(t, "count"),
			From:  rapid.SampledFrom([]string{"", "release"}).Draw(t, "from"),
			Own:   rapid.Bool().Draw(t, "own"),
		}
		s := &snapshot{repo: h.hello, environment: "production"}
		tree := hashOf("tree")
		s.Proposal = &record.Proposal{Tree: tree}
		s.Proposal.Release = 9
		for _, user := range rapid.SliceOfNDistinct(rapid.SampledFrom(names), 0, 4, rapid.ID).Draw(t, "approvals") {
			s.Proposal.Approvals = append(s.Proposal.Approvals, record.Approval{User: user, Tree: tree})
		}
		a := approvers{rc: h.rc, s: s, own: want.Count == 0 || want.Own}
		r := rules{settings: headgateyaml.Environment{Name: "production", Approvals: want}}
		a.rules = []rules{r}
		for i, authors := range rapid.SliceOfN(rapid.SliceOfNDistinct(rapid.SampledFrom(names), 1, 3, rapid.ID), 1,
			4).Draw(t, "changes") {
			a.carries = append(a.carries, policies.Carried{Changes: []int{i + 1}, Authors: authors})
		}

		in := policies.PromoteInput{
			Now:         h.clock.Now(),
			Environment: r.forPolicy(),
			Release:     policies.ReleaseFact{Number: 9},
			Tree:        tree.String(),
			Carries:     a.carries,
			Candidates:  h.rc.candidates("hello"),
			Verifies:    true,
		}
		for _, yes := range s.Proposal.Approvals {
			in.Approvals = append(in.Approvals, h.rc.approval(s, yes, false))
		}
		answer, _ := e.Promote(context.Background(), in)
		missing := slices.ContainsFunc(a.cover(), func(c show.Cover) bool { return c.Missing > 0 })
		if missing != (answer.Decision != policies.Auto) {
			t.Fatalf("cover says %+v, and policies %s: %s", a.cover(), answer.Decision, answer.Why())
		}
		if !missing {
			return
		}
		if asked, could := a.names(), slices.Sorted(slices.Values(answer.Missing[0].Who)); !slices.Equal(asked, could) {
			t.Fatalf("asked are %v, and policies say %v", asked, could)
		}
		for _, u := range names {
			helps := a.whyNot(actor(u)) == "" && !record.ApprovedBy(s.Proposal.Approvals, u)
			if want.Count > 0 && helps != slices.Contains(a.names(), u) {
				t.Fatal(fmt.Sprintf("%s: %q, and asked are %v", u, a.whyNot(actor(u)), a.names()))
			}
		}
	})
}
