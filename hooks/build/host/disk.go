package host

import (
	"context"
	"fmt"
	"io/fs"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/headgate-cd/headgate/hooks/build"
)

// disk counts what a build has written.
type disk struct {
	dirs  []string
	limit int64
	met   atomic.Bool
}

// newDisk is nil without a limit. What was there at first counts as well: the source
// is the build's own.
func newDisk(s build.Sandbox, limit int64) *disk {
	if limit <= 0 {
		return nil
	}
	dirs := []string{s.Source, s.Home, s.Temp, s.Cache.Upper}
	if s.System != "" {
		dirs = append(dirs, filepath.Join(s.System, "layers"), filepath.Join(s.System, "var"),
			filepath.Join(s.System, "home"), filepath.Join(s.System, "etc"))
	}
	return &disk{dirs: dirs, limit: limit}
}

// over reports whether the limit is met, now or before.
func (d *disk) over() bool {
	if d == nil || d.met.Load() {
		return d != nil
	}
	var sum int64
	for _, dir := range d.dirs {
		_ = filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
			if err != nil {
				return nil // it is gone, or never was
			}
			if e.IsDir() && e.Name() == "merged" {
				return fs.SkipDir // the layer and what is below it
			}
			info, err := e.Info()
			if err != nil {
				return nil
			}
			if st, ok := info.Sys().(*syscall.Stat_t); ok {
				sum += st.Blocks * 512
			}
			if sum > d.limit {
				return fs.SkipAll
			}
			return nil
		})
	}
	if sum > d.limit {
		d.met.Store(true)
	}
	return d.met.Load()
}

func (d *disk) String() string {
	if d == nil || !d.met.Load() {
		return ""
	}
	return fmt.Sprintf("%d MiB of disk", d.limit>>20)
}

// watch ends a build that goes over its limit while a command runs. Looking takes
// as long as there are files; in between it rests much longer.
func (d *disk) watch(ctx context.Context, kill func()) {
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
		if d.over() {
			kill()
			return
		}
		rest = max(time.Second, 10*time.Since(at))
	}
}
