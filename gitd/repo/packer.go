package repo

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/headgate-cd/headgate/gitd/signal"
)

// Packer packs the repositories of a store in the background: one at a time, niced,
// and after the pushes that are under way. Its fields are set before Run.
type Packer struct {
	Store *Store
	After int // loose objects after which a repository is packed
	Log   *slog.Logger

	seen map[string]int64 // moves of a repository when it was looked at last
}

// How the packer waits.
const (
	packSettle = 10 * time.Second // after refs have moved
	packAgain  = time.Minute      // after a repository whose pushes go on, or that failed
	overdue    = 8                // times After: such a repository is packed while pushes run
)

// Run packs until ctx is done. It looks at every repository when it starts, and at
// those whose refs have moved afterwards.
func (p *Packer) Run(ctx context.Context) error {
	moved, stop := p.Store.Watch(signal.All)
	defer stop()
	p.seen = map[string]int64{}
	timer := time.NewTimer(0)
	defer timer.Stop()
	waiting := true // for the timer: refs that go on moving do not put it off
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-moved:
			if !waiting {
				timer.Reset(packSettle)
				waiting = true
			}
			continue
		case <-timer.C:
			waiting = false
		}
		if !p.packAll(ctx) {
			timer.Reset(packAgain)
			waiting = true
		}
	}
}

// packAll packs what needs it. It reports whether nothing was put off.
func (p *Packer) packAll(ctx context.Context) (done bool) {
	names, err := p.Store.Names()
	if err != nil {
		p.Log.Warn("could not look for what is to be packed", "err", err)
		return false
	}
	done = true
	for _, name := range names {
		if ctx.Err() != nil {
			return true
		}
		r, err := p.Store.Repository(name)
		if err != nil || r.Damage() != nil {
			continue // who opens it says so
		}
		moves := r.moves.Load()
		if last, ok := p.seen[name]; ok && last == moves {
			continue
		}
		n, _, err := r.loose(time.Time{})
		if err != nil {
			p.Log.Warn("could not look for what is to be packed", "repo", name, "err", err)
			continue
		}
		if n < p.After {
			p.seen[name] = moves
			continue
		}
		if _, running := r.pushes.look(); running && n < overdue*p.After {
			done = false
			continue
		}
		began := time.Now()
		did, err := r.Pack(ctx, began)
		switch {
		case ctx.Err() != nil:
			return true
		case err != nil:
			p.Log.Warn("could not pack a repository; it goes on as it is", "err", err)
			done = false
			continue
		}
		p.seen[name] = moves
		p.Log.Info("packed", "repo", name, "loose", did.Loose, "packs", did.Packs, "pruned", did.Pruned, "whole", did.Whole,
			"took", time.Since(began).Round(time.Millisecond))
	}
	return done
}

// pushes counts the pushes to one repository.
type pushes struct {
	mu      sync.Mutex // guards the rest
	running int
	began   int64 // ever
}

// look says how many have ever begun, and whether one is under way.
func (p *pushes) look() (began int64, running bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.began, p.running > 0
}

// BeginPush says that a push to the repository is under way until end: it may refer
// to what nothing refers to now.
func (r *Repository) BeginPush() (end func()) {
	r.pushes.mu.Lock()
	defer r.pushes.mu.Unlock()
	r.pushes.running++
	r.pushes.began++
	return func() {
		r.pushes.mu.Lock()
		defer r.pushes.mu.Unlock()
		r.pushes.running--
	}
}
