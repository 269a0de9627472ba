// Package bundle unpacks revisions that people have as files: a directory, a zip, a
// tar or a compressed tar. Nothing in one can reach outside of the directory that it
// is unpacked to, nor fill the disk: see the bounds.
package bundle

import (
	"archive/tar"
	"archive/zip"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/headgate-cd/headgate/gitd/sandbox"
)

// Bounds of a bundle.
const (
	MaxBytes = 4 << 30
	MaxFiles = 200_000
	maxPath  = 4096
)

// Type is the form of a bundle.
type Type string

// The types, in codedeploy-local's words.
const (
	Directory Type = "directory"
	Zip       Type = "zip"
	Tar       Type = "tar"
	TarGzip   Type = "tgz"
)

// Types are all.
var Types = []Type{Directory, Zip, Tar, TarGzip}

// TypeOf finds the type of what lies at a path, by its name.
func TypeOf(name string) (Type, error) {
	info, err := os.Stat(name)
	if err != nil {
		return "", err
	}
	lower := strings.ToLower(name)
	switch {
	case info.IsDir():
		return Directory, nil
	case strings.HasSuffix(lower, ".zip"):
		return Zip, nil
	case strings.HasSuffix(lower, ".tar"):
		return Tar, nil
	case strings.HasSuffix(lower, ".tgz"), strings.HasSuffix(lower, ".tar.gz"):
		return TarGzip, nil
	}
	return "", fmt.Errorf("%s is neither a directory, a .zip, a .tar nor a .tgz", name)
}

// Unpack lays a bundle out in dir, which exists and is empty. The error says which of
// its entries is the matter; dir may hold some of it then.
func Unpack(ctx context.Context, name string, t Type, dir string) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	u := &unpacker{ctx: ctx, root: root, links: map[string]bool{}}
	switch t {
	case Directory:
		err = u.directory(name, dir)
	case Zip:
		err = u.zip(name)
	case Tar, TarGzip:
		err = u.tar(name, t == TarGzip)
	default:
		return fmt.Errorf("bundles of the type %q are not known", t)
	}
	if err == nil {
		err = u.finish()
	}
	if err != nil {
		return fmt.Errorf("%s: %w", filepath.Base(name), err)
	}
	return nil
}

// unpacker unpacks one bundle.
type unpacker struct {
	ctx   context.Context
	root  *os.Root
	bytes int64
	files int
	links map[string]bool
	dirs  []dirMode // their modes are set at the end, for one may be read-only
}

type dirMode struct {
	name string
	mode fs.FileMode
}

// entry checks the name of one and counts it.
func (u *unpacker) entry(name string) (string, error) {
	if err := u.ctx.Err(); err != nil {
		return "", err
	}
	if u.files++; u.files > MaxFiles {
		return "", fmt.Errorf("it holds over %d files", MaxFiles)
	}
	clean := path.Clean(strings.TrimSuffix(name, "/"))
	if len(name) > maxPath || strings.ContainsAny(name, "\x00\n\\") || !fs.ValidPath(clean) {
		return "", fmt.Errorf("it holds an entry called %q", name)
	}
	for d := path.Dir(clean); d != "."; d = path.Dir(d) {
		if u.links[d] {
			return "", fmt.Errorf("its entry %q lies behind a link", name)
		}
	}
	return clean, nil
}

func (u *unpacker) parents(name string) error {
	if dir := path.Dir(name); dir != "." {
		return u.root.MkdirAll(dir, 0o755)
	}
	return nil
}

func (u *unpacker) dir(name string, mode fs.FileMode) error {
	if err := u.root.MkdirAll(name, 0o755); err != nil {
		return err
	}
	u.dirs = append(u.dirs, dirMode{name, mode})
	return nil
}

func (u *unpacker) link(name, text string) error {
	to := path.Join(path.Dir(name), text)
	if path.IsAbs(text) || to == ".." || strings.HasPrefix(to, "../") || strings.Contains(text, "\x00") {
		return fmt.Errorf("its link %q leads out of it, to %q", name, text)
	}
	if err := u.parents(name); err != nil {
		return err
	}
	u.links[name] = true
	return u.root.Symlink(text, name)
}

func (u *unpacker) file(name string, mode fs.FileMode, content io.Reader) error {
	if err := u.parents(name); err != nil {
		return err
	}
	out, err := u.root.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	left := MaxBytes - u.bytes
	n, err := io.Copy(out, io.LimitReader(content, left+1))
	u.bytes += n
	if err == nil && n > left {
		err = fmt.Errorf("it holds over %d bytes", int64(MaxBytes))
	}
	if err == nil {
		err = out.Chmod(mode.Perm() | mode&(fs.ModeSetuid|fs.ModeSetgid|fs.ModeSticky) | 0o400)
	}
	if err = errors.Join(err, out.Close()); err == nil && mode&0o111 != 0 {
		sandbox.RunnableIn(u.root, name)
	}
	return err
}

