package repo

import (
	"bytes"
	"context"
	"errors"
	"path"
	"strings"
)

// Submodules are the URLs that .gitmodules of a tree gives, by the path of the
// submodule. What git cannot read gives none.
func (r *Repository) Submodules(ctx context.Context, tree Hash) (map[string]string, error) {
	return r.SubmodulesIn(ctx, Quarantine{}, tree)
}

// SubmodulesIn is Submodules for a tree in a quarantine.
func (r *Repository) SubmodulesIn(ctx context.Context, q Quarantine, tree Hash) (map[string]string, error) {
	out, err := r.GitIn(ctx, q, nil, "config", "--blob", tree.String()+":.gitmodules", "--null", "--list")
	var ge *GitError
	if errors.As(err, &ge) && ge.Exit > 0 { // there is none, or it is not a configuration
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	paths, urls := map[string]string{}, map[string]string{} // by name
	for _, setting := range bytes.Split(out, []byte{0}) {
		key, value, _ := strings.Cut(string(setting), "\n")
		name, ok := strings.CutPrefix(key, "submodule.")
		dot := strings.LastIndexByte(name, '.')
		if !ok || dot < 0 {
			continue
		}
		switch name, variable := name[:dot], name[dot+1:]; variable {
		case "path":
			paths[name] = path.Clean(value)
		case "url":
			urls[name] = value
		}
	}
	at := map[string]string{}
	for name, p := range paths {
		if url, ok := urls[name]; ok {
			at[p] = url
		}
	}
	return at, nil
}

// Holds reports whether a branch or a tag holds a commit, so that every clone
// gets it.
func (r *Repository) Holds(ctx context.Context, commit Hash) (bool, error) {
	out, err := r.Git(ctx, "for-each-ref", "--count=1", "--contains", commit.String(), "refs/heads", "refs/tags")
	var ge *GitError
	if errors.As(err, &ge) && ge.Exit > 0 { // it has no such commit
		return false, nil
	}
	return len(out) > 0, err
}
