package hosts

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/headgate-cd/headgate/reconciler/target"
	"github.com/headgate-cd/headgate/reconciler/target/hosts/appspec"
	"github.com/headgate-cd/headgate/reconciler/target/hosts/deploy"
)

// app is one application in one environment. Its goroutine deploys; what it found is
// read by others under mu.
type app struct {
	t     *Target
	named atomic.Pointer[target.Key]
	wake  chan struct{} // something else is declared

	mu       sync.Mutex
	declared *target.Declared        // nil: it is to be removed
	remover  int                     // sequence up to which it is removed
	stop     context.CancelCauseFunc // of the deployment that runs, nil: none does

	seen target.Observed

	well wellness // the goroutine's own
}

func newApp(t *Target, k target.Key) *app {
	a := &app{t: t, wake: make(chan struct{}, 1)}
	a.named.Store(&k)
	return a
}

// key is what it is called now.
func (a *app) key() target.Key { return *a.named.Load() }

func (a *app) declare(d *target.Declared) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if d.Sequence < a.remover || a.declared != nil && d.Sequence < a.declared.Sequence {
		return
	}
	same := a.declared != nil && a.declared.Sequence == d.Sequence && a.declared.Commit == d.Commit
	again := same && d.Attempt == a.declared.Attempt && d.Part == a.declared.Part
	switch {
	case same && d.Attempt < a.declared.Attempt, again && a.declared.Drift == d.Drift:
		return
	case same && d.Attempt == a.declared.Attempt && d.Part.Before(a.declared.Part):
		return
	}
	newer := !again
	a.declared = d
	if newer {
		a.seen.Key, a.seen.Commit, a.seen.Sequence = a.key(), d.Commit, d.Sequence
		a.seen.Attempt, a.seen.Part = d.Attempt, d.Part
		a.seen.State, a.seen.Since, a.seen.Message, a.seen.Unhealed = target.Converging, time.Now(), "", false
		a.supersede(fmt.Errorf("superseded by commit %s", shortCommit(d.Commit)))
	}
	a.signal()
}

func (a *app) remove(sequence int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.declared != nil && sequence < a.declared.Sequence || sequence < a.remover {
		return
	}
	a.declared, a.remover = nil, sequence
	a.seen.State, a.seen.Message = target.Converging, "being removed"
	a.supersede(errors.New("it is to be removed"))
	a.signal()
}

// newest is the newest sequence that was told.
func (a *app) newest() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.declared != nil {
		return max(a.declared.Sequence, a.remover)
	}
	return a.remover
}

func (a *app) removal() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.remover
}

// supersede ends the deployment that runs. It is called with mu held.
func (a *app) supersede(why error) {
	if a.stop != nil {
		a.stop(why)
	}
}

func (a *app) signal() {
	select {
	case a.wake <- struct{}{}:
	default:
	}
	a.t.reports.Notify(a.key())
}

func (a *app) observe() target.Observed {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.seen
}

// report changes what is seen of a declared state, unless another one is declared by now:
// the same one with another way to deal with drift is no other.
func (a *app) report(d *target.Declared, change func(o *target.Observed)) {
	a.mu.Lock()
	if a.declared == d || sameDeployment(a.declared, d) {
		was := a.seen.State
		change(&a.seen)
		if a.seen.State != was {
			a.seen.Since = time.Now()
		}
	}
	a.mu.Unlock()
	a.t.reports.Notify(a.key())
}

// run deploys what is declared, and looks after it, until the target ends or all of
// it was removed.
func (a *app) run() {
	ctx := a.t.ctx
	var failures int
	var settled *target.Declared // dealt with
	var noted *target.Declared   // kept; nil also when it is kept that it is removed
	first := true
	watched := watchDirs(nil)
	defer func() { watched.close() }()
	for {
		a.mu.Lock()
		d := a.declared
		a.mu.Unlock()
		next := a.t.DriftEvery
		var err error
		if first || d != noted {
			fence := a.removal()
			if d != nil {
				fence = d.Sequence
			}
			if err = a.t.keep(a.key(), fence, d); err == nil {
				noted, first = d, false
			}
		}
		switch {
		case err != nil: // nothing is done that is not written down
		case d == nil:
			if err = a.takeAway(ctx); err == nil && a.t.removed(a) {
				return
			}
			settled = nil
		case !sameDeployment(d, settled):
			err = a.deploy(ctx, d)
			if err == nil {
				settled = d
			}
			watched, a.well = a.watch(watched), wellness{}
		}
		if err == nil && d != nil {
			var soon time.Duration
			if soon, err = a.lookAfter(ctx, d); err == nil {
				next = min(next, soon)
				err = a.look(d)
			}
		}
		switch {
		case ctx.Err() != nil:
			return
		case errors.Is(err, deploy.ErrBusy):
			next = busyPause // of a process that is ending: it passes by itself
			a.report(d, func(o *target.Observed) { o.Message = err.Error() })
		case err != nil:
			failures++
			next = min(time.Second<<min(failures, 6), time.Minute)
			a.t.Log.Error("could not deploy", "app", a.key().String(), "err", err, "again_in", next)
			a.report(d, func(o *target.Observed) { o.Message = err.Error() })
		default:
			failures = 0
		}
		timer := time.NewTimer(next)
		select {
		case <-ctx.Done():
		case <-a.wake:
		case <-timer.C:
		case <-watched.changed:
			// More will follow; and whoever writes all the time is looked at now and then.
			select {
			case <-ctx.Done():
			case <-a.wake:
			case <-time.After(settleTime):
			}
		}
		timer.Stop()
		if ctx.Err() != nil {
			return
		}
	}
}

