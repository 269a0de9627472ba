package server

import (
	"cmp"
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net/http"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/acme"
	"golang.org/x/crypto/acme/autocert"
)

// LetsEncrypt is the directory of the certificate authority that is asked when
// nobody names another.
const LetsEncrypt = autocert.DefaultACMEDirectory

// Waits before the authority is asked again: it locks out who asks often.
const (
	shortestACMERetry = time.Minute
	longestACMERetry  = time.Hour
)

// authority is the directory of the authority that an administrator has agreed to, ""
// for none: whoever names one, or has --acme ask one.
func (o Options) authority() string {
	if o.ACME != "" {
		return cmp.Or(o.ACMEDirectory, LetsEncrypt)
	}
	return o.ACMEDirectory
}

// authority gets the certificate of one host name from a certificate authority, by
// ACME (RFC 8555), and renews it. The proof is tls-alpn-01 (RFC 8737), over the
// very port that HTTPS is served on: the authority comes to port 443 of the host.
type authority struct {
	host    string
	manager *autocert.Manager
	log     *slog.Logger
	missing atomic.Pointer[string] // why there is no certificate; nil: there is one
}

// newAuthority keeps account, key and certificate in dir. client speaks to the
// authority; nil: http.DefaultClient.
func newAuthority(host, directory, dir string, client *http.Client, log *slog.Logger) *authority {
	a := &authority{host: host, log: log, manager: &autocert.Manager{
		Prompt:     autocert.AcceptTOS,
		Cache:      autocert.DirCache(dir),
		HostPolicy: autocert.HostWhitelist(host),
		Client:     &acme.Client{DirectoryURL: directory, HTTPClient: client, UserAgent: "headgate"},
	}}
	waits := "the certificate has not been asked for yet"
	a.missing.Store(&waits)
	return a
}

// run gets the certificate before anybody asks for it: the first to come would
// wait as long as the authority takes. Once there is one, its renewal is the
// manager's.
func (a *authority) run(ctx context.Context) error {
	// A client that takes today's keys, so that it is the one everybody is given.
	hello := &tls.ClientHelloInfo{
		ServerName:        a.host,
		SupportedCurves:   []tls.CurveID{tls.CurveP256},
		CipherSuites:      []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256},
		SignatureSchemes:  []tls.SignatureScheme{tls.ECDSAWithP256AndSHA256},
		SupportedVersions: []uint16{tls.VersionTLS13, tls.VersionTLS12},
	}
	for wait := shortestACMERetry; ; wait = min(2*wait, longestACMERetry) {
		_, err := a.manager.GetCertificate(hello)
		if err == nil {
			a.missing.Store(nil)
			a.log.Info("has a certificate", "host", a.host)
			return nil
		}
		why := fmt.Sprintf("there is no certificate for %s: the authority gave none", a.host)
		a.missing.Store(&why)
		a.log.Error("got no certificate", "host", a.host, "err", err, "again_in", wait.String())
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
	}
}

// trouble says why there is no certificate, "" when there is one.
func (a *authority) trouble() string {
	if a == nil {
		return ""
	}
	if why := a.missing.Load(); why != nil {
		return *why
	}
	return ""
}
