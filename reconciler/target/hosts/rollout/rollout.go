// Package rollout decides which hosts of a group are deployed to next, and how the
// deployment stands: CodeDeploy's minimum-healthy-hosts algorithm. It is pure: it has
// no clock, disk or network, and what happens is told to it.
//
// Plan looks at the hosts as they are and answers with those to deploy to now. A host
// that cannot be reached is a state of its own, which CodeDeploy takes for a failure:
// it is waited for only when the others cannot go on without it, and gets the
// revision when it is back.
package rollout

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/headgate-cd/headgate/reconciler/target/alarm"
)

// Health is whether a host does its work.
type Health string

// The healths.
const (
	Healthy   Health = "healthy"
	Unhealthy Health = "unhealthy"
	Offline   Health = "offline" // nothing is known of it just now
)

// Revision is what a host runs, seen from what is to be deployed.
type Revision string

// The revisions, in the order in which hosts are deployed to.
const (
	Unknown Revision = "unknown"
	Old     Revision = "old"
	Current Revision = "current"
)

// Attempt is how far a host has come in this deployment.
type Attempt string

// The attempts.
const (
	None      Attempt = ""
	Running   Attempt = "running"
	Succeeded Attempt = "succeeded"
	Failed    Attempt = "failed" // or was stopped
	Skipped   Attempt = "skipped"
)

// Host is one of the group.
type Host struct {
	Name     string
	Zone     string
	Health   Health
	Revision Revision
	Attempt  Attempt
	Joined   bool      // after the deployment had begun: it gets a follow-on deployment
	Began    time.Time // Attempt; zero: nobody has seen it
	Ended    time.Time // of Attempt
}

// State is a deployment. Begin makes one.
type State struct {
	Config  Config
	Minimum int            // of all hosts, by how many there were at the beginning and have not left
	Zones   map[string]int // the same of each zone, if the configuration says so
	Hosts   []Host         // by name
	Stop    string         // why it is to be stopped: an alarm, or a person; "" goes on
	Keeps   bool           // what Stop stops is not rolled back
	Of      string         // what people call a host here: "cluster"; "": a host

	Since   time.Time // it began, or somebody has come upon it
	Resumed bool      // it had begun before Since: what alarms say at first, it may have caused
	Alarms  map[string]alarm.State
}

func (s *State) of() string { return cmp.Or(s.Of, "host") }

// Begin begins a deployment to hosts.
func Begin(c Config, hosts []Host) *State {
	s := &State{Config: c, Hosts: slices.Clone(hosts)}
	slices.SortFunc(s.Hosts, func(a, b Host) int { return strings.Compare(a.Name, b.Name) })
	s.count()
	return s
}

// count says how many hosts stay healthy, of those that the deployment is for.
func (s *State) count() {
	members, zones := 0, map[string]int{}
	for _, h := range s.Hosts {
		if !h.Joined && h.Attempt != Skipped {
			members++
			zones[h.Zone]++
		}
	}
	s.Minimum, s.Zones = s.Config.Minimum.Of(members), map[string]int{}
	if z := s.Config.Zonal; z != nil && z.Minimum != nil {
		for zone, n := range zones {
			s.Zones[zone] = z.Minimum.Of(n)
		}
	}
}

// Status is how a deployment stands.
type Status string

// The statuses.
const (
	InProgress Status = "in progress"
	Waiting    Status = "waiting" // for hosts that are offline
	Done       Status = "succeeded"
	Broken     Status = "failed"
	Stopped    Status = "stopped"
)

// Reason is CodeDeploy's code for a failure.
type Reason string

// The reasons.
const (
	NoReason      Reason = ""
	Constraints   Reason = "HEALTH_CONSTRAINTS"         // too few hosts are healthy to go on
	Invalid       Reason = "HEALTH_CONSTRAINTS_INVALID" // too few were from the beginning
	NoHosts       Reason = "NO_INSTANCES"
	NoneSucceeded Reason = "NONE_SUCCEEDED"
)

// Plan is what to do now.
type Plan struct {
	Status Status
	Reason Reason
	Deploy []string  // hosts to begin with
	Follow []string  // hosts that joined meanwhile, for a deployment of their own
	Ask    []string  // alarms that are to be asked
	Wake   time.Time // when to ask again although nothing happens; zero for never
	Why    string    // for people, when it does not go on
}

