package rollout

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/headgate-cd/headgate/reconciler/target"
	"github.com/headgate-cd/headgate/reconciler/target/alarm"
)

// Back-off between starts of instances that fail.
const (
	firstDelay = time.Second
	maxDelay   = 30 * time.Second
	// stableAfter is how long an instance must have been healthy for its end to
	// count as a mishap, answered at once, and not as one more failed start.
	stableAfter = 10 * time.Second
)

// Instance is one process, or the pause before its next start.
type Instance struct {
	ID      string
	Version string
	Phase   target.Phase
	Since   time.Time // of Phase
	Retired bool      // not wanted any more: once stopped it is gone

	NotBefore time.Time // when waiting: when it may start
	Started   time.Time // of the running process
	Healthy   time.Time // when it became healthy; zero when it is not
	Checked   time.Time // last result of a check
	Passes    int       // good checks in a row since it was started
	Fails     int       // failed checks in a row
	Served    bool      // had traffic since it was started
	Proven    bool      // was healthy for stableAfter since it was started
	Restarts  int
	LastExit  string        // how it ended the last time
	Reason    target.Reason // what is wrong with it in one word, where there is one
	Message   string        // what is wrong with it, if anything
}

// Tally is what is known about a version of a service.
type Tally struct {
	Label    string
	Release  int `json:",omitempty"`
	Replicas int // as last declared
	Check    Check
	Restart  Restart
	Breaker  Breaker
	Drain    time.Duration
	Over     bool          // an instance ended badly and is not to be started again
	Failures int           // failed starts in a row
	Ever     bool          // an instance was healthy once
	Lasted   bool          // an instance that had the traffic was healthy for stableAfter before it failed
	Complete bool          // all replicas lasted at one time, once
	Reason   string        // the last failure, for people
	Cause    target.Reason `json:",omitempty"` // the same in one word, where there is one

	// Of one that runs at times:
	Cron, Zone string    `json:",omitempty"` // when
	Prepared   bool      `json:",omitempty"` // what it runs from is, or was, there
	Preparing  bool      `json:",omitempty"`
	NotBefore  time.Time `json:",omitzero"` // when it may be prepared again
}

// Tripped says whether the version is given up: its instances failed
// as often as its breaker takes, and it never served for long. Having been
// healthy for a moment is no proof: many break with their first real request.
func (t *Tally) Tripped() bool {
	return t != nil && (t.Over || !t.Breaker.Off && !t.Lasted && t.Failures >= t.Breaker.Threshold(t.Replicas))
}

// ServiceState is what is known about one service.
type ServiceState struct {
	Name      string
	Commit    string   // environment commit that declared it last
	Reached   bool     // Commit was reached: all replicas that it wants have had the traffic, and lasted
	Serving   string   // version that gets the traffic; empty before the first
	Routed    []string // instances that get the traffic
	Canary    string   // version that gets a part of it, or requests with the test header; empty: none
	Canaries  []string // its instances
	Weight    int      // percent of the traffic that they get
	Versions  map[string]*Tally
	Declared  []string    // versions that are declared now: the wanted one and its fallback
	Instances []*Instance // oldest first
	Next      int         // number of the last instance made
	Schedule  *Schedule   `json:",omitempty"` // nil: what serves does not run at times
	Happened  []Happening `json:",omitempty"` // oldest first, at most maxHappenings

	Bound       []string // what is listened on
	ListenError string
	ListenFails int
	ListenRetry time.Time
}

// Observed is what is. The zero value is an application of which nothing runs.
// It is changed by Declare, Did and Saw only, and belongs to one goroutine; Clone makes a
// copy for another.
type Observed struct {
	Services map[string]*ServiceState
	Progress *Progress     // of the newest staged deployment; nil: there was none
	alarms   []alarm.Alarm // of what is declared
}

// Clone is a deep copy.
func (o *Observed) Clone() *Observed {
	c := &Observed{
		Services: make(map[string]*ServiceState, len(o.Services)),
		Progress: o.Progress.clone(),
		alarms:   o.alarms,
	}
	for name, f := range o.Services {
		g := *f
		g.Routed, g.Bound, g.Declared = slices.Clone(f.Routed), slices.Clone(f.Bound), slices.Clone(f.Declared)
		g.Canaries, g.Happened = slices.Clone(f.Canaries), slices.Clone(f.Happened)
		if f.Schedule != nil {
			times := *f.Schedule
			times.Runs = slices.Clone(times.Runs)
			g.Schedule = &times
		}
		g.Versions = make(map[string]*Tally, len(f.Versions))
		for v, t := range f.Versions {
			u := *t
			g.Versions[v] = &u
		}
		g.Instances = make([]*Instance, len(f.Instances))
		for i, in := range f.Instances {
			n := *in
			g.Instances[i] = &n
		}
		c.Services[name] = &g
	}
	return c
}

// Names are the services of which something is known, in order.
func (o *Observed) Names() []string {
	return slices.Sorted(maps.Keys(o.Services))
}

