package container

import (
	"context"
	"errors"
	"io"
	"os"
	"os/signal"
	"syscall"

	"golang.org/x/term"

	"github.com/headgate-cd/headgate/gitd/engine"
	"github.com/headgate-cd/headgate/gitd/tty"
	"github.com/headgate-cd/headgate/hooks/build"
)

// Enter implements build.Enterer. Where in is a terminal, the shell has one of its own of
// the same size.
func (n *session) Enter(ctx context.Context, shell string, in io.Reader, out, errs io.Writer) error {
	if _, running, err := n.engine.Inspect(ctx, n.id); err != nil || !running {
		return errors.Join(build.ErrEnded, unable(err))
	}
	command := engine.Command{
		Argv:    []string{"sh", "-c", build.EnterProgram, shell},
		Streams: tty.Streams{In: in, Out: out, Err: errs},
	}
	if f, ok := in.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		terminal, restore, err := takeTerminal(f)
		if err != nil {
			return err
		}
		defer restore()
		command.Terminal = terminal
	}
	_, err := n.engine.Exec(ctx, n.id, command) // the status is that of the shell's last command
	return unable(err)
}

// takeTerminal has a terminal hand on what is typed, as it is, and tell its size.
func takeTerminal(f *os.File) (of *tty.Terminal, restore func(), err error) {
	fd := int(f.Fd())
	before, err := term.MakeRaw(fd)
	if err != nil {
		return nil, nil, err
	}
	size := func() tty.Size {
		columns, rows, _ := term.GetSize(fd) // one without a size has 0 of each
		return tty.Size{Columns: uint16(columns), Rows: uint16(rows)}
	}
	changes := make(chan os.Signal, 1)
	signal.Notify(changes, syscall.SIGWINCH)
	sizes, done := make(chan tty.Size), make(chan struct{})
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			select {
			case <-done:
				return
			case <-changes:
			}
			select {
			case <-done:
				return
			case sizes <- size():
			}
		}
	}()
	restore = func() {
		signal.Stop(changes)
		close(done)
		<-ended
		_ = term.Restore(fd, before) // it may be gone
	}
	return &tty.Terminal{Name: os.Getenv("TERM"), Size: size(), Resize: sizes}, restore, nil
}
