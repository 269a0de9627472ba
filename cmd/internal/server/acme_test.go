package server

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// certifier is a certificate authority that speaks ACME (RFC 8555) as far as one
// client with one order needs it. It checks tls-alpn-01 (RFC 8737) for real; that
// requests are signed it takes on trust.
type certifier struct {
	t      *testing.T
	server *httptest.Server
	dial   string // where the host name is
	key    *ecdsa.PrivateKey
	root   *x509.Certificate

	mu     sync.Mutex
	refuse bool // every order
	asked  int  // for an order
	jwk    string
	name   string
	status string // of the order and its authorization
	cert   []byte
}

func newCertifier(t *testing.T) *certifier {
	t.Helper()
	c := &certifier{t: t}
	var err error
	if c.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber:          big.NewInt(1),
		Subject:               pkix.Name{CommonName: "test"},
		NotAfter:              time.Now().Add(24 * time.Hour),
		IsCA:                  true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, c.key.Public(), c.key)
	if err != nil {
		t.Fatal(err)
	}
	if c.root, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	c.server = httptest.NewServer(http.HandlerFunc(c.serve))
	t.Cleanup(c.server.Close)
	return c
}

func (c *certifier) serve(w http.ResponseWriter, r *http.Request) {
	c.mu.Lock()
	defer c.mu.Unlock()
	payload := c.payload(r)
	at := func(path string) string { return c.server.URL + path }
	w.Header().Set("Replay-Nonce", "nonce")
	say := func(status int, v any) {
		w.WriteHeader(status)
		if err := json.NewEncoder(w).Encode(v); err != nil {
			c.t.Error(err)
		}
	}
	order := func() map[string]any {
		return map[string]any{
			"status": c.status, "authorizations": []string{at("/authz")}, "finalize": at("/finalize"),
			"certificate": at("/cert"),
			"identifiers": []map[string]string{{"type": "dns", "value": c.name}},
		}
	}
	challenge := func() map[string]string {
		return map[string]string{"type": "tls-alpn-01", "url": at("/challenge"), "token": "token", "status": "pending"}
	}

	switch r.URL.Path {
	case "/":
		say(200, map[string]string{"newNonce": at("/nonce"), "newAccount": at("/account"), "newOrder": at("/order")})
	case "/nonce":
	case "/account":
		w.Header().Set("Location", at("/account/1"))
		say(201, map[string]string{"status": "valid"})
	case "/order":
		if c.asked++; c.refuse {
			say(403, map[string]string{"detail": "not you"})
			return
		}
		c.name, c.status = payload["identifiers"].([]any)[0].(map[string]any)["value"].(string), "pending"
		w.Header().Set("Location", at("/order/1"))
		say(201, order())
	case "/order/1":
		say(200, order())
	case "/authz":
		status := c.status
		if status == "ready" {
			status = "valid" // so reads the authorization of an order that is ready
		}
		say(200, map[string]any{"status": status, "identifier": map[string]string{"type": "dns", "value": c.name},
			"challenges": []any{challenge()}})
	case "/challenge":
		c.status = "ready"
		if err := c.prove(); err != nil {
			c.t.Error(err)
			c.status = "invalid"
		}
		say(200, challenge())
	case "/finalize":
		c.issue(payload["csr"].(string))
		c.status = "valid"
		w.Header().Set("Location", at("/order/1"))
		say(200, order())
	case "/cert":
		w.Header().Set("Content-Type", "application/pem-certificate-chain")
		for _, der := range [][]byte{c.cert, c.root.Raw} {
			if err := pem.Encode(w, &pem.Block{Type: "CERTIFICATE", Bytes: der}); err != nil {
				c.t.Error(err)
			}
		}
	default:
		say(404, map[string]string{"detail": r.URL.Path})
	}
}

