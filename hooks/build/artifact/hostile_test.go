package artifact

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// crafted puts an artifact into the store that Pack would not have made.
func crafted(t *testing.T, s *Store, entries ...tar.Header) string {
	t.Helper()
	var layer bytes.Buffer
	z := gzip.NewWriter(&layer)
	w := tar.NewWriter(z)
	for _, e := range entries {
		if e.Typeflag == tar.TypeReg {
			e.Size = 1
		}
		e.Mode = 0o6777
		if err := w.WriteHeader(&e); err != nil {
			t.Fatal(err)
		}
		if e.Typeflag == tar.TypeReg {
			io.WriteString(w, "x")
		}
	}
	w.Close()
	z.Close()
	digest, err := s.PutBlob(layer.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	data, err := json.Marshal(manifest{SchemaVersion: 2, MediaType: manifestType, ArtifactType: Type,
		Layers: []descriptor{{MediaType: layerType, Digest: digest, Size: int64(layer.Len())}}})
	if err != nil {
		t.Fatal(err)
	}
	if digest, err = s.PutBlob(data); err != nil {
		t.Fatal(err)
	}
	return digest
}

// A2: nothing in an artifact reaches out of the directory it is laid out in, then or
// when somebody follows its links later.
func TestUnpackRefusesHostileArtifacts(t *testing.T) {
	store, err := Open(filepath.Join(t.TempDir(), "a"))
	if err != nil {
		t.Fatal(err)
	}
	file := func(name string) tar.Header { return tar.Header{Typeflag: tar.TypeReg, Name: name} }
	link := func(name, to string) tar.Header {
		return tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: to}
	}
	for name, entries := range map[string][]tar.Header{
		"parent":                    {file("../x")},
		"absolute":                  {file("/x")},
		"dots":                      {file("a/../../x")},
		"link out":                  {link("l", "../x")},
		"absolute link":             {link("l", "/etc/passwd")},
		"behind a link":             {link("l", "."), file("l/x")},
		"link behind a link":        {link("a", "."), link("a/a/l", "../../x")},
		"up through links":          {link("a", "."), link("b", "."), link("l", "a/b/../../x")},
		"hard link":                 {{Typeflag: tar.TypeLink, Name: "h", Linkname: "/etc/passwd"}},
		"fifo":                      {{Typeflag: tar.TypeFifo, Name: "f"}},
		"device":                    {{Typeflag: tar.TypeChar, Name: "d", Devmajor: 1, Devminor: 3}},
		"twice":                     {file("x"), file("x")},
		"file over a link":          {link("x", "y"), file("x")},
		"a file is not a directory": {file("x"), file("x/y")},
		"long way up":               {link("d/e/l", "../../../x")},
		"name is the top":           {file(".")},
		"link to nothing":           {link("l", "")},
	} {
		t.Run(name, func(t *testing.T) {
			top := t.TempDir()
			if err := store.Unpack(t.Context(), crafted(t, store, entries...), filepath.Join(top, "out")); err == nil {
				t.Error("was laid out")
			}
			left, err := os.ReadDir(top)
			if err != nil || len(left) > 0 {
				t.Errorf("left %v, %v", left, err)
			}
		})
	}
	dir := filepath.Join(t.TempDir(), "out")
	if err := store.Unpack(t.Context(), crafted(t, store, file("d/x"), link("d/l", "../d/x"), link("m", "d/x")),
		dir); err != nil {
		t.Fatalf("a harmless one was refused: %v", err)
	}
	info, err := os.Stat(filepath.Join(dir, "m"))
	if err != nil || info.Mode()&(os.ModeSetuid|os.ModeSetgid) != 0 || info.Mode().Perm()&0o022 != 0 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
}

func TestUnpackIsBounded(t *testing.T) {
	store, err := Open(filepath.Join(t.TempDir(), "a"))
	if err != nil {
		t.Fatal(err)
	}
	huge := tar.Header{Typeflag: tar.TypeReg, Name: "x", Size: MaxBytes + 1, Format: tar.FormatPAX}
	var layer bytes.Buffer
	z := gzip.NewWriter(&layer)
	if err := tar.NewWriter(z).WriteHeader(&huge); err != nil {
		t.Fatal(err)
	}
	z.Close()
	digest, err := store.PutBlob(layer.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	data, err := json.Marshal(manifest{ArtifactType: Type, Layers: []descriptor{{Digest: digest}}})
	if err != nil {
		t.Fatal(err)
	}
	if digest, err = store.PutBlob(data); err != nil {
		t.Fatal(err)
	}
	if err := store.Unpack(t.Context(), digest, filepath.Join(t.TempDir(), "out")); err == nil ||
		!strings.Contains(err.Error(), "over") {
		t.Errorf("%v", err)
	}
}
