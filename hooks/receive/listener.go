package receive

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime/debug"
	"sync"
	"syscall"
	"time"

	"github.com/headgate-cd/headgate/gitd/access"
	"github.com/headgate-cd/headgate/gitd/headgateyaml"
	"github.com/headgate-cd/headgate/gitd/repo"
	"github.com/headgate-cd/headgate/gitd/show"
	"github.com/headgate-cd/headgate/gitd/yamlfile"
	"github.com/headgate-cd/headgate/hooks/check"
	"github.com/headgate-cd/headgate/hooks/gate"
	"github.com/headgate-cd/headgate/hooks/receive/wire"
)

// Environments takes pushes to env/<environment>. commit is the promotion that
// the pusher approves.
//
// Proposed reports whether it is one: the open proposal, or a commit that an
// approval or the promotion itself has replaced since by the same content.
//
// ApprovePush approves it. landed is the commit that the environment is at because
// of it, Zero while something else is still missing; lines tell the pusher more.
// RejectPush rejects it. An error for the pusher is a *show.Error.
type Environments interface {
	Proposed(ctx context.Context, repository, environment string, commit repo.Hash) (bool, error)
	ApprovePush(ctx context.Context, repository, environment string, by access.Identity, commit repo.Hash,
		reason string) (landed repo.Hash, lines []string, err error)
	RejectPush(ctx context.Context, repository, environment string, by access.Identity, commit repo.Hash,
		reason string) (lines []string, err error)
	// Holder names who, outside a repository, has an address of the server's machine, in
	// words that tell somebody nothing that they may not read; "" is nobody.
	Holder(repository string, a netip.AddrPort, to access.Identity) (string, error)
	// Next says where a release that has just landed goes. It waits until that is
	// decided, as long as ctx lasts.
	Next(ctx context.Context, repository string, release int) ([]show.Next, error)
	// Against says what landing file would mean for the environments of a repository:
	// which go on without being named in it, which get another name, and what cannot be.
	Against(repository string, file *headgateyaml.File) (leaving []string, renamed []headgateyaml.Environment,
		problems yamlfile.Problems, err error)
}

// Logs yields a build's log from its beginning until the build has ended or ctx
// is done. id is what Progress.Log holds.
type Logs interface {
	Follow(ctx context.Context, id string) iter.Seq2[show.LogEvent, error]
}

// Gate takes proposals to gated branches (package gate).
type Gate interface {
	// Propose is durable when it returns.
	Propose(ctx context.Context, p gate.Proposal) (gate.Accepted, error)
	// Follow yields the present state of a change and what follows, to its end.
	Follow(ctx context.Context, repository string, change int) iter.Seq[gate.Progress]
	// Estimate is when an open change probably lands, as of now.
	Estimate(repository string, change int) show.Estimate
	Withdraw(ctx context.Context, repository string, change int, by access.Identity) error
	// Pause lets nothing land on a branch until Resume.
	Pause(ctx context.Context, repository, branch string, by access.Identity, reason string) (p show.Pause,
		already bool, err error)
	Resume(ctx context.Context, repository, branch string, by access.Identity, reason string) (ended *show.Pause,
		of string, err error)
}

// Listener is the daemon's side of the hook program. Set its fields, then Open
// it, then Run it. Begin may be called from any goroutine once it is open.
type Listener struct {
	Dir    string // where the socket is made; only the daemon's user may enter
	Store  *repo.Store
	Access func() *access.Config
	// Reading is ctx for as long as somebody may read a repository; when they may not
	// any more, its cause is a *show.Error. Nil: for ever.
	Reading func(ctx context.Context, who access.Identity, repository string) (context.Context, context.CancelFunc)
	Engine  Engine
	Gate    Gate
	// Checker finds what is wrong with the files of a tree that is to be landed.
	Checker *check.Checker
	// Refuses says why a repository may not use a target, and what to do; "" when it may.
	// nil: all may use all.
	Refuses func(repository, target string) (what, fix string)
	// SecretMissing says that a secret of a repository is not set, and what to do; "" when
	// it is. nil: that is not looked at.
	SecretMissing func(repository, name string) (what, fix string, err error)
	// Environments may be nil: pushes to environments are refused then.
	Environments Environments
	// Submodule finds the repository that a URL in .gitmodules names, as
	// gate.TreeBuilder has it. It may be nil.
	Submodule func(of, url string) (*repo.Repository, string)
	Logs      Logs
	Server    func() show.Server
	Log       *slog.Logger

	// Now and Still are for tests: the clock, and after how long without a line
	// a "still" line is written. Zero means time.Now and 30 s.
	Now   func() time.Time
	Still time.Duration

	socket   *net.UnixListener
	path     string
	closing  context.Context // done when Run is ending
	close    context.CancelFunc
	handlers sync.WaitGroup

	extents extents // of trees that were pushed
	brought brought // by users, lately

	mu     sync.Mutex // guards pushes and used of each
	pushes map[string]*push
}

