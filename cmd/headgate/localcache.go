package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/headgate-cd/headgate/hooks/build"
	"github.com/headgate-cd/headgate/hooks/build/cache"
	"github.com/headgate-cd/headgate/hooks/build/host"
)

// localCache is what tools of builds of a directory keep for the next one: of green
// ones, as on a server of changes that land. Without it, or beside another build of
// the same directory, a build does without. keep ends it, once.
func localCache(ctx context.Context, executor *host.Host, dir string) (use build.Cache, keep func(green bool)) {
	none := func(bool) {}
	home, err := os.UserCacheDir()
	if err != nil || !executor.Overlays(ctx) {
		return build.Cache{}, none
	}
	all := filepath.Join(home, "headgate")
	of := fmt.Sprintf("%x", sha256.Sum256([]byte(dir)))[:16]
	at := filepath.Join(all, of)
	if err := os.MkdirAll(at, 0o700); err != nil {
		return build.Cache{}, none
	}
	lock := lockDirectory(at)
	if lock == nil {
		return build.Cache{}, none
	}
	if err := os.WriteFile(filepath.Join(at, cacheOf), []byte(dir+"\n"), 0o600); err != nil {
		lock.Close()
		return build.Cache{}, none
	}
	pruneCaches(all, time.Now())
	store, err := cache.Open(filepath.Join(at, "cache"), slog.New(slog.DiscardHandler))
	if err != nil {
		lock.Close()
		return build.Cache{}, none
	}
	const id = "run"
	u, err := store.Use(of, id)
	if err != nil {
		lock.Close()
		return build.Cache{}, none
	}
	var once sync.Once
	return build.Cache{Lower: u.Lower, Upper: u.Upper, Work: u.Work, Merged: u.Merged}, func(green bool) {
		once.Do(func() {
			end(store, u, green)
			lock.Close()
		})
	}
}

// end ends the use of a local cache.
func end(store *cache.Store, u *cache.Use, green bool) {
	if green {
		u.Keep()
		store.Landed(u.Repository, u.Build)
	} else {
		u.Drop()
	}
	store.Close()
}

// cacheOf is the file of a local cache that says which directory it is of. Each use writes it.
const cacheOf = "directory"

// How long a local cache is kept that was not used: of a directory that is gone, which may
// be on a disk that is to come back; and of any.
const (
	keptWhenGone = 24 * time.Hour
	keptUnused   = 90 * 24 * time.Hour
)

var cacheForm = regexp.MustCompile(`^[0-9a-f]{16}$`)

// pruneCaches removes local caches of directories that are gone, and those that nobody uses.
func pruneCaches(all string, now time.Time) {
	caches, _ := os.ReadDir(all) // what cannot be read is not removed
	for _, c := range caches {
		if !cacheForm.MatchString(c.Name()) {
			continue
		}
		at := filepath.Join(all, c.Name())
		used, kept := filepath.Join(at, cacheOf), keptUnused
		info, err := os.Stat(used)
		if err != nil { // of a version that did not write it
			info, err = os.Stat(at)
		}
		if dir, rerr := os.ReadFile(used); rerr == nil {
			_, gone := os.Stat(strings.TrimSuffix(string(dir), "\n"))
			if errors.Is(gone, fs.ErrNotExist) {
				kept = keptWhenGone
			}
		}
		if err != nil || now.Sub(info.ModTime()) < kept {
			continue
		}
		if lock := lockDirectory(at); lock != nil {
			build.RemoveAll(at)
			lock.Close()
		}
	}
}

// lockDirectory takes a local cache for this process; nil when another has it, or has removed
// it meanwhile.
func lockDirectory(at string) *os.File {
	lock, err := os.Open(at)
	if err != nil {
		return nil
	}
	held, err := lock.Stat()
	if err == nil {
		err = syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	}
	if there, serr := os.Stat(at); err != nil || serr != nil || !os.SameFile(held, there) {
		lock.Close()
		return nil
	}
	return lock
}
