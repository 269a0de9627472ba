package rollout

import (
	"fmt"
	"slices"
	"time"

	"github.com/headgate-cd/headgate/reconciler/target"
)

// Status is the state of an application and, for people, the reason for it. It
// is never Healthy on silence: a healthy instance whose last check is too old
// makes it Unknown.
func Status(d Declared, o *Observed, now time.Time) (target.State, string) {
	state, message := target.Healthy, ""
	if len(d.Services) == 0 {
		state, message = target.Converging, "being removed"
	}
	worse := func(s target.State, m string) {
		if slices.Index(severity, s) > slices.Index(severity, state) {
			state, message = s, m
		}
	}
	declared := map[string]bool{}
	for _, s := range d.Services {
		declared[s.Name] = true
		f := o.Services[s.Name]
		if f == nil || f.Versions[s.Version] == nil {
			worse(target.Converging, s.Name+": not started yet")
			continue
		}
		worse(f.status(s, d.Report, now))
	}
	for _, name := range o.Names() {
		f := o.Services[name]
		if !declared[name] && slices.ContainsFunc(f.Instances, func(in *Instance) bool { return !in.Retired }) {
			worse(target.Converging, name+": not declared any more, serves until what is declared has taken over")
		}
	}
	return state, message
}

// StatusOf is the state of one service. What is not declared any more, and not
// gone yet, is Converging.
func StatusOf(d Declared, o *Observed, name string, now time.Time) target.State {
	f := o.Services[name]
	if f == nil {
		return target.Unknown
	}
	for _, s := range d.Services {
		if s.Name == name && f.Versions[s.Version] != nil {
			state, _ := f.status(s, d.Report, now)
			return state
		}
	}
	return target.Converging
}

var severity = []target.State{target.Healthy, target.Converging, target.Degraded, target.Unknown, target.Failed}

func (f *Facts) status(s Service, report bool, now time.Time) (target.State, string) {
	t := f.Versions[s.Version]
	fit := f.healthy(s.Version)
	switched := f.Serving == s.Version
	progress := fmt.Sprintf("%s: %d of %d instances of %s healthy", f.Name, len(fit), s.Replicas, s.Label)
	broken := false
	for _, in := range f.Instances {
		if in.Version != s.Version || in.Retired || in.Phase == target.PhaseHealthy {
			continue
		}
		broken = broken || in.Phase != target.PhaseStarting || in.Restarts > 0
		if in.Message != "" {
			progress += "; " + in.ID + ": " + in.Message
			break
		}
	}
	switch {
	case t.Tripped() && !switched && f.Versions[f.Serving].ever():
		return target.Failed, fmt.Sprintf("%s: %s was given up after %d failed starts and gets no traffic, %s goes on serving: %s",
			f.Name, s.Label, t.Failures, f.Versions[f.Serving].Label, t.Reason)
	case t.Tripped() && len(fit) == 0:
		return target.Failed, fmt.Sprintf("%s: %s failed to start %d times and nothing serves: %s", f.Name, s.Label, t.Failures, t.Reason)
	case f.ListenError != "" && f.ListenFails >= 3:
		return target.Failed, f.Name + ": " + f.ListenError
	case f.ListenError != "":
		return target.Converging, f.Name + ": " + f.ListenError
	case !f.listensOn(s.Listen):
		return target.Converging, f.Name + ": not listening yet"
	case !switched:
		return target.Converging, progress
	}
	for _, in := range f.Instances {
		if in.Version == s.Version && in.Phase == target.PhaseHealthy && now.Sub(in.Checked) > s.Check.Stale() {
			return target.Unknown, fmt.Sprintf("%s: nothing was heard of %s for %s", f.Name, in.ID, now.Sub(in.Checked).Round(time.Second))
		}
	}
	switch {
	case len(fit) >= s.Replicas:
		return target.Healthy, ""
	case broken && report && f.Reached:
		return target.Degraded, progress + "; left as it is: policy has drift reported, not healed"
	case broken:
		return target.Degraded, progress
	}
	return target.Converging, progress
}
