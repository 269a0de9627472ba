package gate

import (
	"context"
	"iter"
	"slices"
	"sync"
	"time"

	"github.com/headgate-cd/headgate/gitd/repo"
	"github.com/headgate-cd/headgate/gitd/show"
	"github.com/headgate-cd/headgate/hooks/change"
)

// progressBoard is what a repository's loop lets others see. The loop writes and never
// waits: a follower holds nothing but an index into its progress.
type progressBoard struct {
	mu      sync.Mutex
	open    map[int]*revisionProgress // of open changes
	entries []Entry                   // without their estimates
	recent  durations                 // that those are made of
	closed  bool
}

// revisionProgress is the progress of one revision.
type revisionProgress struct {
	mu    sync.Mutex
	items []Progress
	first int           // number of items[0]; earlier ones are dropped
	more  chan struct{} // closed when there is more
}

// kept is how many items of a revision are kept. A follower that is further behind goes
// on with the oldest one kept.
const kept = 64

func newRevisionProgress() *revisionProgress { return &revisionProgress{more: make(chan struct{})} }

func (t *revisionProgress) add(p Progress) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if n := len(t.items); n > 0 && t.items[n-1].Ends() {
		return
	}
	t.items = append(t.items, p)
	if len(t.items) > kept {
		t.items = append(t.items[:0:0], t.items[1:]...)
		t.first++
	}
	close(t.more)
	t.more = make(chan struct{})
}

// last is the newest item; ok is false when there is none.
func (t *revisionProgress) last() (p Progress, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.items) == 0 {
		return Progress{}, false
	}
	return t.items[len(t.items)-1], true
}

// from returns item number at, or a later one if it was dropped, and the number
// after it; or the channel to wait on.
func (t *revisionProgress) from(at int) (p Progress, next int, more <-chan struct{}) {
	t.mu.Lock()
	defer t.mu.Unlock()
	at = max(at, t.first)
	if at-t.first < len(t.items) {
		return t.items[at-t.first], at + 1, nil
	}
	return Progress{}, at, t.more
}

// present is the number of the newest item.
func (t *revisionProgress) present() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.first + max(0, len(t.items)-1)
}

// of returns the progress of an open change, nil if there is none.
func (b *progressBoard) of(number int) *revisionProgress {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.open[number]
}

// begin starts the progress of a new revision, and returns the one it replaces.
func (b *progressBoard) begin(number int) (replaced *revisionProgress) {
	b.mu.Lock()
	defer b.mu.Unlock()
	replaced = b.open[number]
	b.open[number] = newRevisionProgress()
	if b.closed {
		b.open[number].add(Progress{Kind: Restarting, Change: number})
	}
	return replaced
}

// add adds to a change's progress, and drops it when it has ended.
func (b *progressBoard) add(p Progress) {
	b.mu.Lock()
	t := b.open[p.Change]
	if t != nil && p.Ends() && p.Kind != Restarting {
		delete(b.open, p.Change)
		// Whoever hears of the end must not find it in the queue any more.
		b.entries = slices.DeleteFunc(slices.Clone(b.entries), func(e Entry) bool { return e.Change == p.Change })
	}
	b.mu.Unlock()
	if t != nil {
		t.add(p)
	}
}

// close tells all followers that the server restarts.
func (b *progressBoard) close(p Progress) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
	for number, t := range b.open {
		p.Change = number
		t.add(p)
	}
}

func (b *progressBoard) show(entries []Entry, recent durations) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.entries, b.recent = entries, recent
}

// snapshot is the queue as it is now.
func (b *progressBoard) snapshot(now time.Time) []Entry {
	b.mu.Lock()
	entries, recent := slices.Clone(b.entries), b.recent
	b.mu.Unlock()
	recent.estimate(entries, now)
	return entries
}

// Estimate is when an open change probably lands.
func (g *Gate) Estimate(repository string, number int) show.Estimate {
	l, err := g.loop(repository)
	if err != nil {
		return show.Estimate{}
	}
	for _, e := range l.progress.snapshot(g.c.Now()) {
		if e.Change == number {
			return e.Estimate
		}
	}
	return show.Estimate{}
}

// Follow yields what happens to a change's newest revision, from its present
// state to its end. It yields nothing for a change that is not there. Any number
// may follow; none of them slows the gate down. It ends early with ctx.
func (g *Gate) Follow(ctx context.Context, repository string, number int) iter.Seq[Progress] {
	return func(yield func(Progress) bool) {
		l, err := g.loop(repository)
		if err != nil || l.load(ctx) != nil {
			return
		}
		t := l.progress.of(number)
		if t == nil {
			// An open change has progress, but for the moment in which it is accepted.
			l.proposing.Lock()
			t = l.progress.of(number)
			s, err := l.log.Read(number)
			l.proposing.Unlock()
			if err != nil {
				return
			}
			if t == nil {
				yield(l.ending(s, s.Last()))
				return
			}
		}
		for at := t.present(); ; {
			p, next, more := t.from(at)
			if more == nil {
				if p.Kind == Queued || p.Kind == Building {
					p.Estimate = g.Estimate(repository, number)
				}
				if !yield(p) || p.Ends() {
					return
				}
				at = next
				continue
			}
			select {
			case <-more:
			case <-ctx.Done():
				return
			}
		}
	}
}

// ending is the progress that a change's last event amounts to.
func (l *loop) ending(s change.Change, e change.Event) Progress {
	p := Progress{
		At:        e.At,
		Change:    s.Number,
		Revision:  e.Revision,
		Branch:    s.Branch,
		Candidate: e.Candidate,
		Tree:      e.Tree,
		Log:       e.Log,
		Cause:     e.Cause,
		Reason:    e.Reason,
		Short:     e.Short,
		Hint:      e.Hint,
		Details:   e.Details,
		Files:     e.Files,
		MoreFiles: e.MoreFiles,
		Tip:       e.Tip,
	}
	switch e.Kind {
	case change.Landed:
		p.Kind = Landed
		p.Landed, p.Old = e.New, e.Old
		if p.Landed == repo.Zero {
			p.Landed = e.In // another change brought it
		}
		p.Candidate = p.Landed
		p.FastForward = p.Landed == s.Revisions[e.Revision-1].Commit
		p.Took = e.At.Sub(s.Revisions[e.Revision-1].At)
		p.Release, _ = l.releases.NumberAt(p.Landed) // 0: it has none, or not yet
	case change.Conflict:
		p.Kind = Conflict
	case change.Withdrawn:
		p.Kind = Withdrawn
	default:
		p.Kind = Refused
	}
	return p
}
