package server

import (
	"context"
	"fmt"
	"net"
	"net/netip"

	"github.com/headgate-cd/headgate/gitd/access"
	"github.com/headgate-cd/headgate/gitd/headgateyaml"
	"github.com/headgate-cd/headgate/gitd/repo"
	"github.com/headgate-cd/headgate/gitd/show"
	"github.com/headgate-cd/headgate/gitd/yamlfile"
)

// Environment implements show.Backend.
func (s *Server) Environment(ctx context.Context, a access.Identity,
	repository, environment string) (show.Environment, error) {
	if _, err := s.readable(a, repository); err != nil {
		return show.Environment{}, err
	}
	e, err := s.reconciler.Environment(ctx, a, repository, environment)
	e.MayRollback = s.access.Load().May(a, access.Write, repository)
	return e, err
}

// Deployments implements show.Backend.
func (s *Server) Deployments(ctx context.Context, a access.Identity,
	repository, environment, from string) ([]show.Deployed, int, error) {
	if _, err := s.readable(a, repository); err != nil {
		return nil, 0, err
	}
	return s.reconciler.Deployments(ctx, repository, environment, from)
}

// Promotion implements show.Backend.
func (s *Server) Promotion(ctx context.Context, a access.Identity,
	repository, environment string) (show.Promotion, error) {
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
func (e environments) ApprovePush(ctx context.Context, repository, environment string, by access.Identity,
	commit repo.Hash, reason string) (repo.Hash, []string, error) {
	if _, err := e.readable(by, repository); err != nil {
		return repo.Zero, nil, err
	}
	return e.reconciler.ApprovePush(ctx, repository, environment, by, commit, reason)
}

// RejectPush implements receive.Environments.
func (e environments) RejectPush(ctx context.Context, repository, environment string, by access.Identity,
	commit repo.Hash, reason string) ([]string, error) {
	if _, err := e.readable(by, repository); err != nil {
		return nil, err
	}
	return e.reconciler.RejectPush(ctx, repository, environment, by, commit, reason)
}

// Holder implements receive.Environments. Whoever may not read a repository is not
// told that it is there.
func (e environments) Holder(repository string, a netip.AddrPort, to access.Identity) (string, error) {
	for _, own := range []struct {
		on   net.Listener
		what string
	}{{e.sshOn, "SSH"}, {e.webOn, "HTTP"}} {
		if at, err := netip.ParseAddrPort(own.on.Addr().String()); err == nil && access.Overlap(a, at) {
			return "this server, which listens there for " + own.what, nil
		}
	}
	h, held, err := e.reconciler.HolderFor(repository, a)
	if err != nil || !held {
		return "", err
	}
	named := e.access.Load().May(to, access.Read, h.Repository)
	switch {
	case h.Reserved && named:
		return fmt.Sprintf("%s, for which %s reserves it", h.Repository, access.FileName), nil
	case h.Reserved:
		return fmt.Sprintf("another repository, for which %s reserves it", access.FileName), nil
	case named:
		return fmt.Sprintf("%s of %s", h.Environment, h.Repository), nil
	}
	return "an environment of another repository", nil
}

// Next implements receive.Environments.
func (e environments) Next(ctx context.Context, repository string, release int) ([]show.Next, error) {
	return e.reconciler.Next(ctx, repository, release)
}

// Against implements receive.Environments.
func (e environments) Against(repository string,
	file *headgateyaml.File) ([]string, []headgateyaml.Environment, yamlfile.Problems, error) {
	return e.reconciler.Against(repository, file)
}
