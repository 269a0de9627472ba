package services

import (
	"context"
	"fmt"
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
	version  *version
	restarts int

	cancel   context.CancelFunc // of what comes before the process
	stopOnce sync.Once
	stopping chan struct{}

	port, pid int // owned by the app's loop
}

// stop has run end the process. It returns at once, and may be called twice.
func (in *instance) stop() {
	in.stopOnce.Do(func() {
		close(in.stopping)
		in.cancel()
	})
}

// run starts the process, watches it and says how it ended. All that it started
// has ended when it returns.
func (in *instance) run(ctx context.Context) (well bool, how string) {
	t, v := in.app.owner, in.version
	unpacking, cancel := context.WithTimeoutCause(ctx, unpackWithin, fmt.Errorf("took longer than %s", unpackWithin))
	dir, err := t.releases.use(unpacking, v.digest)
	cancel()
	if err != nil {
		return false, "could not start: " + err.Error()
	}
	defer t.releases.release(v.digest)
	log, err := openLog(in.app.logPath(in.id))
	if err != nil {
		return false, "could not start: open its log: " + err.Error()
	}
	log.wrote = func() { t.printed.Notify(printedTopic(in.app.key)) }
	defer log.close()
	// Old logs are only in the way; they are tried again with the next start.
	_ = pruneLogs(filepath.Dir(in.app.logPath(in.id)))

	port, err := t.free.take(t.Held)
	if err != nil {
		return false, "could not start: " + err.Error()
	}
	defer t.free.release(port)
	c, vars, err := in.command(dir, port)
	if err != nil {
		return false, "could not start: " + err.Error()
	}
	var p *process
	check, err := in.check(c, vars, port, func() *process { return p })
	if err != nil {
		return false, "could not start: " + err.Error()
	}
	c.output = log
	log.note("started %s of release %d on port %d (restart %d)", in.id, v.release.Number, port, in.restarts)
	p, err = t.starter.start(ctx, c)
	if err != nil {
		return false, "could not start: " + err.Error()
	}
	crash.Point("services.instance-started")
	in.tell(func() {
		in.port, in.pid = port, p.cmd.Process.Pid
		in.app.observed.Saw(rollout.Ran{ID: in.id}, time.Now())
	})

	watching, unwatch := context.WithCancel(ctx)
	var watcher sync.WaitGroup
	watcher.Go(func() { watch(watching, v.service.Health, check, in.checked(p)) })
	select {
	case <-p.done:
	case <-in.stopping:
		unwatch()
		p.stop(v.service.StopSignal, v.service.StopGrace)
	}
	unwatch()
	watcher.Wait()
	log.note("%s %s", in.id, p.outcome)
	crash.Point("services.instance-ended")
	return p.status == 0, p.outcome
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
		"PORT": strconv.Itoa(port), "HEADGATE_ENVIRONMENT": v.environment, "HEADGATE_APPLICATION": in.app.key.Application,
		"HEADGATE_RELEASE": strconv.Itoa(v.release.Number), "HEADGATE_COMMIT": v.release.Commit, "HEADGATE_INSTANCE": in.id,
	}
	c = command{release: dir, workingDir: v.service.WorkingDir, hostname: in.id}
	if c.env, err = environment(vars, v.service.Environment); err == nil {
		c.argv, err = interpolateAll(v.service.Command, vars)
	}
	return c, vars, err
}

// check is how the instance is checked once it is started.
func (in *instance) check(c command, vars map[string]string, port int, started func() *process) (func(context.Context) error, error) {
	h := in.version.service.Health
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
