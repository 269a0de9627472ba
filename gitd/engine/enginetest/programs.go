package enginetest

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"

	"github.com/moby/moby/api/types/container"
)

// library is a file in what ldd prints.
var library = regexp.MustCompile(`(?m)(/\S+) \(0x`)

// ImportPrograms makes an image of programs of this machine, with the libraries that they
// are linked to, as they are found by PATH; those that are not here are left out.
func (d *Daemon) ImportPrograms(t testing.TB, ref string, programs ...string) {
	t.Helper()
	files := map[string]string{} // on this machine, by where they are in the image
	for _, name := range programs {
		path, err := exec.LookPath(name)
		if err != nil {
			continue
		}
		files["usr/bin/"+name] = path
		said, _ := exec.Command("ldd", path).Output() // of a script or a static program there is nothing
		for _, m := range library.FindAllStringSubmatch(string(said), -1) {
			files["usr/"+strings.TrimPrefix(strings.TrimPrefix(m[1], "/"), "usr/")] = m[1]
		}
	}

	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	add := func(h tar.Header, content []byte) { addTo(t, w, h, content) }
	for link, to := range map[string]string{"bin": "usr/bin", "sbin": "usr/bin", "lib": "usr/lib", "lib64": "usr/lib64"} {
		add(tar.Header{Name: link, Typeflag: tar.TypeSymlink, Linkname: to}, nil)
	}
	add(tar.Header{Name: "tmp/", Typeflag: tar.TypeDir, Mode: 0o1777}, nil)
	add(tar.Header{Name: "etc/passwd", Typeflag: tar.TypeReg, Mode: 0o644}, []byte("root:x:0:0::/root:/bin/sh\n"))
	add(tar.Header{Name: "etc/group", Typeflag: tar.TypeReg, Mode: 0o644}, []byte("root:x:0:\n"))
	for at, path := range files {
		content, err := os.ReadFile(filepath.Clean(path))
		if err != nil {
			t.Fatal(err)
		}
		add(tar.Header{Name: at, Typeflag: tar.TypeReg, Mode: 0o755}, content)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	d.load(t, ref, archive.Bytes(), container.Config{})
}

// load makes an image of an archive.
// load has an image of one layer, a tar archive, be there. Both engines load what `docker save`
// makes, with all that an image can say; their imports differ in what they take.
func (d *Daemon) load(t testing.TB, ref string, layer []byte, config container.Config) {
	t.Helper()
	sum := fmt.Sprintf("%x", sha256.Sum256(layer))
	described, err := json.Marshal(map[string]any{
		"architecture": runtime.GOARCH,
		"os":           "linux",
		"config":       config,
		"rootfs":       map[string]any{"type": "layers", "diff_ids": []string{"sha256:" + sum}},
	})
	if err != nil {
		t.Fatal(err)
	}
	manifest, err := json.Marshal([]map[string]any{{
		"Config":   "config.json",
		"RepoTags": []string{ref},
		"Layers":   []string{"layer.tar"},
	}})
	if err != nil {
		t.Fatal(err)
	}
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	for _, file := range []struct {
		name    string
		content []byte
	}{{"config.json", described}, {"layer.tar", layer}, {"manifest.json", manifest}} {
		addTo(t, w, tar.Header{Name: file.name, Typeflag: tar.TypeReg, Mode: 0o644}, file.content)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	resp, err := d.API.ImageLoad(context.Background(), &archive)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Close()
	said, err := io.ReadAll(resp)
	if err != nil || !bytes.Contains(said, []byte("Loaded image")) {
		t.Fatalf("image %s was not loaded: %v\n%s", ref, err, said)
	}
}

// addTo adds a file to an archive.
func addTo(t testing.TB, w *tar.Writer, h tar.Header, content []byte) {
	t.Helper()
	h.Size = int64(len(content))
	if err := w.WriteHeader(&h); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(content); err != nil {
		t.Fatal(err)
	}
}
