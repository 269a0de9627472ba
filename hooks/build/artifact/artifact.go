// Package artifact is the artifact store: what builds produced, named by digest,
// in a directory that is an OCI image layout (so that any OCI tool can copy it to a
// registry).
//
//   - Store.Pack makes an artifact of files: one deterministic tar.gz layer and an
//     OCI manifest that names it. The same files give the same digest.
//   - Store.Unpack lays an artifact out again, checking every digest on the way.
//
// What an artifact means, and which are still needed, is for releases to say.
package artifact

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/headgate-cd/headgate/gitd/crash"
)

// Media types of the layout.
const (
	Type         = "application/vnd.headgate.artifact.v1"
	manifestType = "application/vnd.oci.image.manifest.v1+json"
	indexType    = "application/vnd.oci.image.index.v1+json"
	layerType    = "application/vnd.oci.image.layer.v1.tar+gzip"
)

// Bounds of one artifact.
const (
	MaxFiles = 100_000
	MaxBytes = 8 << 30 // unpacked
)

// Artifact is one artifact in the store.
type Artifact struct {
	Name   string `json:"name"`
	Digest string `json:"digest"` // of its manifest, "sha256:…"
	Size   int64  `json:"size"`   // bytes of its packed files
	Files  int    `json:"files"`
	Type   string `json:"type,omitempty"` // "" or Image
}

// Image is the type of what a container engine runs. All else is files.
const Image = "image"

// File is one file to pack: a regular file Source below the root, to be called
// Path (slash-separated, relative) in the artifact. Link, when not empty, makes
// it a symbolic link to that path instead.
type File struct {
	Source string
	Path   string
	Link   string
	Root   string // directory that Source is below; "" is Pack's
}

// Store is an OCI image layout. It is safe for concurrent use by one process.
type Store struct {
	dir string
	mu  sync.Mutex // guards index.json
}

type descriptor struct {
	MediaType    string            `json:"mediaType"`
	ArtifactType string            `json:"artifactType,omitempty"`
	Digest       string            `json:"digest"`
	Size         int64             `json:"size"`
	Annotations  map[string]string `json:"annotations,omitempty"`
	Platform     *platform         `json:"platform,omitempty"`
}

type platform struct {
	Architecture string `json:"architecture"`
	OS           string `json:"os"`
}

type manifest struct {
	SchemaVersion int          `json:"schemaVersion"`
	MediaType     string       `json:"mediaType"`
	ArtifactType  string       `json:"artifactType,omitempty"`
	Config        descriptor   `json:"config"`
	Layers        []descriptor `json:"layers"`
}

type index struct {
	SchemaVersion int          `json:"schemaVersion"`
	MediaType     string       `json:"mediaType"`
	Manifests     []descriptor `json:"manifests"`
}

// Open opens the store in dir, making it if absent, and removes blobs that a
// killed process left half-written.
func Open(dir string) (*Store, error) {
	s := &Store{dir: dir}
	if err := os.MkdirAll(filepath.Join(dir, "blobs", "sha256"), 0o755); err != nil {
		return nil, fmt.Errorf("open artifacts: %w", err)
	}
	stale, _ := filepath.Glob(filepath.Join(dir, "blobs", "sha256", ".tmp-*"))
	for _, path := range append(stale, filepath.Join(dir, ".tmp-index")) {
		os.Remove(path) // a later start tries again
	}
	if _, err := os.Stat(filepath.Join(dir, "oci-layout")); errors.Is(err, os.ErrNotExist) {
		if err := s.replace("oci-layout", []byte(`{"imageLayoutVersion":"1.0.0"}`)); err != nil {
			return nil, fmt.Errorf("open artifacts: %w", err)
		}
	}
	return s, nil
}

// In is a store for whoever only reads it, while another process owns it.
func In(dir string) *Store { return &Store{dir: dir} }

func (s *Store) blob(digest string) (string, error) {
	hexes, ok := strings.CutPrefix(digest, "sha256:")
	if !ok || len(hexes) != 64 || strings.Trim(hexes, "0123456789abcdef") != "" {
		return "", fmt.Errorf("%q is not a digest", digest)
	}
	return filepath.Join(s.dir, "blobs", "sha256", hexes), nil
}

// Has reports whether the store holds the artifact with this digest.
func (s *Store) Has(digest string) bool {
	path, err := s.blob(digest)
	if err != nil {
		return false
	}
	_, err = os.Stat(path)
	return err == nil
}

// PutBlob stores bytes durably and returns their digest.
func (s *Store) PutBlob(data []byte) (digest string, err error) {
	d, err := s.put(func(w io.Writer) error {
		_, err := w.Write(data)
		return err
	})
	return d.Digest, err
}

