package gate

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/headgate-cd/headgate/gitd/access"
	"github.com/headgate-cd/headgate/gitd/decision"
	"github.com/headgate-cd/headgate/gitd/repo"
	"github.com/headgate-cd/headgate/policies"
)

// AskPolicies answers Config.Ask with the policies of the tip that a change
// would land on, never those of the change. engine compiles (or remembers) the
// policies of a commit, Zero for a repository without one; config has the rights
// of now, by which a pusher is judged.
func AskPolicies(
	engine func(r *repo.Repository, tip repo.Hash) (*policies.Engine, error),
	config func() *access.Config,
) func(context.Context, Question) (Answer, error) {
	return func(ctx context.Context, q Question) (Answer, error) {
		e, err := engine(q.Repository, q.Tip)
		if e == nil {
			return Answer{}, fmt.Errorf("compile the policies of %s at %s: %w", q.Repository.Name(), q.Tip, err)
		}
		// An engine that could not be compiled denies, and says why.
		head := q.Change.Head()
		standing := config().Standing(access.Recorded(head.By), q.Repository.Name())
		if fromForge(head) && given(head, OptionLand) {
			standing.MayRead, standing.MayWrite = true, true // there; it was asked when they said so
		}
		a, rec := e.Land(ctx, policies.LandInput{
			Now: q.Now.UTC(), Repository: q.Repository.Name(), Own: q.Repository.Name() == Own, Branch: q.Branch,
			Change: q.Change.Number, Revision: head.Number, User: policies.User(standing),
			Commit: head.Commit.String(), Candidate: q.Candidate.String(), Tree: q.Tree.String(),
			Verdict: policies.Verdict{Result: string(q.Verdict.Result), Tree: q.Tree.String(), Key: q.Verdict.Key},
		})
		answer := Answer{Decision: string(a.Decision), NotBefore: a.NotBefore}
		for _, r := range a.Reasons {
			answer.Reasons = append(answer.Reasons, r.String())
			if r.At.File != "" && a.Decision == policies.Deny {
				answer.Hint = wayOut(q.Repository.Name())
			}
			if !slices.Contains(answer.Rules, r.Rule) {
				answer.Rules = append(answer.Rules, r.Rule)
			}
		}
		for _, m := range a.Missing {
			from := "anybody who may write"
			if m.Group != "" {
				from = m.Group
			}
			line := many(m.Count, "approval") + " from " + from
			if len(m.Who) > 0 {
				line += " (" + strings.Join(m.Who, ", ") + ")"
			}
			answer.Missing = append(answer.Missing, line)
		}
		answer.Record = decision.Record{
			Query:  rec.Query,
			About:  fmt.Sprintf("change %d to refs/heads/%s", q.Change.Number, q.Branch),
			Answer: string(a.Decision), Policy: a.Policy, Digest: rec.Digest(), JSON: rec.JSON(),
		}
		return answer, nil
	}
}

// wayOut is what an administrator can do where the rules of a repository deny that
// they are changed.
func wayOut(repository string) string {
	const why = "a change of " + policies.Dir + "/ is judged by what has landed; "
	if repository == Own {
		return why + "whoever has the server's machine can drop the rules there, on record: headgate serve --drop-own-policies"
	}
	return why + "an administrator can let the rules of the repository's own rest meanwhile: ssh host repo set " +
		repository + " policies=off"
}
