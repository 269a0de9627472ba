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
)

// Content is one file of an artifact.
type Content struct {
	Path   string
	Size   int64
	Digest string // of its bytes, or of where a link leads
}

// List tells what an artifact holds, without laying it out. What is more than
// max bytes unpacked is not read.
func (s *Store) List(ctx context.Context, digest string, max int64) ([]Content, error) {
	list, err := s.contents(ctx, digest, max)
	if err != nil {
		return nil, fmt.Errorf("list artifact %s: %w", digest, err)
	}
	return list, nil
}

func (s *Store) contents(ctx context.Context, digest string, max int64) ([]Content, error) {
	data, err := s.read(digest)
	if err != nil {
		return nil, err
	}
	var m manifest
	if err := json.Unmarshal(data, &m); err != nil {
		return nil, fmt.Errorf("read its manifest: %w", err)
	}
	if m.ArtifactType != Type || len(m.Layers) != 1 {
		return nil, errors.New("it is not an artifact of this server")
	}

	blob, err := s.blob(m.Layers[0].Digest)
	if err != nil {
		return nil, err
	}
	f, err := os.Open(blob)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		return nil, err
	}

	var list []Content
	var total int64
	for t := tar.NewReader(z); ; {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		head, err := t.Next()
		if errors.Is(err, io.EOF) {
			return list, nil
		}
		if err != nil {
			return nil, err
		}
		if total += head.Size; total > max || len(list) >= MaxFiles {
			return nil, fmt.Errorf("it holds over %d files or %d bytes", MaxFiles, max)
		}

		h := sha256.New()
		switch head.Typeflag {
		case tar.TypeReg:
			if _, err := io.Copy(h, t); err != nil {
				return nil, err
			}
		case tar.TypeSymlink:
			_, _ = io.WriteString(h, "link "+head.Linkname) // a hash takes all
		default:
			continue // directories are where their files are
		}
		c := Content{Path: head.Name, Size: head.Size, Digest: hex.EncodeToString(h.Sum(nil))}
		if head.Mode&0o111 != 0 {
			c.Digest += " executable"
		}
		list = append(list, c)
	}
}
