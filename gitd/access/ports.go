package access

import (
	"net/netip"
	"regexp"
	"strconv"
	"sync"

	"go.yaml.in/yaml/v4"
)

// Ports are the ports from First to Last, both among them.
type Ports struct{ First, Last int }

// PortOf is the repository for which a port is reserved, "" for none.
func (c *Config) PortOf(port int) string {
	for _, r := range c.Repositories() {
		for _, p := range r.Ports {
			if p.First <= port && port <= p.Last {
				return r.Name
			}
		}
	}
	return ""
}

// Overlap reports whether two addresses cannot be listened on both: an
// unspecified one takes the port of all.
func Overlap(a, b netip.AddrPort) bool {
	return a.Port() == b.Port() && (a.Addr() == b.Addr() || a.Addr().IsUnspecified() || b.Addr().IsUnspecified())
}

// Loopback is where services listen unless something else is said: nobody but
// this machine reaches them there.
var Loopback = netip.AddrFrom4([4]byte{127, 0, 0, 1})

// Address is where services listen that name no address with a port.
func (c *Config) Address() netip.Addr {
	if c == nil || !c.address.IsValid() {
		return Loopback
	}
	return c.address
}

// Resolve gives an address that names no IP that of Address.
func (c *Config) Resolve(a netip.AddrPort) netip.AddrPort {
	if a.Addr().IsValid() {
		return a
	}
	return netip.AddrPortFrom(c.Address(), a.Port())
}

// address reads where services listen that say nothing.
func (r *reader) address(n *yaml.Node) {
	if n == nil || n.Tag == "!!null" {
		return
	}
	at, err := netip.ParseAddr(n.Value)
	if err != nil || n.Kind != yaml.ScalarNode || at.Zone() != "" {
		r.problem(n, "write an IP address of this machine, or 0.0.0.0 for all it has",
			"address is %q, which is not an IP address", n.Value)
		return
	}
	r.config.address = at.Unmap()
}

// maxPorts bounds the entries of one repository's ports.
const maxPorts = 100

// ports reads the ports that are reserved for a repository.
func (r *reader) ports(list *yaml.Node, repository string) (all []Ports) {
	const form = `write ports: [8000, "9000-9010"]`
	switch {
	case list.Tag == "!!null":
		return nil
	case list.Kind != yaml.SequenceNode:
		r.problem(list, form, "the ports of %s are not a list", repository)
		return nil
	case len(list.Content) > maxPorts:
		r.problem(list, "join neighbours to ranges", "%s reserves more than %d ports and ranges", repository, maxPorts)
		return nil
	}
	for _, n := range list.Content {
		p, ok := parsePorts(n.Value)
		if !ok || n.Kind != yaml.ScalarNode {
			r.problem(n, form, "the ports of %s hold %q, which is neither a port nor a range", repository, n.Value)
			continue
		}
		for _, other := range r.reserved {
			if p.First <= other.Last && other.First <= p.Last {
				r.problem(n, "reserve each port once", "port %s of %s is reserved for %s on line %d already",
					n.Value, repository, other.repository, other.line)
			}
		}
		r.reserved = append(r.reserved, reservedPorts{p, repository, n.Line})
		all = append(all, p)
	}
	return all
}

// reservedPorts are ports that the file has reserved so far.
type reservedPorts struct {
	Ports
	repository string
	line       int
}

var portsForm = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^([0-9]{1,5})(?:-([0-9]{1,5}))?$`) })

func parsePorts(text string) (p Ports, ok bool) {
	m := portsForm().FindStringSubmatch(text)
	if m == nil {
		return p, false
	}
	p.First, _ = strconv.Atoi(m[1]) // digits only
	p.Last = p.First
	if m[2] != "" {
		p.Last, _ = strconv.Atoi(m[2])
	}
	return p, p.First >= 1 && p.First <= p.Last && p.Last <= 65535
}
