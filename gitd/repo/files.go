package repo

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"
	"sync"
	"time"

	"github.com/go-git/go-git/v5/plumbing/filemode"
)

// Objects reads the objects of one repository, wherever they are.
type Objects interface {
	Tree(h Hash) ([]Entry, error)
	Blob(h Hash) ([]byte, error) // bounded
}

// TreeFiles is a tree as a directory of files, by slash-separated path; "." is
// the tree itself. Symbolic links are not followed and submodules are not
// entered: both are there, and no regular files.
type TreeFiles struct {
	Objects Objects
	Root    Hash
}

// FilesOf are the files of a tree of r.
func (r *Repository) FilesOf(tree Hash) TreeFiles { return TreeFiles{Objects: blobs{r}, Root: tree} }

type blobs struct{ *Repository }

func (b blobs) Blob(h Hash) ([]byte, error) {
	_, content, err := b.Raw(h)
	return content, err
}

// ReadDir lists a directory in git's order. The error wraps fs.ErrNotExist when
// there is none.
func (t TreeFiles) ReadDir(name string) ([]fs.DirEntry, error) {
	e, err := t.lookup("readdir", name)
	if err != nil {
		return nil, err
	}
	if e.Mode != filemode.Dir {
		return nil, &fs.PathError{Op: "readdir", Path: name, Err: errors.New("not a directory")}
	}
	entries, err := t.Objects.Tree(e.Hash)
	if err != nil {
		return nil, &fs.PathError{Op: "readdir", Path: name, Err: err}
	}
	list := make([]fs.DirEntry, len(entries))
	for i, e := range entries {
		list[i] = treeEntry{e}
	}
	return list, nil
}

// ReadFile reads a regular file.
func (t TreeFiles) ReadFile(name string) ([]byte, error) {
	e, err := t.lookup("open", name)
	if err != nil {
		return nil, err
	}
	if entry := (treeEntry{e}); !entry.Type().IsRegular() {
		return nil, &fs.PathError{Op: "open", Path: name, Err: errors.New("not a regular file")}
	}
	content, err := t.Objects.Blob(e.Hash)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	return content, nil
}

func (t TreeFiles) lookup(op, name string) (Entry, error) {
	at := Entry{Mode: filemode.Dir, Hash: t.Root}
	if !fs.ValidPath(name) {
		return at, &fs.PathError{Op: op, Path: name, Err: fs.ErrInvalid}
	}
	if name == "." {
		return at, nil
	}
	for part := range strings.SplitSeq(name, "/") {
		found := false
		if at.Mode == filemode.Dir {
			entries, err := t.Objects.Tree(at.Hash)
			if err != nil {
				return at, &fs.PathError{Op: op, Path: name, Err: err}
			}
			for _, e := range entries {
				if found = e.Name == part; found {
					at = e
					break
				}
			}
		}
		if !found {
			return at, &fs.PathError{Op: op, Path: name, Err: fs.ErrNotExist}
		}
	}
	return at, nil
}

// treeEntry is an Entry as an fs.DirEntry.
type treeEntry struct{ entry Entry }

func (e treeEntry) Name() string { return e.entry.Name }
func (e treeEntry) IsDir() bool  { return e.entry.Mode == filemode.Dir }

func (e treeEntry) Type() fs.FileMode {
	switch e.entry.Mode {
	case filemode.Dir:
		return fs.ModeDir
	case filemode.Symlink:
		return fs.ModeSymlink
	case filemode.Submodule:
		return fs.ModeIrregular
	}
	return 0
}

// Info says what a tree says of its entries, which is little.
func (e treeEntry) Info() (fs.FileInfo, error) { return treeInfo{e}, nil }

type treeInfo struct{ treeEntry }

func (i treeInfo) Mode() fs.FileMode {
	if i.entry.Mode == filemode.Executable {
		return i.Type() | 0o755
	}
	return i.Type() | 0o644
}
func (treeInfo) Size() int64        { return 0 }
func (treeInfo) ModTime() time.Time { return time.Time{} }
func (treeInfo) Sys() any           { return nil }

// Extent is how much a tree holds, with everything below it counted as often as
// it stands there.
type Extent struct {
	Entries int64
	Bytes   int64
	Depth   int
	Files   int64 // entries that are no directories
	Paths   int64 // bytes of the whole paths of Files, each with its end: what git lists them in
}

// TooLarge is the error for a tree over a limit.
type TooLarge struct {
	Path  string // of the smallest directory that is over it by itself, or of an entry; "" is the root
	What  string // "entries", "bytes", "levels", "bytes of paths"
	Limit int64
}

