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
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/headgate-cd/headgate/gitd/signal"
	"github.com/headgate-cd/headgate/reconciler/target"
	"github.com/headgate-cd/headgate/reconciler/target/function/rollout"
	shift "github.com/headgate-cd/headgate/reconciler/target/services/rollout"
)

// app is one application in one environment. Its loop does what is declared; what others
// tell meanwhile (a hook's report, an alarm's value) changes the state under its lock and
// wakes the loop.
type app struct {
	t    *Target
	wake chan struct{}

	mu       sync.Mutex
	key      target.Key
	declared *target.Declared // nil: it is to be removed
	remover  int              // sequence up to which it is removed
	stop     func()           // of what the loop waits for, for another commit
	seen     target.Observed

	// The loop's, and read by others under stateMu. Who holds both locks took this one first.
	stateMu   sync.Mutex
	dir       string
	state     state
	loaded    bool
	accepted  *target.Declared // that state is about
	settings  *Settings
	functions map[string]*function
	alias     router
	listeners map[string]*listener // by address
	asking    sync.WaitGroup       // hooks, alarms and events that nobody waits for

	view    atomic.Pointer[view]
	logs    atomic.Value    // string: directory of what instances print
	printed signal.Topic    // at printing
	port    atomic.Int64    // of the invoke API
	events  atomic.Int64    // that nobody waits for
	life    context.Context // of what instances do; it ends when nobody asks for anything any more
	over    context.CancelFunc
}

// view is what requests and reports need of what was accepted. It is not changed.
type view struct {
	settings  *Settings
	functions map[string]*function
	releases  map[string]map[int]int // by function and version
}

// show has requests and reports see what was accepted.
func (a *app) show() {
	v := &view{settings: a.settings, functions: maps.Clone(a.functions), releases: map[string]map[int]int{}}
	for name, all := range a.state.Functions {
		v.releases[name] = map[int]int{}
		for _, version := range all {
			v.releases[name][version.Number] = version.Release
		}
	}
	a.view.Store(v)
}

func newApp(t *Target, k target.Key) *app {
	a := &app{
		t:         t,
		key:       k,
		wake:      make(chan struct{}, 1),
		functions: map[string]*function{},
		listeners: map[string]*listener{},
	}
	a.life, a.over = context.WithCancel(context.Background())
	return a
}

func (a *app) declare(d *target.Declared) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if d.Sequence < a.remover || a.declared != nil && d.Sequence < a.declared.Sequence {
		return
	}
	if !sameDeployment(a.declared, d) {
		a.seen.Key, a.seen.Commit, a.seen.Sequence = a.key, d.Commit, d.Sequence
		a.seen.State, a.seen.Since = target.Converging, time.Now()
		a.seen.Message, a.seen.Unhealed, a.seen.RollBack = "", false, false
		if a.stop != nil {
			a.stop()
		}
	}
	a.declared = d
	a.nudge()
}

func sameDeployment(a, b *target.Declared) bool {
	return a != nil && b != nil && a.Commit == b.Commit && a.Sequence == b.Sequence
}

func (a *app) remove(sequence int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.declared != nil && sequence < a.declared.Sequence || sequence < a.remover {
		return
	}
	a.declared, a.remover = nil, sequence
	if a.seen.Commit != "" {
		a.seen.State, a.seen.Message = target.Converging, "being removed"
	}
	if a.stop != nil {
		a.stop()
	}
	a.nudge()
}

// rename has the application go on under another name, unless it is being removed.
func (a *app) rename(k target.Key) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.declared == nil {
		return false
	}
	a.key = k
	return true
}

func (a *app) removal() (key target.Key, sequence int, is bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.key, a.remover, a.declared == nil
}

// nudge wakes the loop. It is called with mu held.
func (a *app) nudge() {
	select {
	case a.wake <- struct{}{}:
	default:
	}
	a.t.reports.Notify(a.key)
}

// changed tells those who watch that instances came or went.
func (a *app) changed() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.t.reports.Notify(a.key)
}

// report changes what is seen of a declared state, unless another one is declared by now.
func (a *app) report(d *target.Declared, change func(o *target.Observed)) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !sameDeployment(a.declared, d) {
		return
	}
	was := a.seen.State
	change(&a.seen)
	if a.seen.State != was {
		a.seen.Since = time.Now()
	}
	a.t.reports.Notify(a.key)
}

