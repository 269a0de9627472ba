package repo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"
)

// Gitlink is a submodule in a tree: where it belongs, and at which commit.
type Gitlink struct {
	Path   string
	Commit Hash
}

// Checkout writes the files of a tree below dir, which must exist and be empty but
// for what Attach has made there, as git writes them: with the attributes
// of the tree, line ends, encodings and keywords. No filter runs, since none is
// configured, and no hook. It returns the submodules, which are empty directories.
//
// Trees are hostile. Git follows no symbolic link that it has written, and what it
// would refuse to name in an index is refused before anything is written.
func (r *Repository) Checkout(ctx context.Context, tree Hash, dir string) ([]Gitlink, error) {
	links, err := r.checkout(ctx, tree, dir)
	if err != nil {
		return nil, fmt.Errorf("check out %s of %s: %w", tree, r.name, err)
	}
	return links, nil
}

func (r *Repository) checkout(ctx context.Context, tree Hash, dir string) ([]Gitlink, error) {
	var links []Gitlink
	names := map[string]bool{}
	err := r.listTree(ctx, tree, func(e listed) error {
		if err := safePath(e.path); err != nil {
			return err
		}
		if e.kind == "commit" {
			links = append(links, Gitlink{e.path, e.hash})
		}
		names[e.path] = true
		return nil
	})
	if err != nil {
		return nil, err
	}
	for name := range names {
		for above := path.Dir(name); above != "."; above = path.Dir(above) {
			if names[above] {
				return nil, &TreeFault{fmt.Sprintf("the tree holds %q, and %q below it", above, name)}
			}
		}
	}

	index := filepath.Join(dir, ".git", "index")
	if _, err := os.Stat(filepath.Dir(index)); err != nil {
		temp, err := os.MkdirTemp("", "headgate-index-")
		if err != nil {
			return nil, err
		}
		defer os.RemoveAll(temp)
		index = filepath.Join(temp, "index")
	}
	cmd := r.Command(ctx, "read-tree", "--reset", "-u", tree.String())
	cmd.Env = append(cmd.Env, "GIT_INDEX_FILE="+index, "GIT_WORK_TREE="+dir, "GIT_ATTR_NOSYSTEM=1")
	cmd.Dir = dir
	// Modes are the same whatever mask the server was started with.
	cmd.Args = append([]string{"sh", "-c", `umask 022; exec "$0" "$@"`, cmd.Path}, cmd.Args[1:]...)
	cmd.Path = "/bin/sh"
	if _, err := run(cmd, nil); err != nil {
		if ge := (*GitError)(nil); errors.As(err, &ge) {
			ge.Args = []string{"read-tree"}
		}
		return nil, err
	}
	return links, nil
}

func safePath(name string) error {
	for _, part := range strings.Split(name, "/") {
		trimmed := strings.TrimRight(part, " .\r")
		if part == "" || part == "." || part == ".." || strings.EqualFold(trimmed, ".git") ||
			strings.ContainsAny(part, "\x00") {
			return &TreeFault{fmt.Sprintf("the tree holds the path %q, which cannot be checked out", name)}
		}
	}
	return nil
}

// Attach makes dir/.git, by which git sees the history of head, all tags, and the
// branch as origin's, in a directory into which head is, or is to be, checked
// out. Nothing is copied: objects is where whoever works in dir finds those of
// this repository, as a view has them.
func (r *Repository) Attach(ctx context.Context, dir string, head Hash, branch, objects string) error {
	if err := r.attach(ctx, filepath.Join(dir, ".git"), head, branch, objects); err != nil {
		return fmt.Errorf("attach %s of %s: %w", head, r.name, err)
	}
	return nil
}

func (r *Repository) attach(ctx context.Context, dir string, head Hash, branch, objects string) error {
	for _, d := range []string{"objects/info", "objects/pack", "refs/heads", "refs/tags"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			return err
		}
	}
	refs, err := r.historyRefs(ctx, branch)
	if err != nil {
		return err
	}
	files := map[string]string{
		"HEAD": head.String() + "\n",
		// Who looks has another name for the owner of the files than who has written them.
		"config":                  "[core]\n\trepositoryformatversion = 0\n\tfilemode = true\n\tbare = false\n\tcheckStat = minimal\n[advice]\n\tdetachedHead = false\n",
		"objects/info/alternates": objects + "\n",
		"packed-refs":             refs,
	}
	if data, err := os.ReadFile(filepath.Join(r.dir, "shallow")); err == nil {
		files["shallow"] = string(data)
	}
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// historyRefs are the tags and the branch, as git keeps refs in one file.
func (r *Repository) historyRefs(ctx context.Context, branch string) (string, error) {
	var b strings.Builder
	b.WriteString("# pack-refs with: peeled fully-peeled sorted \n")
	if branch != "" {
		tip, err := r.Ref("refs/remotes/origin/" + branch) // of a clone
		if err == nil && tip == Zero {
			tip, err = r.Ref("refs/heads/" + branch)
		}
		if err != nil {
			return "", err
		}
		if tip != Zero {
			fmt.Fprintf(&b, "%s refs/remotes/origin/%s\n", tip, branch)
		}
	}
	tags, err := r.Git(ctx, "for-each-ref", "--format=%(objectname) %(refname) %(*objectname)", "refs/tags")
	if err != nil {
		return "", err
	}
	for line := range bytes.Lines(tags) {
		f := bytes.Fields(line)
		if len(f) < 2 {
			continue
		}
		fmt.Fprintf(&b, "%s %s\n", f[0], f[1])
		if len(f) == 3 {
			fmt.Fprintf(&b, "^%s\n", f[2])
		}
	}
	return b.String(), nil
}
