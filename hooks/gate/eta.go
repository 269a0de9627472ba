package gate

import (
	"slices"
	"time"
)

// durations are how long a repository's recent builds took, newest last.
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

// expect is when the change at a place will probably land, and by when nine
// times in ten; zero if nothing is known. head is when the build of the first
// in the queue began, zero if it has not.
func (d durations) expect(now time.Time, place int, head time.Time) (median, late time.Time) {
	if len(d) == 0 {
		return
	}
	until := func(each time.Duration) time.Time {
		first := each
		if !head.IsZero() {
			first = max(0, each-now.Sub(head))
		}
		return now.Add(first + time.Duration(place-1)*each)
	}
	return until(d.median()), until(d.at(0.9))
}