// put stores what write writes, named by its digest: temporary file, synced,
// renamed, directory synced.
func (s *Store) put(write func(io.Writer) error) (descriptor, error) {
	dir := filepath.Join(s.dir, "blobs", "sha256")
	f, err := os.CreateTemp(dir, ".tmp-")
	if err != nil {
		return descriptor{}, err
	}
	defer os.Remove(f.Name()) // gone already after the rename
	h := sha256.New()
	counted := &counter{w: io.MultiWriter(f, h)}
	err = write(counted)
	err = errors.Join(err, f.Chmod(0o444), f.Sync(), f.Close())
	if err != nil {
		return descriptor{}, err
	}
	name := hex.EncodeToString(h.Sum(nil))
	if err := os.Rename(f.Name(), filepath.Join(dir, name)); err != nil {
		return descriptor{}, err
	}
	return descriptor{Digest: "sha256:" + name, Size: counted.n}, syncDir(dir)
}

type counter struct {
	w io.Writer
	n int64
}

func (c *counter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	return n, err
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

func (s *Store) replace(name string, data []byte) error {
	temp := filepath.Join(s.dir, ".tmp-index")
	f, err := os.OpenFile(temp, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(temp, filepath.Join(s.dir, name)); err != nil {
		return err
	}
	return syncDir(s.dir)
}

// FileError is a fault of the files that are to be packed, not of the store: one
// that cannot be read, of a kind that is not packed, too much of them, two of one
// name.
type FileError struct {
	what string
	err  error // what befell the file; may be nil
}

func (e *FileError) Error() string {
	if e.err != nil {
		return fmt.Sprintf("%s: %v", e.what, e.err)
	}
	return e.what
}

func (e *FileError) Unwrap() error { return e.err }

func wrong(format string, args ...any) error {
	return &FileError{what: fmt.Sprintf(format, args...)}
}

// unreadable is the FileError of what the system said about a file.
func unreadable(name string, err error) error {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		err = pe.Err
	}
	return &FileError{what: name + " cannot be read", err: err}
}

// Pack makes an artifact called name of files below root. Only regular files
// are read, and none outside of root, whatever symbolic links stand there. An
// error is a FileError when the files are at fault.
func (s *Store) Pack(ctx context.Context, root, name string, files []File) (Artifact, error) {
	a, err := s.pack(ctx, root, name, files)
	if err != nil {
		return Artifact{}, fmt.Errorf("pack artifact %s: %w", name, err)
	}
	return a, nil
}

// rootsOf are the directories that files have of their own, each once.
func rootsOf(files []File) (dirs []string) {
	for _, f := range files {
		if f.Root != "" && !slices.Contains(dirs, f.Root) {
			dirs = append(dirs, f.Root)
		}
	}
	return dirs
}

func (s *Store) pack(ctx context.Context, root, name string, files []File) (Artifact, error) {
	if len(files) > MaxFiles {
		return Artifact{}, wrong("it would hold %d files, over the limit of %d", len(files), MaxFiles)
	}
	files = slices.Clone(files)
	slices.SortFunc(files, func(a, b File) int { return strings.Compare(a.Path, b.Path) })
	for i, f := range files {
		if !fs.ValidPath(f.Path) || f.Path == "." {
			return Artifact{}, wrong("%q is not a path for a file in an artifact", f.Path)
		}
		if i > 0 && files[i-1].Path == f.Path {
			return Artifact{}, wrong("both %s and %s would become %s", files[i-1].Source, f.Source, f.Path)
		}
	}
	roots := map[string]*os.Root{}
	for _, dir := range append([]string{root}, rootsOf(files)...) {
		in, err := os.OpenRoot(dir)
		if err != nil {
			return Artifact{}, err
		}
		defer in.Close()
		roots[dir] = in
	}
	roots[""] = roots[root]
	index := fileIndex{Files: []indexed{}}
	layer, err := s.put(func(w io.Writer) error { return writeTar(ctx, w, roots, files, &index) })
	if err != nil {
		return Artifact{}, err
	}
	layer.MediaType = layerType
	config, err := s.putConfig(index, maxIndex)
	if err != nil {
		return Artifact{}, err
	}
	data, err := json.Marshal(manifest{SchemaVersion: 2, MediaType: manifestType, ArtifactType: Type,
		Config: config, Layers: []descriptor{layer}})
	if err != nil {
		return Artifact{}, err
	}
	crash.Point("build.artifact-layer")
	digest, err := s.PutBlob(data)
	if err != nil {
		return Artifact{}, err
	}
	crash.Point("build.artifact-manifest")
	err = s.list(descriptor{MediaType: manifestType, ArtifactType: Type, Digest: digest, Size: int64(len(data)),
		Annotations: map[string]string{"org.opencontainers.image.title": name}})
	return Artifact{Name: name, Digest: digest, Size: layer.Size, Files: len(files)}, err
}

// list adds a manifest to index.json, for other OCI tools; nothing here reads it.
func (s *Store) list(d descriptor) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := index{SchemaVersion: 2, MediaType: indexType, Manifests: []descriptor{}}
	data, err := os.ReadFile(filepath.Join(s.dir, "index.json"))
	if err == nil {
		err = json.Unmarshal(data, &all)
	} else if errors.Is(err, os.ErrNotExist) {
		err = nil
	}
	if err != nil {
		return fmt.Errorf("read index.json: %w", err)
	}
	if slices.ContainsFunc(all.Manifests, func(o descriptor) bool { return o.Digest == d.Digest }) {
		return nil
	}
	all.Manifests = append(all.Manifests, d)
	if data, err = json.Marshal(all); err != nil {
		return err
	}
	return s.replace("index.json", data)
}

// writeTar writes files, which are sorted, so that equal files give equal bytes:
// no times, no owners, two modes, a fixed gzip header. What it has written is in the index.
func writeTar(ctx context.Context, w io.Writer, roots map[string]*os.Root, files []File, index *fileIndex) error {
	z, err := gzip.NewWriterLevel(w, gzip.DefaultCompression)
	if err != nil {
		return err
	}
	t := tar.NewWriter(z)
	left := int64(MaxBytes)
	for _, f := range files {
		if err := ctx.Err(); err != nil {
			return err
		}
		if f.Link != "" {
			if !safeLink(f.Path, f.Link) {
				return wrong("%s links to %q, outside of the artifact", f.Path, f.Link)
			}
			if err := t.WriteHeader(&tar.Header{Typeflag: tar.TypeSymlink, Name: f.Path, Linkname: f.Link, Mode: 0o777,
				Format: tar.FormatPAX}); err != nil {
				return err
			}
			index.Files = append(index.Files, indexed{Path: f.Path, Link: f.Link})
			continue
		}
		written, err := writeFile(ctx, t, roots[f.Root], f, left)
		if err != nil {
			return err
		}
		index.Files = append(index.Files, written)
		left -= written.Size
	}
	return errors.Join(t.Close(), z.Close())
}

// writeFile writes one file of at most max bytes.
func writeFile(ctx context.Context, t *tar.Writer, root *os.Root, f File, max int64) (written indexed, err error) {
	// A fifo would block Open, so its kind is asked first; and again after, in
	// case it was changed in between.
	before, err := root.Stat(filepath.FromSlash(f.Source))
	if err != nil {
		return written, unreadable(f.Source, err)
	}
	if !before.Mode().IsRegular() {
		return written, wrong("%s is not a regular file (%s)", f.Source, before.Mode().Type())
	}
	in, err := root.OpenFile(filepath.FromSlash(f.Source), os.O_RDONLY|NonBlock, 0)
	if err != nil {
		return written, unreadable(f.Source, err)
	}
	defer in.Close()
	info, err := in.Stat()
	if err != nil {
		return written, unreadable(f.Source, err)
	}
	if !info.Mode().IsRegular() {
		return written, wrong("%s is not a regular file (%s)", f.Source, info.Mode().Type())
	}
	if info.Size() > max { // known before it is read: a file with holes has any size
		return written, wrong("with %s it would be over %d GiB", f.Source, int64(MaxBytes)>>30)
	}
	mode := int64(0o644)
	if info.Mode().Perm()&0o111 != 0 {
		mode = 0o755
	}
	if err := t.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: f.Path, Size: info.Size(), Mode: mode,
		ModTime: time.Unix(0, 0), Format: tar.FormatPAX}); err != nil {
		return written, err
	}
	h := sha256.New()
	n, err := io.Copy(io.MultiWriter(t, h), io.LimitReader(&contextReader{ctx, f.Source, in}, info.Size()))
	if err == nil && n < info.Size() {
		err = wrong("%s became shorter while it was read", f.Source)
	}
	written = indexed{Path: f.Path, Size: n, Digest: "sha256:" + hex.EncodeToString(h.Sum(nil)), Executable: mode == 0o755}
	return written, err
}

// contextReader reads a file until ctx is done. Its faults are the file's, in contrast
// to those of what it is written to.
type contextReader struct {
	ctx  context.Context
	name string
	in   io.Reader
}

func (s *contextReader) Read(p []byte) (int, error) {
	if err := s.ctx.Err(); err != nil {
		return 0, err
	}
	n, err := s.in.Read(p)
	if err != nil && err != io.EOF {
		err = unreadable(s.name, err)
	}
	return n, err
}
