package shell

import (
	"strings"
	"testing"

	"github.com/headgate-cd/headgate/gitd/show"
)

// TestRemovalReadsAsARemoval: neither a release 0 nor a hash, but what it stops.
func TestRemovalReadsAsARemoval(t *testing.T) {
	s, b := newShell(), newBackend()
	s.Backend = b
	b.environment.Unhealed = true
	b.environment.Application = "till"
	b.environment.Promotion = &show.Promotion{
		Repository:  "checkout",
		Environment: "production",
		From:        183,
		Removal:     true,
		Stops:       []string{"web", "worker"},
		Decision:    "manual",
		Summary:     "waits for 1 approval",
	}
	b.repositories[1].Environments[1] = b.environment

	shown := run(t, s, "ada", "env show production", false).stdout
	for _, want := range []string{
		"runs      application till",
		"drift     policy says to report it, not to heal it",
		"waits     ? waits    removal  waits for 1 approval: ssh git.tarn.example why checkout production",
		"means     production is removed from headgate.yaml: this stops web, worker",
	} {
		if !strings.Contains(shown, want+"\n") {
			t.Errorf("no %q in\n%s", want, shown)
		}
	}

	// Two applications in one repository: each line says which.
	listed := run(t, s, "ada", "env list checkout", false).stdout
	want := `REPOSITORY  APPLICATION  ENVIRONMENT  STATE    RELEASE  SINCE  BEHIND  WAITS
checkout    checkout     staging      healthy  186      14:00  -
checkout    till         production   drift    183      11:42  3       removal: waits for 1 approval
2 environments, times in UTC; one of them: ssh git.tarn.example env show checkout staging
`
	if listed != want {
		t.Errorf("env list:\n%s", listed)
	}
}
