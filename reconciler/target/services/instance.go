package services

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"github.com/headgate-cd/headgate/gitd/crash"
	"github.com/headgate-cd/headgate/reconciler/target/services/rollout"
)

// unpackWithin bounds how long an artifact may take to be unpacked.
const unpackWithin = 10 * time.Minute

// instance is one run of one instance, from Start to Exited. The loop's goroutine
// reads port and pid, and sets them by events; run has its own.
type instance struct {
	app      *app
	id       string
	what     string // of which version
	version  *version
	commit   string // of the environment
	restarts int
	found    *keptInstance // nil: it is to be started

	cancel   context.CancelFunc // of what comes before the process
	stopOnce sync.Once
	stopping chan struct{}
	left     chan struct{} // closed when it is to go on without this program
	gone     chan struct{} // closed when run has returned

	port, pid int // owned by the app's loop
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

// run starts the process, or takes it over, watches it and says how it ended. All
// that it started has ended when it returns, unless it was left.
func (in *instance) run(ctx context.Context) (well bool, how string, err error) {
	t, v := in.app.owner, in.version
	var dir string
	if in.found != nil {
		dir = t.releases.hold(v.Digest)
	} else {
		unpacking, cancel := context.WithTimeoutCause(ctx, unpackWithin, fmt.Errorf("took longer than %s", unpackWithin))
		dir, err = t.releases.use(unpacking, v.Digest)
		cancel()
		if err != nil {
			return false, "could not start: " + err.Error(), nil
		}
	}
	defer t.releases.release(v.Digest)
	log, err := openLog(in.app.logPath(in.id))
	if err != nil {
		return false, "could not start: open its log: " + err.Error(), nil
	}
	log.path = func() string { return in.app.logPath(in.id) }
	log.wrote = func() { t.printed.Notify(printedTopic(in.app.key())) }
	defer log.close()
	// Old logs are only in the way; they are tried again with the next start.
	_ = pruneLogs(filepath.Dir(in.app.logPath(in.id)))

	port, err := in.takePort()
	if err != nil {
		return false, "could not start: " + err.Error(), nil
	}
	defer t.free.release(port)
	c, vars, err := in.command(dir, port)
	if err != nil {
		return false, "could not start: " + err.Error(), nil
	}
	var p *process
	check, err := in.check(c, vars, port, func() *process { return p })
	if err != nil {
		return false, "could not start: " + err.Error(), nil
	}
	if in.found != nil {
		p = adopt(in.found.started, c.status)
		log.note("found %s of release %d on port %d again", in.id, v.Release.Number, port)
	} else {
		if ctx.Err() != nil {
			return false, "could not start: " + errStopped.Error(), nil
		}
		log.note("started %s of release %d on port %d (restart %d)", in.id, v.Release.Number, port, in.restarts)
		if err := os.MkdirAll(filepath.Dir(c.output), 0o700); err != nil {
			return false, "could not start: " + err.Error(), nil
		}
		in.app.forget(in.id) // what an earlier run could not remove
		p, err = t.starter.start(c, func(s started) error { return in.record(c, port, s) })
		if err != nil {
			in.app.forget(in.id)
			return false, "could not start: " + err.Error(), nil
		}
		crash.Point("services.instance-started")
	}
	in.tell(func() {
		in.port, in.pid = port, p.started.First.PID
		if pid, ok := p.pid(); ok {
			in.pid = pid
		}
		if in.found == nil {
			in.app.observed.Saw(rollout.Ran{ID: in.id}, time.Now())
		}
	})

	var carrying sync.WaitGroup
	carried := func() {}
	if out, err := openOutput(c.output, in.app.file(in.id, ".pos"), log); err != nil {
		log.note("what it prints cannot be read: %v", err)
	} else {
		printed, unwatch := t.outputs.add(c.output)
		ended := make(chan struct{})
		carrying.Go(func() { out.follow(printed, ended) })
		carried = func() {
			close(ended)
			carrying.Wait()
			unwatch()
			out.close()
		}
	}

	watching, unwatch := context.WithCancel(ctx)
	var watcher sync.WaitGroup
	watcher.Go(func() { watch(watching, v.Service.Health, check, in.checked(p)) })
	left := false
	select {
	case <-p.done:
	case <-in.left:
		left = true
	case <-in.stopping:
		unwatch()
		stopped := make(chan struct{})
		go func() {
			defer close(stopped)
			p.stop(v.Service.StopSignal, v.Service.StopGrace, in.left)
		}()
		select {
		case <-p.done:
		case <-in.left:
			left = true
		}
		<-stopped
	}
	unwatch()
	watcher.Wait()
	carried()
	if left {
		p.leave()
		log.forgetPart()
		return false, "", errLeft
	}
	if last := log.lastLine(); last != "" {
		p.outcome += ": " + last
	}
	log.note("%s %s", in.id, p.outcome)
	crash.Point("services.instance-ended")
	in.app.forget(in.id)
	crash.Point("services.instance-forgotten")
	return p.exitCode == 0, p.outcome, nil
}

// takePort is the port that the instance is told to listen on.
func (in *instance) takePort() (int, error) {
	free := &in.app.owner.free
	if in.found != nil {
		free.hold(in.found.Port)
		return in.found.Port, nil
	}
	return free.take(in.app.owner.Held)
}

// tell has the loop run f if this is still the run of the instance it knows.
func (in *instance) tell(f func()) {
	in.app.post(func() {
		if in.app.instances[in.id] == in {
			f()
		}
	})
}

// command is what to run, and the variables of the instance, which is told to
// listen on port.
func (in *instance) command(dir string, port int) (c command, vars map[string]string, err error) {
	v := in.version
	vars = map[string]string{
		"PORT": strconv.Itoa(port), "HEADGATE_ENVIRONMENT": v.Environment, "HEADGATE_APPLICATION": in.app.key().Application,
		"HEADGATE_RELEASE": strconv.Itoa(v.Release.Number), "HEADGATE_COMMIT": v.Release.Commit, "HEADGATE_INSTANCE": in.id,
	}
	c = command{
		release:    dir,
		workingDir: v.Service.WorkingDir,
		hostname:   in.id,
		output:     in.app.file(in.id, ".out"),
		status:     in.app.file(in.id, ".status"),
	}
	if c.env, err = environment(vars, v.Service.Environment); err == nil {
		c.argv, err = interpolateAll(v.Service.Command, vars)
	}
	return c, vars, err
}

// check is how the instance is checked once it is started.
func (in *instance) check(c command, vars map[string]string, port int, started func() *process) (func(context.Context) error, error) {
	h := in.version.Service.Health
	switch {
	case h.Path != "":
		return answers(port, h.Path), nil
	case h.Test != nil:
		var err error
		c.argv, err = interpolateAll(h.Test, vars)
		return runs(in.app.owner.starter, c, started), err
	case h.Connect:
		return connects(port), nil
	}
	return alive, nil
}

// checked tells the loop the result of a check.
func (in *instance) checked(p *process) func(error) {
	first := true
	return func(err error) {
		e := rollout.Checked{ID: in.id, OK: err == nil}
		if err != nil {
			e.Message = err.Error()
		}
		pid := 0
		if first && e.OK {
			// Now the command is sure to have replaced what started it.
			pid, _ = p.pid()
			first = false
		}
		in.tell(func() {
			if pid != 0 {
				in.pid = pid
			}
			in.app.observed.Saw(e, time.Now())
		})
	}
}
