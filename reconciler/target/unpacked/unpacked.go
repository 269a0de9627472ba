// Package unpacked keeps artifacts of releases unpacked to directories that processes run
// from: one directory per digest, read-only, shared.
package unpacked

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/headgate-cd/headgate/gitd/crash"
)

// Store has the directories. An artifact is unpacked again when its directory differs
// from what was unpacked, which is written down beside each: instances run from them
// still when the program that started them comes back.
type Store struct {
	Dir    string
	Unpack func(ctx context.Context, digest, dir string) error // must verify the bytes

	mu  sync.Mutex
	all map[string]*unpacked
}

// unpacked is one artifact.
type unpacked struct {
	mu    sync.Mutex   // held while the directory is made or looked at
	print uint64       // of the directory as it was unpacked
	made  atomic.Int64 // how often it was unpacked; written with mu held

	// Guarded by Store.mu.
	users int
	used  time.Time
}

// maxIdleReleases is how many directories that nobody uses are kept for a rollback.
const maxIdleReleases = 5

var digestForm = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[a-z0-9]+:[0-9a-f]{32,128}$`) })

// print is what is written down about a directory.
type print struct {
	Version int    `json:"version"`
	Print   uint64 `json:"print,string"`
	Made    int64  `json:"made"`
}

// printVersion is the version of what is written down.
const printVersion = 1

func readPrint(dir string) (p print, err error) {
	data, err := os.ReadFile(dir + ".json")
	if err != nil {
		return p, err
	}
	if err := json.Unmarshal(data, &p); err != nil {
		return p, err
	}
	if p.Version != printVersion {
		return p, fmt.Errorf("%s.json has version %d", dir, p.Version)
	}
	return p, nil
}

// writePrint writes it whole, without syncing it: a directory without its print is
// unpacked again.
func writePrint(dir string, p print) error {
	data, err := json.Marshal(p)
	if err != nil {
		return err
	}
	half := dir + ".json.half"
	if err := os.WriteFile(half, data, 0o600); err != nil {
		return errors.Join(err, os.Remove(half))
	}
	return os.Rename(half, dir+".json")
}

// Open takes over what earlier runs have unpacked. What nothing runs from, and is not
// as it was unpacked, is removed.
func (u *Store) Open(used map[string]bool) error {
	if err := os.MkdirAll(u.Dir, 0o755); err != nil {
		return err
	}
	entries, err := os.ReadDir(u.Dir)
	if err != nil {
		return err
	}
	inUse := map[string]string{} // name of the directory → digest
	for digest := range used {
		inUse[filepath.Base(u.Directory(digest))] = digest
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, e := range entries {
		if !e.IsDir() {
			continue
		}
		dir := filepath.Join(u.Dir, e.Name())
		digest, isUsed := inUse[e.Name()]
		if !isUsed {
			digest = strings.Replace(e.Name(), "-", ":", 1)
		}
		p, unknown := readPrint(dir)
		switch {
		case unknown == nil && digestForm().MatchString(digest):
			made := u.entry(digest)
			made.print, made.used = p.Print, time.Now()
			made.made.Store(p.Made)
		case isUsed: // as good as changed
			u.entry(digest).made.Store(1)
		default:
			err = errors.Join(err, RemoveTree(dir))
		}
	}
	return err
}

// Hold keeps a directory that something runs from until Release.
func (u *Store) Hold(digest string) (dir string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	e := u.entry(digest)
	e.users++
	e.used = time.Now()
	return u.Directory(digest)
}

// Directory is where an artifact is unpacked to, whether or not it is there.
func (u *Store) Directory(digest string) string {
	return filepath.Join(u.Dir, regexp.MustCompile(`[^a-z0-9]`).ReplaceAllString(digest, "-"))
}

// entry is called with u.mu held.
func (u *Store) entry(digest string) *unpacked {
	if u.all == nil {
		u.all = map[string]*unpacked{}
	}
	e := u.all[digest]
	if e == nil {
		e = &unpacked{}
		u.all[digest] = e
	}
	return e
}

// Use unpacks an artifact unless its directory is there and as it was, and keeps the
// Directory until Release.
func (u *Store) Use(ctx context.Context, digest string) (dir string, err error) {
	if !digestForm().MatchString(digest) {
		return "", fmt.Errorf("artifact digest %q is none", digest)
	}
	u.mu.Lock()
	e := u.entry(digest)
	e.users++
	e.used = time.Now()
	u.mu.Unlock()
	defer func() {
		if err != nil {
			u.Release(digest)
		}
	}()
	e.mu.Lock()
	defer e.mu.Unlock()
	dir = u.Directory(digest)
	if print, err := fingerprint(dir); e.made.Load() > 0 && err == nil && print == e.print {
		return dir, nil
	}
	if err := errors.Join(forgetPrint(dir), RemoveTree(dir)); err != nil {
		return "", fmt.Errorf("unpack %s: %w", digest, err)
	}
	temp, err := os.MkdirTemp(u.Dir, ".unpacking-")
	if err != nil {
		return "", fmt.Errorf("unpack %s: %w", digest, err)
	}
	if err := u.place(ctx, digest, temp, dir); err != nil {
		return "", errors.Join(fmt.Errorf("unpack %s: %w", digest, err), RemoveTree(temp))
	}
	if e.print, err = fingerprint(dir); err != nil {
		return "", fmt.Errorf("unpack %s: %w", digest, err)
	}
	if err := writePrint(dir, print{printVersion, e.print, e.made.Add(1)}); err != nil {
		return "", fmt.Errorf("unpack %s: %w", digest, err)
	}
	return dir, nil
}

func forgetPrint(dir string) error {
	if err := os.Remove(dir + ".json"); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

func (u *Store) place(ctx context.Context, digest, temp, dir string) error {
	if err := u.Unpack(ctx, digest, temp); err != nil {
		return err
	}
	if err := readOnly(temp); err != nil {
		return err
	}
	crash.Point("unpacked.release-unpacked")
	if err := os.Rename(temp, dir); err != nil {
		return err
	}
	crash.Point("unpacked.release-placed")
	return nil
}

// Release ends a use, and removes the directories that were idle longest over the bound.
func (u *Store) Release(digest string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.all[digest].users--
	var idle []string
	for d, e := range u.all {
		if e.users == 0 {
			idle = append(idle, d)
		}
	}
	slices.SortFunc(idle, func(a, b string) int { return u.all[b].used.Compare(u.all[a].used) })
	for _, d := range idle[min(len(idle), maxIdleReleases):] {
		// What cannot be removed now is removed at the next start.
		_ = errors.Join(os.Remove(u.Directory(d)+".json"), RemoveTree(u.Directory(d)))
		delete(u.all, d)
	}
}

// Generation numbers the directory of an artifact: it changes when the directory had to
// be unpacked anew, so that instances of the earlier one can be replaced.
func (u *Store) Generation(digest string) int64 {
	u.mu.Lock()
	defer u.mu.Unlock()
	return max(1, u.entry(digest).made.Load())
}

// Inspect is Generation after a look at the directory: one more than it is when the
// Directory is not as it was unpacked.
func (u *Store) Inspect(digest string) int64 {
	u.mu.Lock()
	e := u.entry(digest)
	u.mu.Unlock()
	e.mu.Lock()
	defer e.mu.Unlock()
	made := e.made.Load()
	if made == 0 {
		return 1
	}
	if print, err := fingerprint(u.Directory(digest)); err != nil || print != e.print {
		made++
	}
	return made
}

// fingerprint sums up a tree without reading its files: names, kinds, sizes and
// when and where each was last changed.
func fingerprint(dir string) (uint64, error) {
	h := fnv.New64a()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		st, _ := info.Sys().(*syscall.Stat_t)
		changed := st.Ctim
		if d.IsDir() && path == dir {
			changed = syscall.Timespec{} // renaming it to its place changed that
		}
		fmt.Fprintf(h, "%q %s %d %d %d.%d\n", path, info.Mode(), info.Size(), st.Ino, changed.Sec, changed.Nsec)
		return nil
	})
	return h.Sum64(), err
}

// readOnly takes the right to write from a tree. The top stays writable for its
// owner, since a directory that is not cannot be renamed; the sandbox mounts it read-only.
func readOnly(dir string) error {
	return filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.Type()&fs.ModeSymlink != 0 {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		mode := info.Mode().Perm()&^0o222 | 0o444
		if d.IsDir() {
			mode |= 0o111
		}
		if path == dir {
			mode |= 0o200
		}
		return os.Chmod(path, mode)
	})
}

// RemoveTree removes a tree that may be read-only.
func RemoveTree(dir string) error {
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			err = os.Chmod(path, 0o700)
		}
		return err
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return os.RemoveAll(dir)
}
