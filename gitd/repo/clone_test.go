package repo

import (
	"path/filepath"
	"strings"
	"testing"
)

func TestOpenCloneReadsWhatWasCloned(t *testing.T) {
	_, r := testStore(t)
	a := commit(t, r, "a", map[string]string{"f": "1"})
	if err := r.Move(t.Context(), "refs/heads/main", Zero, a); err != nil {
		t.Fatal(err)
	}
	for _, kind := range []string{"--mirror", "--quiet"} {
		dir := filepath.Join(t.TempDir(), "copy")
		runGit(t, r, "clone", "--quiet", kind, "--end-of-options", r.Dir(), dir)
		c, err := OpenClone(dir)
		if err != nil {
			t.Fatal(err)
		}
		refs, err := c.Refs("refs/")
		if err != nil {
			t.Fatal(err)
		}
		found := false
		for _, ref := range refs {
			found = found || strings.HasSuffix(ref.Name, "/main") && ref.Hash == a
		}
		tree, err := c.TreeOf(a)
		if err != nil || !found {
			t.Fatalf("%s: main among %v: %t, %v", kind, refs, found, err)
		}
		if data, err := c.File(tree, "f"); err != nil || string(data) != "1" {
			t.Fatalf("%s: %q, %v", kind, data, err)
		}
	}
	if _, err := OpenClone(t.TempDir()); err == nil || !strings.Contains(err.Error(), "git clone --mirror") {
		t.Fatalf("an empty directory: %v", err)
	}
}
