package gitd

import (
	"net"
	"syscall"
	"testing"
	"time"
)

// Without it the kernel puts an acknowledgement off by 40 ms as soon as a
// connection goes to and fro, and OpenSSH's client waits for it twice a login.
func TestAcknowledgesAtOnceUntilAKeyIsProven(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	client, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	accepted, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	d := &daemon{limits: Limits{Login: time.Minute}.filled()}
	c := newConnection(d, accepted)
	defer c.Close()
	c.requested = true // admission is not what is tested

	toAndFro := func() (quick int) {
		t.Helper()
		one := make([]byte, 1)
		for range 5 { // the kernel takes a few to see that it goes to and fro
			for _, step := range []func([]byte) (int, error){client.Write, c.Read, c.Write, client.Read, client.Write, c.Read} {
				if _, err := step(one); err != nil {
					t.Fatal(err)
				}
			}
		}
		var optErr error
		if err := c.raw.Control(func(fd uintptr) {
			quick, optErr = syscall.GetsockoptInt(int(fd), syscall.IPPROTO_TCP, syscall.TCP_QUICKACK)
		}); err != nil || optErr != nil {
			t.Fatal(err, optErr)
		}
		return quick
	}
	c.authenticated.Store(true)
	if toAndFro() != 0 {
		t.Skip("this kernel puts no acknowledgement off") // then there is nothing to test
	}
	c.authenticated.Store(false)
	if toAndFro() == 0 {
		t.Error("during login the kernel puts acknowledgements off")
	}
}
