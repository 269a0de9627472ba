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
	"hash"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/headgate-cd/headgate/gitd/crash"
	"github.com/headgate-cd/headgate/gitd/sandbox"
)

// safeLink reports whether a link at name to target stays within the artifact,
// given that no directory on the way to name is a link. A ".." may only stand at the
// beginning of the target: after a directory it means that directory's parent, which is
// another one if the directory is a link.
func safeLink(name, target string) bool {
	if path.IsAbs(target) {
		return false
	}
	leading := true
	for part := range strings.SplitSeq(target, "/") {
		if part == ".." && !leading {
			return false
		}
		leading = leading && (part == ".." || part == "." || part == "")
	}
	to := path.Join(path.Dir(name), target)
	return to != ".." && !strings.HasPrefix(to, "../")
}

// Unpack lays the artifact with this digest out as the directory dir, which is
// there whole or not at all: dir is absent or empty before, and complete after.
// A dir that holds something already is left as it is.
func (s *Store) Unpack(ctx context.Context, digest, dir string) error {
	if err := s.unpack(ctx, digest, dir); err != nil {
		return fmt.Errorf("unpack artifact %s: %w", digest, err)
	}
	return nil
}

func (s *Store) unpack(ctx context.Context, digest, dir string) error {
	if there, err := os.ReadDir(dir); err == nil && len(there) > 0 {
		return nil
	}
	data, err := s.read(digest)
	if err != nil {
		return err
	}
	var m manifest
	if err := json.Unmarshal(data, &m); err != nil {
		return fmt.Errorf("read its manifest: %w", err)
	}
	if m.ArtifactType != Type || len(m.Layers) != 1 {
		return errors.New("it is not an artifact of ours")
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return err
	}
	temp, err := os.MkdirTemp(filepath.Dir(dir), ".unpack-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(temp) // gone already after the rename
	if err := os.Chmod(temp, 0o755); err != nil {
		return err
	}
	if err := s.extract(ctx, m.Layers[0].Digest, temp); err != nil {
		return err
	}
	// After a power cut a dir that is there must be whole, for it is believed.
	if err := syncAll(temp); err != nil {
		return err
	}
	crash.Point("build.artifact-unpacked")
	if err := os.Remove(dir); err != nil && !errors.Is(err, os.ErrNotExist) { // it was empty
		return err
	}
	if err := os.Rename(temp, dir); err != nil {
		if there, readErr := os.ReadDir(dir); readErr == nil && len(there) > 0 {
			return nil // somebody else was faster with the same content
		}
		return err
	}
	return syncDir(filepath.Dir(dir))
}

// syncEach is up to how many files and directories are synced one by one; for more,
// syncing the file system is faster.
const syncEach = 200

// syncAll makes all below dir durable.
func syncAll(dir string) error {
	var paths []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && (d.IsDir() || d.Type().IsRegular()) {
			paths = append(paths, path)
		}
		if len(paths) > syncEach {
			return fs.SkipAll
		}
		return err
	})
	if err != nil {
		return err
	}
	if len(paths) <= syncEach {
		for _, p := range paths {
			if err := syncDir(p); err != nil {
				return err
			}
		}
		return nil
	}
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(unix.Syncfs(int(f.Fd())), f.Close())
}

// read reads a small blob and checks that it is what its name says.
func (s *Store) read(digest string) ([]byte, error) { return s.readBounded(digest, maxManifest) }

func (s *Store) readBounded(digest string, max int64) ([]byte, error) {
	path, err := s.blob(digest)
	if err != nil {
		return nil, err
	}
	f, err := os.Open(path)
	if err != nil {
		if errors.Is(err, os.ErrNotExist) {
			return nil, ErrNone
		}
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, max))
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(data)
	if digest != "sha256:"+hex.EncodeToString(sum[:]) {
		return nil, errors.New("its bytes do not match its digest")
	}
	return data, nil
}

func (s *Store) extract(ctx context.Context, digest, dir string) error {
	blob, err := s.blob(digest)
	if err != nil {
		return err
	}
	f, err := os.Open(blob)
	if err != nil {
		return err
	}
	defer f.Close()
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	h := sha256.New()
	packed := io.TeeReader(f, h)
	z, err := gzip.NewReader(packed)
	if err != nil {
		return err
	}
	t := tar.NewReader(z)
	p := &placer{root: root}
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		head, err := t.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
		if err := p.place(head, t); err != nil {
			return err
		}
	}
	return checkRest(packed, h, digest)
}

// checkRest reads what is left and compares the digest of all that was read.
func checkRest(packed io.Reader, h hash.Hash, digest string) error {
	if _, err := io.Copy(io.Discard, packed); err != nil {
		return err
	}
	if digest != "sha256:"+hex.EncodeToString(h.Sum(nil)) {
		return errors.New("its bytes do not match its digest")
	}
	return nil
}

// placer lays out files below a directory, and nowhere else.
type placer struct {
	root  *os.Root
	links map[string]bool
	total int64
	count int
}

func (p *placer) place(head *tar.Header, content io.Reader) error {
	p.count++
	if p.total += head.Size; head.Size < 0 || p.total > MaxBytes || p.count > MaxFiles {
		return fmt.Errorf("it holds over %d files or %d bytes", MaxFiles, int64(MaxBytes))
	}
	for dir := path.Dir(head.Name); dir != "." && dir != "/"; dir = path.Dir(dir) {
		if p.links[dir] {
			return fmt.Errorf("its %s lies behind a link", head.Name)
		}
	}
	if head.Typeflag == tar.TypeSymlink {
		if p.links == nil {
			p.links = map[string]bool{}
		}
		p.links[head.Name] = true
	}
	return place(p.root, head, content)
}

func place(root *os.Root, head *tar.Header, content io.Reader) error {
	name := head.Name
	if !fs.ValidPath(name) || name == "." {
		return fmt.Errorf("it holds a file called %q", name)
	}
	if dir := path.Dir(name); dir != "." {
		if err := root.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	switch head.Typeflag {
	case tar.TypeSymlink:
		if !safeLink(name, head.Linkname) {
			return fmt.Errorf("its %s links to %q, outside of it", name, head.Linkname)
		}
		return root.Symlink(head.Linkname, name)
	case tar.TypeReg:
		out, err := root.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, os.FileMode(head.Mode&0o755))
		if err != nil {
			return err
		}
		_, err = io.Copy(out, content)
		if err = errors.Join(err, out.Close()); err == nil && head.Mode&0o111 != 0 {
			sandbox.RunnableIn(root, name)
		}
		return err
	}
	return fmt.Errorf("its %s is neither a file nor a link", name)
}
