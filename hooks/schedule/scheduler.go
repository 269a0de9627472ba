// Package schedule runs builds when they are due: of the tip of a branch, on a
// worker that no change waits for, and never as a verdict for the gate.
//
// Scheduler is one loop a repository. It keeps what is due (package cron), and what
// became of it, as a chain of signed commits on refs/schedules/<name>; History is what
// they say. That a build is due is on record before it starts: one that was missed or
// cut off by a kill runs when the server is back, once.
//
// What is declared is read from headgate.yaml on the branch whose landings become
// releases. Package check has checked it there.
package schedule

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/headgate-cd/headgate/gitd/cron"
	"github.com/headgate-cd/headgate/gitd/headgateyaml"
	"github.com/headgate-cd/headgate/gitd/repo"
	"github.com/headgate-cd/headgate/gitd/show"
	"github.com/headgate-cd/headgate/gitd/signal"
	"github.com/headgate-cd/headgate/gitd/yamlfile"
	"github.com/headgate-cd/headgate/hooks/gate"
)

// Config is what a Scheduler is made from. Store, Branch and Build must be there.
type Config struct {
	Store  *repo.Store
	Branch func(repository string) string // the one whose headgate.yaml counts
	// Build runs a build when a worker is free, as gate.Gate.BuildSpare does.
	Build func(ctx context.Context, j gate.Job, started func()) (gate.Result, error)
	Retry time.Duration // before what could not be done is tried again; 0: 30 s
	Log   *slog.Logger  // nil: slog.Default
	Now   func() time.Time
	// At returns a channel that gets the time once a time has come, for clocks that
	// are held: time may pass between a look at Now and a call of At.
	At func(time.Time) <-chan time.Time // nil: by time.After
}

// Scheduler runs the schedules of all repositories. It is safe for concurrent use.
type Scheduler struct {
	c Config

	changed signal.Topic // by repository: a build of it got a worker, or something went on record

	mu    sync.Mutex
	loops map[string]*loop
}

// Watch returns a channel that holds a token whenever something about the
// schedules of a repository has changed since the last was taken.
func (s *Scheduler) Watch(repository string) (changed <-chan struct{}, stop func()) {
	return s.changed.Watch(repository)
}

