package reconciler

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/headgate-cd/headgate/gitd/decision"
	"github.com/headgate-cd/headgate/gitd/repo"
	"github.com/headgate-cd/headgate/gitd/show"
	"github.com/headgate-cd/headgate/policies"
	"github.com/headgate-cd/headgate/reconciler/record"
)

// evaluation is an answer of policy with what is kept of it.
type evaluation struct {
	policies.Answer
	at      time.Time
	checks  []show.Check
	records []decision.Record // the first is by what is declared now
	changes []show.RuleChange // that the proposal brings
}

// digest names the answers.
func (e *evaluation) digest() string {
	var all []string
	for _, r := range e.records {
		all = append(all, r.Digest)
	}
	return strings.Join(all, " ")
}

// retryUnanswered is when a policy that could not answer is evaluated again: it
// may have been late only because the machine was busy.
const retryUnanswered = 10 * time.Second

// evaluate asks the query promote about the open proposal, by each of the rules
// that judge it, and leaves the strictest answer in s. A policy that cannot answer
// denies: the error is only for what keeps us from asking.
func (rc *Reconciler) evaluate(ctx context.Context, s *snapshot) error {
	all, err := rc.rulesFor(s, s.Proposal.Source)
	if err != nil {
		return err
	}
	e := &evaluation{at: s.Now, changes: ruleChanges(all)}
	var answers []policies.Answer
	unanswered := false
	for _, r := range all {
		in, err := rc.promoteInput(ctx, s, r)
		if err != nil {
			return err
		}
		answer, rec := r.engine.Promote(ctx, in)
		if err := ctx.Err(); err != nil {
			return err // the question was withdrawn; that is not an answer to keep
		}
		about := fmt.Sprintf("release %d to %s", s.Proposal.Release, s.environment)
		if s.Proposal.Removal {
			about = "removal of " + s.environment
		}
		if len(all) > 1 {
			about += " by the rules of what is " + string(r.origin)
		}
		answers, e.records = append(answers, answer), append(e.records, recordOf(rec, about))
		unanswered = unanswered || answer.Unanswered()
	}
	e.Answer = strictest(answers)
	e.checks = s.shown(e.Checks)
	if len(e.changes) > 0 {
		e.checks = append(e.checks, show.Check{
			Rule:   "rules",
			Title:  "Judged by the rules before it and by its own",
			Met:    true,
			Detail: "it changes " + join(changed(e.changes)),
		})
	}

	s.evaluated = e
	s.Decision = &Decision{Proposal: s.Proposal.Commit, Result: e.Decision, NotBefore: e.NotBefore}
	if unanswered {
		s.Decision.NotBefore = s.Now.Add(retryUnanswered)
	}
	return nil
}

// evaluateRollback asks the query rollback about going back to a commit. The way
// out must not depend on policies that are broken or slow: then the default ones
// decide, which is on record.
func (rc *Reconciler) evaluateRollback(ctx context.Context, s *snapshot, to record.Commit, by policies.User,
	reason string) error {
	in := rc.rollbackInput(s, to, by, reason)
	about := fmt.Sprintf("rollback of %s to release %d by %s", s.environment, to.Release, by.Name)
	answer, rec := rc.engineAt(s.repo, s.branchTip).Rollback(ctx, in)
	if answer.Unanswered() {
		rc.log().Warn("policy does not say whether to roll back, the default decides", "repo", s.repo.Name(), "env",
			s.environment, "reason", answer.Why())
		byDefault, err := rc.Engine(s.repo, repo.Zero)
		if err != nil {
			return err
		}
		answer, rec = byDefault.Rollback(ctx, in)
		about += ", by the default policy"
	}
	if err := ctx.Err(); err != nil {
		return err // as above
	}
	s.evaluated = &evaluation{Answer: answer, at: s.Now, checks: s.shown(answer.Checks),
		records: []decision.Record{recordOf(rec, about)}}
	return nil
}

// shown are a policy's conditions for people.
func (s *snapshot) shown(conditions []policies.Condition) []show.Check {
	var checks []show.Check
	for _, c := range conditions {
		check := show.Check{
			Rule:        c.Rule,
			Title:       c.Title,
			Met:         c.Met,
			Detail:      c.Detail,
			UntilPerson: c.UntilPerson,
			Who:         c.Who,
		}
		if !c.Until.IsZero() {
			check.Until = c.Until.UTC()
		}
		if u := s.Upstream; c.Rule == "soak" && !c.Met && u != nil && s.Soak > 0 {
			check.Progress = min(1, u.Standing(s.proposedRelease()).After(s.Now).Seconds()/s.Soak.Seconds())
		}
		checks = append(checks, check)
	}
	return checks
}

