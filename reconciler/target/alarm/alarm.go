// Package alarm is what deployments have of alarms: what came of one that is asked again and
// again, and whether it stops a deployment (a pure core), and the question to Prometheus.
package alarm

import (
	"fmt"
	"time"
)

// Alarm stops a deployment when what it asks for is beyond a bound for some time.
type Alarm struct {
	Name     string // unique in the deployment
	Above    bool   // it fires above Bound; else below
	Bound    float64
	For      time.Duration
	Interval time.Duration // between two questions
	Keeps    bool          // what it stops is not rolled back
}

// Measured is what an alarm's question was answered, or not.
type Measured struct {
	Name  string
	Value float64
	None  bool   // there is no value, which is not beyond any bound
	Err   string // why there is no answer
}

// State is what came of an alarm.
type State struct {
	Asked   time.Time
	Heard   time.Time // the last answer; zero: none yet
	Value   float64
	Beyond  time.Time // since when the value is beyond the bound; zero: it is not
	Ignored bool      // it was so at the start: the deployment may be what mends it
	Trouble string    // why there is no answer
}

// Answer notes what the alarm's question was answered.
func (s *State) Answer(a Alarm, e Measured, now time.Time) {
	if s.Trouble = e.Err; e.Err != "" {
		return
	}
	first := s.Heard.IsZero()
	s.Heard, s.Value = now, e.Value
	beyond := !e.None && (a.Above && e.Value > a.Bound || !a.Above && e.Value < a.Bound)
	switch {
	case !beyond:
		s.Beyond = time.Time{}
	case s.Beyond.IsZero():
		s.Beyond, s.Ignored = now, first
	}
}

// Fires says since when an alarm stops a deployment, if nothing changes until then, and
// why. "": it does not.
func (a Alarm) Fires(s State) (why string, at time.Time) {
	if s.Beyond.IsZero() || s.Ignored {
		return "", at
	}
	side := "below"
	if a.Above {
		side = "above"
	}
	why = fmt.Sprintf("alarm %s: %g is %s %g", a.Name, s.Value, side, a.Bound)
	if a.For > 0 {
		why += fmt.Sprintf(" for %s", a.For)
	}
	return why, s.Beyond.Add(a.For)
}

// Fresh reports whether an alarm was answered lately.
func (s State) Fresh(a Alarm, now time.Time) bool {
	return !s.Heard.IsZero() && now.Sub(s.Heard) < 3*a.Interval
}

// Fired is why an alarm stops a deployment now, and whether that is not rolled back; "":
// none does. at reports whether a time has come, and is told of those that have not.
func Fired(alarms []Alarm, states map[string]State, at func(time.Time) bool) (why string, keeps bool) {
	for _, a := range alarms {
		if why, when := a.Fires(states[a.Name]); why != "" && at(when) {
			return why, a.Keeps
		}
	}
	return "", false
}

// Due names the alarms that are to be asked now, and says whether all were answered
// lately. Without an answer nothing goes on: what cannot be measured is not known to be well.
func Due(alarms []Alarm, states map[string]State, now time.Time,
	at func(time.Time) bool) (due []string, fresh bool) {
	fresh = true
	for _, a := range alarms {
		s := states[a.Name]
		if at(s.Asked.Add(a.Interval)) {
			due = append(due, a.Name)
		}
		fresh = fresh && s.Fresh(a, now)
	}
	return due, fresh
}

// unansweredTimeout is how long an alarm may give no answer.
const unansweredTimeout = time.Hour

// Unanswered is why a deployment is given up of which an alarm has not been answered for
// too long, since its start or later; "": none is.
func Unanswered(alarms []Alarm, states map[string]State, since time.Time, at func(time.Time) bool) string {
	for _, a := range alarms {
		s := states[a.Name]
		heard := s.Heard
		if heard.IsZero() {
			heard = since
		}
		if s.Trouble != "" && at(heard.Add(unansweredTimeout)) {
			return fmt.Sprintf("alarm %s could not be asked about for %s: %s", a.Name, unansweredTimeout, s.Trouble)
		}
	}
	return ""
}

// Silent says which alarm gives no answer, for people; "": none is known not to.
func Silent(alarms []Alarm, states map[string]State) string {
	for _, a := range alarms {
		if s := states[a.Name]; s.Trouble != "" {
			return fmt.Sprintf("alarm %s gives no answer: %s", a.Name, s.Trouble)
		}
	}
	return ""
}
