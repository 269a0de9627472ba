package schedule

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"sync"
	"time"

	"github.com/headgate-cd/headgate/gitd/crash"
	"github.com/headgate-cd/headgate/gitd/cron"
	"github.com/headgate-cd/headgate/gitd/headgateyaml"
	"github.com/headgate-cd/headgate/gitd/repo"
	"github.com/headgate-cd/headgate/gitd/show"
	"github.com/headgate-cd/headgate/gitd/signal"
	"github.com/headgate-cd/headgate/hooks/gate"
)

// maxTries is how often a build is tried that the server could not run.
const maxTries = 3

// longestSleep bounds the wait for a time: clocks are set, and machines suspended.
const longestSleep = time.Minute

// loop is the schedules of one repository. run alone starts and ends builds.
type loop struct {
	c         *Config
	r         *repo.Repository
	log       *slog.Logger
	changed   func() // is called when a build has got a worker
	histories histories
	mailbox   signal.Mailbox[func(context.Context) error] // what run is to do
	builds    sync.WaitGroup

	mu       sync.Mutex
	building map[string]*building // by schedule: builds of this process
	file     *headgateyaml.File   // as last read
	fileAt   repo.Hash            // the commit it was read from

	tries map[string]int // by schedule: how often its open build could not be run; run's own
}

// building is a build of this process.
type building struct {
	number  int
	log     string
	started time.Time // zero while it waits for a worker
	cancel  context.CancelFunc
	retry   time.Time // it could not be run, and is tried again then; zero: it runs
}

// run does what is due until ctx is done. Then it waits for its builds, which ctx
// stops.
func (l *loop) run(ctx context.Context) {
	defer l.builds.Wait()
	moved, stop := l.c.Store.Watch(l.r.Name())
	defer stop()
	var undone []func(context.Context) error // what was posted and failed
	for ctx.Err() == nil {
		posted := append(undone, l.mailbox.Drain()...)
		undone = nil
		var failed error
		for _, f := range posted {
			if err := f(ctx); err != nil {
				undone, failed = append(undone, f), err
			}
		}
		next, err := l.step(ctx)
		if err = cmp.Or(failed, err); err != nil && ctx.Err() == nil {
			next = l.c.Now()
			if !errors.Is(err, repo.ErrMoved) { // else somebody was faster: look again
				l.log.Error("schedules stand still and are tried again", "in", l.c.Retry, "err", err)
				next = next.Add(l.c.Retry)
			}
		}
		var timer <-chan time.Time
		if !next.IsZero() {
			if soon := l.c.Now().Add(longestSleep); next.After(soon) {
				next = soon
			}
			timer = l.c.At(next)
		}
		select {
		case <-ctx.Done():
		case <-l.mailbox.C():
		case <-moved:
		case <-timer:
		}
	}
}

