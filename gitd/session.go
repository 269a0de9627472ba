package gitd

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"regexp"
	"runtime/debug"
	"strings"
	"sync"
	"time"

	"github.com/gliderlabs/ssh"
	gossh "golang.org/x/crypto/ssh"

	"github.com/headgate-cd/headgate/gitd/access"
	"github.com/headgate-cd/headgate/gitd/shell"
	"github.com/headgate-cd/headgate/gitd/show"
	"github.com/headgate-cd/headgate/gitd/terminal"
	"github.com/headgate-cd/headgate/gitd/transport"
	"github.com/headgate-cd/headgate/gitd/tty"
)

// Bounds of what a client may ask of one session before its program runs.
const (
	maxEnv      = 32  // env requests; more end the connection (S2)
	maxRequests = 128 // of all kinds
)

// session is one channel on which a client runs one program. The library's own
// session handler is not used: it keeps unbounded environments, leaks, and
// does not notice that the client has closed the channel.
type session struct {
	gossh.Channel
	d    *daemon
	conn *connection
	ctx  ssh.Context // the connection's, for the proven key

	work   sync.WaitGroup  // goroutines that end at the latest with the channel
	ended  context.Context // done when the client has closed the channel
	cancel context.CancelCauseFunc

	env map[string]string // what the client sent, of what is taken at all

	mu  sync.Mutex // guards the rest
	pty *pty
}

// pty is what a pty-req said, and window-change since.
type pty struct {
	name    string // TERM
	size    tty.Size
	resized chan tty.Size // holds the newest size until it is read
}

// width is one that text can be laid out in.
func (p *pty) width() int {
	if p.size.Columns == 0 {
		return 80
	}
	return int(min(max(p.size.Columns, 40), 500))
}

// cells is a size as it can be told on.
func cells(columns, rows uint32) tty.Size {
	return tty.Size{Columns: uint16(min(columns, 1000)), Rows: uint16(min(rows, 1000))}
}

// errHungUp is why a session's context is done when its client has gone.
var errHungUp = errors.New("the client has gone")

// channelHandler serves a channel that a connection offers, which has ended when it
// returns. ctx is the connection's.
type channelHandler func(ctx ssh.Context, c *connection, conn *gossh.ServerConn, offered gossh.NewChannel)

// channel wraps what serves a channel: its panics end the channel alone, and the daemon
// waits for it when it stops, and begins no other.
func (d *daemon) channel(serve channelHandler) ssh.ChannelHandler {
	return func(_ *ssh.Server, conn *gossh.ServerConn, offered gossh.NewChannel, ctx ssh.Context) {
		defer func() {
			if p := recover(); p != nil {
				d.log.Error("contained a panic in a channel", "err", p, "stack", string(debug.Stack()))
			}
		}()
		c, _ := ctx.Value(connectionKey).(*connection)
		d.mu.Lock()
		if c == nil || d.stopping {
			d.mu.Unlock()
			offered.Reject(gossh.ResourceShortage, errStopping.Error())
			return
		}
		d.work.Add(1)
		d.mu.Unlock()
		defer d.work.Done()
		serve(ctx, c, conn, offered)
	}
}

// session serves one channel with commands and git. It returns when the channel and
// what ran on it have ended.
func (d *daemon) session(ctx ssh.Context, c *connection, conn *gossh.ServerConn, offered gossh.NewChannel) {
	if !c.openSession(person) {
		if !c.isPerson() {
			offered.Reject(gossh.Prohibited, "this key is a machine's, for which there are neither commands nor git here")
			return
		}
		offered.Reject(gossh.ResourceShortage, fmt.Sprintf("at most %d sessions on one connection", d.limits.Sessions))
		return
	}
	defer func() {
		last := c.closeSession()
		d.mu.Lock()
		stopping := d.stopping
		d.mu.Unlock()
		if last && stopping {
			c.Close()
		}
	}()
	channel, requests, err := offered.Accept()
	if err != nil {
		return
	}
	defer channel.Close()
	s := &session{Channel: channel, d: d, conn: c, ctx: ctx, env: map[string]string{}}
	s.ended, s.cancel = context.WithCancelCause(context.Background())
	defer s.cancel(errHungUp)

	defer s.work.Wait()
	s.work.Go(func() { d.keepAlive(s.ended, conn, c) })
	s.requests(requests)
	s.cancel(errHungUp) // the client has closed the channel, or the connection is gone
}

