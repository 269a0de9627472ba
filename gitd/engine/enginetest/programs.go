package enginetest

import (
	"archive/tar"
	"bytes"
	"context"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/moby/moby/client"
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
	add := func(h tar.Header, content []byte) {
		h.Size = int64(len(content))
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(content); err != nil {
			t.Fatal(err)
		}
	}
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
	d.load(t, ref, &archive, nil)
}

// load makes an image of an archive.
func (d *Daemon) load(t testing.TB, ref string, archive io.Reader, changes []string) {
	t.Helper()
	resp, err := d.API.ImageImport(context.Background(), client.ImageImportSource{Source: archive, SourceName: "-"},
		ref, client.ImageImportOptions{Changes: changes})
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Close()
	if _, err := io.Copy(io.Discard, resp); err != nil {
		t.Fatal(err)
	}
}
