// Package targettest holds targets to the contract of package target. Every
// implementation runs it with its real parts.
package targettest

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/headgate-cd/headgate/reconciler/target"
)

// Subject is a target to be held to the contract, and what it needs for that. The
// suite runs the target.
type Subject struct {
	Target target.Target

	// Good are files that become healthy with every release, the same each time.
	Good target.Files
	// Broken are files that Check has nothing against and that never become healthy.
	Broken target.Files
	// Bad are files that Check refuses, by the place that it must name: "compose.yaml:3".
	Bad map[string]target.Files

	// Release is what a release of this number runs.
	Release func(number int) target.Release
}

// Run runs the suite. New makes a target that has converged nothing and does not
// run yet.
func Run(t *testing.T, New func(t *testing.T) Subject) {
	run(t, New, func(*testing.T) {})
}

// RunParallel is Run for targets that do not get into each other's way.
func RunParallel(t *testing.T, New func(t *testing.T) Subject) {
	run(t, New, (*testing.T).Parallel)
}

func run(t *testing.T, New func(t *testing.T) Subject, begin func(*testing.T)) {
	for _, c := range []struct {
		name string
		test func(s *suite)
	}{
		{"silence is unknown", quiet},
		{"converging again changes nothing", idempotent},
		{"older is ignored", fenced},
		{"what is removed is gone", removed},
		{"what is renamed goes on", renamed},
		{"a report wakes those it concerns, once", watched},
		{"an error goes with what had it", mended},
		{"bad files are refused by place", checked},
	} {
		t.Run(c.name, func(t *testing.T) {
			begin(t)
			c.test(&suite{Subject: New(t), T: t})
		})
	}
}

type suite struct {
	Subject
	*testing.T
}

// patience is only a last resort: what is waited for is reported by the target.
const lastResort = 5 * time.Minute

// key is an application of its own for each name.
func key(name string) target.Key {
	return target.Key{Repository: "contract", Application: name, Environment: "staging"}
}

func (s *suite) declared(k target.Key, sequence, release int) target.Declared {
	return target.Declared{
		Key:      k,
		Commit:   fmt.Sprintf("commit-%d", sequence),
		Sequence: sequence,
		Files:    s.Good,
		Release:  s.Release(release),
	}
}

// start runs the target until the test ends, or end is called.
func (s *suite) start() (end func()) {
	s.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Target.Run(ctx) }()
	end = sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil && !errors.Is(err, context.Canceled) {
				s.Errorf("Run: %v", err)
			}
		case <-time.After(lastResort):
			s.Errorf("Run had not returned %s after its context ended", lastResort)
		}
	})
	s.Cleanup(end)
	return end
}

// await waits for what the target reports of k.
func (s *suite) await(k target.Key, what string, ok func(target.Observed) bool) target.Observed {
	s.Helper()
	changed, end := s.Target.Watch(k)
	defer end()
	late := time.After(lastResort)
	for {
		o := s.Target.Observe(k)
		if ok(o) {
			return o
		}
		select {
		case <-changed:
		case <-late:
			s.Fatalf("%s is not %s after %s: %+v", k, what, lastResort, o)
		}
	}
}

func (s *suite) healthy(k target.Key, sequence int) target.Observed {
	s.Helper()
	return s.await(k, fmt.Sprintf("healthy at %d", sequence), func(o target.Observed) bool {
		return o.State == target.Healthy && o.Sequence == sequence
	})
}

// running is what runs and for how long, without how it was last looked at.
func running(o target.Observed) (all []string) {
	for _, u := range o.Units {
		for _, in := range u.Instances {
			all = append(all, fmt.Sprintf("%s %s release %d, %d restarts, %s since %s", u.Name, in.ID, in.Release, in.Restarts,
				in.Phase, in.Since))
		}
	}
	return all
}

// settled is the state once nothing of an earlier release is left.
func (s *suite) settled(k target.Key, sequence, release int) target.Observed {
	s.Helper()
	return s.await(k, fmt.Sprintf("release %d and nothing else", release), func(o target.Observed) bool {
		for _, u := range o.Units {
			for _, in := range u.Instances {
				if in.Release != release {
					return false
				}
			}
		}
		return o.State == target.Healthy && o.Sequence == sequence && len(o.Units) > 0
	})
}

func quiet(s *suite) {
	k, other := key("silence"), key("nobody")
	if o := s.Target.Observe(other); !reflect.DeepEqual(o, target.Observed{}) {
		s.Errorf("something is known of what was never declared: %+v", o)
	}
	s.Target.Converge(s.declared(k, 1, 1))
	if o := s.Target.Observe(k); o.State != target.Unknown {
		s.Errorf("before Run it is %s", o.State)
	}
	end := s.start()
	if o := s.healthy(k, 1); o.Commit != "commit-1" || o.Key != k || o.Since.IsZero() || o.Message != "" ||
		len(o.Units) == 0 {
		s.Errorf("healthy: %+v", o)
	}
	end()
	if o := s.Target.Observe(k); o.State != target.Unknown {
		s.Errorf("after Run it is %s", o.State)
	}
}

func idempotent(s *suite) {
	k, other := key("again"), key("meanwhile")
	s.start()
	s.Target.Converge(s.declared(k, 1, 1))
	before := running(s.settled(k, 1, 1))
	for range 3 {
		s.Target.Converge(s.declared(k, 1, 1))
	}
	// By the time that another one has come up whole, this one has had its time too.
	s.Target.Converge(s.declared(other, 1, 1))
	s.healthy(other, 1)
	o := s.healthy(k, 1)
	if after := running(o); !reflect.DeepEqual(before, after) {
		s.Errorf("told the same again, it went from\n%s\nto\n%s", strings.Join(before, "\n"), strings.Join(after, "\n"))
	}
}

