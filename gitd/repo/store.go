package repo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"sort"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/go-git/go-git/v5"
	"github.com/go-git/go-git/v5/storage/filesystem"

	"github.com/go-git/go-billy/v5/osfs"

	"github.com/headgate-cd/headgate/gitd/crash"
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

	objects *objectCache // of all repositories

	inspections sync.WaitGroup // of repositories that were opened

	mu   sync.Mutex
	open map[string]*Repository
	made map[string]bool // see Made
}

// Repository is one bare repository. It is safe for concurrent use.
type Repository struct {
	store   *Store
	name    string
	dir     string
	updater updater

	mu        sync.Mutex // guards git: go-git's storage is for one reader at a time
	git       *git.Repository
	packfiles io.Closer // that git has open
	objects   cachedObjects

	packing sync.Mutex   // guards packed
	packed  *packedRefs  // as it was read last
	peeled  peeled       // objects that refs point at
	moves   atomic.Int64 // of refs, since the server was started
	pushes  pushes
	writing sync.RWMutex // held for reading while an object that is there is made young

	witness witness // of the server's records that have moved
	extents extents // of trees that were measured
	views   views   // of objects, for builds

	damageMu sync.Mutex // guards damage
	damage   *Damaged   // as it was seen last; nil: nothing
}

var nameForm = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$`)
})

// CheckName says what is wrong with a repository's name: as with CodeCommit, 1 to
// 100 letters, digits, ".", "_", "-", not ending in ".git".
func CheckName(name string) error {
	if !nameForm().MatchString(name) || strings.HasSuffix(strings.ToLower(name), ".git") || strings.Contains(name, "..") {
		return fmt.Errorf(
			"%q is not a repository name: use 1 to 100 letters, digits, '.', '_' and '-', beginning with a letter or digit, not ending in .git", name)
	}
	return nil
}

// OpenStore opens the repositories below root, which is made if absent. hooks
// is the directory with the hook programs that every repository's receive-pack
// runs. It sweeps what a killed process left behind (see Sweep) and returns a
// line for each thing swept.
func OpenStore(root, hooks string, signer *Signer) (*Store, []string, error) {
	if err := MakeDir(root, 0o755); err != nil {
		return nil, nil, fmt.Errorf("open repositories: %w", err)
	}
	s := &Store{root: root, hooks: hooks, signer: signer, objects: newObjectCache(maxCachedObjects),
		open: map[string]*Repository{}, made: map[string]bool{}}
	if err := s.readMade(); err != nil {
		return nil, nil, err
	}
	swept, err := s.sweep()
	return s, swept, err
}

// Close ends the store's git children. Repositories must not be used after.
func (s *Store) Close() {
	s.inspections.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.open {
		r.updater.mu.Lock()
		r.updater.stop()
		r.updater.mu.Unlock()
		r.mu.Lock()
		r.close()
		r.mu.Unlock()
	}
}

// Signer is what signs this store's commits.
func (s *Store) Signer() *Signer { return s.signer }

// Hooks is the directory with the hook programs.
func (s *Store) Hooks() string { return s.hooks }

// Names lists the repositories on disk.
func (s *Store) Names() ([]string, error) { return NamesIn(s.root) }

// NamesIn lists the repositories below the root of a store, none if there is no
// such directory.
func NamesIn(root string) ([]string, error) {
	entries, err := os.ReadDir(root)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
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

// Repository returns the repository called name, or ErrNoRepository. One that is
// there and cannot even be opened, or is lost, is a *Damaged.
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
	_, err := os.Stat(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist) && s.made[name]:
		return nil, &Damaged{Repository: name, What: []string{dir + " is missing"}}
	case errors.Is(err, fs.ErrNotExist):
		return nil, ErrNoRepository
	case err != nil:
		return nil, fmt.Errorf("open repository %s: %w", name, err)
	}
	r := &Repository{store: s, name: name, dir: dir}
	r.objects = cachedObjects{s.objects, r}
	if err := r.reopen(); err != nil {
		if whole, _ := isWhole(dir); whole {
			return nil, err
		}
		return nil, &Damaged{Repository: name, What: []string{err.Error()}}
	}
	r.inspectAside()
	s.open[name] = r
	return r, nil
}

// madeFile names the repositories that there are, in a store's root: one that is
// in it and not on disk is lost, and not new.
const madeFile = ".made"

// Made records the repositories that there are, all of them.
func (s *Store) Made(names []string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	made := map[string]bool{}
	for _, name := range names {
		made[name] = true
	}
	if maps.Equal(made, s.made) {
		return nil
	}
	text := strings.Join(slices.Sorted(maps.Keys(made)), "\n") + "\n"
	if err := WriteFile(filepath.Join(s.root, madeFile), []byte(text), 0o644); err != nil {
		return fmt.Errorf("record the repositories that there are: %w", err)
	}
	crash.Point("repository.recorded")
	s.made = made
	return nil
}

// readMade reads what Made wrote. A name more or less in it is told by Made.
func (s *Store) readMade() error {
	data, err := os.ReadFile(filepath.Join(s.root, madeFile))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("open repositories: %w", err)
	}
	for _, name := range strings.Fields(string(data)) {
		s.made[name] = true
	}
	return nil
}

// Create makes the repository called name and returns it. Making one that exists
// changes nothing; one that is damaged, or lost, is not made again.
func (s *Store) Create(ctx context.Context, name string) (*Repository, error) {
	if err := CheckName(name); err != nil {
		return nil, err
	}
	if r, err := s.Repository(name); !errors.Is(err, ErrNoRepository) {
		return r, err
	}
	if err := s.create(ctx, name); err != nil {
		// Somebody else may have made it meanwhile.
		if r, again := s.Repository(name); again == nil {
			return r, nil
		}
		return nil, fmt.Errorf("create repository %s: %w", name, err)
	}
	return s.Repository(name)
}

// create makes a repository aside, syncs all that it is made of, and renames it:
// it is there whole or not at all, also after a power cut.
func (s *Store) create(ctx context.Context, name string) error {
	temp, err := os.MkdirTemp(s.root, ".new-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(temp) // gone already after the rename
	cmd := exec.CommandContext(ctx, "git", "init", "--quiet", "--bare", "--template=", "--initial-branch=main", temp)
	cmd.Env = Env(noHooks)
	if _, err := run(cmd, nil); err != nil {
		return err
	}
	if err := WriteFile(filepath.Join(temp, "config"), s.config(), 0o644); err != nil {
		return err
	}
	if err := os.Chmod(temp, 0o755); err != nil {
		return err
	}
	if err := syncTree(temp); err != nil {
		return err
	}
	crash.Point("repository.built")
	if err := os.Rename(temp, filepath.Join(s.root, name+".git")); err != nil {
		return err
	}
	crash.Point("repository.renamed")
	return syncDir(s.root)
}

// config is the file config of every repository. Any git that meets one outside
// this server runs our hooks too, and the reference-transaction hook refuses its
// writes.
func (s *Store) config() []byte {
	return fmt.Appendf(nil, "[core]\n\trepositoryformatversion = 0\n\tfilemode = true\n\tbare = true\n\thooksPath = %q\n",
		s.hooks)
}

// isWhole reports whether a repository has what git takes one by: a HEAD that
// can be read, objects and refs. empty: nothing was ever stored in it.
func isWhole(dir string) (whole, empty bool) {
	_, _, err := readRef(filepath.Join(dir, "HEAD"))
	objects, objectsErr := os.ReadDir(filepath.Join(dir, "objects"))
	refs, refsErr := os.ReadDir(filepath.Join(dir, "refs"))
	holds := func(entries []os.DirEntry, known ...string) bool {
		return slices.ContainsFunc(entries, func(e os.DirEntry) bool { return !slices.Contains(known, e.Name()) })
	}
	_, packed := os.Stat(filepath.Join(dir, "packed-refs"))
	empty = !holds(objects, "info", "pack") && !holds(refs, "heads", "tags") && errors.Is(packed, fs.ErrNotExist)
	return err == nil && objectsErr == nil && refsErr == nil, empty
}

// complete gives a repository what it must have and what does not depend on what
// is in it: HEAD and config always, objects and refs if nothing was ever stored.
// A server whose power was cut while it made one left some of them empty. It
// reports what it completed.
func (s *Store) complete(dir string) (completed []string, err error) {
	if _, _, err := readRef(filepath.Join(dir, "HEAD")); err != nil {
		if err := WriteFile(filepath.Join(dir, "HEAD"), []byte("ref: refs/heads/main\n"), 0o644); err != nil {
			return nil, err
		}
		completed = append(completed, "HEAD")
	}
	// Also when the data directory has another place now, or the repository was
	// restored from a mirror.
	if have, err := os.ReadFile(filepath.Join(dir, "config")); err != nil || !bytes.Equal(have, s.config()) {
		if err := WriteFile(filepath.Join(dir, "config"), s.config(), 0o644); err != nil {
			return completed, err
		}
		completed = append(completed, "config")
	}
	if whole, empty := isWhole(dir); whole || !empty {
		return completed, nil
	}
	for _, sub := range []string{"objects/info", "objects/pack", "refs/heads", "refs/tags"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o755); err != nil {
			return completed, err
		}
	}
	return append(completed, "objects", "refs"), syncTree(dir)
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
	if r.dir == "" { // InMemory: nothing comes
		return nil
	}
	storage := filesystem.NewStorageWithOptions(osfs.New(r.dir), r.objects,
		filesystem.Options{MaxOpenDescriptors: maxOpenPacks})
	g, err := git.Open(storage, nil)
	if err != nil {
		return fmt.Errorf("open repository %s: %w", r.name, err)
	}
	r.close()
	r.git, r.packfiles = g, storage
	return nil
}

// maxOpenPacks is how many packs of a repository go-git keeps open: the large one,
// and one with what is new. Opening one costs more than reading a commit from it.
const maxOpenPacks = 2

// close closes the packs that go-git has open. The caller holds r.mu, as above.
func (r *Repository) close() {
	if r.packfiles != nil {
		_ = r.packfiles.Close() // nothing was written
		r.packfiles = nil
	}
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
		name, isRepository := strings.CutSuffix(e.Name(), ".git")
		if isRepository && e.IsDir() && CheckName(name) == nil {
			completed, err := s.complete(path)
			if err != nil {
				return swept, fmt.Errorf("complete repository %s: %w", name, err)
			}
			packs, err := s.completePacks(path)
			if err != nil {
				return swept, fmt.Errorf("complete repository %s: %w", name, err)
			}
			for _, what := range append(completed, packs...) {
				swept = append(swept, e.Name()+"/"+what)
			}
		}
		err := filepath.WalkDir(path, func(p string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			if p == filepath.Join(path, recallDir, viewsDir) { // links to what is looked at
				return fs.SkipDir
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
	f, err := os.CreateTemp(dir, unwritten)
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

// unwritten begins the name of a file that WriteFile has not finished.
const unwritten = ".tmp-"

// Written lists the paths of the files that WriteFile has written to a directory.
// sweep removes what is unfinished: nobody may be writing there.
func Written(dir string, sweep bool) (paths []string, err error) {
	files, err := os.ReadDir(dir)
	for _, f := range files {
		path := filepath.Join(dir, f.Name())
		switch {
		case !strings.HasPrefix(f.Name(), unwritten):
			paths = append(paths, path)
		case sweep:
			err = errors.Join(err, os.Remove(path))
		}
	}
	return paths, err
}

// RemoveFile removes a file durably.
func RemoveFile(path string) error {
	if err := os.Remove(path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

// MakeDir makes a directory, and those above it, durably.
func MakeDir(path string, perm os.FileMode) error {
	if info, err := os.Stat(path); err == nil && info.IsDir() {
		return nil
	}
	if parent := filepath.Dir(path); parent != path {
		if err := MakeDir(parent, perm); err != nil {
			return err
		}
	}
	if err := os.Mkdir(path, perm); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return syncDir(filepath.Dir(path))
}

// syncTree syncs every file and directory below dir, and dir.
func syncTree(dir string) error {
	return filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && (d.IsDir() || d.Type().IsRegular()) {
			err = syncDir(path)
		}
		return err
	})
}

// Rename renames a file within its directory, durably.
func Rename(from, to string) error {
	if err := os.Rename(from, to); err != nil {
		return err
	}
	return syncDir(filepath.Dir(to))
}
