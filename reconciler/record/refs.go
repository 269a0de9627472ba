package record

import (
	"strings"

	"github.com/headgate-cd/headgate/gitd/repo"
)

// Outcomes is the ref that holds a note on each environment commit.
const Outcomes = "refs/notes/deployments"

// Prefixes of the two branches of an environment.
const (
	environmentPrefix = "refs/heads/env/"
	proposalPrefix    = "refs/heads/promote/"
)

// EnvironmentRef is the branch that declares an environment.
func EnvironmentRef(environment string) string { return environmentPrefix + environment }

// ProposalRef holds the environment's open proposal.
func ProposalRef(environment string) string { return proposalPrefix + environment }

// environmentRefs are the environments' branches of a clone or, where there are
// none, those of its remotes.
func environmentRefs(r *repo.Repository) ([]repo.Ref, error) {
	refs, err := r.Refs(environmentPrefix)
	if err != nil || len(refs) > 0 {
		return refs, err
	}

	all, err := r.Refs("refs/remotes/")
	for _, ref := range all {
		_, name, _ := strings.Cut(strings.TrimPrefix(ref.Name, "refs/remotes/"), "/")
		if strings.HasPrefix(name, "env/") {
			refs = append(refs, ref)
		}
	}
	return refs, err
}
