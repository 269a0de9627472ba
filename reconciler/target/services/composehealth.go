package services

import (
	"time"

	"go.yaml.in/yaml/v4"

	"github.com/headgate-cd/headgate/gitd/yamlfile"
	"github.com/headgate-cd/headgate/reconciler/target/services/rollout"
)

// health reads healthcheck, after x-headgate.
func (p *parser) health(s *Service, n *yaml.Node, what string) {
	h := &s.Health
	none := false
	set := map[string]*yaml.Node{}
	keys := []string{"test", "interval", "timeout", "retries", "start_period", "disable"}
	harmless := map[string]string{}
	if s.Container != nil {
		keys = append(keys, "start_interval")
	} else {
		harmless["start_interval"] = "a starting instance is checked often anyway"
	}
	if n != nil && p.mapping(n, what, keys, nil, harmless) {
		for key, v := range yamlfile.Pairs(n) {
			set[key.Value] = v
		}
		if v := set["test"]; v != nil {
			h.Test, none = p.test(v, what+".test")
			if h.Path != "" && (h.Test != nil || none) {
				p.problem(v, "keep one of them", "%s.test: the service has x-headgate.health already", what)
			}
		}
		if v := set["disable"]; v != nil && p.boolean(v, what+".disable") {
			none, h.Test = true, nil // which may have come from what is extended
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
	h.unsaid = true
	switch {
	case h.Test != nil:
		h.Interval, h.Timeout = commandInterval, commandTimeout
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
		h.unsaid = false
	}
	if v := set["start_interval"]; v != nil && s.Container != nil {
		s.Container.StartInterval = p.duration(v, what+".start_interval", 100*time.Millisecond, 10*time.Minute)
	}
	if v := set["retries"]; v != nil {
		h.Retries = p.integer(v, what+".retries", 1, 100)
	}
}

// ParseHealth reads the healthcheck of something else than a service: by the same keys, and url
// for an HTTP GET instead of test.
func ParseHealth(file string, n *yaml.Node, what string) (*Health, yamlfile.Problems) {
	p := newParser("", nil)
	p.main.name = file
	rest, address := *n, (*yaml.Node)(nil)
	rest.Content = nil
	for key, value := range yamlfile.Pairs(n) {
		if key.Value == "url" && n.Kind == yaml.MappingNode {
			address = value
			continue
		}
		rest.Content = append(rest.Content, key, value)
	}
	if n.Kind != yaml.MappingNode {
		rest.Content = n.Content
	}
	var s Service
	p.health(&s, &rest, what)
	h := s.Health
	h.Connect = false
	if address != nil {
		h.URL = p.address(address, what+".url")
	}
	if h.Interval < time.Second {
		h.Interval = time.Second
	}
	if len(p.problems) == 0 && (h.URL == "") == (h.Test == nil) {
		p.problem(n, `write url: http://127.0.0.1:8080/health, or test: ./check`, "%s has either a url or a test", what)
	}
	return &h, p.problems
}

// test reads healthcheck.test: text for a shell, or a list that begins with
// CMD, CMD-SHELL or NONE.
func (p *parser) test(n *yaml.Node, what string) (argv []string, none bool) {
	if n.Kind != yaml.SequenceNode {
		text, ok := p.text(n, what)
		if !ok {
			return nil, false
		}
		return []string{"/bin/sh", "-c", text}, false
	}
	for _, c := range n.Content {
		if w, ok := p.text(c, what); ok {
			argv = append(argv, w)
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
	p.problem(n, `write ["CMD", program, arguments…], ["CMD-SHELL", "command line"] or ["NONE"]`,
		"%s begins with none of CMD, CMD-SHELL, NONE", what)
	return nil, false
}
