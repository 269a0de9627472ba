package server

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

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
