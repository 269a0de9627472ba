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

// TestFailedPrintsItsLastLines: what a service that failed printed last stands below its
// environment, of that service alone, and where there is more of it.
func TestFailedPrintsItsLastLines(t *testing.T) {
	s, b := newShell(), newBackend()
	s.Backend = b
	const said = "web printed last, more: ssh git.tarn.example env logs checkout production web\n" +
		"11:40:00 web-1 * started web-1 of release 183 on port 40001\n" +
		"11:42:00 web-1 | cannot read limits  <U+202E>txt\n" +
		"11:43:00 web-1 | * headgate: exited with 0\n"
	if shown := run(t, s, "ada", "env show production", false).stdout; strings.Contains(shown, "printed last") {
		t.Errorf("nothing has failed, and it says\n%s", shown)
	}
	b.environment.Services[0].State = show.Failed
	b.repositories[1].Environments[1] = b.environment
	shown := run(t, s, "ada", "env show production", false).stdout
	if !strings.Contains(shown, said) || strings.Contains(shown, "worker-2") {
		t.Errorf("it says\n%s\nand not\n%s", shown, said)
	}
}
