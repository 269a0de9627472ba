package rollout

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/headgate-cd/headgate/reconciler/target"
)

// Action is one thing to do. Actions are to be begun in the order in which they
// are planned; Listen and Route take effect before the next one begins.
type Action struct {
	Kind     Kind
	Fence    int // Sequence of the declared state that wanted it
	Service  string
	Instance string        // Start, Retire, Drain, Stop
	Version  string        // Start, Route
	Routed   []string      // Route: the instances that shall get the traffic
	Listen   []string      // Listen: exactly what the proxy shall listen on
	Timeout  time.Duration // Drain

	At   time.Time // Begin, Skip: for which the run is due; Recount: until when nothing would have been
	Late bool      // Begin: that was a while ago

	Canary   string   // Route: the version that gets a part of the traffic; "" for none
	Canaries []string // Route: its instances
	Weight   int      // Route, Shift: the percent that it gets; 0: only requests with the test header

	Stage Stage  // Enter, Call
	Name  string // Call, Query: of the hook or alarm
	Why   string // GiveUp
	Keep  bool   // GiveUp: it is not to be rolled back
}

// Kind is what an action does.
type Kind string

// The kinds of actions, with the event that answers each.
const (
	Listen Kind = "listen" // have the proxy listen; answered by Listened
	Start  Kind = "start"  // start a process; answered by Ran, then Checked and Exited; or by Exited
	Retire Kind = "retire" // mark an instance as wanted no more; nothing to do, nothing answers
	Route  Kind = "route"  // send the traffic of a service to these instances and no others
	Drain  Kind = "drain"  // let the requests in flight finish; answered by Drained
	Stop   Kind = "stop"   // stop the process; answered by Exited
	Close  Kind = "close"  // listen no longer and forget the service

	Prepare Kind = "prepare" // have what a version runs from be there; answered by Prepared
	Begin   Kind = "begin"   // start a run that is due, once that is written down; answered as Start is
	Skip    Kind = "skip"    // a run is due and does not begin; nothing to do, nothing answers

	// Recount has times be counted from now: the clock was set back; nothing to do, nothing answers.
	Recount Kind = "recount"

	Enter  Kind = "enter"   // a stage of a deployment begins; nothing to do, nothing answers
	Shift  Kind = "shift"   // so much of the traffic is for what is declared; Route follows
	Call   Kind = "call"    // call a hook; answered by Hooked, unless it waits for a person
	Query  Kind = "query"   // ask what an alarm is about; answered by Measured
	GiveUp Kind = "give up" // the deployment does not go on; nothing to do, nothing answers
)

func (a Action) String() string {
	s := string(a.Kind) + " "
	switch a.Kind {
	case Listen:
		s += a.Service + " on " + strings.Join(a.Listen, " ")
	case Start:
		s += a.Instance + " " + a.Version
	case Route:
		s += a.Service + " " + a.Version + " to " + strings.Join(a.Routed, " ")
		if a.Canary != "" {
			s = fmt.Sprintf("%s, %d%% %s to %s", s, a.Weight, a.Canary, strings.Join(a.Canaries, " "))
		}
	case Drain:
		s += fmt.Sprintf("%s within %s", a.Instance, a.Timeout)
	case Stop, Retire:
		s += a.Instance
	case Close, Recount:
		s += a.Service
	case Prepare:
		s += a.Service + " " + a.Version
	case Begin, Skip:
		s += a.Instance + " " + a.Version + " for " + a.At.UTC().Format("01-02 15:04")
		if a.Late {
			s += ", late"
		}
	case Enter:
		s += string(a.Stage)
	case Shift:
		s += fmt.Sprintf("to %d%%", a.Weight)
	case Call, Query:
		s += a.Name
	case GiveUp:
		s += "because " + a.Why
	}
	return strings.TrimSpace(s)
}

// Declare brings what is known about versions up to what is declared. It comes
// before Plan whenever Declared changes.
func (o *Observed) Declare(d Declared) {
	o.alarms = d.Deployment.Alarms
	o.deploy(d)
	for _, s := range d.Services {
		f := o.service(s.Name)
		if f.Commit != d.Commit {
			f.Commit = d.Commit
			f.Reached = f.Serving == s.Version && len(f.Routed) >= s.Replicas
			// An error belongs to the commit that had it.
			f.ListenError, f.ListenFails, f.ListenRetry = "", 0, time.Time{}
			f.tryAgain(s.Version) // a newer commit gives what was given up a fresh chance
		}
		f.Declared = nil
		f.declare(s, d.Deployment.Breaker)
		if s.Fallback != nil {
			f.declare(*s.Fallback, d.Deployment.Breaker)
		}
	}
}

