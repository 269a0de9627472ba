package fleet

import (
	"slices"
	"strings"

	"github.com/headgate-cd/headgate/reconciler/target"
	"github.com/headgate-cd/headgate/reconciler/target/hosts/rollout"
)

// unitsOf are one host, or what it has, by its name where there are several.
func (a *app) unitsOf(at rollout.Host, o target.Observed) (all []target.Unit) {
	if !a.t.File.Parts || at.Health == rollout.Offline || len(o.Units) == 0 {
		return []target.Unit{unitOf(at, o)}
	}
	for _, u := range o.Units {
		if len(a.state.Hosts) > 1 {
			u.Name = at.Name + "/" + u.Name
		}
		all = append(all, u)
	}
	return all
}

// present is a host that the deployment does nothing on now.
func present(h Host) rollout.Host {
	at := rollout.Host{Name: h.Name, Health: rollout.Healthy, Attempt: rollout.Succeeded}
	if !h.Agent.Live() {
		at.Health = rollout.Offline
	}
	return at
}

// withDrained adds the hosts that are drained, which count for nothing.
func withDrained(o target.Observed, d *target.Declared, drained []Host) target.Observed {
	if len(drained) == 0 {
		return o
	}
	var names []string
	for _, h := range drained {
		names = append(names, h.Name)
		at := rollout.Host{Name: h.Name, Health: rollout.Healthy}
		if !h.Agent.Live() {
			at.Health = rollout.Offline
		}
		unit := unitOf(at, h.Agent.Observe(d.Key))
		unit.Instances[0].Drained = true
		unit.Instances[0].Message = strings.TrimSuffix("drained: nothing new is deployed to it; "+
			unit.Instances[0].Message, "; ")
		o.Units = append(o.Units, unit)
	}
	slices.SortFunc(o.Units, func(x, y target.Unit) int { return strings.Compare(x.Name, y.Name) })
	who := strings.Join(names, ", ") + " is drained"
	if len(names) > 1 {
		who = strings.Join(names, ", ") + " are drained"
	}
	if len(o.Units) == len(drained) { // and nobody can say how it would be
		o.State, o.Message = target.Unknown, who+", and no other one has the tags: nothing is deployed until one is resumed"
		return o
	}
	if o.Message != "" {
		o.Message += "; "
	}
	o.Message += who
	return o
}

// unitOf is one host, by the name that its key has here, whatever it calls itself.
func unitOf(at rollout.Host, o target.Observed) target.Unit {
	unit := target.Unit{Name: at.Name, State: o.State}
	if at.Attempt == rollout.Skipped {
		o.Message = strings.TrimSuffix("skipped: it keeps what it has; "+o.Message, "; ")
	}
	in := target.Instance{ID: at.Name, Since: o.Since}
	if len(o.Units) > 0 {
		unit.Release = o.Units[0].Release
		if there := o.Units[0].Instances; len(there) > 0 {
			in.Since = there[0].Since
		}
	}
	in.Release = unit.Release
	in.Message, _, _ = strings.Cut(o.Message, "\n")
	switch {
	case at.Health == rollout.Offline:
		unit.State = target.Unknown
		in.Phase, in.Message = target.PhaseAway, "cannot be reached"
	case at.Attempt == rollout.Running:
		unit.State, in.Phase = target.Converging, target.PhaseStarting
	case o.State == target.Failed:
		in.Phase = target.PhaseFailed
	case o.State == target.Degraded:
		in.Phase = target.PhaseUnhealthy
	case o.State == target.Healthy:
		in.Phase = target.PhaseHealthy
		in.Serving = len(o.Units) > 0 && len(o.Units[0].Instances) > 0 && o.Units[0].Instances[0].Serving
	default: // nothing is there yet
		unit.State, in.Phase, in.Message = target.Converging, target.PhaseWaiting, "its turn comes"
	}
	unit.Instances = []target.Instance{in}
	return unit
}
