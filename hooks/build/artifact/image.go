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
	"os"
	"path"
	"slices"
	"strings"

	"github.com/headgate-cd/headgate/gitd/crash"
)

const configType = "application/vnd.oci.image.config.v1+json"

// Config says how a container of an image is started.
type Config struct {
	Architecture     string // of Go: amd64, arm64
	Entrypoint       []string
	Command          []string
	Environment      []string // NAME=value, sorted
	User             string
	WorkingDirectory string
	Ports            []int // TCP, sorted
}

// imageConfig is the configuration of an image as the OCI Image Specification has
// it. It names no time, so that the same files give the same image.
type imageConfig struct {
	Architecture string          `json:"architecture"`
	OS           string          `json:"os"`
	Config       containerConfig `json:"config"`
	RootFS       rootFS          `json:"rootfs"`
}

type containerConfig struct {
	User         string              `json:"User,omitempty"`
	ExposedPorts map[string]struct{} `json:"ExposedPorts,omitempty"`
	Env          []string            `json:"Env,omitempty"`
	Entrypoint   []string            `json:"Entrypoint,omitempty"`
	Cmd          []string            `json:"Cmd,omitempty"`
	WorkingDir   string              `json:"WorkingDir,omitempty"`
}

type rootFS struct {
	Type    string   `json:"type"`
	DiffIDs []string `json:"diff_ids"`
}

// Assemble makes an image called name of the files of an artifact, which are in
// directory in it (absolute, clean), and of nothing else: no engine is needed.
func (s *Store) Assemble(ctx context.Context, name, digest, directory string, c Config) (Artifact, error) {
	a, err := s.assemble(ctx, name, digest, directory, c)
	if err != nil {
		return Artifact{}, fmt.Errorf("make image %s: %w", name, err)
	}
	return a, nil
}

func (s *Store) assemble(ctx context.Context, name, digest, directory string, c Config) (Artifact, error) {
	data, err := s.read(digest)
	if err != nil {
		return Artifact{}, err
	}
	var m manifest
	if err := json.Unmarshal(data, &m); err != nil {
		return Artifact{}, fmt.Errorf("read its manifest: %w", err)
	}
	if m.ArtifactType != Type || len(m.Layers) != 1 {
		return Artifact{}, errors.New("it is not an artifact of files")
	}

	diff, files := sha256.New(), 0
	layer, err := s.put(func(w io.Writer) error {
		z, err := gzip.NewWriterLevel(w, gzip.DefaultCompression)
		if err != nil {
			return err
		}
		if files, err = s.moved(ctx, io.MultiWriter(z, diff), m.Layers[0].Digest, directory); err != nil {
			return err
		}
		return z.Close()
	})
	if err != nil {
		return Artifact{}, err
	}
	layer.MediaType = layerType

	config := imageConfig{
		Architecture: c.Architecture,
		OS:           "linux",
		Config: containerConfig{
			User:       c.User,
			Env:        c.Environment,
			Entrypoint: c.Entrypoint,
			Cmd:        c.Command,
			WorkingDir: c.WorkingDirectory,
		},
		RootFS: rootFS{Type: "layers", DiffIDs: []string{"sha256:" + hex.EncodeToString(diff.Sum(nil))}},
	}
	for _, port := range c.Ports {
		if config.Config.ExposedPorts == nil {
			config.Config.ExposedPorts = map[string]struct{}{}
		}
		config.Config.ExposedPorts[fmt.Sprintf("%d/tcp", port)] = struct{}{}
	}
	encoded, err := json.Marshal(config)
	if err != nil {
		return Artifact{}, err
	}
	a, err := s.putImage(name, encoded, []descriptor{layer})
	a.Files = files
	return a, err
}

// moved writes the files of a layer as a tar in which they are below directory. The
// directories on the way to it are in it, so that any user may pass them.
func (s *Store) moved(ctx context.Context, w io.Writer, layer, directory string) (files int, err error) {
	f, err := s.OpenBlob(layer)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		return 0, err
	}

	out := tar.NewWriter(w)
	prefix := strings.TrimPrefix(directory, "/")
	for i, r := range prefix + "/" {
		if r != '/' || i == 0 {
			continue
		}
		if err := out.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: prefix[:i] + "/", Mode: 0o755,
			Format: tar.FormatPAX}); err != nil {
			return 0, err
		}
	}
	for in := tar.NewReader(z); ; files++ {
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		head, err := in.Next()
		if errors.Is(err, io.EOF) {
			return files, out.Close()
		}
		if err != nil {
			return 0, err
		}
		head.Name = path.Join(prefix, head.Name)
		if err := out.WriteHeader(head); err != nil {
			return 0, err
		}
		if _, err := io.Copy(out, in); err != nil {
			return 0, err
		}
	}
}