// payload is what a request says, without its signature.
func (c *certifier) payload(r *http.Request) map[string]any {
	var jws struct{ Protected, Payload string }
	body, err := io.ReadAll(r.Body)
	if err != nil || json.Unmarshal(body, &jws) != nil {
		return nil
	}
	if header, err := base64.RawURLEncoding.DecodeString(jws.Protected); err == nil {
		var h struct{ JWK json.RawMessage }
		if json.Unmarshal(header, &h) == nil && h.JWK != nil {
			c.jwk = string(h.JWK)
		}
	}
	text, err := base64.RawURLEncoding.DecodeString(jws.Payload)
	if err != nil {
		return nil
	}
	var m map[string]any
	_ = json.Unmarshal(text, &m) // POST-as-GET says nothing
	return m
}

// prove connects as the authority does, and wants the key authorization in the
// certificate's extension.
func (c *certifier) prove() error {
	conn, err := net.Dial("tcp", c.dial)
	if err != nil {
		return err
	}
	defer conn.Close()
	client := tls.Client(conn, &tls.Config{ServerName: c.name, NextProtos: []string{"acme-tls/1"},
		InsecureSkipVerify: true})
	if err := client.Handshake(); err != nil {
		return err
	}
	var key struct{ Crv, Kty, X, Y string }
	if err := json.Unmarshal([]byte(c.jwk), &key); err != nil {
		return err
	}
	thumb := sha256.Sum256(fmt.Appendf(nil, `{"crv":%q,"kty":%q,"x":%q,"y":%q}`, key.Crv, key.Kty, key.X, key.Y))
	want := sha256.Sum256([]byte("token." + base64.RawURLEncoding.EncodeToString(thumb[:])))
	for _, e := range client.ConnectionState().PeerCertificates[0].Extensions {
		if e.Id.Equal(asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 1, 31}) {
			var got []byte
			if _, err := asn1.Unmarshal(e.Value, &got); err != nil || string(got) != string(want[:]) {
				return fmt.Errorf("the proof is %x, want %x (%v)", got, want, err)
			}
			return nil
		}
	}
	return fmt.Errorf("the certificate of %s holds no proof", c.name)
}

func (c *certifier) issue(request string) {
	der, err := base64.RawURLEncoding.DecodeString(request)
	if err != nil {
		c.t.Error(err)
		return
	}
	csr, err := x509.ParseCertificateRequest(der)
	if err != nil {
		c.t.Error(err)
		return
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2),
		DNSNames:     csr.DNSNames,
		NotBefore:    time.Now().Add(-time.Minute),
		NotAfter:     time.Now().Add(90 * 24 * time.Hour),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	if c.cert, err = x509.CreateCertificate(rand.Reader, template, c.root, csr.PublicKey, c.key); err != nil {
		c.t.Error(err)
	}
}

// TestACME: the certificate is got before anybody comes, is given to those who ask
// for the host's name and nobody else, and is there after a restart without asking
// again.
func TestACME(t *testing.T) {
	t.Parallel()
	c := newCertifier(t)
	dir := t.TempDir()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()

	serve := func() (*authority, string, func()) {
		t.Helper()
		a := newAuthority("headgate.example", c.server.URL+"/", filepath.Join(dir, "acme"), nil,
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
		roots := x509.NewCertPool()
		roots.AddCert(c.root)
		dialer := &tls.Dialer{Config: &tls.Config{ServerName: host, RootCAs: roots}}
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
	c.mu.Lock()
	c.dial = address
	c.mu.Unlock()
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
	if c.asked != 1 {
		t.Errorf("the authority was asked %d times", c.asked)
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
	c := newCertifier(t)
	c.refuse = true
	said := make(chan struct{}, 8)
	log := slog.New(
		slog.NewTextHandler(writerFunc(func(p []byte) (int, error) { said <- struct{}{}; return len(p), nil }), nil))
	a := newAuthority("headgate.example", c.server.URL+"/", t.TempDir(), nil, log)
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
