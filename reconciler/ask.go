package reconciler

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
	"time"

	"github.com/headgate-cd/headgate/gitd/decision"
	"github.com/headgate-cd/headgate/gitd/repo"
	"github.com/headgate-cd/headgate/gitd/show"
)

// asked is one answer of policy with all that is kept and shown of it.
type asked struct {
	at        time.Time
	decision  Decision
	notBefore time.Time
	policy    string // digest of the modules that answered
	checks    []show.Check
	record    decision.Record
	key       string // equal for answers that differ only in time
}

// rollbackTarget is what ask is about when it is not about the open proposal.
type rollbackTarget struct {
	to     declaration
	by     show.Actor
	reason string
}

// ask puts the question promote about the open proposal, or about a rollback,
// and leaves the answer in s. A policy that cannot answer denies: the error is
// only for what keeps us from asking.
func (rc *Reconciler) ask(ctx context.Context, s *sight, back *rollbackTarget) error {
	q, err := rc.facts(ctx, s, back)
	if err != nil {
		return err
	}
	s.asked = rc.answer(ctx, s, q)
	s.Answer = &Answer{Decision: s.asked.decision, NotBefore: s.asked.notBefore}
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

// settleKey names an answer without the instant it was given.
func (a *asked) settleKey(about string) string {
	parts := []string{about, string(a.decision), a.policy, a.notBefore.UTC().Format(time.RFC3339)}
	for _, c := range a.checks {
		parts = append(parts, fmt.Sprintf("%s %t", c.Rule, c.Met))
	}
	sum := sha256.Sum256([]byte(strings.Join(parts, "\x00")))
	return hex.EncodeToString(sum[:])
}

// decisionTrailer is how a promotion names the decision that allowed it.
func decisionTrailer(a *asked, saved repo.Hash) string {
	return fmt.Sprintf("%s %s %s", a.decision, decision.ID(saved), saved)
}

// recentDecisions bounds how far back alreadySaved looks.
const recentDecisions = 100

// alreadySaved reports whether the newest record about the same thing says the
// same already: after a restart nothing is news that was known before.
func alreadySaved(r *repo.Repository, a *asked) (bool, error) {
	at, err := r.Ref(decision.Ref)
	if err != nil {
		return false, err
	}
	subject := a.record.Question + ": " + a.record.About + ": "
	for range recentDecisions {
		if at == repo.Zero {
			return false, nil
		}
		c, err := r.Commit(at)
		if err != nil {
			return false, err
		}
		if strings.HasPrefix(c.Message, subject) {
			return repo.Subject(c.Message) == subject+a.record.Answer &&
				repo.TrailerValue(c.Message, "Policy") == a.record.Policy, nil
		}
		at = repo.Zero
		if len(c.ParentHashes) > 0 {
			at = c.ParentHashes[0]
		}
	}
	return false, nil
}
