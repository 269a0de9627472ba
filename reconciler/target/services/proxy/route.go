package proxy

import (
	"net"
	"net/http"
	"path"
	"strings"
)

// Route says which requests to an address are for a pool.
type Route struct {
	Host string // such as shop.example.org or *.example.org; "": any
	Path string // such as /api, which /api/users is under; "": any
	Pool *Pool
}

// routes are those of one address.
type routes []Route

// find is the pool of the route that says most: first by host, then by path; nil when
// there is none.
func (all routes) find(r *http.Request) *Pool {
	if len(all) == 1 && all[0].Host == "" && all[0].Path == "" {
		return all[0].Pool
	}
	host := r.Host
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	at := path.Clean("/" + r.URL.Path)
	var best *Pool
	most := -1
	for _, route := range all {
		if says, ok := route.matches(host, at); ok && says > most {
			best, most = route.Pool, says
		}
	}
	return best
}

// matches reports whether a route is for a host and path, and how much it says.
func (r Route) matches(host, at string) (says int, ok bool) {
	const exact, wildcard = 2 << 20, 1 << 20 // more than any path says
	suffix, wild := strings.CutPrefix(r.Host, "*")
	switch {
	case r.Host == "":
	case r.Host == host:
		says = exact
	case wild && strings.HasSuffix(host, suffix) && len(host) > len(suffix):
		says = wildcard + len(suffix)<<12
	default:
		return 0, false
	}
	under := strings.TrimSuffix(r.Path, "/")
	if at != under && !strings.HasPrefix(at, under+"/") {
		return 0, false
	}
	return says + len(under), true
}