func (u *unpacker) finish() error {
	for _, d := range slices.Backward(u.dirs) {
		if err := u.root.Chmod(d.name, d.mode.Perm()|0o700); err != nil {
			return err
		}
	}
	return nil
}

func (u *unpacker) zip(name string) error {
	z, err := zip.OpenReader(name)
	if err != nil {
		return err
	}
	defer z.Close()
	for _, f := range z.File {
		clean, err := u.entry(f.Name)
		if err != nil {
			return err
		}
		mode := f.Mode()
		switch {
		case mode.IsDir():
			err = u.dir(clean, mode)
		case mode&fs.ModeSymlink != 0:
			err = withContent(f, func(r io.Reader) error {
				text, err := io.ReadAll(io.LimitReader(r, maxPath))
				if err != nil {
					return err
				}
				return u.link(clean, string(text))
			})
		case mode.IsRegular():
			if mode.Perm() == 0 { // made on a system without modes
				mode |= 0o644
			}
			err = withContent(f, func(r io.Reader) error { return u.file(clean, mode, r) })
			if err == nil && !f.Modified.IsZero() {
				err = u.root.Chtimes(clean, f.Modified, f.Modified)
			}
		default:
			err = fmt.Errorf("its entry %q is neither a file, a directory nor a link", f.Name)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func withContent(f *zip.File, do func(io.Reader) error) error {
	r, err := f.Open()
	if err != nil {
		return err
	}
	defer r.Close()
	return do(r)
}

func (u *unpacker) tar(name string, zipped bool) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	var from io.Reader = f
	if zipped {
		z, err := gzip.NewReader(f)
		if err != nil {
			return err
		}
		from = z
	}
	t := tar.NewReader(from)
	for {
		head, err := t.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if head.Typeflag == tar.TypeXGlobalHeader { // as git archive writes it
			continue
		}
		clean, err := u.entry(strings.TrimPrefix(head.Name, "./"))
		if err != nil {
			if head.Name == "./" || head.Name == "." {
				continue
			}
			return err
		}
		switch head.Typeflag {
		case tar.TypeDir:
			err = u.dir(clean, head.FileInfo().Mode())
		case tar.TypeSymlink:
			err = u.link(clean, head.Linkname)
		case tar.TypeReg:
			if err = u.file(clean, head.FileInfo().Mode(), t); err == nil {
				err = u.root.Chtimes(clean, head.ModTime, head.ModTime)
			}
		case tar.TypeLink:
			err = u.hardLink(clean, head.Linkname)
		default:
			err = fmt.Errorf("its entry %q is neither a file, a directory nor a link", head.Name)
		}
		if err != nil {
			return err
		}
	}
}

// hardLink copies what came before under another name.
func (u *unpacker) hardLink(name, of string) error {
	first, err := u.entry(strings.TrimPrefix(of, "./"))
	if err != nil {
		return err
	}
	in, err := u.root.Open(first)
	if err != nil {
		return err
	}
	defer in.Close()
	info, err := in.Stat()
	if err != nil || !info.Mode().IsRegular() {
		return errors.Join(err, fmt.Errorf("its entry %q is another name for %q, which is not a file", name, of))
	}
	return u.file(name, info.Mode(), in)
}

// directory copies one, but for what lies in it of the deployment itself, and for
// what git keeps there.
func (u *unpacker) directory(from, to string) error {
	real, err := filepath.EvalSymlinks(to)
	if err != nil {
		return err
	}
	src, err := os.OpenRoot(from)
	if err != nil {
		return err
	}
	defer src.Close()
	return filepath.WalkDir(from, func(name string, d fs.DirEntry, err error) error {
		if err != nil || name == from {
			return err
		}
		if d.IsDir() && (d.Name() == ".git" && filepath.Dir(name) == filepath.Clean(from) || same(name, real)) {
			return fs.SkipDir
		}
		rel, err := filepath.Rel(from, name)
		if err != nil {
			return err
		}
		clean, err := u.entry(filepath.ToSlash(rel))
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		switch {
		case d.IsDir():
			return u.dir(clean, info.Mode())
		case d.Type()&fs.ModeSymlink != 0:
			text, err := os.Readlink(name)
			if err != nil {
				return err
			}
			return u.link(clean, text)
		case d.Type().IsRegular():
			in, err := src.Open(rel)
			if err != nil {
				return err
			}
			defer in.Close()
			if err := u.file(clean, info.Mode(), in); err != nil {
				return err
			}
			return u.root.Chtimes(clean, info.ModTime(), info.ModTime())
		}
		return fmt.Errorf("its entry %q is neither a file, a directory nor a link", rel)
	})
}

// same reports whether a directory is the one that is unpacked to, or above it.
func same(name, to string) bool {
	real, err := filepath.EvalSymlinks(name)
	return err == nil && real == to
}
