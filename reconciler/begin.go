package reconciler

import (
	"context"
	"fmt"

	"github.com/headgate-cd/headgate/gitd/crash"
	"github.com/headgate-cd/headgate/gitd/repo"
)

// began is the trailer of an environment's first commit.
const began = "Environment-Began"

// begin makes an environment's branch, with one empty commit. Nothing runs
// because of it; it is there so that the first approval can be pushed like any
// other: git completes `origin/promote/production:env/production` only to a
// branch that the server already has.
func (w *worker) begin(ctx context.Context, s *sight) (repo.Hash, error) {
	commit, err := w.repo.WriteCommit(repo.NewCommit{At: s.Now, Message: repo.Message(
		fmt.Sprintf("begin environment %s of %s", s.environment, s.app), "",
		repo.Trailer{Key: began, Value: s.environment})})
	if err != nil {
		return repo.Zero, err
	}
	crash.Point("promote.before-begun")
	if err := w.repo.Move(ctx, EnvironmentRef(s.environment), repo.Zero, commit); err != nil {
		return repo.Zero, err
	}
	crash.Point("promote.begun")
	s.begun = commit
	return commit, nil
}

// isBeginning reports whether a commit is an environment's first: it says so,
// has no parent and holds nothing.
func isBeginning(r *repo.Repository, at repo.Hash) (bool, error) {
	c, err := r.Commit(at)
	if err != nil {
		return false, err
	}
	if len(c.ParentHashes) > 0 || repo.TrailerValue(c.Message, began) == "" {
		return false, nil
	}
	entries, err := r.Tree(c.TreeHash)
	return len(entries) == 0, err
}
