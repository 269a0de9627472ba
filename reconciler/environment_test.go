package reconciler

import (
	"testing"

	"github.com/headgate-cd/headgate/gitd/show"
	"github.com/headgate-cd/headgate/reconciler/target"
)

// TestInstancesSayWhatIsWrongOnce: what ended an instance, or what was wrong with
// it before it was stopped, stands in its line once.
func TestInstancesSayWhatIsWrongOnce(t *testing.T) {
	for _, c := range []struct {
		in    target.Instance
		state show.State
		want  string
	}{
		{target.Instance{Phase: "waiting", LastExit: "exited 3", Message: "exited 3"}, show.Converging, "exited 3, waiting for its next start"},
		{target.Instance{Phase: "waiting", LastExit: "was ended by SIGTERM", Message: "was not healthy 16s after its start"}, show.Converging,
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
