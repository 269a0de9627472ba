package reconciler

import (
	"cmp"
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/headgate-cd/headgate/gitd/decision"
	"github.com/headgate-cd/headgate/gitd/show"
	"github.com/headgate-cd/headgate/policies"
)

// evaluation is one answer of policy with what is kept of it.
type evaluation struct {
	policies.Answer
	at     time.Time
	checks []show.Check
	record decision.Record
}

// retryUnanswered is when a policy that could not answer is evaluated again: it
// may have been late only because the machine was busy.
const retryUnanswered = 10 * time.Second

// evaluate asks the query promote about the open proposal, or about a rollback,
// and leaves the answer in s. A policy that cannot answer denies: the error is
// only for what keeps us from asking.
func (rc *Reconciler) evaluate(ctx context.Context, s *snapshot, back *rollbackTarget) error {
	in, about, err := rc.promoteInput(ctx, s, back)
	if err != nil {
		return err
	}
	answer, rec := rc.engine(s).Promote(ctx, in)
	if err := ctx.Err(); err != nil {
		return err // the question was withdrawn; that is not an answer to keep
	}

	s.evaluated = &evaluation{Answer: answer, at: s.Now, record: recordOf(rec, about)}
	for _, c := range answer.Checks {
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
		if u := in.Upstream; c.Rule == "soak" && !c.Met && u != nil && u.Healthy && in.Environment.Soak > 0 {
			check.Progress = min(1, max(0, s.Now.Sub(u.HealthySince).Seconds()/float64(in.Environment.Soak)))
		}
		s.evaluated.checks = append(s.evaluated.checks, check)
	}
	s.Decision = &Decision{Result: answer.Decision, NotBefore: answer.NotBefore}
	if answer.Unanswered() {
		s.Decision.NotBefore = s.Now.Add(retryUnanswered)
	}
	if back == nil {
		s.Decision.Proposal = s.Proposal.Commit
	}
	return nil
}

// engine holds the policies that judge an environment. A broken policy's engine
// denies and says why; so does no engine at all.
func (rc *Reconciler) engine(s *snapshot) *policies.Engine {
	engine, err := rc.Engine(s.repo, s.branchTip)
	if err != nil {
		rc.log().Warn("policy is not usable", "repo", s.repo.Name(), "commit", s.branchTip.String(), "err", err)
	}
	return engine
}

// evaluateDrift asks the query converge: may drift from what is declared be
// healed, or is it to be reported only?
func (rc *Reconciler) evaluateDrift(ctx context.Context, s *snapshot) (*evaluation, error) {
	answer, rec := rc.engine(s).Converge(ctx, policies.ConvergeInput{
		Now:         s.Now.UTC(),
		Repository:  s.repo.Name(),
		Environment: s.environment,
		Release:     s.Declared.Release,
	})
	if err := ctx.Err(); err != nil {
		return nil, err // as above
	}
	about := fmt.Sprintf("drift of release %d in %s", s.Declared.Release, s.environment)
	return &evaluation{Answer: answer, at: s.Now, record: recordOf(rec, about)}, nil
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
			w.on = append(w.on, fmt.Sprintf("%d approval%s", n, plural(n)))
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
	case s.Upstream != nil && !s.Upstream.Healthy():
		return s.Upstream.Name + " to be healthy"
	}
	return "the next look at " + s.environment
}
