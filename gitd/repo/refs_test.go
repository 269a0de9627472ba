package repo

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// TestRefsWhileOthersMove lists refs while a move is under way, which shows as
// a lock file, empty at first, and after refs were packed.
func TestRefsWhileOthersMove(t *testing.T) {
	_, r := testStore(t)
	a := commit(t, r, "a", map[string]string{"f": "1"})
	b := commit(t, r, "b", map[string]string{"f": "2"}, a)
	for _, name := range []string{"refs/heads/main", "refs/heads/env/staging", "refs/releases/1"} {
		if err := r.Move(t.Context(), name, Zero, a); err != nil {
			t.Fatal(err)
		}
	}
	runGit(t, r, "pack-refs", "--all")
	if err := r.Move(t.Context(), "refs/heads/main", a, b); err != nil {
		t.Fatal(err)
	}
	for _, lock := range []string{"refs/heads/main.lock", "refs/heads/env/staging.lock"} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(r.Dir(), lock)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(r.Dir(), lock), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for prefix, want := range map[string][]Ref{
		"refs/":          {{"refs/heads/env/staging", a}, {"refs/heads/main", b}, {"refs/releases/1", a}},
		"refs/heads/env": {{"refs/heads/env/staging", a}},
		"refs/heads/m":   {{"refs/heads/main", b}},
		"refs/tags/":     {},
	} {
		got, err := r.Refs(prefix)
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("%s: %s, %v", prefix, fmt.Sprint(got), err)
		}
	}
}
