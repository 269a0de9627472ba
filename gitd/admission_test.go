package gitd

import (
	"net"
	"net/netip"
	"testing"
	"time"
)

// From where somebody has logged in, others go first and give way last.
func TestKnownSourcesGoFirst(t *testing.T) {
	a := newAdmission(Limits{Handshakes: 1, PerSource: 1, Unauthenticated: 3}.filled())
	from := func(source string) *connection {
		client, server := pipe(t)
		t.Cleanup(func() { client.Close() })
		c := &connection{
			Conn:      server,
			source:    netip.MustParsePrefix(source),
			connected: time.Now(),
			deadline:  time.NewTimer(time.Hour),
			admitted:  make(chan struct{}),
			gone:      make(chan struct{}),
		}
		t.Cleanup(func() { c.Close() })
		if !a.register(c) {
			t.Fatal("no room")
		}
		return c
	}
	busy := from("192.0.2.1/32")
	if err := a.admit(busy); err != nil {
		t.Fatal(err)
	}
	busy.lastSent.Store(time.Now().Add(time.Hour).UnixNano()) // it never looks silent
	a.know(netip.MustParsePrefix("192.0.2.3/32"))
	unknown, known := from("192.0.2.2/32"), from("192.0.2.3/32")
	for n, c := range []*connection{unknown, known} {
		go a.admit(c) // the channels tell how it ends
		until(t, "it waits", func() bool {
			a.mu.Lock()
			defer a.mu.Unlock()
			return len(a.queue) == n+1
		})
	}
	a.leave(busy)
	<-known.admitted
	select {
	case <-unknown.admitted:
		t.Error("two have the one place")
	default:
	}

	// Full: of two that wait, the unknown one is closed, though the other is older.
	other := from("192.0.2.3/32")
	last := from("192.0.2.4/32")
	<-unknown.gone
	for _, c := range []*connection{other, last} {
		select {
		case <-c.gone:
			t.Errorf("%s gave way", c.source)
		default:
		}
	}
}

// A client that says who it is and no more takes no place: any number of them delay
// nobody's handshake, from their own address neither.
func TestBannersTakeNoPlace(t *testing.T) {
	a := newAdmission(Limits{}.filled())
	d := &daemon{limits: Limits{}.filled(), admission: a}
	client, server := pipe(t)
	defer client.Close()
	c := newConnection(d, server)
	defer c.Close()
	if !a.register(c) {
		t.Fatal("no room")
	}
	buffer := make([]byte, 100)
	if _, err := client.Write([]byte("SSH-2.0-x\r\n")); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Read(buffer); err != nil || !c.identified {
		t.Fatal(err)
	}
	read := make(chan error, 1)
	go func() {
		_, err := c.Read(buffer)
		read <- err
	}()
	places := func() int {
		a.mu.Lock()
		defer a.mu.Unlock()
		return a.handshaking
	}
	if n := places(); n != 0 {
		t.Errorf("%d places after the banner", n)
	}
	if _, err := client.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if err := <-read; err != nil || places() != 1 {
		t.Errorf("%d places after more, %v", places(), err)
	}
}

// pipe is a TCP connection with both its ends.
func pipe(t *testing.T) (client, server net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if client, err = net.Dial("tcp", l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if server, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	return client, server
}