// putImage stores an image whose layers are in the store.
func (s *Store) putImage(name string, config []byte, layers []descriptor) (Artifact, error) {
	digest, err := s.PutBlob(config)
	if err != nil {
		return Artifact{}, err
	}
	data, err := json.Marshal(manifest{
		SchemaVersion: 2,
		MediaType:     manifestType,
		Config:        descriptor{MediaType: configType, Digest: digest, Size: int64(len(config))},
		Layers:        layers,
	})
	if err != nil {
		return Artifact{}, err
	}
	return s.putImageManifest(name, data, manifestType, layers)
}

// putImageManifest stores the manifest of an image, all else being in the store.
func (s *Store) putImageManifest(name string, data []byte, mediaType string, layers []descriptor) (Artifact, error) {
	crash.Point("build.image-layers")
	digest, err := s.PutBlob(data)
	if err != nil {
		return Artifact{}, err
	}
	crash.Point("build.image-manifest")
	a := Artifact{Name: name, Digest: digest, Type: Image}
	for _, l := range layers {
		a.Size += l.Size
	}
	return a, s.list(descriptor{
		MediaType:   mediaType,
		Digest:      digest,
		Size:        int64(len(data)),
		Annotations: map[string]string{"org.opencontainers.image.title": name},
	})
}

// Bounds of an image that is brought in.
const (
	maxImageLayers  = 500
	maxImageEntries = 10_000
	maxImageJSON    = 1 << 20 // bytes of a manifest or a configuration
)

// Import brings in the image called name that a file below root holds: what "docker
// save" or "podman save" writes, or an OCI image layout in a tar, packed by gzip or
// not. What has a manifest keeps it, and so its digest. An error is a FileError when
// the file is at fault.
func (s *Store) Import(ctx context.Context, root, source, name string) (Artifact, error) {
	a, err := s.importImage(ctx, root, source, name)
	if err != nil {
		return Artifact{}, fmt.Errorf("bring in image %s: %w", name, err)
	}
	return a, nil
}

func (s *Store) importImage(ctx context.Context, root, source, name string) (Artifact, error) {
	in, err := openRegular(root, source)
	if err != nil {
		return Artifact{}, err
	}
	defer in.Close()
	plain, err := s.unzipped(ctx, source, in)
	if err != nil {
		return Artifact{}, err
	}
	if plain != in {
		defer plain.Close()
	}
	archive, err := readArchive(ctx, source, plain)
	if err != nil {
		return Artifact{}, err
	}

	switch {
	case archive.has("index.json"):
		return s.importLayout(ctx, archive, name)
	case archive.has("manifest.json"):
		return s.importSaved(ctx, archive, name)
	}
	return Artifact{}, wrong("%s holds no image: it has neither index.json nor manifest.json", source)
}

