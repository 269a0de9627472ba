package reconciler

import (
	"context"

	"github.com/headgate-cd/headgate/gitd/crash"
	"github.com/headgate-cd/headgate/gitd/repo"
	"github.com/headgate-cd/headgate/reconciler/record"
)

// makeInitial makes an environment's branch, with its initial commit.
func (w *worker) makeInitial(ctx context.Context, s *snapshot) error {
	if d := w.repo.Inspect(); d != nil {
		return d // it may have had one
	}
	commit, err := record.Initial(w.repo, s.application, s.environment, s.Now)
	if err != nil {
		return err
	}
	crash.Point("promote.before-initial")
	if err := w.repo.Move(ctx, record.EnvironmentRef(s.environment), repo.Zero, commit); err != nil {
		return err
	}
	crash.Point("promote.initial")
	s.Initial = commit
	return nil
}
