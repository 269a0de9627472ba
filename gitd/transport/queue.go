package transport

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"
)

// queue lets a number in at once, and so many of them of one name; a bounded number
// waits, for a bounded time, and so many of those of one name.
type queue struct {
	places, waiting int // at once
	wait            time.Duration

	mu    sync.Mutex // guards the rest
	n     int
	used  map[string]int
	queue []*waiter
}

type waiter struct {
	name  string
	ready chan struct{} // closed when it has a place
}

func newQueue(places, waiting int, wait time.Duration) *queue {
	return &queue{places: places, waiting: waiting, wait: wait, used: map[string]int{}}
}

var errBusy = errors.New("busy")

// half is how much of something one name may have, so that nobody has it all.
func half(n int) int { return max(1, (n+1)/2) }

// room reports whether name may have a place. The caller holds mu.
func (q *queue) room(name string) bool { return q.n < q.places && q.used[name] < half(q.places) }

func (q *queue) take(name string) {
	q.n++
	q.used[name]++
}

// give gives a place of name's back, to the first who waits and may have it.
func (q *queue) give(name string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.n--
	if q.used[name]--; q.used[name] == 0 {
		delete(q.used, name)
	}
	for i, w := range q.queue {
		if q.room(w.name) {
			q.queue = slices.Delete(q.queue, i, i+1)
			q.take(w.name)
			close(w.ready)
			return
		}
	}
}

// crowded reports whether somebody waits.
func (q *queue) crowded() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.queue) > 0
}

// enter waits for a place; the caller gives it back with done, once. errBusy means
// that too many wait already, or that the wait was too long.
func (q *queue) enter(ctx context.Context, name string) (done func(), err error) {
	done = sync.OnceFunc(func() { q.give(name) })
	q.mu.Lock()
	if q.room(name) {
		q.take(name)
		q.mu.Unlock()
		return done, nil
	}
	same := 0
	for _, w := range q.queue {
		if w.name == name {
			same++
		}
	}
	if len(q.queue) >= q.waiting || same >= half(q.waiting) {
		q.mu.Unlock()
		return nil, errBusy
	}
	w := &waiter{name, make(chan struct{})}
	q.queue = append(q.queue, w)
	q.mu.Unlock()

	timeout := time.NewTimer(q.wait)
	defer timeout.Stop()
	select {
	case <-w.ready:
		return done, nil
	case <-timeout.C:
		err = errBusy
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	q.mu.Lock()
	i := slices.Index(q.queue, w)
	if i >= 0 {
		q.queue = slices.Delete(q.queue, i, i+1)
	}
	q.mu.Unlock()
	if i < 0 { // it has a place after all
		done()
	}
	return nil, err
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