// Plan decides. Whoever carries it out tells of what it names: Started of hosts, Asked of
// alarms. That an alarm stops the deployment is noted in Stop.
func (s *State) Plan(now time.Time) Plan {
	p := s.plan(now)
	if len(s.Config.Alarms) == 0 || p.Status == Broken || p.Status == Stopped {
		return p
	}
	at := func(t time.Time) bool {
		if !now.Before(t) {
			return true
		}
		if p.Wake.IsZero() || t.Before(p.Wake) {
			p.Wake = t
		}
		return false
	}
	if p.Status == Done {
		silent := alarm.Silent(s.Config.Alarms, s.Alarms)
		if at(s.ended().Add(s.Config.Bake)) && silent == "" {
			return p
		}
		p.Status = InProgress
		p.Why = cmp.Or(silent, "alarms are asked until "+s.ended().Add(s.Config.Bake).UTC().Format("15:04:05Z"))
	}
	why, keeps := alarm.Fired(s.Config.Alarms, s.Alarms, at)
	if why == "" {
		why = alarm.Unanswered(s.Config.Alarms, s.Alarms, s.Since, at)
	}
	if why != "" && s.Stop == "" {
		s.Stop, s.Keeps = why, keeps
		return s.plan(now)
	}
	var fresh bool
	p.Ask, fresh = alarm.Due(s.Config.Alarms, s.Alarms, now, at)
	for _, a := range s.Config.Alarms { // those that are asked now, again then
		if slices.Contains(p.Ask, a.Name) {
			at(now.Add(a.Interval))
		}
	}
	if !fresh && len(p.Deploy) > 0 {
		p.Deploy = nil
		p.Why = cmp.Or(alarm.Silent(s.Config.Alarms, s.Alarms), "alarms are asked first")
	}
	return p
}

// ended is when the last host has ended.
func (s *State) ended() (last time.Time) {
	for _, h := range s.Hosts {
		if !h.Joined && h.Ended.After(last) {
			last = h.Ended
		}
	}
	return last
}

// Asked tells that an alarm is being asked.
func (s *State) Asked(name string, now time.Time) {
	if s.Alarms == nil {
		s.Alarms = map[string]alarm.State{}
	}
	a := s.Alarms[name]
	a.Asked = now
	s.Alarms[name] = a
}

// Answered tells what an alarm has answered.
func (s *State) Answered(e alarm.Measured, now time.Time) {
	for _, a := range s.Config.Alarms {
		if state, asked := s.Alarms[a.Name]; asked && a.Name == e.Name {
			state.Answer(a, e, now)
			state.Ignored = state.Ignored && !s.Resumed
			s.Alarms[a.Name] = state
		}
	}
}

// plan is Plan without alarms.
func (s *State) plan(now time.Time) Plan {
	var members []*Host
	var p Plan
	skipped := 0
	for i := range s.Hosts {
		h := &s.Hosts[i]
		switch {
		case h.Attempt == Skipped:
			skipped++
		case !h.Joined:
			members = append(members, h)
		case h.Attempt == None && h.Health != Offline:
			p.Follow = append(p.Follow, h.Name)
		}
	}
	if len(members) == 0 {
		why := "no " + s.of() + " has the tags that are asked for"
		if skipped > 0 {
			why = "every " + s.of() + " is skipped"
		}
		return Plan{Status: Broken, Reason: NoHosts, Why: why}
	}
	running := count(members, func(h *Host) bool { return h.Attempt == Running })
	if s.Stop != "" {
		p.Follow = nil
		p.Status, p.Why = InProgress, "stopping: "+s.Stop
		if running == 0 {
			p.Status, p.Why = Stopped, s.Stop
		}
		return p
	}
	next := s.next(members, now, &p)
	if p.Status == "" {
		s.choose(members, next, running, &p)
	}
	if p.Status != Done {
		p.Follow = nil
	}
	return p
}

func count(hosts []*Host, is func(*Host) bool) (n int) {
	for _, h := range hosts {
		if is(h) {
			n++
		}
	}
	return n
}

