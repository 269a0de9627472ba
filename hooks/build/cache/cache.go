// Package cache keeps what the tools of a repository's builds have downloaded and
// compiled, for the builds after it.
//
// A build sees the cache of its repository and writes to a layer of its own, which
// no other build sees. When what it built has landed the layer becomes part of the
// cache; else it is dropped. So what main's builds read was written by what is on
// main, and never by a change that somebody only proposed.
//
// On disk: <repository>/<generation>-<bytes>, read-only from the moment it has that
// name, and <repository>/layers/<build>. All of it may be deleted when no server
// runs. A generation shares its files with the one before by hard links.
package cache

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// Bounds of what is kept.
const (
	maxBytes   = 4 << 30  // of one repository: over it, its cache begins anew
	maxEntries = 500_000  // files and directories of one repository
	maxTotal   = 20 << 30 // of all: over it, those go that were not used for longest
	maxLayers  = 16       // of one repository, of builds whose change has not landed yet
)

// Store is the caches of all repositories.
type Store struct {
	dir string
	log *slog.Logger

	promoting sync.WaitGroup

	mu    sync.Mutex
	users map[string]int    // of a generation, by its path
	kept  map[string][]*Use // of a repository, the oldest first: green and not landed

	bytes, entries int64 // bounds of one repository, less in a test
}

// Open opens a directory of caches, making it if absent. What an earlier process was
// at is removed.
func Open(dir string, log *slog.Logger) (*Store, error) {
	s := &Store{dir: dir, log: log, users: map[string]int{}, kept: map[string][]*Use{}, bytes: maxBytes,
		entries: maxEntries}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("open caches: %w", err)
	}
	repositories, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("open caches: %w", err)
	}
	for _, r := range repositories {
		removeAll(filepath.Join(dir, r.Name(), "layers"))
		current, _ := s.current(r.Name())
		generations, _ := os.ReadDir(filepath.Join(dir, r.Name())) // what cannot be read is not removed
		for _, g := range generations {
			if path := filepath.Join(dir, r.Name(), g.Name()); path != current {
				removeAll(path)
			}
		}
	}
	return s, nil
}

// Close waits until nothing is written any more.
func (s *Store) Close() { s.promoting.Wait() }

// Use is a cache as one build uses it.
type Use struct {
	Lower  string // what there is, not to be written to; "" for nothing
	Upper  string // takes what the build writes
	Work   string // for the kernel, beside Upper
	Merged string // where both may be seen together

	Repository, Build string

	store *Store
}

