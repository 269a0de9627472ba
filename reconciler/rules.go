package reconciler

import (
	"cmp"
	"slices"
	"strconv"
	"time"

	"github.com/headgate-cd/headgate/gitd/headgateyaml"
	"github.com/headgate-cd/headgate/gitd/repo"
	"github.com/headgate-cd/headgate/gitd/show"
	"github.com/headgate-cd/headgate/policies"
)

// rules are what a promotion is judged by: an environment's settings and the
// policies, as a landed commit has them.
type rules struct {
	origin   origin
	commit   repo.Hash
	settings headgateyaml.Environment
	upstream *Upstream // of settings; nil: it comes after none
	engine   *policies.Engine
}

// origin is where rules come from.
type origin string

// The origins, in the order in which they are asked.
const (
	ofDeclared origin = "declared" // what the environment declares now
	ofProposed origin = "proposed" // the release that is proposed
	ofLanded   origin = "landed"   // the tip of the gated branch
)

// rulesFor are the rules that a promotion of a landed commit is judged by. All
// of them must allow it. Nobody can loosen, in one push, the rules that judge that
// push: what is declared now goes on judging until the change of rules has itself
// been promoted, which a release that is merely covered has not. What has landed
// judges too, so that stricter rules hold at once.
func (rc *Reconciler) rulesFor(s *snapshot, proposed repo.Hash) ([]rules, error) {
	var all []rules
	if s.Declared != nil && !s.Declared.Removal {
		all = append(all, rules{origin: ofDeclared, commit: s.Declared.Source})
	}
	all = append(all, rules{origin: ofProposed, commit: proposed}, rules{origin: ofLanded, commit: s.branchTip})

	var distinct []rules
	for _, r := range all {
		if err := rc.loadRules(s, &r); err != nil {
			return nil, err
		}
		if !slices.ContainsFunc(distinct, r.equal) {
			distinct = append(distinct, r)
		}
	}
	return distinct, nil
}

func (rc *Reconciler) loadRules(s *snapshot, r *rules) error {
	file, err := rc.fileAt(s.repo, r.commit)
	if err != nil {
		return err
	}
	settings, _ := s.settingsIn(file) // those of today where it was not there
	if settings.After != "" && settings.After != s.settings.After {
		landed, err := rc.fileAt(s.repo, s.branchTip)
		if err != nil {
			return err
		}
		if settings.After, err = rc.nameNow(s.repo, landed, settings.After); err != nil {
			return err
		}
		if _, there := landed.Environment(settings.After); !there {
			// It was to come after an environment that is no more. Nothing can meet that
			// any longer: a person decides instead.
			settings.After, settings.Soak = "", 0
			settings.Approvals.Count = max(1, settings.Approvals.Count)
		}
	}
	r.settings = settings
	if r.upstream, err = rc.upstreamOf(s, settings.After); err != nil {
		return err
	}
	r.engine = rc.engineAt(s.repo, r.commit)
	return nil
}

// equal reports whether two rules judge alike.
func (r rules) equal(o rules) bool {
	return r.settings.After == o.settings.After && r.settings.Soak == o.settings.Soak &&
		r.settings.Approvals == o.settings.Approvals && policyDigest(r.engine) == policyDigest(o.engine)
}

// forPolicy is what policy is told of the settings.
func (r rules) forPolicy() policies.Environment {
	return policies.Environment{
		Name:  r.settings.Name,
		After: r.settings.After,
		Soak:  int64((r.settings.Soak + time.Second - 1) / time.Second), // a policy counts whole seconds
		Approvals: policies.Approvals{
			Count: r.settings.Approvals.Count,
			From:  r.settings.Approvals.From,
			Own:   r.settings.Approvals.Own,
		},
	}
}