// TryAgain gives what is declared and was given up a fresh chance.
func (o *Observed) TryAgain(d Declared) {
	for _, s := range d.Services {
		o.service(s.Name).tryAgain(s.Version)
	}
}

// tryAgain has the instances of a version that failed for good start once more.
func (f *ServiceState) tryAgain(version string) {
	t := f.Versions[version]
	if !t.Tripped() {
		return
	}
	t.Failures, t.Over = 0, false
	for _, in := range f.Instances {
		if in.Version == version && in.Phase == target.PhaseFailed {
			in.Phase, in.NotBefore, in.Restarts = target.PhaseWaiting, time.Time{}, 0
		}
	}
}

func (f *ServiceState) declare(s Service, b Breaker) {
	f.Declared = append(f.Declared, s.Version)
	t := f.Versions[s.Version]
	if t == nil {
		t = &Tally{}
		f.Versions[s.Version] = t
	}
	t.Label, t.Release, t.Replicas, t.Check, t.Restart, t.Drain = s.Label, s.Release, s.Replicas, s.Check, s.Restart, s.Drain
	t.Breaker = b
	if s.Schedule != nil {
		t.Cron, t.Zone = s.Schedule.Expression, s.Schedule.Zone.String()
	}
}

// Did records that an action was begun.
func (o *Observed) Did(a Action, now time.Time) {
	if a.Service == "" {
		o.Progress.did(a, now)
		if a.Kind == GiveUp {
			for _, f := range o.Services {
				f.happened(now, "the deployment is given up: %s", a.Why)
			}
		}
		return
	}
	f := o.service(a.Service)
	_, in := o.Find(a.Instance)
	switch a.Kind {
	case Listen:
		f.ListenRetry = now.Add(maxDelay) // until it is answered
	case Start:
		if in == nil {
			f.Next++
			in = &Instance{ID: a.Instance, Version: a.Version}
			f.Instances = append(f.Instances, in)
			f.happened(now, "%s of %s starts", in.ID, f.label(in.Version))
		} else {
			in.Restarts++
			f.happened(now, "%s starts again", in.ID)
		}
		in.Phase, in.Since, in.Started, in.Checked = target.PhaseStarting, now, now, now
		in.Healthy, in.Fails, in.Passes, in.Served, in.Proven = time.Time{}, 0, 0, false, false
	case Route:
		f.routed(a, now)
		f.Serving, f.Routed = a.Version, a.Routed
		f.Canary, f.Canaries, f.Weight = a.Canary, a.Canaries, a.Weight
		if t := f.Versions[a.Version]; t.scheduled() {
			f.follow(t, now)
		} else {
			f.Schedule = nil
		}
		f.reach()
		for _, id := range slices.Concat(a.Routed, a.Canaries) {
			if _, in := o.Find(id); in != nil {
				in.Served = true
			}
		}
	case Prepare:
		f.Versions[a.Version].Preparing = true
	case Begin, Skip:
		f.began(a, now)
	case Recount:
		f.Schedule.Since = now
		f.happened(now, "its times are counted from now: the clock was set back from %s",
			a.At.UTC().Format("2006-01-02 15:04 UTC"))
	case Drain:
		if in != nil {
			in.Phase, in.Since = target.PhaseDraining, now
		}
	case Stop:
		if in != nil {
			in.Phase, in.Since = target.PhaseStopping, now
		}
	case Retire:
		if in == nil {
			break
		}
		if in.Retired = true; !in.runs() {
			f.remove(in.ID)
		}
	case Close:
		delete(o.Services, a.Service)
	}
}

// did records what was begun of a staged deployment.
func (p *Progress) did(a Action, now time.Time) {
	switch a.Kind {
	case Enter:
		p.Stage, p.Since = a.Stage, now
	case Shift:
		p.Weight, p.Shifted = a.Weight, now
	case Call:
		h := p.Hooks[a.Name]
		if h.Called.IsZero() {
			h.Called = now
		}
		h.Running = true
		p.Hooks[a.Name] = h
	case Query:
		s := p.Alarms[a.Name]
		s.Asked = now
		p.Alarms[a.Name] = s
	case GiveUp:
		p.giveUp(a.Why, a.Keep)
	}
}
