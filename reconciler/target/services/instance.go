package services

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/headgate-cd/headgate/gitd/crash"
	"github.com/headgate-cd/headgate/gitd/engine"
	"github.com/headgate-cd/headgate/reconciler/target"
	"github.com/headgate-cd/headgate/reconciler/target/services/rollout"

	"github.com/headgate-cd/headgate/reconciler/target/logfile"
)

// unpackWithin bounds how long an artifact may take to be unpacked.
const unpackWithin = 10 * time.Minute

var errUnpackTimeout = fmt.Errorf("took longer than %s", unpackWithin)

// instance is one run of one instance, from Start to Exited. The loop's goroutine
// reads port and pid, and sets them by events; run has its own.
type instance struct {
	app      *app
	id       string
	what     string // of which version
	version  *version
	commit   string // of the environment
	sequence int    // its place
	restarts int
	due      string        // for which time it runs, of one that runs at times
	found    *keptInstance // nil: it is to be started

	cancel   context.CancelFunc // of what comes before the process
	stopOnce sync.Once
	stopping chan struct{}
	left     chan struct{} // closed when it is to go on without this program
	gone     chan struct{} // closed when run has returned

	steady  atomic.Bool  // nobody waits for another good check
	timeout atomic.Int64 // of a check, as declared last; 0: the version's

	// Owned by the app's loop.
	port, pid int
	usage     *target.Usage // nil: nobody knows
	lost      string        // why what it prints is lost; empty: it is not
	running   *running      // nil: nothing runs
	notes     []string      // for its log, once that is there
}

// stop has run end the process. It returns at once, and may be called twice.
func (in *instance) stop() {
	in.stopOnce.Do(func() {
		close(in.stopping)
		in.cancel()
	})
}

// leave has run return, and the process go on.
func (in *instance) leave() {
	close(in.left)
	in.cancel()
}

// errLeft is what run returns when it has left its process.
var errLeft = errors.New("left to another agent")