// next are the hosts that may be deployed to: of a zonal configuration those of the first
// zone that is not finished, and nothing while the one before is watched.
func (s *State) next(members []*Host, now time.Time, p *Plan) []*Host {
	if s.Config.Zonal == nil {
		return pending(members)
	}
	byZone := map[string][]*Host{}
	var zones []string
	for _, h := range members {
		if byZone[h.Zone] == nil {
			zones = append(zones, h.Zone)
		}
		byZone[h.Zone] = append(byZone[h.Zone], h)
	}
	slices.Sort(zones)
	var watched time.Time
	for i, zone := range zones {
		waits := pending(byZone[zone])
		running := count(byZone[zone], func(h *Host) bool { return h.Attempt == Running })
		if len(waits) > 0 || running > 0 {
			if now.Before(watched) {
				p.Status, p.Wake = InProgress, watched
				p.Why = "watching zone " + zones[i-1] + " before zone " + zone
				return nil
			}
			return waits
		}
		var ended time.Time
		for _, h := range byZone[zone] {
			if h.Ended.After(ended) {
				ended = h.Ended
			}
		}
		pause := s.Config.Zonal.Each
		if i == 0 {
			pause = s.Config.Zonal.First
		}
		watched = ended.Add(pause)
	}
	return nil
}

func pending(hosts []*Host) (all []*Host) {
	for _, h := range hosts {
		if h.Attempt == None && h.Health != Offline {
			all = append(all, h)
		}
	}
	return all
}

// choose takes as many of next as the minimum allows, in CodeDeploy's order.
func (s *State) choose(members, next []*Host, running int, p *Plan) {
	rank := func(h *Host) int {
		if h.Health == Unhealthy {
			return 0
		}
		return 1 + slices.Index([]Revision{Unknown, Old, Current}, h.Revision)
	}
	slices.SortStableFunc(next, func(a,
		b *Host) int {
		return cmp.Or(cmp.Compare(rank(a), rank(b)), strings.Compare(a.Name, b.Name))
	})

	// Who is unhealthy cannot make it worse.
	unhealthyRuns := false
	for _, h := range members {
		unhealthyRuns = unhealthyRuns || h.Attempt == Running && h.Health == Unhealthy
	}
	for _, h := range next {
		if h.Health == Unhealthy {
			p.Deploy = append(p.Deploy, h.Name)
		}
	}
	if len(p.Deploy) > 0 || unhealthyRuns {
		p.Status = InProgress
		return
	}
	blocked := ""
	for _, h := range next {
		if why := s.blocks(members, h, p.Deploy); why != "" {
			blocked = cmp.Or(blocked, why)
			continue
		}
		p.Deploy = append(p.Deploy, h.Name)
	}
	switch {
	case len(p.Deploy) > 0 || running > 0:
		p.Status = InProgress
	case len(next) > 0:
		s.stuck(members, blocked, p)
	default: // at most hosts that are offline are left
		s.finish(members, p)
	}
}

// blocks says why a healthy host may not be deployed to now, besides those that were
// chosen already; "" when it may.
func (s *State) blocks(members []*Host, h *Host, chosen []string) string {
	room := func(of []*Host, minimum int) int {
		healthy := count(of, func(h *Host) bool { return h.Health == Healthy })
		busy := count(of, func(h *Host) bool {
			return h.Health == Healthy && (h.Attempt == Running || slices.Contains(chosen, h.Name))
		})
		return healthy - minimum - busy
	}
	healthy := count(members, func(h *Host) bool { return h.Health == Healthy })
	if room(members, s.Minimum) <= 0 {
		return fmt.Sprintf("%d of %d %ss are healthy, and %d must stay so", healthy, len(members), s.of(), s.Minimum)
	}
	minimum, zonal := s.Zones[h.Zone]
	if !zonal {
		return ""
	}
	var zone []*Host
	for _, other := range members {
		if other.Zone == h.Zone {
			zone = append(zone, other)
		}
	}
	if room(zone, minimum) <= 0 {
		return fmt.Sprintf("%d of %d %ss of zone %s are healthy, and %d must stay so",
			count(zone, func(h *Host) bool { return h.Health == Healthy }), len(zone), s.of(), h.Zone, minimum)
	}
	return ""
}

func (s *State) anyLeft(members []*Host) bool {
	return count(members, func(h *Host) bool { return h.Attempt == None }) > 0
}

