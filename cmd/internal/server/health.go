package server

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/headgate-cd/headgate/gitd/access"
	"github.com/headgate-cd/headgate/hooks/receive"
)

// health looks at what a server needs to work. Anybody may ask, so that it looks
// at most once in a while.
type health struct {
	mu      sync.Mutex
	at      time.Time
	found   []string
	probing <-chan []string // not nil: a probe is under way
}

const (
	healthEvery   = 2 * time.Second
	healthTimeout = 5 * time.Second // a disk that hangs answers nothing
)

// unwell says what does not work; nothing when all does. It names no repository
// and no path: it is for everybody.
func (s *Server) unwell() []string {
	s.health.mu.Lock()
	defer s.health.mu.Unlock()
	if time.Since(s.health.at) < healthEvery {
		return s.health.found
	}
	if s.health.probing == nil { // else the last one still hangs
		answer := make(chan []string, 1)
		go func() { answer <- s.probe() }()
		s.health.probing = answer
	}
	select {
	case s.health.found = <-s.health.probing:
		s.health.probing = nil
	case <-time.After(healthTimeout):
		s.health.found = []string{"the disk does not answer"}
	}
	s.health.at = time.Now()
	if len(s.health.found) > 0 {
		s.log.Error("the server is not well", "what", s.health.found)
	}
	return s.health.found
}

// probe tries what pushes need.
func (s *Server) probe() (found []string) {
	locked, err := s.lock.Stat()
	there, thereErr := os.Stat(s.opts.Data)
	if err = errors.Join(err, thereErr); err != nil || !os.SameFile(locked, there) {
		return []string{"the data directory is gone, or is another one than the server was started with"}
	}
	if err := probeWrite(s.opts.Data); err != nil {
		found = append(found, "the data directory cannot be written: "+plainly(err))
	}
	if _, err := os.ReadFile(filepath.Join(s.opts.Data, "repositories", access.Own+".git", "HEAD")); err != nil {
		found = append(found, "the repositories cannot be read: "+plainly(err))
	}
	socket, err := os.Lstat(filepath.Join(s.receive.Dir, receive.SocketName))
	if err == nil && socket.Mode().Type() != fs.ModeSocket {
		err = errors.New("it is not a socket")
	}
	if err != nil {
		found = append(found, "pushes cannot be checked, the socket of the hooks is gone: "+plainly(err))
	}
	if why := s.authority.trouble(); why != "" {
		found = append(found, why)
	}
	return found
}

// probeWrite writes, syncs, reads and removes a small file.
func probeWrite(dir string) (err error) {
	f, err := os.CreateTemp(dir, ".probe-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close(), os.Remove(f.Name())) }()
	data, back := bytes.Repeat([]byte("headgate"), 1024), make([]byte, 8192)
	if _, err = f.Write(data); err == nil {
		err = f.Sync()
	}
	if err == nil {
		_, err = f.ReadAt(back, 0)
	}
	if err == nil && !bytes.Equal(data, back) {
		err = errors.New("what was written reads otherwise")
	}
	return err
}

// plainly is an error without the path that it is about.
func plainly(err error) string {
	if no := syscall.Errno(0); errors.As(err, &no) {
		return no.Error()
	}
	return fmt.Sprint(err)
}