// run starts the process or container, or takes it over, watches it and says how it
// ended. All that it started has ended when it returns, unless it was left.
func (in *instance) run(ctx context.Context) (end rollout.Exited, err error) {
	t, v := in.app.owner, in.version
	runs := t.runner(v)
	from, release, err := runs.prepare(ctx, in)
	if err != nil {
		return in.notStarted(err), nil
	}
	defer release()
	log, err := logfile.Open(in.app.logPath(in.id))
	if err != nil {
		return in.notStarted(fmt.Errorf("open its log: %w", err)), nil
	}
	log.Path = func() string { return in.app.logPath(in.id) }
	log.Wrote = func() { t.printed.Notify(printedTopic(in.app.key())) }
	log.Mask = in.mask()
	log.Lost = func(err error) {
		lost := ""
		if err != nil {
			lost = "what it prints is lost: " + cause(err).Error()
		}
		in.tell(func() { in.lost = lost })
	}
	defer log.Close()
	// Old logs are only in the way; they are tried again with the next start.
	_ = logfile.Prune(filepath.Dir(in.app.logPath(in.id)))

	port, err := in.takePort()
	if err != nil {
		return in.notStarted(err), nil
	}
	defer t.free.release(port)
	c, err := in.command(from, port)
	if err != nil {
		return in.notStarted(err), nil
	}
	var w workload
	if in.found != nil {
		w = runs.adopt(c, in.found.started)
		log.Note("found %s of release %d%s again", in.id, v.Release.Number, onPort(port))
	} else {
		if ctx.Err() != nil {
			return in.notStarted(errStopped), nil
		}
		log.Note("%s", in.startedNote(port))
		if err := os.MkdirAll(filepath.Dir(c.output), 0o700); err != nil {
			return in.notStarted(err), nil
		}
		in.app.forget(in.id) // what an earlier run could not remove
		if err := in.giveSecrets(&c); err != nil {
			in.app.forget(in.id)
			return in.notStarted(err), nil
		}
		w, err = runs.start(ctx, c, func(s started) error {
			err := in.record(c, s)
			crash.Point("services.instance-recorded")
			return err
		})
		if err != nil {
			in.app.forget(in.id)
			return in.notStarted(err), nil
		}
		crash.Point("services.instance-started")
	}
	pid, ok := w.pid()
	if !ok {
		pid = w.identity().First.PID
	}
	in.tell(func() {
		in.app.resolved(in.what)
		in.port, in.pid = port, pid
		in.running = &running{w, c, log}
		for _, note := range in.notes {
			log.Note("%s", note)
		}
		if in.found == nil {
			in.app.observed.Saw(rollout.Ran{ID: in.id}, in.app.owner.now())
		}
	})

	defer t.meter.add(in, w)()
	carried, err := w.follow(log)
	if err != nil {
		log.Note("what it prints cannot be read: %v", err)
		carried = func() {}
	}
	health := v.Service.health(from.image.Image)
	check, err := in.check(health, c, w)
	if err != nil { // which was interpolated when it was checked
		check = func(context.Context) error { return err }
	}
	watching, unwatch := context.WithCancel(ctx)
	var watcher sync.WaitGroup
	var early time.Duration
	if of := v.Service.Container; of != nil {
		early = of.StartInterval
	}
	bound := func(ctx context.Context) error {
		return bounded(ctx, cmp.Or(time.Duration(in.timeout.Load()), health.Timeout), check)
	}
	watcher.Go(func() { watch(watching, health, early, bound, in.checked(w)) })
	longest, stopTimer := in.longest()
	defer stopTimer()
	left, asked, tooLong := false, false, false
	select {
	case <-w.over():
	case <-in.left:
		left = true
	case <-in.stopping:
		asked = true
	case <-longest:
		tooLong = true
	}
	if asked || tooLong {
		unwatch()
		stopped := make(chan struct{})
		go func() {
			defer close(stopped)
			w.stop(v.Service.StopSignal, v.Service.StopGrace, in.left)
		}()
		select {
		case <-w.over():
		case <-in.left:
			left = true
		}
		<-stopped
	}
	unwatch()
	watcher.Wait()
	if left {
		w.leave()
		carried()
		log.ForgetPart()
		return end, errLeft
	}
	carried()
	how := w.end()
	if tooLong {
		how.reason = target.ReasonTimedOut
		how.outcome = fmt.Sprintf("ran longer than %s (x-headgate.max_time) and %s", v.Service.MaxTime, how.outcome)
	}
	// What it said last is why it ended, if it did not end well because it was asked to.
	if last := log.LastLine(); last != "" && !(asked && how.exitCode == 0) {
		how.outcome += ": " + last
	}
	log.Note("%s %s", in.id, how.outcome)
	crash.Point("services.instance-ended")
	w.clear()
	in.app.forget(in.id)
	crash.Point("services.instance-forgotten")
	return rollout.Exited{
		ID:     in.id,
		Well:   how.exitCode == 0 && how.reason == "",
		Code:   how.exitCode,
		How:    how.outcome,
		Reason: how.reason,
	}, nil
}

// longest tells when the instance has run for as long as it may, never where there is no
// bound. What was found again began when it did.
func (in *instance) longest() (over <-chan time.Time, stop func()) {
	most := in.version.Service.MaxTime
	if most == 0 {
		return nil, func() {}
	}
	if in.found != nil {
		most -= in.found.age(in.app.owner.moment())
	}
	timer := time.NewTimer(max(0, most))
	return timer.C, func() { timer.Stop() }
}

// notStarted is the end of an instance that did not begin.
func (in *instance) notStarted(err error) rollout.Exited {
	return rollout.Exited{
		ID:       in.id,
		Code:     -1,
		How:      "could not start: " + err.Error(),
		Reason:   target.Reason(engine.ReasonOf(err)),
		Hopeless: errors.As(err, new(hopeless)),
	}
}

