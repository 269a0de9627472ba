package bounds

import (
	"context"
	"fmt"
	"io/fs"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"time"
)

// Disk counts what a build has written. The nil Disk has no limit.
type Disk struct {
	dirs  []string
	limit int64
	met   atomic.Bool

	// Elsewhere is what it has written where nobody can look from here; nil: nothing.
	Elsewhere func() int64
}

// atLeast is what a file or directory counts that takes less: a disk has only so many of them,
// and ten million that are empty fill it as well.
const atLeast = 4096

// NewDisk is nil without a limit. What is in the directories at first counts as well:
// the source is the build's own.
func NewDisk(limit int64, dirs ...string) *Disk {
	if limit <= 0 {
		return nil
	}
	return &Disk{dirs: dirs, limit: limit}
}

// Add has more directories counted, before Watch.
func (d *Disk) Add(dirs ...string) {
	if d != nil {
		d.dirs = append(d.dirs, dirs...)
	}
}

// Over reports whether the limit is met, now or before.
func (d *Disk) Over() bool {
	if d == nil || d.met.Load() {
		return d != nil
	}
	var sum int64
	for _, dir := range d.dirs {
		_ = filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
			if err != nil {
				return nil // it is gone, or never was
			}
			info, err := e.Info()
			if err != nil {
				return nil
			}
			if st, ok := info.Sys().(*syscall.Stat_t); ok {
				sum += max(st.Blocks*512, atLeast)
			}
			if sum > d.limit {
				return fs.SkipAll
			}
			return nil
		})
	}
	if sum <= d.limit && d.Elsewhere != nil {
		sum += d.Elsewhere()
	}
	if sum > d.limit {
		d.met.Store(true)
	}
	return d.met.Load()
}

func (d *Disk) String() string {
	if d == nil || !d.met.Load() {
		return ""
	}
	return fmt.Sprintf("%d MiB of disk", d.limit>>20)
}

// Watch ends a build that goes over its limit while a command runs. Looking takes
// as long as there are files; in between it rests much longer.
func (d *Disk) Watch(ctx context.Context, kill func()) {
	if d == nil {
		return
	}
	rest := time.Second
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(rest):
		}
		at := time.Now()
		if d.Over() {
			kill()
			return
		}
		rest = max(time.Second, 10*time.Since(at))
	}
}
