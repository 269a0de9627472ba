package receive

import (
	"context"
	"fmt"

	"github.com/headgate-cd/headgate/gitd/crash"
	"github.com/headgate-cd/headgate/gitd/decision"
	"github.com/headgate-cd/headgate/gitd/repo"
	"github.com/headgate-cd/headgate/gitd/yamlfile"
)

// Check finds what is wrong with the files of a tree that is to be landed:
// buildspecs, compose files. files are those that headgate.yaml names, and the
// YAML files at the top.
type Check func(files map[string][]byte) yamlfile.Problems

// Question is what the policies are asked about one ref of a push.
type Question struct {
	Repository string
	Ref        string
	Action     string // create, update, force, delete, propose, approve
	User       string
	Groups     []string
	Admin      bool
	MayWrite   bool
	Gated      bool
}

// Answer is what they said, with the record to keep of it.
type Answer struct {
	Decision string // auto, manual, deny
	Reasons  []string
	Record   decision.Record
}

// Judge asks the policies of a repository as they stand at tip; Zero is the
// server's own policies alone.
type Judge func(ctx context.Context, r *repo.Repository, tip repo.Hash, q Question) (Answer, error)

// judge asks about one command and keeps the decision, whatever it is, before
// anything follows from it.
func (l *Listener) judge(ctx context.Context, r *repo.Repository, tip repo.Hash, q Question) (repo.Hash, *refusal, error) {
	a, err := l.Judge(ctx, r, tip, q)
	if err != nil {
		return repo.Zero, nil, fmt.Errorf("ask the policy about %s: %w", q.Ref, err)
	}
	crash.Point("push.deciding")
	saved, err := decision.Save(ctx, r, l.Now(), a.Record)
	if err != nil {
		return repo.Zero, nil, err
	}
	crash.Point("push.decided")
	if a.Decision == "auto" {
		return saved, nil, nil
	}
	return saved, &refusal{
		What:  fmt.Sprintf("the policy does not let %s %s %s", q.User, q.Action, q.Ref),
		Where: a.Reasons,
		Hint:  "ask an administrator; the decision is " + decision.ID(saved),
	}, nil
}