// keepAlive asks the client for a sign of life while a session runs. One that
// is gone without saying so costs its connection.
func (d *daemon) keepAlive(ctx context.Context, conn *gossh.ServerConn, c *connection) {
	tick := time.NewTicker(d.limits.KeepAlive)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if d.answersStill(conn, c) != nil {
			return
		}
	}
}

// answersStill asks the client for one sign of life.
func (d *daemon) answersStill(conn *gossh.ServerConn, c *connection) error {
	late := time.AfterFunc(3*d.limits.KeepAlive, func() { c.Close() })
	defer late.Stop()
	_, _, err := conn.SendRequest("keepalive@openssh.com", true, nil)
	return err
}

// keepAliveIdle is keepAlive without a goroutine between two signs of life, for connections
// of which there may be thousands. What it returns ends it, once nobody waits for an answer.
func (d *daemon) keepAliveIdle(conn *gossh.ServerConn, c *connection) (end func()) {
	var mu sync.Mutex // held while an answer is waited for
	ended := false
	var timer *time.Timer
	mu.Lock()
	timer = time.AfterFunc(d.limits.KeepAlive, func() {
		mu.Lock()
		defer mu.Unlock()
		if !ended && d.answersStill(conn, c) == nil {
			timer.Reset(d.limits.KeepAlive)
		}
	})
	mu.Unlock()
	return func() {
		mu.Lock()
		defer mu.Unlock()
		ended = true
		timer.Stop()
	}
}

// requests answers the channel's requests until it is closed, and starts the
// one program.
func (s *session) requests(in <-chan *gossh.Request) {
	running, envs, count := false, 0, 0
	for req := range in {
		if count++; !running && count > maxRequests {
			s.flooded("requests")
			continue
		}
		ok := false
		switch req.Type {
		case "env":
			if envs++; envs > maxEnv {
				s.flooded("env requests")
				continue
			}
			ok = !running && s.setEnv(req.Payload)
		case "pty-req":
			ok = !running && s.setTerminal(req.Payload)
		case "window-change":
			ok = s.resize(req.Payload)
		case "exec", "shell":
			if running {
				break
			}
			var asked struct{ Line string }
			if req.Type == "exec" && (len(req.Payload) > maxLine+4 || gossh.Unmarshal(req.Payload, &asked) != nil) {
				asked.Line = strings.Repeat("x", maxLine+1) // refused with words, by the parser
			}
			running, ok = true, true
			req.Reply(true, nil)
			s.work.Go(func() { s.run(asked.Line) })
			continue
		case "signal":
			var sig struct{ Name string }
			if running && gossh.Unmarshal(req.Payload, &sig) == nil &&
				(sig.Name == "INT" || sig.Name == "TERM" || sig.Name == "HUP") {
				s.cancel(errHungUp)
			}
		}
		// All else is refused: agents, X11, subsystems, breaks.
		req.Reply(ok, nil)
	}
}

func (s *session) flooded(what string) {
	s.d.log.Warn("closed a connection that sent too many "+what, "remote", s.conn.RemoteAddr().String())
	s.conn.Close()
}

var (
	localeForm   = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[A-Za-z0-9._@-]{0,64}$`) })
	terminalForm = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[A-Za-z0-9._+-]{1,64}$`) })
)

