package rollout

import (
	"fmt"
	"slices"
	"time"
)

// Status is the state of an application and, for people, the reason for it. It
// is never Healthy on silence: a healthy instance whose last check is too old
// makes it Unknown.
func Status(d Declared, o *Observed, now time.Time) (State, string) {
	state, message := Healthy, ""
	if len(d.Services) == 0 {
		state, message = Converging, "being removed"
	}
	worse := func(s State, m string) {
		if slices.Index(severity, s) > slices.Index(severity, state) {
			state, message = s, m
		}
	}
	declared := map[string]bool{}
	for _, s := range d.Services {
		declared[s.Name] = true
		f := o.Services[s.Name]
		if f == nil || f.Versions[s.Version] == nil {
			worse(Converging, s.Name+": not started yet")
			continue
		}
		worse(f.status(s, now))
	}
	for _, name := range o.Names() {
		f := o.Services[name]
		if !declared[name] && slices.ContainsFunc(f.Instances, func(in *Instance) bool { return !in.Retired }) {
			worse(Converging, name+": not declared any more, serves until what is declared has taken over")
		}
	}
	return state, message
}

var severity = []State{Healthy, Converging, Degraded, Unknown, Failed}

func (f *Facts) status(s Service, now time.Time) (State, string) {
	t := f.Versions[s.Version]
	fit := f.healthy(s.Version)
	switched := f.Serving == s.Version
	progress := fmt.Sprintf("%s: %d of %d instances of %s healthy", f.Name, len(fit), s.Replicas, s.Label)
	broken := false
	for _, in := range f.Instances {
		if in.Version != s.Version || in.Retired || in.Phase == Serving {
			continue
		}
		broken = broken || in.Phase != Starting || in.Restarts > 0
		if in.Message != "" {
			progress += "; " + in.ID + ": " + in.Message
			break
		}
	}
	switch {
	case t.Tripped() && !switched && f.Versions[f.Serving].ever():
		return Failed, fmt.Sprintf("%s: %s was given up after %d failed starts and gets no traffic, %s goes on serving: %s",
			f.Name, s.Label, t.Failures, f.Versions[f.Serving].Label, t.Reason)
	case t.Tripped() && len(fit) == 0:
		return Failed, fmt.Sprintf("%s: %s failed to start %d times and nothing serves: %s", f.Name, s.Label, t.Failures, t.Reason)
	case f.ListenError != "" && f.ListenFails >= 3:
		return Failed, f.Name + ": " + f.ListenError
	case f.ListenError != "":
		return Converging, f.Name + ": " + f.ListenError
	case !f.listensOn(s.Listen):
		return Converging, f.Name + ": not listening yet"
	case !switched:
		return Converging, progress
	}
	for _, in := range f.Instances {
		if in.Version == s.Version && in.Phase == Serving && now.Sub(in.Checked) > s.Check.Stale() {
			return Unknown, fmt.Sprintf("%s: nothing was heard of %s for %s", f.Name, in.ID, now.Sub(in.Checked).Round(time.Second))
		}
	}
	switch {
	case len(fit) >= s.Replicas:
		return Healthy, ""
	case broken:
		return Degraded, progress
	}
	return Converging, progress
}
