package agent

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/headgate-cd/headgate/gitd/agentline"
	"github.com/headgate-cd/headgate/gitd/crash"
	"github.com/headgate-cd/headgate/gitd/enrolment"
	"github.com/headgate-cd/headgate/gitd/repo"
)

// Files of the directory of an agent that has a server elsewhere.
const (
	uplinkName = "server.json"
	keyName    = "key" // the agent's own
)

// Uplink is a server elsewhere, to which an agent connects: nothing has to be open on the
// agent's machine.
type Uplink struct {
	Server  string // host:port of its SSH
	HostKey string // SHA256 fingerprint of its host key, the only one that is believed
	Name    string // what the server calls this agent
	Keys    Keys   // whose signatures count

	Key     ssh.Signer   // the agent's own
	Handler http.Handler // answers the server
	Log     *slog.Logger

	mu      sync.Mutex
	client  *ssh.Client   // nil: there is no connection
	another chan struct{} // closed when there is one
}

// Blob reads a part of an artifact, from an offset on, within Fetch. It waits for the server
// until ctx ends.
func (u *Uplink) Blob(ctx context.Context, artifact, digest string, offset int64) (io.ReadCloser, error) {
	client, err := u.connection(ctx)
	if err != nil {
		return nil, err
	}
	data, err := json.Marshal(agentline.Blob{Artifact: artifact, Digest: digest, Offset: offset})
	if err != nil {
		return nil, err
	}
	channel, requests, err := client.OpenChannel(agentline.Artifact, data)
	if no := new(ssh.OpenChannelError); err != nil && !errors.As(err, &no) {
		err = &cut{err}
	}
	if err != nil {
		return nil, err
	}
	go ssh.DiscardRequests(requests) // ends with the channel
	stop := context.AfterFunc(ctx, func() { channel.Close() })
	return &blobReader{channel, stop}, nil
}

type blobReader struct {
	ssh.Channel
	stop func() bool
}

// Close implements io.Closer.
func (r *blobReader) Close() error {
	r.stop()
	return r.Channel.Close()
}

// connection is the present one, or the next.
func (u *Uplink) connection(ctx context.Context) (*ssh.Client, error) {
	for {
		u.mu.Lock()
		client := u.client
		if u.another == nil {
			u.another = make(chan struct{})
		}
		another := u.another
		u.mu.Unlock()
		if client != nil {
			return client, nil
		}
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-another:
		}
	}
}

// session names the present connection, as both ends of it know it and nobody else; nil
// without one.
func (u *Uplink) session() []byte {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.client == nil {
		return nil
	}
	return u.client.SessionID()
}

// connected notes the connection that there is, nil for none.
func (u *Uplink) connected(client *ssh.Client) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.client = client
	if client != nil && u.another != nil {
		close(u.another)
		u.another = nil
	}
}

// keptUplink is server.json.
type keptUplink struct {
	Version int    `json:"version"`
	Server  string `json:"server"`
	HostKey string `json:"host_key"`
	Name    string `json:"name"`
	Keys
}

// OpenUplink finds the server that an agent's directory belongs to, nil when that is of
// this machine.
func OpenUplink(dir string) (*Uplink, error) {
	data, err := os.ReadFile(filepath.Join(dir, uplinkName))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var k keptUplink
	if err == nil {
		err = json.Unmarshal(data, &k)
	}
	if err == nil && (k.Version != 1 || k.Server == "" || k.HostKey == "") {
		err = fmt.Errorf("it is of version %d, or says less than it must", k.Version)
	}
	if err != nil {
		return nil, fmt.Errorf("read which server this agent has (%s): %w", filepath.Join(dir, uplinkName), err)
	}
	u := &Uplink{Server: k.Server, HostKey: k.HostKey, Name: k.Name, Keys: k.Keys}
	u.Key, err = repo.OpenKey(filepath.Join(dir, keyName))
	return u, err
}

// Pauses between tries to reach a server, each up to twice as long as the one before. Where
// in it the next try comes is chance, so that not all agents come at once.
const (
	firstRetry  = 200 * time.Millisecond
	maxRetry    = time.Minute
	dialTimeout = 20 * time.Second
	steadyLine  = 2 * time.Second // after which a connection counts as one that works
	aliveEvery  = 15 * time.Second
)

// Run stays connected until ctx ends.
func (u *Uplink) Run(ctx context.Context) {
	pause := firstRetry
	for ctx.Err() == nil {
		lasted, err := u.serve(ctx)
		if ctx.Err() != nil {
			break
		}
		if lasted > steadyLine {
			pause = firstRetry
		}
		wait := pause/2 + rand.N(pause/2)
		pause = min(2*pause, maxRetry)
		u.Log.Warn("no connection to the server; what runs here goes on", "server", u.Server, "err", err, "again_in",
			wait.Round(time.Millisecond))
		select {
		case <-ctx.Done():
		case <-time.After(wait):
		}
	}
}

