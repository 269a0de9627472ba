package web

import (
	"context"
	"html"
	"io"
	"log/slog"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/headgate-cd/headgate/gitd/access"
	"github.com/headgate-cd/headgate/gitd/shell"
)

var (
	printedSSH = regexp.MustCompile(`(?:>|"|: )(ssh (?:-p \d+ )?git\.tarn\.example [^<"]+)`)
	// needSession are commands of people: the answer depends on more than the backend.
	needSession = regexp.MustCompile(`^ssh \S+ (login|whoami)\b`)
)

// Every SSH command that a page prints is one that the server takes as it is.
func TestPrintedCommandsExist(t *testing.T) {
	config, err := access.Parse("server.yaml",
		[]byte(
			"users: {ada: {keys: [ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIIAaU4pYEWGd/yv4FbWBRCersPHrGngbEzqibRLlmbNX]}}\ngroups: {administrators: [ada]}\nrepositories: {checkout: {}}\n"))
	if err != nil {
		t.Fatal(err)
	}
	h := fullBackend()
	s := &shell.Shell{
		Backend: h,
		Access:  func() *access.Config { return config },
		Log:     slog.New(slog.DiscardHandler),
		Now:     func() time.Time { return noon },
	}
	b := signedIn(t, console(h), "ada")
	seen := map[string]bool{}
	for _, path := range append([]string{"/search?q=it%27s+$5+tax"}, pagesOf...) {
		for _, m := range printedSSH.FindAllStringSubmatch(b.get(path).body, -1) {
			line := strings.TrimSpace(html.UnescapeString(m[1]))
			if seen[line] || needSession.MatchString(line) {
				continue
			}
			seen[line] = true
			var said strings.Builder
			words := sent(t, line)
			in := shell.Invocation{Actor: access.Identity{User: "ada", Via: access.ViaSSH}, Words: words,
				Out: io.Discard, Err: &said}
			if strings.Contains(line, " search ") && strings.Contains(line, "5") &&
				!slices.Equal(words, []string{"search", "it's $5 tax"}) {
				t.Errorf("%s prints %s, which arrives as %q", path, line, words)
			}
			ctx, stop := context.WithCancel(t.Context())
			if slices.Contains(words, "-f") {
				stop() // what is followed has no end
			}
			status := s.Run(ctx, in)
			stop()
			if status == 2 { // wrong usage
				t.Errorf("%s prints %q:\n%s", path, line, said.String())
			}
		}
	}
	for _, want := range []string{
		"ssh git.tarn.example change diff checkout 411",
		"ssh git.tarn.example promotion diff checkout production",
		"ssh git.tarn.example search tax",
	} {
		if !seen[want] {
			t.Errorf("no page prints %q", want)
		}
	}
}

// sent is what the server makes of a command line: the user's shell reads it,
// ssh joins what is behind the host, and the server splits that.
func sent(t *testing.T, line string) []string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "sh", "-c", "ssh() { shift; printf %s \"$*\"; }\n"+line).Output()
	if err != nil {
		t.Fatalf("%s: %v", line, err)
	}
	words, err := shell.Split(string(out))
	if err != nil {
		t.Fatalf("%s: %v", line, err)
	}
	return words
}
