package repo

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"sort"
	"strings"
	"sync"

	"github.com/go-git/go-git/v5"
	"github.com/go-git/go-git/v5/plumbing/cache"
	"github.com/go-git/go-git/v5/storage/filesystem"

	"github.com/go-git/go-billy/v5/osfs"

	"github.com/headgate-cd/headgate/gitd/signal"
)

// Store is a directory of bare repositories, `<root>/<name>.git`. It is safe for
// concurrent use; only one process may have it open (the caller holds the
// data directory's lock).
type Store struct {
	root   string
	hooks  string
	signer *Signer

	moved signal.Topic // by the name of the repository of which a ref moved

	mu   sync.Mutex
	open map[string]*Repository
}

// Repository is one bare repository. It is safe for concurrent use.
type Repository struct {
	store   *Store
	name    string
	dir     string
	updater updater

	mu      sync.Mutex // guards git: go-git's storage is for one reader at a time
	git     *git.Repository
	objects cache.Object
}

var nameForm = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$`)

// CheckName says what is wrong with a repository's name: as with CodeCommit, 1 to
// 100 letters, digits, ".", "_", "-", not ending in ".git".
func CheckName(name string) error {
	if !nameForm.MatchString(name) || strings.HasSuffix(strings.ToLower(name), ".git") || strings.Contains(name, "..") {
		return fmt.Errorf("%q is not a repository name: use 1 to 100 letters, digits, '.', '_' and '-', beginning with a letter or digit, not ending in .git", name)
	}
	return nil
}

// OpenStore opens the repositories below root, which is made if absent. hooks
// is the directory with the hook programs that every repository's receive-pack
// runs. It sweeps what a killed process left behind (see Sweep) and returns a
// line for each thing swept.
func OpenStore(root, hooks string, signer *Signer) (*Store, []string, error) {
	if err := os.MkdirAll(root, 0o755); err != nil {
		return nil, nil, fmt.Errorf("open repositories: %w", err)
	}
	s := &Store{root: root, hooks: hooks, signer: signer, open: map[string]*Repository{}}
	swept, err := s.sweep()
	return s, swept, err
}

// Close ends the store's git children. Repositories must not be used after.
func (s *Store) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.open {
		r.updater.mu.Lock()
		r.updater.stop()
		r.updater.mu.Unlock()
	}
}

// Signer is what signs this store's commits.
func (s *Store) Signer() *Signer { return s.signer }

// Hooks is the directory with the hook programs.
func (s *Store) Hooks() string { return s.hooks }

// Names lists the repositories on disk.
func (s *Store) Names() ([]string, error) {
	entries, err := os.ReadDir(s.root)
	if err != nil {
		return nil, fmt.Errorf("list repositories: %w", err)
	}
	var names []string
	for _, e := range entries {
		if name, ok := strings.CutSuffix(e.Name(), ".git"); ok && e.IsDir() && CheckName(name) == nil {
			names = append(names, name)
		}
	}
	sort.Strings(names)
	return names, nil
}

// ErrNoRepository is returned by Repository for a name that is not there.
var ErrNoRepository = errors.New("no such repository")

// Repository returns the repository called name, or ErrNoRepository.
func (s *Store) Repository(name string) (*Repository, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r := s.open[name]; r != nil {
		return r, nil
	}
	if err := CheckName(name); err != nil {
		return nil, ErrNoRepository
	}
	dir := filepath.Join(s.root, name+".git")
	if _, err := os.Stat(filepath.Join(dir, "HEAD")); err != nil {
		return nil, ErrNoRepository
	}
	r := &Repository{store: s, name: name, dir: dir, objects: cache.NewObjectLRU(16 * cache.MiByte)}
	if err := r.reopen(); err != nil {
		return nil, err
	}
	s.open[name] = r
	return r, nil
}

// Create makes the repository called name, or completes one whose making was
// cut short, and returns it. Making one that exists changes nothing.
func (s *Store) Create(ctx context.Context, name string) (*Repository, error) {
	if err := CheckName(name); err != nil {
		return nil, err
	}
	if r, err := s.Repository(name); err == nil {
		return r, nil
	}
	// Built aside and renamed: a repository is there whole or not at all.
	dir := filepath.Join(s.root, name+".git")
	temp, err := os.MkdirTemp(s.root, ".new-")
	if err != nil {
		return nil, fmt.Errorf("create repository %s: %w", name, err)
	}
	defer os.RemoveAll(temp)
	cmd := exec.CommandContext(ctx, "git", "init", "--quiet", "--bare", "--template=", "--initial-branch=main", temp)
	cmd.Env = Env(noHooks)
	if _, err := run(cmd, nil); err != nil {
		return nil, fmt.Errorf("create repository %s: %w", name, err)
	}
	// Any git that meets the repository outside this server runs our hooks too,
	// and the reference-transaction hook refuses its writes.
	config := fmt.Sprintf("[core]\n\trepositoryformatversion = 0\n\tfilemode = true\n\tbare = true\n\thooksPath = %q\n", s.hooks)
	if err := WriteFile(filepath.Join(temp, "config"), []byte(config), 0o644); err != nil {
		return nil, fmt.Errorf("create repository %s: %w", name, err)
	}
	if err := os.Chmod(temp, 0o755); err != nil {
		return nil, fmt.Errorf("create repository %s: %w", name, err)
	}
	if err := os.Rename(temp, dir); err != nil {
		if r, err := s.Repository(name); err == nil {
			return r, nil // somebody else made it meanwhile
		}
		return nil, fmt.Errorf("create repository %s: %w", name, err)
	}
	if err := syncDir(s.root); err != nil {
		return nil, fmt.Errorf("create repository %s: %w", name, err)
	}
	return s.Repository(name)
}

// Name is the repository's name.
func (r *Repository) Name() string { return r.name }

// Dir is the repository's directory, for a git child as its only argument.
func (r *Repository) Dir() string { return r.dir }

// Signer is what signs this repository's server-made commits.
func (r *Repository) Signer() *Signer { return r.store.signer }

// reopen makes go-git look at the directory afresh. The caller holds r.mu, or is
// the only one who knows r.
func (r *Repository) reopen() error {
	g, err := git.Open(filesystem.NewStorage(osfs.New(r.dir), r.objects), nil)
	if err != nil {
		return fmt.Errorf("open repository %s: %w", r.name, err)
	}
	r.git = g
	return nil
}

// Watch returns a channel that holds a token whenever a ref of the repository
// (any repository, for signal.All) has moved since the last one was taken. Many
// moves may make one token: look at the refs, do not count. stop closes the
// channel.
func (s *Store) Watch(repository string) (moved <-chan struct{}, stop func()) {
	return s.moved.Watch(repository)
}

// sweep removes what a killed git child leaves and what blocks its successors
// for ever: ref and pack locks, quarantines, keep files, half-made objects
// and repositories. Only the holder of the data directory's lock may do it.
func (s *Store) sweep() (swept []string, err error) {
	names, err := os.ReadDir(s.root)
	if err != nil {
		return nil, fmt.Errorf("sweep repositories: %w", err)
	}
	remove := func(path string) error {
		swept = append(swept, strings.TrimPrefix(path, s.root+string(filepath.Separator)))
		return os.RemoveAll(path)
	}
	for _, e := range names {
		path := filepath.Join(s.root, e.Name())
		if strings.HasPrefix(e.Name(), ".new-") {
			if err := remove(path); err != nil {
				return swept, fmt.Errorf("sweep: %w", err)
			}
			continue
		}
		err := filepath.WalkDir(path, func(p string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			base := d.Name()
			inObjects := strings.HasPrefix(p, filepath.Join(path, "objects")+string(filepath.Separator))
			stale := !d.IsDir() && strings.HasSuffix(base, ".lock") ||
				inObjects && (strings.HasPrefix(base, "tmp_") || strings.HasSuffix(base, ".keep"))
			switch {
			case !stale:
				return nil
			case d.IsDir():
				if err := remove(p); err != nil {
					return err
				}
				return fs.SkipDir
			}
			return remove(p)
		})
		if err != nil {
			return swept, fmt.Errorf("sweep: %w", err)
		}
	}
	return swept, nil
}

// WriteFile writes a file durably: a temporary file in the same directory, synced,
// renamed, and the directory synced. Readers see the old content or the new.
func WriteFile(path string, data []byte, perm os.FileMode) error {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, ".tmp-")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // gone already after the rename
	_, err = f.Write(data)
	err = errors.Join(err, f.Chmod(perm), f.Sync(), f.Close())
	if err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	return syncDir(dir)
}

// RemoveFile removes a file durably.
func RemoveFile(path string) error {
	if err := os.Remove(path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}
