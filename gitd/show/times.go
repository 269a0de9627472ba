package show

import (
	"cmp"
	"strings"
	"time"
)

// Times is when a service runs that does so at times, and what came of it.
type Times struct {
	Cron string     `json:"cron"`
	Zone string     `json:"zone,omitempty"` // empty: UTC
	Next time.Time  `json:"next,omitzero"`  // zero: nobody can say
	Runs []TimesRun `json:"runs,omitempty"` // newest first
}

// TimesRun is what came of one time.
type TimesRun struct {
	At      time.Time `json:"at"`                // for which it was due
	Late    bool      `json:"late,omitempty"`    // it began after that, as when nobody was there
	Skipped int       `json:"skipped,omitempty"` // so many times up to At did not begin: the run before went on
	State   State     `json:"state"`             // running, green, failed, skipped
	Release int       `json:"release"`
	Began   time.Time `json:"began,omitzero"`
	Ended   time.Time `json:"ended,omitzero"`
	Took    Duration  `json:"took_ms,omitempty"`
	Exit    *int      `json:"exit,omitempty"`    // exit code; nil: it has none
	Message string    `json:"message,omitempty"` // how it ended
}

// When is when it runs, in words.
func (t Times) When() string { return t.Cron + " " + cmp.Or(t.Zone, "UTC") }

// Says is what there is to say of a run besides its state and its time.
func (r TimesRun) Says() string {
	if r.Skipped > 0 {
		return Plural(r.Skipped, "time") + " skipped: the run before went on"
	}
	var all []string
	if r.Late {
		all = append(all, "began late")
	}
	if took := Seconds(r.Took); took != "" {
		all = append(all, "took "+took)
	}
	if r.Message != "" {
		all = append(all, r.Message)
	}
	return strings.Join(all, ", ")
}
