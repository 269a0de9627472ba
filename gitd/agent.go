package gitd

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"time"

	"github.com/gliderlabs/ssh"
	gossh "golang.org/x/crypto/ssh"

	"github.com/headgate-cd/headgate/gitd/access"
	"github.com/headgate-cd/headgate/gitd/agentline"
	"github.com/headgate-cd/headgate/gitd/show"
)

// Agents is where other machines come in, which have keys of their own that let in
// nowhere else.
type Agents interface {
	// Enrols reports whether a key is that of a one-time token with which a machine may
	// enrol.
	Enrols(fingerprint string) bool
	// Enrol makes a machine an agent with a key that it has proven, by the token whose key
	// it has proven too. An error that is a *show.Error is for the machine.
	Enrol(ctx context.Context, token string, key gossh.PublicKey, e agentline.Enrolment) (agentline.Enrolled, error)
	// Blob opens a part of an artifact for an agent that may have it. An error that is a
	// *show.Error is for the agent.
	Blob(ctx context.Context, a access.Agent, b agentline.Blob) (io.ReadSeekCloser, error)
	// Serve is called for each connection of an agent. It returns when ctx is done, or when
	// there is nothing to be said any more: then the connection ends.
	Serve(ctx context.Context, a access.Agent, line AgentLine)
}

// AgentLine is the connection of an agent, by which the server speaks to it.
type AgentLine struct {
	conn *gossh.ServerConn
	c    *connection
}

// Dial begins a conversation.
func (l AgentLine) Dial(context.Context) (net.Conn, error) {
	channel, requests, err := l.conn.OpenChannel(agentline.Conversation, nil)
	if err != nil {
		return nil, err
	}
	go gossh.DiscardRequests(requests)
	return agentline.NewConn(channel, l.conn.LocalAddr(), l.conn.RemoteAddr()), nil
}

// Session names the connection, as both ends of it know it and nobody else.
func (l AgentLine) Session() []byte { return l.conn.SessionID() }

// From is where it comes from.
func (l AgentLine) From() string {
	host, _, err := net.SplitHostPort(l.conn.RemoteAddr().String())
	if err != nil {
		return l.conn.RemoteAddr().String()
	}
	return host
}

// Close ends it.
func (l AgentLine) Close() { l.c.Close() }

// role is what a connection is for, by the key that was proven. What one of them may do
// the others may not.
type role int

const (
	nobody   role = iota
	person        // runs commands and git
	machine       // is an agent, and speaks as one
	newcomer      // has a token, and may enrol
)

// roleOf is what a key lets its holder be, and whom limits count it for.
func (d *daemon) roleOf(fingerprint string) (role, string) {
	if who, ok := d.Access().ByKey(fingerprint, access.ViaSSH); ok {
		return person, who.User
	}
	if a, ok := d.Access().AgentByKey(fingerprint); ok && d.Agents != nil {
		return machine, "agent " + a.Name // which is no user's name
	}
	if d.Agents != nil && d.Agents.Enrols(fingerprint) {
		return newcomer, "enrolment " + fingerprint
	}
	return nobody, ""
}

// enrolTimeout is how long it may take until a machine is an agent: a change lands.
const enrolTimeout = 2 * time.Minute

// agentHandler serves a channel of a machine until ctx is done.
type agentHandler func(ctx context.Context, c *connection, conn *gossh.ServerConn, offered gossh.NewChannel)

// agentChannel wraps what is done on a channel that only connections of one role may open.
func (d *daemon) agentChannel(of role, what string, serve agentHandler) ssh.ChannelHandler {
	return d.channel(func(_ ssh.Context, c *connection, conn *gossh.ServerConn, offered gossh.NewChannel) {
		if !c.openSession(of) {
			offered.Reject(gossh.Prohibited, what)
			return
		}
		defer func() {
			c.closeSession()
			c.Close() // it is for nothing else
		}()
		serve(d.commands, c, conn, offered)
	})
}

