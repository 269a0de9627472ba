package acme

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/headgate-cd/headgate/gitd/acmetest"
)

// TestLate: a certificate that should have been renewed by now is told of, and one that
// autocert may still be about to renew is not.
func TestLate(t *testing.T) {
	t.Parallel()
	const day = 24 * time.Hour
	began := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for _, c := range []struct {
		life, after time.Duration
		want        string
	}{
		{90 * day, 10 * day, ""},
		{90 * day, 61 * day, ""},
		{90 * day, 70 * day, "ends at 2026-04-01 00:00 UTC"},
		{90 * day, 91 * day, "ended at 2026-04-01 00:00 UTC"},
		{360 * day, 331 * day, ""},
		{360 * day, 345 * day, "ends at"},
		{6 * day, 3 * day, ""},
		{6 * day, 5 * day, "ends at"},
	} {
		leaf := &x509.Certificate{NotBefore: began, NotAfter: began.Add(c.life)}
		got := late("shop.example.org", leaf, began.Add(c.after))
		if (got == "") != (c.want == "") || !strings.Contains(got, c.want) {
			t.Errorf("of %s, after %s: %q, want %q", c.life, c.after, got, c.want)
		}
	}
}

// TestPort80: an authority that comes to port 80 finds its proof there, and visitors the
// way to HTTPS; a refusal is said with what the authority says of it.
func TestPort80(t *testing.T) {
	t.Parallel()
	authority := acmetest.New(t)
	authority.ComeToPort80()
	a := &Authority{Dir: t.TempDir(), Log: slog.New(slog.DiscardHandler)}
	a.Use(authority.Directory)
	changed := make(chan struct{}, 100)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	c := a.Certificates(ctx, t.TempDir(), func() { changed <- struct{}{} })
	server := httptest.NewServer(c)
	defer server.Close()
	authority.Lead("shop.example.org", server.Listener.Addr().String())

	c.Want([]string{"shop.example.org"})
	<-changed
	if why := c.Trouble("shop.example.org"); why != "" {
		t.Error(why)
	}
	if _, err := c.choose(&tls.ClientHelloInfo{ServerName: "SHOP.example.org."}); err != nil {
		t.Error(err)
	}
	authority.Refuse(true)
	c.Want([]string{"shop.example.org", "other.example.org"})
	<-changed
	if why := c.Trouble("other.example.org"); !strings.Contains(why, "other.example.org: 403") {
		t.Errorf("%q", why)
	}
	if _, err := c.choose(&tls.ClientHelloInfo{ServerName: "other.example.org"}); err == nil {
		t.Error("there is a certificate")
	}
	if n := authority.Asked(); n != 2 {
		t.Errorf("the authority was asked %d times, also because of a visitor", n)
	}

	client := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	for host, want := range map[string]string{
		"shop.example.org":    "https://shop.example.org/cart?of=me",
		"Shop.example.org:80": "https://shop.example.org/cart?of=me",
		"evil.example.org":    "",
	} {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, server.URL+"/cart?of=me", nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Host = host
		resp, err := client.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if got := resp.Header.Get("Location"); got != want || want == "" && resp.StatusCode != http.StatusNotFound {
			t.Errorf("%s: %s, to %q, want %q", host, resp.Status, got, want)
		}
	}

	c.Want(nil)
	if _, err := c.choose(&tls.ClientHelloInfo{ServerName: "shop.example.org"}); err == nil {
		t.Error("a name that is not declared any more is served")
	}
}
