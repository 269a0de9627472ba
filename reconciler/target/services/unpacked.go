package services

import (
	"context"
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

// unpackedReleases are artifacts unpacked to directories that instances run from, one
// directory per digest, read-only, shared. They are unpacked again when they differ from
// what was unpacked, which is written down beside each: instances run from them
// still when the agent comes back.
type unpackedReleases struct {
	dir    string
	unpack func(ctx context.Context, digest, dir string) error

	mu  sync.Mutex
	all map[string]*unpacked
}

// unpacked is one artifact.
type unpacked struct {
	mu    sync.Mutex   // held while the directory is made or looked at
	print uint64       // of the directory as it was unpacked
	made  atomic.Int64 // how often it was unpacked; written with mu held

	// Guarded by unpackedReleases.mu.
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

// open takes over what earlier runs have unpacked. What nothing runs from, and is not
// as it was unpacked, is removed.
func (u *unpackedReleases) open(used map[string]bool) error {
	if err := os.MkdirAll(u.dir, 0o755); err != nil {
		return err
	}
	entries, err := os.ReadDir(u.dir)
	if err != nil {
		return err
	}
	inUse := map[string]string{} // name of the directory → digest
	for digest := range used {
		inUse[filepath.Base(u.directory(digest))] = digest
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, e := range entries {
		if !e.IsDir() {
			continue
		}
		dir := filepath.Join(u.dir, e.Name())
		digest, isUsed := inUse[e.Name()]
		if !isUsed {
			digest = strings.Replace(e.Name(), "-", ":", 1)
		}
		var p print
		known := readRecord(dir+".json", &p) == nil
		switch {
		case known && digestForm().MatchString(digest):
			made := u.entry(digest)
			made.print, made.used = p.Print, time.Now()
			made.made.Store(p.Made)
		case isUsed: // as good as changed
			u.entry(digest).made.Store(1)
		default:
			err = errors.Join(err, removeTree(dir))
		}
	}
	return err
}

// hold keeps a directory that something runs from until release.
func (u *unpackedReleases) hold(digest string) (dir string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	e := u.entry(digest)
	e.users++
	e.used = time.Now()
	return u.directory(digest)
}

func (u *unpackedReleases) directory(digest string) string {
	return filepath.Join(u.dir, regexp.MustCompile(`[^a-z0-9]`).ReplaceAllString(digest, "-"))
}

// entry is called with u.mu held.
func (u *unpackedReleases) entry(digest string) *unpacked {
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

// use unpacks an artifact unless its directory is there and as it was, and keeps the
// directory until release.
func (u *unpackedReleases) use(ctx context.Context, digest string) (dir string, err error) {
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
			u.release(digest)
		}
	}()
	e.mu.Lock()
	defer e.mu.Unlock()
	dir = u.directory(digest)
	if print, err := fingerprint(dir); e.made.Load() > 0 && err == nil && print == e.print {
		return dir, nil
	}
	if err := errors.Join(forgetPrint(dir), removeTree(dir)); err != nil {
		return "", fmt.Errorf("unpack %s: %w", digest, err)
	}
	temp, err := os.MkdirTemp(u.dir, ".unpacking-")
	if err != nil {
		return "", fmt.Errorf("unpack %s: %w", digest, err)
	}
	if err := u.place(ctx, digest, temp, dir); err != nil {
		return "", errors.Join(fmt.Errorf("unpack %s: %w", digest, err), removeTree(temp))
	}
	if e.print, err = fingerprint(dir); err != nil {
		return "", fmt.Errorf("unpack %s: %w", digest, err)
	}
	if err := writeRecord(dir+".json", print{recordVersion, e.print, e.made.Add(1)}); err != nil {
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

func (u *unpackedReleases) place(ctx context.Context, digest, temp, dir string) error {
	if err := u.unpack(ctx, digest, temp); err != nil {
		return err
	}
	if err := readOnly(temp); err != nil {
		return err
	}
	crash.Point("services.release-unpacked")
	if err := os.Rename(temp, dir); err != nil {
		return err
	}
	crash.Point("services.release-placed")
	return nil
}

// release ends a use, and removes the directories that were idle longest over the bound.
func (u *unpackedReleases) release(digest string) {
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
		_ = errors.Join(os.Remove(u.directory(d)+".json"), removeTree(u.directory(d)))
		delete(u.all, d)
	}
}

// generation numbers the directory of an artifact: it changes when the directory had to
// be unpacked anew, so that instances of the earlier one can be replaced.
func (u *unpackedReleases) generation(digest string) int64 {
	u.mu.Lock()
	defer u.mu.Unlock()
	return max(1, u.entry(digest).made.Load())
}

// inspect is generation after a look at the directory: one more than it is when the
// directory is not as it was unpacked.
func (u *unpackedReleases) inspect(digest string) int64 {
	u.mu.Lock()
	e := u.entry(digest)
	u.mu.Unlock()
	e.mu.Lock()
	defer e.mu.Unlock()
	made := e.made.Load()
	if made == 0 {
		return 1
	}
	if print, err := fingerprint(u.directory(digest)); err != nil || print != e.print {
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

// removeTree removes a tree that may be read-only.
func removeTree(dir string) error {
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