// busyPause is how long another process, which ends a deployment of the same group, is
// waited for at a time.
const busyPause = 200 * time.Millisecond

// settleTime is how long after a change of a file one looks.
const settleTime = 50 * time.Millisecond

// watch watches the directories of what is installed now.
func (a *app) watch(old *watcher) *watcher {
	old.close()
	var dirs []string
	if group, err := a.t.groups.of(a.key()); err == nil {
		dirs, _ = a.t.Host.Directories(group) // without them the schedule remains
	}
	return watchDirs(dirs)
}

func sameDeployment(a, b *target.Declared) bool {
	return a != nil && b != nil && a.Commit == b.Commit && a.Sequence == b.Sequence && a.Attempt == b.Attempt &&
		a.Part == b.Part
}

func (a *app) isRemoved() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.declared == nil
}

// started notes the deployment that runs, so that another one can supersede it; nil
// when it has been superseded already.
func (a *app) started(ctx context.Context, d *target.Declared) (context.Context, func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.declared != d && !sameDeployment(a.declared, d) {
		return nil, nil
	}
	// The end of the target suspends a deployment and does not stop it.
	ctx, stop := context.WithCancelCause(context.WithoutCancel(ctx))
	a.stop = stop
	return ctx, func() {
		a.mu.Lock()
		a.stop = nil
		a.mu.Unlock()
		stop(nil)
	}
}

// deploy deploys what is declared and reports how it ended. An error is one that may
// pass: it is tried again.
func (a *app) deploy(ctx context.Context, d *target.Declared) error {
	fail := func(message string) {
		a.report(d, func(o *target.Observed) { o.State, o.Message = target.Failed, message })
	}
	if a.t.Allowed != nil && !a.t.Allowed(d.Repository) {
		fail(fmt.Sprintf("%s may not deploy on this machine; start the server with --deploy-here %s",
			d.Repository, d.Repository))
		return nil
	}
	spec, problems, _ := read("", d.Files)
	if len(problems) > 0 {
		fail(problems[0].Error())
		return nil
	}
	digest, err := artifactOf(d)
	if err != nil {
		fail(err.Error())
		return nil
	}
	group, err := a.group(d)
	if err != nil {
		return err
	}
	if d.Part != target.InPlace {
		if done, err := a.takePart(ctx, d, group, digest); err != nil || done {
			return err
		}
	}
	last, ok, err := a.goesOn(d, group, digest)
	if err != nil {
		return err
	}
	if ok {
		a.report(d, func(o *target.Observed) { a.ended(o, d, last) })
		return nil
	}
	running, end := a.started(ctx, d)
	if running == nil {
		return nil
	}
	defer end()
	request := deploy.Request{
		ID:       deploymentID(d),
		Sequence: d.Sequence,
		Progress: func(p deploy.Progress) { a.progress(d, p) },
	}
	result, err := a.t.Host.Run(running, a.request(request, d, group, spec, digest), ctx.Done())
	switch {
	case errors.Is(err, deploy.ErrSuspended):
		return nil
	case errors.Is(err, deploy.ErrFenced):
		fail("a newer commit was deployed on this host before; promote again")
		return nil
	case err != nil:
		return err
	}
	p, err := a.place(group, d, result)
	if err != nil {
		return err
	}
	if result.Status == deploy.Succeeded && d.Part == target.InPlace && (!p.Serving || p.Moving) {
		// It was of the half that gets no traffic, and there are no halves any more.
		if ok, err := a.moveTraffic(ctx, d, group, digest, &p, true); err != nil || !ok {
			return err
		}
	}
	a.t.Log.Info("deployed", "app", a.key().String(), "release", d.Release.Number, "status", result.Status, "restored",
		result.Restored)
	a.report(d, func(o *target.Observed) { a.ended(o, d, result) })
	if result.Restored == deploy.Emptied && d.Fallback != nil {
		return a.fallBack(ctx, running, d, group)
	}
	return nil
}

