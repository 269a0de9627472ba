package services

import (
	"github.com/distribution/reference"
	"go.yaml.in/yaml/v4"

	"github.com/headgate-cd/headgate/gitd/yamlfile"
)

// registries reads by which secret each registry is entered, and gives it to the services
// whose images are there.
func (p *parser) registries(c *Compose, n *yaml.Node, what string) {
	if n == nil {
		return
	}
	if n.Kind != yaml.MappingNode {
		p.problem(n, "write {ghcr.io: registry-login}", "%s is %s", what, yamlfile.Describe(n))
		return
	}
	for host, name := range p.pairs(n, what, nil) {
		at := value(n, host)
		p.secretName(at, name, what)
		used := false
		for _, s := range c.Services {
			if of := s.Container; of != nil && !of.OwnImage && registryOf(of.Image) == host {
				of.Login, of.loginAt = name, p.place(at)
				used = true
			}
		}
		if !used {
			p.problem(at, "correct its name, or leave it out", "%s: no service has an image of %s", what, host)
		}
	}
}

// registryOf is the host, and port, of the registry of an image.
func registryOf(image string) string {
	plain, err := interpolate(image, sampleVariables)
	if err != nil {
		return ""
	}
	name, err := reference.ParseDockerRef(plain)
	if err != nil {
		return ""
	}
	return reference.Domain(name)
}
