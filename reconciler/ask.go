package reconciler

import (
	"context"
	"fmt"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/headgate-cd/headgate/gitd/decision"
	"github.com/headgate-cd/headgate/gitd/repo"
	"github.com/headgate-cd/headgate/gitd/show"
	"github.com/headgate-cd/headgate/policies"
)

// asked is one answer of policy with what is kept of it.
type asked struct {
	policies.Answer
	at     time.Time
	checks []show.Check
	record decision.Record
}

// askAgain is when a policy that could not answer is asked anew: it may have been
// late only because the machine was busy.
const askAgain = 10 * time.Second

// ask puts the question promote about the open proposal, or about a rollback,
// and leaves the answer in s. A policy that cannot answer denies: the error is
// only for what keeps us from asking.
func (rc *Reconciler) ask(ctx context.Context, s *sight, back *rollbackTarget) error {
	in, about, err := rc.facts(ctx, s, back)
	if err != nil {
		return err
	}
	engine, err := rc.Engine(s.repo, s.tip)
	if err != nil {
		// A broken policy's engine denies and says why; so does no engine at all.
		rc.log().Warn("policy is not usable", "repo", s.repo.Name(), "commit", s.tip.String(), "err", err)
	}
	answer, record := engine.Promote(ctx, in)
	if err := ctx.Err(); err != nil {
		return err // the question was withdrawn; that is not an answer to keep
	}
	s.asked = &asked{Answer: answer, at: s.Now, record: decision.Record{Question: record.Question, About: about,
		Answer: string(answer.Decision), Policy: answer.Policy, Digest: record.Digest(), JSON: record.JSON()}}
	for _, c := range answer.Checks {
		check := show.Check{Rule: c.Rule, Title: c.Title, Met: c.Met, Detail: c.Detail, UntilPerson: c.UntilPerson, Who: c.Who}
		if !c.Until.IsZero() {
			check.Until = c.Until.UTC()
		}
		if u := in.Upstream; c.Rule == "soak" && !c.Met && u != nil && u.Healthy && in.Environment.Soak > 0 {
			check.Progress = min(1, max(0, s.Now.Sub(u.HealthySince).Seconds()/float64(in.Environment.Soak)))
		}
		s.asked.checks = append(s.asked.checks, check)
	}
	s.Answer = &Answer{Decision: answer.Decision, NotBefore: answer.NotBefore}
	if answer.Unanswered() {
		s.Answer.NotBefore = s.Now.Add(askAgain)
	}
	if back == nil {
		s.Answer.Proposal = s.Proposal.Commit
	}
	return nil
}

// open are the conditions not met, a line each.
func (a *asked) open() []string {
	var lines []string
	for _, c := range a.checks {
		if !c.Met {
			lines = append(lines, strings.TrimSuffix(c.Title+": "+c.Detail, ": "))
		}
	}
	return lines
}

// summary says in one line what the open proposal waits for.
func (s *sight) summary() string {
	a := s.asked
	if a.Decision == policies.Auto {
		if s.Wanted != nil && s.Wanted.Release == s.Proposal.Release && mayMove(s.View) {
			return "is being promoted"
		}
		return "waits for " + s.blocked()
	}
	verb := "waits for "
	var parts []string
	for _, c := range a.Checks {
		switch {
		case c.Met:
			continue
		case a.Decision == policies.Deny && !c.Denied:
			continue // what denies is what matters
		case c.Denied:
			verb = "is denied: "
			parts = append(parts, or(c.Detail, c.Title))
			continue
		}
		switch c.Rule {
		case "approvals":
			n := 0
			for _, m := range a.Missing {
				n = max(n, m.Count)
			}
			parts = append(parts, fmt.Sprintf("%d approval%s", n, plural(n)))
		case "soak":
			parts = append(parts, "soak")
		case "after":
			parts = append(parts, s.settings.After+" to be healthy with it")
		case "hold":
			parts = append(parts, "a person to lift the hold")
		default:
			parts = append(parts, lowerFirst(c.Title))
		}
	}
	if n := len(parts); n > 1 {
		return verb + strings.Join(parts[:n-1], ", ") + " and " + parts[n-1]
	}
	return verb + strings.Join(parts, "")
}

// blocked is what stands in the way although policy allows the promotion.
func (s *sight) blocked() string {
	switch {
	case s.Wanted != nil && s.Wanted.Unproven:
		return "a release that verifies"
	case s.Declared != nil && s.Declared.Held && len(s.Proposal.Approvals) == 0:
		return "a person to lift the hold"
	case s.Upstream != nil && !s.Upstream.Healthy:
		return s.Upstream.Name + " to be healthy"
	}
	return "the next look at " + s.environment
}

func lowerFirst(s string) string {
	r, n := utf8.DecodeRuneInString(s)
	return string(unicode.ToLower(r)) + s[n:]
}

func or(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}

// decisionTrailer is how a promotion names the decision that allowed it.
func decisionTrailer(a *asked, saved repo.Hash) string {
	return fmt.Sprintf("%s %s %s", a.Decision, decision.ID(saved), saved)
}

// recentDecisions bounds how far back savedBefore looks.
const recentDecisions = 100

// savedBefore finds the record of this very answer, if it is the newest about
// the same thing: after a restart nothing is news that was known before.
func savedBefore(r *repo.Repository, a *asked) (repo.Hash, error) {
	at, err := r.Ref(decision.Ref)
	if err != nil {
		return repo.Zero, err
	}
	subject := a.record.Question + ": " + a.record.About + ": "
	for range recentDecisions {
		if at == repo.Zero {
			break
		}
		c, err := r.Commit(at)
		if err != nil {
			return repo.Zero, err
		}
		if strings.HasPrefix(c.Message, subject) {
			if repo.TrailerValue(c.Message, "Digest") == a.record.Digest {
				return at, nil
			}
			break
		}
		at = repo.Zero
		if len(c.ParentHashes) > 0 {
			at = c.ParentHashes[0]
		}
	}
	return repo.Zero, nil
}
