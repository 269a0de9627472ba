package repo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// DriverError is a file that both sides of a merge have changed and that is to be
// merged by a program which only those who work on it have.
type DriverError struct{ Path, Driver string }

func (e *DriverError) Error() string {
	return fmt.Sprintf("%s is merged by the driver %q, which its .gitattributes names and this server does not run",
		e.Path, e.Driver)
}

// Merge merges theirs into ours without a work tree, as git does with ours checked
// out: by the attributes of ours. Conflicts, when not empty, are the paths that
// did not merge, and tree is then of no use. An error may be a *DriverError.
func (r *Repository) Merge(ctx context.Context, ours, theirs Hash) (tree Hash, conflicts []string, err error) {
	fail := func(err error) (Hash, []string, error) {
		return Zero, nil, fmt.Errorf("merge %s into %s of %s: %w", theirs, ours, r.name, err)
	}
	attributes, err := r.attributesOf(ctx, ours)
	if err != nil {
		return fail(err)
	}
	command := r.Command
	if attributes != "" {
		defer os.RemoveAll(attributes)
		command = func(ctx context.Context, args ...string) *exec.Cmd {
			cmd := r.Command(ctx, args...)
			cmd.Env = append(cmd.Env, "GIT_WORK_TREE="+attributes, "GIT_ATTR_NOSYSTEM=1")
			cmd.Dir = attributes
			return cmd
		}
		if err := r.driven(ctx, command, ours, theirs); err != nil {
			return fail(err)
		}
	}

	first, ok := "", false
	err = recordsOf(command(ctx, "merge-tree", "--write-tree", "--name-only", "--no-messages", "-z", ours.String(),
		theirs.String()), func(record string) error {
		switch {
		case first == "":
			first = record
			tree, ok = ParseHash(first)
		case len(conflicts) < maxConflicts:
			conflicts = append(conflicts, conflicting(record, ours, theirs))
		}
		return nil
	})
	if err != nil && !exited(err, 1) {
		return fail(err)
	}
	if !ok {
		return fail(fmt.Errorf("git answered %q", first))
	}
	slices.Sort(conflicts)
	conflicts = slices.Compact(conflicts)
	if err != nil && len(conflicts) == 0 {
		return fail(errors.New("conflict without a path"))
	}
	return tree, conflicts, nil
}

// conflicting is the path that people know of what did not merge. Where a file of one
// side is a directory of the other, or a link, git keeps both by adding "~" and whose
// it is, which is a commit here, to the name of one.
func conflicting(path string, sides ...Hash) string {
	for _, side := range sides {
		if at := strings.LastIndex(path, "~"+side.String()); at > 0 {
			return path[:at]
		}
	}
	return path
}

// maxConflicts are told of one merge at most.
const maxConflicts = 10_000

// maxAttributes bounds the .gitattributes of one tree, and the bytes of each.
const (
	maxAttributes     = 1000
	maxAttributesSize = 1 << 20
)

// attributesOf makes a directory with the .gitattributes of a commit, and nothing
// else of it, for the caller to remove; "" when there are none.
func (r *Repository) attributesOf(ctx context.Context, commit Hash) (dir string, err error) {
	files := map[string]Hash{}
	err = r.listTree(ctx, commit, func(e listed) error {
		if path.Base(e.path) != ".gitattributes" || !strings.HasPrefix(e.mode, "100") {
			return nil
		}
		files[e.path] = e.hash
		if len(files) > maxAttributes {
			return &TreeFault{fmt.Sprintf("it holds more than %d files .gitattributes, and no more are read",
				maxAttributes)}
		}
		return safePath(e.path)
	})
	if err != nil || len(files) == 0 {
		return "", err
	}

	if dir, err = os.MkdirTemp("", "headgate-merge-"); err != nil {
		return "", err
	}
	defer func() {
		if err != nil {
			os.RemoveAll(dir)
		}
	}()
	for name, blob := range files {
		if err := os.MkdirAll(filepath.Join(dir, path.Dir(name)), 0o700); err != nil {
			return "", err
		}
		content, err := r.Git(ctx, "cat-file", "blob", blob.String())
		if err != nil {
			return "", err
		}
		if len(content) > maxAttributesSize {
			continue // git reads no larger one either
		}
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			return "", err
		}
	}
	return dir, nil
}

// driven finds a file that both sides have changed, each in its way, and that a
// driver of its own is to merge.
func (r *Repository) driven(ctx context.Context, command func(context.Context, ...string) *exec.Cmd,
	ours, theirs Hash) error {
	out, err := r.Git(ctx, "merge-base", ours.String(), theirs.String())
	if exited(err, 1) {
		return nil
	} else if err != nil {
		return err
	}
	base, ok := ParseHash(strings.TrimSpace(string(out)))
	if !ok {
		return fmt.Errorf("git answered %q", out)
	}
	mine, err := r.ChangedPaths(ctx, base, ours)
	if err != nil {
		return err
	}
	yours, err := r.ChangedPaths(ctx, base, theirs)
	if err != nil {
		return err
	}
	both := map[string]bool{}
	for _, p := range mine {
		both[p] = true
	}
	var asked bytes.Buffer
	for _, p := range yours {
		if both[p] {
			asked.WriteString(p + "\x00")
		}
	}
	if asked.Len() == 0 {
		return nil
	}
	said, err := run(command(ctx, "check-attr", "--stdin", "-z", "merge"), asked.Bytes())
	if err != nil {
		return err
	}
	for f := bytes.Split(said, []byte{0}); len(f) >= 3; f = f[3:] {
		switch value := string(f[2]); value {
		case "unspecified", "set", "unset", "text", "binary", "union":
		default:
			return &DriverError{Path: string(f[0]), Driver: value}
		}
	}
	return nil
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
	var paths []string
	err := r.records(ctx, func(p string) error {
		paths = append(paths, p)
		return nil
	}, "diff-tree", "-r", "-z", "--name-only", "--no-renames", from.String(), to.String())
	return paths, err
}
