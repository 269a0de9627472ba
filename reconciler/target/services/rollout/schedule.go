package rollout

import (
	"fmt"
	"slices"
	"time"

	"github.com/headgate-cd/headgate/gitd/cron"
	"github.com/headgate-cd/headgate/reconciler/target"
)

// Schedule is what is known about a service that runs at times.
type Schedule struct {
	Cron, Zone string    // as the version says that serves
	Since      time.Time // what was due up to it has begun, was skipped, or is none of its
	Runs       []Run     // oldest first, at most maxRuns
}

// maxRuns is how many runs of a service are remembered.
const maxRuns = 10

// Run is what came of one time.
type Run struct {
	At      time.Time // for which it was due
	Late    bool      // it began after that: nobody was there, or it had to wait for what it needs
	Skipped int       // so many times up to At did not begin, as the run before went on
	Release int
	Began   time.Time
	Ended   time.Time // zero: it runs
	Well    bool
	Exit    int    // exit code, -1 where there is none
	How     string // it ended, for people
}

// lateAfter is how long after its time a run is said to be late.
const lateAfter = time.Minute

// RunOf is the name of the instance that a run of a service is. There is one at a time,
// and all print to one log.
func RunOf(service string) string { return service + "-run" }

// Next is when the service is due next; the zero time: nobody can say.
func (s *Schedule) Next(now time.Time) time.Time {
	spec, err := cron.Parse(s.Cron, s.Zone)
	if err != nil { // it was read when it was declared, by a program that knew more
		return time.Time{}
	}
	since := s.Since
	if cron.Ahead(since, now) {
		since = now // as it is once somebody has looked
	}
	_, _, next := spec.Due(since, now)
	return next
}

// Prepared says whether what instances of a version run from is there.
type Prepared struct {
	Service, Version string

	Err      string // why not; "" when it is there
	Reason   target.Reason
	Hopeless bool // it was tried often enough already
}

func (Prepared) event() {}

// scheduled reports whether instances of the version run at times.
func (t *Tally) scheduled() bool { return t != nil && t.Cron != "" }

// goes reports whether runs of a service may begin by what a version says.
func (t *Tally) goes() bool { return t == nil || t.Cron == "" || t.Prepared }

// prepare has what runs of a version need be there before its times begin: a release
// of which it cannot be had does not take over.
func (p *planner) prepare(f *ServiceState, version string) {
	t := f.Versions[version]
	if t.scheduled() && !t.Prepared && !t.Preparing && !t.Tripped() && p.at(t.NotBefore) {
		p.do(Action{Kind: Prepare, Service: f.Name, Version: version})
	}
}

// live puts into want the runs that there are: each is let finish.
func (f *ServiceState) live(want map[string]int) {
	n := map[string]int{}
	for _, in := range f.Instances {
		if f.Versions[in.Version].scheduled() && !in.Retired {
			n[in.Version]++
		}
	}
	for version, n := range n {
		want[version] = n
	}
}

// run begins a run of a service that is due, unless one goes on still.
func (p *planner) run(f *ServiceState) {
	s := f.Schedule
	if s == nil {
		return
	}
	spec, err := cron.Parse(s.Cron, s.Zone)
	if err != nil { // as in Next
		return
	}
	if cron.Ahead(s.Since, p.now) {
		p.do(Action{Kind: Recount, Service: f.Name, At: s.Since})
		s = f.Schedule
	}
	at, late, next := spec.Due(s.Since, p.now)
	if !next.IsZero() {
		p.at(next)
	}
	if at.IsZero() {
		return
	}
	due := Action{Service: f.Name, Instance: RunOf(f.Name), Version: f.Serving, At: at}
	switch {
	case slices.ContainsFunc(f.Instances, (*Instance).runs):
		due.Kind = Skip
	case p.d.waits(p.o, f.Name, f.Serving) != nil:
		return // what happens to another service is an event
	default:
		due.Kind, due.Late = Begin, late || p.now.Sub(at) >= lateAfter
	}
	p.do(due)
}