// dial connects with a key. A host key that is not the pinned one ends it before anything
// is said.
func (u *Uplink) dial(ctx context.Context, key ssh.Signer) (*ssh.Client, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	conn, err := (&net.Dialer{KeepAlive: 30 * time.Second}).DialContext(ctx, "tcp", u.Server)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	c, channels, requests, err := ssh.NewClientConn(conn, u.Server, &ssh.ClientConfig{
		User: "agent",
		Auth: []ssh.AuthMethod{ssh.PublicKeys(key)},
		HostKeyCallback: func(_ string, _ net.Addr, offered ssh.PublicKey) error {
			if got := ssh.FingerprintSHA256(offered); got != u.HostKey {
				return fmt.Errorf("the host key of %s is %s, and not the pinned %s: it is another server, or somebody in between",
					u.Server, got, u.HostKey)
			}
			return nil
		},
	})
	if err != nil {
		conn.Close()
		return nil, err
	}
	if !stop() {
		c.Close()
		return nil, ctx.Err()
	}
	return ssh.NewClient(c, channels, requests), nil
}

// serve answers the server for as long as a connection lasts, and says how long that was.
func (u *Uplink) serve(ctx context.Context) (lasted time.Duration, err error) {
	client, err := u.dial(ctx, u.Key)
	if err != nil {
		return 0, err
	}
	began := time.Now()
	defer client.Close()
	defer context.AfterFunc(ctx, func() { client.Close() })()
	conversations := client.HandleChannelOpen(agentline.Conversation)
	present, requests, err := client.OpenChannel(agentline.Presence, nil)
	if err != nil {
		return 0, err
	}
	defer present.Close()
	var all sync.WaitGroup
	defer all.Wait()
	defer client.Close()
	all.Go(func() { ssh.DiscardRequests(requests) })
	all.Go(func() { // the server hangs up
		_, _ = io.Copy(io.Discard, present)
		client.Close()
	})
	all.Go(func() { u.keepAlive(client) })
	u.connected(client)
	defer u.connected(nil)
	u.Log.Info("connected to the server", "server", u.Server, "as", u.Name)

	streams, end := context.WithCancel(ctx)
	defer end()
	line := &conversationListener{conversations: conversations, closed: make(chan struct{}), all: &all,
		address: client.LocalAddr()}
	server := &http.Server{
		BaseContext:       func(net.Listener) context.Context { return streams },
		Handler:           u.Handler,
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       5 * time.Minute,
		MaxHeaderBytes:    64 << 10,
		ErrorLog:          slog.NewLogLogger(u.Log.Handler(), slog.LevelDebug),
	}
	all.Go(func() {
		_ = client.Wait() // why is of no interest: it is another try in any case
		end()
		server.Close()
	})
	_ = server.Serve(line) // until it is closed
	return time.Since(began), errors.New("the server has hung up")
}

// keepAlive ends a connection whose other end says nothing any more.
func (u *Uplink) keepAlive(client *ssh.Client) {
	ended := make(chan struct{})
	go func() {
		_ = client.Wait()
		close(ended)
	}()
	tick := time.NewTicker(aliveEvery)
	defer tick.Stop()
	for {
		select {
		case <-ended:
			return
		case <-tick.C:
		}
		late := time.AfterFunc(3*aliveEvery, func() { client.Close() })
		_, _, err := client.SendRequest("keepalive@openssh.com", true, nil)
		late.Stop()
		if err != nil {
			return
		}
	}
}

// conversationListener accepts what the server has to say.
type conversationListener struct {
	conversations <-chan ssh.NewChannel
	closing       sync.Once
	closed        chan struct{}
	all           *sync.WaitGroup
	address       net.Addr
}

// Accept implements net.Listener. What it returns has deadlines, which a channel has not.
func (l *conversationListener) Accept() (net.Conn, error) {
	for {
		var offered ssh.NewChannel
		var ok bool
		select {
		case <-l.closed:
			return nil, net.ErrClosed
		case offered, ok = <-l.conversations:
		}
		if !ok {
			return nil, net.ErrClosed
		}
		channel, requests, err := offered.Accept()
		if err != nil {
			continue // it has changed its mind, or is gone: that is heard
		}
		ours, theirs := net.Pipe()
		l.all.Go(func() { ssh.DiscardRequests(requests) })
		l.all.Go(func() {
			_, _ = io.Copy(theirs, channel) // an end is an end
			theirs.Close()
		})
		l.all.Go(func() {
			_, _ = io.Copy(channel, theirs)
			channel.Close()
		})
		return ours, nil
	}
}

