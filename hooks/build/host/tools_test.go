package host

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// TestTools: what can be run is found, in PATH and where runtime-versions looks.
func TestTools(t *testing.T) {
	root := t.TempDir()
	for name, mode := range map[string]os.FileMode{"usr/bin/make": 0o755, "usr/local/bin/git": 0o755, "usr/bin/jq": 0o644,
		"usr/local/go1.26/bin/go": 0o755} {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, nil, mode); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("nowhere", filepath.Join(root, "usr/bin/curl")); err != nil {
		t.Fatal(err)
	}
	there, missing := toolsIn(root, filepath.SplitList(Path))
	if want := []string{"git", "make", "go (/usr/local/go1.26/bin)"}; !slices.Equal(there, want) {
		t.Errorf("there are %q", there)
	}
	for _, name := range []string{"jq", "curl", "bash"} {
		if !slices.Contains(missing, name) {
			t.Errorf("%s is not missing", name)
		}
	}
	if slices.Contains(missing, "go") {
		t.Error("go is there, and missing")
	}
}
