package repo

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// SyncObjects makes the entries of directories below objects/ durable ("." is
// objects/ itself). git syncs the files that it moves out of a push's
// quarantine, but never the directories that name them.
func (r *Repository) SyncObjects(dirs []string) error {
	for _, dir := range dirs {
		if !filepath.IsLocal(dir) {
			return fmt.Errorf("sync objects of %s: %q is outside", r.name, dir)
		}
		err := syncDir(filepath.Join(r.dir, "objects", dir))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("sync objects of %s: %w", r.name, err)
		}
	}
	return nil
}

// Head is the branch that the repository's HEAD names, whether or not it
// exists: "refs/heads/main".
func (r *Repository) Head() (string, error) {
	data, err := os.ReadFile(filepath.Join(r.dir, "HEAD"))
	if err != nil {
		return "", fmt.Errorf("read HEAD of %s: %w", r.name, err)
	}
	ref, ok := strings.CutPrefix(strings.TrimSpace(string(data)), "ref: ")
	if !ok || !strings.HasPrefix(ref, "refs/heads/") {
		return "", fmt.Errorf("HEAD of %s names no branch", r.name)
	}
	return ref, nil
}
