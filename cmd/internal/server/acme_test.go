package server

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/headgate-cd/headgate/gitd/acmetest"
)

// TestACME: the certificate is got before anybody comes, is given to those who ask
// for the host's name and nobody else, and is there after a restart without asking
// again.
func TestACME(t *testing.T) {
	t.Parallel()
	c := acmetest.New(t)
	dir := t.TempDir()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()

	serve := func() (*authority, string, func()) {
		t.Helper()
		a := newAuthority("headgate.example", c.Directory, filepath.Join(dir, "acme"), nil,
			slog.New(slog.DiscardHandler))
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		server := &http.Server{
			TLSConfig: a.manager.TLSConfig(),
			ErrorLog:  slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug),
			Handler:   http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "well") }),
		}
		go server.ServeTLS(l, "", "")
		return a, l.Addr().String(), func() { server.Close() }
	}
	get := func(address, host string) error {
		dialer := &tls.Dialer{Config: &tls.Config{ServerName: host, RootCAs: c.Roots()}}
		conn, err := dialer.DialContext(ctx, "tcp", address)
		if err == nil {
			conn.Close()
		}
		return err
	}

	a, address, stop := serve()
	if !strings.Contains(a.trouble(), "certificate") {
		t.Errorf("before anything was asked: %q", a.trouble())
	}
	c.Lead("headgate.example", address)
	if err := a.run(ctx); err != nil {
		t.Fatal(err)
	}
	if why := a.trouble(); why != "" {
		t.Error(why)
	}
	if err := get(address, "headgate.example"); err != nil {
		t.Error(err)
	}
	if err := get(address, "other.example"); err == nil {
		t.Error("it has a certificate for other.example")
	}
	stop()

	again, address, stop := serve()
	defer stop()
	if err := again.run(ctx); err != nil {
		t.Fatal(err)
	}
	if err := get(address, "headgate.example"); err != nil {
		t.Error(err)
	}
	if n := c.Asked(); n != 1 {
		t.Errorf("the authority was asked %d times", n)
	}
	files, err := os.ReadDir(filepath.Join(dir, "acme"))
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	for _, f := range files {
		if info, err := f.Info(); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s is %v, %v", f.Name(), info.Mode(), err)
		}
	}
}

// TestACMERefused: an authority that gives no certificate is trouble, and the
// server stops all the same when it is told to.
func TestACMERefused(t *testing.T) {
	t.Parallel()
	c := acmetest.New(t)
	c.Refuse(true)
	said := make(chan struct{}, 8)
	log := slog.New(
		slog.NewTextHandler(writerFunc(func(p []byte) (int, error) { said <- struct{}{}; return len(p), nil }), nil))
	a := newAuthority("headgate.example", c.Directory, t.TempDir(), nil, log)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- a.run(ctx) }()
	<-said
	if !strings.Contains(a.trouble(), "headgate.example") {
		t.Errorf("%q", a.trouble())
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }
