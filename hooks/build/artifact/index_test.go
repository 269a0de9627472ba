package artifact

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// shop is a release with much that never changes, packed.
func shop(t *testing.T, from *Store, change map[string]string) Artifact {
	t.Helper()
	root := t.TempDir()
	noise := make([]byte, 1<<20)
	_, _ = rand.NewChaCha8([32]byte{}).Read(noise) // it never fails, says its documentation
	all := map[string]string{"assets/photo": string(noise), "bin/run": "#!/bin/sh\n", "again": "#!/bin/sh\n", "version": "one\n"}
	for name, text := range change {
		all[name] = text
	}
	var files []File
	for name, text := range all {
		path := filepath.Join(root, name)
		mode := os.FileMode(0o644)
		if strings.HasPrefix(text, "#!") {
			mode = 0o755
		}
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), mode)); err != nil {
			t.Fatal(err)
		}
		files = append(files, File{Source: name, Path: name})
	}
	files = append(files, File{Path: "assets/link", Link: "photo"})
	a, err := from.Pack(t.Context(), root, "main", files)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// counted is a store elsewhere that counts what it sends, and hangs up after some of it.
func counted(from *Store, artifact string, sent *int64, cut *int64) Source {
	return func(ctx context.Context, digest string, offset int64) (io.ReadCloser, error) {
		f, err := from.OpenBlob(digest)
		if errors.Is(err, ErrNone) {
			f, err = from.OpenFile(ctx, artifact, digest)
		}
		if err != nil {
			return nil, err
		}
		defer f.Close()
		data, err := io.ReadAll(io.NewSectionReader(f, offset, 1<<40))
		if *cut > 0 && int64(len(data)) > *cut {
			data, *cut = data[:*cut], 0
		}
		*sent += int64(len(data))
		return io.NopCloser(bytes.NewReader(data)), err
	}
}

