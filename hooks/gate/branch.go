package gate

import (
	"strings"

	"github.com/headgate-cd/headgate/gitd/repo"
)

// defaultBranch is the gated branch of a repository in which nothing has landed.
const defaultBranch = "main"

// Branch is the gated branch of a repository whose landings become releases:
// main or master if one is there, else the first that is gated by its own
// headgate.yaml, else main.
func (g *Gate) Branch(repository string) string {
	r, err := g.c.Store.Repository(repository)
	if err != nil {
		return defaultBranch
	}
	for _, branch := range []string{defaultBranch, "master"} {
		if tip, err := r.Ref("refs/heads/" + branch); err == nil && tip != repo.Zero {
			return branch
		}
	}
	refs, err := r.Refs("refs/heads/")
	if err != nil {
		return defaultBranch
	}
	for _, ref := range refs {
		branch := strings.TrimPrefix(ref.Name, "refs/heads/")
		if strings.HasPrefix(branch, "env/") || strings.HasPrefix(branch, "promote/") {
			continue
		}
		tree, err := r.TreeOf(ref.Hash)
		if err != nil {
			continue
		}
		if f, err := fileIn(r, tree); err == nil && f.Gates(branch) {
			return branch
		}
	}
	return defaultBranch
}