// Settled reports whether another good check of an instance says nothing that is not known.
func (f *ServiceState) Settled(in *Instance) bool {
	t := f.Versions[in.Version]
	return in.Phase == target.PhaseHealthy && in.Fails == 0 && !in.Retired && in.Proven && in.Message == "" &&
		t != nil && in.Passes >= t.Check.Passes && t.Complete && f.Reached
}

// Find is an instance by its ID, with its service; nil if there is none.
func (o *Observed) Find(id string) (*ServiceState, *Instance) {
	for _, f := range o.Services {
		for _, in := range f.Instances {
			if in.ID == id {
				return f, in
			}
		}
	}
	return nil, nil
}

func (o *Observed) service(name string) *ServiceState {
	if o.Services == nil {
		o.Services = map[string]*ServiceState{}
	}
	f := o.Services[name]
	if f == nil {
		f = &ServiceState{Name: name, Versions: map[string]*Tally{}}
		o.Services[name] = f
	}
	return f
}

// Event is something that happened to a service or an instance.
type Event interface{ event() }

// The events.
type (
	// Listened: the proxy listens on Bound for the service; Err says what it could not listen on.
	Listened struct {
		Service string
		Bound   []string
		Err     string
	}
	// Ran: the process of an instance was started.
	Ran struct{ ID string }
	// Checked: a health check of an instance had a result.
	Checked struct {
		ID      string
		OK      bool
		Message string // what failed
	}
	// Drained: no request is in flight to an instance any more, or its time was up.
	Drained struct{ ID string }
	// Delayed: an instance cannot be started yet.
	Delayed struct {
		ID     string
		Why    string
		Reason target.Reason
	}
	// Exited: the process of an instance ended, or could not be started.
	Exited struct {
		ID       string
		Well     bool   // with status 0
		Code     int    // of exit, -1 where there is none
		How      string // such as "exited 1: cannot open database"
		Reason   target.Reason
		Hopeless bool // it was tried often enough already: it counts for all that a breaker takes
	}
)

func (Listened) event() {}
func (Ran) event()      {}
func (Checked) event()  {}
func (Drained) event()  {}
func (Delayed) event()  {}
func (Exited) event()   {}

// Saw records an event. Events about instances that are gone are dropped: they
// come from what was abandoned.
func (o *Observed) Saw(e Event, now time.Time) {
	switch e := e.(type) {
	case Hooked:
		o.hooked(e, now)
	case Measured:
		o.answered(e.Measured, o.alarms, now)
	case Prepared:
		if f, ok := o.Services[e.Service]; ok {
			f.prepared(e, now)
		}
	case Listened:
		f, ok := o.Services[e.Service]
		if !ok {
			return
		}
		f.Bound = slices.Sorted(slices.Values(e.Bound))
		f.ListenError = e.Err
		if e.Err == "" {
			f.ListenFails, f.ListenRetry = 0, time.Time{}
		} else {
			f.happened(now, "%s", e.Err)
			f.ListenFails++
			f.ListenRetry = now.Add(delay(f.ListenFails))
		}
	case Ran:
		if _, in := o.Find(e.ID); in != nil && in.Phase == target.PhaseStarting {
			in.Started, in.Message, in.Reason = now, "", ""
		}
	case Checked:
		f, in := o.Find(e.ID)
		if in == nil || in.Phase != target.PhaseStarting && in.Phase != target.PhaseHealthy {
			return
		}
		f.checked(in, e, now)
	case Delayed:
		if _, in := o.Find(e.ID); in != nil && in.Phase == target.PhaseStarting {
			in.Message, in.Reason = e.Why, e.Reason
		}
	case Drained:
		if _, in := o.Find(e.ID); in != nil && in.Phase == target.PhaseDraining {
			in.Phase, in.Since, in.Served = target.PhaseUnhealthy, now, false // to be stopped
		}
	case Exited:
		f, in := o.Find(e.ID)
		if in == nil || !in.runs() {
			return
		}
		f.exited(in, e, now)
	}
}

// quietStart is how long it is nobody's business why an instance that starts is not
// healthy yet.
const quietStart = 5 * time.Second

