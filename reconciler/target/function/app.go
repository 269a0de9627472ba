package function

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/headgate-cd/headgate/gitd/signal"
	"github.com/headgate-cd/headgate/reconciler/target"
	"github.com/headgate-cd/headgate/reconciler/target/function/rollout"
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
	rejected  string           // why nothing of accepted was begun, which trying again does not change
	back      bool             // to what was good is a way out of that
	settings  *Settings
	functions map[string]*function
	alias     router
	listeners map[string]*listener // by address
	asking    sync.WaitGroup       // requests, hooks, alarms, and events that nobody waits for

	view    atomic.Pointer[view]
	logs    atomic.Value    // string: directory of what instances print
	printed signal.Topic    // at printing
	port    atomic.Int64    // of the invoke API
	events  atomic.Int64    // that nobody waits for
	remote  *remote         // the loop's; nil: it was not needed yet
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
		state:     state{Aliases: map[string]rollout.Alias{}},
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
		return 0, a.takeAway(ctx)
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
	if a.rejected != "" {
		a.fail(d, a.back, a.rejected)
		return a.t.DriftEvery, nil
	}
	return a.advance(ctx, d)
}

// look compares the alias with what was declared: moved by hand, in the file that says
// where it is, is drift.
func (a *app) look(ctx context.Context, d *target.Declared) error {
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
	if a.state.Remote != nil {
		r, err := a.cloud(ctx, a.state.Remote.Region)
		if err != nil {
			return err
		}
		return a.lookRemote(ctx, d, r, declared, policy == target.Report)
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
		return nil
	}
	message := fmt.Sprintf("drift: the alias %s of %s points to %s, not to %s", a.settings.Spec.Alias,
		a.settings.Spec.Name, at, declared)
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
		return nil
	}
	drifted()
	a.t.Log.Warn("healed drift", "app", a.name(), "what", message)
	a.state.Aliases[key] = declared
	if err := a.save(); err != nil {
		a.t.Log.Error("could not heal drift", "app", a.name(), "err", err)
		return nil
	}
	a.route()
	a.report(d, func(o *target.Observed) { o.State, o.Message = target.Healthy, "" })
	return nil
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
	at := a.alias.at()
	if v.settings.Engine == engineAWS {
		o.Units = append(o.Units, target.Unit{
			Name:    v.settings.Spec.Name,
			State:   o.State,
			Release: v.releases[v.settings.Spec.Name][at.Version],
			Canary:  v.releases[v.settings.Spec.Name][at.Canary],
			Weight:  at.Weight,
		})
		return o
	}
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
		slices.SortFunc(u.Instances,
			func(a, b target.Instance) int { return cmp.Or(a.Since.Compare(b.Since), cmp.Compare(a.ID, b.ID)) })
		o.Units = append(o.Units, u)
	}
	return o
}

// takeAway ends all of it and forgets what was kept, but the fence.
func (a *app) takeAway(ctx context.Context) error {
	if err := a.removeRemote(ctx); err != nil {
		return err
	}
	shutDown(a.listeners)
	a.listeners = map[string]*listener{}
	a.close()
	a.mu.Lock()
	key, sequence := a.key, a.remover
	a.mu.Unlock()
	a.state = state{
		Key:     key,
		Fence:   max(a.state.Fence, sequence),
		Removed: true,
		Aliases: map[string]rollout.Alias{},
	}
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
	a.mu.Lock()
	a.over()
	a.mu.Unlock()
	a.stateMu.Lock()
	a.close()
	a.stateMu.Unlock()
	a.asking.Wait()
}
