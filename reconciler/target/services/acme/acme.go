// Package acme gets the certificates of services from a certificate authority, by ACME
// (RFC 8555), and renews them. The authority looks for its proof where visitors come
// to: by tls-alpn-01 (RFC 8737) on the port that HTTPS is served on, or by http-01 on
// port 80.
//
// It asks for the names that it is told and no others, never because a visitor came, and
// waits longer each time that nothing comes of it: authorities lock out who asks often.
package acme

import (
	"cmp"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/acme"
	"golang.org/x/crypto/acme/autocert"

	"github.com/headgate-cd/headgate/gitd/repo"
	"github.com/headgate-cd/headgate/gitd/terminal"
)

// Waits before the authority is asked again. autocert itself gives up what failed
// after a minute.
const (
	shortestRetry = time.Minute + 10*time.Second
	longestRetry  = time.Hour
	lookAgain     = time.Hour // whether what there is has been renewed
)

var errNoAuthority = errors.New(
	"no certificate authority is agreed to; an administrator starts the server with --acme-directory")

// Authority is who gives certificates. Its methods, and those of its Certificates, may be
// called by several goroutines.
type Authority struct {
	Dir string // for the key of the account
	Log *slog.Logger

	mu        sync.Mutex
	directory string // "": there is none, and what there is goes on being served
	using     map[*Certificates]bool
}

// Use asks the authority with this directory from now on, whose terms are agreed to; ""
// asks nobody.
func (a *Authority) Use(directory string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.directory == directory {
		return
	}
	a.directory = directory
	for c := range a.using {
		for host, h := range c.hosts {
			h.cancel()
			c.begin(host)
		}
	}
}

// account is the key by which the authority knows this machine.
func (a *Authority) account() (*ecdsa.PrivateKey, error) {
	file := filepath.Join(a.Dir, "account.key")
	data, err := os.ReadFile(file)
	if err == nil {
		block, _ := pem.Decode(data)
		if block == nil {
			return nil, fmt.Errorf("%s holds no key; move it away, and another one is made", file)
		}
		return x509.ParseECPrivateKey(block.Bytes)
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(a.Dir, 0o700); err != nil {
		return nil, err
	}
	return key, repo.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}), 0o600)
}

// Certificates are those of one application. No other application is given them, or
// answers for their proof.
type Certificates struct {
	authority *Authority
	ctx       context.Context
	dir       string
	changed   func()
	hosts     map[string]*held // guarded by authority.mu, with all of its elements
}

// held is the certificate of one host, or its absence.
type held struct {
	host    string
	manager *autocert.Manager
	http    http.Handler
	cancel  context.CancelFunc
	there   bool
	trouble string
}

// Certificates keeps certificates in dir, and gets them until ctx ends. changed is called
// when what Trouble says is different; it must not call back.
func (a *Authority) Certificates(ctx context.Context, dir string, changed func()) *Certificates {
	return &Certificates{authority: a, ctx: ctx, dir: dir, changed: changed, hosts: map[string]*held{}}
}

// Want says for which hosts there are to be certificates. They are to be served where
// the authority comes to by then.
func (c *Certificates) Want(hosts []string) {
	a := c.authority
	a.mu.Lock()
	defer a.mu.Unlock()
	for host, h := range c.hosts {
		if !slices.Contains(hosts, host) {
			h.cancel()
			delete(c.hosts, host)
		}
	}
	for _, host := range hosts {
		switch h := c.hosts[host]; {
		case h == nil:
			c.begin(host)
		case h.manager == nil: // the account's key could not be read
			h.cancel()
			c.begin(host)
		}
	}
	if a.using == nil {
		a.using = map[*Certificates]bool{}
	}
	if a.using[c] = true; len(c.hosts) == 0 {
		delete(a.using, c)
	}
}

// begin gets the certificate of a host, for one who holds authority.mu.
func (c *Certificates) begin(host string) {
	ctx, cancel := context.WithCancel(c.ctx)
	h := &held{host: host, cancel: cancel, trouble: "there is no certificate for " + host + " yet: it is being asked for"}
	c.hosts[host] = h
	key, err := c.authority.account()
	if err != nil {
		h.trouble = fmt.Sprintf("there is no certificate for %s: %v", host, err)
		return
	}
	h.manager = &autocert.Manager{
		Prompt:     autocert.AcceptTOS,
		Cache:      autocert.DirCache(c.dir),
		HostPolicy: autocert.HostWhitelist(host),
		Client: &acme.Client{
			Key:          key,
			DirectoryURL: c.authority.directory,
			HTTPClient:   &http.Client{Transport: bounded{ctx, c.authority.directory}},
			UserAgent:    "headgate",
		},
	}
	h.http = h.manager.HTTPHandler(nil)
	go c.run(ctx, h)
}

// bounded asks an authority as long as its answer is wanted.
type bounded struct {
	ctx       context.Context
	directory string
}