func (f *ServiceState) checked(in *Instance, e Checked, now time.Time) {
	in.Checked = now
	t := f.Versions[in.Version]
	if t.scheduled() { // it is to end, and nobody has it end sooner
		if e.OK && in.Phase == target.PhaseStarting {
			in.Phase, in.Since, in.Message, in.Reason = target.PhaseHealthy, now, "", ""
		}
		return
	}
	if e.OK {
		in.Fails, in.Message, in.Reason = 0, "", ""
		in.Passes++
		if in.Phase == target.PhaseStarting {
			in.Phase, in.Since, in.Healthy = target.PhaseHealthy, now, now
			t.Ever = true
			f.happened(now, "%s is healthy", in.ID)
		}
		if !in.Proven && now.Sub(in.Healthy) >= stableAfter {
			in.Proven = true
			if !t.Breaker.Cumulative {
				t.Failures = 0 // they are counted in a row
			}
		}
		if len(f.lasting(in.Version, now)) >= t.Replicas {
			t.Complete = true
			f.reach()
		}
		return
	}
	in.Message = e.Message
	if in.Phase == target.PhaseStarting { // which is no fault of it yet
		if in.Message = "starting"; now.Sub(in.Started) >= quietStart {
			in.Message += ", not healthy yet: " + e.Message
		}
	}
	if in.Passes < t.Check.Passes {
		in.Passes = 0
	}
	switch {
	case in.Phase == target.PhaseStarting && now.Sub(in.Started) >= t.Check.Deadline():
		f.happened(now, "%s was not healthy %s after its start: %s", in.ID, t.Check.Deadline(), e.Message)
		f.failed(in, fmt.Sprintf("was not healthy %s after its start: %s", t.Check.Deadline(), e.Message), now)
		in.Phase, in.Since = target.PhaseUnhealthy, now
	case in.Phase == target.PhaseHealthy:
		if in.Fails++; in.Fails >= max(1, t.Check.Retries) {
			f.happened(now, "%s became unhealthy: %s", in.ID, e.Message)
			f.failed(in, "became unhealthy: "+e.Message, now)
			in.Phase, in.Since = target.PhaseUnhealthy, now
		}
	}
}

func (f *ServiceState) exited(in *Instance, e Exited, now time.Time) {
	in.LastExit, in.Reason = e.How, e.Reason
	if f.Versions[in.Version].scheduled() {
		f.ended(in, e, now)
		return
	}
	f.happened(now, "%s %s", in.ID, e.How)
	if in.Retired {
		f.remove(in.ID)
		return
	}
	t := f.Versions[in.Version]
	asked := in.Phase == target.PhaseStopping
	again := t.Restart.again(e.Well && !asked, in.Restarts)
	phase := target.PhaseWaiting
	switch {
	case asked: // its checks had failed, which is counted
		if !again {
			t.Over, phase = true, target.PhaseFailed
		}
	case e.Well && !again:
		t.Ever, t.Failures, phase = true, 0, target.PhaseDone
		in.Message = ""
	default:
		if in.Phase == target.PhaseStarting || in.Phase == target.PhaseHealthy {
			f.failed(in, e.How, now)
			if e.Hopeless && !in.Retired {
				t.Failures = max(t.Failures, t.Breaker.Threshold(t.Replicas))
			}
		}
		in.Message = e.How
		if !again {
			t.Over, phase = true, target.PhaseFailed
		} else if e.Well {
			in.Message += `; what may end says restart: "no" or on-failure`
		}
	}
	if in.NotBefore.Before(now) {
		in.NotBefore = now
	}
	in.Phase, in.Since, in.Healthy, in.Fails, in.Passes = phase, now, time.Time{}, 0, 0
	if len(f.lasting(in.Version, now)) >= t.Replicas {
		t.Complete = true
	}
}

// runs reports whether the instance has a process, or is about to.
func (in *Instance) runs() bool {
	return in.Phase != target.PhaseWaiting && in.Phase != target.PhaseDone && in.Phase != target.PhaseFailed
}

// failed counts a failure of an instance and says when it may start again.
func (f *ServiceState) failed(in *Instance, why string, now time.Time) {
	in.Message = why
	if in.Retired {
		return // what is being taken away says nothing about its version
	}
	t := f.Versions[in.Version]
	t.Reason, t.Cause = in.ID+" "+why, in.Reason
	if !in.Healthy.IsZero() && now.Sub(in.Healthy) >= stableAfter {
		in.NotBefore = now
		t.Lasted = t.Lasted || in.Served
		if t.Breaker.Cumulative {
			t.Failures++
		} else {
			t.Failures = 0
		}
		return
	}
	tripped := t.Tripped()
	if t.Failures++; !tripped && t.Tripped() {
		f.happened(now, "%s is given up after %d failures", f.label(in.Version), t.Failures)
	}
	in.NotBefore = now.Add(delay(t.Failures))
}

func (f *ServiceState) remove(id string) {
	f.Instances = slices.DeleteFunc(f.Instances, func(in *Instance) bool { return in.ID == id })
	f.Routed = slices.DeleteFunc(f.Routed, func(r string) bool { return r == id })
	f.Canaries = slices.DeleteFunc(f.Canaries, func(r string) bool { return r == id })
	f.forgetVersions()
}

// forgetVersions drops what is known about versions nobody asks about any more.
// The newest few stay: the declared version may have no instance just now.
func (f *ServiceState) forgetVersions() {
	if len(f.Versions) <= 8 {
		return
	}
	used := map[string]bool{f.Serving: true, f.Canary: true}
	for _, v := range f.Declared {
		used[v] = true
	}
	for _, in := range f.Instances {
		used[in.Version] = true
	}
	maps.DeleteFunc(f.Versions, func(v string, t *Tally) bool { return !used[v] && t.Failures == 0 })
}

// delay is the pause after the n-th failure in a row.
func delay(n int) time.Duration {
	d := firstDelay
	for ; n > 1 && d < maxDelay; n-- {
		d *= 2
	}
	return min(d, maxDelay)
}
