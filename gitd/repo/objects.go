package repo

import (
	"bytes"
	"compress/zlib"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/filemode"
	"github.com/go-git/go-git/v5/plumbing/object"
	"github.com/go-git/go-git/v5/storage/filesystem/dotgit"
)

// ErrNoFile is returned by File when the tree has no such file. It is an
// fs.ErrNotExist.
var ErrNoFile = fmt.Errorf("no such file: %w", fs.ErrNotExist)

// MaxFile bounds a file that is read into memory.
const MaxFile = 8 << 20

// read runs f, which reads through go-git, alone on this repository. When
// something was not found it looks the packs up again: a push may have brought
// one since, or several became one while they were listed.
func (r *Repository) read(f func() error) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	err := f()
	for range maxLookups {
		moving := errors.Is(err, dotgit.ErrPackfileNotFound) || errors.Is(err, fs.ErrNotExist)
		if !moving && !errors.Is(err, plumbing.ErrObjectNotFound) {
			return err
		}
		if again := r.reopen(); again != nil {
			return again
		}
		err = f()
		if errors.Is(err, plumbing.ErrObjectNotFound) && !moving {
			return err // also by a fresh list
		}
	}
	return err
}

// maxLookups bounds how often the packs are looked up anew for one read.
const maxLookups = 5

