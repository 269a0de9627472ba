package record

import (
	"errors"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/headgate-cd/headgate/gitd/repo"
)

// Needs are the digests of the artifacts that environments need: of what their
// branches and proposals, among refs, declare, and of the commits before those, up to
// depth of them, to which one may roll back.
func Needs(r *repo.Repository, refs []repo.Ref, depth int) ([]string, error) {
	needed := map[string]bool{}
	for _, ref := range refs {
		if !strings.HasPrefix(ref.Name, environmentPrefix) && !strings.HasPrefix(ref.Name, proposalPrefix) {
			continue
		}
		at := ref.Hash
		for n := 0; n < depth && at != repo.Zero; n++ {
			c, err := r.Commit(at)
			if err != nil {
				return nil, err
			}
			if err := needsOf(r, c.TreeHash, needed); err != nil {
				return nil, err
			}
			at = repo.Zero
			if len(c.ParentHashes) > 0 {
				at = c.ParentHashes[0]
			}
		}
	}
	all := make([]string, 0, len(needed))
	for digest := range needed {
		all = append(all, digest)
	}
	slices.Sort(all)
	return all, nil
}

func needsOf(r *repo.Repository, tree repo.Hash, needed map[string]bool) error {
	apps, err := r.Lookup(tree, path.Dir(ApplicationPath("x")))
	if errors.Is(err, repo.ErrNoFile) {
		return nil // the first commit of an environment, or a removal
	}
	if err != nil {
		return err
	}
	entries, err := r.Tree(apps.Hash)
	if err != nil {
		return err
	}
	for _, e := range entries {
		m, err := ManifestOf(r, tree, e.Name)
		if errors.Is(err, repo.ErrNoFile) {
			continue
		}
		if err != nil {
			return err
		}
		for _, digest := range slices.Concat(slices.Collect(maps.Values(m.Artifacts)),
			slices.Collect(maps.Values(m.Images))) {
			needed[digest] = true
		}
	}
	return nil
}
