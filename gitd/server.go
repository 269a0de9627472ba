package gitd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"runtime/debug"
	"sync"
	"time"

	"github.com/gliderlabs/ssh"
	gossh "golang.org/x/crypto/ssh"

	"github.com/headgate-cd/headgate/gitd/access"
	"github.com/headgate-cd/headgate/gitd/shell"
	"github.com/headgate-cd/headgate/gitd/show"
	"github.com/headgate-cd/headgate/gitd/transport"
)

// Server is the SSH daemon. Its fields are set before Serve and not changed
// afterwards.
type Server struct {
	Backend show.Backend
	// Access is the configuration in force, asked afresh at each decision.
	Access func() *access.Config
	// AccessMoved is woken when another configuration is in force; nil: it never is.
	AccessMoved func() (moved <-chan struct{}, stop func())
	Transport   *transport.Transport // runs git for clients
	HostKey     gossh.Signer
	Logins      *Logins
	Agents      Agents       // nil: no other machine comes in
	Log         *slog.Logger // nil: slog.Default
	Limits      Limits

	now func() time.Time // for tests; nil: time.Now
}

// Limits bound what clients can take. A zero field means the value named in its
// comment.
type Limits struct {
	Login     time.Duration // 15 s from connecting to a proven key
	Idle      time.Duration // 10 min for a connection without a session
	KeepAlive time.Duration // 15 s between keepalives; a client that misses three is gone
	Drain     time.Duration // 10 s for running sessions when the server stops

	Unauthenticated int // 1024 connections whose key is not proven
	Handshakes      int // 100 of them at work on a key at once; others queue
	PerSource       int // 10 of those from one address (IPv6: one /64)
	PerUser         int // 64 connections of one user
	Sessions        int // 10 sessions of one connection
}

func (l Limits) filled() Limits {
	fill := func(n *int, otherwise int) {
		if *n <= 0 {
			*n = otherwise
		}
	}
	span := func(d *time.Duration, otherwise time.Duration) {
		if *d <= 0 {
			*d = otherwise
		}
	}
	span(&l.Login, 15*time.Second)
	span(&l.Idle, 10*time.Minute)
	span(&l.KeepAlive, 15*time.Second)
	span(&l.Drain, 10*time.Second)
	fill(&l.Unauthenticated, 1024)
	fill(&l.Handshakes, 100)
	fill(&l.PerSource, 10)
	fill(&l.PerUser, 64)
	fill(&l.Sessions, 10)
	return l
}

// check refuses to start a server that would let anybody in, or under a key
// that nobody could recognise.
func (s *Server) check() error {
	switch {
	case s.Access == nil:
		return errors.New("ssh daemon: no access configuration: nobody's key could be checked")
	case s.HostKey == nil:
		return errors.New("ssh daemon: no host key")
	case s.Transport == nil || s.Backend == nil || s.Logins == nil:
		return errors.New("ssh daemon: Transport, Backend and Logins must all be set")
	}
	return s.Transport.Check()
}

// daemon is a Server at work.
type daemon struct {
	*Server
	limits    Limits
	log       *slog.Logger
	ssh       *ssh.Server
	shell     *shell.Shell
	admission *admission
	spare     keys // offered before one that was good
	users     *transport.Quota

	commands context.Context // of SSH commands; done when the server begins to stop
	children context.Context // of git children; done when the time to drain is over

	work sync.WaitGroup // connections and sessions

	mu          sync.Mutex // guards the rest
	connections map[*connection]bool
	stopping    bool
}

// errStopping is why a session's context is done when the server stops.
var errStopping = &show.Error{
	Kind: show.Again,
	What: "the server is restarting",
	Hint: "try again in a moment",
}

// Serve accepts connections from l until ctx is done. Then it closes l, ends
// commands, gives git children Limits.Drain to end by themselves, and returns
// when every session has ended. The error is nil after such a stop.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	defer l.Close()
	if err := s.check(); err != nil {
		return err
	}
	commands, endCommands := context.WithCancelCause(context.WithoutCancel(ctx))
	defer endCommands(nil)
	children, endChildren := context.WithCancelCause(context.WithoutCancel(ctx))
	defer endChildren(nil)
	limits := s.Limits.filled()
	d := &daemon{
		Server:      s,
		limits:      limits,
		log:         s.Log,
		admission:   newAdmission(limits),
		users:       transport.NewQuota(0, limits.PerUser),
		commands:    commands,
		children:    children,
		connections: map[*connection]bool{},
	}
	if d.log == nil {
		d.log = slog.Default()
	}
	d.ssh = d.configure()
	d.shell = &shell.Shell{
		Backend: s.Backend,
		Access:  s.Access,
		Login:   func(user string) (string, time.Duration) { return s.Logins.New(user), codeLife },
		Log:     d.log,
		Now:     s.now,
	}

	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()
	accepted := d.accept(ctx, l)

	// Stopping: whoever only waits is told now; whoever moves packs gets time.
	d.mu.Lock()
	d.stopping = true
	var idle []*connection
	for c := range d.connections {
		if c.isIdle() {
			idle = append(idle, c)
		}
	}
	d.mu.Unlock()
	for _, c := range idle {
		c.Close()
	}
	endCommands(errStopping)
	ended := make(chan struct{})
	go func() {
		d.work.Wait()
		close(ended)
	}()
	select {
	case <-ended:
	case <-time.After(limits.Drain):
		d.log.Warn("ending sessions that did not end by themselves")
		endChildren(errStopping)
		d.closeAll()
		<-ended
	}
	return accepted
}

func (d *daemon) closeAll() {
	d.mu.Lock()
	var all []*connection
	for c := range d.connections {
		all = append(all, c)
	}
	d.mu.Unlock()
	for _, c := range all {
		c.Close()
	}
}

// accept starts a goroutine for each connection, until ctx is done (nil) or
// the listener fails for good.
func (d *daemon) accept(ctx context.Context, l net.Listener) error {
	pause := 5 * time.Millisecond
	for {
		nc, err := l.Accept()
		switch {
		case ctx.Err() != nil:
			if err == nil {
				nc.Close()
			}
			return nil
		case errors.Is(err, net.ErrClosed):
			return fmt.Errorf("accept ssh connections: %w", err)
		case err != nil: // out of descriptors, or a client that was quicker
			d.log.Warn("could not accept a connection", "err", err)
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(pause):
			}
			pause = min(2*pause, time.Second)
			continue
		}
		pause = 5 * time.Millisecond
		c := newConnection(d, nc)
		d.mu.Lock()
		d.connections[c] = true
		d.mu.Unlock()
		d.work.Go(func() { d.serve(c) })
	}
}

// serve speaks SSH on one connection until that ends.
func (d *daemon) serve(c *connection) {
	defer func() {
		if p := recover(); p != nil {
			d.log.Error("contained a panic in a connection", "err", p, "stack", string(debug.Stack()))
		}
		c.Close()
		c.release()
		d.mu.Lock()
		delete(d.connections, c)
		d.mu.Unlock()
	}()
	if !d.admission.register(c) {
		d.log.Warn("refused a connection: too many without a proven key", "remote", c.RemoteAddr().String())
		return
	}
	d.ssh.HandleConn(c)
}
