package services

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/headgate-cd/headgate/gitd/tty"
)

// pty is a pseudo terminal. The command has the other end.
type pty struct {
	ours, theirs *os.File
	of           tty.Terminal
	done         chan struct{}
	carrying     sync.WaitGroup
}

func openTerminal(of tty.Terminal) (_ *pty, err error) {
	ours, err := os.OpenFile("/dev/ptmx", os.O_RDWR|syscall.O_NOCTTY|syscall.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open a terminal: %w", err)
	}
	t := &pty{ours: ours, of: of, done: make(chan struct{})}
	number := 0
	err = t.control(func(fd int) (err error) {
		if err = unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err == nil {
			number, err = unix.IoctlGetInt(fd, unix.TIOCGPTN)
		}
		return err
	})
	if err == nil {
		t.theirs, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|syscall.O_NOCTTY, 0)
	}
	if err != nil {
		ours.Close()
		return nil, fmt.Errorf("open a terminal: %w", err)
	}
	t.resize(of.Size)
	return t, nil
}

func (t *pty) control(f func(fd int) error) error {
	conn, err := t.ours.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	err = conn.Control(func(fd uintptr) { failed = f(int(fd)) })
	return errors.Join(err, failed)
}

// resize tells the command how large the terminal is. One that has no size says so.
func (t *pty) resize(s tty.Size) {
	_ = t.control(func(fd int) error { // a command that has gone does not mind
		return unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Col: s.Columns, Row: s.Rows})
	})
}

// carry carries what is typed and printed until close.
func (t *pty) carry(in io.Reader, out io.Writer) {
	t.theirs.Close() // the command has it
	t.carrying.Go(func() {
		_, _ = io.Copy(out, t.ours) // until nobody has the other end; whoever watched may be gone
	})
	if in != nil {
		go func() { // ends with in
			if _, err := io.Copy(t.ours, in); err == nil {
				_, _ = t.ours.Write([]byte{4}) // what ends the input at a terminal
			}
		}()
	}
	if t.of.Resize != nil {
		t.carrying.Go(func() {
			for {
				select {
				case s, ok := <-t.of.Resize:
					if !ok {
						return
					}
					t.resize(s)
				case <-t.done:
					return
				}
			}
		})
	}
}

// lastOutput is how long what was printed may take to be carried once the command ended.
const lastOutput = 2 * time.Second

// finish carries what was printed, and ends.
func (t *pty) finish() {
	close(t.done)
	_ = t.ours.SetReadDeadline(time.Now().Add(lastOutput)) // something may have kept the other end
	t.carrying.Wait()
	t.ours.Close()
}
