package artifact

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func write(t *testing.T, dir string, files map[string]string) {
	t.Helper()
	for name, content := range files {
		p := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		mode := os.FileMode(0o640)
		if strings.HasSuffix(name, ".sh") {
			mode = 0o700
		}
		if err := os.WriteFile(p, []byte(content), mode); err != nil {
			t.Fatal(err)
		}
	}
}

func files(names ...string) []File {
	var fs []File
	for _, n := range names {
		fs = append(fs, File{Source: n, Path: n})
	}
	return fs
}

func TestPackIsDeterministicAndUnpackExact(t *testing.T) {
	store, err := Open(filepath.Join(t.TempDir(), "a"))
	if err != nil {
		t.Fatal(err)
	}
	var digests []string
	for i, order := range [][]string{{"b/x", "a.sh"}, {"a.sh", "b/x"}} {
		src := t.TempDir()
		write(t, src, map[string]string{"b/x": "content", "a.sh": "#!/bin/sh\n", "not": "packed"})
		at := time.Unix(int64(i)*1e6, 0)
		if err := os.Chtimes(filepath.Join(src, "b/x"), at, at); err != nil {
			t.Fatal(err)
		}
		a, err := store.Pack(t.Context(), src, "hello", append(files(order...), File{Path: "c/link", Link: "../a.sh"}))
		if err != nil {
			t.Fatal(err)
		}
		digests = append(digests, a.Digest)
	}
	if digests[0] != digests[1] {
		t.Fatalf("equal files, different digests: %v", digests)
	}
	other, err := Open(filepath.Join(t.TempDir(), "b")) // another machine
	if err != nil {
		t.Fatal(err)
	}
	if other.Has(digests[0]) || !store.Has(digests[0]) {
		t.Error("Has is wrong")
	}
	dir := filepath.Join(t.TempDir(), "out")
	for range 2 { // the second time finds it there
		if err := store.Unpack(t.Context(), digests[0], dir); err != nil {
			t.Fatal(err)
		}
	}
	for name, want := range map[string]string{"b/x": "content", "a.sh": "#!/bin/sh\n", "c/link": "#!/bin/sh\n"} {
		if got, err := os.ReadFile(filepath.Join(dir, name)); err != nil || string(got) != want {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "not")); err == nil {
		t.Error("a file that was not named is there")
	}
	if info, _ := os.Stat(filepath.Join(dir, "a.sh")); info.Mode().Perm()&0o111 == 0 {
		t.Error("a.sh has lost its mode")
	}
	var ix index
	data, err := os.ReadFile(filepath.Join(store.dir, "index.json"))
	if err != nil || json.Unmarshal(data, &ix) != nil || len(ix.Manifests) != 1 || ix.Manifests[0].Digest != digests[0] {
		t.Errorf("index.json: %s %v", data, err)
	}
}

