package server

import (
	"net/http"
	"net/http/httptest"
	"net/netip"
	"testing"
	"time"

	"github.com/headgate-cd/headgate/gitd/attempts"
)

// TestAddressBehindProxies: the address is the one that a trusted proxy was spoken to
// from; what a client writes into the header itself is not believed.
func TestAddressBehindProxies(t *testing.T) {
	trusted := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("fd00::/8")}
	for _, c := range []struct {
		peer      string
		forwarded []string
		want      string
	}{
		{"192.0.2.1:1000", nil, "192.0.2.1:1000"},
		{"192.0.2.1:1000", []string{"198.51.100.7"}, "192.0.2.1:1000"}, // no proxy of ours
		{"10.0.0.1:1000", nil, "10.0.0.1:1000"},
		{"10.0.0.1:1000", []string{"198.51.100.7"}, "198.51.100.7:0"},
		{"[::ffff:10.0.0.1]:1000", []string{"198.51.100.7"}, "198.51.100.7:0"},
		{"[fd00::1]:1000", []string{"2001:db8::7"}, "[2001:db8::7]:0"},
		{"10.0.0.1:1000", []string{"203.0.113.9, 198.51.100.7"}, "198.51.100.7:0"}, // the first is the client's own
		{"10.0.0.1:1000", []string{"203.0.113.9", "198.51.100.7, 10.0.0.2"}, "198.51.100.7:0"},
		{"10.0.0.1:1000", []string{"10.0.0.3, 10.0.0.2"}, "10.0.0.3:0"},
		{"10.0.0.1:1000", []string{"198.51.100.7, unknown"}, "10.0.0.1:1000"},
		{"10.0.0.1:1000", []string{""}, "10.0.0.1:1000"},
	} {
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.RemoteAddr = c.peer
		for _, f := range c.forwarded {
			r.Header.Add("X-Forwarded-For", f)
		}
		got := ""
		proxied(trusted, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { got = r.RemoteAddr })).ServeHTTP(nil,
			r)
		if got != c.want {
			t.Errorf("%s by %q: %s, not %s", c.peer, c.forwarded, got, c.want)
		}
	}
}

// One who mistypes behind the proxy does not keep the next one out.
func TestAttemptsBehindAProxy(t *testing.T) {
	var limit attempts.Limiter
	now := time.Now()
	status := func(from string) (wait time.Duration) {
		r := httptest.NewRequest(http.MethodPost, "/signin", nil)
		r.RemoteAddr = "10.0.0.1:1000"
		r.Header.Set("X-Forwarded-For", from)
		proxied([]netip.Prefix{netip.MustParsePrefix("10.0.0.1/32")},
			http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
				wait = limit.Take(r.RemoteAddr, now)
			})).ServeHTTP(nil, r)
		return wait
	}
	for range attempts.Each {
		status("198.51.100.7")
	}
	if status("198.51.100.7") == 0 || status("198.51.100.8") != 0 {
		t.Error("those behind a proxy are counted as one, or not at all")
	}
}
