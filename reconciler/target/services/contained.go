package services

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/headgate-cd/headgate/gitd/engine"
	"github.com/headgate-cd/headgate/gitd/signal"
	"github.com/headgate-cd/headgate/gitd/tty"
	"github.com/headgate-cd/headgate/reconciler/target"
	"github.com/headgate-cd/headgate/reconciler/target/logfile"
)

// contained is a container as a workload.
type contained struct {
	owner   *containers
	engine  *engine.Engine // nil: not found yet
	command command
	started started
	done    chan struct{}
	ending  ending // valid after done

	ctx      context.Context // ends when it is left
	cancel   context.CancelFunc
	watching sync.WaitGroup
	stopping atomic.Bool  // it was sent a signal to end
	seen     atomic.Int64 // its process, 0 when that is not known
}

func (c *contained) identity() started     { return c.started }
func (c *contained) over() <-chan struct{} { return c.done }
func (c *contained) end() ending           { return c.ending }

func (c *contained) pid() (int, bool) {
	if pid := int(c.seen.Load()); pid > 0 {
		return pid, true
	}
	e, err := c.owner.open()
	if err != nil {
		return 0, false
	}
	ctx, cancel := context.WithTimeout(c.ctx, pidTimeout)
	defer cancel()
	r, running, err := e.Inspect(ctx, c.started.Container)
	if err != nil || !running {
		return 0, false
	}
	c.seen.Store(int64(r.PID))
	return r.PID, r.PID > 0
}

// pidTimeout is how long an engine may take to say which process a container is.
const pidTimeout = 2 * time.Second

// watch waits for its end.
func (c *contained) watch() {
	c.owner.know(c.started.Name)
	c.ctx, c.cancel = context.WithCancel(context.Background())
	c.watching.Go(func() {
		e, ok := c.theEngine()
		if !ok {
			return
		}
		end, err := e.Wait(c.ctx, c.started.Container)
		if err != nil {
			return // it is left
		}
		c.ending = c.endingOf(end)
		close(c.done)
	})
}

// theEngine is the engine, waited for until the container is left.
func (c *contained) theEngine() (*engine.Engine, bool) {
	for {
		e, err := c.owner.open()
		if err == nil {
			return e, true
		}
		if !signal.Sleep(c.ctx, time.Second) {
			return nil, false
		}
	}
}

func (c *contained) endingOf(end engine.End) ending {
	how := ending{outcome: outcomeOf(end.Code), exitCode: end.Code, reason: target.Reason(end.Reason)}
	if c.stopping.Load() {
		how.reason = ""
		return how
	}
	switch end.Reason {
	case engine.ReasonRemoved:
		how.outcome = "was removed from the container engine by somebody else"
	case engine.ReasonStoppedByHand:
		how.outcome += ", as somebody else had the container engine do"
	case engine.ReasonOutOfMemory:
		how.outcome = "needed more than its memory limit and was ended"
	}
	if end.Message != "" {
		how.outcome += ": " + end.Message
	}
	return how
}

