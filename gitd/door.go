package gitd

import (
	"context"
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
// Read is where a client whose key is not proven waits for its turn.
type connection struct {
	net.Conn
	d        *daemon
	source   netip.Prefix
	began    time.Time
	deadline *time.Timer   // ends the connection unless a key is proven in time (F8)
	wrote    atomic.Int64  // when something was last sent to the client, nanoseconds
	heard    atomic.Int64  // when the client last sent something, nanoseconds
	admitted chan struct{} // closed by the door when a place is free
	gone     chan struct{}
	closing  sync.Once
	raw      syscall.RawConn // nil when it is no TCP connection
	known    atomic.Bool     // a key is proven

	// Touched by the goroutine that reads during the handshake only.
	introduced bool
	asked      bool

	mu       sync.Mutex // guards the rest
	user     string     // who, once a key is proven
	sessions int
	idle     *time.Timer // ends a connection that has no session
}

func newConnection(d *daemon, nc net.Conn) *connection {
	c := &connection{
		Conn:     nc,
		d:        d,
		source:   source(nc.RemoteAddr()),
		began:    time.Now(),
		admitted: make(chan struct{}),
		gone:     make(chan struct{}),
	}
	if tcp, ok := nc.(*net.TCPConn); ok {
		c.raw, _ = tcp.SyscallConn() // never fails on an open connection; nil only makes it slower
	}
	c.heard.Store(c.began.UnixNano())
	// A deadline on the connection would be reset by every read of the library,
	// and a client that drips bytes would never be idle: a timer closes it (F8).
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

// Read passes the client's bytes on. Once the client has introduced itself
// ("SSH-2.0-…", which costs nothing to hear), the first byte of the key
// exchange waits until the door has a place for it: the silent never take one.
func (c *connection) Read(p []byte) (int, error) {
	if c.introduced && !c.asked {
		c.asked = true
		if err := c.d.door.admit(c); err != nil {
			return 0, err
		}
	}
	n, err := c.Conn.Read(p)
	if n > 0 {
		c.heard.Store(time.Now().UnixNano())
		c.acknowledge()
		if !c.introduced {
			c.introduced = slices.Contains(p[:n], '\n')
		}
	}
	return n, err
}

// acknowledge has the kernel acknowledge at once what the client sent. Until its
// session begins OpenSSH's client leaves Nagle's algorithm on and sends small
// messages in pairs: the second waits for the acknowledgement of the first,
// which the kernel would put off by 40 ms, twice a login.
func (c *connection) acknowledge() {
	if c.raw == nil || c.known.Load() {
		return
	}
	_ = c.raw.Control(func(fd uintptr) { // an error means the slow way, or a closed connection, which the next read finds
		_ = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, syscall.TCP_QUICKACK, 1)
	})
}

func (c *connection) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	c.wrote.Store(time.Now().UnixNano())
	return n, err
}

// silentFor is how long the server has been waiting for the client. While the
// client waits for an answer of ours that is not long; but half a message is no
// message, so such a client has only somewhat more time.
func (c *connection) silentFor(now time.Time) time.Duration {
	heard, wrote := c.heard.Load(), c.wrote.Load()
	d := now.Sub(time.Unix(0, max(heard, wrote)))
	if heard > wrote {
		d -= answerTime
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

// proven records whose connection it is: the deadline is off and the place at
// the door is free for another.
func (c *connection) proven(user string) error {
	if c.user != "" || !c.d.users.take(user) {
		return errors.New("too many connections of this user")
	}
	c.mu.Lock()
	c.user = user
	c.known.Store(true)
	c.idle = time.AfterFunc(c.d.limits.Idle, func() { c.Close() })
	c.mu.Unlock()
	c.deadline.Stop()
	c.d.door.leave(c)
	return nil
}

// leave gives back what the connection holds, at its end.
func (c *connection) leave() {
	c.d.door.leave(c)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.user != "" {
		c.d.users.give(c.user)
		c.idle.Stop()
	}
}

// open takes one of the connection's sessions.
func (c *connection) open() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.user == "" || c.sessions >= c.d.limits.Sessions {
		return false
	}
	c.sessions++
	c.idle.Stop()
	return true
}

// shut gives a session back.
func (c *connection) shut() (last bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.sessions--
	if c.sessions == 0 {
		c.idle.Reset(c.d.limits.Idle)
	}
	return c.sessions == 0
}

// unused reports whether no session runs on the connection.
func (c *connection) unused() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.sessions == 0
}

// door bounds the connections whose key is not proven: how many there are, and
// how many of them are at work on it at once, in all and from one source.
// Others queue. When no place is free, one whose client has been silent for a
// while gives way, so that clients who stall do not keep others out.
type door struct {
	limits Limits

	mu       sync.Mutex           // guards the rest
	knocking map[*connection]bool // all unproven connections; true: inside
	inside   int
	from     map[netip.Prefix]int // inside, by source
	queue    []*connection
}

// silence is how long a client may say nothing before it gives way to another;
// answerTime is what a busy server may take to answer it.
const (
	silence    = 2 * time.Second
	answerTime = 3 * time.Second
)

