package gitd

import (
	"errors"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// connection is one client's connection with what the daemon knows of it. Its
// Read is where a client that is not authenticated waits for its turn.
type connection struct {
	net.Conn
	d             *daemon
	source        netip.Prefix
	connected     time.Time
	deadline      *time.Timer   // ends the connection unless a key is proven in time
	lastSent      atomic.Int64  // when something was last sent to the client, nanoseconds
	lastReceived  atomic.Int64  // when the client last sent something, nanoseconds
	admitted      chan struct{} // closed when there is a place for its handshake
	gone          chan struct{}
	closing       sync.Once
	raw           syscall.RawConn // nil when it is no TCP connection
	authenticated atomic.Bool     // a key is proven
	blobs         atomic.Int32    // that an agent fetches

	// Touched by the goroutine that reads during the handshake only.
	banner     func(message string) error // writes to the client before it is authenticated
	refused    []string                   // fingerprints of keys it offered that nobody has; a few, the library sees to it
	identified bool
	requested  bool

	mu       sync.Mutex // guards the rest
	role     role       // what it is for, once a key is proven
	user     string     // and whose it is
	sessions int
	idle     *time.Timer // ends a connection that has no session
}

func newConnection(d *daemon, nc net.Conn) *connection {
	c := &connection{
		Conn:      nc,
		d:         d,
		source:    source(nc.RemoteAddr()),
		connected: time.Now(),
		admitted:  make(chan struct{}),
		gone:      make(chan struct{}),
	}
	if tcp, ok := nc.(*net.TCPConn); ok {
		c.raw, _ = tcp.SyscallConn() // never fails on an open connection; nil only makes it slower
	}
	c.lastReceived.Store(c.connected.UnixNano())
	// A deadline on the connection would be reset by every read of the library,
	// and a client that drips bytes would never be idle: a timer closes it.
	c.deadline = time.AfterFunc(d.limits.Login, func() { c.Close() })
	return c
}

// source is the address that limits count by: for IPv6 the /64.
func source(a net.Addr) netip.Prefix {
	addr, err := netip.ParseAddrPort(a.String())
	if err != nil {
		return netip.Prefix{}
	}
	ip := addr.Addr().Unmap().WithZone("")
	bits := 32
	if ip.Is6() {
		bits = 64
	}
	p, _ := ip.Prefix(bits)
	return p
}

// Read passes the client's bytes on. Once the client has identified itself
// ("SSH-2.0-…", which costs nothing to hear), the first bytes of the key
// exchange wait until there is a place for it: those who send no such take none.
func (c *connection) Read(p []byte) (int, error) {
	exchange := c.identified && !c.requested
	n, err := c.Conn.Read(p)
	if exchange && n > 0 {
		c.requested = true
		if err := c.d.admission.admit(c); err != nil {
			return 0, err
		}
	}
	if n > 0 {
		c.lastReceived.Store(time.Now().UnixNano())
		c.acknowledge()
		if !c.identified {
			c.identified = slices.Contains(p[:n], '\n')
		}
	}
	return n, err
}

// acknowledge has the kernel acknowledge at once what the client sent. Until its
// session begins OpenSSH's client leaves Nagle's algorithm on and sends small
// messages in pairs: the second waits for the acknowledgement of the first,
// which the kernel would put off by 40 ms, twice a login.
func (c *connection) acknowledge() {
	if c.raw == nil || c.authenticated.Load() {
		return
	}
	_ = c.raw.Control(func(fd uintptr) { // an error means the slow way, or a closed connection, which the next read finds
		_ = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, syscall.TCP_QUICKACK, 1)
	})
}

func (c *connection) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	c.lastSent.Store(time.Now().UnixNano())
	return n, err
}

// silentFor is how long the server has been waiting for the client. While the
// client waits for an answer of ours that is not long; but half a message is no
// message, so such a client has only somewhat more time.
func (c *connection) silentFor(now time.Time) time.Duration {
	lastReceived, lastSent := c.lastReceived.Load(), c.lastSent.Load()
	d := now.Sub(time.Unix(0, max(lastReceived, lastSent)))
	if lastReceived > lastSent {
		d -= answerTimeout
	}
	return d
}

// Close ends the connection; it may be called at any time and more than once.
func (c *connection) Close() error {
	err := net.ErrClosed
	c.closing.Do(func() {
		close(c.gone)
		c.deadline.Stop()
		err = c.Conn.Close()
	})
	return err
}

// authenticatedAs records whose connection it is: the deadline is off and the place
// that the handshake took is free for another.
func (c *connection) authenticatedAs(of role, user string) error {
	if c.user != "" || !c.d.users.Take(user) {
		return errors.New("too many connections of this user")
	}
	c.mu.Lock()
	c.role, c.user = of, user
	c.authenticated.Store(true)
	idle := c.d.limits.Idle
	if of != person {
		idle = c.d.limits.Login // it has nothing else to do
	}
	c.idle = time.AfterFunc(idle, func() { c.Close() })
	c.mu.Unlock()
	c.deadline.Stop()
	c.d.admission.know(c.source)
	c.d.admission.leave(c)
	return nil
}

// release gives back what the connection holds, at its end.
func (c *connection) release() {
	c.d.admission.leave(c)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.user != "" {
		c.d.users.Give(c.user)
		c.idle.Stop()
	}
}

// openSession takes one of the connection's sessions, if the connection is for that: of a
// machine there is one.
func (c *connection) openSession(of role) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.role != of || c.sessions >= c.d.limits.Sessions || of != person && c.sessions > 0 {
		return false
	}
	c.sessions++
	c.idle.Stop()
	return true
}

// closeSession gives a session back.
func (c *connection) closeSession() (last bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.sessions--
	if c.sessions == 0 {
		c.idle.Reset(c.d.limits.Idle)
	}
	return c.sessions == 0
}

// isIdle reports whether no session runs on the connection.
func (c *connection) isIdle() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.sessions == 0
}

func (c *connection) isPerson() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.role == person
}

// isPresent reports whether it is of an agent that has said so.
func (c *connection) isPresent() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.role == machine && c.sessions > 0
}
