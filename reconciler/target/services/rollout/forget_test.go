package rollout

import (
	"testing"
	"time"

	"github.com/headgate-cd/headgate/reconciler/target"
)

// TestForgottenVersionsAreNotStarted: an agent that was killed while another version
// waited for its next start knows that one by name only.
func TestForgottenVersionsAreNotStarted(t *testing.T) {
	now := time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC)
	o := &Observed{Services: map[string]*ServiceState{"web": {
		Name:     "web",
		Serving:  "old",
		Canary:   "older",
		Weight:   10,
		Versions: map[string]*Tally{"old": {Replicas: 1, Ever: true}, "older": {Replicas: 1}},
		Instances: []*Instance{
			{ID: "web-1", Version: "old", Phase: target.PhaseWaiting, NotBefore: now},
			{ID: "web-2", Version: "older", Phase: target.PhaseFailed},
			{ID: "web-3", Version: "kept", Phase: target.PhaseHealthy, Since: now, Started: now, Healthy: now},
		},
		Canaries: []string{"web-2"},
		Next:     3,
	}}}
	declared := Declared{Commit: "c", Sequence: 2, Services: []Service{{Name: "web", Version: "new", Replicas: 1}}}

	o.Adopt([]Found{{ID: "web-3", Service: "web", Version: "kept"}}, now)
	o.Forget(func(v string) bool { return v == "new" || v == "kept" })
	o.Declare(declared)
	web := o.Services["web"]
	if web.Serving != "" || web.Canary != "" || web.Weight != 0 || len(web.Instances) != 1 ||
		web.Instances[0].ID != "web-3" {
		t.Errorf("%+v", web)
	}
	started := 0
	for range 20 {
		actions, _ := Plan(declared, o, now)
		for _, a := range actions {
			if a.Kind == Start && a.Version != "new" {
				t.Fatalf("starts %s", a.Version)
			}
			if a.Kind == Start {
				started++
			}
			o.Did(a, now)
		}
	}
	if started == 0 {
		t.Error("nothing was started")
	}
}
