package shell

import (
	"io"
	"strings"
	"testing"

	"github.com/headgate-cd/headgate/gitd/access"
	"github.com/headgate-cd/headgate/gitd/secret"
)

func TestSecretIsReadFromInput(t *testing.T) {
	most := strings.Repeat("x", secret.MaxValue)
	for _, tt := range []struct {
		name, words string
		in          io.Reader
		want        string // kept
		stderr      string
	}{
		{"a line", "secret set hub", strings.NewReader("wonder land\n"), "hub=wonder land", ""},
		{"a line of another system", "secret set hub", strings.NewReader("x\r\n"), "hub=x", ""},
		{"no newline", "secret set checkout:hub", strings.NewReader("x"), "checkout:hub=x", ""},
		{"one newline of two", "secret set hub", strings.NewReader("x\n\n"), "hub=x\n", ""},
		{"the longest", "secret set hub", strings.NewReader(most + "\n"), "hub=" + most, ""},
		{"longer", "secret set hub", strings.NewReader(most + "x"), "", "over 64 KiB"},
		{"nothing", "secret set hub", strings.NewReader("\n"), "", "the secret is empty"},
		{"a terminal", "secret set hub", nil, "", "not typed on a terminal"},
		{"no repository", "secret set :hub", strings.NewReader("x"), "", "names no repository"},
		{"no name", "secret set checkout:", strings.NewReader("x"), "", "invalid name"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s, b := newShell(), newBackend()
			s.Backend = b
			var stdout, stderr strings.Builder
			status := s.Run(t.Context(), Invocation{
				Actor: access.Identity{User: "ada", Via: access.ViaSSH},
				Words: strings.Fields(tt.words),
				In:    tt.in,
				Out:   &stdout,
				Err:   &stderr,
			})
			if b.kept != tt.want || (status == 0) != (tt.want != "") || !strings.Contains(stderr.String(), tt.stderr) {
				t.Errorf("kept %.40q, exit %d, %s; want %.40q, %q", b.kept, status, stderr.String(), tt.want, tt.stderr)
			}
		})
	}
}
