package proxy

import (
	"net/http/httputil"
	"net/netip"
	"slices"
	"strings"
)

// Trusted are the addresses of proxies that stand before this one. What they say
// about where a request came from is passed on; what anybody else says is not.
type Trusted []netip.Prefix

func (t Trusted) has(remote string) bool {
	from, err := netip.ParseAddrPort(remote)
	return err == nil && slices.ContainsFunc(t, func(p netip.Prefix) bool { return p.Contains(from.Addr().Unmap()) })
}

// rewrite makes the request to an instance of the one that came. All that is not
// the proxy's own is as it was sent.
func (t Trusted) rewrite(r *httputil.ProxyRequest) {
	r.Out.URL.Scheme = "http" // to instances, which are on this machine
	r.Out.Host = r.In.Host
	r.Out.URL.RawQuery = r.In.URL.RawQuery // also what Go would not read as parameters
	withoutConsole(r.Out.Header)

	if !t.has(r.In.RemoteAddr) {
		for name := range r.Out.Header {
			if forwarded(name) {
				delete(r.Out.Header, name)
			}
		}
		r.SetXForwarded()
		return
	}
	for name, values := range r.In.Header {
		if forwarded(name) {
			r.Out.Header[name] = values
		}
	}
	given := r.Out.Header.Clone()
	r.SetXForwarded() // appends to X-Forwarded-For
	for _, name := range []string{"X-Forwarded-Host", "X-Forwarded-Proto"} {
		if values, ok := given[name]; ok {
			r.Out.Header[name] = values
		}
	}
}

// forwarded reports whether a header says where a request came from.
func forwarded(name string) bool {
	return strings.HasPrefix(name, "X-Forwarded-") || name == "Forwarded" || name == "X-Real-Ip"
}