// follow has a service run at the times that a version says, from now on.
func (f *ServiceState) follow(t *Tally, now time.Time) {
	t.Ever, t.Complete = true, true
	switch s := f.Schedule; {
	case s == nil:
		f.Schedule = &Schedule{Cron: t.Cron, Zone: t.Zone, Since: now}
	case s.Cron != t.Cron || s.Zone != t.Zone:
		s.Cron, s.Zone = t.Cron, t.Zone
		if now.After(s.Since) { // else a clock was set back, and nothing begins twice
			s.Since = now
		}
	}
}

// began records that a run begins, or is skipped.
func (f *ServiceState) began(a Action, now time.Time) {
	s := f.Schedule
	s.Since = a.At
	release := 0
	if t := f.Versions[a.Version]; t != nil {
		release = t.Release
	}
	if a.Kind == Skip {
		if last := len(s.Runs) - 1; last >= 0 && s.Runs[last].Skipped > 0 {
			s.Runs[last].Skipped++
			s.Runs[last].At = a.At
			return
		}
		s.Runs = append(s.Runs, Run{At: a.At, Skipped: 1, Release: release, Began: now, Ended: now, Exit: -1})
	} else {
		s.Runs = append(s.Runs, Run{At: a.At, Late: a.Late, Release: release, Began: now, Exit: -1})
		f.Instances = append(f.Instances, &Instance{
			ID:      a.Instance,
			Version: a.Version,
			Phase:   target.PhaseStarting,
			Since:   now,
			Started: now,
			Checked: now,
		})
	}
	for i := 0; len(s.Runs) > maxRuns && i < len(s.Runs); {
		if s.Runs[i].Ended.IsZero() {
			i++
			continue
		}
		s.Runs = slices.Delete(s.Runs, i, i+1)
	}
}

// ended records the end of a run.
func (f *ServiceState) ended(in *Instance, e Exited, now time.Time) {
	f.remove(in.ID)
	f.end(func(r *Run) { r.Ended, r.Well, r.Exit, r.How = now, e.Well, e.Code, e.How })
}

// end has what is known about the run that has not ended changed.
func (f *ServiceState) end(change func(*Run)) {
	if f.Schedule == nil {
		return
	}
	for i := range f.Schedule.Runs {
		if r := &f.Schedule.Runs[i]; r.Ended.IsZero() {
			change(r)
		}
	}
}

func (f *ServiceState) prepared(e Prepared, now time.Time) {
	t := f.Versions[e.Version]
	if t == nil || !t.Preparing {
		return
	}
	t.Preparing = false
	if e.Err == "" {
		t.Prepared, t.Failures = true, 0
		return
	}
	t.Reason, t.Cause = "what it runs from cannot be had: "+e.Err, e.Reason
	f.happened(now, "%s: %s", f.label(e.Version), t.Reason)
	if t.Failures++; e.Hopeless {
		t.Failures = max(t.Failures, t.Breaker.Threshold(t.Replicas))
	}
	t.NotBefore = now.Add(delay(t.Failures))
}

// scheduledStatus is the state of a service whose declared version runs at times.
func (f *ServiceState) scheduledStatus(s Service) (target.State, string) {
	t := f.Versions[s.Version]
	switch {
	case t.Tripped():
		text := fmt.Sprintf("%s: %s was given up: %s", f.Name, s.Label, t.Reason)
		if old := f.Versions[f.Serving]; f.Serving != s.Version && old.ever() {
			text = fmt.Sprintf("%s: %s was given up and %s goes on: %s", f.Name, s.Label, old.Label, t.Reason)
		}
		return target.Failed, text
	case !t.Prepared && t.Reason != "":
		return target.Converging, fmt.Sprintf("%s: %s: %s", f.Name, s.Label, t.Reason)
	case !t.Prepared:
		return target.Converging, fmt.Sprintf("%s: what %s runs from is not there yet", f.Name, s.Label)
	case f.Serving != s.Version:
		return target.Converging, "" // the other services have something to say
	}
	return target.Healthy, ""
}
