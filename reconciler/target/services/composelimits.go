package services

import (
	"strconv"

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

// reserved reads deploy.resources.
func (p *parser) reserved(c *Container, n *yaml.Node, what string) {
	if !p.mapping(n, what, []string{"limits", "reservations"}, nil, nil) {
		return
	}
	twice := func(at *yaml.Node, of string, set bool) {
		if set {
			p.problem(at, "keep this one", "%s: it is said beside deploy too", of)
		}
	}
	for kind, m := range yamlfile.Pairs(n) {
		of := what + "." + kind.Value
		known, unsupported, harmless := []string{"cpus", "memory", "pids"}, map[string]string{}, map[string]string{}
		if kind.Value == "reservations" {
			known = []string{"memory"}
			unsupported = map[string]string{"devices": noDevices, "generic_resources": noDevices}
			harmless = map[string]string{"cpus": "there is one machine; write cpu_shares for a weight"}
		}
		if m.Tag == "!!null" || !p.mapping(m, of, known, unsupported, harmless) {
			continue
		}
		for k, v := range yamlfile.Pairs(m) {
			of := of + "." + k.Value
			switch {
			case kind.Value == "reservations" && k.Value == "memory":
				twice(v, of, c.Limits.MemoryReservation > 0)
				c.Limits.MemoryReservation = p.bytes(v, of, minMemory, maxMemory)
			case kind.Value == "reservations":
			case k.Value == "memory":
				twice(v, of, c.Limits.Memory > 0)
				c.Limits.Memory = p.bytes(v, of, minMemory, maxMemory)
			case k.Value == "cpus":
				twice(v, of, c.Limits.CPUs > 0)
				c.Limits.CPUs = p.cpus(v, of)
			case k.Value == "pids":
				twice(v, of, c.Limits.PIDs > 0)
				c.Limits.PIDs = int64(p.integer(v, of, 1, 4194304))
			}
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
