package rollout

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/headgate-cd/headgate/reconciler/target"
	"github.com/headgate-cd/headgate/reconciler/target/alarm"
)

// Deployment says how what is declared takes over from what serves. The zero value
// starts all of it beside what serves and switches at once, with a circuit breaker.
type Deployment struct {
	Strategy Strategy
	Percent  int           // Canary: of the traffic first; Linear: of each step
	Interval time.Duration // Canary: until the rest; Linear: between steps
	Bake     time.Duration // how long what served before is kept, to go back to, once nothing is for it

	Breaker Breaker
	Hooks   []Hook
	Alarms  []alarm.Alarm
}

// Strategy is how the traffic gets from one version to the next.
type Strategy string

// The strategies.
const (
	AllAtOnce Strategy = ""        // the new version starts beside the old one and gets all traffic at once
	Rolling   Strategy = "rolling" // instances are replaced few at a time
	Canary    Strategy = "canary"  // a part of the traffic, and after an interval the rest
	Linear    Strategy = "linear"  // equal steps at equal intervals
)

// Staged reports whether the deployment goes through stages: something of it waits for
// more than for instances.
func (d Deployment) Staged() bool {
	return d.Strategy == Canary || d.Strategy == Linear || d.Bake > 0 || len(d.Hooks) > 0 || len(d.Alarms) > 0
}

// Bounds are the fewest healthy instances and the most that run at any time in a
// rolling deployment, by percent of those that are declared.
func Bounds(replicas, minimumPercent, maximumPercent int) (minimum, maximum int) {
	return (replicas*minimumPercent + 99) / 100, replicas * maximumPercent / 100
}

// Stalls reports whether a rolling deployment with these bounds can neither start an
// instance nor stop one.
func Stalls(replicas, minimum, maximum int) bool {
	return replicas > 0 && minimum >= replicas && maximum <= replicas
}

// Breaker gives a deployment up after so many failures. The zero value is ECS's: half
// the replicas, at least 3 and at most 200, in a row.
type Breaker struct {
	Off        bool
	Kind       BreakerKind
	Value      int  // percent or count; 0: 50 percent
	Cumulative bool // an instance that proves healthy does not begin the count anew
	Keeps      bool // what it gives up is not rolled back
}

// BreakerKind is what Breaker.Value means.
type BreakerKind string

// The kinds.
const (
	BoundedPercent   BreakerKind = ""                  // of the replicas, at least 3 and at most 200
	UnboundedPercent BreakerKind = "unbounded-percent" // of the replicas, at least 1
	Count            BreakerKind = "count"
)

// Threshold is the number of failures at which it trips.
func (b Breaker) Threshold(replicas int) int {
	percent := b.Value
	if percent == 0 {
		percent = 50
	}
	of := (replicas*percent + 99) / 100
	switch b.Kind {
	case Count:
		return max(1, b.Value)
	case UnboundedPercent:
		return max(1, of)
	}
	return min(max(3, of), 200)
}

// Stage is a part of a staged deployment, by its name in ECS. The zero value comes
// before the first.
type Stage string

// The stages, in order.
const (
	ReconcileService       Stage = "RECONCILE_SERVICE" // alarms are asked for the first time
	PreScaleUp             Stage = "PRE_SCALE_UP"
	ScaleUp                Stage = "SCALE_UP"
	PostScaleUp            Stage = "POST_SCALE_UP"
	TestTrafficShift       Stage = "TEST_TRAFFIC_SHIFT" // requests with the test header get the new version
	PostTestTrafficShift   Stage = "POST_TEST_TRAFFIC_SHIFT"
	PreProductionShift     Stage = "PRE_PRODUCTION_TRAFFIC_SHIFT"
	ProductionTrafficShift Stage = "PRODUCTION_TRAFFIC_SHIFT"
	PostProductionShift    Stage = "POST_PRODUCTION_TRAFFIC_SHIFT"
	BakeTime               Stage = "BAKE_TIME"
	CleanUp                Stage = "CLEAN_UP" // what served before goes
	Deployed               Stage = "DEPLOYED"
)

