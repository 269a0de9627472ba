package build_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/headgate-cd/headgate/gitd/sandbox/sandboxtest"
	"github.com/headgate-cd/headgate/hooks/build"
	"github.com/headgate-cd/headgate/hooks/build/buildlog"
)

// logBytes is how long the only log of a bench is.
func (b *bench) logBytes(t *testing.T, dir string) int64 {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, "logs", "*.log"))
	if err != nil || len(names) != 1 {
		t.Fatalf("logs %q, %v", names, err)
	}
	info, err := os.Stat(names[0])
	if err != nil {
		t.Fatal(err)
	}
	return info.Size()
}

// Output without an end, which nobody waits for: the log says where it is cut and grows no
// further, the command goes on, and is ended whole.
func TestB6OutputWithoutEnd(t *testing.T) {
	mark := fmt.Sprintf("headgate-yes-%d", os.Getpid())
	b := prepare(t, map[string]string{"buildspec.yml": steps("while :; do yes '" + mark +
		" and as much more as a line of a noisy build usually has, without which it takes long'; done")})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() {
		for e := range b.logs.Follow(ctx, "t-1", true) {
			if e.Kind == buildlog.Note && strings.HasPrefix(e.Text, "the log is cut here: the output is over 64 MiB") {
				cancel() // what comes now is nowhere
			}
		}
	}()
	w, err := b.logs.Create("t-1", nil)
	if err != nil {
		t.Fatal(err)
	}
	result, err := build.Run(ctx, b.req, b.executor, w, b.store)
	if err != nil || result.Status != build.Stopped {
		t.Errorf("it ended %s, %v", result.Status, err)
	}
	if _, err := w.Finish(string(result.Status)); err != nil {
		t.Fatal(err)
	}
	if size := b.logBytes(t, filepath.Dir(b.req.Source)); size > buildlog.MaxBytes+1<<20 {
		t.Errorf("the log takes %d bytes", size)
	}
	if left := sandboxtest.Left(mark); len(left) > 0 {
		t.Errorf("still there: %q", left)
	}
}

// A line that is longer than the whole log may be is broken up, is cut, and holds up neither
// the command nor the reason why it failed.
func TestB6LineWithoutEnd(t *testing.T) {
	b := spec(t, steps("head -c 100M /dev/zero | tr '\\0' x", "echo on we go; exit 7"))
	b.wants(build.Failed, "the log is cut here: the output is over 64 MiB; the build goes on",
		"Command did not exit successfully echo on we go; exit 7 exit status 7")
	if size := b.logBytes(t, filepath.Dir(b.req.Source)); size > buildlog.MaxBytes+1<<20 {
		t.Errorf("the log takes %d bytes", size)
	}
	for line := range strings.Lines(b.log) {
		if len(line) > buildlog.MaxLine+1 {
			t.Fatalf("a line has %d bytes", len(line))
		}
	}
}

// small mounts a file system of so many MiB for the test.
func small(t *testing.T, size int) string {
	t.Helper()
	dir := t.TempDir()
	err := unix.Mount("small", dir, "tmpfs", 0, fmt.Sprintf("size=%dm,mode=0755", size))
	if errors.Is(err, syscall.EPERM) && os.Getenv("CI") == "" {
		t.Skip("SKIPPED: only root mounts a file system that is full soon")
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// A disk that is full fails the command that filled it, says so, and what there is of the
// build can be removed, which makes the room again.
func TestB1DiskIsFull(t *testing.T) {
	disk := small(t, 48)
	b := prepare(t, map[string]string{"buildspec.yml": steps("head -c 200M /dev/zero >big", "echo not reached")})
	source := filepath.Join(disk, "src")
	if err := os.CopyFS(source, os.DirFS(b.req.Source)); err != nil {
		t.Fatal(err)
	}
	b.req.Source, b.req.Work = source, filepath.Join(disk, "work")
	b.run(t.Context()).wants(build.Failed, "No space left on device", "the disk of this server is full", "!not reached")
	for _, dir := range []string{b.req.Source, b.req.Work} {
		build.RemoveAll(dir)
	}
	left, err := os.ReadDir(disk)
	if err != nil || len(left) > 0 {
		t.Errorf("left on the disk: %v, %v", left, err)
	}
}

// Where the disk of logs is full, no log is finished, and so there is no verdict: a build that
// nobody can read about is not green.
func TestB1DiskOfLogsIsFull(t *testing.T) {
	disk := small(t, 2)
	b := prepare(t, map[string]string{"buildspec.yml": steps("head -c 20M /dev/zero | tr '\\0' x", "true")})
	logs, err := buildlog.OpenDir(filepath.Join(disk, "logs"))
	if err != nil {
		t.Fatal(err)
	}
	w, err := logs.Create("t-1", nil)
	if err != nil {
		t.Fatal(err)
	}
	if result, err := build.Run(t.Context(), b.req, b.executor, w, b.store); err != nil || result.Status != build.Succeeded {
		t.Errorf("the build ended %s, %v", result.Status, err) // its own disk has room
	}
	if digest, err := w.Finish("SUCCEEDED"); !errors.Is(err, syscall.ENOSPC) || digest != "" {
		t.Errorf("the log is finished as %q, %v", digest, err)
	}
	if names, err := filepath.Glob(filepath.Join(disk, "logs", "*", "*")); err != nil || len(names) > 0 {
		t.Errorf("left: %q, %v", names, err)
	}
}