// declared is what the branch's headgate.yaml says, On filled in.
func (l *loop) declared() (*headgateyaml.File, error) {
	branch := l.c.Branch(l.r.Name())
	tip, err := l.r.Ref("refs/heads/" + branch)
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	f, at := l.file, l.fileAt
	l.mu.Unlock()
	if tip == repo.Zero {
		return headgateyaml.Default(), nil
	}
	if f != nil && at == tip {
		return f, nil
	}
	tree, err := l.r.TreeOf(tip)
	if err != nil {
		return nil, err
	}
	if f, err = headgateyaml.In(l.r.FilesOf(tree).ReadFile); err != nil {
		return nil, err
	}
	for i := range f.Schedules {
		f.Schedules[i].On = cmp.Or(f.Schedules[i].On, branch)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.file, l.fileAt = f, tip
	return f, nil
}

// step compares what is declared with what is on record, and does what is due. It
// returns when to look again, the zero time for not before something happens.
func (l *loop) step(ctx context.Context) (next time.Time, err error) {
	f, err := l.declared()
	if err != nil {
		return next, err
	}
	all, err := l.histories.list()
	if err != nil {
		return next, err
	}
	sooner := func(t time.Time) {
		if !t.IsZero() && (next.IsZero() || t.Before(next)) {
			next = t
		}
	}

	var entries []cron.Entry
	for _, d := range f.Schedules {
		h := all[d.Name]
		h.Name = d.Name
		spec, err := cron.Parse(d.Cron, d.Zone)
		if err != nil { // a file that landed before this server checked it
			l.log.Error("a schedule is never due", "schedule", d.Name, "err", err)
			continue
		}
		if h, err = l.declare(ctx, h, d); err != nil {
			return next, err
		}
		all[d.Name] = h
		if _, going := h.Open(); !going { // else what is due meanwhile runs when it has ended
			entries = append(entries, cron.Entry{Name: d.Name, Spec: spec, Since: h.Since})
		}
	}
	for name, h := range all {
		if _, ok := f.Schedule(name); !ok {
			if err := l.remove(ctx, h); err != nil {
				return next, err
			}
			delete(all, name)
		}
	}

	runs, at := cron.Due(entries, l.c.Now())
	sooner(at)
	for _, run := range runs {
		d, _ := f.Schedule(run.Name)
		h := all[run.Name]
		h.Since = run.At
		if all[run.Name], err = l.begin(ctx, h, d, Build{At: run.At, Late: run.Late}); err != nil {
			return next, err
		}
	}
	for _, d := range f.Schedules {
		if b, going := all[d.Name].Open(); going {
			sooner(l.build(ctx, f, d, b))
		}
	}
	return next, ctx.Err()
}

// since is a history's, or what it becomes when the schedule is declared now.
func (l *loop) since(d headgateyaml.Schedule, h History, now time.Time) time.Time {
	if h.Cron == d.Cron && h.Zone == d.Zone && !cron.Ahead(h.Since, now) {
		return h.Since
	}
	return now
}

// declare puts on record that a schedule is declared as it is, unless that is
// there: from then on it is due. So it is once the clock was set back too far.
func (l *loop) declare(ctx context.Context, h History, d headgateyaml.Schedule) (History, error) {
	now := l.c.Now()
	since := l.since(d, h, now)
	if h.Tip != repo.Zero && h.Cron == d.Cron && h.Zone == d.Zone && since.Equal(h.Since) {
		return h, nil
	}
	subject := fmt.Sprintf("schedule %s of %s is declared: %s", d.Name, l.r.Name(), d.Cron)
	if h.Cron == d.Cron && h.Zone == d.Zone {
		was := h.Since.UTC().Format(time.RFC3339)
		subject = fmt.Sprintf("schedule %s of %s counts from now: the clock was set back from %s", d.Name, l.r.Name(), was)
		l.log.Warn("a schedule counts from now, the clock was set back", "schedule", d.Name, "was", was)
	}
	h.Name, h.Cron, h.Zone, h.Since = d.Name, d.Cron, d.Zone, since
	crash.Point("schedule.declaring")
	h, err := l.histories.append(ctx, h, declared, subject, now, Build{})
	if err == nil {
		crash.Point("schedule.declared")
	}
	return h, err
}

// remove puts on record that a schedule is not declared any more, and stops its
// build. It is declared anew when it comes back: nothing was missed meanwhile.
func (l *loop) remove(ctx context.Context, h History) error {
	if b, going := h.Open(); going {
		l.mu.Lock()
		mine := l.building[h.Name]
		l.mu.Unlock()
		if mine != nil {
			mine.cancel() // it does not matter what it says now
		}
		b.State, b.Reason = Stopped, "the schedule was removed"
		var err error
		if h, err = l.end(ctx, h, b); err != nil {
			return err
		}
	}
	if h.Cron == "" {
		return nil
	}
	h.Cron, h.Zone = "", ""
	crash.Point("schedule.removing")
	_, err := l.histories.append(ctx, h, removed, fmt.Sprintf("schedule %s of %s is removed", h.Name, l.r.Name()),
		l.c.Now(), Build{})
	if err == nil {
		crash.Point("schedule.removed")
	}
	return err
}

// begin puts on record that a build is to run now, of what the branch holds. h has
// the Since that this makes.
func (l *loop) begin(ctx context.Context, h History, d headgateyaml.Schedule, b Build) (History, error) {
	b.Number, b.Branch, b.Buildspec = h.next(), d.On, d.Buildspec
	tip, err := l.r.Ref("refs/heads/" + d.On)
	if err != nil {
		return h, err
	}
	if tip != repo.Zero {
		b.Commit = tip
		if b.Tree, err = l.r.TreeOf(tip); err != nil {
			return h, err
		}
	}
	subject := fmt.Sprintf("run %d of %s is due since %s: %s at %s",
		b.Number, d.Name, b.At.UTC().Format(time.RFC3339), d.On, show.Short(b.Commit.String()))
	if b.By != "" {
		subject = fmt.Sprintf("%s asked for run %d of %s: %s at %s", b.By, b.Number, d.Name, d.On,
			show.Short(b.Commit.String()))
	}
	crash.Point("schedule.starting")
	h, err = l.histories.append(ctx, h, due, subject, l.c.Now(), b)
	if err == nil {
		crash.Point("schedule.started")
	}
	return h, err
}

// build has the open build of a schedule run, unless it does. It returns when to
// come back, the zero time for when it has ended.
func (l *loop) build(ctx context.Context, f *headgateyaml.File, d headgateyaml.Schedule, b Build) time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	if mine := l.building[d.Name]; mine != nil && (mine.retry.IsZero() || l.c.Now().Before(mine.retry)) {
		return mine.retry
	}
	mine := &building{
		number: b.Number,
		log: fmt.Sprintf("%s-schedule-%s-%d-%s", l.r.Name(), d.Name, b.Number,
			strconv.FormatInt(l.c.Now().UnixNano(), 36)),
	}
	ctx, mine.cancel = context.WithCancel(ctx)
	l.building[d.Name] = mine
	job := gate.Job{
		Repository: l.r,
		Change:     b.Number,
		By:         cmp.Or(b.By, "schedule/"+d.Name),
		Candidate:  b.Commit,
		Tree:       b.Tree,
		Buildspec:  b.Buildspec,
		Image:      f.Build.Image,
		Services:   f.Build.Services,
		Registries: f.Build.Registries,
		Timeout:    f.Build.Timeout,
		Network:    f.Build.Network,
		Variables:  f.Build.Variables,
		Limits:     f.Build.Limits,
		Log:        mine.log,
	}
	l.builds.Go(func() {
		defer mine.cancel()
		var result gate.Result
		var err error
		if b.Commit == repo.Zero {
			result.Reason = fmt.Sprintf("there is no branch %s", b.Branch)
		} else {
			result, err = l.c.Build(ctx, job, func() {
				l.mu.Lock()
				mine.started = l.c.Now()
				l.mu.Unlock()
				l.changed()
			})
		}
		stopped := ctx.Err() != nil
		l.mailbox.Post(func(ctx context.Context) error { return l.built(ctx, d.Name, mine, result, err, stopped) })
	})
	return time.Time{}
}

