package artifact

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// entriesOf are the names, kinds and contents in the layer of an image.
func entriesOf(t *testing.T, s *Store, digest string) (entries []string, config imageConfig) {
	t.Helper()
	m, err := s.Manifest(digest)
	if err != nil {
		t.Fatal(err)
	}
	read := func(digest string) []byte {
		f, err := s.OpenBlob(digest)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		data, err := io.ReadAll(f)
		if err != nil {
			t.Fatal(err)
		}
		if sum := sha256.Sum256(data); digest != "sha256:"+hex.EncodeToString(sum[:]) {
			t.Fatalf("%s holds other bytes", digest)
		}
		return data
	}
	if err := json.Unmarshal(read(m.Blobs[0].Digest), &config); err != nil {
		t.Fatal(err)
	}
	for i, b := range m.Blobs[1:] {
		z, err := gzip.NewReader(bytes.NewReader(read(b.Digest)))
		if err != nil {
			t.Fatal(err)
		}
		plain, err := io.ReadAll(z)
		if err != nil {
			t.Fatal(err)
		}
		if sum := sha256.Sum256(plain); config.RootFS.DiffIDs[i] != "sha256:"+hex.EncodeToString(sum[:]) {
			t.Errorf("the configuration names layer %d as %s", i, config.RootFS.DiffIDs[i])
		}
		for in := tar.NewReader(bytes.NewReader(plain)); ; {
			head, err := in.Next()
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			content, err := io.ReadAll(in)
			if err != nil {
				t.Fatal(err)
			}
			entries = append(entries, fmt.Sprintf("%c %s %o %s%s", head.Typeflag, head.Name, head.Mode, content, head.Linkname))
		}
	}
	return entries, config
}

