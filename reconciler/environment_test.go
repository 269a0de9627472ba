package reconciler

import (
	"testing"

	"github.com/headgate-cd/headgate/gitd/show"
	"github.com/headgate-cd/headgate/reconciler/target/services"
)

// TestInstancesSayWhatIsWrongOnce: what ended an instance, or what was wrong with
// it before it was stopped, stands in its line once.
func TestInstancesSayWhatIsWrongOnce(t *testing.T) {
	for _, c := range []struct {
		in    services.InstanceState
		state show.State
		want  string
	}{
		{services.InstanceState{State: "waiting", LastExit: "exited 3", Message: "exited 3"}, show.Converging, "exited 3, waiting for its next start"},
		{services.InstanceState{State: "waiting", LastExit: "was ended by SIGTERM", Message: "was not healthy 16s after its start"}, show.Converging,
			"was not healthy 16s after its start, waiting for its next start"},
		{services.InstanceState{State: "waiting", LastExit: "exited 0"}, show.Converging, "exited 0, waiting for its next start"},
		{services.InstanceState{State: "waiting"}, show.Converging, "waiting for its next start"},
		{services.InstanceState{State: "draining"}, show.Converging, "draining"},
		{services.InstanceState{State: "healthy"}, show.Healthy, ""},
	} {
		all := serving(services.Observed{Services: []services.ServiceState{{Name: "web", Instances: []services.InstanceState{c.in}}}})
		if got := all[0].Instances[0]; got.State != c.state || got.Message != c.want {
			t.Errorf("%+v is shown as %s: %q", c.in, got.State, got.Message)
		}
	}
}
