package services

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v4"

	"github.com/headgate-cd/headgate/gitd/yamlfile"
	"github.com/headgate-cd/headgate/reconciler/target"
)

const portForm = `write "8000:80", "127.0.0.1:8000:80" or "0:80" for any free port`

// Addresses implements target.Addresser: the ports that are declared by number. A
// file that is not good declares none.
func (t *Target) Addresses(files target.Files) []target.Address { return Addresses(files) }

// Addresses are those that the files of an application's directory declare: with
// no IP where they name none, with port 0 where any will do. Files that are not given
// are taken for good.
func Addresses(files target.Files) (all []target.Address) {
	p := newParser("", files)
	c := p.application()
	if len(p.problems) > p.absent {
		return nil
	}
	for _, s := range c.Services {
		for _, p := range s.Ports {
			var ip netip.Addr // of none: the target's
			if p.HostIP != "" {
				var err error
				if ip, err = netip.ParseAddr(p.HostIP); err != nil {
					continue
				}
			}
			all = append(all, target.Address{
				Address: netip.AddrPortFrom(ip, uint16(p.Host)),
				Unit:    s.Name,
				File:    p.at.file,
				Line:    p.at.line,
			})
		}
	}
	return all
}

func (p *parser) ports(s *Service, n *yaml.Node, what string) (ports []Port) {
	if n.Kind != yaml.SequenceNode {
		p.problem(n, portForm, "%s is %s, where a list belongs", what, yamlfile.Describe(n))
		return nil
	}
	inside := ""
	for _, c := range n.Content {
		text, ok := "", true
		if c.Kind == yaml.MappingNode {
			text, ok = p.longPort(c, what)
		} else {
			text, ok = p.scalar(c, what)
		}
		if !ok {
			continue
		}
		port, container, err := parsePort(text)
		switch {
		case err != nil:
			p.problem(c, portForm, "%s: %q: %v", what, text, err)
		case inside != "" && inside != container && s.Container != nil:
			p.problem(
				c, "keep the one that requests are for: others of the application reach every port of the service by its name",
				"%s: requests are carried to one port of a container, but %s and %s are named", what, inside, container)
		case inside != "" && inside != container:
			p.problem(c, "split the service", "%s: an instance has one port, $PORT, but %s and %s are named", what,
				inside, container)
		case port.Host != 0 && slices.ContainsFunc(ports, func(o Port) bool { return o.String() == port.String() }):
			p.problem(c, "keep one of them", "%s: %s is given twice", what, port)
		case len(ports) == maxPorts:
			p.problem(c, "split the service", "%s: more than %d ports", what, maxPorts)
		default:
			inside, port.at = container, p.place(c)
			ports = append(ports, port)
		}
	}
	if s.Container != nil {
		s.Container.Port, _ = strconv.Atoi(inside) // it has been read as a number
	}
	return ports
}

// longPort is the long form of a port as the short one.
func (p *parser) longPort(n *yaml.Node, what string) (text string, ok bool) {
	if !p.mapping(n, what, []string{"target", "published", "host_ip", "protocol"}, nil, map[string]string{
		"mode": "the proxy listens on the machine", "name": "",
		"app_protocol": "write x-headgate: {protocol: h2c} for HTTP/2 in clear",
	}) {
		return "", false
	}
	said := map[string]string{}
	for key, v := range yamlfile.Pairs(n) {
		if slices.Contains([]string{"target", "published", "host_ip", "protocol"}, key.Value) {
			if said[key.Value], ok = p.scalar(v, what+"."+key.Value); !ok {
				return "", false
			}
		}
	}
	if said["target"] == "" {
		p.problem(n, "write {target: 80, published: 8000}", "%s has no target", what)
		return "", false
	}
	if text = said["target"]; said["host_ip"] != "" || said["published"] != "" {
		text = said["published"] + ":" + text
	}
	if ip := said["host_ip"]; ip != "" {
		if strings.Contains(ip, ":") {
			ip = "[" + ip + "]"
		}
		text = ip + ":" + text
	}
	if said["protocol"] != "" {
		text += "/" + said["protocol"]
	}
	return text, true
}

func parsePort(text string) (p Port, container string, err error) {
	spec, protocol, named := strings.Cut(text, "/")
	if named && protocol != "tcp" {
		return p, "", fmt.Errorf("only TCP is served")
	}
	rest := spec
	if i := strings.LastIndex(rest, ":"); i >= 0 {
		rest, container = spec[:i], spec[i+1:]
		host := rest
		if i := strings.LastIndex(rest, ":"); i >= 0 {
			host = rest[i+1:]
			ip, err := netip.ParseAddr(strings.Trim(rest[:i], "[]"))
			if err != nil {
				return p, "", fmt.Errorf("%q is not an IP address", rest[:i])
			}
			p.HostIP = ip.String()
		}
		if host != "" {
			if p.Host, err = portNumber(host, 0); err != nil {
				return p, "", err
			}
		}
	} else {
		container = rest // as in Compose: any free port of the machine
	}
	if _, err := portNumber(container, 1); err != nil {
		return p, "", err
	}
	return p, container, nil
}

func portNumber(text string, low int) (int, error) {
	n, err := strconv.Atoi(text)
	if err != nil || n < low || n > 65535 {
		return 0, fmt.Errorf("%q is not a port number", text)
	}
	return n, nil
}
