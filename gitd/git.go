package gitd

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/headgate-cd/headgate/gitd/repo"
	"github.com/headgate-cd/headgate/gitd/show"
	"github.com/headgate-cd/headgate/gitd/terminal"
)

// git runs one git verb for the session's client and returns its exit status.
func (s *session) git(actor show.Actor, key string, line execLine) int {
	if s.tty() != nil {
		return s.refuse(&show.Error{Kind: show.Usage, What: "a terminal would damage what git sends", Hint: "leave out -t, or RequestTTY in your ssh configuration"})
	}
	r, err := s.d.Store.Repository(line.repository)
	if !s.d.Access().MayRead(actor.Name, line.repository) || errors.Is(err, repo.ErrNoRepository) {
		// One answer for both: who may not read does not learn what there is.
		return s.refuse(&show.Error{Kind: show.NotFound, What: fmt.Sprintf("no such repository: %q", line.repository), Hint: "see yours: ssh " + sshTarget(s.d.Backend.Server(s.ended)) + " repo list"})
	}
	if err != nil {
		s.d.log.Error("could not open a repository", "repo", line.repository, "err", err)
		return s.refuse(&show.Error{Kind: show.Again, What: fmt.Sprintf("repository %q cannot be opened", line.repository), Hint: "tell an administrator of this server"})
	}
	protocol := s.env["GIT_PROTOCOL"]
	var extra []string
	if protocol != "" {
		extra = append(extra, "GIT_PROTOCOL="+protocol)
	}
	began := time.Now()
	status := 0
	switch line.verb {
	case "git-receive-pack":
		if !s.d.pushes.take(actor.Name) {
			return s.refuse(&show.Error{Kind: show.Again, What: "too many pushes are waiting already", Hint: "try again when some have landed"})
		}
		defer s.d.pushes.give(actor.Name)
		env, end := s.d.Begin(s.ended, actor, key, r.Name())
		defer end()
		child := &gitChild{s: s, outlives: true}
		status = child.run(repo.Env(s.d.Store.Hooks(), append(extra, env...)...), "receive-pack", r.Dir())
	case "git-upload-pack":
		child := &gitChild{s: s}
		child.before = func(ctx context.Context, from io.Reader, to io.Writer) (rest io.Reader, done func(), err error) {
			return s.d.fetch.gate(ctx, from, to, protocol != "" && !strings.HasPrefix(protocol, "version=0"))
		}
		status = child.run(repo.Env(os.DevNull, extra...), "upload-pack", "--strict", r.Dir())
	case "git-upload-archive":
		child := &gitChild{s: s}
		child.before = func(ctx context.Context, from io.Reader, _ io.Writer) (io.Reader, func(), error) {
			done, err := s.d.fetch.pass(ctx)
			return from, done, err
		}
		status = child.run(repo.Env(os.DevNull, extra...), "upload-archive", r.Dir())
	}
	s.d.log.Info("served git", "verb", line.verb, "repo", r.Name(), "user", actor.Name, "status", status, "took", time.Since(began).Round(time.Millisecond))
	return status
}

func (s *session) refuse(e *show.Error) int {
	s.fail(e)
	return show.Exit(e)
}

// gitChild is one git process between a client and a repository.
type gitChild struct {
	s *session
	// outlives: what the child does goes on without the client. Then a client
	// that has gone is to git one that says nothing more: its input ends, and
	// its output is read and thrown away for ever, for a child that cannot write
	// would stop in the middle of landing a change (spec/git.md 4.4).
	outlives bool
	// before sees the client's bytes first; it passes on to the child what it
	// has read, and may wait. The rest of the input is copied. done is called
	// when the child has ended.
	before func(ctx context.Context, from io.Reader, to io.Writer) (rest io.Reader, done func(), err error)
}

// killAfter is how long a child may take to end politely.
const killAfter = 5 * time.Second

