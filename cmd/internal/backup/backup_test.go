package backup

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/headgate-cd/headgate/gitd/repo"
)

// What functions are at is in the copy, as a directory and as one file, and in what is made
// of it; what can be made again is not, nor what is no more.
func TestFunctions(t *testing.T) {
	t.Parallel()
	data, dir := filepath.Join(t.TempDir(), "data"), filepath.Join(t.TempDir(), "copy")
	write := func(path, text string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.MkdirAll(filepath.Join(data, "keys"), 0o700); err != nil {
		t.Fatal(err)
	}
	signer, err := repo.OpenSigner(filepath.Join(data, "keys", "server"),
		repo.Person{Name: "Headgate", Email: "headgate@test"})
	if err != nil {
		t.Fatal(err)
	}
	s, _, err := repo.OpenStore(filepath.Join(data, "repositories"), filepath.Join(data, "hooks"), signer)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	if _, err := s.Create(t.Context(), "hello"); err != nil {
		t.Fatal(err)
	}
	apps := filepath.Join(data, functionsDir, "apps")
	write(filepath.Join(apps, "one", "state.json"), `{"version":1}`)
	write(filepath.Join(apps, "one", ".tmp-1"), "half")
	write(filepath.Join(apps, "two", "state.json"), `{"version":1,"second":true}`)
	write(filepath.Join(data, functionsDir, "code", "sha256", "bootstrap"), "a program")

	copied := func(want ...string) {
		t.Helper()
		if _, err := Write(t.Context(), Options{Data: data, Now: time.Now()}, dir); err != nil {
			t.Fatal(err)
		}
		var stream bytes.Buffer
		if err := Tar(&stream, dir); err != nil {
			t.Fatal(err)
		}
		again := t.TempDir()
		if err := Untar(&stream, again); err != nil {
			t.Fatal(err)
		}
		for _, from := range []string{dir, again} {
			restored := filepath.Join(t.TempDir(), "restored")
			if _, err := Restore(t.Context(), from, restored, nil, false); err != nil {
				t.Fatal(err)
			}
			var got []string
			err := filepath.WalkDir(filepath.Join(restored, functionsDir), func(path string, d os.DirEntry, err error) error {
				if err != nil || d.IsDir() {
					return err
				}
				text, err := os.ReadFile(path)
				got = append(got, filepath.Base(filepath.Dir(path))+"/"+d.Name()+" "+string(text))
				return err
			})
			if err != nil || strings.Join(got, "; ") != strings.Join(want, "; ") {
				t.Errorf("%q, %v; want %q", got, err, want)
			}
		}
	}
	copied(`one/state.json {"version":1}`, `two/state.json {"version":1,"second":true}`)
	write(filepath.Join(apps, "one", "state.json"), `{"version":1,"moved":true}`)
	if err := os.RemoveAll(filepath.Join(apps, "two")); err != nil {
		t.Fatal(err)
	}
	copied(`one/state.json {"version":1,"moved":true}`)
}
