package rollout

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/headgate-cd/headgate/reconciler/target"
)

// Found is an instance that has a process although nobody was there to watch it.
type Found struct {
	ID       string
	Service  string
	Version  string
	Restarts int
	Began    time.Time
}

// Adopt brings what was known when somebody last looked up to what was found. What
// has traffic keeps it, and counts as healthy only after a check of now: until then
// nothing was heard of it. What is listened on is not known.
func (o *Observed) Adopt(all []Found, now time.Time) {
	found := map[string]bool{}
	for _, in := range all {
		found[in.ID] = true
		f := o.service(in.Service)
		f.Next = max(f.Next, number(in.ID))
		if f.Versions[in.Version] == nil {
			f.Versions[in.Version] = &Tally{}
		}
		if _, known := o.Find(in.ID); known == nil {
			f.Instances = append(f.Instances, &Instance{
				ID:       in.ID,
				Version:  in.Version,
				Phase:    target.PhaseStarting,
				Since:    now,
				Started:  now,
				Restarts: in.Restarts,
			})
		}
	}
	for _, f := range o.Services {
		f.Bound, f.ListenError, f.ListenFails, f.ListenRetry = nil, "", 0, time.Time{}
		if f.Versions == nil {
			f.Versions = map[string]*Tally{}
		}
		for _, t := range f.Versions {
			t.Preparing = false
		}
		for _, in := range slices.Clone(f.Instances) {
			in.Checked, in.Fails = time.Time{}, 0
			// The clock may have been set back since, and is nobody's proof of health.
			for _, at := range []*time.Time{&in.Since, &in.Started, &in.Healthy} {
				if at.After(now) {
					*at = now
				}
			}
			if limit := now.Add(maxDelay); in.NotBefore.After(limit) {
				in.NotBefore = limit
			}
			switch {
			case in.runs() && !found[in.ID]:
				if f.Versions[in.Version] == nil {
					f.Versions[in.Version] = &Tally{}
				}
				f.exited(in, Exited{ID: in.ID, Code: -1, How: "ended while no agent watched it"}, now)
			case !in.runs() && found[in.ID]:
				in.Phase, in.Since, in.Started, in.Checked = target.PhaseStarting, now, now, now
			case in.Phase == target.PhaseStarting:
				in.Started = now // it was not its fault that nobody asked
			}
		}
		f.Routed = slices.DeleteFunc(f.Routed, func(id string) bool { return !found[id] })
		f.Canaries = slices.DeleteFunc(f.Canaries, func(id string) bool { return !found[id] })
	}
}

// Ended brings what was known up to nothing running any more, as after a reboot.
// Nothing of it was anybody's fault: everything is tried afresh, and what had the
// traffic gets it first.
func (o *Observed) Ended(now time.Time) {
	for _, f := range o.Services {
		f.end(func(r *Run) { r.Ended, r.How = now, "ended with its agent or machine" })
		f.Instances, f.Routed, f.Canaries, f.Reached = nil, nil, nil, false
		f.Bound, f.ListenError, f.ListenFails, f.ListenRetry = nil, "", 0, time.Time{}
		for _, t := range f.Versions {
			t.Failures, t.Over, t.Complete = 0, false, false
		}
	}
}

// number is the number at the end of an instance's name.
func number(id string) (n int) {
	_, _ = fmt.Sscan(id[strings.LastIndexByte(id, '-')+1:], &n) // else it is no name of ours
	return n
}

// Arrived reports whether all that a commit declares was reached.
func (o *Observed) Arrived(commit string) bool {
	for _, f := range o.Services {
		if f.Commit != commit || !f.Reached {
			return false
		}
	}
	return len(o.Services) > 0
}

// Forget drops the versions that are not known any more, as after the program that
// knew them was killed: nothing of them can be started. What runs is of a known one.
func (o *Observed) Forget(known func(version string) bool) {
	for _, f := range o.Services {
		for _, in := range slices.Clone(f.Instances) {
			if !in.runs() && !known(in.Version) {
				f.remove(in.ID)
			}
		}
		if f.Serving != "" && !known(f.Serving) {
			f.Serving, f.Routed = "", nil
		}
		if f.Canary != "" && !known(f.Canary) {
			f.Canary, f.Canaries, f.Weight = "", nil, 0
		}
	}
}
