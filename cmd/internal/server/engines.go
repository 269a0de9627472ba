package server

import (
	"errors"
	"sync"

	"github.com/go-git/go-git/v5/plumbing/filemode"

	"github.com/headgate-cd/headgate/gitd/repo"
	"github.com/headgate-cd/headgate/policies"
)

// engines compiles policies once for each set of files.
type engines struct {
	mu   sync.Mutex
	made map[string]*policies.Engine // by the tree of policies/
}

// maxEngines bounds how many compiled sets are kept.
const maxEngines = 64

// of returns the policies that stand at a commit; Zero has the server's own
// alone. An engine that comes with an error denies everything and says why.
func (e *engines) of(r *repo.Repository, tip repo.Hash) (*policies.Engine, error) {
	folder := repo.Zero
	if tip != repo.Zero {
		tree, err := r.TreeOf(tip)
		if err != nil {
			return nil, err
		}
		entry, err := r.Lookup(tree, "policies")
		switch {
		case errors.Is(err, repo.ErrNoFile):
		case err != nil:
			return nil, err
		case entry.Mode == filemode.Dir:
			folder = entry.Hash
		}
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if engine := e.made[folder.String()]; engine != nil {
		return engine, nil
	}
	var files map[string][]byte
	if folder != repo.Zero {
		found, err := r.Files(folder, IsRego)
		if err != nil {
			return nil, err
		}
		files = map[string][]byte{}
		for path, data := range found {
			files["policies/"+path] = data
		}
	}
	engine, err := policies.New(files)
	if err != nil {
		return engine, err
	}
	if len(e.made) >= maxEngines {
		clear(e.made)
	}
	e.made[folder.String()] = engine
	return engine, nil
}