// wait tells why the instance does not start yet.
func (in *instance) wait(why error) {
	in.tell(func() {
		in.app.observed.Saw(rollout.Delayed{ID: in.id, Why: why.Error(), Reason: target.Reason(engine.ReasonOf(why))}, in.app.owner.now())
	})
}

func onPort(port int) string {
	if port == 0 {
		return ""
	}
	return " on port " + strconv.Itoa(port)
}

// takePort is the port of loopback by which the instance is reached, 0 when nobody is
// to reach it.
func (in *instance) takePort() (int, error) {
	if c := in.version.Service.Container; c != nil && c.Port == 0 {
		return 0, nil
	}
	free := &in.app.owner.free
	if in.found != nil {
		free.hold(in.found.Port)
		return in.found.Port, nil
	}
	return free.take(in.app.owner.Held)
}

// tell has the loop run f if this is still the run of the instance it knows.
func (in *instance) tell(f func()) { in.app.post(in.known(f)) }

// known is f if this is still the run of the instance that the loop knows.
func (in *instance) known(f func()) func() {
	return func() {
		if in.app.instances[in.id] == in {
			f()
		}
	}
}

// variables are those that an instance is given, but for $PORT.
func (in *instance) variables() map[string]string {
	v := in.version
	return map[string]string{
		"HEADGATE_ENVIRONMENT": v.Environment,
		"HEADGATE_APPLICATION": in.app.key().Application,
		"HEADGATE_RELEASE":     strconv.Itoa(v.Release.Number),
		"HEADGATE_COMMIT":      v.Release.Commit,
		"HEADGATE_INSTANCE":    in.id,
	}
}

// command is what to run. The instance is reached by port.
func (in *instance) command(from basis, port int) (c command, err error) {
	v := in.version
	c = command{
		release:    from.dir,
		workingDir: v.Service.WorkingDir,
		hostname:   in.id,
		output:     in.app.file(in.id, ".out"),
		position:   in.app.file(in.id, ".pos"),
		status:     in.app.file(in.id, ".status"),
		port:       port,
		vars:       in.variables(),
	}
	if of := v.Service.Container; of != nil {
		if of.Port > 0 {
			c.vars["PORT"] = strconv.Itoa(of.Port)
		}
		c.image, c.mounts, c.files = from.image, of.Mounts, in.app.file(in.id, ".files")
		c.labels = in.app.labels()
		c.container, err = in.spec(from.image, port, c.vars)
		return c, err
	}
	c.limits, c.cgroup = v.Service.Limits, in.app.owner.newCgroup()
	c.vars["PORT"] = strconv.Itoa(port)
	if c.env, err = environment(c.vars, v.Service.Environment); err == nil {
		c.argv, err = interpolateAll(v.Service.Command, c.vars)
	}
	c.argv = v.Service.sourced(c.argv)
	return c, err
}

// check is how the instance is checked.
func (in *instance) check(h Health, c command, w workload) (func(context.Context) error, error) {
	switch {
	case h.Path != "":
		return answers(c.port, h.Path), nil
	case h.Test != nil:
		var err error
		c.argv, err = interpolateAll(h.Test, c.vars)
		c.argv = in.version.Service.sourced(c.argv)
		return runs(c, w, in.mask()), err
	case h.Connect:
		return w.reach, nil
	}
	return w.alive, nil
}

// checked tells the loop the result of a check.
func (in *instance) checked(w workload) func(error) {
	first := true
	return func(err error) {
		e := rollout.Checked{ID: in.id, OK: err == nil}
		if err != nil {
			e.Message = err.Error()
		}
		pid := 0
		if first && e.OK {
			// Now the command is sure to have replaced what started it.
			pid, _ = w.pid()
			first = pid == 0
		}
		at := in.app.owner.now()
		post := in.app.post
		if !e.OK {
			in.steady.Store(false) // what is good again comes after it
		} else if in.steady.Load() && pid == 0 {
			post = in.app.steadily
		}
		post(in.known(func() {
			if pid != 0 {
				in.pid = pid
			}
			in.app.observed.Saw(e, at)
		}))
	}
}
