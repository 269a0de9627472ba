package services

import (
	"slices"
	"time"

	"github.com/headgate-cd/headgate/reconciler/target/services/rollout"
)

// observe says what is known at a time. It works without the loop, so that a loop
// that is stuck shows as facts that grow old, not as health.
func (a *app) observe(now time.Time) Observed {
	a.mu.Lock()
	defer a.mu.Unlock()
	p := &a.published
	o := Observed{Environment: a.key.environment, Application: a.key.application, Commit: p.commit, Sequence: p.sequence}
	switch {
	case a.pending != nil:
		o.Commit, o.Sequence = a.pending.Commit, a.pending.Sequence
		o.State, o.Message = Converging, "just declared"
	case p.fault != "":
		o.State, o.Message = Failed, p.fault
	default:
		o.State, o.Message = rollout.Status(p.plan, p.facts, now)
	}
	if o.State != a.lastState || o.Commit != a.lastCommit {
		a.lastState, a.lastCommit, a.since = o.State, o.Commit, now
	}
	o.Since = a.since
	for _, name := range p.facts.Names() {
		f := p.facts.Services[name]
		s := ServiceState{Name: name, URL: p.urls[name], Instances: []InstanceState{}}
		if len(f.Routed) > 0 {
			s.Release = p.releases[f.Serving]
		}
		for _, in := range f.Instances {
			s.Instances = append(s.Instances, InstanceState{
				ID: in.ID, Release: p.releases[in.Version], State: string(in.Phase), Serving: slices.Contains(f.Routed, in.ID),
				Port: p.live[in.ID].port, PID: p.live[in.ID].pid, Since: in.Since, Restarts: in.Restarts,
				LastExit: in.LastExit, Message: in.Message,
			})
		}
		o.Services = append(o.Services, s)
	}
	return o
}
