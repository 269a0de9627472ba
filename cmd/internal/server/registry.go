package server

import (
	"cmp"

	"github.com/headgate-cd/headgate/gitd/headgateyaml"
	"github.com/headgate-cd/headgate/gitd/repo"
	"github.com/headgate-cd/headgate/reconciler/record"
)

// declaredArtifact is the digest of an artifact that an environment of a repository
// declares, "" for none.
func (s *Server) declaredArtifact(repository, environment, name string) (string, error) {
	if !headgateyaml.ValidEnvironment(environment) {
		return "", nil
	}
	r, err := s.store.Repository(repository)
	if err != nil {
		return "", err
	}
	tip, err := r.Ref(record.EnvironmentRef(environment))
	if err != nil || tip == repo.Zero {
		return "", err
	}
	tree, err := r.TreeOf(tip)
	if err != nil {
		return "", err
	}

	applications, err := record.Applications(r, tree)
	if err != nil {
		return "", err
	}
	for _, a := range applications {
		m, err := record.ManifestOf(r, tree, a)
		if err != nil {
			return "", err
		}
		if digest := cmp.Or(m.Artifacts[name], m.Images[name]); digest != "" {
			return digest, nil
		}
	}
	return "", nil
}
