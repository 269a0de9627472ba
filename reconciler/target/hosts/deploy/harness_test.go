package deploy

import (
	"context"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// harness is a host with a directory to deploy to, "dst", and revisions made of texts.
type harness struct {
	*testing.T
	host   Host
	dst    string
	n      int
	events []Progress
}

func newHarness(t *testing.T) *harness {
	t.Helper()
	top := t.TempDir()
	h := &harness{T: t, dst: filepath.Join(top, "dst")}
	h.host.Root, h.host.Grace = filepath.Join(top, "root"), 200*time.Millisecond
	h.mkdirs(h.dst)
	return h
}

func (h *harness) mkdirs(dirs ...string) {
	h.Helper()
	for _, d := range dirs {
		if err := os.MkdirAll(d, 0o755); err != nil {
			h.Fatal(err)
		}
	}
}

// files are those of a revision, by path. A path that ends in ".sh" is executable; a
// text that begins with "-> " is a link. DST in texts is where to deploy to.
type files map[string]string

const spec = "version: 0.0\nos: linux\nfiles:\n  - source: /app\n    destination: DST/app\n"

func (h *harness) lay(dir string, all files) {
	h.Helper()
	for _, name := range slices.Sorted(maps.Keys(all)) {
		to := filepath.Join(dir, name)
		h.mkdirs(filepath.Dir(to))
		text := strings.ReplaceAll(all[name], "DST", h.dst)
		if target, link := strings.CutPrefix(text, "-> "); link {
			if err := os.Symlink(target, to); err != nil {
				h.Fatal(err)
			}
			continue
		}
		mode := fs.FileMode(0o644)
		if strings.HasSuffix(name, ".sh") {
			mode = 0o755
			if !strings.HasPrefix(text, "#!") {
				text = "#!/bin/sh\n" + text
			}
		}
		if err := os.WriteFile(to, []byte(text), mode); err != nil {
			h.Fatal(err)
		}
	}
}

// request is a deployment of those files.
func (h *harness) request(all files) Request {
	h.n++
	return Request{
		ID:     fmt.Sprintf("d-%d", h.n),
		Group:  "group",
		Unpack: func(_ context.Context, dir string) error { h.lay(dir, all); return nil },
		Progress: func(p Progress) {
			h.events = append(h.events, p)
		},
	}
}

func (h *harness) run(r Request) Result {
	h.Helper()
	h.events = nil
	result, err := h.host.Run(h.Context(), r, nil)
	if err != nil {
		h.Fatal(err)
	}
	return result
}

// deploy deploys, which must succeed.
func (h *harness) deploy(all files) Result {
	h.Helper()
	result := h.run(h.request(all))
	if result.Status != Succeeded {
		h.Fatalf("failed: %v\n%s", result.Failure, result.Failure.Output)
	}
	return result
}

// refuse deploys, which must fail with what is said.
func (h *harness) refuse(r Request, want string) Result {
	h.Helper()
	result := h.run(r)
	if result.Status != Failed || !strings.Contains(result.Failure.Error(), strings.ReplaceAll(want, "DST", h.dst)) {
		h.Fatalf("%s: %v, want %q", result.Status, result.Failure, want)
	}
	return result
}

// tree is what lies below a directory: path, mode, and text or link.
func (h *harness) tree(dir string) string {
	h.Helper()
	var out strings.Builder
	err := filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil || name == dir {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(dir, name)
		switch {
		case d.IsDir():
			fmt.Fprintf(&out, "%s/ %v\n", rel, info.Mode().Perm())
		case d.Type()&fs.ModeSymlink != 0:
			to, _ := os.Readlink(name)
			fmt.Fprintf(&out, "%s -> %s\n", rel, to)
		default:
			text, err := os.ReadFile(name)
			if err != nil {
				return err
			}
			fmt.Fprintf(&out, "%s %v %q\n", rel, info.Mode(), text)
		}
		return nil
	})
	if err != nil {
		h.Fatal(err)
	}
	return out.String()
}

// has checks what lies at paths below the directory that is deployed to; "" is nothing.
func (h *harness) has(all files) {
	h.Helper()
	for name, want := range all {
		want = strings.ReplaceAll(want, "DST", h.dst)
		path := filepath.Join(h.dst, name)
		text, err := os.ReadFile(path)
		if link, lerr := os.Readlink(path); lerr == nil {
			text, err = []byte("-> "+link), nil
		}
		switch {
		case want == "" && (err == nil || exists(path)):
			h.Errorf("%s is there: %q", name, text)
		case want != "" && err != nil:
			h.Errorf("%s: %v", name, err)
		case want != "" && string(text) != want:
			h.Errorf("%s is %q, want %q", name, text, want)
		}
	}
}

// lines are those of a file below the directory that is deployed to.
func (h *harness) lines(name string) []string {
	data, err := os.ReadFile(filepath.Join(h.dst, name))
	if err != nil {
		return nil
	}
	return strings.Split(strings.TrimSpace(string(data)), "\n")
}

// says checks that something was reported.
func (h *harness) says(want string) {
	h.Helper()
	want = strings.ReplaceAll(want, "DST", h.dst)
	for _, e := range h.events {
		if strings.Contains(e.Text, want) {
			return
		}
	}
	h.Errorf("nothing says %q: %+v", want, h.events)
}
