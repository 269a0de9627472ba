package gate

import (
	"slices"
	"time"

	"github.com/headgate-cd/headgate/gitd/show"
)

// durations are how long a repository's recent green builds took, newest last:
// what fails in its first second says nothing about when a change lands.
type durations []time.Duration

// recent is how many builds are looked at.
const recent = 20

func (d *durations) add(took time.Duration) {
	if took <= 0 {
		return
	}
	if *d = append(*d, took); len(*d) > recent {
		*d = slices.Delete(*d, 0, len(*d)-recent)
	}
}

// at is the duration that a share of the recent builds did not exceed.
func (d durations) at(share float64) time.Duration {
	if len(d) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(d))
	return sorted[min(len(sorted)-1, int(share*float64(len(sorted))))]
}

func (d durations) median() time.Duration { return d.at(0.5) }

// soon is how near a landing is when no time is named for it any more: times
// are shown in minutes, and none that is shown may be past.
const soon = time.Minute

// estimate fills in when the changes of a queue probably land: it is the one
// calculation of it, made anew whenever somebody looks. The entries of a branch
// are in the order of their turn. Those that wait for something are passed by the
// others, and nothing is known of them.
func (d durations) estimate(queue []Entry, now time.Time) {
	usual, slow := d.median(), d.at(0.9)
	if usual <= 0 {
		return
	}

	branch := ""
	var at, by time.Time // when the change before has landed
	for i := range queue {
		e := &queue[i]
		if i == 0 || e.Branch != branch {
			branch, at, by = e.Branch, now, now
		}
		if e.State == show.Waits {
			continue
		}
		at, by = after(at, e.Started, usual), after(by, e.Started, slow)
		e.LandsSoon = at.Sub(now) < soon
		if at.After(now) {
			e.LandsAt, e.LandsBy = at, by
		}
	}
}

// after is when a build that takes so long has ended and what came before it has
// landed: it began at started, or begins then.
func after(before, started time.Time, takes time.Duration) time.Time {
	if started.IsZero() {
		return before.Add(takes)
	}
	end := started.Add(takes)
	if end.Before(before) { // which is not before now: it may be late itself
		return before
	}
	return end
}