// stuck ends a deployment that cannot go on, or waits when hosts that are offline would
// let it.
func (s *State) stuck(members []*Host, why string, p *Plan) {
	offline := count(members, func(h *Host) bool { return h.Health == Offline })
	healthy := count(members, func(h *Host) bool { return h.Health == Healthy })
	p.Why = why
	if offline > 0 && healthy+offline > s.Minimum {
		var names []string
		for _, h := range members {
			if h.Health == Offline {
				names = append(names, h.Name)
			}
		}
		p.Status = Waiting
		p.Why += "; waiting for " + strings.Join(names, ", ") + ", which cannot be reached"
		return
	}
	p.Status, p.Reason = Broken, Constraints
	if count(members, func(h *Host) bool { return h.Attempt != None }) == 0 {
		p.Reason = Invalid
		p.Why += "; choose a lower minimum, or add " + s.of() + "s"
	}
}

// finish ends a deployment that has nothing left to do. One host at least must have
// succeeded. Those that are offline get the revision when they are back.
func (s *State) finish(members []*Host, p *Plan) {
	succeeded := count(members, func(h *Host) bool { return h.Attempt == Succeeded })
	if succeeded > 0 {
		p.Status = Done
		return
	}
	if count(members, func(h *Host) bool { return h.Attempt == Failed }) == 0 && s.anyLeft(members) {
		p.Status, p.Why = Waiting, "no "+s.of()+" can be reached"
		return
	}
	p.Status, p.Reason, p.Why = Broken, NoneSucceeded, "no "+s.of()+" has succeeded"
}

// Report tells how a host has ended; it makes the host healthy or not.
func (s *State) Report(name string, succeeded bool, now time.Time) {
	for i := range s.Hosts {
		h := &s.Hosts[i]
		if h.Name != name || h.Attempt != Running {
			continue
		}
		h.Ended = now
		if succeeded {
			h.Attempt, h.Health, h.Revision = Succeeded, Healthy, Current
		} else {
			h.Attempt, h.Health = Failed, Unhealthy
		}
	}
}

// Started tells that a host is being deployed to.
func (s *State) Started(name string, now time.Time) {
	for i := range s.Hosts {
		if s.Hosts[i].Name == name && s.Hosts[i].Attempt == None {
			s.Hosts[i].Attempt, s.Hosts[i].Began = Running, now
		}
	}
}

// Seen tells what is known of a host's health. What a deployment makes of it is told
// by Report; a host that is not known yet joins.
func (s *State) Seen(name, zone string, health Health) {
	i, found := slices.BinarySearchFunc(s.Hosts, name,
		func(h Host, name string) int { return strings.Compare(h.Name, name) })
	if !found {
		s.Hosts = slices.Insert(s.Hosts, i, Host{Name: name, Zone: zone, Health: health, Revision: Unknown, Joined: true})
		return
	}
	s.Hosts[i].Health = health
}

// Left takes a host out that somebody has removed or drained: it is not counted any more. Those
// that have joined are all that the deployment is for when nobody else is left.
func (s *State) Left(name string) {
	s.Hosts = slices.DeleteFunc(s.Hosts, func(h Host) bool { return h.Name == name })
	if !slices.ContainsFunc(s.Hosts, func(h Host) bool { return !h.Joined }) {
		for i := range s.Hosts {
			s.Hosts[i].Joined = false
		}
	}
	s.count()
}

// Retry lets hosts that failed be deployed to again, and what was stopped go on.
func (s *State) Retry() {
	for i := range s.Hosts {
		if s.Hosts[i].Attempt == Failed {
			s.Hosts[i].Attempt = None
		}
	}
	s.Stop, s.Keeps, s.Alarms = "", false, nil
}

// Skip leaves a host out of the deployment that is not at it: it keeps what it has, and
// is not counted.
func (s *State) Skip(name string) {
	for i := range s.Hosts {
		if h := &s.Hosts[i]; h.Name == name && (h.Attempt == None || h.Attempt == Failed) {
			h.Attempt = Skipped
		}
	}
	s.count()
}

// Unskip takes a host in again that was left out.
func (s *State) Unskip(name string) {
	for i := range s.Hosts {
		if h := &s.Hosts[i]; h.Name == name && h.Attempt == Skipped {
			h.Attempt = None
		}
	}
	s.count()
}
