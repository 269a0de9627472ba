package services

import (
	"fmt"
	"slices"

	"github.com/headgate-cd/headgate/reconciler/target"
	"github.com/headgate-cd/headgate/reconciler/target/services/rollout"
)

// adopt takes over what earlier runs have left: applications with what was declared
// of them last, and their instances. It is called with t.mu held, before any loop
// runs; what was declared to this run meanwhile is newer.
func (t *Target) adopt() error {
	all, err := t.readKept()
	if err != nil {
		return err
	}
	used := map[string]bool{}
	for _, k := range all {
		for _, in := range k.instances {
			if in.Container == "" {
				used[in.Of.Digest] = true
			} else if in.Boot == t.boot {
				t.containers.know(in.Name)
			}
		}
	}
	if err := t.releases.Open(used); err != nil {
		return fmt.Errorf("take over %s: %w", t.releases.Dir, err)
	}
	t.endStrays(all)
	var cgroups []string
	for _, k := range all {
		for _, in := range k.instances {
			cgroups = append(cgroups, in.Cgroups...)
		}
	}
	t.endCgroups(cgroups)
	recorded := map[string]bool{}
	for _, k := range all {
		for _, in := range k.instances {
			recorded[(&app{home: k.key}).memoryOf(in.ID)] = in.Boot == t.boot
		}
	}
	t.endMemories(func(name string) bool { return recorded[name] })

	for _, k := range all {
		if k.declared != nil {
			t.fences[k.key] = max(t.fences[k.key], k.declared.Fence)
		}
		if len(k.instances) == 0 && (k.declared == nil || k.declared.Removed) && t.apps[k.key] == nil {
			continue // nothing but the fence is left of it
		}
		a := t.apps[k.key]
		if a == nil {
			a = t.renamedFrom(k.key)
		}
		if a == nil {
			a = newApp(t, k.key)
			t.apps[k.key] = a
		}
		t.found += a.adopt(k)
	}
	if t.found > 0 {
		t.Log.Info("found what runs again", "instances", t.found)
	}
	return nil
}

// renamedFrom is the application that was declared under another name since, nil
// without one. It takes over the files of the name before, and no loop runs yet.
func (t *Target) renamedFrom(was target.Key) *app {
	for key, a := range t.apps {
		a.mu.Lock()
		d := a.pending
		a.mu.Unlock()
		if key.Repository == was.Repository && key.Application == was.Application && d != nil &&
			slices.Contains(d.Was, was.Environment) {
			a.home = was
			return a
		}
	}
	return nil
}

// adopt takes over what an earlier run has left of the application, and says how
// many instances.
func (a *app) adopt(k kept) (found int) {
	a.clockAt = a.owner.moment()
	now := a.clockAt.Wall
	if d := k.declared; d != nil {
		a.keptWhat = keptWhat(d.Fence, d.Removed, d.Declared)
		a.mu.Lock()
		switch {
		case a.fence > d.Fence || a.fence == d.Fence && (a.pending != nil || a.remove): // told meanwhile
		case d.Removed:
			a.fence, a.pending, a.remove = d.Fence, nil, true
		case d.Declared != nil:
			a.fence, a.pending, a.remove, a.drift = d.Fence, d.Declared, false, d.Declared.Drift
			a.steer, a.told = d.Declared.Steer, d.Declared.Secrets.Revisions()
			if k.state.Commit == d.Declared.Commit && k.state.Observed.Arrived(d.Declared.Commit) {
				d.Declared.Fallback = nil // it has been proven since
			}
		}
		a.mu.Unlock()
	}
	a.grants.Store(k.secrets)
	a.observed, a.rotated = k.state.Observed, k.state.Rotated
	if k.state.Boot != a.owner.boot {
		a.observed.Ended(now)
		k.state.At = rollout.Moment{} // of a clock that began anew
	}
	a.observed.Restored(k.state.At, a.clockAt)
	a.images.recall(k.state.Images)
	for listen, port := range k.state.Ports {
		a.owner.ports[freePort{a.key(), listen}] = port
	}

	var live []rollout.Found
	for _, r := range k.instances {
		if r.Boot != a.owner.boot {
			a.forget(r.ID) // the machine was started anew
			continue
		}
		live = append(live, rollout.Found{
			ID:       r.ID,
			Service:  r.Of.Service.Name,
			Version:  r.What,
			Restarts: r.Restarts,
			Began:    r.Began,
		})
		v := r.Of
		a.versions[r.What] = &v
		in := a.instanceOf(r.ID, r.What, &v)
		in.found, in.restarts, in.commit = &r, r.Restarts, r.Commit
		in.port, in.pid = r.Port, r.First.PID
		if pid, ok := child(r.First.PID); ok && r.Container == "" {
			in.pid = pid
		}
		a.watchOver(in)
	}
	a.observed.Adopt(live, now)
	a.observed.Progress.Interrupted()
	for _, f := range a.observed.Services {
		a.routeAgain(f)
		for _, in := range f.Instances {
			switch in.Phase {
			case target.PhaseDraining:
				a.drain(f.Name, in.ID, 0)
			case target.PhaseStopping:
				if run := a.instances[in.ID]; run != nil {
					run.stop()
				}
			}
		}
	}
	return len(live)
}

// routeAgain gives a service the traffic that it had, from before the proxy listens.
func (a *app) routeAgain(f *rollout.ServiceState) {
	gone := func(id string) bool { return a.instances[id] == nil }
	f.Routed = slices.DeleteFunc(f.Routed, gone)
	f.Canaries = slices.DeleteFunc(f.Canaries, gone)
	a.pool(f.Name).Split(a.backends(f.Routed), a.backends(f.Canaries), f.Weight)
}
