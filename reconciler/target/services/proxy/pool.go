// Package proxy carries HTTP requests to the healthy instances of a service.
//
// A Pool is the set of instances of one service; Set swaps it at once and whole.
// A Listener serves an address from a pool and outlives every rollout. What is
// taken out of a pool gets no new request, and Drain waits for those in flight.
//
// It knows neither health nor releases: whoever calls Set decides.
package proxy

import (
	"context"
	"slices"
	"sync"
)

// Backend is an instance that requests can be sent to.
type Backend struct {
	ID      string
	Address string // host:port
}

// Pool is the set of instances that get the requests of one service. Its methods
// may be called by several goroutines.
type Pool struct {
	Name string // of the service, for people

	mu       sync.Mutex
	backends []*backend // those that get requests
	draining map[string]*backend
	next     int    // where the search for the least busy begins
	why      string // why there is none, for people
}

type backend struct {
	Backend
	flights map[*flight]struct{}
	idle    chan struct{} // closed when it is out of the pool and nothing is in flight
	out     bool
}

// flight is one request on its way through the proxy.
type flight struct {
	pool     *Pool
	to       *backend
	cancel   context.CancelFunc
	upgraded bool // the connection became something else, such as a websocket
}

// Set makes these the instances that get requests. Those it had before and has no
// more can be drained.
func (p *Pool) Set(to []Backend) {
	p.mu.Lock()
	defer p.mu.Unlock()
	var now []*backend
	for _, b := range to {
		i := slices.IndexFunc(p.backends, func(have *backend) bool { return have.Backend == b })
		if i >= 0 {
			now = append(now, p.backends[i])
			continue
		}
		now = append(now, &backend{Backend: b, flights: map[*flight]struct{}{}, idle: make(chan struct{})})
	}
	for _, b := range p.backends {
		if slices.Contains(now, b) {
			continue
		}
		b.out = true
		if len(b.flights) == 0 {
			close(b.idle)
			continue
		}
		if p.draining == nil {
			p.draining = map[string]*backend{}
		}
		p.draining[b.ID] = b
	}
	p.backends = now
}

// SetWhy sets what visitors are told when there is no instance.
func (p *Pool) SetWhy(text string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.why = text
}

// Drain waits until no request is in flight to the instance, which must be out of
// the pool. Upgraded connections end by no answer of their own and are closed at
// once; whatever else is left when ctx ends is closed then.
func (p *Pool) Drain(ctx context.Context, id string) {
	p.mu.Lock()
	b := p.draining[id]
	if b == nil {
		p.mu.Unlock()
		return
	}
	for f := range b.flights {
		if f.upgraded {
			f.cancel()
		}
	}
	p.mu.Unlock()
	select {
	case <-b.idle:
		return
	case <-ctx.Done():
	}
	p.mu.Lock()
	for f := range b.flights {
		f.cancel()
	}
	p.mu.Unlock()
	<-b.idle
}

// take puts a request on its way to the least busy instance that it has not
// tried. It returns false when there is none.
func (p *Pool) take(f *flight, tried []string) (Backend, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	var best *backend
	for i := range p.backends {
		b := p.backends[(p.next+i)%len(p.backends)]
		if slices.Contains(tried, b.ID) {
			continue
		}
		if best == nil || len(b.flights) < len(best.flights) {
			best = b
		}
	}
	if best == nil {
		return Backend{}, false
	}
	p.next++
	f.to = best
	best.flights[f] = struct{}{}
	return best.Backend, true
}

// leave ends what take began.
func (p *Pool) leave(f *flight) {
	p.mu.Lock()
	defer p.mu.Unlock()
	b := f.to
	if b == nil {
		return
	}
	f.to = nil
	delete(b.flights, f)
	if b.out && len(b.flights) == 0 {
		delete(p.draining, b.ID)
		close(b.idle)
	}
}

// upgrade marks a request whose connection has become something else. When its
// instance is draining already, it ends at once.
func (p *Pool) upgrade(f *flight) {
	p.mu.Lock()
	defer p.mu.Unlock()
	f.upgraded = true
	if f.to != nil && f.to.out {
		f.cancel()
	}
}

func (p *Pool) reason() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.why
}