func newDoor(l Limits) *door {
	return &door{limits: l, knocking: map[*connection]bool{}, from: map[netip.Prefix]int{}}
}

// knock counts a new connection in, or says that there is no room. When there
// are too many, the oldest of the most crowded source gives way.
func (d *door) knock(c *connection) bool {
	d.mu.Lock()
	var victim *connection
	if len(d.knocking) >= d.limits.Knocking {
		crowd := map[netip.Prefix]int{}
		for k := range d.knocking {
			crowd[k.source]++
		}
		for k, inside := range d.knocking {
			if inside {
				continue
			}
			if victim == nil || crowd[k.source] > crowd[victim.source] ||
				crowd[k.source] == crowd[victim.source] && k.began.Before(victim.began) {
				victim = k
			}
		}
		if victim == nil {
			d.mu.Unlock()
			return false
		}
		delete(d.knocking, victim)
	}
	d.knocking[c] = false
	d.mu.Unlock()
	if victim != nil {
		victim.Close()
	}
	return true
}

// admit waits for a place inside.
func (d *door) admit(c *connection) error {
	retry := time.NewTicker(silence / 4)
	defer retry.Stop()
	for first := true; ; first = false {
		d.mu.Lock()
		inside, counted := d.knocking[c]
		switch {
		case inside:
			d.mu.Unlock()
			return nil
		case !counted: // gave way to another
			d.mu.Unlock()
			return net.ErrClosed
		case d.room(c):
			d.enter(c)
			d.mu.Unlock()
			return nil
		}
		if first {
			d.queue = append(d.queue, c)
		}
		victim := d.silent(c)
		d.mu.Unlock()
		if victim != nil {
			victim.Close()
			d.leave(victim)
			continue
		}
		select {
		case <-c.admitted:
		case <-c.gone:
			return net.ErrClosed
		case <-retry.C:
		}
	}
}

func (d *door) room(c *connection) bool {
	return d.inside < d.limits.Handshakes && d.from[c.source] < d.limits.PerSource
}

func (d *door) enter(c *connection) {
	c.wrote.Store(time.Now().UnixNano()) // its silence counts from here
	d.knocking[c] = true
	d.inside++
	d.from[c.source]++
	d.queue = slices.DeleteFunc(d.queue, func(q *connection) bool { return q == c })
	close(c.admitted)
}

// silent finds who gives way to c: of those in its way, the longest silent.
func (d *door) silent(c *connection) *connection {
	full := d.from[c.source] >= d.limits.PerSource
	now, longest := time.Now(), silence
	var victim *connection
	for k, inside := range d.knocking {
		if !inside || full && k.source != c.source {
			continue
		}
		if d := k.silentFor(now); d >= longest {
			victim, longest = k, d
		}
	}
	return victim
}

// leave counts a connection out and lets the next in. It may be called again.
func (d *door) leave(c *connection) {
	d.mu.Lock()
	defer d.mu.Unlock()
	inside, counted := d.knocking[c]
	if !counted {
		return
	}
	delete(d.knocking, c)
	d.queue = slices.DeleteFunc(d.queue, func(q *connection) bool { return q == c })
	if !inside {
		return
	}
	d.inside--
	if d.from[c.source]--; d.from[c.source] == 0 {
		delete(d.from, c.source)
	}
	for _, next := range d.queue {
		if d.room(next) {
			d.enter(next)
			return
		}
	}
}

// counter counts what is in use, in all and by name. Safe for concurrent use.
type counter struct {
	all, each int // limits; 0: none

	mu   sync.Mutex // guards the rest
	n    int
	used map[string]int
}

func newCounter(all, each int) *counter {
	return &counter{all: all, each: each, used: map[string]int{}}
}

func (c *counter) take(name string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.all > 0 && c.n >= c.all || c.used[name] >= c.each {
		return false
	}
	c.n++
	c.used[name]++
	return true
}

func (c *counter) give(name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.n--
	if c.used[name]--; c.used[name] == 0 {
		delete(c.used, name)
	}
}

// turnstile lets a number through at once; a bounded number waits, for a
// bounded time.
type turnstile struct {
	places chan struct{}
	queue  chan struct{}
	wait   time.Duration
}

func newTurnstile(places, queue int, wait time.Duration) *turnstile {
	return &turnstile{make(chan struct{}, places), make(chan struct{}, queue), wait}
}

var errBusy = errors.New("busy")

// pass waits for a place; the caller gives it back with done. errBusy means
// that too many wait already, or that the wait was too long.
func (t *turnstile) pass(ctx context.Context) (done func(), err error) {
	done = func() { <-t.places }
	select {
	case t.places <- struct{}{}:
		return done, nil
	default:
	}
	select {
	case t.queue <- struct{}{}:
		defer func() { <-t.queue }()
	default:
		return nil, errBusy
	}
	wait := time.NewTimer(t.wait)
	defer wait.Stop()
	select {
	case t.places <- struct{}{}:
		return done, nil
	case <-wait.C:
		return nil, errBusy
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}
