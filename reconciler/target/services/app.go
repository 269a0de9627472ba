package services

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/headgate-cd/headgate/gitd/cron"
	"github.com/headgate-cd/headgate/gitd/engine"
	"github.com/headgate-cd/headgate/gitd/signal"
	"github.com/headgate-cd/headgate/reconciler/target"
	"github.com/headgate-cd/headgate/reconciler/target/logfile"
	"github.com/headgate-cd/headgate/reconciler/target/services/acme"
	"github.com/headgate-cd/headgate/reconciler/target/services/proxy"
	"github.com/headgate-cd/headgate/reconciler/target/services/rollout"
)

// app converges one application in one environment. One goroutine, run, owns
// everything but what stands below mu; the others post events to it.
type app struct {
	owner *Target
	named atomic.Pointer[target.Key]
	home  target.Key             // its first name, under which its files are
	inbox signal.Mailbox[func()] // run by the loop

	onLeft  func()        // to be called when the loop does nothing any more
	stepped chan struct{} // closed when the loop has looked at what there is
	ended   chan struct{} // closed when the loop does not run any more

	mu         sync.Mutex
	fence      int               // newest sequence told
	pending    *target.Declared  // told, not yet accepted
	drift      target.Drift      // newest told
	steer      target.Steer      // newest told
	told       map[string]string // revisions of secrets, as in the newest told
	remove     bool              // to be removed; pending is nil then
	published  published         // what observe sees
	since      time.Time         // when lastCommit came into lastState
	lastState  target.State      // as last seen by observe
	lastCommit string
	lastWhat   target.Observed // as last told to watchers
	toldStrays []target.Stray  // as last told to the loop
	steady     []func()        // posted by steadily

	lastKept  time.Time // when it was tried last to write down what is declared
	keptWhat  string    // what of it is written down
	unkept    string    // why the newest is not
	drained   bool      // as wanted has seen it
	planned   bool      // something declared, or its end, was accepted by this run
	keptState string    // as it was written last

	declared *target.Declared // accepted
	compose  *Compose         // of declared

	configured *Compose                 // by which requests are carried
	routed     *Compose                 // by which addresses lead to services
	access     map[string]*logfile.File // by service
	plan       rollout.Declared
	observed   rollout.Observed
	fault      string // why the newest declaration cannot be carried out
	reason     target.Reason
	rotated    string // commit that was reached before, and is again because of a secret
	commit     string // environment commit that fault or plan is about
	sequence   int

	versions   map[string]*version // what instances of a version are
	images     images              // what those of containers run from
	grants     atomic.Pointer[grants]
	strays     []target.Stray       // that run besides, and are only told of
	asked      context.Context      // of what is asked for the deployment of commit; nil: nothing was
	endAsked   context.CancelFunc   // of asked
	networked  bool                 // there may be a network of its containers
	instances  map[string]*instance // by ID, those with a process
	pools      map[string]*proxy.Pool
	counted    atomic.Pointer[map[string]*proxy.Pool] // pools, for other goroutines
	listeners  []*listening
	clockAt    rollout.Moment // by whose wall clock times of observed are
	wake       time.Time      // when there is something to do although nothing happens
	inspect    time.Time      // next look at the directories
	inspecting bool

	certificates *acme.Certificates // nil: none is asked for
	uncertified  map[string]string  // service → what is wrong with them

	wait sync.WaitGroup // for every goroutine it started
}

// published is a copy of the loop's state for other goroutines.
type published struct {
	commit   string
	sequence int
	fault    string
	reason   target.Reason // of fault
	unkept   string
	rotated  bool
	drained  bool
	plan     rollout.Declared
	facts    *rollout.Observed
	live     map[string]liveInstance
	urls     map[string]string
	releases map[string]int // version → release number
	strays   []target.Stray

	uncertified map[string]string
}

type liveInstance struct {
	port, pid int
	usage     *target.Usage
	lost      string
}

func newApp(t *Target, k target.Key) *app {
	a := &app{
		fence:     -1,
		stepped:   make(chan struct{}),
		ended:     make(chan struct{}),
		owner:     t,
		published: published{facts: &rollout.Observed{}},
		versions:  map[string]*version{},
		instances: map[string]*instance{},
		pools:     map[string]*proxy.Pool{},
		access:    map[string]*logfile.File{},
	}
	a.home, a.clockAt = k, t.moment()
	a.named.Store(&k)
	return a
}

// key names what it converges, which may get another name.
func (a *app) key() target.Key { return *a.named.Load() }

// declare hands a declaration to the loop. The one that it has counts again only
// after it was removed.
func (a *app) declare(d *target.Declared) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if d.Sequence < a.fence || d.Sequence == a.fence && !a.remove && d.Drift == a.drift && d.Steer.Equal(a.steer) &&
		maps.Equal(a.told, d.Secrets.Revisions()) {
		return
	}
	a.fence, a.pending, a.remove, a.drift = d.Sequence, d, false, d.Drift
	a.steer, a.told = d.Steer, d.Secrets.Revisions()
	a.inbox.Wake()
}

