package gate

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/headgate-cd/headgate/gitd/crash"
	"github.com/headgate-cd/headgate/gitd/repo"
	"github.com/headgate-cd/headgate/hooks/gate/plan"
	"github.com/headgate-cd/headgate/hooks/verdict"
)

// building is a build that runs or waits for a worker.
type building struct {
	key       string
	candidate *candidate
	log       string
	started   time.Time // zero while it waits
	cancel    context.CancelFunc
	stopped   bool // nobody wants it any more
}

// syncBuilds starts the builds that are wanted and stops those that are not.
func (l *loop) syncBuilds(ctx context.Context, d plan.Decisions) {
	for _, key := range d.Cancel {
		if b := l.building[key]; !b.stopped {
			b.stopped = true
			b.cancel()
		}
	}
	for _, w := range d.Build {
		if l.building[w.Key] == nil {
			l.begin(ctx, l.made[w.Candidate.ID()])
		}
	}
}

// job is what the build of a candidate runs with, whoever it is for.
func (l *loop) job(b *building) Job {
	c := b.candidate
	job := Job{
		Repository: l.r,
		Branch:     c.Branch,
		Candidate:  c.commit,
		Tree:       c.tree,
		Buildspec:  c.Buildspec,
		Image:      c.Image,
		Services:   c.Services,
		Registries: c.Registries,
		Timeout:    c.Timeout,
		Log:        b.log,
		Cache:      KeepsCache,
	}
	job.Variables, job.Network, job.Limits = c.environment()
	return job
}

// begin starts the build of a candidate.
func (l *loop) begin(ctx context.Context, c *candidate) {
	o := l.open[c.Changes[0].Change]
	head := o.story.Head()
	b := &building{key: c.key, candidate: c}
	b.log = fmt.Sprintf("%s-%d.%d-%s", l.r.Name(), o.story.Number, head.Number,
		strconv.FormatInt(l.g.c.Now().UnixNano(), 36))
	job := l.job(b)
	job.Change, job.Revision, job.By, job.Base = o.story.Number, head.Number, head.By, c.base
	if job.Outside = c.outside; c.outside {
		job.Cache = NoCache
	}
	ctx, b.cancel = context.WithCancel(ctx)
	l.building[c.key] = b
	l.builds.Go(func() {
		defer b.cancel()
		v, err := l.work(ctx, b, job)
		stopped := ctx.Err() != nil
		l.mailbox.Post(func() { l.built(b, v, err, stopped) })
	})
}

// work runs one build and notes its verdict. It runs in a goroutine of its own
// and touches nothing that run owns.
func (l *loop) work(ctx context.Context, b *building, job Job) (v verdict.Verdict, err error) {
	workers := l.g.workers(job.Image)
	if err := workers.take(ctx, l.r.Name()); err != nil {
		return v, err
	}
	defer workers.give()
	started := l.g.c.Now()
	l.mailbox.Post(func() { l.began(b, started) })
	crash.Point("build.starting")
	result, err := guarded(ctx, l.g.c.Builder, job)
	if err == nil {
		err = ctx.Err() // what was stopped says nothing
	}
	if err != nil {
		return v, err
	}
	crash.Point("build.ended")
	in := b.candidate.inputs
	v = verdict.Verdict{
		Result: verdict.Red, Key: b.key, Buildspec: in.Buildspec, Image: in.Image, Variables: in.VariablesDigest(),
		Network: in.Network, Server: in.Server, Services: in.Services,
		Log: job.Log, LogDigest: result.LogDigest, Artifacts: result.Artifacts,
		Reason: result.Reason, Phase: result.Phase, Command: result.Command, Exit: result.Exit, LogLine: result.LogLine,
		Flaky:   result.Flaky,
		SBOM:    result.SBOM,
		Started: started.UTC(), Finished: l.g.c.Now().UTC(),
		Change: job.Change, Revision: job.Revision, Candidate: job.Candidate.String(),
	}
	if !in.Blob.IsZero() {
		v.Blob = in.Blob.String()
	}
	if result.Green {
		v.Result, v.Reason = verdict.Green, ""
	}
	return v, verdict.Note(ctx, l.r, job.Tree, v)
}

// guarded keeps a Builder that panics from taking the server with it.
func guarded(ctx context.Context, builder Builder, job Job) (result Result, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = &panicError{p}
		}
	}()
	return builder.Build(ctx, job)
}