func open(t *testing.T) *Store {
	t.Helper()
	s, err := Open(filepath.Join(t.TempDir(), "artifacts"))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestAssemble(t *testing.T) {
	s, src := open(t), t.TempDir()
	write(t, src, map[string]string{"bin/web.sh": "#!/bin/sh\n", "index": "hello"})
	packed, err := s.Pack(t.Context(), src, "main",
		append(files("bin/web.sh", "index"), File{Path: "latest", Link: "index"}))
	if err != nil {
		t.Fatal(err)
	}
	config := Config{
		Architecture:     "amd64",
		Entrypoint:       []string{"/srv/app/bin/web.sh"},
		Environment:      []string{"A=1"},
		User:             "65532",
		WorkingDirectory: "/srv/app",
		Ports:            []int{80, 8080},
	}
	a, err := s.Assemble(t.Context(), "web", packed.Digest, "/srv/app", config)
	if err != nil {
		t.Fatal(err)
	}
	if a.Type != Image || a.Files != 3 || a.Name != "web" || a.Size == 0 {
		t.Errorf("%+v", a)
	}

	entries, got := entriesOf(t, s, a.Digest)
	want := []string{
		"5 srv/ 755 ",
		"5 srv/app/ 755 ",
		"0 srv/app/bin/web.sh 755 #!/bin/sh\n",
		"0 srv/app/index 644 hello",
		"2 srv/app/latest 777 index",
	}
	if !slices.Equal(entries, want) {
		t.Errorf("the layer holds %q, want %q", entries, want)
	}
	text, _ := json.Marshal(got.Config)
	if string(
		text) != `{"User":"65532","ExposedPorts":{"80/tcp":{},"8080/tcp":{}},"Env":["A=1"],"Entrypoint":["/srv/app/bin/web.sh"],"WorkingDir":"/srv/app"}` {
		t.Errorf("the configuration is %s", text)
	}

	other := open(t)
	if err := s.CopyTo(t.Context(), other, packed.Digest); err != nil {
		t.Fatal(err)
	}
	if again, err := other.Assemble(t.Context(), "web", packed.Digest, "/srv/app", config); err != nil ||
		again.Digest != a.Digest {
		t.Errorf("elsewhere it is %s, %v, here %s", again.Digest, err, a.Digest)
	}
	if _, err := s.Assemble(t.Context(), "web2", a.Digest, "/", config); err == nil {
		t.Error("an image was made of an image")
	}
	if err := s.Unpack(t.Context(), a.Digest, filepath.Join(t.TempDir(), "x")); err == nil {
		t.Error("an image was unpacked as files")
	}

	root, err := s.Assemble(t.Context(), "root", packed.Digest, "/", config)
	if err != nil {
		t.Fatal(err)
	}
	if entries, _ := entriesOf(t, s, root.Digest); len(entries) != 3 || entries[1] != "0 index 644 hello" {
		t.Errorf("at the root the layer holds %q", entries)
	}
}

// part is one file of a tar.
type part struct{ name, content, link string }

func tarOf(t *testing.T, parts ...part) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, p := range parts {
		head := &tar.Header{Typeflag: tar.TypeReg, Name: p.name, Size: int64(len(p.content)), Mode: 0o644}
		if p.link != "" {
			head = &tar.Header{Typeflag: tar.TypeSymlink, Name: p.name, Linkname: p.link}
		}
		if err := w.WriteHeader(head); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, p.content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func digestOf(content string) string {
	sum := sha256.Sum256([]byte(content))
	return hex.EncodeToString(sum[:])
}

func TestImportSaved(t *testing.T) {
	layer := string(tarOf(t, part{name: "etc/hello", content: "hi"}))
	config := fmt.Sprintf(
		`{"architecture":"amd64","os":"linux","config":{"Cmd":["/x"]},"rootfs":{"type":"layers","diff_ids":["sha256:%s","sha256:%[1]s"]}}`, digestOf(layer))
	good := []part{
		{name: "c.json", content: config},
		{name: "a/layer.tar", content: layer},
		{name: "b/layer.tar", link: "../a/layer.tar"},
		{name: "manifest.json", content: `[{"Config":"c.json","RepoTags":["x:1"],"Layers":["a/layer.tar","b/layer.tar"]}]`},
	}
	s := open(t)
	var digests []string
	for _, pack := range []bool{false, true} {
		src := t.TempDir()
		data := tarOf(t, good...)
		if pack {
			var z bytes.Buffer
			w := gzip.NewWriter(&z)
			_, _ = w.Write(data)
			_ = w.Close()
			data = z.Bytes()
		}
		write(t, src, map[string]string{"out/image.tar": string(data)})
		a, err := s.Import(t.Context(), src, "out/image.tar", "web")
		if err != nil {
			t.Fatal(err)
		}
		digests = append(digests, a.Digest)
	}
	if digests[0] != digests[1] {
		t.Errorf("packed by gzip it is another image: %v", digests)
	}
	entries, _ := entriesOf(t, s, digests[0])
	if want := "0 etc/hello 644 hi"; !slices.Equal(entries, []string{want, want}) {
		t.Errorf("the layers hold %q", entries)
	}

	for name, c := range map[string]struct {
		parts []part
		want  string
	}{
		"two images": {append(slices.Clone(good[:3]), part{name: "manifest.json", content: `[{},{}]`}),
			"holds 2 images"},
		"missing layer": {append(slices.Clone(good[:2]), good[3]), "has no file b/layer.tar"},
		"another layer": {append([]part{good[0], {name: "a/layer.tar", content: "other"}}, good[2:]...),
			"does not match its digest"},
		"fewer names": {append([]part{{name: "c.json", content: "{}"}}, good[1:]...), "names 0"},
		"config outside": {[]part{{name: "manifest.json", content: `[{"Config":"../../etc/passwd","Layers":[]}]`}},
			"has no file"},
		"no image at all": {[]part{{name: "readme", content: "x"}}, "neither index.json nor manifest.json"},
	} {
		src := t.TempDir()
		write(t, src, map[string]string{"image.tar": string(tarOf(t, c.parts...))})
		_, err := s.Import(t.Context(), src, "image.tar", "web")
		var fault *FileError
		if !errors.As(err, &fault) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}

	src := t.TempDir()
	write(t, src, map[string]string{"image.tar": "no tar"})
	if err := os.Symlink("/etc/passwd", filepath.Join(src, "outside")); err != nil {
		t.Fatal(err)
	}
	for _, source := range []string{"image.tar", "outside", "absent", "."} {
		var fault *FileError
		if _, err := s.Import(t.Context(), src, source, "web"); !errors.As(err, &fault) {
			t.Errorf("%s: %v is not a fault of the file", source, err)
		}
	}
}

// TestImportLayout: an image keeps its digest on the way out and in again.
func TestImportLayout(t *testing.T) {
	s, src := open(t), t.TempDir()
	write(t, src, map[string]string{"index": "hello"})
	packed, err := s.Pack(t.Context(), src, "main", files("index"))
	if err != nil {
		t.Fatal(err)
	}
	a, err := s.Assemble(t.Context(), "web", packed.Digest, "/", Config{Architecture: "amd64", Command: []string{"/x"}})
	if err != nil {
		t.Fatal(err)
	}
	m, err := s.Manifest(a.Digest)
	if err != nil {
		t.Fatal(err)
	}
	blob := func(digest string) part {
		f, err := s.OpenBlob(digest)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		data, err := io.ReadAll(f)
		if err != nil {
			t.Fatal(err)
		}
		return part{name: blobPath(digest), content: string(data)}
	}
	entry := fmt.Sprintf(`{"mediaType":%q,"digest":%q,"size":%d}`, m.MediaType, a.Digest, len(m.Bytes))
	attested := fmt.Sprintf(
		`{"mediaType":%q,"digest":"sha256:%s","size":2,"platform":{"architecture":"unknown","os":"unknown"}}`, m.MediaType, digestOf("{}"))
	nested := `{"manifests":[` + entry + "," + attested + `]}`
	parts := []part{blob(a.Digest), blob(m.Blobs[0].Digest), blob(m.Blobs[1].Digest),
		{name: blobPath("sha256:" + digestOf(nested)), content: nested}}
	top := func(entries string) part { return part{name: "index.json", content: `{"manifests":[` + entries + `]}`} }
	byIndex := fmt.Sprintf(`{"mediaType":%q,"digest":"sha256:%s","size":%d}`, indexType, digestOf(nested), len(nested))

	for name, c := range map[string]struct {
		parts []part
		want  string // "" for the same digest
	}{
		"direct":       {append(slices.Clone(parts), top(entry)), ""},
		"by an index":  {append(slices.Clone(parts), top(byIndex)), ""},
		"two":          {append(slices.Clone(parts), top(entry+","+entry)), "holds 2 images"},
		"none":         {append(slices.Clone(parts), top("")), "holds 0 images"},
		"missing part": {append(slices.Clone(parts[:2]), top(entry)), "has no file blobs/sha256/"},
		"other bytes": {append([]part{parts[0], parts[1], {name: parts[2].name, content: "x"}}, top(entry)),
			"does not match its digest"},
		"odd digest": {[]part{top(`{"mediaType":"` + manifestType + `","digest":"../x"}`)}, `by the digest "../x"`},
		"no image": {[]part{top(`{"mediaType":"text/plain","digest":"sha256:` + digestOf("") + `"}`)},
			`"text/plain", where an image belongs`},
	} {
		other, src := open(t), t.TempDir()
		write(t, src, map[string]string{"image.tar": string(tarOf(t, c.parts...))})
		got, err := other.Import(t.Context(), src, "image.tar", "web")
		if c.want == "" {
			if err != nil || got.Digest != a.Digest || !other.Has(a.Digest) {
				t.Errorf("%s: %+v, %v", name, got, err)
			}
			continue
		}
		var fault *FileError
		if !errors.As(err, &fault) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
		if other.Has(a.Digest) {
			t.Errorf("%s: the image is there", name)
		}
	}
}
