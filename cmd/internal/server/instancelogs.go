package server

import (
	"context"
	"errors"
	"iter"
	"sync"

	"github.com/headgate-cd/headgate/gitd/access"
	"github.com/headgate-cd/headgate/gitd/show"
)

// InstanceLogs implements show.Backend.
func (s *Server) InstanceLogs(ctx context.Context, a access.Identity, repository, environment string,
	q show.LogQuery) iter.Seq2[show.InstanceLine, error] {
	return func(yield func(show.InstanceLine, error) bool) {
		ctx, stop := s.reading(ctx, a, repository)
		defer stop()
		if _, err := s.readable(a, repository); err != nil {
			yield(show.InstanceLine{}, err)
			return
		}
		taken := func() bool { return context.Cause(ctx) == error(errReadsNoMore) }
		for line, err := range s.reconciler.Logs(ctx, repository, environment, q) {
			if taken() {
				break // whatever it is
			}
			if !yield(line, err) || err != nil {
				return
			}
		}
		if taken() {
			yield(show.InstanceLine{}, errReadsNoMore)
		}
	}
}

// Exec implements show.Backend.
func (s *Server) Exec(ctx context.Context, a access.Identity, repository, environment string,
	x show.Exec) (status int, err error) {
	if _, err := s.readable(a, repository); err != nil {
		return 0, err
	}
	var looking sync.WaitGroup
	defer looking.Wait()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	// Rights, groups and policies may change meanwhile.
	members, ignoreMembers := s.moved.Watch(access.Own)
	defer ignoreMembers()
	rules, ignoreRules := s.store.Watch(repository)
	defer ignoreRules()
	looking.Go(func() {
		for there := true; there; {
			select {
			case _, there = <-members: // closed when nobody watches any more
			case _, there = <-rules:
			}
			_, err := s.readable(a, repository)
			if err == nil {
				err = s.reconciler.MayExec(ctx, repository, environment, a, x)
			}
			if why := (*show.Error)(nil); errors.As(err, &why) { // else nobody could say
				cancel(why)
			}
		}
	})
	return s.reconciler.Exec(ctx, repository, environment, a, x)
}
