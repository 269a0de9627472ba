// Package rollout is the pure core of target function: how an alias moves from one
// version of a function to another, the way CodeDeploy moves Lambda's.
//
// A Progress is plain data. Step says what it becomes at a time, and what is to be done
// for that; whoever drives it writes down the new Progress first and acts then, so that
// a kill in between does nothing twice but ask. There is no goroutine, clock, disk or
// network in here.
package rollout

import (
	"errors"
	"fmt"
	"maps"
	"time"

	"github.com/headgate-cd/headgate/reconciler/target/alarm"
	shift "github.com/headgate-cd/headgate/reconciler/target/services/rollout"
)

// Alias is where the requests for an alias go. The zero value is none.
type Alias struct {
	Version int `json:"version"`          // that gets what Canary does not
	Canary  int `json:"canary,omitempty"` // 0: none
	Weight  int `json:"weight,omitempty"` // percent of the requests that Canary gets
}

func (a Alias) String() string {
	switch {
	case a == Alias{}:
		return "nothing"
	case a.Canary == 0:
		return fmt.Sprintf("version %d", a.Version)
	}
	return fmt.Sprintf("version %d, and version %d for %d %%", a.Version, a.Canary, a.Weight)
}

// Deployment moves an alias.
type Deployment struct {
	ID      string `json:"id"`
	Of      string `json:"of"`      // "function:alias" that moves
	Current int    `json:"current"` // version; 0: the alias is new
	Target  int    `json:"target"`

	Before string `json:"before,omitempty"` // function of BeforeAllowTraffic; "": none
	After  string `json:"after,omitempty"`  // of AfterAllowTraffic

	// Shift says by which steps, and what stops it: of it the strategies all at once,
	// canary and linear and the alarms count.
	Shift shift.Deployment `json:"shift"`
}

// Stage is a part of a deployment, by CodeDeploy's name for the lifecycle event. The
// zero value comes before the first.
type Stage string

// The stages, in order. Failed takes the place of any.
const (
	BeforeAllowTraffic Stage = "BeforeAllowTraffic"
	AllowTraffic       Stage = "AllowTraffic"
	AfterAllowTraffic  Stage = "AfterAllowTraffic"
	Succeeded          Stage = "Succeeded"
	Failed             Stage = "Failed"
)

// Over reports whether nothing comes after a stage.
func (s Stage) Over() bool { return s == Succeeded || s == Failed }

// Times that a deployment is bound by.
const (
	// HookTimeout is how long a hook has for its report, as at CodeDeploy.
	HookTimeout = time.Hour
)

// Progress is how far a deployment has come.
type Progress struct {
	Deployment

	Stage   Stage     `json:"stage"`
	Since   time.Time `json:"since"`   // of Stage
	Weight  int       `json:"weight"`  // percent of the requests that Target gets
	Shifted time.Time `json:"shifted"` // when Weight was set
	Hook    Hook      `json:"hook"`    // of Stage
	Why     string    `json:"why,omitempty"`

	Alarms map[string]alarm.State `json:"alarms,omitempty"`
}

// Hook is what came of the hook of a stage.
type Hook struct {
	Execution string    `json:"execution,omitempty"` // what its report must name
	Called    time.Time `json:"called,omitzero"`     // for the first time; zero: not yet
	Running   bool      `json:"running,omitempty"`
	Done      bool      `json:"done,omitempty"`
}

// Alias is where the alias is to be at this point.
func (p *Progress) Alias() Alias {
	switch {
	case p.Stage == Failed || p.Weight == 0:
		return Alias{Version: p.Current}
	case p.Weight == 100:
		return Alias{Version: p.Target}
	}
	return Alias{Version: p.Current, Canary: p.Target, Weight: p.Weight}
}

// Interrupted notes that the program ended: a hook that ran has ended with it, and is
// called again.
func (p *Progress) Interrupted() { p.Hook.Running = false }

// Call is a hook to be called, Query an alarm to be asked about.
type (
	Call  struct{ Function, Execution string }
	Query struct{ Alarm string }
)

// Step takes a deployment as far as it may go now, and says what is to be done and when
// to look again (zero: when something has happened). execution makes a new name for the
// execution of a hook. It changes nothing of p.
func Step(p Progress, paused bool, now time.Time,
	execution func() string) (next Progress, calls []Call, queries []Query, wake time.Time) {
	s := &stepper{
		Progress:  p,
		now:       now,
		paused:    paused,
		execution: execution,
	}
	s.Alarms = maps.Clone(p.Alarms)
	for !s.Stage.Over() && s.step() {
	}
	return s.Progress, s.calls, s.queries, s.wake
}

type stepper struct {
	Progress
	now       time.Time
	paused    bool
	execution func() string

	calls   []Call
	queries []Query
	wake    time.Time
}

// at reports whether a time has come, and sees to it that one looks again when it has.
func (s *stepper) at(t time.Time) bool {
	if !s.now.Before(t) {
		return true
	}
	if s.wake.IsZero() || t.Before(s.wake) {
		s.wake = t
	}
	return false
}

func (s *stepper) enter(stage Stage) {
	s.Stage, s.Since, s.Hook = stage, s.now, Hook{}
}

func (s *stepper) fail(why string) {
	s.enter(Failed)
	s.Why = why
}

