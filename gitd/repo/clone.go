package repo

import (
	"fmt"
	"os"
	"path/filepath"
)

// OpenClone opens a clone, bare or with a work tree, for reading: it belongs to
// no store, and making commits or moving refs in it is a mistake of the caller.
func OpenClone(dir string) (*Repository, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("open clone: %w", err)
	}
	for _, at := range []string{filepath.Join(dir, ".git"), dir} {
		if _, err := os.Stat(filepath.Join(at, "HEAD")); err != nil {
			continue
		}
		r := &Repository{store: &Store{}, name: filepath.Base(dir), dir: at}
		r.objects = cachedObjects{newObjectCache(maxCachedObjects), r}
		return r, r.reopen()
	}
	return nil, fmt.Errorf("open clone: %s is not a git repository; run: git clone --mirror <url>", dir)
}
