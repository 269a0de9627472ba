package receive

import (
	"context"
	"fmt"

	"github.com/headgate-cd/headgate/gitd/access"
	"github.com/headgate-cd/headgate/gitd/crash"
	"github.com/headgate-cd/headgate/gitd/decision"
	"github.com/headgate-cd/headgate/gitd/repo"
	"github.com/headgate-cd/headgate/policies"
)

// Engine is the policies of a repository as they stand at the commit tip; Zero
// is the server's own alone. When the repository's are broken it returns an
// engine that denies everything, and why.
type Engine func(r *repo.Repository, tip repo.Hash) (*policies.Engine, error)

// input is what the policies are told about one command.
func (v *validation) input(c acceptedCommand) policies.PushInput {
	in := policies.PushInput{
		Now:        v.l.Now(),
		Repository: v.r.Name(),
		Own:        v.r.Name() == access.Own,
		Ref:        c.ref,
		Class:      policies.ClassPlain,
		User:       policies.User(v.access.Standing(v.push.actor, v.r.Name())),
		Key:        v.push.key,
		Old:        c.old.String(),
		New:        c.new.String(),
		Create:     c.old == repo.Zero,
		Delete:     c.deletes(),
		Force:      c.force,
	}
	switch {
	case c.action == approve:
		in.Class, in.Approval = policies.ClassEnvironment, c.isPromotion
	case c.action == turnDown:
		in.Class, in.Rejection = policies.ClassEnvironment, c.isPromotion
	case c.branch != "" && c.ref == forPrefix+c.branch:
		in.Class = policies.ClassProposal
	case c.branch != "":
		in.Class = policies.ClassGated
	}
	return in
}

// decide asks the policies about every command of the push, also about one that
// is refused already (who tried belongs to the record), and keeps the decisions
// before anything follows from them. A command that is not allowed becomes unfit.
func (v *validation) decide(ctx context.Context, commands []acceptedCommand) error {
	records := make([]decision.Record, 0, len(commands))
	results := make([]*policies.Answer, len(commands))
	for i, c := range commands {
		if c.misnamed {
			continue
		}
		engine, err := v.l.Engine(v.r, c.policiesAt)
		if engine == nil {
			return fmt.Errorf("read the policies of %s: %w", v.r.Name(), err)
		}
		if err != nil {
			v.l.Log.Warn("policies are broken and deny everything", "repo", v.r.Name(), "commit",
				c.policiesAt.String(), "err", err)
		}
		answer, record := engine.Push(ctx, v.input(c))
		results[i] = &answer
		records = append(records, decision.Record{
			Query:  record.Query,
			About:  c.ref + " by " + v.push.actor.User,
			Answer: string(answer.Decision),
			Policy: answer.Policy,
			Digest: record.Digest(),
			JSON:   record.JSON(),
		})
	}
	if len(records) == 0 {
		return nil
	}
	crash.Point("push.deciding")
	saved, err := decision.SaveAll(ctx, v.r, v.l.Now(), records)
	if err != nil {
		return err
	}
	crash.Point("push.decided")

	for i := range commands {
		c := &commands[i]
		if results[i] == nil {
			continue
		}
		c.decision, saved = saved[0], saved[1:]
		if results[i].Decision != policies.Auto && c.unfit == nil {
			c.unfit = denial(*c, *results[i])
		}
	}
	return nil
}

// denial tells the pusher what the policies said.
func denial(c acceptedCommand, a policies.Answer) *rejection {
	r := &rejection{Hint: "ask an administrator, and name the decision: " + decision.ID(c.decision)}
	for _, reason := range a.Reasons {
		r.Where = append(r.Where, reason.Rule+": "+reason.Message)
	}
	switch {
	case len(a.Reasons) == 1:
		r.What, r.Where = a.Reasons[0].Message, []string{"ref " + c.ref + ", policy " + a.Reasons[0].Rule}
	case a.Decision == policies.Manual:
		r.What = c.ref + " waits for what a push cannot wait for"
	default:
		r.What = "the policies do not allow this push to " + c.ref
	}
	return r
}
