package server

import (
	"context"
	"path"

	"github.com/headgate-cd/headgate/gitd/access"
	"github.com/headgate-cd/headgate/gitd/headgateyaml"
	"github.com/headgate-cd/headgate/gitd/repo"
	"github.com/headgate-cd/headgate/gitd/yamlfile"
	"github.com/headgate-cd/headgate/hooks/check"
	"github.com/headgate-cd/headgate/reconciler/target"
	"github.com/headgate-cd/headgate/reconciler/target/services"
)

// Checker checks trees, with the targets that this program has, and policies by
// a Pool's Check.
func Checker(judge check.Policies) *check.Checker {
	return &check.Checker{Policies: judge, Targets: map[string]check.Target{
		headgateyaml.Services: {
			Reads: services.Reads,
			Check: func(dir string, files map[string][]byte) (problems, warnings yamlfile.Problems) {
				return services.Check(dir, files)
			},
			Addresses: func(dir string, files map[string][]byte) (all []check.Address) {
				for _, a := range services.Addresses(files) {
					all = append(all, check.Address{AddrPort: a.Address, File: path.Join(dir, a.File), Line: a.Line})
				}
				return all
			},
		},
	}}
}

// targets are what makes environments so, by the same names that Checker knows.
func targets(supervised *services.Target) map[string]target.Target {
	return map[string]target.Target{headgateyaml.Services: supervised}
}

// checkTree is the gate's: a merge of two good trees need not be good. The
// repository headgate is judged by its build alone.
func checkTree(checker *check.Checker) func(context.Context, *repo.Repository, repo.Hash) error {
	return func(ctx context.Context, r *repo.Repository, tree repo.Hash) error {
		if r.Name() == access.Own {
			return nil
		}
		found, err := checker.Tree(ctx, r.FilesOf(tree))
		if err != nil {
			return err
		}
		return found.Problems.Err()
	}
}
