// Package acmetest is a certificate authority for tests.
package acmetest

import (
	"bufio"
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
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"
)

// Authority is a certificate authority that speaks ACME (RFC 8555) as far as one
// client with one order at a time for each name needs it. It checks tls-alpn-01 (RFC 8737) and
// http-01 for real; that
// requests are signed it takes on trust.
type Authority struct {
	Directory string
	Root      *x509.Certificate

	t      *testing.T
	server *httptest.Server
	key    *ecdsa.PrivateKey

	mu     sync.Mutex
	at     map[string]string // where the host of a name is
	plain  bool
	refuse bool
	asked  int
	jwk    string
	orders map[string]*order
}

// order is one for a name, with its authorization.
type order struct {
	status string
	cert   []byte
}

// Lead has the authority come to address for a host name.
func (c *Authority) Lead(host, address string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at[host] = address
}

// ComeToPort80 has the authority take its proof from there, by http-01, and not by
// tls-alpn-01.
func (c *Authority) ComeToPort80() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.plain = true
}

// Refuse says whether every order is refused.
func (c *Authority) Refuse(all bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.refuse = all
}

// Asked is how often it was asked for an order.
func (c *Authority) Asked() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.asked
}

// Roots are what a visitor has to trust.
func (c *Authority) Roots() *x509.CertPool {
	roots := x509.NewCertPool()
	roots.AddCert(c.Root)
	return roots
}

// New makes an authority that ends with the test.
func New(t *testing.T) *Authority {
	t.Helper()
	c := &Authority{t: t, at: map[string]string{}, orders: map[string]*order{}}
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
	if c.Root, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	c.server = httptest.NewServer(http.HandlerFunc(c.serve))
	c.Directory = c.server.URL + "/"
	t.Cleanup(c.server.Close)
	return c
}

func (c *Authority) serve(w http.ResponseWriter, r *http.Request) {
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
	found := http.StatusOK
	what, name, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	if what == "order" && name == "" {
		identifiers, _ := payload["identifiers"].([]any)
		if len(identifiers) == 1 {
			name, _ = identifiers[0].(map[string]any)["value"].(string)
		}
		if c.asked++; c.refuse || name == "" {
			say(403, map[string]string{"detail": "not you"})
			return
		}
		c.orders[name] = &order{status: "pending"}
		w.Header().Set("Location", at("/order/"+name))
		found = http.StatusCreated
	}
	o := c.orders[name]
	if o == nil {
		o = &order{}
	}
	ordered := func() map[string]any {
		return map[string]any{
			"status": o.status, "authorizations": []string{at("/authz/" + name)}, "finalize": at("/finalize/" + name),
			"certificate": at("/cert/" + name),
			"identifiers": []map[string]string{{"type": "dns", "value": name}},
		}
	}
	challenge := func() map[string]string {
		kind := "tls-alpn-01"
		if c.plain {
			kind = "http-01"
		}
		return map[string]string{"type": kind, "url": at("/challenge/" + name), "token": "token",
			"status": "pending"}
	}

	switch what {
	case "":
		say(200, map[string]string{"newNonce": at("/nonce"), "newAccount": at("/account"), "newOrder": at("/order")})
	case "nonce":
	case "account":
		w.Header().Set("Location", at("/account/1"))
		say(201, map[string]string{"status": "valid"})
	case "order":
		say(found, ordered())
	case "authz":
		status := o.status
		if status == "ready" {
			status = "valid" // so reads the authorization of an order that is ready
		}
		say(200, map[string]any{"status": status, "identifier": map[string]string{"type": "dns", "value": name},
			"challenges": []any{challenge()}})
	case "challenge":
		o.status = "ready"
		if err := c.prove(name); err != nil {
			c.t.Error(err)
			o.status = "invalid"
		}
		say(200, challenge())
	case "finalize":
		csr, _ := payload["csr"].(string)
		o.cert, o.status = c.issue(csr), "valid"
		w.Header().Set("Location", at("/order/"+name))
		say(200, ordered())
	case "cert":
		w.Header().Set("Content-Type", "application/pem-certificate-chain")
		for _, der := range [][]byte{o.cert, c.Root.Raw} {
			if err := pem.Encode(w, &pem.Block{Type: "CERTIFICATE", Bytes: der}); err != nil {
				c.t.Error(err)
			}
		}
	default:
		say(404, map[string]string{"detail": r.URL.Path})
	}
}

// payload is what a request says, without its signature.
func (c *Authority) payload(r *http.Request) map[string]any {
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
func (c *Authority) prove(name string) error {
	conn, err := net.Dial("tcp", c.at[name])
	if err != nil {
		return err
	}
	defer conn.Close()
	var key struct{ Crv, Kty, X, Y string }
	if err := json.Unmarshal([]byte(c.jwk), &key); err != nil {
		return err
	}
	thumb := sha256.Sum256(fmt.Appendf(nil, `{"crv":%q,"kty":%q,"x":%q,"y":%q}`, key.Crv, key.Kty, key.X, key.Y))
	authorization := "token." + base64.RawURLEncoding.EncodeToString(thumb[:])
	if c.plain {
		return proveHTTP(conn, name, authorization)
	}
	want := sha256.Sum256([]byte(authorization))
	client := tls.Client(conn, &tls.Config{ServerName: name, NextProtos: []string{"acme-tls/1"},
		InsecureSkipVerify: true})
	if err := client.Handshake(); err != nil {
		return err
	}
	for _, e := range client.ConnectionState().PeerCertificates[0].Extensions {
		if e.Id.Equal(asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 1, 31}) {
			var got []byte
			if _, err := asn1.Unmarshal(e.Value, &got); err != nil || string(got) != string(want[:]) {
				return fmt.Errorf("the proof is %x, want %x (%v)", got, want, err)
			}
			return nil
		}
	}
	return fmt.Errorf("the certificate of %s holds no proof", name)
}

func proveHTTP(conn net.Conn, name, authorization string) error {
	r, err := http.NewRequest(http.MethodGet, "http://"+name+"/.well-known/acme-challenge/token", nil)
	if err != nil {
		return err
	}
	if err := r.Write(conn); err != nil {
		return err
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), r)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	said, err := io.ReadAll(resp.Body)
	if err != nil || string(said) != authorization {
		return fmt.Errorf("%s says %q to the proof, want %q (%v)", name, said, authorization, err)
	}
	return nil
}

func (c *Authority) issue(request string) []byte {
	der, err := base64.RawURLEncoding.DecodeString(request)
	if err != nil {
		c.t.Error(err)
		return nil
	}
	csr, err := x509.ParseCertificateRequest(der)
	if err != nil {
		c.t.Error(err)
		return nil
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2),
		DNSNames:     csr.DNSNames,
		NotBefore:    time.Now().Add(-time.Minute),
		NotAfter:     time.Now().Add(90 * 24 * time.Hour),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err = x509.CreateCertificate(rand.Reader, template, c.Root, csr.PublicKey, c.key)
	if err != nil {
		c.t.Error(err)
	}
	return der
}
