package transport

import (
	"context"
	"errors"
	"sync"
	"time"
)

// queue lets a number in at once; a bounded number waits, for a bounded time.
type queue struct {
	places  chan struct{}
	waiting chan struct{}
	wait    time.Duration
}

func newQueue(places, waiting int, wait time.Duration) *queue {
	return &queue{make(chan struct{}, places), make(chan struct{}, waiting), wait}
}

var errBusy = errors.New("busy")

// enter waits for a place; the caller gives it back with done. errBusy means
// that too many wait already, or that the wait was too long.
func (q *queue) enter(ctx context.Context) (done func(), err error) {
	done = func() { <-q.places }
	select {
	case q.places <- struct{}{}:
		return done, nil
	default:
	}

	select {
	case q.waiting <- struct{}{}:
		defer func() { <-q.waiting }()
	default:
		return nil, errBusy
	}

	timeout := time.NewTimer(q.wait)
	defer timeout.Stop()
	select {
	case q.places <- struct{}{}:
		return done, nil
	case <-timeout.C:
		return nil, errBusy
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// Quota counts what is in use, in all and by name. It is safe for concurrent use.
type Quota struct {
	all, each int

	mu   sync.Mutex // guards the rest
	n    int
	used map[string]int
}

// NewQuota allows so many in all, 0 for any number, and each for one name.
func NewQuota(all, each int) *Quota {
	return &Quota{all: all, each: each, used: map[string]int{}}
}

// Take takes one for name; false when there is none left.
func (q *Quota) Take(name string) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.all > 0 && q.n >= q.all || q.used[name] >= q.each {
		return false
	}
	q.n++
	q.used[name]++
	return true
}

// Give gives one of name's back.
func (q *Quota) Give(name string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.n--
	if q.used[name]--; q.used[name] == 0 {
		delete(q.used, name)
	}
}
