package artifact

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"strings"
)

// WriteArchive writes the image with this digest as `docker save` writes one, to be
// read by `docker load` and `podman load`, which check its layers against its
// configuration. The error wraps ErrNone when the store does not hold it.
func (s *Store) WriteArchive(ctx context.Context, digest string, w io.Writer) error {
	m, err := s.Manifest(digest)
	if err != nil {
		return err
	}
	t := tar.NewWriter(w)
	var entry struct {
		Config   string
		RepoTags []string
		Layers   []string
	}
	for i, b := range m.Blobs {
		name := strings.TrimPrefix(b.Digest, "sha256:")
		if i == 0 {
			name += ".json"
			entry.Config = name
		} else {
			name += "/layer.tar"
			entry.Layers = append(entry.Layers, name)
		}
		if err := s.archiveBlob(ctx, t, name, b); err != nil {
			return fmt.Errorf("write image %s: %w", digest, err)
		}
	}
	list, err := json.Marshal([]any{entry})
	if err == nil {
		err = t.WriteHeader(&tar.Header{Name: "manifest.json", Mode: 0o444, Size: int64(len(list))})
	}
	if err == nil {
		_, err = t.Write(list)
	}
	if err == nil {
		err = t.Close()
	}
	if err != nil {
		return fmt.Errorf("write image %s: %w", digest, err)
	}
	return nil
}

func (s *Store) archiveBlob(ctx context.Context, t *tar.Writer, name string, b Blob) error {
	f, err := s.OpenBlob(b.Digest)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := t.WriteHeader(&tar.Header{Name: name, Mode: 0o444, Size: b.Size}); err != nil {
		return err
	}
	sum := sha256.New()
	if _, err := io.Copy(io.MultiWriter(t, sum), &contextReader{ctx, b.Digest, f}); err != nil {
		return err
	}
	if is := "sha256:" + hex.EncodeToString(sum.Sum(nil)); is != b.Digest {
		return fmt.Errorf("%s is damaged: it is %s", b.Digest, is)
	}
	return nil
}
