package rollout

import (
	"testing"
	"time"

	"github.com/headgate-cd/headgate/reconciler/target"
)

// TestSettled: of an instance whose checks say nothing new any more another good one changes
// when it was checked, and nothing else.
func TestSettled(t *testing.T) {
	now := time.Now()
	settled := func() (*Observed, *ServiceState, *Instance) {
		in := &Instance{
			ID:      "web-1",
			Version: "v1",
			Phase:   target.PhaseHealthy,
			Healthy: now.Add(-time.Minute),
			Passes:  2,
			Proven:  true,
		}
		f := &ServiceState{
			Name:      "web",
			Serving:   "v1",
			Declared:  []string{"v1"},
			Routed:    []string{"web-1"},
			Reached:   true,
			Versions:  map[string]*Tally{"v1": {Replicas: 1, Check: Check{Passes: 2}, Complete: true, Ever: true}},
			Instances: []*Instance{in},
		}
		return &Observed{Services: map[string]*ServiceState{"web": f}}, f, in
	}
	o, f, in := settled()
	if !f.Settled(in) {
		t.Fatal("it is not settled")
	}
	was := *o.Clone().Services["web"].Versions["v1"]
	o.Saw(Checked{ID: "web-1", OK: true}, now)
	if *f.Versions["v1"] != was || in.Checked != now || in.Phase != target.PhaseHealthy || len(f.Happened) > 0 {
		t.Errorf("a good check has changed %+v, %+v", f, in)
	}

	for what, change := range map[string]func(f *ServiceState, in *Instance){
		"is starting":      func(_ *ServiceState, in *Instance) { in.Phase = target.PhaseStarting },
		"has failed once":  func(_ *ServiceState, in *Instance) { in.Fails = 1 },
		"is new":           func(_ *ServiceState, in *Instance) { in.Proven = false },
		"is to end":        func(_ *ServiceState, in *Instance) { in.Retired = true },
		"has passed once":  func(_ *ServiceState, in *Instance) { in.Passes = 1 },
		"has a message":    func(_ *ServiceState, in *Instance) { in.Message = "port taken" },
		"is one of two":    func(f *ServiceState, _ *Instance) { f.Versions["v1"].Complete = false },
		"has no traffic":   func(f *ServiceState, _ *Instance) { f.Reached = false },
		"is of no version": func(f *ServiceState, _ *Instance) { delete(f.Versions, "v1") },
	} {
		_, f, in := settled()
		if change(f, in); f.Settled(in) {
			t.Errorf("one that %s is settled", what)
		}
	}
}