// fail says that what is declared does not work. What served before goes on.
func (a *app) fail(d *target.Declared, back bool, message string) {
	a.report(d, func(o *target.Observed) {
		o.State, o.Message, o.RollBack, o.Unhealed = target.Failed, message, back, false
	})
}

// run does what is declared until the target ends, or all of it was removed.
func (a *app) run() {
	ctx := a.t.ctx
	defer a.end()
	failures := 0
	for {
		a.mu.Lock()
		d := a.declared
		doing, stop := context.WithCancel(ctx)
		a.stop = stop
		a.mu.Unlock()

		next, err := a.turn(doing, d)
		superseded := doing.Err() != nil
		stop()
		switch {
		case ctx.Err() != nil:
			return
		case d == nil && err == nil:
			if a.t.removed(a) {
				return
			}
		case superseded:
			continue
		case err != nil:
			failures++
			next = min(time.Second<<min(failures, 6), time.Minute)
			a.t.Log.Error("could not deploy a function", "app", a.name(), "err", err, "again_in", next)
			a.report(d, func(o *target.Observed) { o.Message = err.Error() })
		default:
			failures = 0
		}
		timer := time.NewTimer(next)
		select {
		case <-ctx.Done():
		case <-a.wake:
		case <-timer.C:
		}
		timer.Stop()
		if ctx.Err() != nil {
			return
		}
	}
}

func (a *app) name() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.key.String()
}

// turn does what there is to do now, and says when to look again.
func (a *app) turn(ctx context.Context, d *target.Declared) (next time.Duration, err error) {
	a.stateMu.Lock()
	defer a.stateMu.Unlock()
	if err := a.load(d); err != nil {
		return 0, err
	}
	if d == nil {
		return 0, a.takeAway()
	}
	if d.Sequence < a.state.Fence {
		a.fail(d, false, "a newer commit was declared on this machine before; promote again")
		return a.t.DriftEvery, nil
	}
	if !sameDeployment(a.accepted, d) {
		if err := a.accept(ctx, d); err != nil {
			return 0, err
		}
	}
	return a.advance(d)
}

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
		a.state.Deployment = nil
		// What served before goes on, also where this is the first that this run sees of it.
		if a.settings != nil && a.t.bwrap != "" {
			if err := a.open(ctx, nil); err != nil {
				return err
			}
		}
		a.fail(d, no.back && (a.current() > 0 || d.Fallback != nil), no.why)
		return nil
	}
	if err != nil {
		return err
	}
	a.accepted = d
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
	a.settings = settings
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
	goal, at := published[settings.Spec.Name], a.state.Aliases[settings.aliasKey()]
	if wanted := settings.Spec.Target; wanted > 0 && wanted != goal {
		return &refused{why: fmt.Sprintf("TargetVersion is %d, and release %d is version %d of %s; leave TargetVersion out, or write %d",
			wanted, d.Release.Number, goal, settings.Spec.Name, goal)}
	}
	if at == (rollout.Alias{Version: goal}) || a.state.Deployment != nil {
		return nil // it is there, or on its way
	}
	if given := settings.Spec.Current; given > 0 && given != at.Version {
		return &refused{why: fmt.Sprintf("CurrentVersion is %d, and the alias %s of %s points to %s; leave CurrentVersion out, or write the version that it points to",
			given, settings.Spec.Alias, settings.Spec.Name, at)}
	}
	if err := a.prove(ctx, goal); err != nil {
		return err
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
	if a.state.Aliases == nil {
		a.state.Aliases = map[string]rollout.Alias{}
	}
	a.state.Aliases[key] = rollout.Alias{Version: number}
	return a.save()
}

// publish makes the version of a function of the release.
func (a *app) publish(ctx context.Context, d *target.Declared, f *Function) (int, error) {
	digest, err := artifactOf(d, f)
	if err != nil {
		return 0, &refused{why: err.Error()}
	}
	v := version{Digest: digest, Config: f.Config, Release: d.Release.Number}
	dir, err := a.t.use(ctx, v)
	var missing *missingCode
	switch {
	case errors.As(err, &missing):
		return 0, &refused{why: f.Name + ": " + missing.why, back: true}
	case err != nil:
		return 0, err
	}
	defer a.t.code.Release(v.code())
	if _, err := f.Config.command(dir); err != nil {
		return 0, &refused{why: f.Name + ": " + err.Error(), back: true}
	}
	number, isNew := a.state.publish(f.Name, v, time.Now())
	if isNew {
		a.t.Log.Info("published", "app", a.name(), "function", f.Name, "version", number, "release", d.Release.Number)
	}
	return number, nil
}

