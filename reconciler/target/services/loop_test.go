package services

import (
	"testing"
	"time"

	"github.com/headgate-cd/headgate/reconciler/target"
	"github.com/headgate-cd/headgate/reconciler/target/services/rollout"
)

// TestSteadyChecks: that an instance goes on being healthy is seen by those who ask, and
// nothing else is done about it until there is something to do.
func TestSteadyChecks(t *testing.T) {
	checked := time.Now()
	a := newApp(New(t.TempDir(), t.TempDir(), nil), target.Key{Repository: "hello"})
	a.wake, a.inspect = checked.Add(time.Hour), checked.Add(time.Hour)
	in := &rollout.Instance{ID: "web-1", Phase: target.PhaseHealthy}
	a.observed.Services = map[string]*rollout.ServiceState{"web": {Name: "web", Instances: []*rollout.Instance{in}}}
	a.published.facts = a.observed.Clone()
	timer := time.NewTimer(0)
	defer timer.Stop()

	a.quietly(func() { in.Checked = checked })
	select {
	case <-a.inbox.C():
	default:
		t.Error("the loop is not woken")
	}
	if a.due() {
		t.Error("a good check is something to do")
	}
	a.idle(timer)
	if _, said := a.published.facts.Find("web-1"); !said.Checked.Equal(checked) {
		t.Errorf("it was checked %s, and is said to have been %s", checked, said.Checked)
	}

	for what, happens := range map[string]func(){
		"what was posted":     func() { a.post(func() {}) },
		"what is declared":    func() { a.declare(&target.Declared{Sequence: 1}) },
		"that it is removed":  func() { a.removeUpTo(2) },
		"what is due by now":  func() { a.wake = checked },
		"that it was drained": func() { a.owner.drained.Store(true) },
	} {
		happens()
		if !a.due() {
			t.Errorf("%s is nothing to do", what)
		}
		a.inbox.Drain()
		a.pending, a.remove, a.wake = nil, false, checked.Add(time.Hour)
		a.owner.drained.Store(false)
	}
}
