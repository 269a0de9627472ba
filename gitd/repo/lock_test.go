package repo

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

func TestLock(t *testing.T) {
	dir := t.TempDir()
	first, err := Lock(dir)
	if err != nil {
		t.Fatal(err)
	}
	var locked *Locked
	if _, err := Lock(dir); !errors.As(err, &locked) || locked.Process != os.Getpid() {
		t.Fatalf("a second one: %v", err)
	}
	if err := os.Remove(filepath.Join(dir, "lock")); err != nil {
		t.Fatal(err)
	}
	if _, err := Lock(dir); !errors.As(err, &locked) || locked.Process != 0 {
		t.Fatalf("a second one, of which nothing is known: %v", err)
	}
	if !IsLocked(dir) {
		t.Error("it is locked")
	}
	first.Close()
	if IsLocked(dir) {
		t.Error("it is not locked any more")
	}
	again, err := Lock(dir)
	if err != nil {
		t.Fatal(err)
	}
	again.Close()

	// What a process that was killed had just forked has its lock for a moment.
	gone := exec.Command("true")
	if err := gone.Run(); err != nil {
		t.Fatal(err)
	}
	d, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Flock(int(d.Fd()), syscall.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "lock"), fmt.Appendf(nil, "%d\n", gone.Process.Pid), 0o600); err != nil {
		t.Fatal(err)
	}
	time.AfterFunc(50*time.Millisecond, func() { d.Close() })
	after, err := Lock(dir)
	if err != nil {
		t.Fatal(err)
	}
	after.Close()
}
