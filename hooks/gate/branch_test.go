package gate

import (
	"testing"

	"github.com/headgate-cd/headgate/gitd/repo"
)

// TestBranch: the branch whose landings become releases, as more of them come to
// be there.
func TestBranch(t *testing.T) {
	w := newHarness(t)
	is := func(want string) {
		t.Helper()
		if got := w.gate.Branch("hello"); got != want {
			t.Errorf("Branch is %q, want %q", got, want)
		}
	}
	push := func(branch string, commit repo.Hash) {
		t.Helper()
		if err := w.r.Move(t.Context(), "refs/heads/"+branch, repo.Zero, commit); err != nil {
			t.Fatal(err)
		}
	}
	is("main")
	push("side", w.commit("gates nothing", files()))
	is("main")
	gated := w.commit("gates trunk", files("headgate.yaml", "land: {branches: [trunk]}\n"))
	push("trunk", gated)
	is("trunk")
	push("master", gated)
	is("master")
	push("main", gated)
	is("main")
	if got := w.gate.Branch("none"); got != "main" {
		t.Errorf("a repository that is not there: %q", got)
	}
}
