package rollout

import (
	"fmt"
	"net"
	"slices"
	"time"

	"github.com/headgate-cd/headgate/reconciler/target"
)

// Plan says what to do now to get from o to d, and when to ask again if nothing
// happens before; the zero time means not at all. It changes neither. Declare
// must have told o of d.
func Plan(d Declared, o *Observed, now time.Time) (actions []Action, wake time.Time) {
	p := &planner{d: d, o: o.Clone(), now: now}
	declared := map[string]bool{}
	p.tookOver = true
	p.advance()
	serving := p.serving()
	for _, scheduled := range []bool{false, true} { // the times of the one begin when the others serve
		for _, s := range d.Services {
			if declared[s.Name] = true; (s.Schedule != nil) == scheduled {
				tookOver := p.service(s, serving[s.Name])
				p.tookOver = p.tookOver && tookOver
			}
		}
	}
	for _, name := range p.o.Names() {
		if declared[name] {
			continue
		}
		// What is not declared any more goes on serving until all that is declared
		// has taken over, so that renaming a service is a rollout like any other.
		if f := p.o.Services[name]; p.tookOver {
			p.remove(f)
		} else {
			p.keep(f)
		}
	}
	return p.actions, p.wake
}

type planner struct {
	d       Declared
	o       *Observed
	now     time.Time
	actions []Action
	wake    time.Time

	back    bool // the application returns to what was known to be good
	givenUp bool // what is declared does not take over, nothing of it is tried on

	tookOver bool // all that was looked at so far has taken over
}

func (p *planner) do(a Action) {
	a.Fence = p.d.Sequence
	p.actions = append(p.actions, a)
	p.o.Did(a, p.now)
}

// at asks to be woken at t. It says whether that is now.
func (p *planner) at(t time.Time) bool {
	if !t.After(p.now) {
		return true
	}
	if p.wake.IsZero() || t.Before(p.wake) {
		p.wake = t
	}
	return false
}

// serving decides which version of each service shall have the traffic. The
// services of an application switch together, once all of them are ready: half a
// release is a combination that nobody has tested. When one gives up what is
// declared, all do, and what served goes on.
func (p *planner) serving() (versions map[string]string) {
	p.back = slices.ContainsFunc(p.d.Services, func(s Service) bool {
		f := p.o.service(s.Name)
		return s.hasFallback() && f.Versions[s.Version].Tripped() && len(f.healthy(s.Version)) == 0
	})
	versions = map[string]string{}
	waiting, ready, tripped := false, true, false
	for _, s := range p.d.Services {
		f := p.o.service(s.Name)
		v := f.serving(s, p.back)
		versions[s.Name] = v
		waiting = waiting || v != s.Version
		if v == s.Version && f.Versions[s.Version].complete() {
			continue // it did its part, now or with an earlier commit
		}
		ready = ready && p.ready(f, s, v)
		tripped = tripped || f.Versions[s.Version].Tripped()
	}
	pr := p.o.under(p.d)
	over := pr != nil && pr.Over
	held := p.d.Paused || over || pr != nil && pr.Stage.before(p.d.switchesIn())
	if waiting && ready && !held {
		for _, s := range p.d.Services {
			versions[s.Name] = s.Version
		}
	}
	p.givenUp = waiting && (!ready && tripped || over)
	return versions
}

// switchesIn is the stage in which what is declared becomes what serves. Until then
// what served before is there to go back to, except where it is replaced bit by bit.
func (d Declared) switchesIn() Stage {
	if d.Deployment.Strategy == Rolling {
		return ScaleUp
	}
	return CleanUp
}

// rolls reports whether instances of a service go before what replaces them is there.
func (d Declared) rolls(s Service) bool {
	return s.Schedule == nil && (d.Deployment.Strategy == Rolling || s.Exclusive)
}

func (s Service) hasFallback() bool { return s.Fallback != nil && s.Fallback.Version != s.Version }

