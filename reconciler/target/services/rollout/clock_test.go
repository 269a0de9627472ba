package rollout

import (
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/headgate-cd/headgate/reconciler/target"
	"github.com/headgate-cd/headgate/reconciler/target/alarm"
)

// TestRestored: how long ago something was is what has passed, whatever the clock on the
// wall was set to while nobody looked.
func TestRestored(t *testing.T) {
	t.Parallel()
	began := time.Now()
	was := Moment{Wall: began.Add(time.Minute), Up: time.Hour}
	at := began.Add(10 * time.Second)
	later := began.Add(5 * time.Minute)
	o := &Observed{
		Services: map[string]*ServiceState{"web": {
			Versions: map[string]*Tally{"v1": {NotBefore: later}},
			Instances: []*Instance{
				{ID: "web-1", Phase: target.PhaseHealthy, Since: at, Started: at, Healthy: at},
				{ID: "web-2", Phase: target.PhaseWaiting, Since: at, NotBefore: later},
			},
		}},
		Progress: &Progress{
			Since:   at,
			Shifted: at,
			Hooks:   map[string]HookState{"h": {Called: at, Again: later}},
			Alarms:  map[string]alarm.State{"a": {Asked: at, Heard: at, Beyond: at}},
		},
	}
	data, err := json.Marshal(o)
	if err != nil {
		t.Fatal(err)
	}
	for _, set := range []time.Duration{0, time.Hour, -time.Hour, 24 * time.Hour, -24 * time.Hour} {
		o := &Observed{}
		if err := json.Unmarshal(data, o); err != nil {
			t.Fatal(err)
		}
		passed := 90 * time.Second // since was
		now := Moment{Wall: was.Wall.Add(passed + set), Up: was.Up + passed}
		if by := was.Jumped(now); by != set {
			t.Errorf("it was set by %s, and that is said to be %s", set, by)
		}
		o.Restored(was, now)
		ago, ahead := passed+50*time.Second, 4*time.Minute-passed
		f, p := o.Services["web"], o.Progress
		for what, got := range map[string]time.Time{
			"since": f.Instances[0].Since, "started": f.Instances[0].Started, "healthy": f.Instances[0].Healthy,
			"stage": p.Since, "shifted": p.Shifted, "called": p.Hooks["h"].Called,
			"asked": p.Alarms["a"].Asked, "heard": p.Alarms["a"].Heard, "beyond": p.Alarms["a"].Beyond,
		} {
			if got := now.Wall.Sub(got); got != ago {
				t.Errorf("set by %s: %s was %s ago and not %s", set, what, got, ago)
			}
		}
		for what, got := range map[string]time.Time{
			"again": p.Hooks["h"].Again, "waits": f.Instances[1].NotBefore, "prepares": f.Versions["v1"].NotBefore,
		} {
			if got := got.Sub(now.Wall); got != ahead {
				t.Errorf("set by %s: %s is in %s and not in %s", set, what, got, ahead)
			}
		}
		if !f.ListenRetry.IsZero() || !f.Instances[1].Healthy.IsZero() {
			t.Errorf("what never was is at %s and %s", f.ListenRetry, f.Instances[1].Healthy)
		}
		// From here on it is measured by the clock that nobody sets.
		for _, got := range []time.Time{f.Instances[0].Healthy, p.Since} {
			if text := fmt.Sprint(got); got.Round(0) == got {
				t.Errorf("%s has the wall's time only", text)
			}
		}
	}
}
