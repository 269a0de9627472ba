package services

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/headgate-cd/headgate/gitd/tty"
	"github.com/headgate-cd/headgate/reconciler/target"
)

// smallDisk mounts a disk of so many bytes at a directory, until the test ends or away is
// called.
func smallDisk(t *testing.T, dir string, size int64) (away func()) {
	t.Helper()
	if os.Geteuid() != 0 && os.Getenv("CI") == "" {
		t.Skip("SKIPPED: only root mounts a disk to be filled")
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%d", size)); err != nil {
		t.Fatal(err)
	}
	away = func() { _ = unix.Unmount(dir, unix.MNT_DETACH) } // it may be away
	t.Cleanup(away)
	return away
}

// TestDiskFullAtUnpack: a release for which there is no room is failed, with that as its
// reason, and the one before serves; once there is room it takes over.
func TestDiskFullAtUnpack(t *testing.T) {
	t.Parallel()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(self)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	away := smallDisk(t, filepath.Join(dir, "releases"), info.Size()*3/2)
	h := openIn(t, dir, t.TempDir(), func(s *Target) { s.Unconfined = true })
	h.converge(1, web)
	h.await(target.Healthy)
	h.converge(2, web)
	if o := h.await(target.Failed); !strings.Contains(o.Message, "no space left on device") ||
		!strings.Contains(o.Message, "release 1 goes on serving") {
		t.Errorf("%s", o.Message)
	}
	h.get("/", "release 1")
	if err := unix.Mount("tmpfs", filepath.Join(dir, "releases"), "tmpfs", unix.MS_REMOUNT,
		fmt.Sprintf("size=%d", info.Size()*5)); err != nil {
		t.Fatal(err)
	}
	h.converge(3, web)
	h.await(target.Healthy)
	h.get("/", "release 3")
	h.stop()
	away()
}

// TestDiskFullAtLogs: what instances print is lost where there is no room for it, and
// nothing else: they serve, and the next release takes over.
func TestDiskFullAtLogs(t *testing.T) {
	t.Parallel()
	logs := t.TempDir()
	away := smallDisk(t, logs, 64<<10)
	h := openIn(t, t.TempDir(), logs, func(s *Target) { s.Unconfined = true })
	h.converge(1, web)
	h.await(target.Healthy)
	filler, err := os.Create(filepath.Join(logs, "filler"))
	if err != nil {
		t.Fatal(err)
	}
	for {
		if _, err := filler.Write(make([]byte, 4096)); err != nil {
			break
		}
	}
	filler.Close()
	h.converge(2, web)
	for _, in := range h.await(target.Healthy).Units[0].Instances {
		if in.Release == 2 && in.Restarts > 0 {
			t.Errorf("%+v", in)
		}
	}
	h.get("/", "release 2")
	logged := func(what string, lost bool) {
		t.Helper()
		eventually(t, what, func() (string, bool) {
			o := h.Observe(h.key())
			for _, in := range o.Units[0].Instances {
				if in.Release != 2 || (in.Reason == target.ReasonLogLost) != lost ||
					lost && in.Message != "what it prints is lost: no space left on device" {
					return fmt.Sprintf("%+v", o), false
				}
			}
			return "", o.State == target.Healthy && len(o.Units[0].Instances) == 2
		})
	}
	logged("it is said that what they print is lost", true)
	if err := os.Remove(filler.Name()); err != nil {
		t.Fatal(err)
	}
	for _, in := range h.Observe(h.key()).Units[0].Instances { // which is noted in their logs
		_, err := h.Exec(t.Context(), h.key(), target.Exec{
			Unit:     "web",
			Instance: in.ID,
			Command:  []string{"true"},
			Streams:  tty.Streams{Out: io.Discard, Err: io.Discard},
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	logged("it is said no more", false)
	h.stop()
	away()
}

// TestFloodOfOutput: an instance that prints ten million bytes a second serves on, and
// what is kept of it has its bounds, in its log and in the file that it prints to.
func TestFloodOfOutput(t *testing.T) {
	t.Parallel()
	h := open(t, false)
	h.converge(1, strings.Replace(web, "replicas: 2", "replicas: 1", 1))
	h.await(target.Healthy)
	h.get("/flood", "begun")
	log := h.logPath(h.key(), "web-1")
	eventually(t, "it is said what was left out", func() (string, bool) {
		h.get("/", "release 1")
		data, err := os.ReadFile(log)
		return fmt.Sprint(len(data), err), strings.Contains(string(data), "were left out here: more than 2000 lines or 512 KiB in a second")
	})
	h.get("/flooded", "ten million") // it was never held up for long
	eventually(t, "the backlog is read", func() (string, bool) {
		var used, kept int64
		for _, f := range []string{log, log + ".1"} {
			if info, err := os.Stat(f); err == nil {
				kept += info.Size()
			}
		}
		out, err := os.Stat((&app{owner: h.Target, home: h.key()}).file("web-1", ".out"))
		if err == nil {
			used = out.Sys().(*syscall.Stat_t).Blocks * 512
		}
		if kept > 4<<20 || used > 2*maxBacklog+10<<20 {
			t.Fatalf("%d bytes are kept of it, and %d wait", kept, used)
		}
		return fmt.Sprint(kept, used, err), err == nil && used < maxBacklog
	})
	if o := h.await(target.Healthy); o.Units[0].Instances[0].Restarts != 0 {
		t.Errorf("%+v", o.Units[0].Instances)
	}
	h.end()
}