// openRegular opens a file below root, and nothing outside of it.
func openRegular(root, source string) (*os.File, error) {
	dir, err := os.OpenRoot(root)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	f, err := dir.OpenFile(source, os.O_RDONLY|NonBlock, 0)
	if err != nil {
		return nil, unreadable(source, err)
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = wrong("%s is not a regular file (%s)", source, info.Mode().Type())
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// unzipped is a file as it is, or unpacked in a file without a name when it is
// packed by gzip: what is in a tar is read in another order than it stands.
func (s *Store) unzipped(ctx context.Context, source string, in *os.File) (*os.File, error) {
	var magic [2]byte
	if n, err := in.ReadAt(magic[:], 0); n < len(magic) && err != nil && err != io.EOF {
		return nil, unreadable(source, err)
	}
	if magic != [2]byte{0x1f, 0x8b} {
		return in, nil
	}
	z, err := gzip.NewReader(&contextReader{ctx: ctx, name: source, in: in})
	if err != nil {
		return nil, unreadable(source, err)
	}
	out, err := os.CreateTemp(s.dir, ".tmp-import-")
	if err != nil {
		return nil, err
	}
	if err := os.Remove(out.Name()); err != nil {
		return nil, errors.Join(err, out.Close())
	}
	n, err := io.Copy(out, io.LimitReader(z, MaxBytes+1))
	if err == nil && n > MaxBytes {
		err = wrong("%s is over %d GiB unpacked", source, int64(MaxBytes)>>30)
	}
	if err != nil {
		return nil, errors.Join(err, out.Close())
	}
	return out, nil
}

// archive is a tar whose files are read by name.
type archive struct {
	source string
	file   *os.File
	parts  map[string]*io.SectionReader
}

func readArchive(ctx context.Context, source string, f *os.File) (*archive, error) {
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return nil, err
	}
	a := &archive{source: source, file: f, parts: map[string]*io.SectionReader{}}
	links := map[string]string{}
	for t, n := tar.NewReader(f), 0; ; n++ {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		head, err := t.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, &FileError{what: source + " is not a tar", err: err}
		}
		if n == maxImageEntries {
			return nil, wrong("%s holds over %d files", source, maxImageEntries)
		}
		name := path.Clean("/" + head.Name)[1:]
		switch head.Typeflag {
		case tar.TypeReg:
			at, err := f.Seek(0, io.SeekCurrent) // the reader of a tar reads no further than it must
			if err != nil {
				return nil, err
			}
			a.parts[name] = io.NewSectionReader(f, at, head.Size)
		case tar.TypeSymlink: // of docker before 25: a layer that several images share
			links[name] = path.Join(path.Dir(name), head.Linkname)
		case tar.TypeLink:
			links[name] = path.Clean("/" + head.Linkname)[1:]
		}
	}
	for name, to := range links {
		if part := a.parts[to]; part != nil {
			a.parts[name] = part
		}
	}
	return a, nil
}

func (a *archive) has(name string) bool { return a.parts[name] != nil }

// open reads a file of the archive from its beginning.
func (a *archive) open(name string) (*io.SectionReader, error) {
	part := a.parts[path.Clean("/" + name)[1:]]
	if part == nil {
		return nil, wrong("%s has no file %s, which it names", a.source, name)
	}
	return io.NewSectionReader(part, 0, part.Size()), nil
}

// document reads a small file of JSON.
func (a *archive) document(name string, into any) ([]byte, error) {
	in, err := a.open(name)
	if err != nil {
		return nil, err
	}
	if in.Size() > maxImageJSON {
		return nil, wrong("%s in %s is over %d KiB", name, a.source, maxImageJSON>>10)
	}
	data, err := io.ReadAll(in)
	if err != nil {
		return nil, unreadable(a.source, err)
	}
	if err := json.Unmarshal(data, into); err != nil {
		return nil, &FileError{what: name + " in " + a.source + " cannot be read", err: err}
	}
	return data, nil
}

// blobPath is where an image layout keeps a blob; "" for an odd digest.
func blobPath(digest string) string {
	if hexes, ok := strings.CutPrefix(digest, "sha256:"); ok && len(hexes) == 64 &&
		strings.Trim(hexes, "0123456789abcdef") == "" {
		return "blobs/sha256/" + hexes
	}
	return ""
}

var (
	imageIndexTypes    = []string{indexType, "application/vnd.docker.distribution.manifest.list.v2+json"}
	imageManifestTypes = []string{manifestType, "application/vnd.docker.distribution.manifest.v2+json"}
)

