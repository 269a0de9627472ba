package bundle

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"compress/gzip"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

type entry struct {
	name, text string
	mode       fs.FileMode
	kind       byte // of tar; 0: by mode
}

var made = time.Date(2026, 1, 2, 3, 4, 6, 0, time.UTC)

func tarOf(t *testing.T, entries []entry) []byte {
	t.Helper()
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, e := range entries {
		head := &tar.Header{Name: e.name, Mode: int64(e.mode.Perm()), Typeflag: e.kind, ModTime: made}
		switch {
		case e.kind == tar.TypeXGlobalHeader:
			head = &tar.Header{Name: e.name, Typeflag: e.kind, PAXRecords: map[string]string{"comment": "abc"}}
		case e.kind == tar.TypeSymlink || e.kind == tar.TypeLink:
			head.Linkname = e.text
		case e.kind == 0:
			head.Typeflag, head.Size = tar.TypeReg, int64(len(e.text))
		}
		if err := w.WriteHeader(head); err != nil {
			t.Fatal(err)
		}
		if head.Typeflag == tar.TypeReg {
			if _, err := w.Write([]byte(e.text)); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func zipOf(t *testing.T, entries []entry) []byte {
	t.Helper()
	var out bytes.Buffer
	w := zip.NewWriter(&out)
	for _, e := range entries {
		head := &zip.FileHeader{Name: e.name, Modified: made}
		head.SetMode(e.mode)
		f, err := w.CreateHeader(head)
		if err == nil {
			_, err = f.Write([]byte(e.text))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func unpack(t *testing.T, name string, data []byte) (dir string, err error) {
	t.Helper()
	file := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
	kind, err := TypeOf(file)
	if err != nil {
		t.Fatal(err)
	}
	dir = filepath.Join(t.TempDir(), "to")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir, Unpack(t.Context(), file, kind, dir)
}

// TestUnpack: all types lay out the same, with modes, times and links.
func TestUnpack(t *testing.T) {
	zipped := zipOf(t, []entry{
		{name: "appspec.yml", text: "spec", mode: 0o644},
		{name: "scripts/", mode: fs.ModeDir | 0o755},
		{name: "scripts/a.sh", text: "run", mode: 0o750},
		{name: "scripts/b.sh", text: "a.sh", mode: fs.ModeSymlink | 0o777},
	})
	tarred := tarOf(t, []entry{
		{name: "pax_global_header", kind: tar.TypeXGlobalHeader},
		{name: "./", mode: 0o755, kind: tar.TypeDir},
		{name: "./appspec.yml", text: "spec", mode: 0o644},
		{name: "scripts/", mode: 0o755, kind: tar.TypeDir},
		{name: "scripts/a.sh", text: "run", mode: 0o750},
		{name: "scripts/b.sh", text: "a.sh", kind: tar.TypeSymlink},
	})
	var compressed bytes.Buffer
	z := gzip.NewWriter(&compressed)
	_, _ = z.Write(tarred)
	_ = z.Close()
	fromTar, err := unpack(t, "b.tar", tarred)
	if err != nil {
		t.Fatal(err)
	}
	copied := filepath.Join(t.TempDir(), "to")
	_ = os.Mkdir(copied, 0o755)
	if err := Unpack(t.Context(), fromTar, Directory, copied); err != nil {
		t.Fatal(err)
	}
	dirs := []string{fromTar, copied}
	for name, data := range map[string][]byte{"b.zip": zipped, "b.tgz": compressed.Bytes(),
		"B.TAR.GZ": compressed.Bytes()} {
		dir, err := unpack(t, name, data)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		dirs = append(dirs, dir)
	}
	for _, dir := range dirs {
		if data, err := os.ReadFile(filepath.Join(dir, "scripts", "b.sh")); err != nil || string(data) != "run" {
			t.Errorf("%s: %q, %v", dir, data, err)
		}
		info, err := os.Stat(filepath.Join(dir, "scripts", "a.sh"))
		if err != nil || info.Mode().Perm() != 0o750 || !info.ModTime().Equal(made) {
			t.Errorf("%s: %v, %v", dir, info, err)
		}
		if info, err := os.Lstat(filepath.Join(dir, "scripts", "b.sh")); err != nil || info.Mode()&fs.ModeSymlink == 0 {
			t.Errorf("%s: %v, %v", dir, info, err)
		}
	}
}

// TestHostile: no entry gets out of the directory, and nothing outside is changed.
func TestHostile(t *testing.T) {
	cut := tarOf(t, []entry{{name: "a", text: strings.Repeat("x", 2000)}})[:1200]
	for name, c := range map[string]struct {
		entries []entry
		zip     bool
		want    string
	}{
		"parent":        {entries: []entry{{name: "../evil", text: "x"}}, want: `"../evil"`},
		"parent within": {entries: []entry{{name: "a/../../evil", text: "x"}}, want: `"a/../../evil"`},
		"parent, zip":   {entries: []entry{{name: "../evil", text: "x", mode: 0o644}}, zip: true, want: `"../evil"`},
		"absolute":      {entries: []entry{{name: "/etc/evil", text: "x"}}, want: `"/etc/evil"`},
		"absolute, zip": {entries: []entry{{name: "/etc/evil", text: "x", mode: 0o644}}, zip: true,
			want: `"/etc/evil"`},
		"backslash": {entries: []entry{{name: `..\evil`, text: "x", mode: 0o644}}, zip: true, want: `evil`},
		"newline":   {entries: []entry{{name: "a\nb", text: "x"}}, want: `"a\nb"`},
		"link out": {entries: []entry{{name: "l", text: "../..", kind: tar.TypeSymlink}},
			want: `its link "l" leads out of it`},
		"absolute link": {entries: []entry{{name: "l", text: "/etc", kind: tar.TypeSymlink}},
			want: `its link "l" leads out of it, to "/etc"`},
		"link out, zip": {entries: []entry{{name: "l", text: "/etc", mode: fs.ModeSymlink | 0o777}}, zip: true,
			want: `leads out of it`},
		"behind a link": {entries: []entry{{name: "d/", kind: tar.TypeDir},
			{name: "l", text: "d", kind: tar.TypeSymlink}, {name: "l/x", text: "x"}}, want: "lies behind a link"},
		"hard link out": {entries: []entry{{name: "h", text: "../../etc/passwd", kind: tar.TypeLink}},
			want: "etc/passwd"},
		"device": {entries: []entry{{name: "dev", kind: tar.TypeChar}},
			want: `its entry "dev" is neither a file`},
		"fifo":  {entries: []entry{{name: "pipe", kind: tar.TypeFifo}}, want: "is neither a file"},
		"twice": {entries: []entry{{name: "a", text: "x"}, {name: "a", text: "y"}}, want: "exists"},
		"replaces a link": {entries: []entry{{name: "a", text: "b", kind: tar.TypeSymlink}, {name: "a", text: "y"}},
			want: "exists"},
		"a file for directory": {entries: []entry{{name: "a", text: "x"}, {name: "a/b", text: "y"}}, want: "a"},
	} {
		t.Run(name, func(t *testing.T) {
			file, data := "b.tar", []byte(nil)
			if c.zip {
				file, data = "b.zip", zipOf(t, c.entries)
			} else {
				data = tarOf(t, c.entries)
			}
			dir, err := unpack(t, file, data)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
			if _, err := os.Lstat(filepath.Join(filepath.Dir(dir), "evil")); err == nil {
				t.Error("it got out")
			}
		})
	}
	if _, err := unpack(t, "b.tar", cut); err == nil {
		t.Error("a cut archive was taken")
	}
	u := &unpacker{ctx: t.Context(), bytes: MaxBytes, links: map[string]bool{}}
	root, err := os.OpenRoot(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	u.root = root
	if err := u.file("big", 0o644, strings.NewReader("x")); err == nil || !strings.Contains(err.Error(), "over") {
		t.Errorf("more bytes than there may be: %v", err)
	}
	u.files = MaxFiles
	if _, err := u.entry("one more"); err == nil {
		t.Error("more files than there may be")
	}
}
