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
		was, is := slices.Index(severity, state), slices.Index(severity, s)
		if is > was || is == was && message == "" {
			state, message = s, m
		}
	}
	if pr := o.Progress; pr != nil && pr.Commit == d.Commit && (pr.Over || pr.Stage != Deployed) {
		worse(pr.status(d, o, now))
	} else if d.Paused && d.replaces(o) {
		worse(target.Converging, "paused; it goes on when somebody says so")
	}
	declared := map[string]bool{}
	for _, s := range d.Services {
		declared[s.Name] = true
		f := o.Services[s.Name]
		if f == nil || f.Versions[s.Version] == nil {
			worse(target.Converging, s.Name+": not started yet")
			continue
		}
		state, message := f.status(s, d.Report, now)
		if n := d.waits(o, s.Name, s.Version); n != nil && state == target.Converging && !f.has(s.Version) {
			message = fmt.Sprintf("%s waits for %s to have %s", s.Name, n.Service, n.Until)
			if n.Until == UntilHealthy {
				message = fmt.Sprintf("%s waits for %s to be healthy", s.Name, n.Service)
			}
		}
		worse(state, message)
	}
	for _, name := range o.Names() {
		f := o.Services[name]
		if !declared[name] && slices.ContainsFunc(f.Instances, func(in *Instance) bool { return !in.Retired }) {
			worse(target.Converging, name+": not declared any more, serves until what is declared has taken over")
		}
	}
	return state, message
}

// RollBack reports whether what is declared has failed for good, and its deployment
// wants the environment to be rolled back.
func RollBack(d Declared, o *Observed) bool {
	if pr := o.Progress; pr != nil && pr.Commit == d.Commit && pr.Over {
		return !pr.Keeps
	}
	return !d.Deployment.Breaker.Keeps && slices.ContainsFunc(d.Services, func(s Service) bool {
		f := o.Services[s.Name]
		if f == nil || f.ListenError != "" {
			return false
		}
		t := f.Versions[s.Version]
		return t.Tripped() && (t.Over || f.Serving != s.Version || len(f.healthy(s.Version)) == 0)
	})
}

// ReasonOf is why what is declared is not what it should be, in one word where there is
// one: of an instance of it, or of the failure that gave it up.
func ReasonOf(d Declared, o *Observed) target.Reason {
	for _, s := range d.Services {
		f := o.Services[s.Name]
		if f == nil {
			continue
		}
		if t := f.Versions[s.Version]; t.Tripped() && t.Cause != "" {
			return t.Cause
		}
		for _, in := range f.Instances {
			if in.Version == s.Version && !in.Retired && in.Reason != "" {
				return in.Reason
			}
		}
	}
	return ""
}

// Waits is the name of what waits for a person to let it go on, "" when nothing does.
func Waits(d Declared, o *Observed) string {
	pr := o.under(d)
	if pr == nil || pr.Over {
		return ""
	}
	for _, h := range d.Deployment.Hooks {
		if h.Pause && h.Stage == pr.Stage && !slices.Contains(d.Continued, h.Name) {
			return h.Name
		}
	}
	return ""
}

// replaces reports whether something other than what is declared has the traffic.
func (d Declared) replaces(o *Observed) bool {
	return slices.ContainsFunc(d.Services, func(s Service) bool {
		f := o.Services[s.Name]
		return f != nil && f.Serving != "" && f.Serving != s.Version
	})
}

