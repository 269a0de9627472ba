package artifact

import (
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
)

// Source opens the bytes of a part of an artifact, from an offset on. Nothing that it says
// is believed.
type Source func(ctx context.Context, digest string, offset int64) (io.ReadCloser, error)

const maxManifest = 1 << 20

// Receive gets the artifact with this digest from elsewhere, checking every digest. What
// had come when it was cut off, in an earlier process too, does not come again; the error
// matches io.ErrUnexpectedEOF then. Only one may receive the same artifact at a time.
func (s *Store) Receive(ctx context.Context, digest string, from Source) error {
	if err := s.receive(ctx, digest, from); err != nil {
		return fmt.Errorf("receive artifact %s: %w", digest, err)
	}
	return nil
}

func (s *Store) receive(ctx context.Context, digest string, from Source) error {
	if _, err := s.blob(digest); err != nil {
		return err
	}
	if s.Has(digest) {
		return nil
	}
	m, data, err := s.receiveManifest(ctx, digest, from)
	if err != nil {
		return err
	}
	for _, d := range append(m.Layers, m.Config) {
		if err := s.receiveBlob(ctx, d, from); err != nil {
			return err
		}
	}
	_, err = s.PutBlob(data)
	return err
}

func (s *Store) receiveManifest(ctx context.Context, digest string, from Source) (m manifest, data []byte, err error) {
	in, err := from(ctx, digest, 0)
	if err != nil {
		return m, nil, err
	}
	data, err = io.ReadAll(io.LimitReader(in, maxManifest+1))
	in.Close()
	if err != nil {
		return m, nil, err
	}
	if len(data) <= maxManifest && !json.Valid(data) { // the beginning of an object is none
		return m, nil, fmt.Errorf("%d bytes of its manifest have come: %w", len(data), io.ErrUnexpectedEOF)
	}
	if sum := sha256.Sum256(data); digest != "sha256:"+hex.EncodeToString(sum[:]) {
		return m, nil, errors.New("the bytes of its manifest do not match its digest")
	}
	if err := json.Unmarshal(data, &m); err != nil {
		return m, nil, fmt.Errorf("read its manifest: %w", err)
	}
	return m, data, nil
}

// ReceiveBlob gets bytes with a digest from elsewhere, as Receive does, and says where they
// are.
func (s *Store) ReceiveBlob(ctx context.Context, digest string, size int64, from Source) (path string, err error) {
	if path, err = s.blob(digest); err == nil {
		err = s.receiveBlob(ctx, descriptor{Digest: digest, Size: size}, from)
	}
	if err != nil {
		return "", fmt.Errorf("receive %s: %w", digest, err)
	}
	return path, nil
}

// receiveBlob gets one blob, the rest of it when a part has come before.
func (s *Store) receiveBlob(ctx context.Context, d descriptor, from Source) error {
	path, err := s.blob(d.Digest)
	if err != nil || s.Has(d.Digest) {
		return err
	}
	if d.Size < 0 || d.Size > MaxBytes {
		return fmt.Errorf("%s is said to have %d bytes", d.Digest, d.Size)
	}
	part := filepath.Join(filepath.Dir(path), ".part-"+filepath.Base(path))
	f, err := os.OpenFile(part, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	h := sha256.New()
	has, err := io.Copy(h, f)
	if err != nil {
		return err
	}
	if has > d.Size {
		return errors.Join(fmt.Errorf("more of %s had come than there is", d.Digest), os.Remove(part))
	}
	if has < d.Size {
		in, err := from(ctx, d.Digest, has)
		if err != nil {
			return err
		}
		n, err := io.Copy(io.MultiWriter(f, h), io.LimitReader(in, d.Size-has))
		in.Close()
		if err != nil {
			return err
		}
		if has += n; has < d.Size {
			return fmt.Errorf("%d of %d bytes of %s have come: %w", has, d.Size, d.Digest, io.ErrUnexpectedEOF)
		}
	}
	if d.Digest != "sha256:"+hex.EncodeToString(h.Sum(nil)) {
		return errors.Join(fmt.Errorf("the bytes of %s do not match its digest", d.Digest), os.Remove(part))
	}
	if err := errors.Join(f.Chmod(0o444), f.Sync()); err != nil {
		return err
	}
	if err := os.Rename(part, path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

// Clear removes all that a store holds, and what has come of it in part: it is for one that
// holds an artifact only until it is laid out.
func (s *Store) Clear() error {
	dir := filepath.Join(s.dir, "blobs", "sha256")
	entries, err := os.ReadDir(dir)
	for _, e := range entries {
		if gone := os.Remove(filepath.Join(dir, e.Name())); !errors.Is(gone, fs.ErrNotExist) {
			err = errors.Join(err, gone)
		}
	}
	return err
}