// serveAgent has an agent be spoken to for as long as it is there.
func (d *daemon) serveAgent(ctx context.Context, c *connection, conn *gossh.ServerConn, offered gossh.NewChannel) {
	a, ok := d.Access().AgentByKey(conn.Permissions.Extensions[fingerprint])
	if !ok {
		offered.Reject(gossh.Prohibited, "this key is not an agent's any more")
		return
	}
	channel, requests, err := offered.Accept()
	if err != nil {
		return
	}
	defer channel.Close()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() { // ends with the channel
		gossh.DiscardRequests(requests)
		cancel(errHungUp)
	}()
	defer context.AfterFunc(ctx, func() { channel.Close() })()
	endAlive := d.keepAliveIdle(conn, c)
	d.Agents.Serve(ctx, a, AgentLine{conn, c})
	cancel(nil)
	c.Close() // so that nobody waits for an answer
	endAlive()
}

// serveEnrolment makes a machine an agent.
func (d *daemon) serveEnrolment(ctx context.Context, _ *connection, conn *gossh.ServerConn, offered gossh.NewChannel) {
	var e agentline.Enrolment
	if err := e.Read(offered.ExtraData()); err != nil {
		offered.Reject(gossh.Prohibited, err.Error())
		return
	}
	key, err := e.Verify(conn.SessionID())
	if err != nil {
		offered.Reject(gossh.Prohibited, err.Error())
		return
	}
	channel, requests, err := offered.Accept()
	if err != nil {
		return
	}
	defer channel.Close()
	ctx, cancel := context.WithTimeout(ctx, enrolTimeout)
	defer cancel()
	go func() { // ends with the channel
		gossh.DiscardRequests(requests)
		cancel()
	}()
	answer, err := d.Agents.Enrol(ctx, conn.Permissions.Extensions[fingerprint], key, e)
	var told *show.Error
	switch {
	case errors.As(err, &told):
		answer = agentline.Enrolled{Error: told.What, Hint: told.Hint}
	case err != nil:
		d.log.Error("a machine could not be made an agent", "agent", e.Name, "remote", conn.RemoteAddr().String(), "err", err)
		answer = agentline.Enrolled{Error: "the server could not do it; its log says why", Hint: "run the same command again"}
	}
	// Errors mean that the machine has gone. It may come again with the same token.
	_ = json.NewEncoder(channel).Encode(answer)
	_ = channel.CloseWrite()
	_, _ = io.Copy(io.Discard, io.LimitReader(channel, 1)) // until it has read that
}

// maxBlobs is how many parts of artifacts an agent may fetch at once.
const maxBlobs = 4

// serveArtifact gives an agent the bytes of a part of an artifact.
func (d *daemon) serveArtifact(_ ssh.Context, c *connection, conn *gossh.ServerConn, offered gossh.NewChannel) {
	a, ok := d.Access().AgentByKey(conn.Permissions.Extensions[fingerprint])
	if !ok || d.Agents == nil || !c.isPresent() {
		offered.Reject(gossh.Prohibited, "only an agent that is present can fetch artifacts")
		return
	}
	if c.blobs.Add(1) > maxBlobs {
		c.blobs.Add(-1)
		offered.Reject(gossh.ResourceShortage, "an agent fetches at most 4 parts of artifacts at once")
		return
	}
	defer c.blobs.Add(-1)
	var b agentline.Blob
	if err := b.Read(offered.ExtraData()); err != nil {
		offered.Reject(gossh.Prohibited, err.Error())
		return
	}
	f, err := d.Agents.Blob(d.commands, a, b)
	if err == nil {
		defer f.Close()
		_, err = f.Seek(b.Offset, io.SeekStart)
	}
	var told *show.Error
	switch {
	case errors.As(err, &told):
		offered.Reject(gossh.Prohibited, told.What)
		return
	case err != nil:
		d.log.Error("an agent cannot be given what it wants", "agent", a.Name, "digest", b.Digest, "err", err)
		offered.Reject(gossh.ConnectionFailed, "the server cannot read it; its log says why")
		return
	}
	channel, requests, err := offered.Accept()
	if err != nil {
		return
	}
	defer channel.Close()
	defer context.AfterFunc(d.children, func() { channel.Close() })() // as git's packs, it gets time
	go gossh.DiscardRequests(requests)                                // ends with the channel
	if _, err := io.Copy(channel, f); err == nil {
		_ = channel.CloseWrite() // the agent knows how long it is
	}
}
