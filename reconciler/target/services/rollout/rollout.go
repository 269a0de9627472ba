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

import "time"

// Declared is what should be.
type Declared struct {
	Commit   string // environment commit
	Sequence int    // its position in the environment's branch
	Services []Service
	Report   bool // what breaks once all of a service had the traffic is left as it is
}

// Service is one declared service.
type Service struct {
	Name     string
	Version  string // instances of equal versions are interchangeable
	Label    string // the version in words for people, such as "release 4"
	Replicas int
	Listen   []string // what the proxy listens on for it; nil without ports
	Check    Check
	Drain    time.Duration // how long requests in flight may take once an instance is out of the traffic

	// Fallback is a version known to be good. It serves until Version is healthy when
	// nothing of the service runs yet, and again when Version took over and is given
	// up. Nil for none.
	Fallback *Service
}

// Check says how results of health checks are judged.
type Check struct {
	StartPeriod time.Duration // failures before it do not count
	Interval    time.Duration // between two checks
	Timeout     time.Duration // of one check
	Retries     int           // failures in a row that make an instance unhealthy
}

// Deadline is how long an instance may take from its start to its first success.
func (c Check) Deadline() time.Duration {
	return c.StartPeriod + time.Duration(max(c.Retries, 1))*c.Interval
}

// Stale is the age from which the last result of a check says nothing any more.
func (c Check) Stale() time.Duration {
	return 2*c.Interval + c.Timeout + 2*time.Second
}
