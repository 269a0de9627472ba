package function

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/headgate-cd/headgate/reconciler/target"
	"github.com/headgate-cd/headgate/reconciler/target/alarm"
	"github.com/headgate-cd/headgate/reconciler/target/function/rollout"
	"github.com/headgate-cd/headgate/reconciler/target/services"
)

// load takes over what an earlier run has kept.
func (a *app) load(d *target.Declared) error {
	if a.loaded {
		return nil
	}
	var was []string
	if d != nil {
		was = d.Was
	}
	a.mu.Lock()
	key := a.key
	a.mu.Unlock()
	dir, found := a.t.takeKept(key, was)
	if !found {
		a.dir, a.loaded = a.t.newDirectory(key), true
		a.logs.Store(filepath.Join(a.t.LogDir, filepath.Base(a.dir)))
		return nil
	}
	s, err := readState(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if s.Deployment != nil {
		s.Deployment.Interrupted()
	}
	a.dir, a.state, a.loaded = dir, s, true
	a.logs.Store(filepath.Join(a.t.LogDir, filepath.Base(dir)))
	return nil
}

// refused is why what is declared cannot be deployed, which trying again does not change.
type refused struct {
	why  string
	back bool // to what was good is a way out
}

func (e *refused) Error() string { return e.why }

// accept makes what is declared what this is about: it publishes versions, opens addresses,
// and begins the deployment.
func (a *app) accept(ctx context.Context, d *target.Declared) error {
	if err := a.supersede(d); err != nil {
		return err
	}
	err := a.prepare(ctx, d)
	var no *refused
	if errors.As(err, &no) {
		a.accepted = d
		a.rejected, a.back = no.why, no.back && (a.current() > 0 || d.Fallback != nil)
		a.state.Deployment = nil
		// What served before goes on, also where this is the first that this run sees of it.
		if a.settings != nil && a.settings.Engine != engineAWS && a.t.bwrap != "" {
			if err := a.open(ctx, nil); err != nil {
				return err
			}
		}
		return nil
	}
	if err != nil {
		return err
	}
	a.accepted, a.rejected = d, ""
	return nil
}

// supersede ends the deployment of an earlier commit: its alias goes back to where it was
// before anything of a later one begins.
func (a *app) supersede(d *target.Declared) error {
	s := &a.state
	a.mu.Lock()
	s.Key = a.key
	a.mu.Unlock()
	s.Fence, s.Removed = max(s.Fence, d.Sequence), false
	if p := s.Deployment; p != nil && p.ID != deploymentID(d) {
		if !p.Stage.Over() {
			a.t.Log.Info("deployment superseded", "app", a.name(), "deployment", p.ID, "by", deploymentID(d))
			if p.Current > 0 {
				s.Aliases[p.Of] = rollout.Alias{Version: p.Current}
			}
			a.pending()
		}
		s.Deployment = nil
	}
	s.Commit = d.Commit
	if err := a.save(); err != nil {
		return err
	}
	a.route()
	return nil
}

func (s *Settings) aliasKey() string { return s.Spec.Name + ":" + s.Spec.Alias }

func deploymentID(d *target.Declared) string {
	return fmt.Sprintf("d-%d-%s", d.Sequence, cmp.Or(d.Commit[:min(12, len(d.Commit))], "none"))
}

// current is the version that the alias is at, 0 without an alias.
func (a *app) current() int {
	if a.settings == nil {
		return 0
	}
	return a.state.Aliases[a.settings.aliasKey()].Version
}

// prepare does all of accept that may fail.
func (a *app) prepare(ctx context.Context, d *target.Declared) error {
	settings, problems, _ := read("", d.Files)
	if len(problems) > 0 {
		return &refused{why: problems[0].Error()}
	}
	if settings.Engine != engineAWS && a.state.Remote != nil {
		return &refused{why: "what is deployed is at AWS; declare functions of this machine in another environment"}
	}
	a.settings = settings
	if settings.Engine == engineAWS {
		return a.prepareRemote(ctx, d, settings)
	}
	if a.t.bwrap == "" {
		return &refused{why: "functions run in bubblewrap, which is not installed; apt-get install bubblewrap, and promote again"}
	}
	if err := a.listen(); err != nil {
		return err
	}
	if a.current() == 0 && d.Fallback != nil {
		if err := a.fallBack(ctx, d.Fallback); err != nil {
			a.t.Log.Warn("what was good last cannot serve until the new release does", "app", a.name(), "err", err)
		}
	}
	published := map[string]int{}
	for _, name := range slices.Sorted(maps.Keys(settings.Functions)) {
		number, err := a.publish(ctx, d, settings.Functions[name])
		if err != nil {
			return err
		}
		published[name] = number
	}
	if err := a.save(); err != nil {
		return err
	}
	if err := a.open(ctx, published); err != nil {
		return err
	}
	return a.begin(ctx, d, published[settings.Spec.Name])
}

// begin begins the deployment to a version, unless the alias is there.
func (a *app) begin(ctx context.Context, d *target.Declared, goal int) error {
	settings := a.settings
	at := a.state.Aliases[settings.aliasKey()]
	if wanted := settings.Spec.Target; wanted > 0 && wanted != goal {
		return &refused{why: fmt.Sprintf(
			"TargetVersion is %d, and release %d is version %d of %s; leave TargetVersion out, or write %d",
			wanted, d.Release.Number, goal, settings.Spec.Name, goal)}
	}
	if at == (rollout.Alias{Version: goal}) || a.state.Deployment != nil {
		return nil // it is there, or on its way
	}
	if given := settings.Spec.Current; given > 0 && given != at.Version {
		return &refused{why: fmt.Sprintf(
			"CurrentVersion is %d, and the alias %s of %s points to %s; leave CurrentVersion out, or write the version that it points to",
			given, settings.Spec.Alias, settings.Spec.Name, at)}
	}
	if settings.Engine != engineAWS {
		if err := a.prove(ctx, goal); err != nil {
			return err
		}
	}
	a.state.Deployment = &rollout.Progress{Deployment: rollout.Deployment{
		ID:      deploymentID(d),
		Of:      settings.aliasKey(),
		Current: at.Version,
		Target:  goal,
		Before:  settings.Spec.Before,
		After:   settings.Spec.After,
		Shift:   settings.Deployment.Deployment,
	}}
	return nil
}

// fallBack has the alias, where there is none, at what was good last: on a machine that was
// made anew a bad release is not the first to serve.
func (a *app) fallBack(ctx context.Context, good *target.Declared) error {
	settings, problems, _ := read("", good.Files)
	if err := problems.Err(); err != nil {
		return err
	}
	key := a.settings.aliasKey()
	if settings.aliasKey() != key {
		return nil // it is another one's alias
	}
	number, err := a.publish(ctx, good, settings.Functions[settings.Spec.Name])
	if err != nil {
		return err
	}
	a.state.Aliases[key] = rollout.Alias{Version: number}
	return a.save()
}

// advance takes the deployment as far as it may go now, looks for drift, and says when to
// look again.
func (a *app) advance(ctx context.Context, d *target.Declared) (time.Duration, error) {
	next := a.t.DriftEvery
	p := a.state.Deployment
	if p != nil && !p.Stage.Over() {
		now := a.t.now()
		a.mu.Lock()
		paused := a.declared != nil && a.declared.Paused
		a.mu.Unlock()
		after, calls, queries, wake := rollout.Step(*p, paused, now, func() string { return rand.Text() })
		if err := a.progress(after); err != nil {
			return 0, err
		}
		if err := a.follow(ctx); err != nil {
			a.state.Deployment.Interrupted() // its hook is called once that is done
			return 0, err
		}
		for _, c := range calls {
			a.call(after.ID, c)
		}
		for _, q := range queries {
			a.query(d, after, q)
		}
		if !wake.IsZero() {
			next = min(next, max(wake.Sub(now), time.Millisecond))
		}
		p = a.state.Deployment
	}
	switch {
	case p == nil || p.Stage == rollout.Succeeded:
		return next, a.look(ctx, d)
	case p.Stage == rollout.Failed:
		if err := a.follow(ctx); err != nil { // a hook's report does not move it
			return 0, err
		}
		a.fail(d, p.Current > 0 || d.Fallback != nil, p.Why)
	default:
		a.report(d, func(o *target.Observed) { o.State, o.Message = target.Converging, p.Waiting() })
	}
	return next, nil
}

// progress writes down how far the deployment has come, and has requests go there.
func (a *app) progress(after rollout.Progress) error {
	before := a.state
	a.state.Deployment = &after
	a.state.Aliases = maps.Clone(a.state.Aliases)
	key, at := a.settings.aliasKey(), after.Alias()
	if a.state.Aliases[key] != at {
		a.pending()
	}
	if a.state.Aliases[key] = at; at.Version == 0 {
		delete(a.state.Aliases, key)
	}
	if err := a.save(); err != nil {
		a.state = before
		return err
	}
	if before.Aliases[key] != at {
		a.t.Log.Info("alias moved", "app", a.name(), "function", a.settings.Spec.Name, "alias", a.settings.Spec.Alias,
			"to", at.String())
	}
	if after.Stage == rollout.Failed {
		a.t.Log.Warn("deployment given up", "app", a.name(), "deployment", after.ID, "why", after.Why)
	}
	a.route()
	return nil
}

// call invokes a hook. One that ends in an error has failed; one that returns without a
// report may still report by other ways.
func (a *app) call(deployment string, c rollout.Call) {
	payload := fmt.Sprintf(`{"DeploymentId":%q,"LifecycleEventHookExecutionId":%q}`, deployment, c.Execution)
	if r := a.remote; r != nil && a.settings.Engine == engineAWS {
		a.asking.Go(func() {
			status, message := rollout.HookSucceeded, ""
			if err := r.call(a.life, c.Function, []byte(payload)); err != nil {
				status, message = rollout.HookFailed, err.Error()
			}
			if a.life.Err() == nil {
				_ = a.hookReported(deployment, c.Execution, status, message) // another commit may be declared
			}
		})
		return
	}
	f := a.functions[c.Function]
	if f == nil {
		return // the check does not let it happen; it fails when its time is up
	}
	f.mu.Lock()
	latest := f.latest
	f.mu.Unlock()
	a.asking.Go(func() {
		e, err := f.invoke(a.life, exactly(latest),
			invocationOf{payload: []byte(payload), arn: a.arn(c.Function, strconv.Itoa(latest))})
		switch {
		case a.life.Err() != nil:
			return // it is called again
		case err != nil:
			_ = a.hookReported(deployment, c.Execution, rollout.HookFailed, err.Error()) // it may have reported before
		case e.err != nil:
			_ = a.hookReported(deployment, c.Execution, rollout.HookFailed, e.err.Error())
		}
		e.finish()
	})
}

// hookReported takes a hook's report, which is kept before it is answered.
func (a *app) hookReported(deployment, execution string, status rollout.HookStatus, message string) error {
	a.stateMu.Lock()
	defer a.stateMu.Unlock()
	p := a.state.Deployment
	if p == nil || a.settings == nil {
		return rollout.ErrNoExecution
	}
	after, err := p.Reported(deployment, execution, status, message, a.t.now())
	if err != nil {
		return err
	}
	if err := a.progress(after); err != nil {
		return err
	}
	a.mu.Lock()
	a.nudge()
	a.mu.Unlock()
	return nil
}

// queryTimeout bounds one question to Prometheus.
const queryTimeout = 30 * time.Second

// query asks about an alarm.
func (a *app) query(d *target.Declared, p rollout.Progress, q rollout.Query) {
	query, err := services.QueryOf(a.settings.Deployment.Queries[q.Alarm], d)
	above := slices.ContainsFunc(p.Shift.Alarms,
		func(of alarm.Alarm) bool { return of.Name == q.Alarm && of.Above })
	a.asking.Go(func() {
		ctx, cancel := context.WithTimeout(a.life, queryTimeout)
		defer cancel()
		e := alarm.Measured{Name: q.Alarm}
		if err != nil {
			e.Err = err.Error()
		} else {
			e = query.Ask(ctx, q.Alarm, above)
		}
		a.stateMu.Lock()
		if now := a.state.Deployment; now != nil && now.ID == p.ID {
			after := now.Answered(e, a.t.now())
			a.state.Deployment = &after // what an alarm says is not kept: it is asked again
		}
		a.stateMu.Unlock()
		a.mu.Lock()
		a.nudge()
		a.mu.Unlock()
	})
}