// Commit reads a commit. The value is the caller's; do not walk from it.
func (r *Repository) Commit(h Hash) (*object.Commit, error) {
	var c *object.Commit
	err := r.read(func() (err error) {
		c, err = r.git.CommitObject(h)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read commit %s of %s: %w", h, r.name, err)
	}
	return c, nil
}

// Tag reads an annotated tag.
func (r *Repository) Tag(h Hash) (*object.Tag, error) {
	var t *object.Tag
	err := r.read(func() (err error) {
		t, err = r.git.TagObject(h)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read tag %s of %s: %w", h, r.name, err)
	}
	return t, nil
}

// TooBig is an object that is not read into memory.
type TooBig struct{ Size int64 }

func (e *TooBig) Error() string {
	return fmt.Sprintf("is %d bytes, over the limit of %d", e.Size, MaxFile)
}

// Raw returns the bytes of an object as git names it: type and content.
// Signatures are checked over these, never over a parsed form.
func (r *Repository) Raw(h Hash) (kind string, content []byte, err error) {
	err = r.read(func() error {
		o, err := r.git.Storer.EncodedObject(plumbing.AnyObject, h)
		if err != nil {
			return err
		}
		if o.Size() > MaxFile {
			return &TooBig{Size: o.Size()}
		}
		rd, err := o.Reader()
		if err != nil {
			return err
		}
		defer rd.Close()
		kind = o.Type().String()
		content, err = io.ReadAll(io.LimitReader(rd, MaxFile+1))
		return err
	})
	if err != nil {
		return "", nil, fmt.Errorf("read object %s of %s: %w", h, r.name, err)
	}
	return kind, content, nil
}

// Entry is one name in a tree.
type Entry struct {
	Name string
	Mode filemode.FileMode
	Hash Hash
}

// Tree lists a tree's own entries in git's order. The Zero Hash is the empty tree.
func (r *Repository) Tree(h Hash) ([]Entry, error) {
	if h == Zero {
		return nil, nil
	}
	var entries []Entry
	err := r.read(func() error {
		t, err := r.git.TreeObject(h)
		if err != nil {
			return err
		}
		entries = entries[:0]
		for _, e := range t.Entries {
			entries = append(entries, Entry{e.Name, e.Mode, e.Hash})
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read tree %s of %s: %w", h, r.name, err)
	}
	return entries, nil
}

// Lookup finds the entry at a slash-separated path below a tree. The path "."
// is the tree itself. It returns ErrNoFile when there is none.
func (r *Repository) Lookup(tree Hash, path string) (Entry, error) {
	at := Entry{Mode: filemode.Dir, Hash: tree}
	if path == "." {
		return at, nil
	}
	for _, part := range strings.Split(path, "/") {
		if at.Mode != filemode.Dir {
			return Entry{}, ErrNoFile
		}
		entries, err := r.Tree(at.Hash)
		if err != nil {
			return Entry{}, err
		}
		found := false
		for _, e := range entries {
			if e.Name == part {
				at, found = e, true
				break
			}
		}
		if !found {
			return Entry{}, ErrNoFile
		}
	}
	return at, nil
}

// File reads a regular file below a tree. It returns ErrNoFile when the path
// is absent or no regular file.
func (r *Repository) File(tree Hash, path string) ([]byte, error) {
	e, err := r.Lookup(tree, path)
	if err != nil {
		return nil, err
	}
	if !e.Mode.IsFile() || e.Mode == filemode.Symlink {
		return nil, ErrNoFile
	}
	_, content, err := r.Raw(e.Hash)
	return content, err
}

// Files reads every regular file below a tree whose path keep accepts, by path.
// Together they may be MaxFile bytes.
func (r *Repository) Files(tree Hash, keep func(path string) bool) (map[string][]byte, error) {
	files, total := map[string][]byte{}, 0
	var walk func(tree Hash, prefix string) error
	walk = func(tree Hash, prefix string) error {
		entries, err := r.Tree(tree)
		if err != nil {
			return err
		}
		for _, e := range entries {
			path := prefix + e.Name
			switch {
			case e.Mode == filemode.Dir:
				if err := walk(e.Hash, path+"/"); err != nil {
					return err
				}
			case e.Mode.IsFile() && e.Mode != filemode.Symlink && keep(path):
				_, content, err := r.Raw(e.Hash)
				if err != nil {
					return err
				}
				if total += len(content); total > MaxFile {
					return fmt.Errorf("files of tree %s are over %d bytes together", tree, MaxFile)
				}
				files[path] = content
			}
		}
		return nil
	}
	return files, walk(tree, "")
}

// TreeOf is the tree of a commit.
func (r *Repository) TreeOf(commit Hash) (Hash, error) {
	c, err := r.Commit(commit)
	if err != nil {
		return Zero, err
	}
	return c.TreeHash, nil
}

// Contains reports whether ancestor is commit or an ancestor of it. Zero is an
// ancestor of everything.
func (r *Repository) Contains(ctx context.Context, commit, ancestor Hash) (bool, error) {
	if ancestor == Zero || ancestor == commit {
		return true, nil
	}
	if commit == Zero {
		return false, nil
	}
	_, err := r.Git(ctx, "merge-base", "--is-ancestor", ancestor.String(), commit.String())
	if exited(err, 1) {
		return false, nil
	}
	return err == nil, err
}

// Has reports whether an object is there.
func (r *Repository) Has(h Hash) bool {
	return r.read(func() error { return r.git.Storer.HasEncodedObject(h) }) == nil
}

// Object is an object to be written.
type Object struct {
	Kind    plumbing.ObjectType
	Content []byte
}

// Hash is the object's id.
func (o Object) Hash() Hash { return plumbing.ComputeHash(o.Kind, o.Content) }

// Blob is a file's content as an object.
func Blob(content []byte) Object { return Object{plumbing.BlobObject, content} }

// TreeObject encodes entries, in any order, as a tree.
func TreeObject(entries []Entry) Object {
	sorted := append([]Entry(nil), entries...)
	key := func(e Entry) string {
		if e.Mode == filemode.Dir {
			return e.Name + "/"
		}
		return e.Name
	}
	sort.Slice(sorted, func(i, j int) bool { return key(sorted[i]) < key(sorted[j]) })
	var b bytes.Buffer
	for _, e := range sorted {
		fmt.Fprintf(&b, "%o %s\x00", uint32(e.Mode), e.Name)
		b.Write(e.Hash[:])
	}
	return Object{plumbing.TreeObject, b.Bytes()}
}

// Write stores objects durably: when it returns, each is a synced file in a
// synced directory. Objects already there are left as they are.
func (r *Repository) Write(objects ...Object) error {
	dirs := map[string]bool{}
	for _, o := range objects {
		h := o.Hash().String()
		dir := filepath.Join(r.dir, "objects", h[:2])
		path := filepath.Join(dir, h[2:])
		if r.refresh(path) {
			continue
		}
		for try := 0; ; try++ {
			if err := os.Mkdir(dir, 0o777); err == nil {
				dirs[filepath.Dir(dir)] = true
			} else if !errors.Is(err, os.ErrExist) {
				return fmt.Errorf("write object: %w", err)
			}
			err := writeLoose(dir, path, o)
			if err == nil {
				break
			}
			// Whoever packs removes a directory that is empty.
			if !errors.Is(err, fs.ErrNotExist) || try == maxLookups {
				return fmt.Errorf("write object %s of %s: %w", h, r.name, err)
			}
		}
		dirs[dir] = true
	}
	for dir := range dirs {
		// Gone again: what was in it was in a pack too.
		if err := syncDir(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("write object: %w", err)
		}
	}
	return nil
}

// refresh makes an object that is there as young as one that is written now, so
// that it is not removed before anything refers to it. It reports whether it is.
func (r *Repository) refresh(path string) bool {
	r.writing.RLock()
	defer r.writing.RUnlock()
	now := time.Now()
	return os.Chtimes(path, now, now) == nil
}

// deflaters are kept: a new one takes, and clears, most of a megabyte, for objects
// of a few hundred bytes.
var deflaters = sync.Pool{New: func() any {
	z, err := zlib.NewWriterLevel(nil, zlib.BestSpeed)
	if err != nil {
		panic(err) // zlib has that level
	}
	return z
}}

func writeLoose(dir, path string, o Object) error {
	f, err := os.CreateTemp(dir, "tmp_obj_")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // gone already after the rename
	z := deflaters.Get().(*zlib.Writer)
	defer deflaters.Put(z)
	z.Reset(f)
	_, err = io.WriteString(z, o.Kind.String()+" "+strconv.Itoa(len(o.Content))+"\x00")
	if err == nil {
		_, err = z.Write(o.Content)
	}
	err = errors.Join(err, z.Close(), f.Chmod(0o444), f.Sync(), f.Close())
	if err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

// Edit is what TreeWith puts at a path: a blob or a tree by hash, or nothing.
type Edit struct {
	Mode   filemode.FileMode
	Hash   Hash
	Remove bool
}

// TreeWith returns the tree that is base with edits applied, by slash-separated
// path, writing the trees it needs. Emptied directories disappear.
func (r *Repository) TreeWith(base Hash, edits map[string]Edit) (Hash, error) {
	entries, err := r.Tree(base)
	if err != nil {
		return Zero, err
	}
	byName := map[string]Entry{}
	for _, e := range entries {
		byName[e.Name] = e
	}
	below := map[string]map[string]Edit{}
	for path, e := range edits {
		name, rest, deeper := strings.Cut(path, "/")
		switch {
		case name == "" || name == "." || name == ".." || strings.EqualFold(name, ".git"):
			return Zero, fmt.Errorf("path %q cannot stand in a tree", path)
		case deeper:
			if below[name] == nil {
				below[name] = map[string]Edit{}
			}
			below[name][rest] = e
		case e.Remove:
			delete(byName, name)
		default:
			byName[name] = Entry{name, e.Mode, e.Hash}
		}
	}
	for name, edits := range below {
		sub := Zero
		if e, ok := byName[name]; ok && e.Mode == filemode.Dir {
			sub = e.Hash
		}
		h, err := r.TreeWith(sub, edits)
		if err != nil {
			return Zero, err
		}
		if h == emptyTree {
			delete(byName, name)
			continue
		}
		byName[name] = Entry{name, filemode.Dir, h}
	}
	list := make([]Entry, 0, len(byName))
	for _, e := range byName {
		list = append(list, e)
	}
	o := TreeObject(list)
	return o.Hash(), r.Write(o)
}

var emptyTree = TreeObject(nil).Hash()
