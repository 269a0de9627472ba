package services

import (
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"github.com/headgate-cd/headgate/reconciler/target"
	"github.com/headgate-cd/headgate/reconciler/target/services/rollout"
)

// wallClock is the machine's clock as if somebody had set it.
type wallClock struct{ by atomic.Int64 } // a time.Duration

// now is the time with both its clocks, of which only the wall's was set. No function of
// package time makes such a one: it comes of the kernel's clock being set.
func (c *wallClock) now() time.Time {
	t := time.Now()
	by := time.Duration(c.by.Load()) / time.Second
	// A time with a monotonic reading has the wall's seconds from bit 30 on.
	(*struct {
		wall uint64
		ext  int64
		loc  *time.Location
	})(unsafe.Pointer(&t)).wall += uint64(by << 30)
	return t
}

func (c *wallClock) set(by time.Duration) { c.by.Store(int64(by)) }

func TestWallClock(t *testing.T) {
	t.Parallel()
	for _, by := range []time.Duration{-24 * time.Hour, -time.Hour, time.Hour, 24 * time.Hour} {
		var c wallClock
		before := c.now()
		c.set(by)
		after := c.now()
		if passed := after.Sub(before); passed < 0 || passed > time.Hour/2 {
			t.Errorf("%s: %s has passed", by, passed)
		}
		if wall := after.Round(0).Sub(before.Round(0)) - by; wall < 0 || wall > time.Hour/2 {
			t.Errorf("%s: the wall's clock was set %s off", by, wall)
		}
	}
}

// TestWakesThoughTheClockIsSetBack: what is due by the wall's clock in a moment does not
// keep the loop from all else until that moment comes again.
func TestWakesThoughTheClockIsSetBack(t *testing.T) {
	t.Parallel()
	var c wallClock
	now := c.now()
	due := now.Round(0).Add(5 * time.Second) // as a cron expression says it
	wake := wakeAt(now, due)
	c.set(-time.Hour)
	if wait := wake.Sub(c.now()); wait > 5*time.Second {
		t.Errorf("it wakes in %s", wait)
	}
	if wait := wakeAt(now, time.Time{}).Sub(now); wait != lookAgain {
		t.Errorf("it wakes in %s", wait)
	}
}

// TestClockIsSet: a rollout under way, which the agent that began it has left to the next
// one, comes to its end whatever the clock is set to: before that one begins, and while it
// runs. What is healthy goes on, what waits for its next start does not wait for another
// day, and no instance is replaced because of a clock.
func TestClockIsSet(t *testing.T) {
	t.Parallel()
	for when, by := range map[string]time.Duration{
		"back while nobody looks":    -24 * time.Hour,
		"forward while nobody looks": 24 * time.Hour,
		"back":                       -time.Hour,
		"forward":                    time.Hour,
	} {
		t.Run(when, func(t *testing.T) {
			t.Parallel()
			lasting := strings.Replace(web, "health: /healthz", "healthy_for: 1s, health: /healthz", 1)
			h := open(t, false)
			h.converge(1, lasting)
			before := pids(h.await(target.Healthy))
			h.converge(2, lasting)
			var new []int
			eventually(t, "instances of release 2 are healthy", func() (string, bool) {
				o := h.Observe(h.key())
				new = nil
				for _, in := range o.Units[0].Instances {
					if in.Release == 2 && in.Phase == target.PhaseHealthy {
						new = append(new, in.PID)
					}
				}
				slices.Sort(new)
				return fmt.Sprintf("%+v", o), len(new) == 2 && !slices.Contains(new, 0)
			})
			h.leave()

			var c wallClock
			if strings.HasSuffix(when, "looks") {
				c.set(by)
			}
			next := &harness{t: t, env: h.env, seq: h.seq}
			next.Target = New(h.Dir, h.LogDir, unpackSelf)
			next.Unconfined, next.clock = true, c.now
			next.run(nil)
			<-next.Begun()
			c.set(by)
			var o target.Observed
			eventually(t, "release 1 is gone", func() (string, bool) {
				o = next.Observe(h.key())
				return fmt.Sprintf("%+v", o), o.State == target.Healthy && o.Sequence == 2 && len(pids(o)) == 2
			})
			if got := pids(o); !slices.Equal(got, new) {
				t.Errorf("there ran %v, of release 2 %v, and now %v", before, new, got)
			}
			next.get("/", "release 2")
			next.end()
		})
	}
}

// TestAgeOfWhatWasFoundAgain: what may run for so long is not ended sooner or later because
// a clock was set.
func TestAgeOfWhatWasFoundAgain(t *testing.T) {
	t.Parallel()
	began := time.Now()
	now := rollout.Moment{Wall: began.Add(-time.Hour), Up: 3 * time.Minute}
	if age := (&keptInstance{Began: began, Up: time.Minute}).age(now); age != 2*time.Minute {
		t.Errorf("it ran for %s", age)
	}
	if age := (&keptInstance{Began: began}).age(now); age != 0 { // of an older program
		t.Errorf("it ran for %s", age)
	}
}
