package agent

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"

	"github.com/headgate-cd/headgate/gitd/enrolment"
)

// An impostor is refused before anything is said to it: it sees neither the token's key
// nor the agent's own.
func TestUnknownHostKeyIsToldNothing(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	heard := make(chan string, 10)
	ended := make(chan error, 10)
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			_, private, _ := ed25519.GenerateKey(rand.Reader)
			key, err := ssh.NewSignerFromKey(private)
			if err != nil {
				ended <- err
				continue
			}
			conf := &ssh.ServerConfig{
				PublicKeyCallback: func(_ ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
					heard <- ssh.FingerprintSHA256(key)
					return nil, nil
				},
			}
			conf.AddHostKey(key)
			_, _, _, err = ssh.NewServerConn(conn, conf)
			ended <- err
			conn.Close()
		}
	}()
	seed := make([]byte, ed25519.SeedSize)
	rand.Read(seed)
	dir := filepath.Join(t.TempDir(), "agent")
	_, err = Join(context.Background(), dir, l.Addr().String(), "SHA256:of-the-true-server", "web-1", enrolment.Prefix+base64.RawURLEncoding.EncodeToString(seed))
	if err == nil || !strings.Contains(err.Error(), "and not the pinned SHA256:of-the-true-server") {
		t.Error(err)
	}
	for range 2 { // with the token's key, and with its own
		if err := <-ended; err == nil {
			t.Error("the impostor has let it in")
		}
	}
	select {
	case key := <-heard:
		t.Errorf("the impostor was shown the key %s", key)
	default:
	}
	if u, err := OpenUplink(dir); u != nil || err != nil {
		t.Errorf("it has joined %+v %v", u, err)
	}
}

func TestOpenUplink(t *testing.T) {
	dir := t.TempDir()
	for _, text := range []string{"", "{", `{"version":2,"server":"a:1","host_key":"SHA256:x"}`, `{"version":1,"server":"a:1"}`} {
		if err := os.WriteFile(filepath.Join(dir, uplinkName), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if u, err := OpenUplink(dir); err == nil || !strings.Contains(err.Error(), uplinkName) {
			t.Errorf("%q: %+v %v", text, u, err)
		}
	}
	u := &Uplink{Server: "a:1", HostKey: "SHA256:x", Name: "web-1"}
	if err := u.keep(dir); err != nil {
		t.Fatal(err)
	}
	again, err := OpenUplink(dir)
	if err != nil || again.Server != u.Server || again.HostKey != u.HostKey || again.Name != u.Name || again.Key == nil {
		t.Errorf("%+v %v", again, err)
	}
	if _, err := Join(context.Background(), dir, "b:1", "SHA256:y", "web-2", enrolment.Prefix+strings.Repeat("A", 43)); !errors.Is(err, ErrJoined) {
		t.Errorf("it joins a second server: %v", err)
	}
}
