package agent

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"testing"

	"golang.org/x/crypto/ssh"

	"github.com/headgate-cd/headgate/gitd/agentline"
)

// cutter is a server whose connections break, each after some bytes of what is fetched.
type cutter struct {
	t       *testing.T
	content []byte
	breaks  []int // after how many bytes a connection does; the last one does not
	refuses int   // how often it does not know yet what the agent may have

	mu    sync.Mutex
	asked []int64 // offsets
	sent  int
}

// serve serves one connection.
func (c *cutter) serve(conn net.Conn, config *ssh.ServerConfig, n int) {
	defer conn.Close()
	server, channels, requests, err := ssh.NewServerConn(conn, config)
	if err != nil {
		return
	}
	go ssh.DiscardRequests(requests)
	for offered := range channels {
		if offered.ChannelType() == agentline.Presence {
			if _, requests, err := offered.Accept(); err == nil {
				go ssh.DiscardRequests(requests)
			}
			continue
		}
		var b agentline.Blob
		if err := json.Unmarshal(offered.ExtraData(), &b); err != nil {
			c.t.Error(err)
		}
		c.mu.Lock()
		no := c.refuses > 0
		c.refuses--
		if !no {
			c.asked = append(c.asked, b.Offset)
		}
		c.mu.Unlock()
		if no {
			_ = offered.Reject(ssh.Prohibited, "not yet")
			continue
		}
		channel, requests, err := offered.Accept()
		if err != nil {
			return
		}
		go ssh.DiscardRequests(requests)
		rest := c.content[b.Offset:]
		last := n >= len(c.breaks)
		if !last {
			rest = rest[:c.breaks[n]]
		}
		sent, _ := channel.Write(rest)
		c.mu.Lock()
		c.sent += sent
		c.mu.Unlock()
		if !last {
			server.Close()
			return
		}
		_ = channel.CloseWrite()
		channel.Close()
	}
}

// What is fetched goes on where it was when the connection was cut, whatever of it had come,
// and a server that does not know yet what it declares is asked again.
func TestFetchGoesOn(t *testing.T) {
	_, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	host, err := ssh.NewSignerFromKey(private)
	if err != nil {
		t.Fatal(err)
	}
	config := &ssh.ServerConfig{NoClientAuth: true}
	config.AddHostKey(host)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := &cutter{t: t, content: bytes.Repeat([]byte("deployed "), 20_000), breaks: []int{0, 70_000}, refuses: 2}
	var served sync.WaitGroup
	served.Go(func() {
		for n := 0; ; n++ {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			served.Go(func() { c.serve(conn, config, n) })
		}
	})
	u := &Uplink{
		Server:  l.Addr().String(),
		HostKey: ssh.FingerprintSHA256(host.PublicKey()),
		Key:     host,
		Handler: http.NotFoundHandler(),
		Log:     slog.New(slog.DiscardHandler),
	}
	ctx, cancel := context.WithCancel(t.Context())
	served.Go(func() { u.Run(ctx) })
	t.Cleanup(func() {
		cancel()
		l.Close()
		served.Wait()
	})
	var got []byte
	err = u.Fetch(ctx, func(ctx context.Context) error {
		in, err := u.Blob(ctx, "sha256:a", "sha256:a", int64(len(got)))
		if err != nil {
			return err
		}
		defer in.Close()
		more, err := io.ReadAll(in)
		got = append(got, more...)
		if err == nil && len(got) < len(c.content) {
			err = io.ErrUnexpectedEOF
		}
		return err
	})
	if err != nil || !bytes.Equal(got, c.content) {
		t.Errorf("%d of %d bytes: %v", len(got), len(c.content), err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.asked) != 3 || c.asked[2] == 0 {
		t.Errorf("it asked for %v", c.asked)
	}

	// What does not pass with time is not tried again.
	tries := 0
	wrong := errors.New("the bytes do not match")
	if err := u.Fetch(ctx, func(context.Context) error { tries++; return wrong }); !errors.Is(err, wrong) || tries != 1 {
		t.Errorf("%d tries: %v", tries, err)
	}
}