// step says whether something was done that lets more be done.
func (s *stepper) step() bool {
	if s.Stage == "" {
		s.enter(BeforeAllowTraffic)
		return true
	}
	if why := s.fault(); why != "" {
		s.fail(why)
		return false
	}
	fresh := s.ask()
	if s.paused || !fresh {
		return false
	}
	switch s.Stage {
	case BeforeAllowTraffic:
		if !s.hook(s.Before) {
			return false
		}
		s.enter(AllowTraffic)
	case AllowTraffic:
		switch {
		case s.Weight == 100:
			s.enter(AfterAllowTraffic)
		case s.Weight == 0 || s.at(s.Shifted.Add(s.Shift.Interval)):
			s.Weight, s.Shifted = s.Shift.WeightAfter(s.Weight, s.Current > 0), s.now
		default:
			return false
		}
	case AfterAllowTraffic:
		if !s.hook(s.After) {
			return false
		}
		s.enter(Succeeded)
	}
	return true
}

// hook calls the hook of the stage, and says whether it has succeeded.
func (s *stepper) hook(function string) bool {
	if function == "" || s.Hook.Done {
		return true
	}
	if !s.Hook.Running {
		if s.Hook.Called.IsZero() {
			s.Hook.Called = s.now
		}
		s.Hook.Running, s.Hook.Execution = true, s.execution()
		s.calls = append(s.calls, Call{function, s.Hook.Execution})
		s.at(s.Hook.Called.Add(HookTimeout))
	}
	return false
}

// fault is why a deployment cannot go on, "" while it can.
func (s *stepper) fault() string {
	if why, _ := alarm.Fired(s.Shift.Alarms, s.Alarms, s.at); why != "" {
		return why
	}
	if why := alarm.Unanswered(s.Shift.Alarms, s.Alarms, s.Since, s.at); why != "" {
		return why
	}
	if !s.Hook.Called.IsZero() && !s.Hook.Done && s.at(s.Hook.Called.Add(HookTimeout)) {
		return fmt.Sprintf("hook %s did not report within %s", s.hookFunction(), HookTimeout)
	}
	return ""
}

func (p *Progress) hookFunction() string {
	if p.Stage == BeforeAllowTraffic {
		return p.Before
	}
	return p.After
}

// ask asks about alarms that are due, and says whether all were answered lately. Without
// an answer nothing goes on: what cannot be measured is not known to be well.
func (s *stepper) ask() bool {
	due, fresh := alarm.Due(s.Shift.Alarms, s.Alarms, s.now, s.at)
	for _, name := range due {
		if s.Alarms == nil {
			s.Alarms = map[string]alarm.State{}
		}
		state := s.Alarms[name]
		state.Asked = s.now
		s.Alarms[name] = state
		s.queries = append(s.queries, Query{name})
	}
	for _, a := range s.Shift.Alarms {
		s.at(s.Alarms[a.Name].Asked.Add(a.Interval))
	}
	return fresh
}

// Answered is Progress after an alarm was answered, or not.
func (p Progress) Answered(e alarm.Measured, now time.Time) Progress {
	for _, a := range p.Shift.Alarms {
		if a.Name != e.Name {
			continue
		}
		p.Alarms = maps.Clone(p.Alarms)
		state, asked := p.Alarms[a.Name]
		if !asked {
			return p
		}
		state.Answer(a, e, now)
		p.Alarms[a.Name] = state
	}
	return p
}

// HookStatus is what a hook reports, in CodeDeploy's words.
type HookStatus string

// The statuses that a hook may report.
const (
	HookSucceeded HookStatus = "Succeeded"
	HookFailed    HookStatus = "Failed"
)

// What a report is refused for.
var (
	ErrNoExecution = errors.New("no hook of that deployment runs under that execution id")
	ErrReported    = errors.New("the hook has reported already")
	ErrStatus      = errors.New("a hook reports Succeeded or Failed")
)

// Reported is Progress after a hook's report, which counts once, and for the execution
// that it names only.
func (p Progress) Reported(deployment, execution string, status HookStatus, message string,
	now time.Time) (Progress, error) {
	switch {
	case deployment != p.ID || execution == "" || execution != p.Hook.Execution || p.Stage.Over():
		return p, ErrNoExecution
	case p.Hook.Done:
		return p, ErrReported
	case status != HookSucceeded && status != HookFailed:
		return p, ErrStatus
	case !now.Before(p.Hook.Called.Add(HookTimeout)):
		return p, ErrNoExecution
	case status == HookFailed:
		why := fmt.Sprintf("hook %s (%s) failed", p.hookFunction(), p.Stage)
		if message != "" {
			why += ": " + message
		}
		p.Stage, p.Since, p.Hook, p.Why = Failed, now, Hook{}, why
		return p, nil
	}
	p.Hook.Done, p.Hook.Running = true, false
	return p, nil
}

// Waiting is what the deployment waits for, for people; "" when it is over.
func (p *Progress) Waiting() string {
	if silent := alarm.Silent(p.Shift.Alarms, p.Alarms); silent != "" && !p.Stage.Over() {
		return silent
	}
	switch p.Stage {
	case BeforeAllowTraffic, AfterAllowTraffic:
		if f := p.hookFunction(); f != "" {
			return fmt.Sprintf("%s: waits for the report of %s", p.Stage, f)
		}
	case AllowTraffic:
		if p.Weight > 0 && p.Weight < 100 {
			return fmt.Sprintf("version %d gets %d %% of the requests, more at %s", p.Target, p.Weight,
				p.Shifted.Add(p.Shift.Interval).UTC().Format("15:04:05Z"))
		}
	}
	return ""
}
