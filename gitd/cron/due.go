package cron

import (
	"slices"
	"strings"
	"time"
)

// Entry is one schedule and when it was due last.
type Entry struct {
	Name string
	Spec Spec
	// Since is the time for which it ran last or, before its first run, the time
	// at which it was declared: it is not due for times before that.
	Since time.Time
}

// Run is a schedule that is due now.
type Run struct {
	Name string
	At   time.Time // the latest time at or before now for which it is due
	Late bool      // other times before At were missed too; they do not run
}

// maxAhead is by how much a clock may be set back without a time coming twice.
const maxAhead = time.Hour

// Ahead reports whether since, of an Entry, is so far in the future that the clock must
// have been wrong when it was noted. Nothing would be due until it has passed, which may be
// never: the entry is to count from now.
func Ahead(since, now time.Time) bool { return since.Sub(now) > maxAhead }

// Due is what is to run at now, in order of time and name, and when to look
// again; the zero time when nothing will ever be due. A schedule whose times
// were missed, however many, is due once.
//
// A clock that was set back makes nothing due twice: times up to Since have
// been. Ahead says when that is no use any more.
func Due(entries []Entry, now time.Time) (runs []Run, next time.Time) {
	for _, e := range entries {
		at, late, again := e.Spec.Due(e.Since, now)
		if !at.IsZero() {
			runs = append(runs, Run{Name: e.Name, At: at, Late: late})
		}
		if !again.IsZero() && (next.IsZero() || again.Before(next)) {
			next = again
		}
	}
	slices.SortFunc(runs, func(a, b Run) int {
		if c := a.At.Compare(b.At); c != 0 {
			return c
		}
		return strings.Compare(a.Name, b.Name)
	})
	return runs, next
}

// Due is the latest time after since, and not after now, at which s is due, the zero
// time when there is none. late says that there were others before it. next is its
// next time.
func (s Spec) Due(since, now time.Time) (at time.Time, late bool, next time.Time) {
	first := s.Next(since)
	if first.IsZero() || first.After(now) {
		return time.Time{}, false, first
	}
	at = s.latest(first, now)
	return at, !at.Equal(first), s.Next(now)
}

// latest is the last due time in [first, now]; first is one.
func (s Spec) latest(first, now time.Time) time.Time {
	if s.every != nil {
		return first.Add(now.Sub(first).Truncate(s.every.Delay))
	}
	// Years of a schedule of every minute would be many steps: look back in steps
	// that grow until one finds a time.
	for back := time.Hour; ; back *= 8 {
		from := now.Add(-back)
		if !from.After(first) {
			from = first.Add(-time.Second)
		}
		at := s.Next(from)
		if at.IsZero() || at.After(now) {
			continue // first is in [first, now], so this ends
		}
		for {
			later := s.Next(at)
			if later.IsZero() || later.After(now) {
				return at
			}
			at = later
		}
	}
}
