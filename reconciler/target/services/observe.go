package services

import (
	"fmt"
	"slices"
	"time"

	"github.com/headgate-cd/headgate/reconciler/target"
	"github.com/headgate-cd/headgate/reconciler/target/services/rollout"
)

// observe says what is known at a time. It works without the loop, so that a loop
// that is stuck shows as facts that grow old, not as health.
func (a *app) observe(now time.Time) target.Observed {
	a.mu.Lock()
	defer a.mu.Unlock()
	p := &a.published
	o := target.Observed{Key: a.key(), Commit: p.commit, Sequence: p.sequence}
	switch {
	case p.unkept != "":
		if a.pending != nil {
			o.Commit, o.Sequence = a.pending.Commit, a.pending.Sequence
		}
		o.State, o.Message = target.Failed, p.unkept
	case a.pending != nil:
		o.Commit, o.Sequence = a.pending.Commit, a.pending.Sequence
		o.State, o.Message = target.Converging, "just declared"
	case p.drained:
		o.State, o.Message = target.Unknown, "the machine is drained, nothing is started there; to go on: headgate agent resume"
	case p.fault != "":
		o.State, o.Message, o.Reason = target.Failed, p.fault, p.reason
	default:
		o.State, o.Message = rollout.Status(p.plan, p.facts, now)
		o.Unhealed = p.plan.Report && o.State == target.Degraded
		o.RollBack = o.State == target.Failed && rollout.RollBack(p.plan, p.facts) && !p.rotated
		o.Strays = p.strays
		if len(o.Strays) > 0 && o.State == target.Healthy {
			o.State, o.Unhealed = target.Degraded, true
			o.Message = fmt.Sprintf("%s runs and is on no record; left as it is: policy has drift reported, not healed", o.Strays[0])
			if more := len(o.Strays) - 1; more > 0 {
				o.Message += fmt.Sprintf("; and %d more", more)
			}
		}
		o.Waits = rollout.Waits(p.plan, p.facts)
		o.Reason = rollout.ReasonOf(p.plan, p.facts)
	}
	if o.State != a.lastState || o.Commit != a.lastCommit {
		a.lastState, a.lastCommit, a.since = o.State, o.Commit, now
	}
	o.Since = a.since
	for _, name := range p.facts.Names() {
		f := p.facts.Services[name]
		u := target.Unit{Name: name, URL: p.urls[name], State: rollout.StatusOf(p.plan, p.facts, name, now)}
		u.Schedule = scheduleOf(f, now)
		if u.Message = p.uncertified[name]; u.Message != "" {
			u.Reason = target.ReasonCertificateMissing
		}
		for _, h := range slices.Backward(f.Happened) {
			u.Events = append(u.Events, target.Event{At: h.At, What: h.What, Times: h.Times})
		}
		if len(f.Routed) > 0 {
			u.Release = p.releases[f.Serving]
		}
		if len(f.Canaries) > 0 {
			u.Canary, u.Weight = p.releases[f.Canary], f.Weight
		}
		for _, in := range f.Instances {
			message, reason := in.Message, in.Reason
			if lost := p.live[in.ID].lost; lost != "" && message == "" {
				message, reason = lost, target.ReasonLogLost
			}
			u.Instances = append(u.Instances, target.Instance{
				ID:       in.ID,
				Release:  p.releases[in.Version],
				Phase:    in.Phase,
				Since:    in.Since,
				Serving:  slices.Contains(f.Routed, in.ID) && f.Weight < 100 || slices.Contains(f.Canaries, in.ID) && f.Weight > 0,
				Restarts: in.Restarts,
				LastExit: in.LastExit,
				Message:  message,
				Reason:   reason,
				Port:     p.live[in.ID].port,
				PID:      p.live[in.ID].pid,
				Usage:    p.live[in.ID].usage,
			})
		}
		o.Units = append(o.Units, u)
	}
	return o
}
