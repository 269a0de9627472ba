package server

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/headgate-cd/headgate/hooks/receive"
)

func TestHealthSaysWhatDoesNotWork(t *testing.T) {
	data := t.TempDir()
	lock, err := Lock(data)
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	own := filepath.Join(data, "repositories", "headgate.git")
	run := filepath.Join(data, "run")
	for _, dir := range []string{own, run} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	head := filepath.Join(own, "HEAD")
	if err := os.WriteFile(head, []byte("ref: refs/heads/main\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(run, receive.SocketName)
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	s := &Server{opts: Options{Data: data}, lock: lock, receive: &receive.Listener{Dir: run}}
	if found := s.probe(); len(found) > 0 {
		t.Fatalf("a well server has %q", found)
	}

	if err := os.Remove(head); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(socket); err != nil {
		t.Fatal(err)
	}
	said := strings.Join(s.probe(), "\n")
	for _, want := range []string{"the repositories cannot be read: no such file", "the socket of the hooks is gone"} {
		if !strings.Contains(said, want) {
			t.Errorf("%q does not say %q", said, want)
		}
	}
	if err := os.Rename(data, data+".moved"); err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(data + ".moved")
	if err := os.Mkdir(data, 0o700); err != nil {
		t.Fatal(err)
	}
	if found := s.probe(); len(found) != 1 || !strings.Contains(found[0], "the data directory is gone") {
		t.Errorf("with another directory in its place: %q", found)
	}
	if err := probeWrite("/dev/null"); err == nil {
		t.Error("a probe that cannot write finds nothing")
	}
}

// TestHealthOfAFullDisk: a disk on which nothing can be written any more is told of, and no
// longer once there is room.
func TestHealthOfAFullDisk(t *testing.T) {
	if os.Geteuid() != 0 && os.Getenv("CI") == "" {
		t.Skip("SKIPPED: only root mounts a disk to be filled")
	}
	data := t.TempDir()
	if err := unix.Mount("tmpfs", data, "tmpfs", 0, "size=64k"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(data, unix.MNT_DETACH) })
	if err := probeWrite(data); err != nil {
		t.Fatal(err)
	}
	full := filepath.Join(data, "full")
	if err := os.WriteFile(full, make([]byte, 1<<20), 0o600); !errors.Is(err, unix.ENOSPC) {
		t.Fatal(err)
	}
	lock, err := Lock(data)
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	s := &Server{opts: Options{Data: data}, lock: lock, receive: &receive.Listener{Dir: data}}
	const want = "the data directory cannot be written: no space left on device"
	if said := s.probe(); len(said) == 0 || said[0] != want {
		t.Errorf("%q does not say %q", said, want)
	}
	if err := os.Remove(full); err != nil {
		t.Fatal(err)
	}
	if said := strings.Join(s.probe(), "\n"); strings.Contains(said, "cannot be written") {
		t.Errorf("there is room, and it says %q", said)
	}
}
