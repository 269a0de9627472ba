package server

import (
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
)

// proxied gives a request that came through trusted proxies the address of whoever
// sent it to them, by which attempts are counted and sessions bound: behind a proxy
// everybody has the same one otherwise. Of X-Forwarded-For only what the proxies
// themselves have written counts, which stands last.
func proxied(trusted []netip.Prefix, next http.Handler) http.Handler {
	if len(trusted) == 0 {
		return next
	}
	trusts := func(a netip.Addr) bool {
		return slices.ContainsFunc(trusted, func(p netip.Prefix) bool { return p.Contains(a.Unmap().WithZone("")) })
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		peer, err := netip.ParseAddrPort(r.RemoteAddr)
		if err != nil {
			next.ServeHTTP(w, r)
			return
		}
		at := peer.Addr()
		hops := strings.Split(strings.Join(r.Header.Values("X-Forwarded-For"), ","), ",")
		for i := len(hops) - 1; i >= 0 && trusts(at); i-- {
			before, err := netip.ParseAddr(strings.TrimSpace(hops[i]))
			if err != nil {
				break // the nearest that is known stays
			}
			at = before
		}
		if at != peer.Addr() {
			r = r.WithContext(r.Context())
			r.RemoteAddr = net.JoinHostPort(at.String(), "0")
		}
		next.ServeHTTP(w, r)
	})
}