// strictest joins what several rules answer: all of them must be content. A
// condition that several have is told once.
func strictest(answers []policies.Answer) policies.Answer {
	joined := policies.Answer{Decision: policies.Auto, Policy: answers[0].Policy}
	rank := []policies.Decision{policies.Auto, policies.Manual, policies.Deny}
	final := false
	for _, a := range answers {
		if slices.Index(rank, a.Decision) > slices.Index(rank, joined.Decision) {
			joined.Decision = a.Decision
		}
		final = final || a.Decision == policies.Deny && a.NotBefore.IsZero()
		if a.NotBefore.After(joined.NotBefore) {
			joined.NotBefore = a.NotBefore
		}
		for _, r := range a.Reasons {
			if !slices.Contains(joined.Reasons, r) {
				joined.Reasons = append(joined.Reasons, r)
			}
		}
		for _, w := range a.Warnings {
			if !slices.Contains(joined.Warnings, w) {
				joined.Warnings = append(joined.Warnings, w)
			}
		}
		joined.Missing = joinMissing(joined.Missing, a.Missing)
		joined.Checks = joinChecks(joined.Checks, a.Checks)
	}
	if final {
		joined.NotBefore = time.Time{} // waiting does not help
	}
	return joined
}

// joinMissing asks a group for as many approvals as the one who asks for most.
func joinMissing(all, more []policies.Missing) []policies.Missing {
	for _, m := range more {
		i := slices.IndexFunc(all, func(a policies.Missing) bool { return a.Group == m.Group })
		switch {
		case i < 0:
			all = append(all, m)
		case all[i].Count < m.Count:
			all[i] = m
		}
	}
	return all
}

// joinChecks keeps of a rule what is open, and of equal ones one.
func joinChecks(all, more []policies.Condition) []policies.Condition {
	for _, c := range more {
		i := slices.IndexFunc(all, func(a policies.Condition) bool {
			return a.Rule == c.Rule &&
				(a.Title == c.Title || a.Met || c.Met)
		})
		switch {
		case i < 0:
			all = append(all, c)
		case all[i].Met && !c.Met:
			all[i] = c
		}
	}
	return all
}

// ruleChanges are how the rules of a proposal differ from those that hold.
func ruleChanges(all []rules) []show.RuleChange {
	if len(all) == 0 || all[0].origin != ofDeclared {
		return nil
	}
	i := slices.IndexFunc(all, func(r rules) bool { return r.origin == ofProposed })
	if i < 0 {
		return nil
	}

	was, is := all[0], all[i]
	var changes []show.RuleChange
	add := func(rule, was, is string) {
		if was != is {
			changes = append(changes, show.RuleChange{Rule: rule, Was: was, Is: is})
		}
	}
	add("after", cmp.Or(was.settings.After, "none"), cmp.Or(is.settings.After, "none"))
	add("soak", was.settings.Soak.String(), is.settings.Soak.String())
	a, b := was.settings.Approvals, is.settings.Approvals
	add("approvals", strconv.Itoa(a.Count), strconv.Itoa(b.Count))
	add("approvals from", cmp.Or(a.From, "who may write"), cmp.Or(b.From, "who may write"))
	add("approval of one's own change", allowed(a.Own), allowed(b.Own))
	if policyDigest(was.engine) != policyDigest(is.engine) {
		add("policies/", show.Short(was.commit.String()), show.Short(is.commit.String()))
	}
	return changes
}

func allowed(yes bool) string {
	if yes {
		return "allowed"
	}
	return "not allowed"
}

// upstreamOf reads the environment that one comes after, nil for none.
func (rc *Reconciler) upstreamOf(s *snapshot, after string) (*Upstream, error) {
	switch {
	case after == "":
		return nil, nil
	case s.Upstream != nil && s.Upstream.Name == after:
		return s.Upstream, nil
	}
	file, err := rc.fileAt(s.repo, s.branchTip)
	if err != nil {
		return nil, err
	}
	u := &Upstream{Name: after}
	if before, ok := file.Environment(after); ok {
		u.Observed = observedOf(rc.observed(before, s.keyIn(after)))
	}
	return u, u.loadHistory(s, after)
}

// engineAt holds the policies of a landed commit. A broken policy's engine denies
// and says why; so does no engine at all.
func (rc *Reconciler) engineAt(r *repo.Repository, commit repo.Hash) *policies.Engine {
	engine, err := rc.Engine(r, commit)
	if err != nil {
		rc.log().Warn("policy is not usable", "repo", r.Name(), "commit", commit.String(), "err", err)
	}
	return engine
}

// policyDigest names the policies of an engine, of which there may be none.
func policyDigest(e *policies.Engine) string {
	if e == nil {
		return ""
	}
	return e.Digest()
}
