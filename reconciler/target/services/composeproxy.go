package services

import (
	"fmt"
	"net/netip"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"go.yaml.in/yaml/v4"

	"github.com/headgate-cd/headgate/gitd/yamlfile"
	"github.com/headgate-cd/headgate/reconciler/target"
	"github.com/headgate-cd/headgate/reconciler/target/services/proxy"
)

// Proxy is how the requests for a service are carried, as its x-headgate says.
type Proxy struct {
	Routes     []proxy.Route // without pools; none: all that no other service of the port has
	Sticky     string
	TestHeader string
	Hold       time.Duration
	Traffic    proxy.Traffic
	Page       string // file of the application's directory
	MaxBody    int64
	MaxHeader  int
	Timeout    time.Duration
	TLS        bool
	ACME       bool // by certificates that an authority is asked for, for the hosts of Routes
	AccessLog  bool
}

var proxyKeys = []string{
	"routes", "sticky", "test_header", "hold", "traffic", "page", "max_body", "max_header", "timeout", "protocol", "tls",
	"access_log",
}

const maxRoutes = 50

var (
	headerName = sync.OnceValue(func() *regexp.Regexp {
		return regexp.MustCompile(`^[A-Za-z0-9!#$%&'*+.^_|~-]{1,100}$`)
	})
	hostName = sync.OnceValue(func() *regexp.Regexp {
		return regexp.MustCompile(`^(\*\.)?[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*$`)
	})
	byteSize = sync.OnceValue(func() *regexp.Regexp {
		return regexp.MustCompile(`^([0-9]{1,12}(?:\.[0-9]{1,9})?)\s*([kKmMgG])?i?[bB]?$`)
	})
)

func (p *parser) proxy(s *Service, key string, n *yaml.Node, what string) {
	x := &s.Proxy
	if len(s.Ports) == 0 {
		p.problem(n, "add ports, or leave it out", "%s: the service has no ports", what)
		return
	}
	switch key {
	case "routes":
		p.routes(s, n, what)
	case "hold":
		x.Hold = p.duration(n, what, 0, 10*time.Minute)
	case "timeout":
		x.Timeout = p.duration(n, what, time.Millisecond, 24*time.Hour)
	case "max_body":
		x.MaxBody = p.bytes(n, what, 1, 1<<40)
	case "max_header":
		x.MaxHeader = int(p.bytes(n, what, 1024, 256<<10))
	case "tls":
		x.ACME = p.isACME(n)
		x.TLS = x.ACME || p.boolean(n, what)
	case "access_log":
		x.AccessLog = p.boolean(n, what)
	default:
		text, ok := p.scalar(n, what)
		if !ok {
			return
		}
		p.proxyWord(s, key, text, n, what)
	}
}

func (p *parser) proxyWord(s *Service, key, text string, n *yaml.Node, what string) {
	x := &s.Proxy
	switch {
	case key == "sticky" && text == "true":
		x.Sticky = proxy.OwnCookie
	case key == "sticky" && text == "false":
	case key == "sticky" && headerName().MatchString(text):
		x.Sticky = text
	case key == "sticky":
		p.problem(n, "write true, or the name of the application's own cookie", "%s is %q", what, text)
	case key == "test_header" && headerName().MatchString(text):
		x.TestHeader = text
	case key == "test_header":
		p.problem(n, "write the name of a header, such as X-Canary", "%s is %q", what, text)
	case key == "traffic" && (text == "serve" || text == "hold" || text == "maintenance"):
		if x.Traffic = proxy.Traffic(text); text == "serve" {
			x.Traffic = proxy.Serve
		}
	case key == "traffic":
		p.problem(n, "write serve, hold (requests wait) or maintenance (they get the page)", "%s is %q", what, text)
	case key == "protocol" && (text == "http1" || text == "h2c"):
		s.HTTP2 = text == "h2c"
	case key == "protocol":
		p.problem(n, "write http1, or h2c for instances that speak HTTP/2 in clear", "%s is %q", what, text)
	case key == "page" && path.IsAbs(text), key == "page" && path.Clean(text) != text, key == "page" &&
		strings.HasPrefix(text, ".."):
		p.problem(n, "write the name of a file beside compose.yaml", "%s is %q", what, text)
	case key == "page":
		x.Page = text
	}
}