func (b bounded) RoundTrip(r *http.Request) (*http.Response, error) {
	switch {
	case b.directory == "":
		return nil, errNoAuthority
	case b.ctx.Err() != nil:
		return nil, b.ctx.Err()
	}
	return http.DefaultTransport.RoundTrip(r)
}

// run gets the certificate of a host, whose renewal is the manager's, until ctx ends. It
// does not wait for an authority that does not answer.
func (c *Certificates) run(ctx context.Context, h *held) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for wait := shortestRetry; ; {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		cert, err := h.manager.GetCertificate(helloOf(h.host))
		if ctx.Err() != nil {
			return
		}
		if err == nil {
			c.say(ctx, h, true, late(h.host, cert.Leaf, time.Now()))
			wait = shortestRetry
			timer.Reset(lookAgain)
			continue
		}
		if errors.Is(err, errNoAuthority) {
			err = errNoAuthority
		}
		c.authority.Log.Error("got no certificate", "host", h.host, "err", err, "again_in", wait.String())
		why := terminal.Message(err.Error(), maxSaid)
		c.say(ctx, h, false, fmt.Sprintf("there is no certificate for %s: %s", h.host, why))
		timer.Reset(wait)
		wait = min(2*wait, longestRetry)
	}
}

// maxSaid bounds what an authority says.
const maxSaid = 300

func (c *Certificates) say(ctx context.Context, h *held, there bool, trouble string) {
	a := c.authority
	a.mu.Lock()
	changed := ctx.Err() == nil && (h.there != there || h.trouble != trouble)
	h.there, h.trouble = there, trouble
	a.mu.Unlock()
	if changed {
		c.changed()
	}
}

// late says that a certificate should have been renewed by now, as autocert does it when a
// third of its life is left, and 30 days at most; "" when it is well.
func late(host string, leaf *x509.Certificate, now time.Time) string {
	left, due := leaf.NotAfter.Sub(now), min(leaf.NotAfter.Sub(leaf.NotBefore)/3, 30*24*time.Hour)
	ends := leaf.NotAfter.UTC().Format("2006-01-02 15:04 MST")
	switch {
	case left < 0:
		return fmt.Sprintf("the certificate for %s ended at %s, and the authority gave no other", host, ends)
	case left < due*3/4:
		return fmt.Sprintf("the certificate for %s ends at %s, and the authority has given no other yet", host, ends)
	}
	return ""
}

// Trouble says what is wrong with the certificate of a host, "" when nothing is.
func (c *Certificates) Trouble(host string) string {
	c.authority.mu.Lock()
	defer c.authority.mu.Unlock()
	if h := c.hosts[host]; h != nil {
		return h.trouble
	}
	return ""
}

func (c *Certificates) find(host string) (h *held, there bool) {
	c.authority.mu.Lock()
	defer c.authority.mu.Unlock()
	h = c.hosts[strings.ToLower(strings.TrimSuffix(host, "."))]
	if h == nil || h.manager == nil {
		return nil, false
	}
	return h, h.there
}

// Config serves HTTP/2 and HTTP/1 with them, and the proof that the authority wants.
func (c *Certificates) Config() *tls.Config {
	return &tls.Config{
		MinVersion:     tls.VersionTLS12,
		NextProtos:     []string{"h2", "http/1.1", acme.ALPNProto},
		GetCertificate: c.choose,
	}
}

// choose is the certificate for the name that a visitor asks for. The authority is not
// asked because of a visitor.
func (c *Certificates) choose(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	h, there := c.find(hello.ServerName)
	switch {
	case h == nil:
		return nil, fmt.Errorf("no service is here for %q", hello.ServerName)
	case slices.Equal(hello.SupportedProtos, []string{acme.ALPNProto}):
		return h.manager.GetCertificate(hello)
	case !there:
		return nil, fmt.Errorf("there is no certificate for %q", hello.ServerName)
	}
	return h.manager.GetCertificate(helloOf(h.host))
}

// helloOf is a visitor who takes today's keys, so that there is one certificate for all.
func helloOf(host string) *tls.ClientHelloInfo {
	return &tls.ClientHelloInfo{
		ServerName:        host,
		SupportedCurves:   []tls.CurveID{tls.CurveP256},
		CipherSuites:      []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256},
		SignatureSchemes:  []tls.SignatureScheme{tls.ECDSAWithP256AndSHA256},
		SupportedVersions: []uint16{tls.VersionTLS13, tls.VersionTLS12},
	}
}

// ServeHTTP serves port 80: the proof that the authority wants, and else the way to HTTPS.
func (c *Certificates) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	name := r.Host
	if host, _, err := net.SplitHostPort(name); err == nil {
		name = host
	}
	h, _ := c.find(name)
	if h == nil {
		http.Error(w, "no service is here for "+cmp.Or(name, "requests without a host"), http.StatusNotFound)
		return
	}
	r.Host = h.host
	h.http.ServeHTTP(w, r)
}
