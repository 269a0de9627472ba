// Package proxy carries HTTP requests to the healthy instances of a service.
//
// A Pool is the set of instances of one service; Set swaps it at once and whole,
// Split divides the requests between two versions by weight. A Listener serves an
// address from pools, by host and path, and outlives every rollout. What is taken out
// of a pool gets no new request, and Drain waits for those in flight.
//
// It knows neither health nor releases: whoever calls Set and Split decides.
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
	Release string // for metrics
	HTTP2   bool   // it speaks HTTP/2 in clear
}

// Pool is the set of instances that get the requests of one service. Its methods
// may be called by several goroutines.
type Pool struct {
	Name string // of the service, for people

	metrics metrics

	mu       sync.Mutex
	settings Settings
	backends []*backend // of the version that serves
	next     []*backend // of the one that is to take over
	weight   int        // percent of the requests that next gets
	slots    slots
	draining map[string]*backend
	busy     int           // where the search for the least busy begins
	why      string        // why there is none, for people
	changed  chan struct{} // closed when something did that a held request waits for; nil: none waits
	held     int
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
	cancel   context.CancelCauseFunc
	upgraded bool // the connection became something else, such as a websocket
	next     bool // it is for the version that is to take over
	body     *heldBody

	// What came of it, for the log and the metrics.
	instance, release string
	tries             int
}

// Set makes these the instances that get requests. Those it had before and has no
// more can be drained.
func (p *Pool) Set(to []Backend) { p.Split(to, nil, 0) }

// Split makes these the instances that get requests, weight percent of which go to
// next. While one side has no instance the other one gets all of them; but next gets
// none with a weight of 0, except those that carry the test header.
func (p *Pool) Split(to, next []Backend, weight int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	before := slices.Concat(p.backends, p.next)
	p.backends, p.next, p.weight = known(to, before), known(next, before), weight
	for _, b := range before {
		if slices.Contains(p.backends, b) || slices.Contains(p.next, b) {
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
	p.wake()
}

// known are backends with what was in flight to them before.
func known(to []Backend, before []*backend) (all []*backend) {
	for _, b := range to {
		i := slices.IndexFunc(before, func(have *backend) bool { return have.Backend == b })
		if i >= 0 {
			all = append(all, before[i])
			continue
		}
		all = append(all, &backend{Backend: b, flights: map[*flight]struct{}{}, idle: make(chan struct{})})
	}
	return all
}

// Configure sets how requests are carried from now on.
func (p *Pool) Configure(s Settings) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.settings = s
	p.wake()
}

// Settings are those that Configure set.
func (p *Pool) Settings() Settings {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.settings
}

// wake has those that are held look again. It is called with mu held.
func (p *Pool) wake() {
	if p.changed != nil {
		close(p.changed)
		p.changed = nil
	}
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
			f.cancel(errStopped)
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
		f.cancel(errStopped)
	}
	p.mu.Unlock()
	<-b.idle
}

// take puts a request on its way to the least busy instance that it has not tried,
// of its own version if there is one. It returns false when there is none.
func (p *Pool) take(f *flight, tried []string) (Backend, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.settings.Traffic == Hold {
		return Backend{}, false
	}
	first, second := p.backends, p.next
	switch {
	case f.next:
		first, second = p.next, p.backends
	case p.weight == 0:
		second = nil
	}
	best := p.leastBusy(first, tried)
	if best == nil {
		best = p.leastBusy(second, tried)
	}
	if best == nil {
		return Backend{}, false
	}
	p.busy++
	f.to, f.instance, f.release = best, best.ID, best.Release
	f.tries++
	best.flights[f] = struct{}{}
	return best.Backend, true
}

func (p *Pool) leastBusy(of []*backend, tried []string) (best *backend) {
	for i := range of {
		b := of[(p.busy+i)%len(of)]
		if slices.Contains(tried, b.ID) {
			continue
		}
		if best == nil || len(b.flights) < len(best.flights) {
			best = b
		}
	}
	return best
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
		f.cancel(errStopped)
	}
}

// maxHeld bounds how many requests of one pool wait for an instance.
const maxHeld = 1000

// wait holds a request until what it waits for may be there: an instance, or the end
// of a pause. The error says why it is not held any longer.
func (p *Pool) wait(ctx context.Context) error {
	p.mu.Lock()
	paused := p.settings.Traffic == Hold
	none := errNoInstance
	if paused {
		none = errPaused
	}
	if !paused && (len(p.backends) > 0 || p.weight > 0 && len(p.next) > 0) {
		p.mu.Unlock()
		return nil // it came just now
	}
	if p.settings.Hold == 0 || p.held >= maxHeld {
		p.mu.Unlock()
		return none
	}
	if p.changed == nil {
		p.changed = make(chan struct{})
	}
	changed := p.changed
	p.held++
	p.mu.Unlock()
	defer func() {
		p.mu.Lock()
		p.held--
		p.mu.Unlock()
	}()
	select {
	case <-changed:
		return nil
	case <-ctx.Done():
		return none
	}
}

func (p *Pool) reason() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.why
}
