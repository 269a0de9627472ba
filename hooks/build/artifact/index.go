package artifact

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
)

// filesType is the configuration of an artifact: an index of its files, by which whoever has
// most of them needs to be sent the others alone.
const filesType = "application/vnd.headgate.files.v1+json"

// emptyType is that of one without an index, as the OCI image specification has it.
const emptyType = "application/vnd.oci.empty.v1+json"

// maxIndex bounds an index, with room for MaxFiles whose names are long.
const maxIndex = 64 << 20

// fileIndex says what an artifact holds, in the order of its layer.
type fileIndex struct {
	Files []indexed `json:"files"`
}

type indexed struct {
	Path       string `json:"path"`
	Digest     string `json:"digest,omitempty"` // of a file
	Size       int64  `json:"size,omitempty"`
	Executable bool   `json:"executable,omitempty"`
	Link       string `json:"link,omitempty"` // where a link leads
}

func (f indexed) header() *tar.Header {
	if f.Link != "" || f.Digest == "" {
		return &tar.Header{Typeflag: tar.TypeSymlink, Name: f.Path, Linkname: f.Link}
	}
	head := &tar.Header{Typeflag: tar.TypeReg, Name: f.Path, Size: f.Size, Mode: 0o644}
	if f.Executable {
		head.Mode = 0o755
	}
	return head
}

// putConfig keeps the configuration of an artifact: its index, unless that has more than most
// bytes, which nobody would read.
func (s *Store) putConfig(index fileIndex, most int) (descriptor, error) {
	config := descriptor{MediaType: filesType}
	data, err := json.Marshal(index)
	if err != nil {
		return config, err
	}
	if len(data) > most {
		config.MediaType, data = emptyType, []byte("{}")
	}
	config.Size = int64(len(data))
	config.Digest, err = s.PutBlob(data)
	return config, err
}

func readIndex(data []byte) (index fileIndex, err error) {
	if err := json.Unmarshal(data, &index); err != nil {
		return index, fmt.Errorf("read its index: %w", err)
	}
	if len(index.Files) > MaxFiles {
		return index, fmt.Errorf("its index has over %d files", MaxFiles)
	}
	return index, nil
}

// Known are files that lie on this machine already, by their digests. What somebody has
// changed since is found out when it is to be used.
type Known struct{ paths map[string][]string }

// Add says that an artifact with an index was laid out below a directory, with its top
// directory or without.
func (k *Known) Add(data []byte, dir string) error {
	index, err := readIndex(data)
	if err != nil {
		return err
	}
	if k.paths == nil {
		k.paths = map[string][]string{}
	}
	for _, f := range index.Files {
		if f.Digest == "" || !filepath.IsLocal(f.Path) {
			continue
		}
		k.paths[f.Digest] = append(k.paths[f.Digest], filepath.Join(dir, f.Path))
		if _, below, ok := strings.Cut(f.Path, "/"); ok {
			k.paths[f.Digest] = append(k.paths[f.Digest], filepath.Join(dir, below))
		}
	}
	return nil
}

// find is a file that holds these bytes now, "" for none.
func (k *Known) find(f indexed) string {
	for _, path := range k.paths[f.Digest] {
		info, err := os.Lstat(path)
		if err != nil || !info.Mode().IsRegular() || info.Size() != f.Size {
			continue
		}
		if in, err := os.Open(path); err == nil {
			h := sha256.New()
			_, err := io.Copy(h, in)
			in.Close()
			if err == nil && f.Digest == "sha256:"+hex.EncodeToString(h.Sum(nil)) {
				return path
			}
		}
	}
	return ""
}

// maxSingly is how many files of an artifact are sent each by itself, for which its layer
// is read each time; when there are more, all are sent at once.
const maxSingly = 32

// LayOut gets the artifact with this digest from elsewhere, as Receive does, and lays it out
// as the directory dir, which is empty. Files that are known are copied, and if that is all
// but a few, those alone are sent. The index is for Known.Add, nil for an artifact without.
func (s *Store) LayOut(ctx context.Context, digest, dir string, from Source, known *Known) (index []byte, err error) {
	index, err = s.layOut(ctx, digest, dir, from, known)
	if err != nil {
		return nil, fmt.Errorf("receive artifact %s: %w", digest, err)
	}
	return index, nil
}