// Stages are all in which a deployment can be, in order.
var Stages = []Stage{
	ReconcileService, PreScaleUp, ScaleUp, PostScaleUp, TestTrafficShift, PostTestTrafficShift,
	PreProductionShift, ProductionTrafficShift, PostProductionShift, BakeTime, CleanUp, Deployed,
}

// HookStages are those that hooks may have a say in.
var HookStages = []Stage{
	ReconcileService, PreScaleUp, PostScaleUp, TestTrafficShift, PostTestTrafficShift,
	PreProductionShift, ProductionTrafficShift, PostProductionShift,
}

// before reports whether a stage comes before another.
func (s Stage) before(t Stage) bool { return slices.Index(Stages, s) < slices.Index(Stages, t) }

// next is the stage that follows.
func (s Stage) next() Stage { return Stages[slices.Index(Stages, s)+1] }

// maxStage bounds how long a stage may take.
const maxStage = 24 * time.Hour

// Hook has a say at the end of a stage: the next one begins when it has succeeded.
type Hook struct {
	Name    string // unique in the deployment
	Stage   Stage
	Pause   bool          // it is a person who lets the deployment go on
	Timeout time.Duration // from its first call; then the deployment is given up
}

// Progress is how far the deployment of a commit has come.
type Progress struct {
	Commit   string
	Rotation string `json:",omitempty"` // as declared
	Replaces bool   // something serves that there is to go back to
	Stage    Stage
	Since    time.Time // of Stage
	Weight   int       // percent of the traffic that what is declared gets
	Shifted  time.Time // when Weight was set
	Hooks    map[string]HookState
	Alarms   map[string]alarm.State

	Over  bool   // it was given up
	Why   string // for people
	Keeps bool   // and is not to be rolled back
}

// HookState is what came of a hook.
type HookState struct {
	Called  time.Time // for the first time; zero: not yet
	Running bool
	Again   time.Time // when it wants to be called again; zero: it does not
	Done    bool
	Message string // what it said last
}

// Events of staged deployments.
type (
	// Hooked: a hook was called and answered.
	Hooked struct {
		Name    string
		Result  HookResult
		Again   time.Duration // InProgress: after which it wants to be called
		Message string
	}
	// Measured: an alarm's question was answered, or not.
	Measured struct{ alarm.Measured }
)

// HookResult is a hook's answer.
type HookResult string

// The answers.
const (
	Succeeded  HookResult = "SUCCEEDED"
	Failed     HookResult = "FAILED"
	InProgress HookResult = "IN_PROGRESS"
)

func (Hooked) event()   {}
func (Measured) event() {}

// Interrupted notes that the program ended: what it had called or asked will not be
// answered any more.
func (p *Progress) Interrupted() {
	if p == nil {
		return
	}
	for name, h := range p.Hooks {
		h.Running = false
		p.Hooks[name] = h
	}
}

func (p *Progress) clone() *Progress {
	if p == nil {
		return nil
	}
	c := *p
	c.Hooks, c.Alarms = map[string]HookState{}, map[string]alarm.State{}
	for name, h := range p.Hooks {
		c.Hooks[name] = h
	}
	for name, a := range p.Alarms {
		c.Alarms[name] = a
	}
	return &c
}

// under is the progress of the deployment of d, nil when it has none or is through.
func (o *Observed) under(d Declared) *Progress {
	if p := o.Progress; p != nil && p.Commit == d.Commit && p.Stage != Deployed {
		return p
	}
	return nil
}

// deploy begins the stages of a commit that declares another version than serves, or
// the first, or other secrets.
func (o *Observed) deploy(d Declared) {
	if p := o.Progress; p != nil && p.Commit == d.Commit && (d.Rotation == "" || d.Rotation == p.Rotation) {
		return
	}
	o.Progress = nil
	if !d.Deployment.Staged() {
		return
	}
	differs, replaces := false, false
	for _, s := range d.Services {
		f := o.service(s.Name)
		if f.Serving == s.Version {
			continue
		}
		differs = true
		replaces = replaces || f.Serving != "" && f.Versions[f.Serving].ever()
	}
	if differs {
		o.Progress = &Progress{
			Commit:   d.Commit,
			Rotation: d.Rotation,
			Replaces: replaces,
			Hooks:    map[string]HookState{},
			Alarms:   map[string]alarm.State{},
		}
	}
}