func TestPackRefusesWhatIsNoFileInside(t *testing.T) {
	store, err := Open(filepath.Join(t.TempDir(), "a"))
	if err != nil {
		t.Fatal(err)
	}
	outside, src := t.TempDir(), t.TempDir()
	write(t, outside, map[string]string{"secret": "s"})
	write(t, src, map[string]string{"ok": "x", "d/ok": "y"})
	if err := os.Symlink(filepath.Join(outside, "secret"), filepath.Join(src, "link")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(outside, filepath.Join(src, "dir")); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mkfifo(filepath.Join(src, "fifo"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, fs := range map[string][]File{
		"link out":            files("link"),
		"through a directory": files("dir/secret"),
		"fifo":                files("fifo"),
		"directory":           files("d"),
		"parent":              {{Source: "ok", Path: "../x"}},
		"absolute":            {{Source: "ok", Path: "/x"}},
		"clash":               {{Source: "ok", Path: "x"}, {Source: "d/ok", Path: "x"}},
		"absent":              files("absent"),
		"link to outside":     {{Path: "l", Link: "../x"}},
		"absolute link":       {{Path: "l", Link: "/etc/passwd"}},
		"source to outside":   {{Source: "../" + filepath.Base(outside) + "/secret", Path: "x"}},
	} {
		a, err := store.Pack(t.Context(), src, "x", fs)
		if err == nil {
			t.Errorf("%s: packed as %s", name, a.Digest)
		}
		var fault *FileError
		if !errors.As(err, &fault) || strings.Contains(fault.Error(), outside) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := os.RemoveAll(store.dir); err != nil {
		t.Fatal(err)
	}
	var fault *FileError
	if _, err := store.Pack(t.Context(), src, "x", files("ok")); err == nil || errors.As(err, &fault) {
		t.Errorf("the store's own failure: %v", err)
	}
}

// A file that the server may not read is the files' fault: the build took the
// permission away.
func TestPackOfWhatMayNotBeRead(t *testing.T) {
	top := t.TempDir()
	store, err := Open(filepath.Join(top, "a"))
	if err != nil {
		t.Fatal(err)
	}
	write(t, top, map[string]string{"src/locked": "x", "src/d/x": "y"})
	for path, mode := range map[string]os.FileMode{filepath.Dir(top): 0o755, top: 0o755, filepath.Join(store.dir, "blobs",
		"sha256"): 0o777, filepath.Join(top, "src/locked"): 0, filepath.Join(top, "src/d"): 0} {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
	}
	defer os.Chmod(filepath.Join(top, "src/d"), 0o700) // so that it can be removed
	if os.Geteuid() == 0 {
		// This thread reads files as nobody for the time being.
		runtime.LockOSThread()
		if err := unix.Setfsuid(65534); err != nil {
			t.Fatal(err)
		}
		defer unix.Setfsuid(0)
	}
	for _, name := range []string{"locked", "d/x"} {
		var fault *FileError
		if _, err := store.Pack(t.Context(), filepath.Join(top, "src"), "x", files(name)); !errors.As(err, &fault) ||
			fault.Error() != name+" cannot be read: permission denied" {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// countdown is a context that is cancelled when it has been asked n times.
type countdown struct {
	context.Context
	n int
}

func (c *countdown) Err() error {
	if c.n--; c.n < 0 {
		return context.Canceled
	}
	return nil
}

// Neither a file with holes nor a large one holds a build up that is cancelled.
func TestPackEndsWithItsContext(t *testing.T) {
	store, err := Open(filepath.Join(t.TempDir(), "a"))
	if err != nil {
		t.Fatal(err)
	}
	src := t.TempDir()
	write(t, src, map[string]string{"holes": ""})
	if err := os.Truncate(filepath.Join(src, "holes"), MaxBytes); err != nil {
		t.Fatal(err)
	}
	if _, err := store.Pack(&countdown{t.Context(), 5}, src, "x", files("holes")); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	if left, err := filepath.Glob(filepath.Join(store.dir, "blobs", "sha256", "*")); err != nil || len(left) > 0 {
		t.Errorf("left %v, %v", left, err)
	}
	write(t, src, map[string]string{"a": "x"}) // one byte too much, together
	if _, err := store.Pack(&countdown{t.Context(), 5}, src, "x", files("a", "holes")); err == nil ||
		!strings.Contains(err.Error(), "with holes it would be over 8 GiB") {
		t.Errorf("%v", err)
	}
}

func TestUnpackChecksEveryByte(t *testing.T) {
	store, err := Open(filepath.Join(t.TempDir(), "a"))
	if err != nil {
		t.Fatal(err)
	}
	src := t.TempDir()
	write(t, src, map[string]string{"x": strings.Repeat("content", 100)})
	a, err := store.Pack(t.Context(), src, "x", files("x"))
	if err != nil {
		t.Fatal(err)
	}
	blobs, err := filepath.Glob(filepath.Join(store.dir, "blobs", "sha256", "*"))
	if err != nil || len(blobs) != 3 {
		t.Fatal(blobs, err)
	}
	for _, blob := range blobs {
		whole, err := os.ReadFile(blob)
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasPrefix(string(whole), `{"files"`) {
			continue // the index is read by LayOut alone
		}
		if err := os.Chmod(blob, 0o600); err != nil {
			t.Fatal(err)
		}
		for _, bad := range [][]byte{append([]byte{whole[0] ^ 1}, whole[1:]...), append(append([]byte{}, whole...), 'x'),
			whole[:len(whole)-1], {}} {
			if err := os.WriteFile(blob, bad, 0o600); err != nil {
				t.Fatal(err)
			}
			dir := filepath.Join(t.TempDir(), "out")
			if err := store.Unpack(t.Context(), a.Digest, dir); err == nil {
				t.Errorf("unpacked with %s changed", filepath.Base(blob))
			}
			if _, err := os.Stat(dir); err == nil {
				t.Error("a half-made directory is left")
			}
		}
		if err := os.WriteFile(blob, whole, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, bad := range []string{"", "sha256:x", "../../etc/passwd", "sha256:" + strings.Repeat("0", 64)} {
		if err := store.Unpack(t.Context(), bad, filepath.Join(t.TempDir(), "out")); err == nil {
			t.Errorf("%q was unpacked", bad)
		}
	}
}

// TestList: what an artifact holds is told without laying it out.
func TestList(t *testing.T) {
	store, err := Open(filepath.Join(t.TempDir(), "a"))
	if err != nil {
		t.Fatal(err)
	}
	src := t.TempDir()
	write(t, src, map[string]string{"b/x": "content", "a.sh": "#!/bin/sh\n"})
	a, err := store.Pack(t.Context(), src, "hello", append(files("b/x", "a.sh"), File{Path: "c/link", Link: "../a.sh"}))
	if err != nil {
		t.Fatal(err)
	}

	list, err := store.List(t.Context(), a.Digest, 1000)
	if err != nil {
		t.Fatal(err)
	}
	digest := func(text string) string {
		sum := sha256.Sum256([]byte(text))
		return hex.EncodeToString(sum[:])
	}
	want := []Content{
		{"a.sh", 10, digest("#!/bin/sh\n") + " executable"},
		{"b/x", 7, digest("content")},
		{"c/link", 0, digest("link ../a.sh") + " executable"},
	}
	if !slices.Equal(list, want) {
		t.Errorf("got %v\nwant %v", list, want)
	}

	if data, err := store.ReadFile(t.Context(), a.Digest, "b/x", 100); err != nil || string(data) != "content" {
		t.Errorf("b/x is %q, %v", data, err)
	}
	if data, err := store.ReadFile(t.Context(), a.Digest, "b/x", 3); err != nil || string(data) != "con" {
		t.Errorf("3 bytes of b/x are %q, %v", data, err)
	}
	for _, name := range []string{"x", "b", "c/link"} {
		if _, err := store.ReadFile(t.Context(), a.Digest, name, 100); !errors.Is(err, ErrNoFile) {
			t.Errorf("%s: %v", name, err)
		}
	}
	none := "sha256:" + strings.Repeat("0", 64)
	if _, err := store.ReadFile(t.Context(), none, "b/x", 100); err == nil || errors.Is(err, ErrNoFile) {
		t.Errorf("of what the store does not hold: %v", err)
	}

	if _, err := store.List(t.Context(), a.Digest, 16); err == nil {
		t.Error("17 bytes are read where 16 are the bound")
	}
	if _, err := store.List(t.Context(), none, 1000); err == nil {
		t.Error("what the store does not hold is listed")
	}
}