// use has the code of a version unpacked.
func (t *Target) use(ctx context.Context, v version) (dir string, err error) {
	t.mu.Lock()
	t.codes[v.code()] = v
	t.mu.Unlock()
	return t.code.Use(ctx, v.code())
}

// artifactOf is the digest of the artifact that has a function's code.
func artifactOf(d *target.Declared, f *Function) (string, error) {
	all := d.Release.Artifacts
	names := slices.Sorted(maps.Keys(all))
	if f.Artifact != "" {
		if digest, ok := all[f.Artifact]; ok {
			return digest, nil
		}
		return "", fmt.Errorf("release %d has no artifact %s; it has %s", d.Release.Number, f.Artifact, cmp.Or(strings.Join(names, ", "), "none"))
	}
	if digest, ok := all[f.Name]; ok {
		return digest, nil
	}
	switch len(names) {
	case 0:
		return "", fmt.Errorf("release %d has no artifact to run; let the buildspec name files under artifacts", d.Release.Number)
	case 1:
		return all[names[0]], nil
	}
	return "", fmt.Errorf("release %d has the artifacts %s, and none is named %s like the function; say with artifact: in %s which it is",
		d.Release.Number, strings.Join(names, ", "), f.Name, settingsFile)
}

// open gets the versions ready that requests may go to, and lets go of the others. A
// function that nothing was published of now has the version that was published last.
func (a *app) open(ctx context.Context, published map[string]int) error {
	spec := a.settings.Spec
	for name, f := range a.settings.Functions {
		fn := a.functions[name]
		if fn == nil {
			fn = newFunction(a, name)
			a.functions[name] = fn
		}
		latest := published[name]
		if all := a.state.Functions[name]; latest == 0 && len(all) > 0 {
			latest = all[len(all)-1].Number
		}
		needed := map[int]bool{latest: true}
		if name == spec.Name {
			at := a.state.Aliases[a.settings.aliasKey()]
			needed[at.Version], needed[at.Canary] = true, true
			if p := a.state.Deployment; p != nil {
				needed[p.Current], needed[p.Target] = true, true
			}
		}
		fn.mu.Lock()
		fn.limit, fn.idle, fn.latest = f.Concurrency, f.Idle, latest
		fn.mu.Unlock()
		for number := range needed {
			v, ok := a.state.version(name, number)
			if !ok {
				continue
			}
			if err := fn.ready(ctx, v); err != nil {
				return err
			}
		}
	}
	for name, fn := range a.functions {
		if a.settings.Functions[name] == nil {
			fn.keepOnly(func(int) bool { return false })
			delete(a.functions, name)
		}
	}
	a.route()
	a.show()
	return nil
}

// ready makes the pool of a version.
func (f *function) ready(ctx context.Context, v version) error {
	f.mu.Lock()
	p := f.pools[v.Number]
	f.mu.Unlock()
	if p != nil {
		return nil
	}
	t := f.app.t
	dir, err := t.use(ctx, v)
	if err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.pools[v.Number] = &pool{
		owner:    t,
		function: f,
		version:  v,
		code:     dir,
		all:      map[*instance]time.Time{},
	}
	return nil
}

// prove has an instance of a version come up before any request goes there.
func (a *app) prove(ctx context.Context, number int) error {
	f := a.functions[a.settings.Spec.Name]
	f.mu.Lock()
	p := f.pools[number]
	f.mu.Unlock()
	in, err := p.acquire(ctx)
	var failed *functionError
	if errors.As(err, &failed) && ctx.Err() == nil {
		return &refused{why: fmt.Sprintf("%s %s does not start: %v", f.name, p.version, failed), back: true}
	}
	if err != nil {
		return err
	}
	p.release(in, true)
	return nil
}

