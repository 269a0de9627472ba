package rollout

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/headgate-cd/headgate/reconciler/target/alarm"
	shift "github.com/headgate-cd/headgate/reconciler/target/services/rollout"
)

// conversation drives a deployment by a clock that the test holds, and writes down what
// happens.
type conversation struct {
	strings.Builder
	p      Progress
	now    time.Time
	paused bool
	calls  int
	wake   time.Time
}

var start = time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC)

func (c *conversation) execution() string { c.calls++; return fmt.Sprint("x", c.calls) }

func (c *conversation) step() {
	before := c.p
	next, calls, queries, wake := Step(c.p, c.paused, c.now, c.execution)
	c.p, c.wake = next, wake
	c.note(before, next, calls, queries)
}

// note writes down what has changed.
func (c *conversation) note(before, next Progress, calls []Call, queries []Query) {
	at := c.now.Sub(start)
	if next.Alias() != before.Alias() {
		fmt.Fprintf(c, "%s %s\n", at, next.Alias())
	}
	for _, call := range calls {
		fmt.Fprintf(c, "%s call %s as %s\n", at, call.Function, call.Execution)
	}
	for _, q := range queries {
		fmt.Fprintf(c, "%s ask %s\n", at, q.Alarm)
	}
	if next.Stage != before.Stage {
		fmt.Fprintf(c, "%s %s", at, next.Stage)
		if next.Why != "" {
			fmt.Fprintf(c, ": %s", next.Why)
		}
		fmt.Fprintln(c)
	}
}

// sleep lets the time come that is waited for.
func (c *conversation) sleep() {
	if c.wake.After(c.now) {
		c.now = c.wake
	}
	c.step()
}

func (c *conversation) report(execution string, status HookStatus) {
	next, err := c.p.Reported("d-1", execution, status, "", c.now)
	if err != nil {
		fmt.Fprintf(c, "%s %s %s: %v\n", c.now.Sub(start), execution, status, err)
	}
	c.note(c.p, next, nil, nil)
	c.p = next
	c.step()
}

func (c *conversation) answer(value float64, err string) {
	c.p = c.p.Answered(alarm.Measured{Name: "errors", Value: value, Err: err}, c.now)
	c.step()
}

