package server

import (
	"context"
	"iter"
	"sync"

	"github.com/headgate-cd/headgate/gitd/access"
	"github.com/headgate-cd/headgate/gitd/show"
	"github.com/headgate-cd/headgate/reconciler/target"
)

// errReadsNoMore ends what somebody follows who may not read it any more.
var errReadsNoMore = &show.Error{
	Kind: show.Forbidden,
	What: "you may not read this repository any more",
	Hint: "ask an administrator of this server",
}

// reading is ctx for as long as somebody may read a repository: it is done, with
// errReadsNoMore, when a configuration comes into force by which they may not.
func (s *Server) reading(ctx context.Context, a access.Identity,
	repository string) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	changed, stop := s.moved.Watch(access.Own)
	look := func() {
		if !s.access.Load().May(a, access.Read, repository) {
			cancel(errReadsNoMore)
		}
	}
	look() // it may have changed before we watched
	go func() {
		for range changed { // until stop closes it
			look()
		}
	}()
	return ctx, func() {
		stop()
		cancel(nil)
	}
}

// followed are events that end, and say so, when their reader may read no more.
func (s *Server) followed(
	ctx context.Context, a access.Identity, repository string,
	events func(context.Context) iter.Seq2[show.LogEvent, error],
) iter.Seq2[show.LogEvent, error] {
	return func(yield func(show.LogEvent, error) bool) {
		ctx, stop := s.reading(ctx, a, repository)
		defer stop()
		taken := func() bool { return context.Cause(ctx) == error(errReadsNoMore) }
		for e, err := range events(ctx) {
			if taken() {
				break // whatever it is
			}
			if !yield(e, err) {
				return
			}
		}
		if taken() {
			yield(show.LogEvent{}, errReadsNoMore)
		}
	}
}

// Watch implements show.Backend: refs that move, builds that start, instances
// that come and go.
func (s *Server) Watch(repository string) (<-chan struct{}, func()) {
	moved, stopMoved := s.store.Watch(repository)
	seen, stopSeen := s.services.Watch(target.Key{Repository: repository})
	deployed, stopDeployed := s.fleet.Watch(target.Key{Repository: repository})
	applied, stopApplied := s.clusters.Watch(target.Key{Repository: repository})
	invoked, stopInvoked := s.functions.Watch(target.Key{Repository: repository})
	scheduled, stopScheduled := s.schedules.Watch(repository)
	changed := make(chan struct{}, 1)
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		defer close(changed)
		for {
			select {
			case <-done:
				return
			case <-moved:
			case <-seen:
			case <-deployed:
			case <-applied:
			case <-invoked:
			case <-scheduled:
			}
			select {
			case <-done: // all channels are closed by now
				return
			case changed <- struct{}{}:
			default:
			}
		}
	})
	return changed, sync.OnceFunc(func() {
		close(done)
		stopMoved()
		stopSeen()
		stopDeployed()
		stopApplied()
		stopInvoked()
		stopScheduled()
		wg.Wait()
	})
}