func changed(changes []show.RuleChange) []string {
	var all []string
	for _, c := range changes {
		all = append(all, fmt.Sprintf("%s from %s to %s", c.Rule, c.Was, c.Is))
	}
	return all
}

// evaluateDrift asks the query converge: may drift from what is declared be
// healed, or is it to be reported only?
func (rc *Reconciler) evaluateDrift(ctx context.Context, s *snapshot) (*evaluation, error) {
	answer, rec := rc.engineAt(s.repo, s.branchTip).Converge(ctx, policies.ConvergeInput{
		Now:         s.Now.UTC(),
		Repository:  s.repo.Name(),
		Environment: s.environment,
		Release:     s.Declared.Release,
	})
	if err := ctx.Err(); err != nil {
		return nil, err // as above
	}
	about := "drift in " + s.environment
	return &evaluation{Answer: answer, at: s.Now, records: []decision.Record{recordOf(rec, about)}}, nil
}

// recordOf is what is kept of a decision.
func recordOf(rec policies.Record, about string) decision.Record {
	return decision.Record{
		Query:  rec.Query,
		About:  about,
		Answer: string(rec.Answer.Decision),
		Policy: rec.Answer.Policy,
		Digest: rec.Digest(),
		JSON:   rec.JSON(),
	}
}

// stuck reports whether approvals are missing that nobody is there to give.
func (e *evaluation) stuck() bool {
	return slices.ContainsFunc(e.Missing, func(m policies.Missing) bool { return m.Count > len(m.Who) })
}

// open are the conditions not met, a line each.
func (e *evaluation) open() []string {
	var lines []string
	for _, c := range e.checks {
		if !c.Met {
			lines = append(lines, strings.TrimSuffix(c.Title+": "+c.Detail, ": "))
		}
	}
	return lines
}

// wait is what the open proposal waits for, or what denies it: phrases without a
// verb. Without any it is being promoted.
type wait struct {
	denied bool
	on     []string
}

func (w wait) String() string {
	switch {
	case len(w.on) == 0:
		return "is being promoted"
	case w.denied:
		return "is denied: " + join(w.on)
	}
	return "waits for " + join(w.on)
}

// waits is what the evaluated proposal waits for.
func (s *snapshot) waits() wait {
	e := s.evaluated
	if e.Decision == policies.Auto {
		if s.Wanted != nil && s.Wanted.Release == s.Proposal.Release && mayMove(s.View) {
			return wait{}
		}
		return wait{on: []string{s.blocked()}}
	}

	w := wait{denied: e.Decision == policies.Deny}
	for _, c := range e.Checks {
		switch {
		case c.Met || w.denied && !c.Denied: // what denies is what matters
		case c.Denied:
			w.on = append(w.on, cmp.Or(c.Detail, c.Title))
		case c.Rule == "approvals":
			n := 0
			for _, m := range e.Missing {
				n = max(n, m.Count)
			}
			text := fmt.Sprintf("%d approval%s", n, plural(n))
			if e.stuck() {
				text += " that nobody is there to give"
			}
			w.on = append(w.on, text)
		case c.Rule == "soak":
			w.on = append(w.on, "soak")
		case c.Rule == "after":
			w.on = append(w.on, s.settings.After+" to be healthy with it")
		case c.Rule == "hold":
			w.on = append(w.on, "a person to lift the hold")
		default:
			w.on = append(w.on, lowerFirst(c.Title))
		}
	}
	return w
}

// blocked is what stands in the way although policy allows the promotion.
func (s *snapshot) blocked() string {
	switch {
	case s.Wanted != nil && s.Wanted.Unproven:
		return "a release that verifies"
	case s.held() && len(s.Proposal.Approvals) == 0:
		return "a person to lift the hold"
	case s.Upstream != nil && !s.Upstream.Standing(s.Proposal.Release).Healthy:
		return s.Upstream.Name + " to be healthy"
	}
	return "the next look at " + s.environment
}
