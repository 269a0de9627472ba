package services

import (
	"time"

	"go.yaml.in/yaml/v4"

	"github.com/headgate-cd/headgate/gitd/yamlfile"
	"github.com/headgate-cd/headgate/reconciler/target/services/rollout"
)

// health reads healthcheck, after x-headgate.
func (p *composeParser) health(s *Service, n *yaml.Node, what string) {
	h := &s.Health
	none := false
	set := map[string]*yaml.Node{}
	if n != nil && p.mapping(n, what, []string{"test", "interval", "timeout", "retries", "start_period", "disable"}, nil, map[string]string{
		"start_interval": "a starting instance is checked often anyway",
	}) {
		for key, v := range yamlfile.Pairs(n) {
			set[key.Value] = v
		}
		if v := set["test"]; v != nil {
			h.Test, none = p.test(v, what+".test")
			if h.Path != "" && (h.Test != nil || none) {
				p.problem(v, "keep one of them", "%s.test: the service has x-headgate.health already", what)
			}
		}
		if v := set["disable"]; v != nil && v.Value == "true" {
			none = true
		} else if v != nil && v.Value != "false" {
			p.problem(v, "write true or false", "%s.disable is %s", what, yamlfile.Describe(v))
		}
	}
	h.Connect = len(s.Ports) > 0 && h.Path == "" && h.Test == nil && !none
	h.Check = rollout.Check{
		StartPeriod: defaultStart,
		Interval:    defaultInterval,
		Timeout:     defaultTimeout,
		Retries:     defaultRetries,
		Passes:      defaultPasses,
	}
	switch {
	case h.Test != nil:
		h.Interval = commandInterval
	case h.Path == "" && !h.Connect:
		h.StartPeriod, h.Passes, h.HealthyFor = aliveStartPeriod, 1, aliveHealthyFor
	}
	if s.passes != nil {
		h.Passes = *s.passes
	}
	if s.healthyFor != nil {
		h.HealthyFor = *s.healthyFor
	}
	if v := set["start_period"]; v != nil {
		h.StartPeriod = p.duration(v, what+".start_period", 0, time.Hour)
	}
	if v := set["interval"]; v != nil {
		h.Interval = p.duration(v, what+".interval", 100*time.Millisecond, 10*time.Minute)
	}
	if v := set["timeout"]; v != nil {
		h.Timeout = p.duration(v, what+".timeout", 10*time.Millisecond, 10*time.Minute)
	}
	if v := set["retries"]; v != nil {
		h.Retries = p.integer(v, what+".retries", 1, 100)
	}
}

// test reads healthcheck.test: text for a shell, or a list that begins with
// CMD, CMD-SHELL or NONE.
func (p *composeParser) test(n *yaml.Node, what string) (argv []string, none bool) {
	if n.Kind != yaml.SequenceNode {
		text, ok := p.scalar(n, what)
		if !ok {
			return nil, false
		}
		p.variables(n, text, what)
		return []string{"/bin/sh", "-c", text}, false
	}
	for _, c := range n.Content {
		if w, ok := p.scalar(c, what); ok {
			argv = append(argv, w)
			p.variables(c, w, what)
		}
	}
	switch {
	case len(argv) == 1 && argv[0] == "NONE":
		return nil, true
	case len(argv) >= 2 && argv[0] == "CMD":
		return argv[1:], false
	case len(argv) == 2 && argv[0] == "CMD-SHELL":
		return []string{"/bin/sh", "-c", argv[1]}, false
	}
	p.problem(n, `write ["CMD", program, arguments…], ["CMD-SHELL", "command line"] or ["NONE"]`, "%s begins with none of CMD, CMD-SHELL, NONE", what)
	return nil, false
}