// laid is what lies below a directory.
func laid(t *testing.T, dir string) (text string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		data, err := os.ReadFile(path)
		name, _ := filepath.Rel(dir, path)
		text += fmt.Sprintf("%s %s %d %.20q\n", info.Mode(), name, len(data), data)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// Of a second artifact that differs in one file that file alone comes, in parts when it is cut
// off, and what was changed by hand meanwhile is not taken for what it was.
func TestOnlyWhatDiffersIsSent(t *testing.T) {
	from, err := Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	first, second := shop(t, from, nil), shop(t, from, map[string]string{"version": strings.Repeat("two\n", 5000)})
	top := t.TempDir()
	to, err := Open(filepath.Join(top, "store"))
	if err != nil {
		t.Fatal(err)
	}
	var known Known
	lay := func(a Artifact, name string, cut int64) (sent int64, tries int) {
		t.Helper()
		dir := filepath.Join(top, name)
		for {
			if err := os.Mkdir(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			index, err := to.LayOut(t.Context(), a.Digest, dir, counted(from, a.Digest, &sent, &cut), &known)
			tries++
			if errors.Is(err, io.ErrUnexpectedEOF) && tries < 5 {
				if err := os.RemoveAll(dir); err != nil {
					t.Fatal(err)
				}
				continue
			}
			if err = errors.Join(err, known.Add(index, dir), to.Clear()); err != nil {
				t.Fatal(err)
			}
			break
		}
		whole := filepath.Join(t.TempDir(), "whole")
		if err := from.Unpack(t.Context(), a.Digest, whole); err != nil {
			t.Fatal(err)
		}
		if got, want := laid(t, dir), laid(t, whole); got != want {
			t.Errorf("there lies\n%s\nand not\n%s", got, want)
		}
		if left, err := os.ReadDir(filepath.Join(top, "store", "blobs", "sha256")); err != nil || len(left) > 0 {
			t.Errorf("left over: %v %v", left, err)
		}
		return sent, tries
	}
	if sent, _ := lay(first, "first", 0); sent < 1<<20 {
		t.Errorf("only %d bytes were sent", sent)
	}
	if sent, tries := lay(second, "second", 10_000); sent > 20_000+4_000 || tries != 2 {
		t.Errorf("%d bytes were sent in %d tries", sent, tries)
	}
	if sent, _ := lay(second, "again", 0); sent > 4_000 {
		t.Errorf("%d bytes were sent of what is there", sent)
	}
	for _, dir := range []string{"first", "second", "again"} { // whose scripts write into it
		if err := os.WriteFile(filepath.Join(top, dir, "assets", "photo"), make([]byte, 1<<20), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if sent, _ := lay(second, "changed", 0); sent < 1<<20 {
		t.Errorf("only %d bytes were sent", sent)
	}
}

// What an index says is believed no more than a layer is: hostile names stay outside, and
// bytes that are not what was said are not laid out.
func TestIndexIsNotBelieved(t *testing.T) {
	from, err := Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	there := t.TempDir()
	if err := os.WriteFile(filepath.Join(there, "known"), []byte("known"), 0o644); err != nil {
		t.Fatal(err)
	}
	content := indexed{Path: "known", Size: 5, Digest: "sha256:" + sumOf("known")}
	var known Known
	good, err := json.Marshal(fileIndex{[]indexed{content}})
	if err = errors.Join(err, known.Add(good, there)); err != nil {
		t.Fatal(err)
	}
	named := func(name string) indexed {
		f := content
		f.Path = name
		return f
	}
	missing := indexed{Path: "new", Size: 3, Digest: "sha256:" + sumOf("new")}
	for what, files := range map[string][]indexed{
		"parent":          {named("../x")},
		"absolute":        {named("/x")},
		"behind a link":   {content, {Path: "l", Link: "."}, named("l/x")},
		"link out":        {content, {Path: "l", Link: "../x"}},
		"twice":           {content, content},
		"what is not had": {content, missing},
		"too long":        {content, {Path: "new", Size: MaxBytes + 1, Digest: missing.Digest}},
	} {
		list, err := json.Marshal(fileIndex{files})
		if err != nil {
			t.Fatal(err)
		}
		config, err := from.PutBlob(list)
		if err != nil {
			t.Fatal(err)
		}
		data, err := json.Marshal(manifest{SchemaVersion: 2, MediaType: manifestType, ArtifactType: Type,
			Config: descriptor{MediaType: filesType, Digest: config, Size: int64(len(list))},
			Layers: []descriptor{{MediaType: layerType, Digest: missing.Digest, Size: 1000}}})
		if err != nil {
			t.Fatal(err)
		}
		digest, err := from.PutBlob(data)
		if err != nil {
			t.Fatal(err)
		}
		top := t.TempDir()
		to, err := Open(filepath.Join(top, "store"))
		if err = errors.Join(err, os.Mkdir(filepath.Join(top, "out"), 0o755)); err != nil {
			t.Fatal(err)
		}
		liar := func(ctx context.Context, of string, offset int64) (io.ReadCloser, error) {
			if of == missing.Digest {
				return io.NopCloser(strings.NewReader("lie")), nil
			}
			f, err := from.OpenBlob(of)
			return f, err
		}
		if _, err := to.LayOut(t.Context(), digest, filepath.Join(top, "out"), liar, &known); err == nil {
			t.Errorf("%s: laid out", what)
		}
		if entries, err := os.ReadDir(top); err != nil || len(entries) != 2 {
			t.Errorf("%s: there are %v %v", what, entries, err)
		}
	}
	a := shop(t, from, nil)
	if _, err := from.OpenFile(t.Context(), a.Digest, missing.Digest); !errors.Is(err, ErrNoFile) {
		t.Error(err)
	}
	if left, err := filepath.Glob(filepath.Join(from.dir, ".tmp-*")); err != nil || len(left) > 0 {
		t.Errorf("left over: %v %v", left, err)
	}
}

func sumOf(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:])
}

// TestNoIndexIsTooLarge: an index that nobody would read is left out.
func TestNoIndexIsTooLarge(t *testing.T) {
	s, err := Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	index := fileIndex{Files: []indexed{{Path: "bin/run"}}}
	for most, want := range map[int]string{1 << 10: filesType, 10: emptyType} {
		config, err := s.putConfig(index, most)
		if err != nil {
			t.Fatal(err)
		}
		if data, err := s.readBounded(config.Digest, int64(config.Size)); err != nil || config.MediaType != want {
			t.Errorf("of %d bytes at most: %+v %q, %v", most, config, data, err)
		}
	}
}