func (o *Observed) hooked(e Hooked, now time.Time) {
	if o.Progress == nil || !o.Progress.Hooks[e.Name].Running {
		return
	}
	h := o.Progress.Hooks[e.Name]
	h.Running, h.Again, h.Message = false, time.Time{}, e.Message
	switch e.Result {
	case Succeeded:
		h.Done = true
	case InProgress:
		h.Again = now.Add(e.Again)
	default:
		o.Progress.Hooks[e.Name] = h
		o.Progress.giveUp(fmt.Sprintf("hook %s failed: %s", e.Name, e.Message), false)
		return
	}
	o.Progress.Hooks[e.Name] = h
}

func (p *Progress) giveUp(why string, keeps bool) {
	if !p.Over {
		p.Over, p.Why, p.Keeps = true, why, keeps
	}
}

func (o *Observed) answered(e alarm.Measured, alarms []alarm.Alarm, now time.Time) {
	if o.Progress == nil {
		return
	}
	s, ok := o.Progress.Alarms[e.Name]
	i := slices.IndexFunc(alarms, func(a alarm.Alarm) bool { return a.Name == e.Name })
	if !ok || i < 0 {
		return
	}
	s.Answer(alarms[i], e, now)
	o.Progress.Alarms[e.Name] = s
}

// advance takes a staged deployment as far as it may go now.
func (p *planner) advance() {
	for p.o.under(p.d) != nil && !p.o.Progress.Over && p.step() {
	}
}

// step says whether something was done that lets more be done.
func (p *planner) step() bool {
	pr, d := p.o.Progress, p.d.Deployment
	if pr.Stage == "" {
		p.do(Action{Kind: Enter, Stage: ReconcileService})
		return true
	}
	if why, keeps := p.fault(pr); why != "" {
		p.do(Action{Kind: GiveUp, Why: why, Keep: keeps})
		return false
	}
	fresh := p.ask(pr)
	if p.d.Paused || !fresh {
		return false
	}
	if !p.hooks(pr) || !p.stageDone(pr) {
		return false
	}
	if pr.Stage == ProductionTrafficShift && pr.Weight < 100 {
		p.do(Action{Kind: Shift, Weight: d.WeightAfter(pr.Weight, pr.Replaces)})
		return true
	}
	p.do(Action{Kind: Enter, Stage: pr.Stage.next()})
	return true
}

// WeightAfter is the weight of the step after one. What replaces nothing gets all at once.
func (d Deployment) WeightAfter(weight int, replaces bool) int {
	switch {
	case !replaces:
		return 100
	case d.Strategy == Canary && weight == 0:
		return d.Percent
	case d.Strategy == Linear:
		return min(100, weight+d.Percent)
	}
	return 100
}

// fault is why a deployment cannot go on, "" while it can.
func (p *planner) fault(pr *Progress) (why string, keeps bool) {
	for _, s := range p.d.Services {
		if t := p.o.service(s.Name).Versions[s.Version]; t.Tripped() {
			return fmt.Sprintf("%s: %s failed %d times: %s", s.Name, s.Label, t.Failures, t.Reason), p.d.Deployment.Breaker.Keeps
		}
	}
	if why, keeps := alarm.Fired(p.d.Deployment.Alarms, pr.Alarms, p.at); why != "" {
		return why, keeps
	}
	for _, h := range p.d.Deployment.Hooks {
		s := pr.Hooks[h.Name]
		if h.Stage != pr.Stage || s.Called.IsZero() || s.Done || !p.at(s.Called.Add(h.Timeout)) {
			continue
		}
		if h.Pause {
			return fmt.Sprintf("nobody had it go on within %s (%s)", h.Timeout, h.Name), false
		}
		why := fmt.Sprintf("hook %s took longer than %s", h.Name, h.Timeout)
		if s.Message != "" {
			why += ": " + s.Message
		}
		return why, false
	}
	if !p.d.Paused && p.at(pr.Since.Add(maxStage)) {
		return fmt.Sprintf("stage %s took longer than %s", pr.Stage, maxStage), false
	}
	return "", false
}

