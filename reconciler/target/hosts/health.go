package hosts

import (
	"context"
	"errors"
	"fmt"
	"path"
	"time"

	"go.yaml.in/yaml/v4"

	"github.com/headgate-cd/headgate/gitd/yamlfile"
	"github.com/headgate-cd/headgate/reconciler/target"
	"github.com/headgate-cd/headgate/reconciler/target/hosts/deploy"
	"github.com/headgate-cd/headgate/reconciler/target/services"
)

// FileName is the file beside the appspec.yml that says more of hosts: which are meant
// (package fleet), and how it is known that what runs on one is well.
const FileName = "hosts.yaml"

// HealthKey is the key of it that is read here.
const HealthKey = "healthcheck"

// health reads healthcheck of a hosts.yaml: the keys of a compose.yaml's, and url. nil: what
// runs is well when its scripts have succeeded.
func health(dir string, files map[string][]byte) (*services.Health, yamlfile.Problems) {
	data, ok := files[FileName]
	if !ok {
		return nil, nil
	}
	file := path.Join(dir, FileName)
	top, err := yamlfile.Parse(file, data)
	if err != nil || top.Kind != yaml.MappingNode {
		problems, _ := yamlfile.ProblemsIn(err)
		return nil, problems
	}
	for key, value := range yamlfile.Pairs(top) {
		if key.Value != HealthKey {
			continue
		}
		h, problems := services.ParseHealth(file, value, HealthKey)
		if len(problems) > 0 {
			return nil, problems
		}
		return h, nil
	}
	return nil, nil
}

// Pauses between checks of what has just been started.
const (
	firstCheck  = 100 * time.Millisecond
	slowestWait = 5 * time.Second
	secondLook  = 500 * time.Millisecond // what fails at once has failed by then
)

// check checks once.
func (a *app) check(ctx context.Context, h *services.Health, p deploy.Probe) error {
	ctx, cancel := context.WithTimeoutCause(ctx, h.Timeout, fmt.Errorf("no answer within %s", h.Timeout))
	defer cancel()
	err := h.Answers(ctx)
	if h.Test != nil {
		p.Command = h.Test
		err = a.t.Host.Probe(ctx, p)
	}
	if err != nil && errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return context.Cause(ctx)
	}
	return err
}

// becomesHealthy waits for what was started to be well, until it has failed too often after
// its start period.
func (a *app) becomesHealthy(ctx context.Context, h *services.Health, p deploy.Probe) error {
	began, pause, failures, passed := time.Now(), firstCheck, 0, false
	for {
		err := a.check(ctx, h, p)
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case err == nil && passed:
			return nil
		case err == nil:
			passed, pause = true, min(h.Interval, secondLook)
		default:
			if passed = false; time.Since(began) >= h.StartPeriod {
				failures++
			}
			if failures >= h.Retries {
				return &deploy.Failure{
					What: fmt.Sprintf("is not healthy: %v", err),
					Fix:  "see what it prints, or give it a longer start_period in " + FileName,
				}
			}
			pause = min(2*pause, h.Interval, slowestWait)
		}
		timer := time.NewTimer(pause)
		select {
		case <-ctx.Done():
			timer.Stop()
			return context.Cause(ctx)
		case <-timer.C:
		}
	}
}

// Pauses between restarts of what is not well.
const (
	firstRestart = 30 * time.Second
	lastRestart  = 30 * time.Minute
)

// wellness is what is known of the health of what is deployed. It is the loop's own.
type wellness struct {
	checked   time.Time // zero: not yet
	failures  int       // in a row
	why       string    // it is not well; "": it is
	restarted time.Time // zero: it was not
	pause     time.Duration
}

// lookAfter checks what is deployed when that is due, and has it stopped and started again
// when it is not well for too long. It says when to look again.
func (a *app) lookAfter(ctx context.Context, d *target.Declared) (next time.Duration, err error) {
	w := &a.well
	h, problems := health("", d.Files)
	if h == nil || len(problems) > 0 {
		*w = wellness{}
		return a.t.DriftEvery, nil
	}
	if o := a.observe(); o.State != target.Healthy && o.State != target.Degraded {
		return a.t.DriftEvery, nil
	}
	if left := h.Interval - time.Since(w.checked); left > 0 {
		return left, nil
	}
	group, err := a.t.groups.of(a.key())
	if err != nil {
		return 0, err
	}
	running, end := a.started(ctx, d)
	if running == nil {
		return a.t.DriftEvery, nil
	}
	running, cancel := context.WithCancel(running) // also when the target ends
	defer context.AfterFunc(ctx, cancel)()
	err = a.check(running, h, a.probe(d, group))
	ended := running.Err() != nil
	cancel()
	end()
	if ended {
		return a.t.DriftEvery, nil
	}
	switch w.checked = time.Now(); {
	case err == nil:
		w.failures, w.why = 0, ""
		if time.Since(w.restarted) > lastRestart {
			w.pause = 0
		}
	default:
		if w.failures++; w.failures >= h.Retries {
			w.why = "it is not healthy: " + err.Error()
		}
	}
	if w.why == "" || a.policy() == target.Report || time.Since(w.restarted) < w.pause {
		return h.Interval, nil
	}
	a.report(d, func(o *target.Observed) { o.State, o.Message = target.Degraded, w.why+"; it is started again" })
	return h.Interval, a.restart(ctx, d, group)
}

// restart stops and starts what is deployed.
func (a *app) restart(ctx context.Context, d *target.Declared, group string) error {
	w := &a.well
	w.restarted, w.pause = time.Now(), min(max(firstRestart, 2*w.pause), lastRestart)
	running, end := a.started(ctx, d)
	if running == nil {
		return nil
	}
	defer end()
	digest, err := artifactOf(d)
	if err != nil {
		return err
	}
	request := a.request(deploy.Request{
		ID:                 fmt.Sprintf("h-%d-%d", d.Sequence, time.Now().UnixMilli()),
		Kind:               deploy.Restart,
		Sequence:           d.Sequence,
		IgnoreStopFailures: true, // it may have ended by itself
		Progress:           func(deploy.Progress) { a.t.printed.Notify(a.key().String()) },
	}, d, group, nil, digest)
	p, err := a.t.placed(group)
	if err != nil {
		return err
	}
	request.Content = p.Content
	result, err := a.t.Host.Run(running, request, ctx.Done())
	switch {
	case errors.Is(err, deploy.ErrSuspended), errors.Is(err, deploy.ErrFenced):
		return nil
	case err != nil:
		return err
	case result.Status != deploy.Succeeded:
		w.why = "it is not healthy, and could not be started again: " + result.Failure.Error()
	default:
		w.failures, w.why = 0, ""
	}
	a.t.Log.Warn("started again what was not healthy", "app", a.key().String(), "status", result.Status)
	return nil
}

// probe is how a command is run that checks what is deployed.
func (a *app) probe(d *target.Declared, group string) deploy.Probe {
	return deploy.Probe{Group: group, Application: d.Application, GroupName: d.Environment}
}

func (a *app) policy() target.Drift {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.declared == nil {
		return target.Heal
	}
	return a.declared.Drift
}
