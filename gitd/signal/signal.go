// Package signal is how the parts of Headgate wake one another: a Topic says
// that something has changed, a Mailbox hands a loop what it must know.
//
// Both coalesce: however often it is woken, a sleeper finds one token, and must
// then look at what is. Neither ever makes the one who wakes wait, so that a
// slow or dead sleeper holds nobody up. What is lost with the process is latency
// and nothing else; what must survive it is a ref.
//
// The zero value of each is ready, and safe for concurrent use.
package signal

import "sync"

// All is the key that stands for every key.
const All = ""

// Topic wakes those who watch a key.
type Topic struct {
	mu       sync.Mutex
	watchers map[string]map[*watcher]struct{} // by the key they watch
}

// watcher is a type of some size, so that each has an address of its own.
type watcher struct{ wake chan struct{} }

// Watch returns a channel that holds a token whenever key (any key, for All) was
// notified since the last token was taken. Many notifications may make one
// token. What is notified once Watch has returned is not missed: watch first,
// then look at what is. stop closes the channel, and may be called again.
func (t *Topic) Watch(key string) (notified <-chan struct{}, stop func()) {
	w := &watcher{wake: make(chan struct{}, 1)}
	t.mu.Lock()
	defer t.mu.Unlock()

	if t.watchers == nil {
		t.watchers = map[string]map[*watcher]struct{}{}
	}
	if t.watchers[key] == nil {
		t.watchers[key] = map[*watcher]struct{}{}
	}
	t.watchers[key][w] = struct{}{}

	return w.wake, sync.OnceFunc(func() { t.stop(key, w) })
}

func (t *Topic) stop(key string, w *watcher) {
	t.mu.Lock()
	defer t.mu.Unlock()

	delete(t.watchers[key], w)
	if len(t.watchers[key]) == 0 {
		delete(t.watchers, key)
	}
	close(w.wake) // under the lock: Notify sends to nobody who has stopped
}

// Notify wakes those who watch key, and those who watch All. Notify(All) wakes
// everybody.
func (t *Topic) Notify(key string) {
	t.mu.Lock()
	defer t.mu.Unlock()

	if key == All {
		for _, ws := range t.watchers {
			wakeAll(ws)
		}
		return
	}
	wakeAll(t.watchers[key])
	wakeAll(t.watchers[All])
}

func wakeAll(ws map[*watcher]struct{}) {
	for w := range ws {
		wake(w.wake)
	}
}

// wake puts a token into a channel that has room for one.
func wake(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default: // it holds one already
	}
}

// Mailbox carries messages to the one goroutine that owns a loop's state. It
// does not bound them: whoever posts must be bounded, or waited for.
type Mailbox[T any] struct {
	mu    sync.Mutex
	queue []T
	wake  chan struct{}
}

// Post hands over a message and wakes the loop.
func (m *Mailbox[T]) Post(message T) {
	m.mu.Lock()
	defer m.mu.Unlock()

	m.queue = append(m.queue, message)
	wake(m.channel())
}

// Wake wakes the loop without a message.
func (m *Mailbox[T]) Wake() {
	m.mu.Lock()
	defer m.mu.Unlock()

	wake(m.channel())
}

// C returns the channel, the same each time, that holds a token when there is
// reason to Drain. A token may be left over from messages that were drained
// already.
func (m *Mailbox[T]) C() <-chan struct{} {
	m.mu.Lock()
	defer m.mu.Unlock()

	return m.channel()
}

// Drain takes all messages, in the order in which they were posted.
func (m *Mailbox[T]) Drain() []T {
	m.mu.Lock()
	defer m.mu.Unlock()

	queue := m.queue
	m.queue = nil
	return queue
}

// Empty reports whether Drain would return nothing.
func (m *Mailbox[T]) Empty() bool {
	m.mu.Lock()
	defer m.mu.Unlock()

	return len(m.queue) == 0
}

// channel is C for one who holds m.mu.
func (m *Mailbox[T]) channel() chan struct{} {
	if m.wake == nil {
		m.wake = make(chan struct{}, 1)
	}
	return m.wake
}
