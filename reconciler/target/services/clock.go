package services

import (
	"time"

	"golang.org/x/sys/unix"

	"github.com/headgate-cd/headgate/reconciler/target/services/rollout"
)

// What this process measures itself it measures by Go's monotonic clock, which nobody sets.
// What was written down has the time of the wall's clock only, and is brought in line with
// that once, when it is read.

// now is the time, by both clocks.
func (t *Target) now() time.Time {
	if t.clock != nil {
		return t.clock()
	}
	return time.Now()
}

// moment is now as it can be written down.
func (t *Target) moment() rollout.Moment {
	return rollout.Moment{Wall: t.now(), Up: up()}
}

// up is how long ago the machine was started.
func up() time.Duration {
	var at unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &at); err != nil {
		panic(err) // every kernel that has pidfds has it
	}
	return time.Duration(at.Nano())
}

// jump is from what difference on the wall's clock was set, and is not only kept right.
const jump = time.Second

// checkClock notices that the wall's clock was set.
func (a *app) checkClock() {
	now := a.owner.moment()
	if by := a.clockAt.Jumped(now); by.Abs() >= jump {
		a.clockAt = now
		a.observed.ClockSet(now.Wall)
		a.owner.Log.Warn("the clock was set", "by", by.Round(jump).String(), "env", a.key().Environment,
			"app", a.key().Application)
	}
}

// wakeAt is when the loop looks at everything again at the latest, where something is to be
// done at wake, or nothing if that is zero. It is measured by the clock that nobody sets:
// what is due by the wall's is reckoned anew then.
func wakeAt(now, wake time.Time) time.Time {
	wait := lookAgain
	if !wake.IsZero() {
		wait = min(wait, wake.Sub(now))
	}
	return now.Add(wait)
}
