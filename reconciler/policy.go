package reconciler

import (
	"context"

	"github.com/headgate-cd/headgate/gitd/repo"
)

type question struct{}

func (rc *Reconciler) facts(ctx context.Context, s *sight, back *rollbackTarget) (question, error) {
	return question{}, nil
}
func (rc *Reconciler) answer(ctx context.Context, s *sight, q question) *asked { return nil }

func settingsAt(r *repo.Repository, tip repo.Hash) ([]Settings, error) { return nil, nil }
func gone(err error) bool                                              { return false }
func (rc *Reconciler) waitsFor(ctx context.Context, s *sight) string   { return "" }
