// Package cron says when what is declared by a cron expression is due: Parse reads an
// expression, Spec.Next is its next time on clocks that jump twice a year, and Due is
// what is to run, from what ran last and now. It is pure.
package cron

import (
	"errors"
	"fmt"
	"strings"
	"time"
	_ "time/tzdata" // a zone's name means the same on every machine

	robfig "github.com/robfig/cron/v3"
)

// Spec is when something is due, in a time zone.
type Spec struct {
	Expression string
	Zone       *time.Location

	wall  robfig.Schedule               // times on the clock on the wall
	every *robfig.ConstantDelaySchedule // or an interval
}

// ErrZone is in what Parse returns for a zone that is not known.
var ErrZone = errors.New("unknown time zone")

// MinInterval is the shortest "@every".
const MinInterval = time.Minute

var parser = robfig.NewParser(robfig.Minute | robfig.Hour | robfig.Dom | robfig.Month | robfig.Dow | robfig.Descriptor)

// Parse reads five fields (minute, hour, day of month, month, day of week), a
// descriptor such as @daily, or "@every 2h"; or an expression of Amazon EventBridge,
// such as "rate(2 hours)" or "cron(0 12 * * ? *)". zone is a name of the IANA
// database, UTC if empty. An expression that is never due is an error.
func Parse(expression, zone string) (Spec, error) {
	if strings.Contains(expression, "TZ=") {
		return Spec{}, errors.New("a time zone in the expression: give it as zone")
	}
	if zone == "Local" { // what that is, is not in the file
		return Spec{}, fmt.Errorf(`%w "Local": use a name such as Europe/Prague`, ErrZone)
	}
	loc, err := time.LoadLocation(zone)
	if err != nil {
		return Spec{}, fmt.Errorf("%w %q: use a name such as Europe/Prague", ErrZone, zone)
	}
	parsed, err := parse(expression)
	if err != nil {
		return Spec{}, fmt.Errorf("invalid schedule %q: %w", expression, err)
	}

	s := Spec{Expression: expression, Zone: loc}
	switch p := parsed.(type) {
	case robfig.ConstantDelaySchedule:
		if p.Delay < MinInterval {
			return Spec{}, fmt.Errorf("invalid schedule %q: the shortest interval is %v", expression, MinInterval)
		}
		s.every = &p
		return s, nil
	case *robfig.SpecSchedule:
		p.Location = time.UTC // see Next
	}
	s.wall = parsed
	if s.wall.Next(time.Date(firstYear, 1, 1, 0, 0, 0, 0, time.UTC)).IsZero() {
		return Spec{}, fmt.Errorf("invalid schedule %q: no such day ever comes", expression)
	}
	return s, nil
}

func parse(expression string) (robfig.Schedule, error) {
	if inside, ok := inParentheses(expression, "rate"); ok {
		every, err := parseRate(inside)
		return robfig.ConstantDelaySchedule{Delay: every}, err
	}
	if inside, ok := inParentheses(expression, "cron"); ok {
		return parseCalendar(inside)
	}
	if _, ok := inParentheses(expression, "at"); ok {
		return nil, errors.New("at(…) comes once, and what is declared comes again")
	}
	return parser.Parse(expression)
}

// Next is the first time after t at which s is due.
//
// Expressions are about the clock on the wall. A time that the clock skips in
// spring is due once, when the clock has jumped, however many of the
// expression's times were skipped. A time that the clock shows twice in autumn
// is due at the first.
func (s Spec) Next(t time.Time) time.Time {
	if s.every != nil {
		return s.every.Next(t)
	}

	// The wall's time is reckoned as if it were UTC, which has no jumps.
	wall := s.onWall(t)
	for {
		wall = s.wall.Next(wall)
		if wall.IsZero() {
			return time.Time{} // a day that comes again in more than five years
		}
		if at := s.instant(wall); at.After(t) {
			return at
		}
	}
}

// onWall is what the clock shows at t.
func (s Spec) onWall(t time.Time) time.Time {
	t = t.In(s.Zone)
	return time.Date(t.Year(), t.Month(), t.Day(), t.Hour(), t.Minute(), t.Second(), 0, time.UTC)
}

// instant is the first instant at which the clock shows wall or, when it never
// does, the one at which it jumped over it.
func (s Spec) instant(wall time.Time) time.Time {
	guess := time.Date(wall.Year(), wall.Month(), wall.Day(), wall.Hour(), wall.Minute(), wall.Second(), 0, s.Zone)
	start, end := guess.ZoneBounds()

	// Which side of a jump time.Date answers from is not defined.
	if !start.IsZero() {
		_, before := start.Add(-1).Zone()
		_, after := start.Zone()
		earlier := wall.Add(-time.Duration(before) * time.Second)
		switch {
		case before > after && earlier.Before(start): // shown twice: the first
			return earlier.In(s.Zone)
		case before < after && s.onWall(guess) != wall: // skipped
			return start
		}
	}
	if s.onWall(guess) != wall && !end.IsZero() { // skipped, and guessed from before the jump
		return end
	}
	return guess
}
