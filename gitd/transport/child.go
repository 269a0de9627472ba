package transport

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/headgate-cd/headgate/gitd/repo"
	"github.com/headgate-cd/headgate/gitd/show"
	"github.com/headgate-cd/headgate/gitd/terminal"
)

// killAfter is how long a child may take to end politely.
const killAfter = 5 * time.Second

// maxMemory bounds what each process of a git child may take for itself. git reads
// large files in pieces and needs some 100 MiB; what a small pack can stand for has
// no bound.
const maxMemory = 512 << 20

// errGone is why a child is ended whose client has gone.
var errGone = errors.New("the client has gone")

// child is one git process between a client and a repository.
type child struct {
	t      *Transport
	client Client
	stall  time.Duration // in which neither side moves a byte
	// outlives: what the child does goes on without the client. Then a client
	// that has gone is to git one that says nothing more: its input ends, and
	// its output is read and thrown away for ever, for a child that cannot write
	// would stop in the middle of landing a change.
	outlives bool
	// before sees the client's bytes first; it passes on to the child what it
	// has read, and may wait. The rest of the input is copied. done is called
	// when the child has ended.
	before func(ctx context.Context, from io.Reader, to io.Writer) (rest io.Reader, done func(), err error)
	places *queue // that before waits for; done gives the place back

	sent  atomic.Int64 // bytes by the client
	place struct {
		mu    sync.Mutex
		leave func() // gives the place back; nil: there is none
	}
	// output makes what stands between the child's output and the client; nil:
	// nothing does. done gives back what it took.
	output func() (s *spool, done func())
}

func (c *child) run(parent context.Context, env []string, args ...string) (status int, err error) {
	ctx, cancel := context.WithCancelCause(parent)
	defer cancel(nil)
	cmd := exec.CommandContext(ctx, "git", args...)
	cmd.Env = env
	cmd.Dir = "/"
	repo.OwnGroup(cmd)

	pipes, err := start(cmd)
	if err != nil {
		c.t.Log.Error("could not start git", "err", err)
		return 1, &show.Error{
			Kind: show.Again,
			What: "the server could not start git",
			Hint: "try again in a minute; tell an administrator of this server if it stays",
		}
	}

	// Before it has read a byte, so that whatever it starts is bound too.
	if err := unix.Prlimit(cmd.Process.Pid, unix.RLIMIT_DATA, &unix.Rlimit{Cur: maxMemory, Max: maxMemory},
		nil); err != nil {
		c.t.Log.Warn("git's memory is not bound", "err", err)
	}

	// gone is called when the client cannot or does not take part any more.
	gone := sync.OnceFunc(func() {
		pipes.in.Close()
		if !c.outlives {
			cancel(errGone)
		}
	})
	defer context.AfterFunc(c.client.Gone, gone)()
	stalled := time.AfterFunc(c.stall, func() {
		if c.client.Gone.Err() == nil {
			c.t.Log.Info("closed a connection whose git client made no progress")
		}
		c.client.Kick()
		gone()
	})
	defer stalled.Stop()
	progress := func() { stalled.Reset(c.stall) }

	working, rests := context.WithCancel(ctx) // until the child has ended
	defer rests()
	busy := make(chan error, 1)
	c.client.Reading.Go(func() {
		defer pipes.in.Close()
		slow := func() {
			c.t.Log.Info("closed a connection whose git client made nothing of its place while others waited")
			c.client.Kick()
			gone()
		}
		if err := c.feed(ctx, working, pipes.in, cmd.Process.Pid, progress, slow); err != nil {
			stalled.Stop()
			busy <- err
		}
	})
	var output sync.WaitGroup
	if c.output == nil {
		to := c.client.Out
		if c.outlives {
			to = &hinter{to: to}
		}
		output.Go(func() { pass(to, pipes.out, progress, gone) })
	} else {
		kept, done := c.output()
		defer done()
		defer context.AfterFunc(ctx, kept.drop)()
		slow := func() {
			c.t.Log.Info("closed a connection whose git client was too slow while others waited")
			c.client.Kick()
			gone()
		}
		output.Go(func() { kept.fill(pipes.out, slow) })
		output.Go(func() { kept.drain(c.client.Out, progress, gone) })
	}
	output.Go(func() { pass(terminal.Writer(c.client.Err), pipes.err, progress, gone) })

	err = wait(ctx, cmd)
	rests()
	output.Wait()
	cancel(nil)
	stalled.Stop()

	select {
	case why := <-busy:
		if errors.Is(why, errBusy) {
			return 1, c.busy()
		}
	default:
	}
	if err != nil && parent.Err() != nil {
		return 1, context.Cause(parent)
	}
	var failed *exec.ExitError
	switch {
	case err == nil:
		return 0, nil
	case errors.As(err, &failed) && failed.ExitCode() > 0:
		return failed.ExitCode(), nil
	}
	return 128, nil
}

