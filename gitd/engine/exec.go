package engine

import (
	"context"
	"errors"
	"io"
	"net"
	"regexp"
	"sync"
	"syscall"
	"time"

	"github.com/moby/moby/api/pkg/stdcopy"
	"github.com/moby/moby/client"

	"github.com/headgate-cd/headgate/gitd/sandbox"
	"github.com/headgate-cd/headgate/gitd/signal"
	"github.com/headgate-cd/headgate/gitd/tty"
)

// Command is one to be run in a container.
type Command struct {
	Argv []string
	Env  []string // besides the container's
	User string   // of the container's; "" is that of the container
	tty.Streams
}

// Exec runs a command in a container, to its end or that of ctx where the engine is this
// machine's, and returns its exit code. The error is ErrNoUser when its user is none.
func (e *Engine) Exec(ctx context.Context, id string, c Command) (code int, err error) {
	const doing = "run a command in the container"
	options := client.ExecCreateOptions{
		User:         c.User,
		Cmd:          c.Argv,
		Env:          c.Env,
		AttachStdin:  c.In != nil,
		AttachStdout: true,
		AttachStderr: true,
		TTY:          c.Terminal != nil,
	}
	if c.Terminal != nil {
		options.Env = append(options.Env, "TERM="+c.Terminal.Name)
	}
	made, err := e.api.ExecCreate(ctx, id, options)
	if err != nil {
		return 0, e.failure(ctx, doing, err)
	}
	// Given up in the middle of its start it would go on, and Podman would not know of it any more.
	starting, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	defer context.AfterFunc(ctx, func() { time.AfterFunc(execTimeout, cancel) })()
	attached, err := e.api.ExecAttach(starting, made.ID, client.ExecAttachOptions{TTY: c.Terminal != nil})
	if err != nil {
		if c.User != "" && (unknownUser.MatchString(err.Error()) || e.lacksUser(ctx, id, c.User)) {
			return 0, ErrNoUser
		}
		if ctx.Err() != nil {
			e.endExec(made.ID)
		}
		return 0, e.failure(ctx, doing, err)
	}
	defer attached.Close()
	late := context.AfterFunc(ctx, func() {
		e.endExec(made.ID)
		attached.Close()
	})
	if c.In != nil {
		go func() { // ends with what is read
			_, _ = io.Copy(attached.Conn, c.In) // the command may have read enough
			_ = attached.CloseWrite()
		}()
	}
	if c.Terminal != nil {
		done := make(chan struct{})
		var resizing sync.WaitGroup
		resizing.Go(func() { e.resizeExec(ctx, made.ID, *c.Terminal, done) })
		_, err = io.Copy(c.Out, attached.Reader)
		close(done)
		resizing.Wait()
	} else {
		_, err = stdcopy.StdCopy(c.Out, c.Err, attached.Reader)
	}
	if !late() || ctx.Err() != nil {
		return 0, context.Cause(ctx)
	}
	if err != nil && !errors.Is(err, net.ErrClosed) {
		return 0, e.failure(ctx, doing, err)
	}
	for {
		found, err := e.api.ExecInspect(ctx, made.ID, client.ExecInspectOptions{})
		if err != nil {
			return 0, e.failure(ctx, doing, err)
		}
		if !found.Running { // it has closed what it prints to, and may end a little later
			return found.ExitCode, nil
		}
		if !signal.Sleep(ctx, 10*time.Millisecond) {
			e.endExec(made.ID)
			return 0, context.Cause(ctx)
		}
	}
}

// lacksUser asks Podman, which says of a command that it was to attach to no more than that it
// failed, whether it would run another one as a user.
func (e *Engine) lacksUser(ctx context.Context, id, user string) bool {
	if podman, err := e.Podman(ctx); err != nil || !podman {
		return false
	}
	made, err := e.api.ExecCreate(ctx, id, client.ExecCreateOptions{User: user, Cmd: []string{"true"}})
	if err == nil {
		_, err = e.api.ExecStart(ctx, made.ID, client.ExecStartOptions{Detach: true})
	}
	return err != nil && unknownUser.MatchString(err.Error())
}

// SaysNoUser reports whether what an engine printed instead of running a command, whose
// status is 126 then, is that there is no such user.
func SaysNoUser(text string) bool { return unknownUser.MatchString(text) }

// unknownUser is what Docker and Podman say.
var unknownUser = regexp.MustCompile(`unable to find user|no matching entries in passwd|no users found`)

// resizeExec tells a command the size of its terminal, now and whenever that changes.
func (e *Engine) resizeExec(ctx context.Context, id string, of tty.Terminal, done <-chan struct{}) {
	podman, _ := e.Podman(ctx) // it has answered lately
	for size, ok := of.Size, true; ok; {
		for range resizeTries { // the command may be about to start
			_, err := e.api.ExecResize(ctx, id, client.ExecResizeOptions{Height: uint(size.Rows), Width: uint(size.Columns)})
			if err == nil && podman {
				podman = false // what it takes at once may be lost, so it is told again, once
				err = errNotYet
			}
			if err == nil || !signal.Sleep(ctx, 20*time.Millisecond) {
				break
			}
		}
		select {
		case size, ok = <-of.Resize:
		case <-done:
			return
		}
	}
}

// endExec ends a command, for which the API has no word. It may be about to start.
func (e *Engine) endExec(id string) {
	if !e.local() {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), execTimeout)
	defer cancel()
	for {
		found, err := e.api.ExecInspect(ctx, id, client.ExecInspectOptions{})
		if err != nil || !found.Running && found.PID > 0 {
			return // it has ended
		}
		if found.Running && found.PID > 0 && e.endProcess(ctx, id, found.PID) {
			return
		}
		if !signal.Sleep(ctx, 20*time.Millisecond) {
			return
		}
	}
}

func (e *Engine) endProcess(ctx context.Context, exec string, pid int) (ended bool) {
	p, err := sandbox.Find(pid)
	if err != nil {
		return false
	}
	held, err := p.Hold()
	if err != nil {
		return false
	}
	defer held.Close()
	// It still runs, so that the number that is held was its own.
	again, err := e.api.ExecInspect(ctx, exec, client.ExecInspectOptions{})
	if err != nil || !again.Running {
		return false
	}
	sandbox.EndSession(pid) // with what it has started
	return held.Signal(syscall.SIGKILL) || held.Ended()
}

// errNotYet is that a terminal may have no size yet.
var errNotYet = errors.New("it may have come too early")

// resizeTries is how often a terminal is told its size until it takes it: without it a
// command goes on all the same.
const resizeTries = 50

// execTimeout is how long a command may take to start that is given up meanwhile.
const execTimeout = 20 * time.Second