// ready reports whether a service can switch. In a rolling deployment what serves goes
// before that, which is no reason to hurry.
func (p *planner) ready(f *ServiceState, s Service, serving string) bool {
	if p.d.rolls(s) && f.Versions[serving].ever() {
		return f.listensOn(s.Listen) && len(f.lasting(s.Version, p.now)) >= s.Replicas
	}
	return f.ready(s, serving, p.now)
}

// ready reports whether the declared version can take over from what serves.
func (f *ServiceState) ready(s Service, serving string, now time.Time) bool {
	if !f.listensOn(s.Listen) || !f.Versions[s.Version].goes() {
		return false
	}
	if len(f.lasting(s.Version, now)) >= s.Replicas {
		return true
	}
	// Where nothing serves, there is nothing to wait for.
	return serving != s.Version && len(f.healthy(s.Version)) > 0 && len(f.healthy(serving)) == 0
}

// service plans one declared service and says whether its declared version has
// taken over for good.
func (p *planner) service(s Service, serving string) (tookOver bool) {
	f := p.o.service(s.Name)
	switched := serving == s.Version
	t := f.Versions[s.Version]

	want := map[string]int{s.Version: s.Replicas}
	returns := p.back && switched && s.hasFallback()
	if p.givenUp && !returns && (!switched || !t.complete()) {
		want[s.Version] = 0
	}
	if !switched {
		want[serving] = f.Versions[serving].replicas()
	}
	pr := p.o.under(p.d)
	if pr != nil && pr.Stage.before(ScaleUp) {
		want[s.Version] = len(f.healthy(s.Version))
	}
	frozen := false
	rolls := p.d.rolls(s) && !switched && f.Versions[serving].ever()
	switch {
	case rolls && !p.givenUp && !f.has(s.Version) && p.d.waits(p.o, s.Name, s.Version) != nil:
		// What serves does not go before the next one may come.
	case rolls && want[s.Version] > 0, rolls && p.givenUp:
		frozen = p.roll(f, s, serving, want)
	}
	if returns {
		want[s.Fallback.Version] = s.Fallback.Replicas
	}
	if !switched || s.Schedule != nil {
		f.live(want)
	}
	p.prepare(f, s.Version)
	p.prepare(f, serving)
	p.retire(f, want)
	p.listen(f, s, switched)
	p.routeTo(f, s, serving, rolls)
	p.run(f)
	p.stop(f)
	if p.d.Report && f.Reached && !returns {
		return switched
	}
	if !frozen {
		p.start(f, s.Version, want[s.Version])
	}
	if !switched {
		p.start(f, serving, want[serving])
	}
	if returns {
		p.start(f, s.Fallback.Version, s.Fallback.Replicas)
	}
	p.untilLasting(f, s)
	return switched && (t.complete() || len(f.lasting(s.Version, p.now)) >= s.Replicas)
}

// roll puts into want how many instances of each version are wanted now in a rolling
// deployment. frozen says that none of the declared version is to be started.
func (p *planner) roll(f *ServiceState, s Service, serving string, want map[string]int) (frozen bool) {
	switch {
	case p.d.Paused, p.givenUp && p.d.Deployment.Breaker.Keeps:
		clear(want)
		for _, in := range f.Instances {
			if !in.Retired {
				want[in.Version]++
			}
		}
		return p.givenUp
	case p.givenUp: // back the way it came
		replicas := f.Versions[serving].replicas()
		f.rolling(want, s.Version, serving, replicas, min(s.Minimum, replicas), max(s.Maximum, replicas), p.now)
		want[s.Version] = min(want[s.Version], len(f.healthy(s.Version)))
		return true
	}
	f.rolling(want, serving, s.Version, s.Replicas, s.Minimum, s.Maximum, p.now)
	return false
}