// Close implements net.Listener.
func (l *conversationListener) Close() error {
	l.closing.Do(func() { close(l.closed) })
	return nil
}

// Addr implements net.Listener.
func (l *conversationListener) Addr() net.Addr { return l.address }

// ErrJoined is that a directory belongs to a server already.
var ErrJoined = errors.New("this machine has enrolled already")

// String says whose agent it is: "web-1 of git.example.org:22".
func (u *Uplink) String() string {
	if u.Name == "" {
		return "an agent of " + u.Server // it ended before it was told its name
	}
	return u.Name + " of " + u.Server
}

// Join makes an agent's directory belong to a server, by a one-time token, and returns what
// the agent is called there. It may be tried again with the same token until it has
// succeeded: the key that it makes for this machine stays.
func Join(ctx context.Context, dir, server, hostKey string, keys Keys, name, token string) (*Uplink, error) {
	once, err := enrolment.Key(token)
	if err != nil {
		return nil, err
	}
	if err := repo.MakeDir(dir, 0o700); err != nil {
		return nil, err
	}
	if was, err := OpenUplink(dir); err != nil || was != nil {
		if was != nil {
			err = fmt.Errorf("%w: it is %s", ErrJoined, was)
		}
		return nil, err
	}
	u := &Uplink{Server: server, HostKey: hostKey, Keys: keys}
	if u.Key, err = repo.OpenKey(filepath.Join(dir, keyName)); err != nil {
		return nil, err
	}
	crash.Point("join.key-made")
	client, err := u.dial(ctx, once)
	if err != nil {
		// It may have been let in by this token before, and ended before it knew.
		if known, already := u.dial(ctx, u.Key); already == nil {
			return u, errors.Join(known.Close(), u.keep(dir))
		}
		return nil, fmt.Errorf("enrol with %s: %w", server, err)
	}
	defer client.Close()
	defer context.AfterFunc(ctx, func() { client.Close() })()
	data, err := agentline.Sign(name, u.Key, client.SessionID())
	if err != nil {
		return nil, err
	}
	channel, requests, err := client.OpenChannel(agentline.Enrol, data)
	if err != nil {
		return nil, fmt.Errorf("enrol with %s: %w", server, err)
	}
	go ssh.DiscardRequests(requests) // ends with the channel
	var answer agentline.Enrolled
	if err := json.NewDecoder(io.LimitReader(channel, maxAnswer)).Decode(&answer); err != nil {
		return nil, fmt.Errorf("enrol with %s: it did not answer: %w\nhint: run the same command again", server, cmpErr(err))
	}
	if answer.Error != "" {
		text := "the server refused: " + answer.Error
		if answer.Hint != "" {
			text += "\nhint: " + answer.Hint
		}
		return nil, errors.New(text)
	}
	u.Name = answer.Name
	crash.Point("join.accepted")
	return u, u.keep(dir)
}

// keep notes which server an agent's directory belongs to.
func (u *Uplink) keep(dir string) error {
	data, err := json.Marshal(keptUplink{1, u.Server, u.HostKey, u.Name, u.Keys})
	if err != nil {
		return err
	}
	if err := repo.WriteFile(filepath.Join(dir, uplinkName), append(data, '\n'), 0o600); err != nil {
		return fmt.Errorf("note which server this agent has: %w", err)
	}
	crash.Point("join.noted")
	return nil
}

// follow notes that other keys count from now on.
func (u *Uplink) follow(dir string, keys Keys) error {
	next := &Uplink{Server: u.Server, HostKey: u.HostKey, Name: u.Name, Keys: keys}
	if err := next.keep(dir); err != nil {
		return err
	}
	u.Keys = keys
	crash.Point("agent.keys-followed")
	return nil
}

// Trust has an agent believe another host key or signing key of its server, "" for the one
// that it believes, and no former ones but those named.
func Trust(dir, hostKey string, keys Keys) (*Uplink, error) {
	u, err := OpenUplink(dir)
	if err == nil && u == nil {
		err = fmt.Errorf("%s does not belong to a server on another machine; let it enrol first: headgate agent join", dir)
	}
	if err != nil {
		return nil, err
	}
	u.HostKey = cmp.Or(hostKey, u.HostKey)
	if keys.Signing != "" {
		u.Keys = keys
	}
	return u, u.keep(dir)
}
