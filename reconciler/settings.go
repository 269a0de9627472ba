package reconciler

import (
	"errors"
	"fmt"

	"github.com/headgate-cd/headgate/gitd/headgateyaml"
	"github.com/headgate-cd/headgate/gitd/repo"
	"github.com/headgate-cd/headgate/gitd/show"
)

// settingsAt are the environments in the headgate.yaml of a landed commit. The
// file was checked before it landed; one that is bad all the same stops
// everything that depends on it.
func settingsAt(r *repo.Repository, commit repo.Hash) ([]headgateyaml.Environment, error) {
	tree, err := r.TreeOf(commit)
	if err != nil {
		return nil, err
	}
	f, err := headgateyaml.In(r.FilesOf(tree).ReadFile)
	if err != nil {
		return nil, fmt.Errorf("read %s of %s at %s: %w", headgateyaml.Name, r.Name(), short(commit), err)
	}
	return f.Environments, nil
}

// gone reports whether err says that there is no such environment.
func gone(err error) bool {
	var e *show.Error
	return errors.As(err, &e) && e.Kind == show.NotFound
}
