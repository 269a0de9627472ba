package repo

import (
	"bytes"
	"context"
	"fmt"
)

// Merge merges theirs into ours without a work tree. Conflicts, when not empty,
// are the paths that did not merge, and tree is then of no use.
func (r *Repository) Merge(ctx context.Context, ours, theirs Hash) (tree Hash, conflicts []string, err error) {
	out, err := r.Git(ctx, "merge-tree", "--write-tree", "--name-only", "--no-messages", "-z", ours.String(), theirs.String())
	if err != nil && !exited(err, 1) {
		return Zero, nil, fmt.Errorf("merge %s into %s of %s: %w", theirs, ours, r.name, err)
	}
	fields := bytes.Split(bytes.TrimRight(out, "\x00"), []byte{0})
	tree, ok := ParseHash(string(fields[0]))
	if !ok {
		return Zero, nil, fmt.Errorf("merge %s into %s of %s: git answered %q", theirs, ours, r.name, fields[0])
	}
	for _, f := range fields[1:] {
		conflicts = append(conflicts, string(f))
	}
	if err != nil && len(conflicts) == 0 {
		return Zero, nil, fmt.Errorf("merge %s into %s of %s: conflict without a path", theirs, ours, r.name)
	}
	return tree, conflicts, nil
}

// ChangedPaths lists the paths in which two trees (or commits) differ. Zero is
// the empty tree.
func (r *Repository) ChangedPaths(ctx context.Context, from, to Hash) ([]string, error) {
	if from == Zero {
		from = emptyTree
		if err := r.Write(TreeObject(nil)); err != nil {
			return nil, err
		}
	}
	out, err := r.Git(ctx, "diff-tree", "-r", "-z", "--name-only", "--no-renames", from.String(), to.String())
	if err != nil {
		return nil, err
	}
	var paths []string
	for _, p := range bytes.Split(bytes.TrimRight(out, "\x00"), []byte{0}) {
		if len(p) > 0 {
			paths = append(paths, string(p))
		}
	}
	return paths, nil
}