// feed passes on what the client sends. Its error is before's; others are one
// side going away, which the other sides notice too.
func (c *child) feed(ctx, working context.Context, to io.Writer, pid int, progress, slow func()) error {
	var from io.Reader = watched{c.client.In, progress, &c.sent}
	if c.before != nil {
		rest, done, err := c.before(ctx, from, to)
		if done != nil {
			left := make(chan struct{})
			leave := sync.OnceFunc(func() {
				done()
				close(left)
			})
			c.place.mu.Lock()
			c.place.leave = leave
			c.place.mu.Unlock()
			context.AfterFunc(working, leave)
			c.client.Reading.Go(func() { c.keepPace(working, c.places, pid, left, slow) })
		}
		if err != nil {
			return err
		}
		from = rest
	}
	io.Copy(to, from)
	return nil
}

// leave gives the child's place back, if it has one.
func (c *child) leave() {
	c.place.mu.Lock()
	defer c.place.mu.Unlock()
	if c.place.leave != nil {
		c.place.leave()
	}
}

// busy is what is said to who got no place.
func (c *child) busy() error {
	what, does := "clones", "makes packs for"
	if c.outlives {
		what, does = "pushes", "unpacks"
	}
	q := c.places
	return &show.Error{
		Kind: show.Again,
		What: fmt.Sprintf("the server is busy with other %s: it %s %d at once, %d of one user, and lets %d wait for %s",
			what, does, q.places, half(q.places), q.waiting, q.wait),
		Hint: "try again in a minute",
	}
}

// pass copies a child's output. A client that takes no more of it is gone; the
// child is read to its end all the same.
func pass(to io.Writer, from *os.File, progress, gone func()) {
	defer from.Close()
	buffer := make([]byte, 32<<10)
	for alive := true; ; {
		n, err := from.Read(buffer)
		if n > 0 && alive {
			if _, werr := to.Write(buffer[:n]); werr != nil {
				alive = false
				gone()
			}
			progress()
		}
		if err != nil {
			return
		}
	}
}

// pipes are our ends of a child's standard files.
type pipes struct{ in, out, err *os.File }

// start starts cmd with pipes of our own: Wait must wait for the process alone.
// Its descendants may hold the other ends, and the client may never send again.
func start(cmd *exec.Cmd) (ours pipes, err error) {
	var files []*os.File
	pipe := func() (r, w *os.File) {
		if err == nil {
			if r, w, err = os.Pipe(); err == nil {
				files = append(files, r, w)
			}
		}
		return r, w
	}
	inRead, inWrite := pipe()
	outRead, outWrite := pipe()
	errRead, errWrite := pipe()

	if err == nil {
		cmd.Stdin, cmd.Stdout, cmd.Stderr = inRead, outWrite, errWrite
		if err = cmd.Start(); err == nil {
			files = []*os.File{inRead, outWrite, errWrite}
		}
	}
	for _, f := range files {
		f.Close()
	}
	return pipes{inWrite, outRead, errRead}, err
}

// wait waits for a child, and sees that nothing of its group is left.
func wait(ctx context.Context, cmd *exec.Cmd) error {
	// The context's end sends SIGTERM to the group, and WaitDelay later SIGKILL
	// to its leader; whoever in it ignores the first gets the second as well.
	group := cmd.Process.Pid
	ended := make(chan struct{})
	var killer sync.WaitGroup
	killer.Go(func() {
		select {
		case <-ended:
			return
		case <-ctx.Done():
		}
		select {
		case <-ended:
		case <-time.After(killAfter):
			syscall.Kill(-group, syscall.SIGKILL)
		}
	})
	err := cmd.Wait()
	close(ended)
	killer.Wait()
	// What the leader left behind holds our pipes and would do so for ever.
	syscall.Kill(-group, syscall.SIGKILL)
	return err
}

// watched tells about progress.
type watched struct {
	r        io.Reader
	progress func()
	sent     *atomic.Int64
}

func (w watched) Read(p []byte) (int, error) {
	n, err := w.r.Read(p)
	if n > 0 {
		w.progress()
		w.sent.Add(int64(n))
	}
	return n, err
}
