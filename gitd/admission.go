package gitd

import (
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// admission bounds the connections that are not authenticated: how many there
// are, and how many of them are at work on it at once, in all and from one
// source. Others queue. When no place is free, one whose client has been silent for a
// while gives way, so that clients who stall do not keep others out. Where somebody
// has logged in from, others go first and give way last.
type admission struct {
	limits Limits

	mu          sync.Mutex           // guards the rest
	pending     map[*connection]bool // all of them; true: handshaking
	handshaking int
	from        map[netip.Prefix]int // handshaking, by source
	queue       []*connection
	known       map[netip.Prefix]bool // from where somebody has logged in
}

// maxKnown is how many sources are remembered.
const maxKnown = 4096

// know remembers where somebody has logged in from.
func (a *admission) know(source netip.Prefix) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.known) >= maxKnown {
		clear(a.known) // those who are there log in again
	}
	a.known[source] = true
}

// silenceTimeout is how long a client may say nothing before it gives way to
// another; answerTimeout is what a busy server may take to answer it.
const (
	silenceTimeout = 2 * time.Second
	answerTimeout  = 3 * time.Second
)

func newAdmission(l Limits) *admission {
	return &admission{limits: l, pending: map[*connection]bool{}, from: map[netip.Prefix]int{},
		known: map[netip.Prefix]bool{}}
}

// register counts a new connection in, or says that there is no room. When there
// are too many, the oldest of the most crowded source gives way.
func (a *admission) register(c *connection) bool {
	a.mu.Lock()
	var victim *connection
	if len(a.pending) >= a.limits.Unauthenticated {
		crowd := map[netip.Prefix]int{}
		for k := range a.pending {
			crowd[k.source]++
		}
		for k, handshaking := range a.pending {
			if handshaking {
				continue
			}
			if victim == nil || a.givesWay(k, victim, crowd) {
				victim = k
			}
		}
		if victim == nil {
			a.mu.Unlock()
			return false
		}
		delete(a.pending, victim)
	}
	a.pending[c] = false
	a.mu.Unlock()
	if victim != nil {
		victim.Close()
	}
	return true
}

// givesWay reports whether a connection goes before another does.
func (a *admission) givesWay(k, other *connection, crowd map[netip.Prefix]int) bool {
	switch {
	case a.known[k.source] != a.known[other.source]:
		return !a.known[k.source]
	case crowd[k.source] != crowd[other.source]:
		return crowd[k.source] > crowd[other.source]
	}
	return k.connected.Before(other.connected)
}

// admit waits for a place for the handshake.
func (a *admission) admit(c *connection) error {
	retry := time.NewTicker(silenceTimeout / 4)
	defer retry.Stop()
	for first := true; ; first = false {
		a.mu.Lock()
		handshaking, counted := a.pending[c]
		switch {
		case handshaking:
			a.mu.Unlock()
			return nil
		case !counted: // gave way to another
			a.mu.Unlock()
			return net.ErrClosed
		case a.room(c):
			a.enter(c)
			a.mu.Unlock()
			return nil
		}
		if first {
			a.queue = append(a.queue, c)
		}
		victim := a.silent(c)
		a.mu.Unlock()
		if victim != nil {
			victim.Close()
			a.leave(victim)
			continue
		}
		select {
		case <-c.admitted:
		case <-c.gone:
			return net.ErrClosed
		case <-retry.C:
		}
	}
}

func (a *admission) room(c *connection) bool {
	return a.handshaking < a.limits.Handshakes && a.from[c.source] < a.limits.PerSource
}

func (a *admission) enter(c *connection) {
	c.lastSent.Store(time.Now().UnixNano()) // its silence counts from here
	a.pending[c] = true
	a.handshaking++
	a.from[c.source]++
	a.queue = slices.DeleteFunc(a.queue, func(q *connection) bool { return q == c })
	close(c.admitted)
}

// silent finds who gives way to c: of those in its way, the longest silent.
func (a *admission) silent(c *connection) *connection {
	full := a.from[c.source] >= a.limits.PerSource
	now, longest := time.Now(), silenceTimeout
	var victim *connection
	for k, handshaking := range a.pending {
		if !handshaking || full && k.source != c.source {
			continue
		}
		if d := k.silentFor(now); d >= longest {
			victim, longest = k, d
		}
	}
	return victim
}

// leave counts a connection out and lets the next in. It may be called again.
func (a *admission) leave(c *connection) {
	a.mu.Lock()
	defer a.mu.Unlock()
	handshaking, counted := a.pending[c]
	if !counted {
		return
	}
	delete(a.pending, c)
	a.queue = slices.DeleteFunc(a.queue, func(q *connection) bool { return q == c })
	if !handshaking {
		return
	}
	a.handshaking--
	if a.from[c.source]--; a.from[c.source] == 0 {
		delete(a.from, c.source)
	}
	for _, known := range []bool{true, false} {
		for _, next := range a.queue {
			if a.known[next.source] == known && a.room(next) {
				a.enter(next)
				return
			}
		}
	}
}