// routeTo sends the traffic of a service where it belongs.
func (p *planner) routeTo(f *ServiceState, s Service, serving string, rolls bool) {
	pr := p.o.under(p.d)
	switched := serving == s.Version
	switch {
	case s.Schedule != nil && f.Serving == "" && !(f.Versions[serving].goes() && (p.tookOver || !switched)):
		// Its times have not begun.
	case f.Versions[serving].scheduled() && (pr == nil || f.Serving != "" || !pr.Stage.before(ProductionTrafficShift)):
		p.share(f, serving, nil, "", nil, 0)
	case rolls:
		fit := f.rollingFit(s.Version, p.now)
		p.share(f, serving, fit, "", nil, 0)
	case pr != nil && switched && f.Serving == "" && pr.Stage.before(ProductionTrafficShift):
		// The first of all waits for its hooks, too.
	case s.Schedule == nil && pr != nil && !switched && !pr.Over && !pr.Stage.before(TestTrafficShift):
		p.share(f, serving, f.healthy(serving), s.Version, f.healthy(s.Version), pr.Weight)
	default:
		p.route(f, serving)
	}
}

// untilLasting asks to be woken when an instance has been healthy for long enough.
func (p *planner) untilLasting(f *ServiceState, s Service) {
	for _, in := range f.Instances {
		if in.Version == s.Version && in.Phase == target.PhaseHealthy && in.Passes >= s.Check.Passes {
			p.at(in.Healthy.Add(s.Check.HealthyFor))
		}
	}
}

// keep plans a service that is not declared any more but goes on for now.
func (p *planner) keep(f *ServiceState) {
	want := map[string]int{f.Serving: f.Versions[f.Serving].replicas()}
	f.live(want)
	p.retire(f, want)
	if !f.Versions[f.Serving].scheduled() {
		p.route(f, f.Serving)
	}
	p.run(f)
	p.stop(f)
	p.start(f, f.Serving, want[f.Serving])
}

// remove plans the end of a service.
func (p *planner) remove(f *ServiceState) {
	p.retire(f, nil)
	p.route(f, f.Serving)
	p.stop(f)
	if len(f.Instances) == 0 {
		p.do(Action{Kind: Close, Service: f.Name})
	}
}

// serving is the version that has the traffic now, or shall have it first. back
// says that the application returns to what was known to be good.
func (f *ServiceState) serving(s Service, back bool) string {
	good := ""
	if s.Fallback != nil {
		good = s.Fallback.Version
	}
	switch {
	case f.Serving == "" && good != "":
		return good
	case f.Serving == "":
		return s.Version
	case f.Serving == s.Version && back && s.hasFallback():
		// It goes on until the known good one can take over.
		if len(f.healthy(s.Version)) == 0 || len(f.healthy(good)) >= s.Fallback.Replicas {
			return good
		}
	case f.Serving != good && !f.Versions[f.Serving].ever():
		// It never worked, so there is nothing to keep: the newer one pre-empts it.
		return s.Version
	}
	return f.Serving
}

// reach notes that what is declared was reached: it has the traffic and lasted.
func (f *ServiceState) reach() {
	t := f.Versions[f.wanted()]
	if f.Serving == f.wanted() && (t.complete() || t.replicas() == 0) && len(f.Routed) >= t.Replicas {
		f.Reached = true
	}
}

// wanted is the version that is declared now, its fallback aside.
func (f *ServiceState) wanted() string {
	if len(f.Declared) == 0 {
		return ""
	}
	return f.Declared[0]
}

func (t *Tally) complete() bool { return t != nil && t.Complete }

func (t *Tally) ever() bool { return t != nil && t.Ever }

func (t *Tally) replicas() int {
	if t == nil {
		return 0
	}
	return t.Replicas
}

// listensOn says whether the proxy listens on all of want.
func (f *ServiceState) listensOn(want []string) bool {
	for _, a := range want {
		if !slices.Contains(f.Bound, a) {
			return false
		}
	}
	return true
}