func TestDeployments(t *testing.T) {
	canary := shift.Deployment{Strategy: shift.Canary, Percent: 10, Interval: 5 * time.Minute}
	linear := shift.Deployment{Strategy: shift.Linear, Percent: 40, Interval: time.Minute}
	alarmed := canary
	alarmed.Alarms = []alarm.Alarm{{Name: "errors", Above: true, Bound: 0.1, For: time.Minute, Interval: 30 * time.Second}}
	for name, c := range map[string]struct {
		d    Deployment
		talk func(c *conversation)
		want string
	}{
		"all at once": {
			d:    Deployment{ID: "d-1", Current: 1, Target: 2},
			talk: func(c *conversation) { c.step() },
			want: "0s version 2\n0s Succeeded\n",
		},
		"canary": {
			d:    Deployment{ID: "d-1", Current: 1, Target: 2, Shift: canary},
			talk: func(c *conversation) { c.step(); c.now = c.now.Add(time.Minute); c.step(); c.sleep() },
			want: "0s version 1, and version 2 for 10 %\n0s AllowTraffic\n5m0s version 2\n5m0s Succeeded\n",
		},
		"the first version has nothing to be a canary of": {
			d:    Deployment{ID: "d-1", Target: 1, Shift: canary},
			talk: func(c *conversation) { c.step() },
			want: "0s version 1\n0s Succeeded\n",
		},
		"linear": {
			d:    Deployment{ID: "d-1", Current: 1, Target: 2, Shift: linear},
			talk: func(c *conversation) { c.step(); c.sleep(); c.sleep() },
			want: "0s version 1, and version 2 for 40 %\n0s AllowTraffic\n1m0s version 1, and version 2 for 80 %\n2m0s version 2\n2m0s Succeeded\n",
		},
		"a clock that jumps takes one step at a time": {
			d: Deployment{ID: "d-1", Current: 1, Target: 2, Shift: linear},
			talk: func(c *conversation) {
				c.step()
				c.now = c.now.Add(-time.Hour)
				c.step()
				c.now = c.now.Add(100 * time.Hour)
				c.step()
				c.sleep()
			},
			want: "0s version 1, and version 2 for 40 %\n0s AllowTraffic\n99h0m0s version 1, and version 2 for 80 %\n99h1m0s version 2\n99h1m0s Succeeded\n",
		},
		"hooks": {
			d: Deployment{ID: "d-1", Current: 1, Target: 2, Before: "before", After: "after"},
			talk: func(c *conversation) {
				c.step()
				c.report("x9", HookSucceeded)
				c.report("x1", "Skipped")
				c.report("x1", HookSucceeded)
				c.report("x1", HookFailed)
				c.now = c.now.Add(59 * time.Minute)
				c.report("x2", HookSucceeded)
				c.report("x2", HookFailed)
			},
			want: `0s call before as x1
0s BeforeAllowTraffic
0s x9 Succeeded: no hook of that deployment runs under that execution id
0s x1 Skipped: a hook reports Succeeded or Failed
0s version 2
0s call after as x2
0s AfterAllowTraffic
0s x1 Failed: no hook of that deployment runs under that execution id
59m0s Succeeded
59m0s x2 Failed: no hook of that deployment runs under that execution id
`,
		},
		"a hook that is silent": {
			d:    Deployment{ID: "d-1", Current: 1, Target: 2, Before: "before"},
			talk: func(c *conversation) { c.step(); c.sleep(); c.report("x1", HookSucceeded) },
			want: "0s call before as x1\n0s BeforeAllowTraffic\n1h0m0s Failed: hook before did not report within 1h0m0s\n" +
				"1h0m0s x1 Succeeded: no hook of that deployment runs under that execution id\n",
		},
		"a hook that answers late": {
			d: Deployment{ID: "d-1", Current: 1, Target: 2, After: "after"},
			talk: func(c *conversation) {
				c.step()
				c.now = c.now.Add(time.Hour)
				c.report("x1", HookSucceeded)
			},
			want: "0s version 2\n0s call after as x1\n0s AfterAllowTraffic\n" +
				"1h0m0s x1 Succeeded: no hook of that deployment runs under that execution id\n1h0m0s version 1\n1h0m0s Failed: hook after did not report within 1h0m0s\n",
		},
		"a restart calls a hook again, and its hour goes on": {
			d: Deployment{ID: "d-1", Current: 1, Target: 2, Before: "before"},
			talk: func(c *conversation) {
				c.step()
				c.now = c.now.Add(30 * time.Minute)
				c.p.Interrupted()
				c.step()
				c.report("x1", HookSucceeded)
				c.sleep()
			},
			want: "0s call before as x1\n0s BeforeAllowTraffic\n30m0s call before as x2\n" +
				"30m0s x1 Succeeded: no hook of that deployment runs under that execution id\n1h0m0s Failed: hook before did not report within 1h0m0s\n",
		},
		"the first version fails": {
			d:    Deployment{ID: "d-1", Target: 1, After: "after"},
			talk: func(c *conversation) { c.step(); c.report("x1", HookFailed) },
			want: "0s version 1\n0s call after as x1\n0s AfterAllowTraffic\n0s nothing\n0s Failed: hook after (AfterAllowTraffic) failed\n",
		},
		"paused": {
			d: Deployment{ID: "d-1", Current: 1, Target: 2, Shift: canary},
			talk: func(c *conversation) {
				c.step()
				c.paused = true
				c.now = c.now.Add(time.Hour)
				c.step()
				c.paused = false
				c.step()
			},
			want: "0s version 1, and version 2 for 10 %\n0s AllowTraffic\n1h0m0s version 2\n1h0m0s Succeeded\n",
		},
		"an alarm": {
			d: Deployment{ID: "d-1", Current: 1, Target: 2, Shift: alarmed},
			talk: func(c *conversation) {
				c.step()
				c.answer(0, "")
				c.sleep()
				c.answer(0.5, "")
				c.sleep()
				c.answer(0.5, "")
				c.sleep()
			},
			want: "0s ask errors\n0s BeforeAllowTraffic\n0s version 1, and version 2 for 10 %\n0s AllowTraffic\n30s ask errors\n1m0s ask errors\n" +
				"1m30s version 1\n1m30s Failed: alarm errors: 0.5 is above 0.1 for 1m0s\n",
		},
		"an alarm that cannot be asked stops all, and gives up in the end": {
			d: Deployment{ID: "d-1", Current: 1, Target: 2, Shift: alarmed},
			talk: func(c *conversation) {
				c.step()
				for c.p.Stage != Failed && c.now.Sub(start) < 2*time.Hour {
					c.answer(0, "connection refused")
					c.sleep()
				}
				said := c.String()
				c.Reset()
				c.WriteString(said[:strings.Index(said, "30s")] + said[strings.Index(said, "1h0m0s Failed"):])
			},
			want: "0s ask errors\n0s BeforeAllowTraffic\n1h0m0s Failed: alarm errors could not be asked about for 1h0m0s: connection refused\n",
		},
	} {
		t.Run(name, func(t *testing.T) {
			talk := &conversation{p: Progress{Deployment: c.d}, now: start}
			c.talk(talk)
			if got := talk.String(); got != c.want {
				t.Errorf("got\n%s\nwant\n%s", got, c.want)
			}
		})
	}
}

