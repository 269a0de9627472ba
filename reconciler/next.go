package reconciler

import (
	"context"
	"errors"
	"net"
	"strconv"
	"time"

	"github.com/headgate-cd/headgate/gitd/repo"
	"github.com/headgate-cd/headgate/gitd/show"
)

// Next says where a release that has just landed goes: to each environment that
// takes what lands, or what keeps it from there. It waits until that is decided, as
// long as ctx lasts.
func (rc *Reconciler) Next(ctx context.Context, repository string, release int) ([]show.Next, error) {
	r, err := rc.repository(repository)
	if err != nil {
		return nil, err
	}
	file, _, err := rc.declaration(r)
	if err != nil {
		return nil, err
	}
	var all []show.Next
	for _, e := range file.Environments {
		if e.After != "" {
			continue
		}
		w, err := rc.started(ctx, r, e.Name)
		if err != nil {
			return all, err
		}
		done := make(chan error, 1)
		var next *show.Next
		go func() {
			done <- w.on(ctx, func(ctx context.Context) (err error) {
				next, err = w.next(ctx, release)
				return err
			})
		}()
		select {
		case err := <-done:
			if err != nil {
				return all, err
			}
		case <-ctx.Done():
			return all, ctx.Err()
		}
		if next != nil {
			all = append(all, *next)
		}
	}
	return all, nil
}

// next decides about a release, and says what was decided; nil when it is not for
// this environment.
func (w *worker) next(ctx context.Context, release int) (*show.Next, error) {
	if _, err := w.settle(ctx); err != nil {
		return nil, err
	}
	s, err := w.rc.load(ctx, w.repo, w.environment)
	if err != nil {
		return nil, err
	}
	if _, ok := s.release(release); !ok {
		return nil, nil
	}
	next := &show.Next{Environment: w.environment}
	switch {
	case s.covers() >= release:
		next.Going = true
		next.URLs, err = w.rc.answersAt(s)
	case s.proposedRelease() >= release && s.openProposal():
		next.Waits = w.rc.waitsFor(ctx, s)
	default:
		next.Waits = s.problem()
	}
	return next, err
}

// started is an environment's worker; that of one which has just landed is there in
// a moment.
func (rc *Reconciler) started(ctx context.Context, r *repo.Repository, environment string) (*worker, error) {
	for {
		w, err := rc.worker(r, environment)
		if starting := (*show.Error)(nil); !errors.As(err, &starting) || starting.Kind != show.Again {
			return w, err
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// answersAt are the addresses that what is declared is to be reached at.
func (rc *Reconciler) answersAt(s *snapshot) (urls []string, err error) {
	if s.Declared == nil || s.Declared.Removal {
		return nil, nil
	}
	declared, err := rc.addressesIn(s.repo, s.settings.Target, s.Declared.Tree)
	for _, a := range declared {
		host := a.Addr().String()
		if a.Addr().IsUnspecified() && rc.Host != "" {
			host = rc.Host
		}
		urls = append(urls, "http://"+net.JoinHostPort(host, strconv.Itoa(int(a.Port()))))
	}
	return urls, err
}

// reached tells which addresses of services somebody elsewhere does not reach.
func (rc *Reconciler) reached(services []show.Service) []show.Service {
	for i, s := range services {
		services[i].Local = s.URL != "" && show.LocalOnly(s.URL, rc.Host)
	}
	return services
}