func (s *Store) layOut(ctx context.Context, digest, dir string, from Source, known *Known) ([]byte, error) {
	m, bytes, err := s.receiveManifest(ctx, digest, from)
	if err != nil {
		return nil, err
	}
	if err := s.receiveBlob(ctx, m.Config, from); err != nil {
		return nil, err
	}
	var data []byte
	if m.Config.MediaType == filesType && m.ArtifactType == Type && len(m.Layers) == 1 {
		if data, err = s.readBounded(m.Config.Digest, maxIndex); err != nil {
			return nil, err
		}
		index, err := readIndex(data)
		if err != nil {
			return nil, err
		}
		done, err := s.layByFile(ctx, index, m.Layers[0].Size, dir, from, known)
		if done || err != nil {
			return data, err
		}
	}
	for _, d := range m.Layers {
		if err := s.receiveBlob(ctx, d, from); err != nil {
			return nil, err
		}
	}
	if _, err := s.PutBlob(bytes); err != nil {
		return nil, err
	}
	return data, s.unpack(ctx, digest, dir)
}

// layByFile lays out what an index says, unless less is sent when all of it is.
func (s *Store) layByFile(ctx context.Context, index fileIndex, whole int64, dir string, from Source,
	known *Known) (done bool, err error) {
	at := map[string]string{} // by digest: where its bytes are
	var missing []indexed
	var bytes int64
	for _, f := range index.Files {
		if _, twice := at[f.Digest]; twice || f.Digest == "" {
			continue
		}
		path := known.find(f)
		if at[f.Digest] = path; path == "" {
			missing = append(missing, f)
			bytes += f.Size
		}
	}
	if len(missing) > maxSingly || bytes > whole || len(missing) == len(at) {
		return false, nil
	}
	for _, f := range missing {
		if err := s.receiveBlob(ctx, descriptor{Digest: f.Digest, Size: f.Size}, from); err != nil {
			return false, err
		}
		if at[f.Digest], err = s.blob(f.Digest); err != nil {
			return false, err
		}
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return false, err
	}
	defer root.Close()
	p := &placer{root: root}
	for _, f := range index.Files {
		if err := ctx.Err(); err != nil {
			return false, err
		}
		if err := p.copy(f, at[f.Digest]); err != nil {
			return false, err
		}
	}
	for _, f := range missing {
		if err := os.Remove(at[f.Digest]); err != nil {
			return false, err
		}
	}
	return true, syncAll(dir)
}

// copy places one file whose bytes are somewhere on this machine.
func (p *placer) copy(f indexed, path string) error {
	if f.Digest == "" {
		return p.place(f.header(), nil)
	}
	in, err := os.Open(path)
	if err != nil {
		return err
	}
	defer in.Close()
	h := sha256.New()
	if err := p.place(f.header(), io.TeeReader(io.LimitReader(in, f.Size), h)); err != nil {
		return err
	}
	if f.Digest != "sha256:"+hex.EncodeToString(h.Sum(nil)) {
		return fmt.Errorf("%s was changed while it was copied to %s", path, f.Path)
	}
	return nil
}

// errEnough ends a look through an artifact.
var errEnough = errors.New("enough was seen")

// OpenFile opens the bytes with a digest of a file of an artifact. The error wraps ErrNoFile
// when it has none with that digest.
func (s *Store) OpenFile(ctx context.Context, artifact, digest string) (f *os.File, err error) {
	data, err := s.read(artifact)
	if err != nil {
		return nil, fmt.Errorf("read artifact %s: %w", artifact, err)
	}
	var m manifest
	if err := json.Unmarshal(data, &m); err != nil {
		return nil, fmt.Errorf("read artifact %s: %w", artifact, err)
	}
	var index fileIndex
	if m.Config.MediaType == filesType {
		if data, err = s.readBounded(m.Config.Digest, maxIndex); err == nil {
			index, err = readIndex(data)
		}
		if err != nil {
			return nil, fmt.Errorf("read artifact %s: %w", artifact, err)
		}
	}
	for _, one := range index.Files {
		if one.Digest == digest && digest != "" {
			return s.openFile(ctx, artifact, one)
		}
	}
	return nil, fmt.Errorf("%s of artifact %s: %w", digest, artifact, ErrNoFile)
}

// openFile has the bytes of a file in one that has no name.
func (s *Store) openFile(ctx context.Context, artifact string, one indexed) (f *os.File, err error) {
	if f, err = os.CreateTemp(s.dir, ".tmp-file-"); err != nil {
		return nil, err
	}
	h := sha256.New()
	err = errors.Join(os.Remove(f.Name()), s.each(ctx, artifact, MaxBytes, func(head *tar.Header, content io.Reader) error {
		if head.Name != one.Path {
			return nil
		}
		if _, err := io.Copy(io.MultiWriter(f, h), content); err != nil {
			return err
		}
		return errEnough
	}))
	if errors.Is(err, errEnough) {
		err = nil
	}
	if err == nil && one.Digest != "sha256:"+hex.EncodeToString(h.Sum(nil)) {
		err = fmt.Errorf("%s of artifact %s is damaged", one.Path, artifact)
	}
	if err == nil {
		_, err = f.Seek(0, io.SeekStart)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}