// built: a build has ended, with a result or without one. An error leaves all as
// it was.
func (l *loop) built(ctx context.Context, name string, mine *building, result gate.Result, failure error,
	stopped bool) error {
	h, err := l.histories.of(name)
	if err != nil {
		return err
	}
	forget := func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.building[name] == mine {
			delete(l.building, name)
		}
	}
	b, going := h.Open()
	if !going || b.Number != mine.number || stopped { // it was removed, or the server stops
		forget()
		return nil
	}
	if failure != nil {
		l.log.Error("a scheduled build could not run", "schedule", name, "build", mine.log, "err", failure)
		if l.tries[name]++; l.tries[name] < maxTries {
			l.mu.Lock()
			defer l.mu.Unlock()
			mine.retry = l.c.Now().Add(l.c.Retry)
			return nil
		}
		why := "the server's log says why under " + mine.log
		var known interface{ ForPeople() string }
		if errors.As(failure, &known) {
			why = known.ForPeople()
		}
		result = gate.Result{Reason: "the build could not run: " + why}
	}

	b.State, b.Reason, b.Log, b.Started = Failed, result.Reason, result.LogDigest, mine.started
	b.Phase, b.Command, b.Exit, b.LogLine = result.Phase, result.Command, result.Exit, result.LogLine
	if result.Green {
		b.State, b.Reason = Green, ""
	}
	if _, err := l.end(ctx, h, b); err != nil {
		return err
	}
	delete(l.tries, name)
	forget()
	return nil
}

// end puts on record what became of a build.
func (l *loop) end(ctx context.Context, h History, b Build) (History, error) {
	subject := fmt.Sprintf("run %d of %s: %s", b.Number, h.Name, b.State)
	if b.Reason != "" {
		subject += ", " + b.Reason
	}
	crash.Point("schedule.ending")
	by := b.By
	b.By = "" // the server says so
	h, err := l.histories.append(ctx, h, ended, subject, l.c.Now(), b)
	if err == nil {
		crash.Point("schedule.ended")
		l.log.Info("a scheduled build ended", "schedule", h.Name, "run", b.Number, "by", by, "state", string(b.State),
			"reason", b.Reason)
	}
	return h, err
}
