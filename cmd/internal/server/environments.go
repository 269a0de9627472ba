package server

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/headgate-cd/headgate/gitd/access"
	"github.com/headgate-cd/headgate/gitd/headgateyaml"
	"github.com/headgate-cd/headgate/gitd/repo"
	"github.com/headgate-cd/headgate/gitd/show"
	"github.com/headgate-cd/headgate/gitd/yamlfile"
	"github.com/headgate-cd/headgate/hooks/release"
	"github.com/headgate-cd/headgate/reconciler"
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
	repository, environment string, f show.DeploymentFilter) (show.DeploymentPage, error) {
	r, err := s.readable(a, repository)
	if err != nil {
		return show.DeploymentPage{}, err
	}
	if !f.Narrows() {
		return s.reconciler.Deployments(ctx, repository, environment, f.From, f.After, nil)
	}
	return s.reconciler.Deployments(ctx, repository, environment, f.From, f.After, s.wanted(ctx, r, f))
}

// wanted says which deployments a filter leaves.
func (s *Server) wanted(ctx context.Context, r *repo.Repository, f show.DeploymentFilter) reconciler.Wanted {
	writes := map[int]bool{} // releases, whether the author had part in it
	by := func(n int) (bool, error) {
		if known, ok := writes[n]; ok {
			return known, nil
		}
		rel, err := s.gate.ReleasesOf(r.Name()).Read(n)
		if errors.Is(err, release.ErrNone) {
			return false, nil
		}
		if err == nil {
			writes[n], err = wrote(r, rel, f.Author)
		}
		return writes[n], err
	}
	return func(d, before *show.Deployed) (bool, error) {
		if f.Outcome != "" && d.Outcome != f.Outcome || f.By != "" && !decidedBy(d, f.By) {
			return false, nil
		}
		if f.Author != "" {
			fits := false
			for n := max(min(d.From+1, d.Release), d.Release-show.MaxLooked, 1); n <= d.Release && !fits; n++ {
				var err error
				if fits, err = by(n); err != nil {
					return false, err
				}
			}
			if !fits {
				return false, nil
			}
		}
		if f.Path == "" {
			return true, nil
		}
		from := repo.Zero
		if before != nil && before.Release > 0 { // it was no removal
			from, _ = repo.ParseHash(before.Source)
		}
		to, ok := repo.ParseHash(d.Source)
		if !ok || d.Release == 0 {
			return false, nil
		}
		return differs(ctx, r, from, to, f.Path)
	}
}

// decidedBy reports whether somebody, or the policy alone, let a deployment happen.
func decidedBy(d *show.Deployed, who string) bool {
	return strings.EqualFold(d.By, who) && (d.Rollback || len(d.Approvals) == 0) || strings.EqualFold(d.Chosen, who) ||
		slices.ContainsFunc(d.Approvals, func(a show.Approval) bool { return strings.EqualFold(a.By, who) })
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
