package repo

import (
	"errors"
	"os/exec"
	"path/filepath"
	"testing"
)

func TestOpenReadOnly(t *testing.T) {
	_, r := testStore(t)
	c := commit(t, r, "begin", map[string]string{"a": "1"})
	if err := r.Move(t.Context(), "refs/heads/main", Zero, c); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"--mirror"}, {}} {
		dir := filepath.Join(t.TempDir(), "clone")
		cmd := exec.Command("git", append(append([]string{"clone", "--quiet"}, args...), r.Dir(), dir)...)
		cmd.Env = Env(noHooks)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		o, err := OpenReadOnly(dir)
		if err != nil {
			t.Fatal(err)
		}
		if h, err := o.Ref("refs/heads/main"); err != nil || h != c {
			t.Fatalf("%s, %v", h, err)
		}
		if ok, err := o.Contains(t.Context(), c, c); err != nil || !ok {
			t.Fatal(err)
		}
		if err := o.Move(t.Context(), "refs/heads/main", c, Zero); !errors.Is(err, ErrReadOnly) {
			t.Fatalf("Move: %v", err)
		}
		if err := o.Write(Blob(nil)); !errors.Is(err, ErrReadOnly) {
			t.Fatalf("Write: %v", err)
		}
	}
	if _, err := OpenReadOnly(t.TempDir()); err == nil {
		t.Fatal("an empty folder was opened")
	}
}
