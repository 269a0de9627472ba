package rollout

import (
	"fmt"
	"time"
)

// Happening is something that happened to a service, for people.
type Happening struct {
	At    time.Time // the last time
	What  string
	Times int // in a row
}

// maxHappenings is how many of a service are remembered.
const maxHappenings = 10

// happened remembers what happened to the service.
func (f *ServiceState) happened(now time.Time, format string, args ...any) {
	what := fmt.Sprintf(format, args...)
	if last := len(f.Happened) - 1; last >= 0 && f.Happened[last].What == what {
		f.Happened[last].At = now
		f.Happened[last].Times++
		return
	}
	f.Happened = append(f.Happened, Happening{At: now, What: what, Times: 1})
	if over := len(f.Happened) - maxHappenings; over > 0 {
		f.Happened = f.Happened[over:]
	}
}

// label is a version in words.
func (f *ServiceState) label(version string) string {
	if t := f.Versions[version]; t != nil && t.Label != "" {
		return t.Label
	}
	return "another release"
}

// routed remembers who gets the traffic from now on, where that changes.
func (f *ServiceState) routed(a Action, now time.Time) {
	switch {
	case f.Versions[a.Version].scheduled():
		if a.Version != f.Serving {
			f.happened(now, "runs at the times of %s", f.label(a.Version))
		}
	case a.Canary != "" && a.Weight != f.Weight:
		f.happened(now, "%s gets %d%% of the traffic", f.label(a.Canary), a.Weight)
	case len(a.Routed) > 0 && (a.Version != f.Serving || len(f.Routed) == 0):
		f.happened(now, "%s gets the traffic", f.label(a.Version))
	case len(a.Routed) == 0 && len(f.Routed) > 0:
		f.happened(now, "no instance gets the traffic")
	}
}
