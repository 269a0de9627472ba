// Package power cuts the power of a file system, for tests of what is there when it
// comes back.
package power

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Disk is an ext4 on a loop device, whose power can be cut: what was not synced by
// then is not there afterwards.
type Disk struct {
	Dir    string // where it is mounted
	device *os.File
}

// shutdown is EXT4_IOC_SHUTDOWN, and what it is told: lose what the journal has not
// written.
const (
	shutdown   = 0x8004587d
	noLogFlush = 2
)

// New makes a file system in a directory, with its power off. The error says why the
// machine does not let the test.
func New(t *testing.T, dir string) (*Disk, error) {
	t.Helper()
	image := filepath.Join(dir, "image")
	if err := os.WriteFile(image, nil, 0o600); err != nil {
		return nil, err
	}
	if err := os.Truncate(image, 256<<20); err != nil {
		return nil, err
	}
	if out, err := exec.Command("mkfs.ext4", "-q", "-F", image).CombinedOutput(); err != nil {
		return nil, fmt.Errorf("mkfs.ext4: %w: %s", err, out)
	}
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer control.Close()
	file, err := os.OpenFile(image, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	for range 20 { // somebody else may take the free one
		n, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			return nil, fmt.Errorf("find a free loop device: %w", err)
		}
		path := "/dev/loop" + strconv.Itoa(n)
		device, err := os.OpenFile(path, os.O_RDWR, 0)
		if errors.Is(err, os.ErrNotExist) {
			_ = unix.Mknod(path, unix.S_IFBLK|0o600, int(unix.Mkdev(7, uint32(n)))) // opening it says why not
			device, err = os.OpenFile(path, os.O_RDWR, 0)
		}
		if err != nil {
			return nil, err
		}
		err = unix.IoctlSetInt(int(device.Fd()), unix.LOOP_SET_FD, int(file.Fd()))
		if errors.Is(err, unix.EBUSY) {
			device.Close()
			continue
		}
		if err != nil {
			device.Close()
			return nil, fmt.Errorf("set up %s: %w", path, err)
		}
		t.Cleanup(func() {
			_ = unix.IoctlSetInt(int(device.Fd()), unix.LOOP_CLR_FD, 0) // it is let go when it is closed, else
			device.Close()
		})
		d := &Disk{Dir: filepath.Join(dir, "data"), device: device}
		return d, os.Mkdir(d.Dir, 0o755)
	}
	return nil, errors.New("every free loop device is taken by somebody else")
}

// Device is by what another process mounts it: see At.
func (d *Disk) Device() string { return d.device.Name() }

// At is the disk that another process has made.
func At(device, dir string) (*Disk, error) {
	f, err := os.OpenFile(device, os.O_RDWR, 0)
	return &Disk{Dir: dir, device: f}, err
}

// On mounts it: the journal is replayed. It waits until nobody has a file open that the
// last cut has left.
func (d *Disk) On() error {
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(5 * time.Millisecond) {
		// The kernel forgets what it has in memory of the device: blocks that never got there.
		if err := unix.IoctlSetInt(int(d.device.Fd()), unix.BLKFLSBUF, 0); err != nil {
			return fmt.Errorf("empty the cache of %s: %w", d.device.Name(), err)
		}
		// With as few promises as it can make: nothing is written because something else is.
		err := unix.Mount(d.device.Name(), d.Dir, "ext4", 0, "commit=300,noauto_da_alloc,data=writeback")
		if err != nil {
			return fmt.Errorf("mount %s: %w", d.device.Name(), err)
		}
		// What is still mounted elsewhere is mounted a second time, with its power off.
		alive := filepath.Join(d.Dir, ".alive")
		if err = os.WriteFile(alive, nil, 0o600); err == nil {
			return os.Remove(alive)
		}
		if off := unix.Unmount(d.Dir, 0); off != nil || time.Now().After(deadline) {
			return errors.Join(err, off)
		}
	}
}

// Cut loses what is not synced. Whoever uses the file system meets errors.
func (d *Disk) Cut() error {
	f, err := os.Open(d.Dir)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.IoctlSetPointerInt(int(f.Fd()), shutdown, noLogFlush); err != nil {
		return fmt.Errorf("cut the power: %w", err)
	}
	return nil
}

// Off unmounts it, once nobody uses it any more.
func (d *Disk) Off() error {
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(5 * time.Millisecond) {
		err := unix.Unmount(d.Dir, 0)
		if err == nil || time.Now().After(deadline) {
			return err
		}
	}
}

// Apart runs the test again in a mount namespace of its own (and, with more flags, in
// others): a sandbox that somebody starts meanwhile has a copy of all mounts for a
// moment, and would keep a file system alive by it. inside is whether this is that run.
// Elsewhere it is skipped where the machine does not let the test, but for CI.
func Apart(t *testing.T, flags uintptr, variables ...string) (inside bool) {
	t.Helper()
	if os.Getenv(apart) == t.Name() {
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
			t.Fatal(err)
		}
		return true
	}
	again := exec.Command("/proc/self/exe", "-test.run=^"+t.Name()+"$", "-test.v")
	again.Env = append(append(os.Environ(), apart+"="+t.Name()), variables...)
	again.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS | flags, Pdeathsig: syscall.SIGKILL}
	out, err := again.CombinedOutput()
	t.Logf("%s", out)
	switch {
	case err != nil && len(out) == 0 && os.Getenv("CI") == "":
		t.Skipf("NO POWER WAS CUT: %v", err)
	case err != nil:
		t.Fatal(err)
	case strings.Contains(string(out), notCut):
		t.Skip(notCut + ": see above")
	}
	return false
}

const (
	apart  = "HEADGATE_POWER_CUT"
	notCut = "NO POWER WAS CUT"
)

// Needs ends the test where New has failed: that is a fault in CI, which has what it
// takes.
func Needs(t *testing.T, err error) {
	t.Helper()
	switch {
	case err == nil:
	case os.Getenv("CI") != "":
		t.Fatalf("this machine does not let the power of a file system be cut: %v", err)
	default:
		t.Skipf("%s: this machine does not let the test (root, loop devices, mkfs.ext4): %v", notCut, err)
	}
}