// routes reads a list of hosts, paths, and both: "/api", "shop.example.org",
// "*.example.org/api".
func (p *parser) routes(s *Service, n *yaml.Node, what string) {
	if n.Kind != yaml.SequenceNode || len(n.Content) == 0 {
		p.problem(n, `write [/api, shop.example.org, "*.example.org/api"]`, "%s is %s", what, yamlfile.Describe(n))
		return
	}
	for i, item := range n.Content {
		text, ok := p.scalar(item, what)
		if !ok {
			continue
		}
		if i == maxRoutes {
			p.problem(item, "leave some out", "%s: more than %d", what, maxRoutes)
			return
		}
		host, at, _ := strings.Cut(text, "/")
		r := proxy.Route{Host: strings.ToLower(host)}
		if at != "" {
			r.Path = "/" + at
		}
		if text == "" || host != "" && !hostName().MatchString(r.Host) || r.Path != "" &&
			path.Clean(r.Path) != strings.TrimSuffix(r.Path, "/") ||
			strings.ContainsAny(r.Path, "?# ") {
			p.problem(item, `write a host, a path, or both, such as "shop.example.org/api"`, "%s: %q is not a route", what, text)
			continue
		}
		s.Proxy.Routes = append(s.Proxy.Routes, r)
	}
}

// routesOf refuses a route that two services have at one port.
func (p *parser) routesOf(at *yaml.Node, s Service, port string, routes map[string]string) {
	for _, r := range s.Proxy.Routes {
		key := port + " " + r.Host + r.Path
		if by, ok := routes[key]; ok {
			p.problem(at, "keep one of them", "services %q and %q both want %s at port %s", by, s.Name, r.Host+r.Path, port)
		}
		routes[key] = s.Name
	}
}

// isACME reports whether a value of tls is acme, and not a boolean.
func (p *parser) isACME(n *yaml.Node) bool {
	text, err := interpolate(n.Value, p.of(n).vars)
	return n.Kind == yaml.ScalarNode && err == nil && text == "acme"
}

// certified refuses a service whose certificates no authority could give.
func (p *parser) certified(s *Service, n *yaml.Node, what string) {
	if !s.Proxy.ACME {
		return
	}
	const fix = "write the names that visitors use, such as routes: [shop.example.org], " +
		"or tls: true with a certificate of your own"
	if len(s.Proxy.Routes) == 0 {
		p.problem(n, fix, "%s is acme, and the service declares no host", what)
	}
	for _, r := range s.Proxy.Routes {
		_, ip := netip.ParseAddr(r.Host)
		top := r.Host[strings.LastIndex(r.Host, ".")+1:]
		switch {
		case r.Host == "":
			p.problem(n, fix, "%s is acme, and route %q has no host", what, r.Path)
		case strings.HasPrefix(r.Host, "*"):
			p.problem(n, fix, "%s is acme, and an authority would want a proof from the name server of %s", what, r.Host)
		case ip == nil || top == r.Host || strings.Trim(top, "0123456789") == "" || len(r.Host) > maxHostName:
			p.problem(n, fix, "%s is acme, and %s is not a host name that an authority can reach", what, r.Host)
		}
	}
	if !slices.ContainsFunc(s.Ports, func(o Port) bool { return o.Host != plainPort }) {
		p.problem(n, `add a port that HTTPS is served on, such as "443:80"`,
			"%s is acme, and at port 80 nothing but the way to HTTPS is served", what)
	}
}

const (
	maxHostName = 253 // RFC 1035
	plainPort   = 80  // where no HTTPS is expected
)

// bytes reads a size as Compose does: 10m, 64k, 1.5gb.
func (p *parser) bytes(n *yaml.Node, what string, low, high int64) int64 {
	text, ok := p.scalar(n, what)
	if !ok {
		return low
	}
	m := byteSize().FindStringSubmatch(text)
	if m == nil {
		p.problem(n, `write it like "10m" or "64k"`, "%s is %q, which is not a size", what, text)
		return low
	}
	amount, _ := strconv.ParseFloat(m[1], 64) // digits, and few of them
	v := int64(amount * float64(int64(1)<<map[string]int{"": 0, "k": 10, "m": 20, "g": 30}[strings.ToLower(m[2])]))
	if v < low || v > high {
		p.problem(n, fmt.Sprintf("write a size from %d to %d bytes", low, high), "%s is %s", what, text)
		return low
	}
	return v
}

// missingPages are pages that are not among the files.
func missingPages(c *Compose, dir string, files target.Files) (problems yamlfile.Problems) {
	for _, s := range c.Services {
		if _, ok := files[s.Proxy.Page]; s.Proxy.Page != "" && !ok {
			problems = append(problems, yamlfile.Problem{
				File: path.Join(dir, s.Proxy.Page),
				What: "is not there, but is the page of service " + s.Name,
				Fix:  "add it, or leave out x-headgate.page",
			})
		}
	}
	return problems
}