// removeUpTo hands the end of what was declared to the loop.
func (a *app) removeUpTo(sequence int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if sequence < a.fence {
		return
	}
	a.fence, a.pending, a.remove, a.told = sequence, nil, true, nil
	a.inbox.Wake()
}

// keepAgain is the pause until it is tried again to write down what is declared, as
// when the disk is full.
const keepAgain = 5 * time.Second

// keep writes down what was told, before anything is done about it. What runs goes
// on running as long as that fails.
func (a *app) keep(pending *target.Declared, remove bool, fence int) error {
	k := keptDeclared{Fence: fence, Removed: remove, Declared: pending}
	what := keptWhat(fence, remove, pending)
	if pending == nil && !remove || what == a.keptWhat {
		return nil
	}
	if a.owner.now().Sub(a.lastKept) < keepAgain && a.unkept != "" {
		return errors.New(a.unkept)
	}
	a.lastKept = a.owner.now()
	told := &grants{}
	if pending != nil {
		told = (*grants)(nil).with(pending.Secrets)
	}
	both := a.grants.Load().with(told.set())
	err := a.keepSecrets(both)
	if err == nil {
		err = a.keepDeclared(k)
	}
	if err != nil {
		a.owner.Log.Error("what is declared is not acted upon", "env", a.key().Environment, "app",
			a.key().Application, "err", err)
		return fmt.Errorf("what is declared could not be written down, and what runs stays as it is: %w", err)
	}
	both.current = told.current // the rest goes with what uses it
	a.grants.Store(both)
	a.keptWhat, a.unkept = what, ""
	return nil
}

// keptWhat tells one thing to be written down from another.
func keptWhat(fence int, remove bool, d *target.Declared) string {
	if d == nil {
		return fmt.Sprint(fence, remove)
	}
	return fmt.Sprint(fence, remove, d.Drift, d.Steer, d.Secrets.Revisions())
}

// end forgets the application unless something was told meanwhile.
func (a *app) end() bool {
	t := a.owner
	t.mu.Lock()
	a.mu.Lock()
	gone := a.remove && a.inbox.Empty()
	if gone {
		delete(t.apps, a.key())
		t.fences[a.key()] = a.fence
	}
	a.mu.Unlock()
	t.mu.Unlock()
	if gone {
		t.containers.removeNetwork(a)
		t.reports.Notify(a.key())
	}
	return gone
}

// accept makes a plan of a declaration. When it cannot be understood, what runs
// goes on running, and the state says why.
func (a *app) accept(d *target.Declared) {
	if a.commit != d.Commit {
		a.stopAsking()
	}
	a.commit, a.sequence, a.fault, a.reason = d.Commit, d.Sequence, "", ""
	plan, versions, err := a.parse(d)
	if err != nil {
		a.fault, a.reason = err.Error(), target.Reason(engine.ReasonOf(err))
		a.owner.Log.Warn("declared state cannot be carried out", "env", a.key().Environment, "app", a.key().Application,
			"commit", d.Commit, "err", err)
		return
	}
	if d.Fallback != nil {
		if back, more, err := a.parse(d.Fallback); err == nil {
			for i, s := range plan.Services {
				if s.Fallback != nil {
					continue
				}
				if j := slices.IndexFunc(back.Services, func(b rollout.Service) bool { return b.Name == s.Name }); j >= 0 {
					plan.Services[i].Fallback = &back.Services[j]
				}
			}
			maps.Copy(versions, more)
		}
	}
	if a.rotation(&plan, versions) {
		a.rotated, plan.Rotation = d.Commit, rotationOf(d.Secrets)
	} else if a.rotated != d.Commit {
		a.rotated = ""
	}
	if last := a.declared; last != nil && last.Commit == d.Commit &&
		!maps.Equal(last.Secrets.Revisions(), d.Secrets.Revisions()) {
		a.observed.TryAgain(plan) // it may be what was wrong
	}
	a.declared, a.plan, a.planned = d, plan, true
	a.compose, _ = readWith(d.Files, d.Release) // it has been parsed just now
	maps.Copy(a.versions, versions)
	for _, in := range a.instances {
		if v := versions[in.what]; v != nil {
			in.timeout.Store(int64(a.health(in.what, v.Service).Timeout))
		}
	}
	a.observed.Forget(func(v string) bool { return a.versions[v] != nil })
	a.observed.Declare(plan)
}

// again makes its plan anew, because where it is to listen is another.
func (a *app) again() {
	if a.declared != nil && a.fault == "" {
		a.accept(a.declared)
	}
}

