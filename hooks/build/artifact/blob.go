package artifact

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
)

// Manifest is the OCI manifest of an artifact, as other tools see it.
type Manifest struct {
	MediaType string
	Bytes     []byte // as they stand in the store: their SHA-256 is the digest
	Blobs     []Blob // its configuration first
}

// Blob is a part of an artifact.
type Blob struct {
	MediaType string
	Digest    string
	Size      int64
}

// Manifest reads the manifest of the artifact with this digest. The error wraps
// ErrNone when the store does not hold it.
func (s *Store) Manifest(digest string) (Manifest, error) {
	data, err := s.read(digest)
	if err != nil {
		return Manifest{}, fmt.Errorf("read artifact %s: %w", digest, err)
	}
	var m manifest
	if err := json.Unmarshal(data, &m); err != nil {
		return Manifest{}, fmt.Errorf("read artifact %s: %w", digest, err)
	}

	read := Manifest{MediaType: m.MediaType, Bytes: data}
	for _, d := range append([]descriptor{m.Config}, m.Layers...) {
		read.Blobs = append(read.Blobs, Blob{MediaType: d.MediaType, Digest: d.Digest, Size: d.Size})
	}
	return read, nil
}

// OpenBlob opens the bytes with this digest, which are not checked: whoever gets
// them knows what their digest must be. The error wraps ErrNone when the store does
// not hold them.
func (s *Store) OpenBlob(digest string) (*os.File, error) {
	path, err := s.blob(digest)
	if err != nil {
		return nil, err
	}
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("open %s: %w", digest, ErrNone)
	}
	return f, err
}
