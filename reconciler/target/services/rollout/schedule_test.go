package rollout

import (
	"fmt"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/headgate-cd/headgate/gitd/cron"
)

// TestRunsProperties: whatever happens to releases, agents and clocks, of a service that
// runs at times one run goes on at a time, no time begins twice, and what is remembered
// of them is bounded and in order. Only when the clock is set back by more than an hour they
// are counted from then.
func TestRunsProperties(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		o, now, commit := &Observed{}, epoch, 0
		var d Declared
		running := false
		var last time.Time
		recounts := 0
		plan := func() {
			actions, _ := Plan(d, o, now)
			for _, a := range actions {
				o.Did(a, now)
				switch a.Kind {
				case Recount:
					if !a.At.After(now.Add(time.Hour)) {
						t.Fatalf("%s at %s from %s", a, now, a.At)
					}
					last, recounts = now, recounts+1
				case Begin:
					if running || !a.At.After(last) || a.At.After(now) {
						t.Fatalf("%s at %s: one runs: %t, the last was for %s", a, now, running, last)
					}
					running, last = true, a.At
				case Skip:
					if !running || !a.At.After(last) {
						t.Fatalf("%s at %s: one runs: %t, the last was for %s", a, now, running, last)
					}
					last = a.At
				case Prepare:
					o.Saw(Prepared{Service: a.Service, Version: a.Version}, now)
				case Start:
					t.Fatalf("%s", a)
				}
			}
		}
		declare := func() {
			spec, err := cron.Parse(rapid.SampledFrom([]string{"*/5 * * * *", "0 * * * *", "@every 7m"}).Draw(t, "cron"), "")
			if err != nil {
				t.Fatal(err)
			}
			commit++
			d = Declared{Commit: fmt.Sprint("c", commit), Sequence: commit, Services: []Service{
				{Name: "job", Version: fmt.Sprint("v", commit), Label: "release", Schedule: &spec},
			}}
			o.Declare(d)
		}
		declare()
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			switch rapid.SampledFrom([]string{"wait", "wait", "exit", "exit", "declare", "killed", "lost", "back"}).Draw(t, "step") {
			case "wait":
				now = now.Add(time.Duration(rapid.IntRange(1, 90).Draw(t, "minutes")) * time.Minute)
			case "back":
				now = now.Add(-time.Duration(rapid.IntRange(1, 3000).Draw(t, "minutes")) * time.Minute)
			case "exit":
				o.Saw(Exited{ID: RunOf("job"), How: "exited 1", Code: 1}, now)
				running = false
			case "declare":
				declare()
			case "killed":
				var all []Found
				if _, in := o.Find(RunOf("job")); running && in != nil {
					all = append(all, Found{ID: in.ID, Service: "job", Version: in.Version})
				}
				o.Adopt(all, now)
				o.Declare(d)
			case "lost":
				o.Adopt(nil, now)
				running = false
				o.Declare(d)
			}
			plan()
			plan()
			s := o.Services["job"].Schedule
			if s == nil {
				continue
			}
			if next := s.Next(now); next.After(now.Add(2*time.Hour + time.Minute)) {
				t.Fatalf("at %s it is due at %s", now, next)
			}
			if len(s.Runs) > maxRuns {
				t.Fatalf("%d runs are remembered", len(s.Runs))
			}
			open, disorders := 0, 0
			for i, r := range s.Runs {
				if r.Ended.IsZero() {
					open++
				}
				if i > 0 && !r.At.After(s.Runs[i-1].At) {
					disorders++
				}
			}
			if disorders > recounts {
				t.Fatalf("counted anew %d times, and yet %v", recounts, s.Runs)
			}
			if running != (open == 1) {
				t.Fatalf("one runs: %t, but %v", running, s.Runs)
			}
		}
	})
}