// importLayout brings in the one image of an OCI image layout.
func (s *Store) importLayout(ctx context.Context, a *archive, name string) (Artifact, error) {
	var top index
	if _, err := a.document("index.json", &top); err != nil {
		return Artifact{}, err
	}
	for range 3 { // an index may name one
		if len(top.Manifests) != 1 {
			return Artifact{}, wrong("%s holds %d images, where one belongs", a.source, len(top.Manifests))
		}
		d := top.Manifests[0]
		where := blobPath(d.Digest)
		switch {
		case where == "":
			return Artifact{}, wrong("%s names an image by the digest %q", a.source, d.Digest)
		case slices.Contains(imageManifestTypes, d.MediaType):
			return s.importManifest(ctx, a, name, d)
		case !slices.Contains(imageIndexTypes, d.MediaType):
			return Artifact{}, wrong("%s holds a %q, where an image belongs", a.source, d.MediaType)
		}
		top = index{}
		if _, err := a.document(where, &top); err != nil {
			return Artifact{}, err
		}
		// What describes an image (its provenance) is not for any machine.
		top.Manifests = slices.DeleteFunc(top.Manifests,
			func(d descriptor) bool { return d.Platform != nil && d.Platform.OS == "unknown" })
	}
	return Artifact{}, wrong("%s nests indexes too deep", a.source)
}

func (s *Store) importManifest(ctx context.Context, a *archive, name string, d descriptor) (Artifact, error) {
	var m manifest
	data, err := a.document(blobPath(d.Digest), &m)
	if err != nil {
		return Artifact{}, err
	}
	if sum := sha256.Sum256(data); d.Digest != "sha256:"+hex.EncodeToString(sum[:]) {
		return Artifact{}, wrong("the manifest in %s does not match its digest %s", a.source, d.Digest)
	}
	if len(m.Layers) > maxImageLayers {
		return Artifact{}, wrong("the image in %s has over %d layers", a.source, maxImageLayers)
	}
	for _, part := range append([]descriptor{m.Config}, m.Layers...) {
		where := blobPath(part.Digest)
		if where == "" {
			return Artifact{}, wrong("%s names a part by the digest %q", a.source, part.Digest)
		}
		in, err := a.open(where)
		if err != nil {
			return Artifact{}, err
		}
		got, err := s.copyIn(ctx, a.source, in)
		if err != nil {
			return Artifact{}, err
		}
		if got.Digest != part.Digest || got.Size != part.Size {
			return Artifact{}, wrong("%s in %s does not match its digest", where, a.source)
		}
	}
	return s.putImageManifest(name, data, d.MediaType, m.Layers)
}

// copyIn stores what in holds.
func (s *Store) copyIn(ctx context.Context, source string, in io.Reader) (descriptor, error) {
	return s.put(func(w io.Writer) error {
		_, err := io.Copy(w, &contextReader{ctx: ctx, name: source, in: in})
		return err
	})
}

// importSaved brings in the one image of an archive as docker save has written it
// since 1.10: its configuration, and its layers as they were.
func (s *Store) importSaved(ctx context.Context, a *archive, name string) (Artifact, error) {
	var images []struct {
		Config string
		Layers []string
	}
	if _, err := a.document("manifest.json", &images); err != nil {
		return Artifact{}, err
	}
	if len(images) != 1 {
		return Artifact{}, wrong("%s holds %d images, where one belongs", a.source, len(images))
	}
	of := images[0]
	if len(of.Layers) > maxImageLayers {
		return Artifact{}, wrong("the image in %s has over %d layers", a.source, maxImageLayers)
	}
	var config imageConfig
	data, err := a.document(of.Config, &config)
	if err != nil {
		return Artifact{}, err
	}
	if len(config.RootFS.DiffIDs) != len(of.Layers) {
		return Artifact{}, wrong("the image in %s has %d layers, and its configuration names %d", a.source, len(of.Layers),
			len(config.RootFS.DiffIDs))
	}

	var layers []descriptor
	for i, l := range of.Layers {
		in, err := a.open(l)
		if err != nil {
			return Artifact{}, err
		}
		diff := sha256.New()
		layer, err := s.put(func(w io.Writer) error {
			z, err := gzip.NewWriterLevel(w, gzip.DefaultCompression)
			if err != nil {
				return err
			}
			_, err = io.Copy(io.MultiWriter(z, diff), &contextReader{ctx: ctx, name: a.source, in: in})
			return errors.Join(err, z.Close())
		})
		if err != nil {
			return Artifact{}, err
		}
		if got := "sha256:" + hex.EncodeToString(diff.Sum(nil)); got != config.RootFS.DiffIDs[i] {
			return Artifact{}, wrong("layer %d of the image in %s does not match its digest", i+1, a.source)
		}
		layer.MediaType = layerType
		layers = append(layers, layer)
	}
	return s.putImage(name, data, layers)
}