// TestEndsAtOneVersion: whatever happens, in whatever order, the weight of a deployment only
// grows, and when it is over the alias is at one version: the target when all hooks have
// succeeded, else where it was.
func TestEndsAtOneVersion(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := Deployment{
			ID:      "d-1",
			Current: rapid.IntRange(0, 2).Draw(t, "current"),
			Target:  3,
			Before:  rapid.SampledFrom([]string{"", "before"}).Draw(t, "before"),
			After:   rapid.SampledFrom([]string{"", "after"}).Draw(t, "after"),
			Shift: shift.Deployment{
				Strategy: rapid.SampledFrom([]shift.Strategy{shift.AllAtOnce, shift.Canary, shift.Linear}).Draw(t, "strategy"),
				Percent:  rapid.IntRange(1, 99).Draw(t, "percent"),
				Interval: time.Duration(rapid.IntRange(0, 600).Draw(t, "interval")) * time.Second,
			},
		}
		if rapid.Bool().Draw(t, "alarm") {
			d.Shift.Alarms = []alarm.Alarm{{Name: "errors", Above: true, Bound: 1, Interval: 10 * time.Second}}
		}
		c := &conversation{p: Progress{Deployment: d}, now: start}
		failed, weight := false, 0
		for range 3000 {
			if c.p.Stage.Over() {
				break
			}
			switch rapid.IntRange(0, 9).Draw(t, "what") {
			case 0:
				c.p.Interrupted()
			case 1:
				c.now = c.now.Add(time.Duration(rapid.IntRange(-10, 60).Draw(t, "jump")) * time.Minute)
			case 2:
				status := rapid.SampledFrom([]HookStatus{HookSucceeded, HookSucceeded, HookSucceeded, HookFailed}).Draw(t, "status")
				next, err := c.p.Reported("d-1", c.p.Hook.Execution, status, "", c.now)
				failed = failed || err == nil && status == HookFailed
				c.p = next
			case 3:
				c.p = c.p.Answered(alarm.Measured{Name: "errors", Value: 2}, c.now)
			case 4:
				c.paused = !c.paused
			default:
				c.p = c.p.Answered(alarm.Measured{Name: "errors"}, c.now)
			}
			c.sleep()
			if at := c.p.Alias(); at.Canary > 0 &&
				(at.Canary != 3 || at.Version != d.Current || at.Weight < 1 || at.Weight > 99) {
				t.Fatalf("the alias is at %s", at)
			}
			if c.p.Weight < weight {
				t.Fatalf("the weight went from %d to %d", weight, c.p.Weight)
			}
			weight = c.p.Weight
		}
		at := c.p.Alias()
		switch {
		case c.p.Stage == Succeeded && (failed || at != Alias{Version: 3}):
			t.Fatalf("succeeded at %s, failed %v\n%s", at, failed, c)
		case c.p.Stage == Failed && (at != Alias{Version: d.Current} || c.p.Why == ""):
			t.Fatalf("failed at %s: %q\n%s", at, c.p.Why, c)
		}
	})
}
