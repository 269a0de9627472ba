package server

import (
	"errors"
	"fmt"
	"log/slog"
	"os"

	"github.com/go-git/go-git/v5/plumbing/filemode"

	"github.com/headgate-cd/headgate/gitd/access"
	"github.com/headgate-cd/headgate/gitd/repo"
	"github.com/headgate-cd/headgate/policies"
)

// PolicyWorker is the argument with which this program is a process of a
// policies.Pool, and nothing else.
const PolicyWorker = "policy-worker"

// Policies evaluates policies in processes of this program.
func Policies(log *slog.Logger) (*policies.Pool, error) {
	if _, err := os.Stat(self); err != nil {
		return nil, fmt.Errorf("find this program: %w\nhint: mount /proc", err)
	}
	return &policies.Pool{Program: []string{self, PolicyWorker}, Log: log}, nil
}

// self is this program, also when its file has been replaced since.
const self = "/proc/self/exe"

// engine returns the policies that stand at a commit; Zero has the server's own
// alone, and so has a repository whose own were switched off. An engine that comes with an error denies everything and says why.
func (s *Server) engine(r *repo.Repository, tip repo.Hash) (*policies.Engine, error) {
	directory := repo.Zero
	off := r.Name() == access.Own && s.ownPoliciesOff.Load()
	if tip != repo.Zero && !off && s.access.Load().Policies(r.Name()) {
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
