package host

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/headgate-cd/headgate/hooks/build"
)

// skeleton is what an ordinary user's builds have between the directories of the
// machine and what they write: the same directories, empty, as the user's own.
//
// The kernel gives nobody but root of the machine a layer that can be written to over
// what belongs to root: it would have to copy a directory with its owner, whom a user
// namespace of one user does not have. A directory that is in a layer below already is
// not copied; its owner is whoever made it there. So files can be made, replaced and
// removed everywhere. The files themselves are still root's: what changes one in place
// is refused.
//
// It takes as long to make as a build may take to start, and so it is made once, for all
// builds until the machine's directories change.
type skeleton struct {
	dir  string
	lock *os.File // shared, as long as a build is made of it
}

func (s *skeleton) close() {
	if s != nil {
		s.lock.Close()
	}
}

// skeletons has the skeletons that were made here.
func (h *Host) skeletons() (string, error) {
	if h.Shared != "" {
		return h.Shared, nil
	}
	cache, err := os.UserCacheDir()
	return filepath.Join(cache, "headgate", "system"), err
}

// skeleton is the one of the machine as it is now. The caller closes it.
func (h *Host) skeleton(ctx context.Context, dirs []string) (*skeleton, error) {
	all, err := h.skeletons()
	if err == nil {
		err = os.MkdirAll(all, 0o700)
	}
	if err != nil {
		return nil, err
	}
	dir := filepath.Join(all, generation(dirs))
	for {
		lock, err := os.OpenFile(dir+".lock", os.O_RDWR|os.O_CREATE|unix.O_CLOEXEC, 0o600)
		if err != nil {
			return nil, err
		}
		s := &skeleton{dir: dir, lock: lock}
		err = s.make(ctx, dirs)
		if err == nil {
			err = flock(lock, unix.LOCK_SH)
		}
		if err != nil {
			s.close()
			return nil, err
		}
		// Whoever removes old ones may have taken this one between the two locks.
		if _, err := os.Stat(dir); err == nil {
			return s, nil
		}
		s.close()
	}
}

// make makes it unless it is there. Others wait meanwhile.
func (s *skeleton) make(ctx context.Context, dirs []string) error {
	if _, err := os.Stat(s.dir); err == nil {
		return nil
	}
	if err := flock(s.lock, unix.LOCK_EX); err != nil {
		return err
	}
	if _, err := os.Stat(s.dir); err == nil {
		return nil
	}
	half := s.dir + ".half" // of one that was killed
	build.RemoveAll(half)
	for _, dir := range dirs {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := lay(dir, half+dir); err != nil {
			build.RemoveAll(half)
			return err
		}
	}
	if err := os.Rename(half, s.dir); err != nil {
		return err
	}
	prune(filepath.Dir(s.dir), filepath.Base(s.dir))
	return nil
}

// prune removes skeletons that no build is made of, but for one.
func prune(all, but string) {
	locks, _ := filepath.Glob(filepath.Join(all, "*.lock")) // no pattern of others
	for _, path := range locks {
		name := strings.TrimSuffix(filepath.Base(path), ".lock")
		if name == but {
			continue
		}
		lock, err := os.OpenFile(path, os.O_RDWR|unix.O_CLOEXEC, 0)
		if err != nil {
			continue
		}
		if flock(lock, unix.LOCK_EX|unix.LOCK_NB) == nil {
			build.RemoveAll(filepath.Join(all, name))
			build.RemoveAll(filepath.Join(all, name+".half"))
		}
		lock.Close() // its file stays: another may have opened it, and would lock what is gone
	}
}

// flock waits until it has the lock.
func flock(f *os.File, how int) error {
	for {
		if err := unix.Flock(int(f.Fd()), how); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// generation names the directories of the machine as they are now, without a look at
// all of them: whatever installs packages writes its records, and what people put
// somewhere is near the top. A directory that is not known to a skeleton can be read
// like the rest, and not written to.
func generation(dirs []string) string {
	sum := sha256.New()
	note := func(path string) {
		if info, err := os.Stat(path); err == nil {
			fmt.Fprintln(sum, path, info.ModTime().UnixNano())
		}
	}
	for _, dir := range dirs {
		note(dir)
		for _, pattern := range []string{"*", "local/*", "local/*/*"} {
			at, _ := filepath.Glob(filepath.Join(dir, pattern)) // without fault
			for _, path := range at {
				note(path)
			}
		}
	}
	for _, record := range []string{"/var/lib/dpkg/status", "/var/lib/rpm/rpmdb.sqlite", "/usr/lib/sysimage/rpm/rpmdb.sqlite",
		"/lib/apk/db/installed", "/var/lib/pacman/local"} {
		note(record)
	}
	return hex.EncodeToString(sum.Sum(nil)[:8])
}

// lay makes the directories that are below from below to, and copies what a program that
// installs packages changes in place.
func lay(from, to string) error {
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	return filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		at := to + strings.TrimPrefix(path, from)
		switch {
		case errors.Is(err, fs.ErrNotExist) && path != from:
			return nil // somebody installs something
		case err != nil:
			// What is in it nobody may know; for a build it is empty.
			return unix.Setxattr(at, "user.overlay.opaque", []byte("y"), 0)
		case d.IsDir():
			return os.Mkdir(at, 0o755)
		case d.Type().IsRegular() && slices.Contains(records, filepath.Dir(path)):
			return record(path, at)
		}
		return nil
	})
}

// records are directories whose files dpkg and apt change in place, or link to.
var records = []string{"/var/lib/dpkg", "/var/lib/dpkg/alternatives", "/var/lib/dpkg/triggers", "/var/lib/apt", "/var/lib/apt/lists"}

// record copies a file of the machine. One that nobody may read is a lock.
func record(from, to string) error {
	info, err := os.Stat(from)
	if err != nil || info.Size() > 16<<20 {
		return nil // it is gone, or no record
	}
	data, err := os.ReadFile(from)
	if err != nil && info.Size() > 0 {
		return nil
	}
	return os.WriteFile(to, data, info.Mode().Perm()|0o600)
}
