package server

import (
	"context"

	"github.com/headgate-cd/headgate/gitd/access"
	"github.com/headgate-cd/headgate/gitd/repo"
	"github.com/headgate-cd/headgate/gitd/show"
)

// Environment implements show.Backend.
func (s *Server) Environment(ctx context.Context, a access.Identity, repository, environment string) (show.Environment, error) {
	if _, err := s.readable(a, repository); err != nil {
		return show.Environment{}, err
	}
	e, err := s.reconciler.Environment(ctx, a, repository, environment)
	e.MayRollback = s.access.Load().May(a, access.Write, repository)
	return e, err
}

// Deployments implements show.Backend.
func (s *Server) Deployments(ctx context.Context, a access.Identity, repository, environment, from string) ([]show.Deployed, int, error) {
	if _, err := s.readable(a, repository); err != nil {
		return nil, 0, err
	}
	return s.reconciler.Deployments(ctx, repository, environment, from)
}

// Promotion implements show.Backend.
func (s *Server) Promotion(ctx context.Context, a access.Identity, repository, environment string) (show.Promotion, error) {
	if _, err := s.readable(a, repository); err != nil {
		return show.Promotion{}, err
	}
	return s.reconciler.Promotion(ctx, a, repository, environment)
}

// environments is the reconciler, for pushes to env/<name>.
type environments struct{ *Server }

// Proposed implements receive.Environments.
func (e environments) Proposed(ctx context.Context, repository, environment string, commit repo.Hash) (bool, error) {
	return e.reconciler.Proposed(ctx, repository, environment, commit)
}

// ApprovePush implements receive.Environments.
func (e environments) ApprovePush(ctx context.Context, repository, environment string, by access.Identity, commit repo.Hash) (repo.Hash, []string, error) {
	if _, err := e.readable(by, repository); err != nil {
		return repo.Zero, nil, err
	}
	return e.reconciler.ApprovePush(ctx, repository, environment, by, commit)
}