// ask asks alarms that are due, and says whether all were answered lately. Without an
// answer nothing goes on: what cannot be measured is not known to be well.
func (p *planner) ask(pr *Progress) bool {
	due, fresh := alarm.Due(p.d.Deployment.Alarms, pr.Alarms, p.now, p.at)
	for _, name := range due {
		p.do(Action{Kind: Query, Name: name})
	}
	return fresh
}

// hooks calls those of the stage that are due, and says whether all have succeeded.
func (p *planner) hooks(pr *Progress) bool {
	all := true
	for _, h := range p.d.Deployment.Hooks {
		s := pr.Hooks[h.Name]
		if h.Stage != pr.Stage || s.Done {
			continue
		}
		if h.Pause && slices.Contains(p.d.Continued, h.Name) {
			continue
		}
		all = false
		if !s.Running && (s.Called.IsZero() || !h.Pause && p.at(s.Again)) {
			p.do(Action{Kind: Call, Name: h.Name, Stage: h.Stage})
			p.at(p.now.Add(h.Timeout))
		}
	}
	return all
}

// stageDone reports whether a stage, its hooks aside, has come to its end.
func (p *planner) stageDone(pr *Progress) bool {
	switch pr.Stage {
	case ScaleUp:
		for _, s := range p.d.Services {
			f := p.o.service(s.Name)
			if !f.ready(s, f.Serving, p.now) || f.Serving != "" && f.Serving != s.Version && p.d.Deployment.Strategy == Rolling {
				return false
			}
		}
	case ProductionTrafficShift:
		return pr.Weight == 0 || pr.Weight == 100 || p.at(pr.Shifted.Add(p.d.Deployment.Interval))
	case BakeTime:
		return !pr.Replaces || p.at(pr.Since.Add(p.d.Deployment.Bake))
	case CleanUp:
		for _, s := range p.d.Services {
			if p.o.service(s.Name).Serving != s.Version {
				return false
			}
		}
	}
	return true
}

// rolling puts into want how many instances of each version are wanted now, on the way
// to replicas of one: few are replaced at a time, so that no fewer than minimum are
// healthy and no more than maximum run, those that are being stopped included. from is
// the version that serves; what is left of a third one goes before it.
func (f *ServiceState) rolling(want map[string]int, from, to string, replicas, minimum, maximum int, now time.Time) {
	live, fit := map[string]int{}, map[string]int{}
	leaving, old, oldFit := 0, 0, 0
	for _, in := range f.Instances {
		switch {
		case in.Retired && in.runs():
			leaving++
		case in.Retired:
		case in.Version == to:
			live[to]++
		default:
			live[in.Version]++
			old++
			if in.Phase == target.PhaseHealthy {
				fit[in.Version]++
				oldFit++
			}
		}
	}
	lasting := len(f.lasting(to, now))
	room := maximum - old - live[to] - leaving
	want[from], want[to] = 0, min(replicas, live[to]+max(0, room))
	missing := replicas - want[to] - leaving
	surplus := oldFit + lasting - replicas
	drop := max(0, missing, surplus)
	if lasting >= replicas {
		drop = old
	}
	free := max(0, oldFit+lasting-minimum)

	// What serves nobody goes first, then what is neither the one nor the other.
	versions := slices.Sorted(maps.Keys(live))
	slices.SortStableFunc(versions, func(a, b string) int {
		return cmp.Compare(index(a == from), index(b == from))
	})
	for _, v := range versions {
		if v == to {
			continue
		}
		want[v] = live[v]
		unfit := live[v] - fit[v]
		if v != from {
			want[v] -= unfit
			continue
		}
		n := min(drop, unfit)
		want[v] -= n
		drop -= n
	}
	for _, v := range versions {
		if v == to {
			continue
		}
		n := min(drop, free, fit[v])
		want[v] -= n
		drop, free = drop-n, free-n
	}
}

func index(last bool) int {
	if last {
		return 1
	}
	return 0
}