func (g *gitChild) run(env []string, args ...string) (status int) {
	s := g.s
	ctx, cancel := context.WithCancelCause(s.d.children)
	defer cancel(nil)
	cmd := exec.CommandContext(ctx, "git", args...)
	cmd.Env = env
	cmd.Dir = "/"
	repo.OwnGroup(cmd)

	// Pipes of our own: Wait must wait for the process alone. Its descendants
	// may hold the other ends, and the client may never send again.
	var pipes [3][2]*os.File
	closeAll := func(side int) {
		for _, p := range pipes {
			if p[side] != nil {
				p[side].Close()
			}
		}
	}
	for i := range pipes {
		r, w, err := os.Pipe()
		if err != nil {
			closeAll(0)
			closeAll(1)
			s.d.log.Error("could not start git", "err", err)
			return s.refuse(&show.Error{Kind: show.Again, What: "the server is out of resources", Hint: "try again in a minute"})
		}
		if i == 0 {
			r, w = w, r // index 0 is our side
		}
		pipes[i] = [2]*os.File{r, w}
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = pipes[0][1], pipes[1][1], pipes[2][1]
	err := cmd.Start()
	closeAll(1)
	if err != nil {
		closeAll(0)
		s.d.log.Error("could not start git", "err", err)
		return s.refuse(&show.Error{Kind: show.Again, What: "the server could not start git", Hint: "tell an administrator of this server"})
	}
	group := cmd.Process.Pid

	// gone is called when the client cannot or does not take part any more.
	gone := sync.OnceFunc(func() {
		pipes[0][0].Close()
		if !g.outlives {
			cancel(errHungUp)
		}
	})
	stopGone := context.AfterFunc(s.ended, gone)
	defer stopGone()
	patience := s.d.limits.Stall
	if g.outlives {
		patience = s.d.limits.PushStall
	}
	stalled := time.AfterFunc(patience, func() {
		if s.ended.Err() == nil {
			s.d.log.Info("closed a connection whose git client made no progress", "remote", s.conn.RemoteAddr().String())
		}
		// Nothing less ends a write that waits for the client to read.
		s.conn.Close()
		gone()
	})
	defer stalled.Stop()
	progress := func() { stalled.Reset(patience) }

	var output sync.WaitGroup
	busy := make(chan error, 1)
	// The client's input ends when the client closes the channel, which may be
	// after the child has ended: the session waits for this one.
	s.work.Go(func() {
		defer pipes[0][0].Close()
		var from io.Reader = moved{s, progress}
		if g.before != nil {
			rest, done, err := g.before(ctx, from, pipes[0][0])
			if done != nil {
				context.AfterFunc(ctx, done) // which is at the latest when the child has ended
			}
			if err != nil {
				stalled.Stop()
				busy <- err
				return
			}
			from = rest
		}
		// Errors are one side going away, which the other sides notice too.
		io.Copy(pipes[0][0], from)
	})
	pass := func(to io.Writer, from *os.File) {
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
	output.Go(func() { pass(s, pipes[1][0]) })
	output.Go(func() { pass(terminal.Writer(s.Stderr()), pipes[2][0]) })

	err = g.wait(cmd, group, ctx)
	output.Wait()
	cancel(nil)
	stalled.Stop()
	select {
	case why := <-busy:
		if errors.Is(why, errBusy) {
			return s.refuse(&show.Error{Kind: show.Again, What: "the server is busy with other clones", Hint: "try again in a minute"})
		}
	default:
	}
	if err != nil && errors.Is(context.Cause(ctx), errStopping) {
		return s.refuse(&show.Error{Kind: show.Again, What: errStopping.Error(), Hint: "try again in a moment"})
	}
	var failed *exec.ExitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &failed) && failed.ExitCode() > 0:
		return failed.ExitCode()
	}
	return 128
}

// wait waits for the child, and sees that nothing of its group is left.
func (g *gitChild) wait(cmd *exec.Cmd, group int, ctx context.Context) error {
	// The context's end sends SIGTERM to the group, and WaitDelay later SIGKILL
	// to its leader; whoever in it ignores the first gets the second as well.
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

// moved tells about progress.
type moved struct {
	r    io.Reader
	tell func()
}

func (m moved) Read(p []byte) (int, error) {
	n, err := m.r.Read(p)
	if n > 0 {
		m.tell()
	}
	return n, err
}

// gate reads what a client asks of upload-pack, passes it on, and waits for a
// turn before the first request that makes a pack: asking for refs is cheap and
// queues behind nobody.
func (t *turnstile) gate(ctx context.Context, from io.Reader, to io.Writer, requests bool) (io.Reader, func(), error) {
	in := bufio.NewReaderSize(from, 64<<10)
	for {
		head, err := in.Peek(4)
		if err != nil {
			return in, nil, nil // the end, which the copy finds again
		}
		size, err := strconv.ParseUint(string(head), 16, 16)
		packet := 4 // the special packets: flush, delimiter, response end
		if size >= 4 {
			packet = int(size)
		}
		line, lineErr := in.Peek(packet)
		if lineErr != nil {
			line = nil
		}
		makes := err != nil || line == nil || // not in packets: let git say so, in turn
			requests && strings.HasPrefix(string(line[4:]), "command=fetch") ||
			!requests && size >= 4
		if makes {
			done, err := t.pass(ctx)
			return in, done, err
		}
		if _, err := to.Write(line); err != nil {
			return in, nil, nil
		}
		in.Discard(packet)
	}
}