// healthy are the instances of a version that may have traffic.
func (f *ServiceState) healthy(version string) (ids []string) {
	for _, in := range f.Instances {
		if in.Version == version && in.Phase == target.PhaseHealthy && !in.Retired {
			ids = append(ids, in.ID)
		}
	}
	return ids
}

// lasting are the instances of a version that have been healthy for long enough,
// and those that have done what they were for.
func (f *ServiceState) lasting(version string, now time.Time) (ids []string) {
	t := f.Versions[version]
	for _, in := range f.Instances {
		if in.Version != version || in.Retired {
			continue
		}
		lasts := in.Phase == target.PhaseHealthy && in.Passes >= t.Check.Passes && now.Sub(in.Healthy) >= t.Check.HealthyFor
		if lasts || in.Phase == target.PhaseDone {
			ids = append(ids, in.ID)
		}
	}
	return ids
}

// rollingFit are the instances that may have traffic in a rolling deployment to a
// version: those of it that last, or if there is nobody else any, and all others.
func (f *ServiceState) rollingFit(to string, now time.Time) (ids []string) {
	lasting := f.lasting(to, now)
	for _, in := range f.Instances {
		if in.Phase == target.PhaseHealthy && !in.Retired && (in.Version != to || slices.Contains(lasting, in.ID)) {
			ids = append(ids, in.ID)
		}
	}
	if len(ids) == 0 {
		return f.healthy(to)
	}
	return ids
}

// retire retires the instances that are more than wanted of their version: first
// those that are of no use yet, then the youngest.
func (p *planner) retire(f *ServiceState, want map[string]int) {
	live := map[string][]*Instance{}
	for _, in := range slices.Backward(f.Instances) {
		if !in.Retired {
			live[in.Version] = append(live[in.Version], in)
		}
	}
	use := func(in *Instance) int {
		switch in.Phase {
		case target.PhaseHealthy, target.PhaseDone:
			return 2
		case target.PhaseStarting:
			return 1
		}
		return 0
	}
	surplus := map[string]bool{}
	for version, all := range live {
		slices.SortStableFunc(all, func(a, b *Instance) int { return use(a) - use(b) })
		for _, in := range all[:max(0, len(all)-want[version])] {
			surplus[in.ID] = true
		}
	}
	for _, in := range slices.Clone(f.Instances) {
		if surplus[in.ID] {
			p.do(Action{Kind: Retire, Service: f.Name, Instance: in.ID})
		}
	}
}

func (p *planner) listen(f *ServiceState, s Service, switched bool) {
	if !f.listensOn(s.Listen) {
		if p.at(f.ListenRetry) {
			stays := slices.DeleteFunc(slices.Clone(f.Bound), func(key string) bool { return inTheWay(key, s.Listen) })
			all := slices.Concat(stays, s.Listen)
			slices.Sort(all)
			p.do(Action{Kind: Listen, Service: f.Name, Listen: slices.Compact(all)})
		}
		return
	}
	// What is listened on but not declared any more belongs to what served before.
	retiring := slices.ContainsFunc(f.Instances, func(in *Instance) bool { return in.Retired })
	if switched && !retiring && len(f.Bound) > len(s.Listen) && p.at(f.ListenRetry) {
		p.do(Action{Kind: Listen, Service: f.Name, Listen: s.Listen})
	}
}

// inTheWay reports whether a key's port is asked for on other addresses: all of a
// machine and one of them cannot be listened on both.
func inTheWay(key string, wanted []string) bool {
	_, port, err := net.SplitHostPort(key)
	if err != nil || slices.Contains(wanted, key) {
		return false
	}
	return slices.ContainsFunc(wanted, func(w string) bool {
		_, p, err := net.SplitHostPort(w)
		return err == nil && p == port
	})
}

func (p *planner) route(f *ServiceState, serving string) {
	p.share(f, serving, f.healthy(serving), "", nil, 0)
}