// route has requests go where the state says, and lets go of versions that get none.
func (a *app) route() {
	if a.settings == nil {
		return
	}
	at := a.state.Aliases[a.settings.aliasKey()]
	a.alias.set(at)
	f := a.functions[a.settings.Spec.Name]
	if f == nil {
		return
	}
	f.mu.Lock()
	latest := f.latest
	f.mu.Unlock()
	f.keepOnly(func(number int) bool {
		if p := a.state.Deployment; p != nil && !p.Stage.Over() && (number == p.Current || number == p.Target) {
			return true
		}
		return number == latest || number == at.Version || number == at.Canary
	})
}

// advance takes the deployment as far as it may go now, looks for drift, and says when to
// look again.
func (a *app) advance(d *target.Declared) (time.Duration, error) {
	next := a.t.DriftEvery
	p := a.state.Deployment
	if a.settings == nil || a.observe().State == target.Failed && p == nil {
		return next, nil
	}
	if p != nil && !p.Stage.Over() {
		now := a.t.now()
		a.mu.Lock()
		paused := a.declared != nil && a.declared.Paused
		a.mu.Unlock()
		after, calls, queries, wake := rollout.Step(*p, paused, now, func() string { return rand.Text() })
		if err := a.progress(after); err != nil {
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
		a.look(d)
	case p.Stage == rollout.Failed:
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
	if a.state.Aliases == nil {
		a.state.Aliases = map[string]rollout.Alias{}
	}
	key, at := a.settings.aliasKey(), after.Alias()
	if a.state.Aliases[key] = at; at.Version == 0 {
		delete(a.state.Aliases, key)
	}
	if err := a.save(); err != nil {
		a.state = before
		return err
	}
	if before.Aliases[key] != at {
		a.t.Log.Info("alias moved", "app", a.name(), "function", a.settings.Spec.Name, "alias", a.settings.Spec.Alias, "to", at.String())
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
	f := a.functions[c.Function]
	if f == nil {
		return // the check does not let it happen; it fails when its time is up
	}
	f.mu.Lock()
	latest := f.latest
	f.mu.Unlock()
	a.asking.Go(func() {
		payload := fmt.Sprintf(`{"DeploymentId":%q,"LifecycleEventHookExecutionId":%q}`, deployment, c.Execution)
		e, err := f.invoke(a.life, latest, invocationOf{payload: []byte(payload), arn: a.arn(c.Function, strconv.Itoa(latest))})
		switch {
		case a.life.Err() != nil:
			return // it is called again
		case err != nil:
			_ = a.hookReported(deployment, c.Execution, rollout.HookFailed, err.Error()) // it may have reported before
		case e.err != nil:
			_ = a.hookReported(deployment, c.Execution, rollout.HookFailed, e.err.Error())
		}
		if e.finish != nil {
			e.finish()
		}
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
	query := a.settings.Deployment.Queries[q.Alarm]
	above := slices.ContainsFunc(p.Shift.Alarms, func(alarm shift.Alarm) bool { return alarm.Name == q.Alarm && alarm.Above })
	vars := map[string]string{
		"HEADGATE_ENVIRONMENT": d.Environment,
		"HEADGATE_APPLICATION": d.Application,
		"HEADGATE_RELEASE":     strconv.Itoa(d.Release.Number),
		"HEADGATE_COMMIT":      d.Release.Commit,
	}
	a.asking.Go(func() {
		ctx, cancel := context.WithTimeout(a.life, queryTimeout)
		defer cancel()
		e := shift.Measured{Name: q.Alarm}
		value, none, err := query.Value(ctx, vars, above)
		if e.Value, e.None = value, none; err != nil {
			e.Err = err.Error()
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

// look compares the alias with what was declared: moved by hand, in the file that says
// where it is, is drift.
func (a *app) look(d *target.Declared) {
	a.mu.Lock()
	policy := target.Heal
	if a.declared != nil {
		policy = a.declared.Drift
	}
	a.mu.Unlock()
	key := a.settings.aliasKey()
	declared := a.state.Aliases[key]
	if p := a.state.Deployment; p != nil {
		declared = p.Alias()
	} else if f := a.functions[a.settings.Spec.Name]; f != nil {
		declared = rollout.Alias{Version: f.latest}
	}
	on, err := readState(a.dir)
	at := on.Aliases[key]
	if err != nil {
		at = a.state.Aliases[key] // it is written again with the next move
	}
	if at == declared {
		a.state.Aliases[key] = at
		a.route()
		a.report(d, func(o *target.Observed) {
			o.State, o.Message, o.Unhealed, o.RollBack = target.Healthy, "", false, false
		})
		return
	}
	message := fmt.Sprintf("drift: the alias %s of %s points to %s, not to %s", a.settings.Spec.Alias, a.settings.Spec.Name, at, declared)
	drifted := func() {
		a.report(d, func(o *target.Observed) {
			o.State, o.Message, o.Unhealed = target.Degraded, message, policy == target.Report
		})
	}
	if policy == target.Report {
		// Where it was moved to is where requests go, as at Lambda.
		a.state.Aliases[key] = at
		for _, number := range []int{at.Version, at.Canary} {
			if v, ok := a.state.version(a.settings.Spec.Name, number); ok {
				if err := a.functions[a.settings.Spec.Name].ready(a.life, v); err != nil {
					a.t.Log.Warn("an alias was moved by hand to what cannot run", "app", a.name(), "err", err)
				}
			}
		}
		a.route()
		drifted()
		return
	}
	drifted()
	a.t.Log.Warn("healed drift", "app", a.name(), "what", message)
	a.state.Aliases[key] = declared
	if err := a.save(); err != nil {
		a.t.Log.Error("could not heal drift", "app", a.name(), "err", err)
		return
	}
	a.route()
	a.report(d, func(o *target.Observed) { o.State, o.Message = target.Healthy, "" })
}

// observe is what is seen.
func (a *app) observe() target.Observed {
	a.mu.Lock()
	o := a.seen
	a.mu.Unlock()
	v := a.view.Load()
	if v == nil {
		return o
	}
	a.alias.mu.Lock()
	at := a.alias.alias
	a.alias.mu.Unlock()
	for _, name := range slices.Sorted(maps.Keys(v.functions)) {
		f := v.functions[name]
		f.mu.Lock()
		pools, latest := maps.Clone(f.pools), f.latest
		f.mu.Unlock()
		u := target.Unit{
			Name:    name,
			State:   o.State,
			URL:     a.invokeURL(),
			Release: v.releases[name][latest],
		}
		if name == v.settings.Spec.Name {
			u.Release, u.Weight = v.releases[name][at.Version], at.Weight
			u.Canary = v.releases[name][at.Canary]
		}
		if url := v.settings.Functions[name].URL; url != nil {
			u.URL = "http://" + a.t.addressOf(url)
		}
		for number, p := range pools {
			u.Instances = append(u.Instances, p.instances(v.releases[name][number])...)
		}
		slices.SortFunc(u.Instances, func(a, b target.Instance) int { return cmp.Or(a.Since.Compare(b.Since), cmp.Compare(a.ID, b.ID)) })
		o.Units = append(o.Units, u)
	}
	return o
}

// takeAway ends all of it and forgets what was kept, but the fence.
func (a *app) takeAway() error {
	shutDown(a.listeners)
	a.listeners = map[string]*listener{}
	a.close()
	a.mu.Lock()
	key, sequence := a.key, a.remover
	a.mu.Unlock()
	a.state = state{Key: key, Fence: max(a.state.Fence, sequence), Removed: true}
	a.accepted, a.settings = nil, nil
	return a.save()
}

// close ends instances and gives addresses back.
func (a *app) close() {
	a.view.Store(nil)
	for name, f := range a.functions {
		f.mu.Lock()
		pools := slices.Collect(maps.Values(f.pools))
		f.pools = map[int]*pool{}
		f.mu.Unlock()
		for _, p := range pools {
			p.retire(true)
		}
		delete(a.functions, name)
	}
	a.alias.set(rollout.Alias{})
}

// end is close at the end of the target, or of the application: those who asked get their
// answers first, within a while.
func (a *app) end() {
	a.stateMu.Lock()
	listeners := a.listeners
	a.listeners = map[string]*listener{}
	a.stateMu.Unlock()
	shutDown(listeners)
	a.over()
	a.stateMu.Lock()
	a.close()
	a.stateMu.Unlock()
	a.asking.Wait()
}