// New makes a Scheduler. Nothing runs before Run.
func New(c Config) *Scheduler {
	if c.Retry <= 0 {
		c.Retry = 30 * time.Second
	}
	if c.Log == nil {
		c.Log = slog.Default()
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.At == nil {
		c.At = func(t time.Time) <-chan time.Time { return time.After(max(0, t.Sub(c.Now()))) }
	}
	return &Scheduler{c: c, loops: map[string]*loop{}}
}

// Run runs the schedules until ctx is done. When it returns no build runs; those
// that were cut off are run again by the next Run.
func (s *Scheduler) Run(ctx context.Context) error {
	var loops sync.WaitGroup
	defer loops.Wait()
	moved, stop := s.c.Store.Watch(signal.All)
	defer stop()

	running := map[string]bool{}
	for {
		names, err := s.c.Store.Names()
		if err != nil {
			return err
		}
		for _, name := range names {
			if running[name] || name == gate.Own { // which is built in this process
				continue
			}
			l, err := s.loop(name)
			if err != nil {
				s.c.Log.Error("schedules cannot open a repository", "repo", name, "err", err)
				continue
			}
			running[name] = true
			loops.Go(func() { l.run(ctx) })
		}
		select {
		case <-ctx.Done():
			return nil
		case <-moved: // a repository that was made has no refs before it has
		}
	}
}

func (s *Scheduler) loop(name string) (*loop, error) {
	r, err := s.c.Store.Repository(name)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.loops[name] == nil {
		s.loops[name] = &loop{
			c:         &s.c,
			r:         r,
			log:       s.c.Log.With("repo", name),
			changed:   func() { s.changed.Notify(name) },
			histories: histories{r: r, known: map[string]History{}, changed: func() { s.changed.Notify(name) }},
			building:  map[string]*building{},
			tries:     map[string]int{},
		}
	}
	return s.loops[name], nil
}

// Status is one schedule: what is declared, and what is on record.
type Status struct {
	headgateyaml.Schedule // On is filled in
	Next                  time.Time
	Builds                []Build // newest first
}

// List is the schedules that a repository declares, in the order of its file.
func (s *Scheduler) List(repository string) ([]Status, error) {
	l, err := s.loop(repository)
	if err != nil {
		return nil, err
	}
	f, err := l.declared()
	if err != nil {
		return nil, err
	}
	var list []Status
	for _, d := range f.Schedules {
		h, err := l.histories.of(d.Name)
		if err != nil {
			return nil, err
		}
		list = append(list, l.status(d, h))
	}
	return list, nil
}

func (l *loop) status(d headgateyaml.Schedule, h History) Status {
	now := l.c.Now()
	st := Status{Schedule: d, Builds: slices.Clone(h.Builds)}
	spec, err := cron.Parse(d.Cron, d.Zone)
	if err == nil {
		_, _, st.Next = spec.Due(l.since(d, h, now), now)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if b := l.building[d.Name]; b != nil {
		for i := range st.Builds {
			if st.Builds[i].Number == b.number {
				st.Builds[i].Log, st.Builds[i].Started = b.log, b.started
			}
		}
	}
	return st
}

// Start starts a build of a schedule now, by hand. When it returns nil the build
// is durable. It changes nothing of when the schedule is due.
func (s *Scheduler) Start(ctx context.Context, repository, name, by string) (Build, error) {
	l, err := s.loop(repository)
	if err != nil {
		return Build{}, err
	}
	f, err := l.declared()
	if err != nil {
		return Build{}, err
	}
	d, ok := f.Schedule(name)
	if !ok {
		return Build{}, noSchedule(f, repository, name)
	}
	for {
		h, err := l.histories.of(name)
		if err != nil {
			return Build{}, err
		}
		if h, err = l.declare(ctx, h, d); err == nil {
			if b, going := h.Open(); going {
				return b, &show.Error{
					Kind:    show.Denied,
					What:    fmt.Sprintf("run %d of %s has not ended", b.Number, name),
					Hint:    "follow it",
					Command: fmt.Sprintf("schedule log -f %s %s", repository, name),
				}
			}
			h, err = l.begin(ctx, h, d, Build{At: l.c.Now(), By: by})
		}
		if err == nil {
			return h.Builds[0], nil
		}
		if !errors.Is(err, repo.ErrMoved) {
			return Build{}, err
		}
	}
}

// noSchedule says that there is none of that name.
func noSchedule(f *headgateyaml.File, repository, name string) error {
	e := &show.Error{
		Kind: show.NotFound,
		What: fmt.Sprintf("%s has no schedule %q", repository, name),
		Hint: "declare one with schedules: in " + headgateyaml.Name,
	}
	var names []string
	for _, d := range f.Schedules {
		names = append(names, d.Name)
	}
	if near, ok := yamlfile.Nearest(name, names); ok {
		e.Hint = fmt.Sprintf("did you mean %q?", near)
	} else if len(names) > 0 {
		e.Hint = "schedules here: " + strings.Join(names, ", ")
	}
	return e
}

// Status is one schedule of a repository.
func (s *Scheduler) Status(repository, name string) (Status, error) {
	l, err := s.loop(repository)
	if err != nil {
		return Status{}, err
	}
	f, err := l.declared()
	if err != nil {
		return Status{}, err
	}
	d, ok := f.Schedule(name)
	if !ok {
		return Status{}, noSchedule(f, repository, name)
	}
	h, err := l.histories.of(name)
	if err != nil {
		return Status{}, err
	}
	return l.status(d, h), nil
}