// push is one receive-pack: who runs it, and what pre-receive found.
type push struct {
	actor      access.Identity
	key        string // fingerprint
	repository string
	ascii      bool // the pusher can be shown no more
	began      time.Time
	client     context.Context // done when the client has gone
	ctx        context.Context // done when receive-pack has ended
	unpacked   func()
	used       map[string]bool // hooks that have come

	// Written by pre-receive, read by proc-receive, which git runs after it.
	accepted *acceptedPush
	refusing repo.Quarantine // of a push that is refused whole
}

// SocketName is the socket's name in Dir.
const SocketName = "hook.sock"

// headerTime is how long a hook may take to say who it is.
const headerTimeout = 10 * time.Second

// Open makes the socket, replacing one that a killed daemon left.
func (l *Listener) Open() error {
	if l.Now == nil {
		l.Now = time.Now
	}
	if l.Still == 0 {
		l.Still = 30 * time.Second
	}
	if l.Log == nil {
		l.Log = slog.New(slog.DiscardHandler)
	}
	dir, err := filepath.Abs(l.Dir)
	if err != nil {
		return fmt.Errorf("open hook socket: %w", err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("open hook socket: %w", err)
	}
	if err := os.Chmod(dir, 0o700); err != nil {
		return fmt.Errorf("open hook socket: %w", err)
	}
	l.path = filepath.Join(dir, SocketName)
	if err := os.Remove(l.path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("open hook socket: %w", err)
	}
	bind := l.path
	if len(bind) >= 108 { // the kernel's limit; the directory may be named by a handle instead
		d, err := os.Open(dir)
		if err != nil {
			return fmt.Errorf("open hook socket: %w", err)
		}
		defer d.Close()
		bind = fmt.Sprintf("/proc/self/fd/%d/%s", d.Fd(), SocketName)
	}
	socket, err := net.ListenUnix("unix", &net.UnixAddr{Name: bind, Net: "unix"})
	if err != nil {
		return fmt.Errorf("open hook socket: %w", err)
	}
	socket.SetUnlinkOnClose(false) // by the name it was bound to, which may be the handle's
	if err := os.Chmod(l.path, 0o600); err != nil {
		socket.Close()
		return fmt.Errorf("open hook socket: %w", err)
	}
	l.socket, l.pushes = socket, map[string]*push{}
	l.closing, l.close = context.WithCancel(context.Background())
	return nil
}

// Begin registers a push before its receive-pack starts. env belongs into the
// environment of receive-pack, which hands it on to its hooks. key is the
// fingerprint of the key that proved who actor is. With ascii the pusher is told
// everything in ASCII, and in UTF-8 without. When client is done, because
// nobody is there any more, the push is followed no further, so that it holds
// neither processes nor a place; what it has been promised goes on. end must be
// called when receive-pack has ended; unpacked is called when git has unpacked what was
// pushed, if it does.
func (l *Listener) Begin(
	client context.Context, actor access.Identity, key, repository string, ascii bool, unpacked func(),
) (env []string, end func()) {
	var secret [32]byte
	_, _ = rand.Read(secret[:]) // never fails
	actor.Via = "push"
	token := hex.EncodeToString(secret[:])
	ctx, cancel := context.WithCancel(context.Background())
	l.mu.Lock()
	l.pushes[token] = &push{
		actor:      actor,
		key:        key,
		repository: repository,
		ascii:      ascii,
		began:      l.Now(),
		client:     client,
		ctx:        ctx,
		unpacked:   unpacked,
		used:       map[string]bool{},
	}
	l.mu.Unlock()
	return []string{wire.SocketVariable + "=" + l.path, wire.TokenVariable + "=" + token}, func() {
		cancel()
		l.mu.Lock()
		defer l.mu.Unlock()
		delete(l.pushes, token)
	}
}

// take finds the push of a token. Each hook of a push may come once.
func (l *Listener) take(token, hook string) *push {
	l.mu.Lock()
	defer l.mu.Unlock()
	p := l.pushes[token]
	if p == nil || p.used[hook] {
		return nil
	}
	p.used[hook] = true
	return p
}

// Run answers hooks until ctx is done, then tells those that are being answered
// that the server is stopping, and returns when they have ended.
func (l *Listener) Run(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() {
		l.close()
		l.socket.Close()
	})
	defer func() {
		if stop() { // ctx is not done: accepting failed
			l.close()
			l.socket.Close()
		}
		l.handlers.Wait()
		_ = os.Remove(l.path) // the next start would
	}()
	for {
		conn, err := l.socket.AcceptUnix()
		switch {
		case err == nil:
			l.handlers.Go(func() { l.serve(conn) })
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, syscall.EMFILE), errors.Is(err, syscall.ENFILE), errors.Is(err, syscall.ECONNABORTED):
			l.Log.Warn("hook socket could not accept", "err", err)
			select {
			case <-time.After(100 * time.Millisecond):
			case <-ctx.Done():
			}
		default:
			return fmt.Errorf("hook socket: %w", err)
		}
	}
}

