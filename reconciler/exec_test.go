package reconciler

import (
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/headgate-cd/headgate/gitd/decision"
	"github.com/headgate-cd/headgate/gitd/repo"
	"github.com/headgate-cd/headgate/gitd/show"
	"github.com/headgate-cd/headgate/gitd/tty"
	"github.com/headgate-cd/headgate/reconciler/target"
)

// Exec implements target.Execer.
func (f *fakeTarget) Exec(_ context.Context, k target.Key, e target.Exec) (int, error) {
	if e.Unit != "web" {
		return 0, target.Refusal("there is no service " + e.Unit)
	}
	io.WriteString(e.Out, k.String()+": "+strings.Join(e.Command, " "))
	return 3, nil
}

// TestExec: what a person runs is on record before it runs, and where promotions wait for
// others' approval it takes an administrator.
func TestExec(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	h.target.obedient = true
	h.start(t)
	h.release(t, "ada", "one")
	h.healthy(t, "staging", 1)
	run := func(environment, user, service string, command ...string) (string, int, error) {
		var out strings.Builder
		status, err := h.rc.Exec(t.Context(), "hello", environment, actor(user), show.Exec{
			Service: service, Command: command, Streams: tty.Streams{Out: &out, Err: &out},
		})
		return out.String(), status, err
	}
	recorded := func(want ...string) {
		t.Helper()
		all, _, err := decision.List(t.Context(), h.hello, repo.Zero, 100)
		if err != nil {
			t.Fatal(err)
		}
		var about []string
		for _, s := range all {
			if s.Query == "exec" {
				about = append(about, s.Answer+": "+s.About)
			}
		}
		if len(about) < len(want) || !slices.Equal(about[:len(want)], want) {
			t.Errorf("on record is %q, not %q", about, want)
		}
	}

	if out, status, err := run("staging", "sam", "web", "ls", "-l"); err != nil || status != 3 ||
		out != "hello in staging: ls -l" {
		t.Errorf("%q %d %v", out, status, err)
	}
	if _, _, err := run("staging", "sam", "web", "ls", "-l"); err != nil {
		t.Error(err)
	}
	recorded("auto: ls -l in web of staging by sam", "auto: ls -l in web of staging by sam") // each of them
	denied := func(err error, want string) {
		t.Helper()
		var e *show.Error
		if !errors.As(err, &e) || !slices.ContainsFunc(append(e.Where, e.What),
			func(s string) bool { return strings.Contains(s, want) }) {
			t.Errorf("%+v does not say %q", err, want)
		}
	}
	_, _, err := run("staging", "eve", "web")
	denied(err, "only who may write")
	recorded("deny: a shell in web of staging by eve")
	_, _, err = run("staging", "sam", "wob")
	denied(err, "there is no service wob")

	h.proposed(t, "production", 1)
	if _, err := h.rc.Approve(t.Context(), "hello", "production", actor("jun"), "", ""); err != nil {
		t.Fatal(err)
	}
	h.healthy(t, "production", 1)
	_, _, err = run("production", "sam", "web", "ls")
	denied(err, "only an administrator")
	if out, _, err := run("production", "ada", "web", "ls"); err != nil || out != "hello in production: ls" {
		t.Errorf("%q %v", out, err)
	}
	recorded("auto: ls in web of production by ada")
}
