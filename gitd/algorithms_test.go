package gitd

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"
)

// TestAlgorithms holds what the server offers to be this and no more: nothing with
// SHA-1, no CBC, no DSA, whatever the library makes its default.
func TestAlgorithms(t *testing.T) {
	h := start(t, nil)
	c, err := net.Dial("tcp", h.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	in := bufio.NewReader(c)
	if _, err := fmt.Fprint(c, "SSH-2.0-test\r\n"); err != nil {
		t.Fatal(err)
	}
	if version, err := in.ReadString('\n'); err != nil || version != "SSH-2.0-Headgate\r\n" {
		t.Fatalf("%q, %v", version, err)
	}
	// The first packet is SSH_MSG_KEXINIT: length, padding, type, 16 bytes, lists.
	var size uint32
	if err := binary.Read(in, binary.BigEndian, &size); err != nil || size > 10_000 {
		t.Fatal(size, err)
	}
	packet := make([]byte, size)
	if _, err := io.ReadFull(in, packet); err != nil || packet[1] != 20 {
		t.Fatalf("%d, %v", packet[1], err)
	}
	rest := packet[2+16:]
	const ciphers = "aes128-gcm@openssh.com aes256-gcm@openssh.com aes128-ctr aes192-ctr aes256-ctr"
	const macs = "hmac-sha2-256-etm@openssh.com hmac-sha2-512-etm@openssh.com hmac-sha2-256 hmac-sha2-512"
	for _, list := range []struct{ what, want string }{
		{"key exchange", "mlkem768x25519-sha256 curve25519-sha256 curve25519-sha256@libssh.org " +
			"ecdh-sha2-nistp256 ecdh-sha2-nistp384 ecdh-sha2-nistp521 " +
			"diffie-hellman-group14-sha256 diffie-hellman-group16-sha512 kex-strict-s-v00@openssh.com"},
		{"host key", "ssh-ed25519"},
		{"ciphers from the client", ciphers},
		{"ciphers to it", ciphers},
		{"MACs from the client", macs},
		{"MACs to it", macs},
		{"compression from the client", "none"},
		{"compression to it", "none"},
	} {
		n := binary.BigEndian.Uint32(rest)
		if got := strings.ReplaceAll(string(rest[4:4+n]), ",", " "); got != list.want {
			t.Errorf("%s: %s\nwant %s", list.what, got, list.want)
		}
		rest = rest[4+n:]
	}
}
