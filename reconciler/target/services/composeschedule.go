package services

import (
	"errors"

	"go.yaml.in/yaml/v4"

	"github.com/headgate-cd/headgate/gitd/cron"
	"github.com/headgate-cd/headgate/reconciler/target/services/rollout"
)

// maxCron bounds an expression in bytes.
const maxCron = 200

// schedule reads cron and zone of x-headgate: when a service runs.
func (p *parser) schedule(s *Service, extension *yaml.Node, what string) {
	at, zone := value(extension, "cron"), value(extension, "zone")
	switch {
	case at == nil && zone == nil:
		return
	case at == nil:
		p.problem(zone, `write cron: "30 2 * * *" beside it, or leave it out`, "%s.zone: nothing says when the service runs", what)
		return
	}
	var ok bool
	if s.Cron, ok = p.scalar(at, what+".cron"); !ok {
		return
	}
	if zone != nil {
		if s.Zone, ok = p.scalar(zone, what+".zone"); !ok {
			return
		}
	}
	if len(s.Cron) > maxCron {
		p.problem(at, `write minute, hour, day of the month, month and day of the week, such as "30 2 * * *"`,
			"%s.cron has more than %d bytes", what, maxCron)
		return
	}
	switch _, err := cron.Parse(s.Cron, s.Zone); {
	case errors.Is(err, cron.ErrZone):
		p.problem(zone, "leave it out for UTC", "%s.zone: %v", what, err)
	case err != nil:
		p.problem(at, `write minute, hour, day of the month, month and day of the week, such as "30 2 * * *"`,
			"%s.cron: %v", what, err)
	}
	s.cronAt = at
}

// runs refuses what has no meaning for a service that runs at times, or that runs on. of is
// what else is said of it, nil where nothing of that is.
func (p *parser) runs(s *Service, of *yaml.Node, what string) {
	if s.cronAt == nil {
		if s.maxTimeAt != nil && !s.Restart.Never && !s.Restart.OnFailure {
			p.problem(s.maxTimeAt, `leave it out, or write restart: "no" or on-failure for what is to end`,
				"%s runs on and has no longest time", what)
		}
		return
	}
	refuse := func(at *yaml.Node, key, why string) {
		if at != nil {
			p.problem(at, "leave out "+key+", or x-headgate.cron", "%s runs at times, %s", what, why)
		}
	}
	extension := value(of, "x-headgate")
	refuse(value(of, "ports"), "ports", "and nothing else reaches it")
	if of == nil && len(s.Ports) > 0 {
		refuse(s.cronAt, "its ports", "and nothing else reaches it")
	}
	refuse(value(of, "healthcheck"), "healthcheck", "and is judged by how it ends")
	refuse(value(extension, "passes"), "passes", "and is judged by how it ends")
	refuse(value(extension, "healthy_for"), "healthy_for", "and is judged by how it ends")
	if s.restarts && !s.Restart.Never {
		refuse(value(of, "restart"), "restart", "once for each of them, whatever comes of it")
	}
	if s.Replicas != 1 {
		at := s.cronAt
		if deploy := value(value(of, "deploy"), "replicas"); deploy != nil {
			at = deploy
		}
		if scale := value(of, "scale"); scale != nil {
			at = scale
		}
		refuse(at, "how many there are", "one run after the other")
	}
	s.Restart = rollout.Restart{Never: true}
	s.Health = Health{}
	s.Health.alive(aliveHealthyFor)
	if s.Container != nil {
		s.Container.ImageHealth = false
	}
}