// share divides the traffic between the version that serves and the next one.
func (p *planner) share(f *ServiceState, serving string, fit []string, next string, ones []string, weight int) {
	if serving == f.Serving && slices.Equal(fit, f.Routed) && next == f.Canary && slices.Equal(ones, f.Canaries) &&
		weight == f.Weight {
		return
	}
	p.do(Action{
		Kind:     Route,
		Service:  f.Name,
		Version:  serving,
		Routed:   fit,
		Canary:   next,
		Canaries: ones,
		Weight:   weight,
	})
}

// stop takes instances down that are retired or unhealthy: out of the traffic
// they are by now, so what had some drains, and then it is stopped.
func (p *planner) stop(f *ServiceState) {
	for _, in := range slices.Clone(f.Instances) {
		if !in.Retired && (in.Phase != target.PhaseUnhealthy || p.d.Report && f.Reached) {
			continue
		}
		switch in.Phase {
		case target.PhaseStarting, target.PhaseHealthy, target.PhaseUnhealthy:
			if in.Served {
				p.do(Action{Kind: Drain, Service: f.Name, Instance: in.ID, Timeout: f.Versions[in.Version].drain()})
			} else {
				p.do(Action{Kind: Stop, Service: f.Name, Instance: in.ID})
			}
		}
	}
}

func (t *Tally) drain() time.Duration {
	if t == nil {
		return 0
	}
	return t.Drain
}

// waits is what the first instances of a version still wait for; nil: nothing. Only
// what is declared waits, and what it is to go back to: what serves has begun before.
func (d Declared) waits(o *Observed, service, version string) *Need {
	named := func(name string) int {
		return slices.IndexFunc(d.Services, func(s Service) bool { return s.Name == name })
	}
	i := named(service)
	if i < 0 {
		return nil
	}
	s, of := &d.Services[i], func(s *Service) *Service { return s }
	if version != s.Version {
		of = func(s *Service) *Service { return s.Fallback }
		if s = s.Fallback; s == nil || s.Version != version {
			return nil
		}
	}
	for _, n := range s.Needs {
		j := named(n.Service)
		if j < 0 {
			continue // a fallback's, which is not declared any more
		}
		if other := of(&d.Services[j]); other != nil && !o.Services[n.Service].meets(n.Until, other) {
			return &n
		}
	}
	return nil
}

// meets reports whether a version of a service is what others wait for.
func (f *ServiceState) meets(c Condition, s *Service) bool {
	if f == nil {
		return false
	}
	began, fit, ended := 0, 0, 0
	for _, in := range f.Instances {
		switch {
		case in.Version != s.Version:
			continue
		case in.Phase == target.PhaseHealthy:
			fit++
		case in.Phase == target.PhaseDone:
			ended++
		}
		if !in.Started.IsZero() {
			began++
		}
	}
	switch c {
	case UntilStarted:
		return began > 0 || s.Replicas == 0
	case UntilHealthy:
		return f.Versions[s.Version].complete() || fit+ended >= s.Replicas
	}
	return ended >= s.Replicas
}

// start starts what is wanted of a version and its pause is over.
func (p *planner) start(f *ServiceState, version string, want int) {
	exclusive := slices.ContainsFunc(p.d.Services, func(s Service) bool { return s.Name == f.Name && s.Exclusive })
	if exclusive && slices.ContainsFunc(f.Instances,
		func(in *Instance) bool { return in.Version != version && in.runs() }) {
		return // until they have ended
	}
	for _, in := range slices.Clone(f.Instances) {
		if in.Version != version || in.Retired {
			continue
		}
		want--
		if in.Phase == target.PhaseWaiting && p.at(in.NotBefore) {
			p.do(Action{Kind: Start, Service: f.Name, Instance: in.ID, Version: version})
		}
	}
	if want > 0 && p.d.waits(p.o, f.Name, version) != nil {
		return // for what happens to another service
	}
	for ; want > 0; want-- {
		p.do(Action{Kind: Start, Service: f.Name, Instance: fmt.Sprintf("%s-%d", f.Name, f.Next+1), Version: version})
	}
}
