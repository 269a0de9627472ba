package fleet

import (
	"fmt"
	"slices"

	"github.com/headgate-cd/headgate/reconciler/target"
	"github.com/headgate-cd/headgate/reconciler/target/hosts/rollout"
)

// stage is a part of a deployment: the same is done on hosts, as many at once as its
// configuration allows. A deployment in place has one.
type stage struct {
	part   target.Part
	config rollout.Config
	groups rollout.Groups // whose hosts it is for; nil: all
	after  *stage         // of whose hosts only those that have succeeded; nil: all
	does   string         // what hosts do that have succeeded, for people
	state  *rollout.State // nil: it has not begun
}

func (s *stage) hosts() []rollout.Host {
	if s.state == nil {
		return nil
	}
	return s.state.Hosts
}

// of are the hosts that it is for.
func (s *stage) of(a *app, all []Host) (own []Host) {
	for _, h := range all {
		if s.groups != nil && !s.groups.Matches(h.Tags) {
			continue
		}
		if s.after != nil && !slices.ContainsFunc(s.after.hosts(), func(at rollout.Host) bool {
			return at.Name == h.Name && at.Attempt == rollout.Succeeded
		}) {
			continue
		}
		own = append(own, h)
	}
	return own
}

// does is what hosts do that have succeeded in the stage that the deployment is in.
func (a *app) does() string {
	for _, s := range a.stages {
		if s.state == a.state {
			return s.does
		}
	}
	return "have it"
}

// cannot is why a blue/green deployment can neither begin nor go on; "": it can. A host in both
// halves would be taken out of the traffic that it has just got.
func cannot(c *config, all []Host) string {
	for _, h := range all {
		switch {
		case c.groups.Matches(h.Tags) && c.other.Matches(h.Tags):
			return h.Name + " has the tags of both halves; write tags and blue_green so that no host has both"
		case h.Agent.Live() && !h.Agent.TakesParts():
			return "the agent of " + h.Name + " is too old for a blue/green deployment, and would install under its visitors; " +
				"have it go on with the server's program: agent upgrade " + h.Name
		}
	}
	return ""
}

// blueGreen are the stages of a deployment to the half of the hosts that gets no traffic: it
// is installed there, gets the traffic when all have it, and then the other half is taken out
// of the traffic. Which half that is, the hosts say.
func blueGreen(d *target.Declared, c *config, all []Host, looked map[string]target.Observed) (stages []*stage, waits string) {
	halves := []rollout.Groups{c.groups, c.other}
	serving, known, away := [2]int{}, -1, ""
	for _, h := range all {
		half := 0
		if c.other.Matches(h.Tags) {
			half = 1
		}
		o := looked[h.Name]
		if !h.Agent.Live() {
			away = h.Name
			continue
		}
		if o.Commit == d.Commit && o.Sequence == d.Sequence {
			switch o.Part { // it had begun
			case target.Replacement, target.Allowed:
				known = half
			case target.Blocked:
				known = 1 - half
			}
		}
		for _, u := range o.Units {
			for _, in := range u.Instances {
				if in.Serving {
					serving[half]++
				}
			}
		}
	}
	replacement := 1
	switch {
	case known >= 0:
		replacement = known
	case serving == [2]int{} && away != "":
		return nil, fmt.Sprintf("which half of the hosts gets the traffic is not known: %s cannot be reached", away)
	case serving == [2]int{} || serving[1] > serving[0]:
		replacement = 0
	}
	// Only the last stage is followed by a bake: then the release has all of the traffic.
	through := c.rollout
	through.Bake = 0
	out := rollout.Config{Name: rollout.AllAtOnce.Name, Alarms: c.rollout.Alarms, Bake: c.rollout.Bake}
	install := &stage{part: target.Replacement, config: through, groups: halves[replacement], does: "have it"}
	allow := &stage{part: target.Allowed, config: through, groups: halves[replacement], after: install,
		does: "of the replacement get the traffic"}
	block := &stage{part: target.Blocked, config: out, groups: halves[1-replacement], does: "are out of the traffic"}
	return []*stage{install, allow, block}, ""
}
