package receive

import (
	"context"
	"sync"
	"time"

	"github.com/headgate-cd/headgate/gitd/show"
	"github.com/headgate-cd/headgate/hooks/gate"
)

// follower tells a pusher what happens to a change until it ends. One goroutine
// writes; one more reads the gate, and one the log of the running build.
type follower struct {
	l          *Listener
	h          *hook
	repository string
	change     int
	reporter   *reporter
}

const (
	// settle is how long the first "queued" is held back: a tree that is green
	// already lands at once, and its pusher need not read about a queue.
	settle = 150 * time.Millisecond
	// silence is how long a step may say nothing before it is named: most end
	// before, and are one line.
	stillTimer = 2 * time.Second
	// tail is how long a build's last lines are waited for when its verdict is there.
	tail = 2 * time.Second
)

// first tells what somebody who does not wait needs to know.
func (f *follower) first(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	var now gate.Progress
	for p := range f.l.Gate.Follow(ctx, f.repository, f.change) {
		now = p
		break
	}
	f.h.lines(f.reporter.nowait(now)...)
}

// follow tells everything up to the end, which it returns. ended is false when
// the pusher left or the server stops before.
func (f *follower) follow(ctx context.Context) (last gate.Progress, ended bool) {
	ctx, cancel := context.WithCancel(ctx)
	var readers sync.WaitGroup
	defer readers.Wait()
	defer cancel()

	states := make(chan gate.Progress)
	readers.Go(func() {
		defer close(states)
		for p := range f.l.Gate.Follow(ctx, f.repository, f.change) {
			select {
			case states <- p:
			case <-ctx.Done():
				return
			}
		}
	})
	f.h.lines(f.reporter.greeting(f.l.Now())...)

	log := &logReader{l: f.l, group: &readers}
	defer log.stop()
	still := time.NewTicker(f.l.Still)
	defer still.Stop()
	tell := func(lines []string) {
		if len(lines) > 0 {
			f.h.lines(lines...)
			still.Reset(f.l.Still)
		}
	}
	var held *gate.Progress
	var holding, silent <-chan time.Time
	read := func(e show.LogEvent) {
		tell(f.reporter.log(e))
		if e.Kind == "step" {
			silent = time.After(stillTimer)
		}
	}
	release := func() {
		if held != nil {
			tell(f.reporter.progress(*held))
			held, holding = nil, nil
		}
	}
	for {
		select {
		case p, more := <-states:
			if !more {
				return last, false
			}
			if p.Kind == gate.Queued && p.Reason == "" && !f.reporter.greeted {
				held, last = &p, p
				if holding == nil {
					holding = time.After(settle)
				}
				continue
			}
			if !p.Reused && !(p.Kind == gate.Landed && f.reporter.reused) {
				release()
			}
			held, holding = nil, nil
			if p.Kind == gate.Building && p.Log != "" && p.Log == log.id {
				last = p // known: only its place or its time has changed
				continue
			}
			if p.Kind == gate.Building || p.Ends() || p.Kind == gate.Verdict {
				// The log's last lines come before what follows from them.
				for e := range log.rest(ctx) {
					read(e)
				}
			}
			if p.Kind == gate.Building && !p.Reused && p.Log != "" && f.l.Logs != nil {
				log.start(ctx, p.Log)
			}
			tell(f.reporter.progress(p))
			if p.Kind == gate.Landed && p.Release > 0 {
				tell(f.released(ctx, p.Release))
			}
			last = p
			if p.Ends() {
				return p, p.Kind != gate.Restarting // which is told already
			}
		case e, more := <-log.events:
			if !more {
				log.events = nil
				continue
			}
			read(e)
		case <-silent:
			tell(f.reporter.open())
		case <-holding:
			release()
		case <-still.C:
			release()
			last.Estimate = f.l.Gate.Estimate(f.repository, f.change)
			tell(f.reporter.still(f.l.Now(), last))
		case <-f.l.closing.Done():
			return last, false
		case <-ctx.Done():
			return last, false
		}
	}
}

// nextTimeout is how long a pusher waits to hear where a release goes.
const nextTimeout = 3 * time.Second

// released tells of the release that a landing has made.
func (f *follower) released(ctx context.Context, release int) []string {
	if f.l.Environments == nil {
		return f.reporter.released(release, nil)
	}
	ctx, cancel := context.WithTimeout(ctx, nextTimeout)
	defer cancel()
	next, err := f.l.Environments.Next(ctx, f.repository, release)
	if err != nil {
		f.l.Log.Info("cannot say where a release goes", "repo", f.repository, "release", release, "err", err)
	}
	return f.reporter.released(release, next)
}

// logReader reads one build's log at a time.
type logReader struct {
	l      *Listener
	group  *sync.WaitGroup
	id     string // of the log that was started last
	cancel context.CancelFunc
	events chan show.LogEvent // nil: none; closed at the log's end
}

func (r *logReader) start(ctx context.Context, id string) {
	r.stop()
	ctx, cancel := context.WithCancel(ctx)
	events := make(chan show.LogEvent)
	r.id, r.cancel, r.events = id, cancel, events
	r.group.Go(func() {
		defer close(events)
		// The gate names a log when it starts the build; the build makes it a
		// moment later.
		for pause := 20 * time.Millisecond; ; pause *= 2 {
			some, err := r.read(ctx, id, events)
			if err == nil || ctx.Err() != nil {
				return
			}
			if some || pause > 5*time.Second {
				r.l.Log.Warn("build log could not be followed", "build", id, "err", err)
				return
			}
			select {
			case <-time.After(pause):
			case <-ctx.Done():
				return
			}
		}
	})
}

// read sends a log's events; some reports whether there was any.
func (r *logReader) read(ctx context.Context, id string, events chan<- show.LogEvent) (some bool, err error) {
	for e, err := range r.l.Logs.Follow(ctx, id) {
		if err != nil {
			return some, err
		}
		some = true
		select {
		case events <- e:
		case <-ctx.Done():
			return some, ctx.Err()
		}
	}
	return some, nil
}

// rest yields what is left of the log, for a moment, and stops reading it.
func (r *logReader) rest(ctx context.Context) func(yield func(show.LogEvent) bool) {
	return func(yield func(show.LogEvent) bool) {
		defer r.stop()
		limit := time.NewTimer(tail)
		defer limit.Stop()
		for r.events != nil {
			select {
			case e, more := <-r.events:
				if !more || !yield(e) {
					return
				}
			case <-limit.C:
				return
			case <-ctx.Done():
				return
			}
		}
	}
}

func (r *logReader) stop() {
	if r.cancel != nil {
		r.cancel()
	}
	r.cancel, r.events = nil, nil
}
