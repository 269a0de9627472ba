// Package agentline is what an agent on another machine and the SSH daemon say to each
// other below the agent's protocol: the channels there are, and how a machine enrols.
//
// An agent connects with its own key and opens one channel, Presence, which stays open
// for as long as it is there. The server opens a Conversation towards it whenever it has
// something to say, which it does as to an agent of its own machine.
package agentline

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/headgate-cd/headgate/gitd/access"
)

// The kinds of channels.
const (
	Presence     = "presence@headgate"     // an agent's, for as long as it is there
	Conversation = "conversation@headgate" // the server's, towards an agent
	Artifact     = "artifact@headgate"     // an agent's: the bytes of a Blob, from an offset on
	Enrol        = "enrol@headgate"        // of a machine that has a token, with an Enrolment; answered with Enrolled
)

// Program is what a Blob is a part of that is the server's program.
const Program = "program"

// Blob is what an agent wants to have of the artifact store.
type Blob struct {
	Artifact string `json:"artifact"` // digest of the artifact that it is a part of
	Digest   string `json:"digest"`   // of the part; that of the artifact for its manifest
	Offset   int64  `json:"offset"`   // what it has already
}

// Read reads what came with a channel.
func (b *Blob) Read(data []byte) error {
	if len(data) > maxExtra || json.Unmarshal(data, b) != nil || b.Offset < 0 {
		return errors.New("what is wanted cannot be read")
	}
	return nil
}

// maxExtra bounds what a machine says with a channel.
const maxExtra = 8 << 10

// Enrolment is what a machine says that becomes an agent.
type Enrolment struct {
	Name  string `json:"name"`  // what it would like to be called, when its token does not say
	Key   string `json:"key"`   // the public key that it will come with, the line of a .pub file
	Proof []byte `json:"proof"` // that it has the private half: a signature for this connection alone
}

// Enrolled answers it.
type Enrolled struct {
	Name  string `json:"name,omitempty"` // what it is called
	Error string `json:"error,omitempty"`
	Hint  string `json:"hint,omitempty"`
}

// Sign makes the enrolment of a key on a connection.
func Sign(name string, key ssh.Signer, session []byte) (data []byte, err error) {
	signature, err := key.Sign(nil, statement(session))
	if err != nil {
		return nil, err
	}
	e := Enrolment{Name: name, Key: string(ssh.MarshalAuthorizedKey(key.PublicKey())), Proof: ssh.Marshal(signature)}
	return json.Marshal(e)
}

// statement is what is signed: it can be nothing else that is signed with such a key.
func statement(session []byte) []byte {
	return append([]byte("headgate agent enrolment\x00"), session...)
}

// Read reads what came with a channel.
func (e *Enrolment) Read(data []byte) error {
	if len(data) > maxExtra {
		return fmt.Errorf("an enrolment of %d bytes is too long", len(data))
	}
	if err := json.Unmarshal(data, e); err != nil {
		return errors.New("the enrolment cannot be read")
	}
	return nil
}

// Verify is the key that a machine has proven on a connection.
func (e *Enrolment) Verify(session []byte) (ssh.PublicKey, error) {
	key, err := access.ParseKey(e.Key)
	if err != nil {
		return nil, fmt.Errorf("the key of the enrolment %w", err)
	}
	var signature ssh.Signature
	if err := ssh.Unmarshal(e.Proof, &signature); err != nil {
		return nil, errors.New("the proof of the enrolment cannot be read")
	}
	if err := key.Public.Verify(statement(session), &signature); err != nil {
		return nil, errors.New("the enrolment does not prove its key")
	}
	return key.Public, nil
}

// Conn is a channel as a connection. It knows no deadlines: who waits for the other end
// closes it, and need not hear from it then.
type Conn struct {
	channel       ssh.Channel
	read          *io.PipeReader
	local, remote net.Addr
}

// readBuffer bounds what has come and was not read yet. There may be thousands of them.
const readBuffer = 1 << 10

// NewConn makes a connection of a channel, between two addresses.
func NewConn(channel ssh.Channel, local, remote net.Addr) *Conn {
	r, w := io.Pipe()
	go func() { // ends with the channel
		_, err := io.CopyBuffer(w, struct{ io.Reader }{channel}, make([]byte, readBuffer))
		w.CloseWithError(err)
	}()
	return &Conn{channel, r, local, remote}
}

// Read implements net.Conn.
func (c *Conn) Read(p []byte) (int, error) { return c.read.Read(p) }

// Write implements net.Conn.
func (c *Conn) Write(p []byte) (int, error) { return c.channel.Write(p) }

// Close implements net.Conn. A channel's own lets nobody go before the other end has
// answered, which it may never do.
func (c *Conn) Close() error {
	return errors.Join(c.read.CloseWithError(net.ErrClosed), c.channel.Close())
}

// LocalAddr implements net.Conn.
func (c *Conn) LocalAddr() net.Addr { return c.local }

// RemoteAddr implements net.Conn.
func (c *Conn) RemoteAddr() net.Addr { return c.remote }

// SetDeadline implements net.Conn.
func (c *Conn) SetDeadline(time.Time) error { return nil }

// SetReadDeadline implements net.Conn.
func (c *Conn) SetReadDeadline(time.Time) error { return nil }

// SetWriteDeadline implements net.Conn.
func (c *Conn) SetWriteDeadline(time.Time) error { return nil }