// deploymentID names the deployment of what is declared.
func deploymentID(d *target.Declared) string {
	id := fmt.Sprintf("d-%d-%s", d.Sequence, shortCommit(d.Commit))
	if d.Attempt > 0 {
		id += fmt.Sprintf("-r%d", d.Attempt)
	}
	return id
}

// group is the id of the deployment group of what is declared.
func (a *app) group(d *target.Declared) (string, error) {
	if len(d.Was) > 0 {
		was := make([]target.Key, 0, len(d.Was))
		for _, name := range d.Was {
			was = append(was, target.Key{Repository: d.Repository, Application: d.Application, Environment: name})
		}
		err := a.t.groups.rename(d.Key, was, func(id string) (bool, error) {
			installed, _, err := a.t.Host.Installed(id)
			return installed != "", err
		})
		if err != nil {
			return "", err
		}
	}
	return a.t.groups.of(d.Key)
}

// goesOn finds the deployment that an environment which has been renamed, or a retry, needs
// no other one after: of the same revision, by the same appspec.yml, and it succeeded.
func (a *app) goesOn(d *target.Declared, group, digest string) (result deploy.Result, ok bool, err error) {
	if d.Part != target.InPlace || len(d.Was) == 0 && d.Attempt == 0 {
		return deploy.Result{}, false, nil
	}
	if p, err := a.t.placed(group); err != nil || !p.Serving || p.Moving {
		return deploy.Result{}, false, err
	}
	_, last, err := a.t.Host.Last(group)
	if err != nil || last == nil || last.Status != deploy.Succeeded || last.Content != contentOf(d, digest) {
		return deploy.Result{}, false, err
	}
	return *last, true, nil
}

// contentOf tells deployments apart that would not do the same.
func contentOf(d *target.Declared, digest string) string {
	sum := sha256.New()
	for _, name := range appspec.Names {
		if data, ok := d.Files[name]; ok {
			sum.Write(data)
			break
		}
	}
	return digest + " " + hex.EncodeToString(sum.Sum(nil))
}

// request fills in what the declared state says.
func (a *app) request(r deploy.Request, d *target.Declared, group string, spec *appspec.Spec,
	digest string) deploy.Request {
	r.Group, r.Application, r.GroupName = group, d.Application, d.Environment
	r.Content = contentOf(d, digest)
	r.Env = map[string]string{"BUNDLE_COMMIT": d.Release.Commit, "HEADGATE_RELEASE": fmt.Sprint(d.Release.Number)}
	r.Declared = spec
	if h, _ := health("", d.Files); h != nil {
		r.Healthy = func(ctx context.Context) error { return a.becomesHealthy(ctx, h, a.probe(d, group)) }
	}
	r.Unpack = func(ctx context.Context, dir string) error { return a.t.Unpack(ctx, digest, dir) }
	return r
}

// fallBack deploys the last state that was good to a host that had none, which has
// nothing to put back when the declared one fails.
func (a *app) fallBack(ctx, running context.Context, d *target.Declared, group string) error {
	f := d.Fallback
	spec, problems, _ := read("", f.Files)
	digest, err := artifactOf(f)
	if err != nil || len(problems) > 0 {
		return nil // it was good somewhere else, by other rules; the failure that is told remains
	}
	request := deploy.Request{ID: fmt.Sprintf("f-%d-%s", d.Sequence, shortCommit(f.Commit)), Sequence: d.Sequence}
	result, err := a.t.Host.Run(running, a.request(request, f, group, spec, digest), ctx.Done())
	if err != nil || result.Status != deploy.Succeeded {
		return err
	}
	a.report(d, func(o *target.Observed) {
		message := o.Message
		a.ended(o, f, result)
		o.State, o.Message = target.Failed, message+
			fmt.Sprintf("\nrelease %d, which was good, is deployed instead", f.Release.Number)
	})
	return nil
}

