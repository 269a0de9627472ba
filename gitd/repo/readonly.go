package repo

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/go-git/go-git/v5/plumbing/cache"
)

// ErrReadOnly is returned by what would write to a repository that was opened
// by OpenReadOnly.
var ErrReadOnly = errors.New("the repository was opened for reading only")

// OpenReadOnly opens an ordinary clone or mirror anywhere on this machine, for
// reading: what headgate verify looks at. dir is its work tree or its git
// folder. Nothing in it is changed; Move and Write return ErrReadOnly, and there
// is no Signer. It needs no Close.
func OpenReadOnly(dir string) (*Repository, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	name := filepath.Base(dir)
	for _, folder := range []string{filepath.Join(dir, ".git"), dir} {
		if _, err := os.Stat(filepath.Join(folder, "HEAD")); err != nil {
			continue
		}
		if _, err := os.Stat(filepath.Join(folder, "objects")); err != nil {
			continue
		}
		r := &Repository{name: name, dir: folder, objects: cache.NewObjectLRU(16 * cache.MiByte)}
		return r, r.reopen()
	}
	return nil, fmt.Errorf("%s is no git repository; name a clone, or its .git folder", dir)
}

// readOnly reports whether r must not be written to.
func (r *Repository) readOnly() bool { return r.store == nil }
