package reconciler

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/headgate-cd/headgate/gitd/repo"
	"github.com/headgate-cd/headgate/gitd/show"
	"github.com/headgate-cd/headgate/policies"
	"github.com/headgate-cd/headgate/reconciler/record"
)

// ownPolicies compiles policies/own.rego of a commit, as the server does.
func ownPolicies(r *repo.Repository, commit repo.Hash) (*policies.Engine, error) {
	tree, err := r.TreeOf(commit)
	if err != nil {
		return nil, err
	}
	data, err := r.File(tree, "policies/own.rego")
	if errors.Is(err, repo.ErrNoFile) || len(data) == 0 {
		return engine()
	}
	if err != nil {
		return nil, err
	}
	return policies.New(map[string][]byte{"policies/own.rego": data})
}

// twoYeses is a policy of a repository's own.
const twoYeses = `package headgate.promote

need contains {"rule": "pair", "msg": "two people look at production", "count": 1} if {
	input.environment.name == "production"
	count(input.approvals) < 2
}
`

// withApprovals is helloYAML with another line about approvals.
func withApprovals(of string) string { return strings.Replace(helloYAML, "approvals: 1", of, 1) }

// TestRulesHoldUntilTheirChangeWasPromoted: whoever loosens the rules together
// with the code is judged by those before.
func TestRulesHoldUntilTheirChangeWasPromoted(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]struct {
		files map[string]string
		want  show.RuleChange
	}{
		"own approval": {map[string]string{"headgate.yaml": withApprovals("approvals: {count: 1, own: true}")},
			show.RuleChange{Rule: "approval of one's own change", Was: "not allowed", Is: "allowed"}},
		"no approval": {map[string]string{"headgate.yaml": withApprovals("approvals: 0")},
			show.RuleChange{Rule: "approvals", Was: "1", Is: "0"}},
		"another group": {map[string]string{"headgate.yaml": withApprovals("approvals: {count: 1, from: release}")},
			show.RuleChange{Rule: "approvals from", Was: "who may write", Is: "release"}},
		"no order": {map[string]string{"headgate.yaml": strings.Replace(helloYAML, ", after: staging, approvals: 1", "", 1)},
			show.RuleChange{Rule: "after", Was: "staging", Is: "none"}},
		"no policy": {map[string]string{"policies/own.rego": ""}, show.RuleChange{Rule: "policies/"}},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHarness(t)
			h.target.obedient = true
			h.rc.Engine = ownPolicies
			h.start(t)
			files := helloFiles("one")
			if name == "no policy" {
				files["policies/own.rego"] = twoYeses
			}
			if _, err := h.land(t.Context(), version1("ada", "one"), files); err != nil {
				t.Fatal(err)
			}
			h.proposed(t, "production", 1)
			h.approve(t, "jun")
			if name == "no policy" {
				h.approve(t, "sam")
			}
			h.healthy(t, "production", 1)

			loosened := helloFiles("two")
			for path, content := range change.files {
				loosened[path] = content
			}
			if _, err := h.land(t.Context(), version1("ada", "two"), loosened); err != nil {
				t.Fatal(err)
			}
			p := h.proposed(t, "production", 2)
			if err := h.settled(t); err != nil {
				t.Fatal(err)
			}
			if p.Decision != "manual" || len(p.Rules) == 0 || p.Rules[0].Rule != change.want.Rule ||
				change.want.Is != "" && p.Rules[0] != change.want ||
				!strings.Contains(fmt.Sprint(p.Checks), "it changes "+change.want.Rule) {
				t.Fatalf("promotion: %+v", p)
			}
			var refused *show.Error
			if _, err := h.rc.Approve(t.Context(), "hello", "production", actor("ada"), "", ""); !errors.As(err, &refused) ||
				refused.Kind != show.Forbidden {
				t.Fatalf("ada approves her own change of rules: %v", err)
			}
			h.approve(t, "jun")
			if name == "no policy" {
				h.approve(t, "sam")
			}
			h.healthy(t, "production", 2)

			if name == "own approval" { // now the change holds
				loosened["deploy/production/more.conf"] = "more\n"
				if _, err := h.land(t.Context(), version1("ada", "six"), loosened); err != nil {
					t.Fatal(err)
				}
				h.proposed(t, "production", 3)
				h.approve(t, "ada")
				h.healthy(t, "production", 3)
			}
			releases, err := taggedReleases(h.hello)
			if err != nil {
				t.Fatal(err)
			}
			v, err := record.Verify(t.Context(), h.hello, repo.Signers{h.store.Signer().PublicKey()}, releases)
			if err != nil || len(v.Findings) > 0 || v.Decisions != v.Promotions {
				t.Fatalf("verified %+v, %v", v, err)
			}
		})
	}
}

// approve approves what is open for production.
func (h *harness) approve(t *testing.T, who string) {
	t.Helper()
	if _, err := h.rc.Approve(t.Context(), "hello", "production", actor(who), "", ""); err != nil {
		t.Fatalf("%s approves: %v", who, err)
	}
}

// TestCoveredReleaseChangesNoRules: a release that needs no promotion brings no
// rules into force, and who wrote them wrote part of the next promotion.
func TestCoveredReleaseChangesNoRules(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	h.target.obedient = true
	h.start(t)
	h.release(t, "jun", "one")
	h.proposed(t, "production", 1)
	h.approve(t, "sam")
	h.healthy(t, "production", 1)

	loosened := map[string]string{"headgate.yaml": withApprovals("approvals: {count: 1, own: true}")}
	if _, err := h.land(t.Context(), tagged{By: "ada", Subject: "Rules", Artifacts: version1("", "one").Artifacts},
		loosened); err != nil {
		t.Fatal(err)
	}
	h.eventually(t, "production", "covering release 2", func(e show.Environment) bool { return e.Release == 2 })

	files := helloFiles("three")
	files["headgate.yaml"] = loosened["headgate.yaml"]
	if _, err := h.land(t.Context(), version1("jun", "three"), files); err != nil {
		t.Fatal(err)
	}
	h.proposed(t, "production", 3)
	// Each of the two vouches for the other's only, and sam for both.
	done, err := h.rc.Approve(t.Context(), "hello", "production", actor("ada"), "", "")
	if err != nil || done.Promoted != repo.Zero {
		t.Fatalf("ada approves her own rules: %+v, %v", done, err)
	}
	p, err := h.rc.Promotion(t.Context(), actor("jun"), "hello", "production")
	if err != nil || len(p.Cover) != 2 || p.Cover[0].Missing != 1 || p.Cover[0].Authors[0] != "ada" ||
		p.Cover[1].Missing != 0 {
		t.Fatalf("cover: %+v, %v", p.Cover, err)
	}
	h.approve(t, "sam")
	h.healthy(t, "production", 3)
}