// status is how a staged deployment is.
func (p *Progress) status(d Declared, o *Observed, now time.Time) (target.State, string) {
	if p.Over {
		text := "given up in " + string(p.Stage) + ": " + p.Why
		for _, s := range d.Services {
			if f := o.Services[s.Name]; f != nil && f.Serving != s.Version && f.Versions[f.Serving] != nil {
				text += "; " + f.Versions[f.Serving].Label + " goes on serving"
				break
			}
		}
		return target.Failed, text
	}
	text := string(p.Stage)
	if p.Stage == "" {
		text = string(ReconcileService)
	}
	if p.Weight > 0 && p.Stage.before(CleanUp) && d.replaces(o) {
		text += fmt.Sprintf(", %d%% of the traffic", p.Weight)
	}
	switch {
	case d.Paused:
		text += ", paused; it goes on when somebody says so"
	case p.Stage == ProductionTrafficShift && p.Weight > 0 && p.Weight < 100:
		text += ", the next step at " + p.Shifted.Add(d.Deployment.Interval).UTC().Format("15:04:05")
	case p.Stage == BakeTime:
		text += ", until " + p.Since.Add(d.Deployment.Bake).UTC().Format("15:04:05")
	}
	for _, h := range d.Deployment.Hooks {
		s := p.Hooks[h.Name]
		switch {
		case h.Stage != p.Stage || s.Done || slices.Contains(d.Continued, h.Name):
		case h.Pause:
			text += fmt.Sprintf("; %s waits for somebody to let it go on, until %s",
				h.Name, s.Called.Add(h.Timeout).UTC().Format("15:04:05"))
		case s.Message != "":
			text += fmt.Sprintf("; hook %s: %s", h.Name, s.Message)
		default:
			text += fmt.Sprintf("; hook %s", h.Name)
		}
	}
	for _, a := range d.Deployment.Alarms {
		switch s := p.Alarms[a.Name]; {
		case s.Trouble != "":
			text += fmt.Sprintf("; alarm %s cannot be measured, which holds the deployment: %s", a.Name, s.Trouble)
		case s.Ignored:
			text += fmt.Sprintf("; alarm %s is ignored: it was firing when the deployment began", a.Name)
		}
	}
	return target.Converging, text
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

func (f *ServiceState) status(s Service, report bool, now time.Time) (target.State, string) {
	if s.Schedule != nil {
		return f.scheduledStatus(s)
	}
	t := f.Versions[s.Version]
	fit := len(f.healthy(s.Version))
	for _, in := range f.Instances {
		if in.Version == s.Version && in.Phase == target.PhaseDone && !in.Retired {
			fit++
		}
	}
	switched := f.Serving == s.Version
	lasting := f.lasting(s.Version, now)
	progress := fmt.Sprintf("%s: %d of %d instances of %s healthy", f.Name, fit, s.Replicas, s.Label)
	if fit >= s.Replicas && len(lasting) < s.Replicas {
		progress += s.Check.stillToShow()
	}
	broken := false
	for _, in := range f.Instances {
		if in.Version != s.Version || in.Retired || slices.Contains(lasting, in.ID) {
			continue
		}
		broken = broken || in.Restarts > 0 || in.Phase != target.PhaseStarting && in.Phase != target.PhaseHealthy
		if in.Message != "" {
			progress += "; " + in.ID + ": " + in.Message
			break
		}
	}
	switch {
	case t.Tripped() && !t.Over && !switched && f.Versions[f.Serving].ever():
		return target.Failed, fmt.Sprintf(
			"%s: %s was given up after %d failed starts and gets no traffic, %s goes on serving: %s",
			f.Name, s.Label, t.Failures, f.Versions[f.Serving].Label, t.Reason)
	case t.Over:
		return target.Failed, fmt.Sprintf("%s: %s ended and is not to be started again: %s", f.Name, s.Label, t.Reason)
	case t.Tripped() && fit == 0:
		return target.Failed, fmt.Sprintf("%s: %s failed to start %d times and nothing serves: %s", f.Name, s.Label,
			t.Failures, t.Reason)
	case f.ListenError != "" && f.ListenFails >= 3:
		return target.Failed, f.Name + ": " + f.ListenError
	case f.ListenError != "":
		return target.Converging, f.Name + ": " + f.ListenError
	case !f.listensOn(s.Listen):
		return target.Converging, f.Name + ": not listening yet"
	case !switched && len(lasting) >= s.Replicas:
		return target.Converging, "" // the other services have something to say
	case !switched:
		return target.Converging, progress
	}
	for _, in := range f.Instances {
		if in.Version == s.Version && in.Phase == target.PhaseHealthy && now.Sub(in.Checked) > s.Check.Stale() {
			if in.Checked.IsZero() {
				return target.Unknown, fmt.Sprintf("%s: %s was found again and not checked yet", f.Name, in.ID)
			}
			return target.Unknown, fmt.Sprintf("%s: nothing was heard of %s for %s", f.Name, in.ID,
				now.Sub(in.Checked).Round(time.Second))
		}
	}
	switch {
	case len(lasting) >= s.Replicas:
		return target.Healthy, ""
	case broken && report && f.Reached:
		return target.Degraded, progress + "; left as it is: policy has drift reported, not healed"
	case broken:
		return target.Degraded, progress
	}
	return target.Converging, progress
}

// has reports whether there are instances of a version.
func (f *ServiceState) has(version string) bool {
	return slices.ContainsFunc(f.Instances, func(in *Instance) bool { return in.Version == version && !in.Retired })
}

// stillToShow is what instances that are healthy have to do to count as lasting.
func (c Check) stillToShow() string {
	if c.HealthyFor > 0 {
		return fmt.Sprintf(", to stay so for %s", c.HealthyFor)
	}
	return fmt.Sprintf(", to pass %d checks in a row", c.Passes)
}