var plainName = sync.OnceValue(
	func() *regexp.Regexp { return regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,199}$`) })

// Use lets a build use the cache of a repository. One of Keep and Drop must follow.
func (s *Store) Use(repository, build string) (*Use, error) {
	if !plainName().MatchString(repository) || !plainName().MatchString(build) {
		return nil, fmt.Errorf("use the cache of %q for %q: not names", repository, build)
	}
	dir := filepath.Join(s.dir, repository, "layers", build)
	u := &Use{
		Upper:      filepath.Join(dir, "upper"),
		Work:       filepath.Join(dir, "work"),
		Merged:     filepath.Join(dir, "merged"),
		store:      s,
		Repository: repository,
		Build:      build,
	}
	for _, d := range []string{u.Upper, u.Work, u.Merged} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return nil, fmt.Errorf("use the cache of %s: %w", repository, err)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if u.Lower, _ = s.current(repository); u.Lower != "" {
		s.users[u.Lower]++
		now := unix.Timeval{}
		_ = unix.Gettimeofday(&now)
		_ = unix.Utimes(filepath.Dir(u.Lower), []unix.Timeval{now, now}) // when it was used last; a wrong one only evicts too early
	}
	return u, nil
}

// current is the newest generation of a repository, "" if there is none, and how
// many bytes it holds.
func (s *Store) current(repository string) (path string, bytes int64) {
	entries, _ := os.ReadDir(filepath.Join(s.dir, repository)) // no directory: nothing
	newest := 0
	for _, e := range entries {
		number, size, _ := strings.Cut(e.Name(), "-")
		n, err := strconv.Atoi(number)
		b, err2 := strconv.ParseInt(size, 10, 64)
		if err == nil && err2 == nil && n > newest {
			newest, path, bytes = n, filepath.Join(s.dir, repository, e.Name()), b
		}
	}
	return path, bytes
}

// generation is the number in a generation's path.
func generation(path string) int {
	number, _, _ := strings.Cut(filepath.Base(path), "-")
	n, _ := strconv.Atoi(number)
	return n
}

// Keep ends the use by a build whose layer may become part of the cache.
func (u *Use) Keep() {
	s := u.store
	s.mu.Lock()
	s.letGo(u)
	list := append(s.kept[u.Repository], u)
	var over []*Use
	if n := len(list) - maxLayers; n > 0 {
		over, list = list[:n], list[n:]
	}
	s.kept[u.Repository] = list
	s.mu.Unlock()
	for _, o := range over {
		removeAll(filepath.Dir(o.Upper))
	}
}

// Drop ends the use by a build whose layer is of no use to others.
func (u *Use) Drop() {
	u.store.mu.Lock()
	u.store.letGo(u)
	u.store.mu.Unlock()
	removeAll(filepath.Dir(u.Upper))
}

// letGo lets go of the generation that a build used, which goes when it is the
// last to use it and it is not the newest. The caller holds s.mu.
func (s *Store) letGo(u *Use) {
	if u.Lower == "" {
		return
	}
	if s.users[u.Lower]--; s.users[u.Lower] > 0 {
		return
	}
	delete(s.users, u.Lower)
	if current, _ := s.current(u.Repository); current != u.Lower {
		removeAll(u.Lower)
	}
}

// Landed makes the layer of a build part of its repository's cache: what it built
// has landed. It returns at once.
func (s *Store) Landed(repository, build string) {
	s.mu.Lock()
	var landed *Use
	for i, u := range s.kept[repository] {
		if u.Build == build {
			landed = u
			s.kept[repository] = append(s.kept[repository][:i:i], s.kept[repository][i+1:]...)
			break
		}
	}
	s.mu.Unlock()
	if landed == nil {
		return
	}
	s.promoting.Go(func() {
		if err := s.promote(landed); err != nil {
			s.log.Warn("a build's cache was not taken over", "repo", repository, "build", build, "err", err)
		}
		removeAll(filepath.Dir(landed.Upper))
	})
}

// errBound is met by a cache that holds too much.
var errBound = errors.New("it holds more than is kept")

// promote makes a generation of the newest one and a layer. While that is used by
// builds it stays as it is; the new one has its name when it is whole.
func (s *Store) promote(u *Use) error {
	if empty, err := isEmpty(u.Upper); empty || err != nil {
		return err
	}
	s.mu.Lock()
	base, _ := s.current(u.Repository)
	if base != "" {
		s.users[base]++
	}
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		s.letGo(&Use{Lower: base, Repository: u.Repository, store: s})
		s.mu.Unlock()
	}()

	half, err := os.MkdirTemp(filepath.Join(s.dir, u.Repository), "half-")
	if err != nil {
		return err
	}
	defer removeAll(half)
	g := &growing{dir: half, bytes: s.bytes, entries: s.entries}
	if base != "" {
		err = g.add(base)
	}
	if err == nil {
		err = g.add(u.Upper)
	}
	if errors.Is(err, errBound) && base != "" {
		// It begins anew with what was used last.
		removeAll(half)
		if err := os.Mkdir(half, 0o755); err != nil {
			return err
		}
		g = &growing{dir: half, bytes: s.bytes, entries: s.entries}
		err = g.add(u.Upper)
	}
	if err != nil {
		return err
	}

	s.mu.Lock()
	defer s.mu.Unlock()
	if newest, _ := s.current(u.Repository); newest != base {
		return nil // another has landed meanwhile; what this one lacks is made again
	}
	name := fmt.Sprintf("%d-%d", generation(base)+1, g.size)
	if err := os.Rename(half, filepath.Join(s.dir, u.Repository, name)); err != nil {
		return err
	}
	s.evict(u.Repository)
	return nil
}

// evict removes caches that were not used for longest until all together are
// within their bound. The caller holds s.mu.
func (s *Store) evict(except string) {
	for {
		entries, err := os.ReadDir(s.dir)
		if err != nil {
			return
		}
		var total int64
		var oldest string
		var when int64
		for _, e := range entries {
			path, bytes := s.current(e.Name())
			info, err := e.Info()
			if path == "" || err != nil {
				continue
			}
			total += bytes
			if used := info.ModTime().UnixNano(); e.Name() != except && s.users[path] == 0 && (oldest == "" || used < when) {
				oldest, when = path, used
			}
		}
		if total <= maxTotal || oldest == "" {
			return
		}
		removeAll(oldest)
	}
}

// growing is a generation that is being made.
type growing struct {
	dir            string
	bytes, entries int64 // bounds
	size, count    int64
}

// add links the files of a directory into the generation, in place of those that
// are there, and leaves out what the directory says was removed: files and links
// only, since nothing else is of use to a tool.
func (g *growing) add(from string) error {
	return filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		to := filepath.Join(g.dir, rel)
		info, err := d.Info()
		if err != nil {
			return err
		}
		if g.count++; g.count > g.entries {
			return errBound
		}
		old, missing := os.Lstat(to)
		if d.IsDir() {
			if missing == nil && (!old.IsDir() || rel != "." && opaque(path)) {
				removeAll(to)
			}
			return os.MkdirAll(to, 0o755)
		}
		if missing == nil {
			if old.Mode().IsRegular() {
				g.size -= old.Size()
			}
			removeAll(to)
		}
		switch {
		case d.Type().IsRegular():
			if g.size += info.Size(); g.size > g.bytes {
				return errBound
			}
			return os.Link(path, to)
		case d.Type()&fs.ModeSymlink != 0:
			target, err := os.Readlink(path)
			if err != nil {
				return err
			}
			return os.Symlink(target, to)
		}
		return nil // removed, when it is a device
	})
}

// opaque reports whether a directory of a layer hides what was below it.
func opaque(dir string) bool {
	for _, name := range []string{"trusted.overlay.opaque", "user.overlay.opaque"} {
		value := make([]byte, 1)
		if n, err := syscall.Getxattr(dir, name, value); err == nil && n == 1 && value[0] == 'y' {
			return true
		}
	}
	return false
}

func isEmpty(dir string) (bool, error) {
	entries, err := os.ReadDir(dir)
	return len(entries) == 0, err
}

// removeAll removes a directory that a build may have made read-only. What is left
// even so is removed at the next start.
func removeAll(dir string) {
	if os.RemoveAll(dir) == nil {
		return
	}
	_ = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if d != nil && d.IsDir() {
			return os.Chmod(path, 0o700)
		}
		return nil
	})
	_ = os.RemoveAll(dir)
}
