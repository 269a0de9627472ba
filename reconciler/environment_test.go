package reconciler

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/headgate-cd/headgate/gitd/show"
	"github.com/headgate-cd/headgate/reconciler/target"
)

// TestInstancesSayWhatIsWrongOnce: what ended an instance, or what was wrong with
// it before it was stopped, stands in its line once.
func TestInstancesSayWhatIsWrongOnce(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		in    target.Instance
		state show.State
		want  string
	}{
		{target.Instance{Phase: "waiting", LastExit: "exited 3", Message: "exited 3"}, show.Converging,
			"exited 3, waiting for its next start"},
		{target.Instance{Phase: "waiting", LastExit: "was ended by SIGTERM", Message: "was not healthy 16s after its start"},
			show.Converging,
			"was not healthy 16s after its start, waiting for its next start"},
		{target.Instance{Phase: "waiting", LastExit: "exited 0"}, show.Converging, "exited 0, waiting for its next start"},
		{target.Instance{Phase: "waiting"}, show.Converging, "waiting for its next start"},
		{target.Instance{Phase: "draining"}, show.Converging, "draining"},
		{target.Instance{Phase: "healthy"}, show.Healthy, ""},
		{target.Instance{Phase: target.PhaseDone, LastExit: "exited 0"}, show.Healthy, "done"},
		{target.Instance{Phase: target.PhaseFailed, LastExit: "exited 1", Message: "exited 1"}, show.Failed, "exited 1"},
	} {
		all := serving(target.Observed{Units: []target.Unit{{Name: "web", Instances: []target.Instance{c.in}}}}, nil)
		if got := all[0].Instances[0]; got.State != c.state || got.Message != c.want {
			t.Errorf("%+v is shown as %s: %q", c.in, got.State, got.Message)
		}
	}
}

// TestDriftIsFromWhatHasRun: a release that never ran has not drifted, whatever its
// target says of the instances.
func TestDriftIsFromWhatHasRun(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	h.start(t)
	h.release(t, "jun", "one")
	h.eventually(t, "staging", "given", func(e show.Environment) bool {
		return e.Release == 1 && e.Declared != "" && h.target.last("staging").Commit == e.Declared
	})
	h.target.report("staging", target.Degraded, "web-1: exited 7")
	e := h.eventually(t, "staging", "told", func(e show.Environment) bool { return e.Reason == "web-1: exited 7" })
	if e.State != show.Converging {
		t.Errorf("staging is %s", e.State)
	}
	h.target.report("staging", target.Healthy, "")
	h.healthy(t, "staging", 1)
	h.target.report("staging", target.Degraded, "web-1: exited 7")
	h.eventually(t, "staging", "drift", func(e show.Environment) bool { return e.State == show.Drift })
}

// TestTimesHaveOneForm: until when a soak lasts is a fact of its own, told once and
// in full minutes.
func TestTimesHaveOneForm(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	h.target.obedient = true
	h.clock.add(19 * time.Second)
	h.start(t)
	files := helloFiles("one")
	files["headgate.yaml"] = strings.Replace(helloYAML, "approvals: 1", "soak: 1h", 1)
	if _, err := h.land(t.Context(), version1("jun", "one"), files); err != nil {
		t.Fatal(err)
	}
	p := h.proposed(t, "production", 1)
	if c := p.Checks[0]; c.Rule != "soak" || c.Detail != "not yet 1 h healthy in staging" || c.Until.Second() != 19 {
		t.Errorf("the soak is %+v", c)
	}
	w, err := h.rc.Why(t.Context(), actor("jun"), "hello", "production")
	if err != nil || !slices.Contains(w.Facts, show.Fact{Label: "earliest", Text: "Tue 24 Nov 13:01 UTC"}) {
		t.Errorf("why: %+v, %v", w.Facts, err)
	}
}