// parse reads a declaration.
func (a *app) parse(d *target.Declared) (rollout.Declared, map[string]*version, error) {
	plan := rollout.Declared{
		Commit:    d.Commit,
		Sequence:  d.Sequence,
		Report:    d.Drift == target.Report,
		Paused:    d.Paused,
		Continued: d.Continued,
	}
	for _, name := range []string{d.Repository, d.Environment, d.Application} {
		if !plainName().MatchString(name) {
			return plan, nil, fmt.Errorf(
				"%q cannot be the name of a repository, environment or application; use letters, digits, '.', '_' and '-'", name)
		}
	}
	if !declares(d.Files) {
		return plan, nil, errNoCompose
	}
	compose, err := readWith(d.Files, d.Release)
	if err != nil {
		return plan, nil, err
	}
	release := d.Release
	release.Definitions = nil // they are read
	address := a.owner.serviceAddress()
	plan.Deployment = compose.Deployment.Deployment
	versions := map[string]*version{}
	for _, s := range compose.Services {
		digest := ""
		if s.Container == nil {
			digest, err = artifactOf(s, d.Release)
		} else {
			if s.Container, err = s.Container.filled(s.Name, d.Release); err == nil {
				err = checkContainer(s, d.Release)
			}
			a.networked = true
		}
		if err != nil {
			return plan, nil, err
		}
		v := &version{Service: s, Environment: d.Environment, Release: release, Digest: digest}
		if v.Secrets, err = a.grants.Load().of(s, d.Repository); err != nil {
			return plan, nil, err
		}
		id := a.owner.idOf(v)
		versions[id] = v
		minimum, maximum := rollout.Bounds(s.Replicas, compose.Deployment.MinimumHealthy, compose.Deployment.Maximum)
		if s.exclusive() {
			minimum, maximum = 0, s.Replicas
		}
		one := rollout.Service{
			Name:     s.Name,
			Version:  id,
			Label:    fmt.Sprintf("release %d", d.Release.Number),
			Release:  d.Release.Number,
			Replicas: s.Replicas,
			Listen:   listenKeys(s, address),
			Check:    a.health(id, s).Check,
			Restart:  s.Restart,
			Drain:    s.Drain,
			Minimum:  minimum,
			Maximum:  maximum,

			Needs:     s.Needs,
			Exclusive: s.exclusive(),
		}
		if s.Cron != "" {
			spec, err := cron.Parse(s.Cron, s.Zone)
			if err != nil { // which was read when the file was
				return plan, nil, err
			}
			one.Schedule, one.Replicas, one.Exclusive = &spec, 0, false
		}
		plan.Services = append(plan.Services, one)
	}
	return plan, versions, nil
}

// resolved takes up what the image of a version has to say about its checks.
func (a *app) resolved(version string) {
	for _, s := range a.plan.Services {
		if v := a.versions[version]; s.Version == version && v != nil && s.Check != a.health(version, v.Service).Check {
			a.again()
			return
		}
	}
}

// prune drops versions that nothing refers to.
func (a *app) prune() {
	used := map[string]bool{}
	for _, s := range a.plan.Services {
		used[s.Version] = true
		if s.Fallback != nil {
			used[s.Fallback.Version] = true
		}
	}
	for _, f := range a.observed.Services {
		used[f.Serving] = true
		for _, in := range f.Instances {
			used[in.Version] = true
		}
	}
	maps.DeleteFunc(a.versions, func(id string, _ *version) bool { return !used[id] })
}

// publish copies what observe needs, and tells watchers if it differs.
func (a *app) publish(taken *target.Declared) {
	p := published{commit: a.commit, sequence: a.sequence, fault: a.fault, reason: a.reason, unkept: a.unkept,
		rotated: a.rotated == a.commit,
		drained: a.drained, plan: a.plan, facts: a.observed.Clone(),
		live: map[string]liveInstance{}, urls: a.urls(), releases: map[string]int{}, strays: a.strays, uncertified: a.uncertified}
	p.plan.Services = slices.Clone(a.plan.Services)
	for id, in := range a.instances {
		p.live[id] = liveInstance{in.port, in.pid, in.usage, in.lost}
	}
	for id, v := range a.versions {
		p.releases[id] = v.Release.Number
	}
	for name, pool := range a.pools {
		pool.SetWhy(why(p.facts.Services[name]))
	}
	a.mu.Lock()
	a.published = p
	if a.pending == taken {
		a.pending = nil
	}
	a.mu.Unlock()
	now := a.observe(a.owner.now())
	a.mu.Lock()
	changed := !reflect.DeepEqual(now, a.lastWhat)
	a.lastWhat = now
	a.mu.Unlock()
	if changed {
		a.owner.reports.Notify(a.key())
	}
	a.markSteady(now.State == target.Healthy)
}

// why tells visitors of a service without a healthy instance what is true. It
// holds nothing that an instance printed.
func why(f *rollout.ServiceState) string {
	if f == nil || len(f.Instances) == 0 {
		return "no instance runs"
	}
	var parts []string
	for _, in := range f.Instances {
		parts = append(parts, in.ID+" is "+string(in.Phase))
	}
	return strings.Join(parts, ", ")
}
