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
	case c.branch != "" && c.ref == forPrefix+c.branch:
		in.Class = policies.ClassProposal
	case c.branch != "":
		in.Class = policies.ClassGated
	}
	return in
}

// decide asks the policies about every command of the push and keeps the
// decisions, whatever they are, before anything follows from them. It returns
// a refusal for each that is not allowed, by the command's place.
func (v *validation) decide(ctx context.Context, commands []acceptedCommand) (map[int]*rejection, error) {
	records := make([]decision.Record, len(commands))
	denied := map[int]policies.Answer{}
	for i, c := range commands {
		engine, err := v.l.Engine(v.r, c.policiesAt)
		if engine == nil {
			return nil, fmt.Errorf("read the policies of %s: %w", v.r.Name(), err)
		}
		if err != nil {
			v.l.Log.Warn("policies are broken and deny everything", "repo", v.r.Name(), "commit", c.policiesAt.String(), "err", err)
		}
		answer, record := engine.Push(ctx, v.input(c))
		if answer.Decision != policies.Auto {
			denied[i] = answer
		}
		records[i] = decision.Record{
			Query:  record.Query,
			About:  c.ref + " by " + v.push.actor.User,
			Answer: string(answer.Decision),
			Policy: answer.Policy,
			Digest: record.Digest(),
			JSON:   record.JSON(),
		}
	}
	crash.Point("push.deciding")
	saved, err := decision.SaveAll(ctx, v.r, v.l.Now(), records)
	if err != nil {
		return nil, err
	}
	crash.Point("push.decided")
	rejections := map[int]*rejection{}
	for i := range commands {
		commands[i].decision = saved[i]
		if answer, is := denied[i]; is {
			rejections[i] = denial(commands[i], answer)
		}
	}
	return rejections, nil
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