// waitingFor are the open changes whose candidate waits for a build.
func (l *loop) waitingFor(key string) (list []*candidate) {
	for _, c := range l.made {
		if c.key == key && c.problem == nil {
			list = append(list, c)
		}
	}
	slices.SortFunc(list, func(a, b *candidate) int { return a.Changes[0].Change - b.Changes[0].Change })
	return list
}

// began: a worker has taken the build.
func (l *loop) began(b *building, at time.Time) {
	b.started = at
	for _, c := range l.waitingFor(b.key) {
		for i, ref := range c.Changes {
			l.progress.add(Progress{
				At:        at,
				Kind:      Building,
				Change:    ref.Change,
				Revision:  ref.Revision,
				Branch:    c.Branch,
				Place:     l.place(ref.Change, i+1),
				Candidate: c.commit,
				Tree:      c.tree,
				With:      c.with(),
				Log:       b.log,
			})
		}
	}
}

// again tells those whose build could not run that it will be tried again.
func (l *loop) again(b *building, why string) {
	for _, c := range l.waitingFor(b.key) {
		for i, ref := range c.Changes {
			l.progress.add(Progress{
				At: l.g.c.Now(), Kind: Queued, Change: ref.Change, Revision: ref.Revision, Branch: c.Branch,
				Place: l.place(ref.Change, i+1), Reason: why,
			})
		}
	}
}

// place is a change's place in the queue as it was shown last, else otherwise.
func (l *loop) place(change, otherwise int) int {
	if o := l.open[change]; o != nil && o.shown.Place > 0 {
		return o.shown.Place
	}
	return otherwise
}

// built: the build has ended, with a verdict that is noted, or without one.
func (l *loop) built(b *building, v verdict.Verdict, err error, stopped bool) {
	delete(l.building, b.key)
	switch {
	case err != nil && stopped:
		return // the plan knows why, or the server stops
	case err != nil:
		l.notBuilt(b, err)
		return
	}
	delete(l.failures, b.key)
	if v.Result == verdict.Green {
		l.durations.add(v.Finished.Sub(v.Started))
	}
	for _, c := range l.made {
		if c.tree != b.candidate.tree || c.problem != nil {
			continue
		}
		if vs, err := verdict.On(l.r, c.tree); err == nil {
			c.known = vs
		} else {
			c.known = append(slices.Clip(c.known), v)
		}
		if c.key != b.key {
			continue
		}
		for _, ref := range c.Changes {
			if o := l.open[ref.Change]; o != nil {
				o.trouble = 0
			}
			l.progress.add(Progress{
				At: v.Finished, Kind: Verdict, Change: ref.Change, Revision: ref.Revision, Branch: c.Branch,
				Candidate: c.commit, Tree: c.tree, With: c.with(), Log: v.LogName(), Green: v.Result == verdict.Green,
				Reason: reason(v), Took: v.Finished.Sub(v.Started),
			})
		}
	}
}

// notBuilt: a build came to no end. What may be the change's own fault, or is so
// until somebody changes the server, is tried a few times and then refuses the
// change; trouble of the server only lets it wait.
func (l *loop) notBuilt(b *building, err error) {
	var known interface{ ForPeople() string }
	panicked := (*panicError)(nil)
	if !errors.As(err, &known) && !errors.As(err, &panicked) {
		for _, c := range l.waitingFor(b.key) {
			l.retryLater(c.Changes[0].Change, "its build could not run, and is tried again", err)
		}
		return
	}

	l.failures[b.key]++
	if fault := (*repo.TreeFault)(nil); errors.As(err, &fault) {
		l.failures[b.key] = plan.MaxFailures // the same tree has it the next time, too
	}
	b.candidate.failure = "the server's log says why under " + b.log
	if known != nil {
		b.candidate.failure = known.ForPeople()
	}
	l.slog.Error("build could not run", "change", b.candidate.Changes[0].Change, "build", b.log, "err", err)
	if n := l.failures[b.key]; n < plan.MaxFailures {
		l.again(b, fmt.Sprintf("the build could not run, try %d of %d: %s", n, plan.MaxFailures, b.candidate.failure))
	}
}

// panicError is a Builder that panicked: with the same tree it would again.
type panicError struct{ value any }

func (e *panicError) Error() string { return fmt.Sprintf("the builder panicked: %v", e.value) }

// reason is a red verdict's line for people.
func reason(v verdict.Verdict) string {
	switch {
	case v.Result == verdict.Green:
		return ""
	case v.Reason != "":
		return v.Reason
	case v.Command != "":
		return fmt.Sprintf("%s: %q exited %d", v.Phase, v.Command, v.Exit)
	}
	return "the build failed"
}
