package services

import (
	"maps"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v4"

	"github.com/headgate-cd/headgate/gitd/yamlfile"
)

func (p *parser) cpus(n *yaml.Node, what string) float64 {
	text, ok := p.scalar(n, what)
	if !ok {
		return 0
	}
	v, err := strconv.ParseFloat(text, 64)
	if err != nil || !(v >= 0.01 && v <= 4096) {
		p.problem(n, `write how many processors, such as "0.5"`, "%s is %q", what, text)
		return 0
	}
	return v
}

const limitsOfProcesses = "write deploy: {resources: {limits: {memory: 512M, cpus: \"0.5\", pids: 200}}} for what a process may use at most"

// limits are where a service's own are, by what it runs as.
func (s *Service) limits() *Limits {
	if s.Container != nil {
		return &s.Container.Limits
	}
	return &s.Limits
}

// limit reads what an instance may use at most, by its name beside deploy or in it.
func (p *parser) limit(s *Service, n *yaml.Node, name, what string) {
	switch l := s.limits(); name {
	case "mem_limit", "memory":
		l.Memory = p.bytes(n, what, minMemory, maxMemory)
	case "cpus":
		l.CPUs = p.cpus(n, what)
	case "pids_limit", "pids":
		if text, _ := p.scalar(n, what); text != "-1" {
			l.PIDs = int64(p.integer(n, what, 1, 4194304))
		}
	}
}

// reserved reads deploy.resources.
func (p *parser) reserved(s *Service, n *yaml.Node, what string) {
	if !p.mapping(n, what, []string{"limits", "reservations"}, nil, nil) {
		return
	}
	for kind, m := range yamlfile.Pairs(n) {
		of := what + "." + kind.Value
		known, unsupported, harmless := []string{"cpus", "memory", "pids"}, map[string]string{}, map[string]string{}
		if kind.Value == "reservations" {
			known = []string{"memory"}
			unsupported = map[string]string{"devices": noDevices, "generic_resources": noDevices}
			harmless = map[string]string{"cpus": "there is one machine; write cpu_shares for a weight"}
			if s.Container == nil {
				known, unsupported["memory"] = nil, limitsOfProcesses
				harmless["cpus"] = "there is one machine"
			}
		}
		if m.Tag == "!!null" || !p.mapping(m, of, known, unsupported, harmless) {
			continue
		}
		for k, v := range yamlfile.Pairs(m) {
			of := of + "." + k.Value
			switch {
			case kind.Value == "limits":
				p.limit(s, v, k.Value, of)
			case k.Value == "memory" && s.Container != nil:
				s.Container.Limits.MemoryReservation = p.bytes(v, of, minMemory, maxMemory)
			}
		}
	}
}

// saidTwice are what a service and its deploy can both say, and have to say alike.
var saidTwice = map[string][]string{
	"scale":           {"replicas"},
	"cpus":            {"resources", "limits", "cpus"},
	"mem_limit":       {"resources", "limits", "memory"},
	"pids_limit":      {"resources", "limits", "pids"},
	"mem_reservation": {"resources", "reservations", "memory"},
}

// alike refuses what is said of a service in two ways that differ.
func (p *parser) alike(service *yaml.Node, where string) {
	for _, key := range slices.Sorted(maps.Keys(saidTwice)) {
		one, other := value(service, key), value(service, "deploy")
		for _, k := range saidTwice[key] {
			other = value(other, k)
		}
		if one != nil && other != nil && p.quiet(one) != p.quiet(other) {
			p.problem(one, "keep one of them", "%s.%s is %s, and deploy.%s is %s", where, key, p.quiet(one),
				strings.Join(saidTwice[key], "."), p.quiet(other))
		}
	}
}

func (p *parser) ulimits(c *Container, n *yaml.Node, what string) {
	if !p.mapping(n, what, ulimitNames, nil, nil) {
		return
	}
	c.Ulimits = map[string]Ulimit{}
	number := func(n *yaml.Node, of string) int64 {
		if text, _ := p.scalar(n, of); text == "-1" {
			return -1
		}
		return int64(p.integer(n, of, 0, 1<<62))
	}
	for key, v := range yamlfile.Pairs(n) {
		of := what + "." + key.Value
		if v.Kind != yaml.MappingNode {
			both := number(v, of)
			c.Ulimits[key.Value] = Ulimit{both, both}
			continue
		}
		if !p.mapping(v, of, []string{"soft", "hard"}, nil, nil) {
			continue
		}
		soft, hard := value(v, "soft"), value(v, "hard")
		if soft == nil || hard == nil {
			p.problem(v, "write {soft: 1024, hard: 4096}", "%s needs both soft and hard", of)
			continue
		}
		u := Ulimit{number(soft, of+".soft"), number(hard, of+".hard")}
		if u.Hard >= 0 && (u.Soft > u.Hard || u.Soft < 0) {
			p.problem(v, "raise hard", "%s: soft is over hard", of)
		}
		c.Ulimits[key.Value] = u
	}
}
