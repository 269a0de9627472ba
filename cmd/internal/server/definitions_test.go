package server

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/headgate-cd/headgate/gitd/yamlfile"
	"github.com/headgate-cd/headgate/hooks/build/artifact"
	"github.com/headgate-cd/headgate/reconciler/target"
)

// TestDefinitions: of the artifacts of a release those are told that name images, to who
// asks for them, and what is gone is no artifact without such a file.
func TestDefinitions(t *testing.T) {
	t.Parallel()
	store, err := artifact.Open(filepath.Join(t.TempDir(), "artifacts"))
	if err != nil {
		t.Fatal(err)
	}
	pack := func(file, content string) string {
		t.Helper()
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, file), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		a, err := store.Pack(t.Context(), dir, "hello", []artifact.File{{Source: file, Path: file}})
		if err != nil {
			t.Fatal(err)
		}
		return a.Digest
	}
	const file = "imagedefinitions.json"
	r := target.Release{Number: 4, Artifacts: map[string]string{
		"main":  pack("web", "a program"),
		"names": pack(file, "[]"),
		"empty": pack(file, ""),
		"large": pack(file, strings.Repeat(" ", yamlfile.MaxBytes+100)),
	}}
	d := definitions{store: store}
	task := target.Files{"taskdef.json": nil}
	for range 2 { // read, and remembered
		got, err := d.of(t.Context(), "services", task, r)
		sizes := map[string]int{}
		for name, data := range got {
			sizes[name] = len(data)
		}
		if want := "map[empty:0 large:1048577 names:2]"; err != nil || fmt.Sprint(sizes) != want {
			t.Errorf("%v, %v, want %s", sizes, err, want)
		}
	}
	for _, c := range []struct {
		kind  string
		files target.Files
	}{
		{"hosts", task},
		{"services", target.Files{"taskdef.json": nil, file: nil}},
		{"services", target.Files{"compose.yaml": nil}},
	} {
		if got, err := d.of(t.Context(), c.kind, c.files, r); got != nil || err != nil {
			t.Errorf("%+v asks for nothing, and is told %v, %v", c, got, err)
		}
	}
	r.Artifacts["gone"] = "sha256:" + strings.Repeat("0", 64)
	if _, err := d.of(t.Context(), "services", task, r); !errors.Is(err, fs.ErrNotExist) ||
		!strings.Contains(err.Error(), "release 4, artifact gone") {
		t.Errorf("one that is gone: %v", err)
	}
}