// progress tells what a deployment does just now.
func (a *app) progress(d *target.Declared, p deploy.Progress) {
	a.t.printed.Notify(a.key().String())
	if p.Kind != deploy.EventStarted && p.Kind != deploy.ScriptBegun {
		return
	}
	message := string(p.Event)
	if p.Script != "" {
		message += ": " + p.Script
	}
	if p.Restoring {
		message = "putting the previous revision back, " + message
	}
	a.report(d, func(o *target.Observed) { o.Message = message })
}

// ended makes a state of how a deployment has ended.
func (a *app) ended(o *target.Observed, d *target.Declared, r deploy.Result) {
	unit := target.Unit{Name: a.t.Name}
	if len(o.Units) > 0 {
		unit = o.Units[0]
	}
	if r.Status == deploy.Succeeded {
		o.State, o.Message = target.Healthy, ""
		unit.State, unit.Release = target.Healthy, d.Release.Number
		unit.Instances = []target.Instance{{
			ID:      r.ID,
			Release: d.Release.Number,
			Phase:   target.PhaseHealthy,
			Since:   r.Finished,
			Serving: d.Part == target.InPlace || d.Part == target.Allowed,
		}}
		o.Units = []target.Unit{unit}
		return
	}
	o.State, o.Message = target.Failed, r.Failure.Error()
	unit.State = target.Failed
	switch r.Restored {
	case deploy.PutBack:
		o.Message += "\nthe previous revision is put back and was started again"
	case deploy.Emptied, deploy.NotRestored:
		unit.Release, unit.Instances = 0, nil
	}
	o.Units = []target.Unit{unit}
}

// look finds drift of what is declared and installed, and heals or reports it.
func (a *app) look(d *target.Declared) error {
	if o := a.observe(); o.State != target.Healthy && o.State != target.Degraded {
		return nil
	}
	group, err := a.t.groups.of(a.key())
	if err != nil {
		return err
	}
	drift, err := a.t.Host.Drift(group)
	if err != nil {
		return err
	}
	policy, unwell := a.policy(), a.well.why
	if len(drift) > 0 && policy != target.Report {
		a.report(d, func(o *target.Observed) { drifted(o, drift, unwell, false) })
		healed, err := a.t.Host.Heal(group)
		for _, h := range healed {
			a.t.Log.Warn("healed drift", "app", a.key().String(), "path", h.Path, "what", h.What)
		}
		if err != nil {
			return err
		}
		drift = nil
	}
	a.report(d, func(o *target.Observed) { drifted(o, drift, unwell, policy == target.Report) })
	return nil
}

// drifted makes a state of what deviates, and of why it is not well.
func drifted(o *target.Observed, drift []deploy.Deviation, unwell string, stays bool) {
	switch {
	case unwell != "":
		o.State, o.Message, o.Unhealed = target.Degraded, unwell, stays
	case len(drift) == 0:
		o.State, o.Message, o.Unhealed = target.Healthy, "", false
	default:
		lines := make([]string, 0, 4)
		for _, d := range drift[:min(len(drift), 3)] {
			lines = append(lines, d.String())
		}
		if more := len(drift) - len(lines); more > 0 {
			lines = append(lines, fmt.Sprintf("and %d more", more))
		}
		o.State, o.Message, o.Unhealed = target.Degraded, "drift: "+strings.Join(lines, "; "), stays
	}
	if len(o.Units) > 0 {
		units := []target.Unit{o.Units[0]}
		units[0].State = o.State
		o.Units = units
	}
}

// takeAway stops what is installed and removes it.
func (a *app) takeAway(ctx context.Context) error {
	name, err := a.t.groups.of(a.key())
	if err != nil {
		return err
	}
	installed, _, err := a.t.Host.Installed(name)
	if err != nil {
		return err
	}
	if installed != "" {
		running, end := a.started(ctx, nil)
		if running == nil {
			return nil
		}
		defer end()
		result, err := a.t.Host.Run(running, deploy.Request{
			ID:                 fmt.Sprintf("remove-%d-%d", a.removal(), time.Now().UnixNano()),
			Group:              name,
			Application:        a.key().Application,
			GroupName:          a.key().Environment,
			Declared:           &appspec.Spec{File: "nothing", OS: appspec.Linux},
			Unpack:             func(context.Context, string) error { return nil },
			IgnoreStopFailures: true,
		}, ctx.Done())
		if err != nil {
			return err
		}
		if result.Status != deploy.Succeeded {
			return fmt.Errorf("remove what is installed: %w", result.Failure)
		}
	}
	if err := a.t.Host.Forget(name); err != nil {
		return err
	}
	if err := os.Remove(a.t.placedFile(name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return a.t.groups.forget(a.key())
}