func fenced(s *suite) {
	k, other := key("fenced"), key("younger")
	s.start()
	s.Target.Converge(s.declared(k, 5, 2))
	before := running(s.settled(k, 5, 2))
	s.Target.Converge(s.declared(k, 4, 1))
	s.Target.Remove(k, 4)
	// The fence of one is none for another.
	s.Target.Converge(s.declared(other, 1, 1))
	s.healthy(other, 1)
	if o := s.healthy(k, 5); o.Commit != "commit-5" || !reflect.DeepEqual(before, running(o)) {
		s.Errorf("something older had an effect: %+v", o)
	}
	s.Target.Converge(s.declared(k, 6, 3))
	s.settled(k, 6, 3)
}

func removed(s *suite) {
	k := key("removed")
	s.start()
	gone := func() {
		s.Helper()
		s.await(k, "gone", func(o target.Observed) bool { return reflect.DeepEqual(o, target.Observed{}) })
	}
	s.Target.Converge(s.declared(k, 5, 1))
	s.healthy(k, 5)
	s.Target.Remove(k, 5)
	gone()
	s.Target.Converge(s.declared(k, 4, 1))
	if o := s.Target.Observe(k); o.Commit != "" {
		s.Errorf("something older came back: %+v", o)
	}
	s.Target.Converge(s.declared(k, 5, 1)) // declared once more
	s.healthy(k, 5)
	s.Target.Remove(k, 7)
	gone()
	s.Target.Converge(s.declared(k, 6, 1))
	if o := s.Target.Observe(k); o.Commit != "" {
		s.Errorf("what is older than the removal came back: %+v", o)
	}
}

// renamed: what runs under the name that an environment had before goes on under the
// new one, and is not there under the old one.
func renamed(s *suite) {
	was := key("renamed")
	is := target.Key{Repository: was.Repository, Application: was.Application, Environment: "stage"}
	defer s.start()()
	s.Target.Converge(s.declared(was, 1, 1))
	before := s.healthy(was, 1)
	next := s.declared(is, 2, 1)
	next.Was = []string{"never", was.Environment}
	s.Target.Converge(next)
	after := s.healthy(is, 2)
	if !reflect.DeepEqual(running(before), running(after)) {
		s.Errorf("what ran was %v and is %v", running(before), running(after))
	}
	if o := s.Target.Observe(was); len(o.Units) > 0 || o.State != target.Unknown {
		s.Errorf("under the old name there is %+v", o)
	}
	s.Target.Converge(s.declared(is, 3, 2))
	s.settled(is, 3, 2)
}

func watched(s *suite) {
	k, other := key("watched"), key("quiet")
	s.start()
	s.Target.Converge(s.declared(other, 1, 1))
	s.settled(other, 1, 1)
	one, endOne := s.Target.Watch(k)
	all, endAll := s.Target.Watch(target.Key{Repository: k.Repository})
	elsewhere, endElsewhere := s.Target.Watch(target.Key{Repository: "another"})
	ended, end := s.Target.Watch(k)
	end()
	defer endOne()
	defer endAll()
	defer endElsewhere()
	// Nobody takes a value meanwhile, and the target goes on: many reports, one value.
	s.Target.Converge(s.declared(k, 1, 1))
	s.settled(k, 1, 1)
	s.Target.Converge(s.declared(k, 2, 2))
	s.settled(k, 2, 2)
	for name, c := range map[string]<-chan struct{}{"the application": one, "the repository": all} {
		select {
		case <-c:
		case <-time.After(lastResort):
			s.Errorf("whoever watches %s was not woken", name)
		}
	}
	for name, c := range map[string]<-chan struct{}{"another repository": elsewhere, "nothing any more": ended} {
		select {
		case _, open := <-c:
			if open {
				s.Errorf("whoever watches %s was woken", name)
			}
		default:
		}
	}
	// A value that was taken is followed by one for what happens after.
	s.Target.Remove(k, 2)
	s.await(k, "gone", func(o target.Observed) bool { return o.Commit == "" })
	select {
	case <-one:
	case <-time.After(lastResort):
		s.Error("the second report woke nobody")
	}
}

func mended(s *suite) {
	k := key("mended")
	s.start()
	broken := s.declared(k, 1, 1)
	broken.Files = s.Broken
	s.Target.Converge(broken)
	if o := s.await(k, "failed", func(o target.Observed) bool { return o.State == target.Failed }); o.Message == "" ||
		o.Commit != "commit-1" {
		s.Errorf("it failed and does not say why: %+v", o)
	}
	s.Target.Converge(s.declared(k, 2, 2))
	if o := s.healthy(k, 2); o.Message != "" {
		s.Errorf("it is healthy and says %q", o.Message)
	}
}

func checked(s *suite) {
	const dir = "deploy/staging"
	for name, files := range map[string]target.Files{"good": s.Good, "broken": s.Broken} {
		if problems, _ := s.Target.Check(dir, files); len(problems) > 0 {
			s.Errorf("Check refuses the %s files: %v", name, problems)
		}
	}
	if len(s.Bad) == 0 {
		s.Error("the subject has no bad files")
	}
	for place, files := range s.Bad {
		problems, _ := s.Target.Check(dir, files)
		if len(problems) == 0 {
			s.Errorf("Check has nothing against the files that are bad at %s", place)
			continue
		}
		if got := problems[0]; got.Place() != dir+"/"+place || got.What == "" || got.Fix == "" {
			s.Errorf("bad at %s: Check says %q, at %s", place, got.Error(), got.Place())
		}
	}
}
