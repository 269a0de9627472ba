package artifact

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
)

// OpenToRead opens the store in dir for reading alone: another process may be
// writing it. Nothing is made or removed.
func OpenToRead(dir string) *Store { return &Store{dir: dir} }

// ErrNone is that the store does not hold an artifact.
var ErrNone = errors.New("the store does not hold it")

// CopyTo copies the artifact with this digest to another store, checking every
// digest on the way, the manifest last. What is there already is not copied again.
func (s *Store) CopyTo(ctx context.Context, to *Store, digest string) error {
	if to.Has(digest) {
		return nil
	}
	if !s.Has(digest) {
		return fmt.Errorf("copy artifact %s: %w", digest, ErrNone)
	}
	data, err := s.read(digest)
	if err != nil {
		return fmt.Errorf("copy artifact %s: %w", digest, err)
	}
	var m manifest
	if err := json.Unmarshal(data, &m); err != nil {
		return fmt.Errorf("copy artifact %s: %w", digest, err)
	}
	for _, d := range append(m.Layers, m.Config) {
		if err := s.copyBlob(ctx, to, d.Digest); err != nil {
			return fmt.Errorf("copy artifact %s: %w", digest, err)
		}
	}
	if _, err := to.PutBlob(data); err != nil {
		return fmt.Errorf("copy artifact %s: %w", digest, err)
	}
	return to.list(descriptor{MediaType: manifestType, ArtifactType: m.ArtifactType, Digest: digest,
		Size: int64(len(data))})
}

func (s *Store) copyBlob(ctx context.Context, to *Store, digest string) error {
	if to.Has(digest) {
		return nil
	}
	path, err := s.blob(digest)
	if err != nil {
		return err
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	got, err := to.put(func(w io.Writer) error {
		_, err := io.Copy(w, &contextReader{ctx: ctx, name: digest, in: f})
		return err
	})
	if err == nil && got.Digest != digest {
		err = fmt.Errorf("the bytes of %s do not match its digest", digest)
	}
	return err
}
