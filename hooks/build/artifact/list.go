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

func (s *Store) contents(ctx context.Context, digest string, max int64) (list []Content, err error) {
	err = s.each(ctx, digest, max, func(head *tar.Header, content io.Reader) error {
		h := sha256.New()
		switch head.Typeflag {
		case tar.TypeReg:
			if _, err := io.Copy(h, content); err != nil {
				return err
			}
		case tar.TypeSymlink:
			_, _ = io.WriteString(h, "link "+head.Linkname) // a hash takes all
		default:
			return nil // directories are where their files are
		}
		c := Content{Path: head.Name, Size: head.Size, Digest: hex.EncodeToString(h.Sum(nil))}
		if head.Mode&0o111 != 0 {
			c.Digest += " executable"
		}
		list = append(list, c)
		return nil
	})
	return list, err
}

// ErrNoFile is that an artifact, which is there, has no such file.
var ErrNoFile = errors.New("it has no such file")

// ReadFile is what a file of an artifact holds, no more than max bytes of it.
func (s *Store) ReadFile(ctx context.Context, digest, name string, max int64) (data []byte, err error) {
	there := false
	err = s.each(ctx, digest, MaxBytes, func(head *tar.Header, content io.Reader) (err error) {
		if head.Name == name && head.Typeflag == tar.TypeReg {
			there = true
			data, err = io.ReadAll(io.LimitReader(content, max))
		}
		return err
	})
	if err == nil && !there {
		err = ErrNoFile
	}
	if err != nil {
		return nil, fmt.Errorf("read %s of artifact %s: %w", name, digest, err)
	}
	return data, nil
}

// each goes through what an artifact holds, and fails at its end when that is not what
// its digest says. What is more than max bytes unpacked is not read.
func (s *Store) each(
	ctx context.Context, digest string, max int64, look func(head *tar.Header, content io.Reader) error,
) error {
	data, err := s.read(digest)
	if err != nil {
		return err
	}
	var m manifest
	if err := json.Unmarshal(data, &m); err != nil {
		return fmt.Errorf("read its manifest: %w", err)
	}
	if m.ArtifactType != Type || len(m.Layers) != 1 {
		return errors.New("it is not an artifact of this server")
	}

	blob, err := s.blob(m.Layers[0].Digest)
	if err != nil {
		return err
	}
	f, err := os.Open(blob)
	if err != nil {
		return err
	}
	defer f.Close()
	h := sha256.New()
	packed := io.TeeReader(f, h)
	z, err := gzip.NewReader(packed)
	if err != nil {
		return err
	}

	var total int64
	t := tar.NewReader(z)
	for n := 0; ; n++ {
		if err := ctx.Err(); err != nil {
			return err
		}
		head, err := t.Next()
		if errors.Is(err, io.EOF) {
			return checkRest(packed, h, m.Layers[0].Digest)
		}
		if err != nil {
			return err
		}
		if total += head.Size; total > max || n >= MaxFiles {
			return fmt.Errorf("it holds over %d files or %d bytes", MaxFiles, max)
		}
		if err := look(head, t); err != nil {
			return err
		}
	}
}
