package gate

import (
	"context"
	"slices"
	"sync"
)

// pool hands out the workers of all repositories in turn: a repository with
// many builds does not keep out one that has a single build.
type pool struct {
	mu      sync.Mutex
	size    int
	taken   int
	turns   []string                   // repositories that wait, the next one first
	waiting map[string][]chan struct{} // in order of asking

	spare   int             // taken by builds that are no change's
	sparing []chan struct{} // those that wait, in order of asking
}

func newPool(size int) *pool {
	return &pool{size: size, waiting: map[string][]chan struct{}{}}
}

// take waits for a worker. It must be given back unless there is an error.
func (p *pool) take(ctx context.Context, repository string) error {
	p.mu.Lock()
	if p.taken < p.size && len(p.turns) == 0 {
		p.taken++
		p.mu.Unlock()
		return nil
	}
	mine := make(chan struct{})
	if len(p.waiting[repository]) == 0 {
		p.turns = append(p.turns, repository)
	}
	p.waiting[repository] = append(p.waiting[repository], mine)
	p.mu.Unlock()
	select {
	case <-mine:
		return nil
	case <-ctx.Done():
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	i := slices.Index(p.waiting[repository], mine)
	if i < 0 { // it came at the same moment
		p.pass()
		return ctx.Err()
	}
	p.waiting[repository] = slices.Delete(p.waiting[repository], i, i+1)
	if len(p.waiting[repository]) == 0 {
		delete(p.waiting, repository)
		p.turns = slices.DeleteFunc(p.turns, func(r string) bool { return r == repository })
	}
	return ctx.Err()
}

// give gives a worker back.
func (p *pool) give() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.pass()
}

// mostSpare is how many workers builds may have that are no change's: one is left
// for changes, where there is another.
func (p *pool) mostSpare() int { return max(1, p.size-1) }

// takeSpare waits for a worker that no change needs. It must be given back, with
// giveSpare, unless there is an error.
func (p *pool) takeSpare(ctx context.Context) error {
	p.mu.Lock()
	if p.taken < p.size && len(p.turns) == 0 && p.spare < p.mostSpare() {
		p.taken++
		p.spare++
		p.mu.Unlock()
		return nil
	}
	mine := make(chan struct{})
	p.sparing = append(p.sparing, mine)
	p.mu.Unlock()

	select {
	case <-mine:
		return nil
	case <-ctx.Done():
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if i := slices.Index(p.sparing, mine); i >= 0 {
		p.sparing = slices.Delete(p.sparing, i, i+1)
	} else { // it came at the same moment
		p.spare--
		p.pass()
	}
	return ctx.Err()
}

// giveSpare gives back a worker from takeSpare.
func (p *pool) giveSpare() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.spare--
	p.pass()
}

// pass hands a free worker to the next in turn: a change's build if one waits. The
// caller holds p.mu.
func (p *pool) pass() {
	if len(p.turns) == 0 && len(p.sparing) > 0 && p.spare < p.mostSpare() {
		close(p.sparing[0])
		p.sparing = p.sparing[1:]
		p.spare++
		return
	}
	if len(p.turns) == 0 {
		p.taken--
		return
	}
	next := p.turns[0]
	p.turns = p.turns[1:]
	close(p.waiting[next][0])
	if p.waiting[next] = p.waiting[next][1:]; len(p.waiting[next]) > 0 {
		p.turns = append(p.turns, next)
	} else {
		delete(p.waiting, next)
	}
}

func (p *pool) busy() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.taken
}
