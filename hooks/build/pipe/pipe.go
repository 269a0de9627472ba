// Package pipe reads what commands print from a pipe that never ends: one that their
// children hold open, and the next command prints to.
package pipe

import (
	"errors"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Copying is what Copy has begun.
type Copying struct {
	from   *os.File
	to     io.Writer
	copied chan error
}

// Copy copies what comes out of a pipe, until End. The pipe must be one that is never
// waited for in the kernel, so that a deadline holds.
func Copy(to io.Writer, from *os.File) (*Copying, error) {
	if err := from.SetReadDeadline(time.Time{}); err != nil {
		return nil, err
	}
	c := &Copying{from: from, to: to, copied: make(chan error, 1)}
	go func() {
		_, err := io.Copy(to, from)
		c.copied <- err
	}()
	return c, nil
}

// End is called when the command has ended: what it printed is in the pipe. It stops
// the copying and takes the rest without waiting, because a child that stayed behind
// may hold the pipe open.
func (c *Copying) End() error {
	if err := c.from.SetReadDeadline(time.Unix(1, 0)); err != nil {
		return err
	}
	if err := <-c.copied; err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		return err
	}
	return c.rest()
}

// rest takes what a command that has ended left in the pipe: no more than fits in,
// because what came later is of a child that stayed behind.
func (c *Copying) rest() error {
	if err := c.from.SetReadDeadline(time.Time{}); err != nil {
		return err
	}
	raw, err := c.from.SyscallConn()
	if err != nil {
		return err
	}
	var capacity int
	var cerr error
	if err := raw.Control(func(fd uintptr) { capacity, cerr = unix.FcntlInt(fd, unix.F_GETPIPE_SZ, 0) }); err != nil ||
		cerr != nil {
		return errors.Join(err, cerr)
	}
	buf := make([]byte, 64<<10)
	for total := 0; total < capacity; {
		var got int
		var rerr error
		if err := raw.Read(func(fd uintptr) bool {
			got, rerr = unix.Read(int(fd), buf)
			return true // never wait
		}); err != nil {
			return err
		}
		switch {
		case rerr == unix.EINTR:
			continue
		case rerr == unix.EAGAIN || got == 0:
			return nil
		case rerr != nil:
			return rerr
		}
		total += got
		if _, err := c.to.Write(buf[:got]); err != nil {
			return err
		}
	}
	return nil
}