func (e *TooLarge) Error() string {
	where := e.Path
	if where == "" {
		where = "the tree"
	}
	return fmt.Sprintf("%s holds more than %d %s", where, e.Limit, e.What)
}

// Measure says how much a tree holds without expanding it: a few objects can
// stand for more than any disk holds. size is a blob's in bytes. known remembers
// trees that were measured before; it may be shared by calls that follow one
// another. The error is a *TooLarge for a tree over limit.
func Measure(ctx context.Context, root Hash, limit Extent, tree func(Hash) ([]Entry, error),
	size func(Hash) (int64, error),
	known map[Hash]Extent,
) (Extent, error) {
	sizes := map[Hash]int64{}
	var walk func(h Hash, at string, level int) (Extent, error)
	walk = func(h Hash, at string, level int) (Extent, error) {
		if x, ok := known[h]; ok && level+x.Depth <= limit.Depth {
			return x, nil
		}
		if level >= limit.Depth {
			return Extent{}, &TooLarge{at, "levels", int64(limit.Depth)}
		}
		if err := ctx.Err(); err != nil {
			return Extent{}, err
		}
		entries, err := tree(h)
		if err != nil {
			return Extent{}, err
		}

		x := Extent{Depth: 1}
		for _, e := range entries {
			x.Entries++
			below := path.Join(at, e.Name)
			switch {
			case e.Mode == filemode.Dir:
				sub, err := walk(e.Hash, below, level+1)
				if err != nil {
					return x, err
				}
				x.Entries += sub.Entries
				x.Bytes += sub.Bytes
				x.Depth = max(x.Depth, sub.Depth+1)
				x.Files += sub.Files
				x.Paths += sub.Paths + sub.Files*int64(len(e.Name)+1)
			case e.Mode.IsFile():
				n, ok := sizes[e.Hash]
				if !ok {
					if n, err = size(e.Hash); err != nil {
						return x, err
					}
					sizes[e.Hash] = n
				}
				x.Bytes += n
				if n > limit.Bytes {
					return x, &TooLarge{below, "bytes", limit.Bytes}
				}
			}
			if e.Mode != filemode.Dir {
				x.Files++
				x.Paths += int64(len(e.Name) + 1)
			}
			// Sums stay far from overflowing: no part is over its limit.
			if x.Entries > limit.Entries {
				return x, &TooLarge{at, "entries", limit.Entries}
			}
			if x.Bytes > limit.Bytes {
				return x, &TooLarge{at, "bytes", limit.Bytes}
			}
			if x.Paths > limit.Paths {
				return x, &TooLarge{at, "bytes of paths", limit.Paths}
			}
		}
		known[h] = x
		return x, nil
	}
	return walk(root, "", 0)
}

// MaxTree is how much a tree that is built may hold. Linux is at 100,000 entries,
// 4 MB of paths and 1.5 GB; a tree over it is a mistake, or made to fill a disk at
// checkout. Every list of its paths is held in memory by git and by us.
var MaxTree = Extent{
	Entries: 1_000_000,
	Bytes:   32 << 30,
	Depth:   200,
	Files:   1_000_000,
	Paths:   64 << 20,
}

// TreeFault is the error for a tree that cannot be used, by whoever tries and how
// often they do.
type TreeFault struct{ What string }

func (e *TreeFault) Error() string { return e.What }

// ForPeople is what whoever made the tree is told.
func (e *TreeFault) ForPeople() string { return e.What }

const (
	measureTimeout = time.Minute
	maxExtents     = 200_000
)

// extents remembers how much trees hold, so that what is measured is what is new.
type extents struct {
	mu    sync.Mutex // held while known is in use
	known map[Hash]Extent
}

// CheckExtent measures a tree that is there, before anything walks it: a push is
// measured in its quarantine, what is fetched is not. The error is a *TooLarge for
// one over MaxTree, or that cannot be measured in time.
func (r *Repository) CheckExtent(ctx context.Context, tree Hash) error {
	r.extents.mu.Lock()
	defer r.extents.mu.Unlock()
	if len(r.extents.known) > maxExtents || r.extents.known == nil {
		r.extents.known = map[Hash]Extent{}
	}
	measuring, cancel := context.WithTimeout(ctx, measureTimeout)
	defer cancel()
	_, err := Measure(measuring, tree, MaxTree, r.Tree, r.size, r.extents.known)
	if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
		return &TooLarge{"", "entries that can be counted in seconds:", int64(measureTimeout / time.Second)}
	}
	return err
}

// size is a blob's, in bytes.
func (r *Repository) size(h Hash) (n int64, err error) {
	err = r.read(func() error {
		n, err = r.git.Storer.EncodedObjectSize(h)
		return err
	})
	return n, err
}