// setEnv takes GIT_PROTOCOL, which a git child will see if it is well-formed,
// and what says how the client wants its text. The rest is refused.
func (s *session) setEnv(payload []byte) bool {
	var kv struct{ Name, Value string }
	if gossh.Unmarshal(payload, &kv) != nil {
		return false
	}
	switch kv.Name {
	case "GIT_PROTOCOL":
		if !transport.ValidProtocol(kv.Value) {
			return false
		}
	case "LANG", "LC_ALL", "LC_CTYPE", "NO_COLOR":
		if !localeForm().MatchString(kv.Value) {
			return false
		}
	default:
		return false
	}
	s.env[kv.Name] = kv.Value
	return true
}

func (s *session) setTerminal(payload []byte) bool {
	var p struct {
		Term                         string
		Columns, Rows, Width, Height uint32
		Modes                        string
	}
	if gossh.Unmarshal(payload, &p) != nil {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.pty != nil {
		return false
	}
	s.pty = &pty{name: p.Term, size: cells(p.Columns, p.Rows), resized: make(chan tty.Size, 1)}
	return true
}

func (s *session) resize(payload []byte) bool {
	var p struct{ Columns, Rows, Width, Height uint32 }
	if gossh.Unmarshal(payload, &p) != nil {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.pty == nil {
		return false
	}
	s.pty.size = cells(p.Columns, p.Rows)
	select {
	case <-s.pty.resized: // which nobody has read, and is another now
	default:
	}
	s.pty.resized <- s.pty.size
	return true
}

func (s *session) tty() *pty {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.pty == nil {
		return nil
	}
	t := *s.pty
	return &t
}

// run runs the session's one program and ends the channel with its status.
func (s *session) run(line string) {
	status := 1
	defer func() {
		if p := recover(); p != nil {
			s.d.log.Error("contained a panic in a session", "line", terminal.Line(line), "err", p, "stack",
				string(debug.Stack()))
			s.fail(&show.Error{Kind: show.Again, What: "the server made a mistake and has noted it",
				Hint: "try again; tell an administrator of this server if it stays"})
			status = 75
		}
		s.exit(status)
	}()
	parsed, err := parseExec(line)
	if err != nil {
		e := &show.Error{Kind: show.Usage, What: err.Error(), Hint: "see what there is: " + s.ssh("help")}
		switch {
		case errors.Is(err, errRepository):
			e.Hint = "clone ssh://" + s.d.Backend.Server(s.ended).SSH + "/<name>; see the names: " + s.ssh("repo list")
		case errors.Is(err, shell.ErrQuote):
			e.Hint = "for an apostrophe, quote twice: \"...\" for your shell, and '...' inside for this server"
		}
		s.d.log.Info("refused a command line", "line", terminal.Line(line[:min(len(line), 200)]), "remote",
			s.conn.RemoteAddr().String())
		s.fail(e)
		status = show.Exit(e)
		return
	}
	via := access.ViaSSH
	if parsed.service == transport.ReceivePack {
		via = access.ViaPush
	}
	actor, key, ok := s.d.identity(s.ctx, via)
	if !ok {
		s.fail(errKeyTaken)
		return
	}
	defer s.whileKnown(actor, via)()
	if parsed.service != "" {
		status = s.git(actor, key, parsed)
		return
	}
	status = s.command(actor, parsed.words)
}

// errKeyTaken ends what somebody began with a key that was then taken from them, though
// they may have others.
var errKeyTaken = &show.Error{Kind: show.Forbidden, What: "your key is not known here any more"}

// whileKnown ends the session with errKeyTaken when its key is not the user's any more.
func (s *session) whileKnown(actor access.Identity, via access.Via) (stop func()) {
	if s.d.AccessMoved == nil {
		return func() {}
	}
	moved, stop := s.d.AccessMoved()
	look := func() {
		if who, _, ok := s.d.identity(s.ctx, via); !ok || who.User != actor.User {
			s.cancel(errKeyTaken)
		}
	}
	look() // it may have been taken before we watched
	s.work.Go(func() {
		for range moved { // until stop closes it
			look()
		}
	})
	return stop
}

// command runs the words a client sent and returns the exit code.
func (s *session) command(actor access.Identity, words []string) int {
	ctx, cancel := context.WithCancelCause(s.d.commands)
	defer cancel(nil)
	defer context.AfterFunc(s.ended, func() { cancel(context.Cause(s.ended)) })()
	screen := s.tty()

	in := shell.Invocation{Actor: actor, Words: words, Out: s, Err: s.Stderr()}
	if screen == nil {
		in.In = s.input(ctx)
	} else {
		keys := newKeyboard()
		s.work.Go(func() { keys.listen(s, func() { cancel(errHungUp) }) })
		defer context.AfterFunc(ctx, func() { keys.close(context.Cause(ctx)) })()
		in.Out, in.Err = returns{s}, returns{s} // one screen, in order
		in.Console = func() (io.Reader, io.Writer, tty.Terminal) {
			now := s.tty()
			if !terminalForm().MatchString(now.name) {
				now.name = "dumb"
			}
			return keys.take(), s, tty.Terminal{Name: now.name, Size: now.size, Resize: now.resized}
		}
		in.Terminal = s.style(screen)
	}
	return s.d.shell.Run(ctx, in)
}

// input is what the client sends to a command, until ctx is done. What the
// command does not read stays where it is: SSH's window bounds it.
func (s *session) input(ctx context.Context) io.Reader {
	read, write := io.Pipe()
	context.AfterFunc(ctx, func() { read.CloseWithError(context.Cause(ctx)) })
	s.work.Go(func() {
		_, err := io.Copy(write, s)
		write.CloseWithError(err) // nil: the client has said all
	})
	return read
}

// style is how the client's terminal can be written to.
func (s *session) style(tty *pty) shell.Terminal {
	_, unicode := s.charset()
	usable := tty.name != "dumb" && tty.name != ""
	return shell.Terminal{
		Width:   tty.width(),
		Colour:  usable && s.env["NO_COLOR"] == "", // empty means not set, by its convention
		Unicode: usable && unicode,
	}
}

// charset reports whether the client says in which characters it reads, and whether
// these are Unicode's. The most specific variable that is not empty counts; a locale
// that names no UTF-8, such as C, has another charset.
func (s *session) charset() (said, unicode bool) {
	locale := strings.ToLower(cmp.Or(s.env["LC_ALL"], s.env["LC_CTYPE"], s.env["LANG"]))
	name, _, _ := strings.Cut(locale, "@")
	return locale != "", strings.HasSuffix(name, "utf-8") || strings.HasSuffix(name, "utf8")
}

// ascii reports whether the client says that it reads something else than Unicode.
func (s *session) ascii() bool {
	said, unicode := s.charset()
	return said && !unicode
}

// ssh is a command as it is typed, to be pasted.
func (s *session) ssh(command string) string {
	return s.d.Backend.Server(s.ended).Command(command)
}

// fail writes an error for people.
func (s *session) fail(e *show.Error) {
	var w io.Writer = s.Stderr()
	if s.tty() != nil {
		w = returns{w}
	}
	text := shell.ErrorText(e, s.d.Backend.Server(s.ended).Login())
	if s.ascii() {
		text = terminal.ASCII(text)
	}
	io.WriteString(w, text)
}

// exit sends the status and ends the channel.
func (s *session) exit(status int) {
	// Errors mean that the client has gone, who then needs no status.
	s.CloseWrite()
	s.SendRequest("exit-status", false, gossh.Marshal(struct{ Status uint32 }{uint32(status)}))
	s.Close()
}

// returns ends lines as a terminal in raw mode wants them.
type returns struct{ w io.Writer }

func (r returns) Write(p []byte) (int, error) {
	if _, err := io.WriteString(r.w, strings.ReplaceAll(string(p), "\n", "\r\n")); err != nil {
		return 0, err
	}
	return len(p), nil
}
