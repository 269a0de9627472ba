package server

import (
	"sync"

	"github.com/headgate-cd/headgate/reconciler/target"
)

// Watch implements show.Backend: refs that move, builds that start, instances
// that come and go.
func (s *Server) Watch(repository string) (<-chan struct{}, func()) {
	moved, stopMoved := s.store.Watch(repository)
	seen, stopSeen := s.services.Watch(target.Key{Repository: repository})
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
		stopScheduled()
		wg.Wait()
	})
}
