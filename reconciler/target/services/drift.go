package services

import (
	"slices"
	"time"
)

// inspectEvery is how often the directories that instances run from are looked at.
const inspectEvery = 3 * time.Second

// checkDrift compares the directories that instances run from with what was
// unpacked, now and then. When one differs its versions change, and with them
// its instances are replaced as in any rollout.
func (a *app) checkDrift() {
	now := a.owner.now()
	if a.inspecting || now.Before(a.inspect) {
		return
	}
	a.inspect = now.Add(inspectEvery)
	digests := map[string]int64{}
	for _, s := range a.plan.Services {
		if v := a.versions[s.Version]; v != nil && a.declared != nil && v.Digest != "" {
			digests[v.Digest] = 0
		}
	}
	if len(digests) == 0 {
		return
	}
	a.inspecting = true
	declared := a.declared
	a.wait.Go(func() {
		began := a.owner.now()
		for d := range digests {
			digests[d] = a.owner.releases.Inspect(d)
		}
		cost := a.owner.now().Sub(began)
		a.quietly(func() {
			a.inspecting = false
			a.inspect = a.owner.now().Add(max(inspectEvery, 50*cost))
			if a.declared == declared {
				a.replaceChanged(digests)
			}
		})
	})
}

func (a *app) replaceChanged(generations map[string]int64) {
	changed := false
	for i, s := range a.plan.Services {
		v := a.versions[s.Version]
		if v.Digest == "" {
			continue
		}
		id := v.id(generations[v.Digest])
		if id == s.Version {
			continue
		}
		changed = true
		a.owner.Log.Warn("unpacked release had changed, unpacking it again", "env", a.key().Environment, "app",
			a.key().Application, "commit", a.commit, "artifact", v.Digest)
		a.versions[id] = v
		a.plan.Services[i].Version = id
	}
	if changed {
		a.plan.Services = slices.Clone(a.plan.Services)
		a.observed.Declare(a.plan)
		a.wake = a.owner.now()
	}
}
