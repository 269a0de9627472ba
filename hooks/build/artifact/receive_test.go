package artifact

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// source is a store as somebody elsewhere, which can be cut off, or lie.
type source struct {
	from  *Store
	cut   int64 // bytes after which it hangs up; 0: never
	lie   bool
	asked []int64 // offsets
	moved int64
}

func (s *source) open(_ context.Context, digest string, offset int64) (io.ReadCloser, error) {
	s.asked = append(s.asked, offset)
	f, err := s.from.OpenBlob(digest)
	if err != nil {
		return nil, err
	}
	if _, err := f.Seek(offset, io.SeekStart); err != nil {
		return nil, err
	}
	data, err := io.ReadAll(f)
	f.Close()
	if s.lie && len(data) > 0 {
		data[len(data)/2] ^= 1
	}
	if s.cut > 0 && int64(len(data)) > s.cut {
		data = data[:s.cut]
	}
	s.moved += int64(len(data))
	return io.NopCloser(bytes.NewReader(data)), err
}

func packedSample(t *testing.T) (from *Store, a Artifact) {
	t.Helper()
	from, err := Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	root := t.TempDir()
	noise := make([]byte, 200<<10)
	for i := range noise {
		noise[i] = byte(i * i >> 3 * 7)
	}
	if err := os.WriteFile(filepath.Join(root, "a"), noise, 0o644); err != nil {
		t.Fatal(err)
	}
	if a, err = from.Pack(context.Background(), root, "main", []File{{Source: "a", Path: "a"}}); err != nil {
		t.Fatal(err)
	}
	return from, a
}

// What was cut off goes on where it was, also in another process, and moves nothing twice.
func TestReceiveGoesOn(t *testing.T) {
	from, a := packedSample(t)
	dir := t.TempDir()
	src := &source{from: from, cut: 1000}
	for tries := 0; ; tries++ {
		to, err := Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		err = to.Receive(context.Background(), a.Digest, src.open)
		if err == nil {
			break
		}
		if !errors.Is(err, io.ErrUnexpectedEOF) || to.Has(a.Digest) || tries > 1000 {
			t.Fatal(err)
		}
		if tries == 2 {
			src.cut = 0
		}
	}
	if len(src.asked) < 7 || src.asked[3] == 0 {
		t.Errorf("it asked for %v", src.asked)
	}
	to := In(dir)
	if err := to.Unpack(context.Background(), a.Digest, filepath.Join(t.TempDir(), "out")); err != nil {
		t.Error(err)
	}
	before := len(src.asked)
	if err := to.Receive(context.Background(), a.Digest, src.open); err != nil || len(src.asked) != before {
		t.Errorf("what is there was asked for again: %v", err)
	}
	if err := to.Clear(); err != nil || to.Has(a.Digest) {
		t.Error(err)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "blobs", "sha256", "*")); len(left) > 0 {
		t.Errorf("there are %v", left)
	}
}

// Whoever sends other bytes sends nothing: they are not kept, and the true ones come next.
func TestReceiveBelievesNobody(t *testing.T) {
	from, a := packedSample(t)
	to, err := Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	src := &source{from: from, lie: true}
	if err := to.Receive(context.Background(), a.Digest, src.open); err == nil ||
		!strings.Contains(err.Error(), "manifest do not match") {
		t.Error(err)
	}
	layers := func(ctx context.Context, digest string, offset int64) (io.ReadCloser, error) {
		src.lie = digest != a.Digest
		return src.open(ctx, digest, offset)
	}
	if err := to.Receive(context.Background(), a.Digest, layers); err == nil ||
		!strings.Contains(err.Error(), "do not match its digest") || to.Has(a.Digest) {
		t.Error(err)
	}
	// A liar in the middle spoils what follows, and that goes too.
	src.lie, src.cut = false, 1000
	if err := to.Receive(context.Background(), a.Digest, src.open); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Error(err)
	}
	src.cut = 0
	if err := to.Receive(context.Background(), a.Digest, layers); err == nil || to.Has(a.Digest) {
		t.Error(err)
	}
	src.lie = false
	if err := to.Receive(context.Background(), a.Digest, src.open); err != nil {
		t.Error(err)
	}
	for _, digest := range []string{"", "sha256:../../etc/passwd", "md5:abc"} {
		if err := to.Receive(context.Background(), digest, src.open); err == nil {
			t.Errorf("%q was received", digest)
		}
	}
}