// serve answers one hook.
func (l *Listener) serve(conn *net.UnixConn) {
	defer conn.Close()
	h := newHook(conn)
	defer h.finish()
	defer func() {
		if v := recover(); v != nil {
			l.Log.Error("hook handler panicked", "err", fmt.Sprint(v), "stack", string(debug.Stack()))
			h.lines("error: headgate met a fault of its own while it took this push",
				"  its log has more at "+l.Now().UTC().Format(time.RFC3339),
				"hint: push again to see where it stands; tell an administrator")
			h.exit(1)
		}
	}()
	if uid, err := peer(conn); err != nil || uid != os.Geteuid() {
		l.Log.Warn("hook socket refused another user", "uid", uid, "err", err)
		return
	}
	_ = conn.SetReadDeadline(time.Now().Add(headerTimeout)) // a closed connection fails the read
	header, err := wire.ReadHeader(conn)
	if err != nil {
		l.Log.Warn("hook sent no header", "err", err)
		return
	}
	_ = conn.SetReadDeadline(time.Time{})
	p := l.take(header.Token, header.Hook)
	if p == nil {
		h.lines("error: this push is not known to headgate; nothing was changed",
			"hint: push through the server's own door")
		h.exit(1)
		return
	}
	h.ascii = p.ascii
	p.unpacked() // the first hook comes after that
	ctx, cancel := context.WithCancel(p.ctx)
	defer cancel()
	// Who stalls while we read is let go; what has been read is answered.
	defer context.AfterFunc(l.closing, h.stopReading)()
	defer context.AfterFunc(ctx, h.stopReading)()
	h.start(cancel, header.Hook == wire.ProcReceive)
	switch header.Hook {
	case wire.PreReceive:
		l.preReceive(ctx, h, p, header)
	case wire.ProcReceive:
		l.procReceive(ctx, h, p)
	default:
		h.exit(1)
	}
}

// peer is the user of the process at the other end.
func peer(conn *net.UnixConn) (uid int, err error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return -1, err
	}
	uid = -1
	var sockErr error
	err = raw.Control(func(fd uintptr) {
		var c *syscall.Ucred
		if c, sockErr = syscall.GetsockoptUcred(int(fd), syscall.SOL_SOCKET, syscall.SO_PEERCRED); sockErr == nil {
			uid = int(c.Uid)
		}
	})
	return uid, errors.Join(err, sockErr)
}