func (c *contained) follow(log *logfile.File) (finish func(), err error) {
	position, err := os.OpenFile(c.command.position, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	var from engine.Position // unless something else was written down, the beginning
	text := make([]byte, len(positionTime)+positionLines)
	n, _ := position.ReadAt(text, 0) // what is not there was not written down
	if n >= len(positionTime) {
		from.At, _ = time.Parse(positionTime, string(text[:len(positionTime)]))
		from.Lines, err = strconv.Atoi(strings.TrimSpace(string(text[len(positionTime):n])))
		if err != nil {
			from.Lines = 1 // by an agent that counted none
		}
	}
	ctx, cancel := context.WithCancel(c.ctx)
	carried := make(chan struct{})
	go func() {
		defer close(carried)
		e, ok := c.theEngine()
		if !ok {
			return
		}
		e.Logs(ctx, c.started.Container, from, func(after engine.Position, line []byte) {
			_, _ = log.Write(line) // a log never fails
			// Without it the next agent reads again what this one has.
			text := after.At.UTC().Format(positionTime) + fmt.Sprintf("%*d", positionLines, after.Lines)
			_, _ = position.WriteAt([]byte(text), 0)
		})
	}()
	return func() {
		select {
		case <-carried:
		case <-c.ctx.Done():
		case <-time.After(lastLines):
		}
		cancel()
		<-carried
		_ = position.Close() // nothing was promised about the last lines on a full disk
	}, nil
}

const (
	// positionTime is how far the output of a container was read, of one length; behind it are
	// the lines that were printed then, in positionLines characters.
	positionTime  = "2006-01-02T15:04:05.000000000Z"
	positionLines = 10
	// lastLines is how long the engine may take to give the last lines of a container.
	lastLines = 10 * time.Second
)

func (c *contained) exec(ctx context.Context, cmd command, with tty.Streams) (int, error) {
	e, err := c.owner.open()
	if err != nil {
		return 0, err
	}
	return e.Exec(ctx, c.started.Container, engine.Command{Argv: cmd.argv, Env: cmd.env, Streams: with})
}

func (c *contained) alive(ctx context.Context) error {
	e, err := c.owner.open()
	if err != nil {
		return err
	}
	_, running, err := e.Inspect(ctx, c.started.Container)
	if err == nil && !running {
		err = errors.New("the container does not run")
	}
	return err
}

// reach: an engine takes connections for a container on the machine's port, also when
// nobody in it does. The container's own address tells; where the machine does not
// reach that, whether the connection is kept.
func (c *contained) reach(ctx context.Context) error {
	e, err := c.owner.open()
	if err != nil {
		return err
	}
	inside := c.command.container.Port
	r, running, err := e.Inspect(ctx, c.started.Container)
	switch {
	case err != nil:
		return err
	case !running:
		return errors.New("the container does not run")
	}
	var dialer net.Dialer
	if r.Address.IsValid() {
		direct, cancel := context.WithTimeout(ctx, directTimeout)
		conn, err := dialer.DialContext(direct, "tcp", netip.AddrPortFrom(r.Address, uint16(inside)).String())
		cancel()
		if err == nil {
			return conn.Close()
		}
		if errors.Is(err, syscall.ECONNREFUSED) {
			return notListening(inside)
		}
	}
	conn, err := dialer.DialContext(ctx, "tcp", address(c.command.port))
	if err != nil {
		return fmt.Errorf("port %d ($PORT): %w", inside, cause(err))
	}
	defer conn.Close()
	_ = conn.SetReadDeadline(time.Now().Add(directTimeout)) // a connection that is open takes one
	if _, err := conn.Read(make([]byte, 1)); err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		return notListening(inside)
	}
	return nil
}

// directTimeout is how long a container on the machine may take to be connected to.
const directTimeout = 500 * time.Millisecond

func notListening(port int) error {
	return fmt.Errorf("port %d ($PORT): nothing in the container listens there, on all of its addresses", port)
}

func (c *contained) stop(sig syscall.Signal, grace time.Duration, left <-chan struct{}) {
	ctx, cancel := context.WithCancel(c.ctx)
	defer cancel()
	go func() {
		select {
		case <-left:
			cancel()
		case <-c.done:
			cancel()
		case <-ctx.Done():
		}
	}()
	name := c.command.image.StopSignal
	if sig != 0 {
		name = strconv.Itoa(int(sig))
	}
	if name == "" {
		name = strconv.Itoa(int(syscall.SIGTERM))
	}
	e, ok := c.theEngine()
	if !ok {
		return
	}
	// Before it is sent, what ends is not by this agent.
	signalled := func(name string) bool {
		sent, err := e.Signal(ctx, c.started.Container, name)
		if sent {
			c.stopping.Store(true)
		}
		return err == nil
	}
	if grace > 0 && signalled(name) {
		timer := time.NewTimer(grace)
		defer timer.Stop()
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
	}
	for ctx.Err() == nil {
		_ = signalled("SIGKILL") // tried again, until it is over
		if !signal.Sleep(ctx, time.Second) {
			return
		}
	}
}

func (c *contained) leave() {
	c.cancel()
	c.watching.Wait()
}

// clear removes the container. One that cannot be removed now is a stray.
func (c *contained) clear() {
	if c.cancel != nil {
		c.cancel()
		c.watching.Wait()
	}
	defer c.owner.forget(c.started.Name)
	e, err := c.owner.open()
	if err != nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), removeTimeout)
	defer cancel()
	if err := e.Remove(ctx, c.started.Container); err != nil {
		c.owner.owner.Log.Warn("cannot remove a container that has ended", "container", c.started.Name, "err", err)
	}
}

const removeTimeout = 30 * time.Second
