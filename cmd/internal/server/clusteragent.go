package server

import (
	"fmt"
	"maps"
	"net/url"

	"github.com/distribution/reference"

	"github.com/headgate-cd/headgate/gitd/enrolment"
	"github.com/headgate-cd/headgate/gitd/show"
	"github.com/headgate-cd/headgate/reconciler/target/kubernetes"
)

// checkCluster says what is wrong with what a cluster's agent is to be, and returns its tags: the one by which it is a
// cluster's is among them.
func checkCluster(q show.AgentRequest) (tags map[string]string, err error) {
	refused := func(hint, format string, args ...any) (map[string]string, error) {
		return nil, &show.Error{Kind: show.Usage, What: fmt.Sprintf(format, args...), Hint: hint}
	}
	if is, ok := q.Tags[kubernetes.Tag]; ok && is != kubernetes.TagValue {
		return refused("leave that tag out", "the agent of a cluster has the tag %s=%s, and not %s=%s", kubernetes.Tag,
			kubernetes.TagValue, kubernetes.Tag, is)
	}
	seen := map[string]bool{kubernetes.OwnNamespace: true}
	for _, name := range q.Cluster.Namespaces {
		switch {
		case !kubernetes.ValidNamespace(name):
			return refused("use 1 to 63 small letters, digits and '-'", "%q is no name of a namespace", name)
		case name == kubernetes.OwnNamespace:
			return refused("name those that applications have", "the namespace %s is the agent's own", name)
		case seen[name]:
			return refused("name each once", "the namespace %s is given twice", name)
		}
		seen[name] = true
	}
	if _, err := reference.ParseDockerRef(q.Cluster.Image); err != nil {
		return refused("write it as in registry.example.org/headgate-kube:1", "%q is no name of an image: %v",
			q.Cluster.Image, err)
	}
	tags = maps.Clone(q.Tags)
	if tags == nil {
		tags = map[string]string{}
	}
	tags[kubernetes.Tag] = kubernetes.TagValue
	return tags, nil
}

// installation is what installs a cluster's agent that enrols with a token.
func (s *Server) installation(q *show.ClusterRequest, t enrolment.Token, secret string) kubernetes.Installation {
	registry := s.about.GitHTTP
	if u, err := url.Parse(registry); err == nil && u.Host != "" {
		registry = u.Host
	}
	return kubernetes.Installation{
		Name:        t.Name,
		Namespaces:  q.Namespaces,
		Image:       q.Image,
		Token:       secret,
		Expires:     t.Expires,
		Server:      s.about.SSH,
		Loopback:    inside(s.about.SSH),
		HostKey:     s.about.HostKey,
		SigningKeys: keysOf(s.store.Signer()).String(),
		Registry:    registry,
	}
}
