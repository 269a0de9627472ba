package server

import (
	"errors"

	"github.com/go-git/go-git/v5/plumbing/filemode"

	"github.com/headgate-cd/headgate/gitd/repo"
	"github.com/headgate-cd/headgate/policies"
)

// engine returns the policies that stand at a commit; Zero has the server's own
// alone. An engine that comes with an error denies everything and says why.
func (s *Server) engine(r *repo.Repository, tip repo.Hash) (*policies.Engine, error) {
	directory := repo.Zero
	if tip != repo.Zero {
		tree, err := r.TreeOf(tip)
		if err != nil {
			return nil, err
		}
		entry, err := r.Lookup(tree, policies.Dir)
		switch {
		case errors.Is(err, repo.ErrNoFile):
		case err != nil:
			return nil, err
		case entry.Mode == filemode.Dir:
			directory = entry.Hash
		}
	}
	return s.policies.Engine(directory.String(), func() (map[string][]byte, error) {
		if directory == repo.Zero {
			return nil, nil
		}
		found, err := r.Files(directory, func(name string) bool { return policies.Reads(policies.Dir + "/" + name) })
		if err != nil {
			return nil, err
		}
		files := map[string][]byte{}
		for path, data := range found {
			files[policies.Dir+"/"+path] = data
		}
		return files, nil
	})
}
