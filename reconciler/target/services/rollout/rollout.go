// Package rollout decides how the instances of an application get from what
// runs to what is declared: start the new, wait until they are healthy, switch
// the traffic, drain the old, stop them.
//
// It is pure: no goroutines, clock, disk or network. Plan looks at Declared (what
// should be), Observed (what is) and the time, and answers with Actions and the
// time at which it wants to be asked again. Whoever carries out an action tells
// Observed with Did; whatever then happens is told with Saw. Status puts the same
// facts into a word and a sentence.
//
// It leaves to others what an instance is, how it is started, probed and drained.
package rollout

import (
	"time"

	"github.com/headgate-cd/headgate/gitd/cron"
)

// Declared is what should be.
type Declared struct {
	Commit   string // environment commit
	Sequence int    // its position in the environment's branch
	Services []Service
	Report   bool // what breaks once all of a service had the traffic is left as it is

	Deployment Deployment
	Paused     bool     // by a person: what is under way goes no further
	Continued  []string // hooks that wait for a person, who had them go on

	// Rotation names the secrets with which the same commit is deployed once more: in stages,
	// where it has them. Empty: what differs is healed, and in none.
	Rotation string
}

// Service is one declared service.
type Service struct {
	Name     string
	Version  string // instances of equal versions are interchangeable
	Label    string // the version in words for people, such as "release 4"
	Release  int    // the same as a number
	Replicas int
	Listen   []string // what the proxy listens on for it; nil without ports
	Check    Check
	Restart  Restart
	Drain    time.Duration // how long requests in flight may take once an instance is out of the traffic

	// Exclusive says that instances of two versions never run at a time, as where they
	// have a volume that one of them may write to. Minimum and Maximum count for it under
	// every strategy.
	Exclusive bool

	// Schedule says when instances of it run, one at a time; nil: always. Of what runs at
	// times there are no Replicas.
	Schedule *cron.Spec

	// Needs are what the first start of each instance waits for.
	Needs []Need

	Minimum, Maximum int // Rolling: the fewest healthy instances and the most that run, while it is under way

	// Fallback is a version known to be good. It serves until Version is healthy when
	// nothing of the service runs yet, and again when Version took over and is given
	// up. Nil for none.
	Fallback *Service
}

// Need is what has to be so of the declared version of another service, or of the
// version that goes with a fallback.
type Need struct {
	Service string
	Until   Condition
}

// Condition is what an instance may wait for.
type Condition string

// The conditions.
const (
	UntilStarted   Condition = "started"   // an instance was started
	UntilHealthy   Condition = "healthy"   // as many as are declared may have traffic, or did
	UntilSucceeded Condition = "succeeded" // as many as are declared have ended well
)

// Restart says what becomes of an instance that ended by itself. The zero value
// starts it again, whatever happens.
type Restart struct {
	Never     bool // not even after a failure
	OnFailure bool // only after a failure
	Most      int  // so many times after a failure; 0 is no bound
}

// again reports whether an instance that was restarted so many times is started
// again after it ended well or badly.
func (r Restart) again(well bool, restarts int) bool {
	return !r.Never && !(well && r.OnFailure) && (well || r.Most == 0 || restarts < r.Most)
}

// Check says how results of health checks are judged.
type Check struct {
	StartPeriod time.Duration // failures before it do not count
	Interval    time.Duration // between two checks
	Timeout     time.Duration // of one check
	Retries     int           // failures in a row that make an instance unhealthy

	// One good answer is no proof. An instance may have traffic after it where nothing
	// else has any; it counts as lasting, which is what lets it take over and makes its
	// application healthy, after Passes of them in a row and for HealthyFor.
	Passes     int
	HealthyFor time.Duration
}

// Deadline is how long an instance may take from its start to its first success.
func (c Check) Deadline() time.Duration {
	return c.StartPeriod + time.Duration(max(c.Retries, 1))*c.Interval
}

// Stale is the age from which the last result of a check says nothing any more.
func (c Check) Stale() time.Duration {
	return 2*c.Interval + c.Timeout + 2*time.Second
}
