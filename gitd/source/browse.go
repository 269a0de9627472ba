package source

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/go-git/go-git/v5/plumbing/filemode"

	"github.com/headgate-cd/headgate/gitd/repo"
	"github.com/headgate-cd/headgate/gitd/show"
)

// Bounds of a directory and of a file.
const (
	maxListed = 2_000   // names of a directory
	maxText   = 1 << 20 // bytes of a file
	maxPath   = 4_096
)

// Resolve finds the commit that a revision names: an id or its first digits (at
// least four), a branch, a tag, a release. The error is a *show.Error if there
// is none.
func Resolve(ctx context.Context, r *repo.Repository, revision string) (repo.Hash, error) {
	none := &show.Error{Kind: show.NotFound, What: fmt.Sprintf("there is no commit %q in %s", revision, r.Name())}
	if revision == "" || len(revision) > 256 || strings.ContainsAny(revision, "\x00\n:^~?*[\\@{ ") ||
		strings.Contains(revision, "..") {
		return repo.Zero, none
	}

	names := []string{"refs/heads/" + revision, "refs/tags/" + revision, "refs/" + strings.TrimPrefix(revision, "refs/")}
	for _, name := range names {
		h, err := r.Ref(name)
		if err != nil || h == repo.Zero {
			continue // it need not be a name at all
		}
		return commitOf(ctx, r, h.String(), none)
	}
	if len(revision) < 4 || len(revision) > 64 || strings.Trim(revision, "0123456789abcdef") != "" {
		return repo.Zero, none
	}
	return commitOf(ctx, r, revision, none)
}

// commitOf is the commit behind an object's id, or none.
func commitOf(ctx context.Context, r *repo.Repository, id string, none error) (repo.Hash, error) {
	out, err := output(ctx, r, nil, "rev-parse", "--verify", "--quiet", "--end-of-options", id+"^{commit}")
	if exit(err) > 0 {
		return repo.Zero, none
	}
	if err != nil {
		return repo.Zero, err
	}
	h, ok := repo.ParseHash(strings.TrimSpace(out))
	if !ok {
		return repo.Zero, none
	}
	return h, nil
}

// Commit is one commit with its difference to its first parent.
func Commit(ctx context.Context, r *repo.Repository, h repo.Hash) (show.CommitPage, error) {
	p := show.CommitPage{Repository: r.Name()}
	list, err := log(ctx, r, 1, "--end-of-options", h.String())
	if err != nil {
		return p, err
	}
	if len(list) != 1 {
		return p, fmt.Errorf("git knows nothing of commit %s of %s", h, r.Name())
	}
	p.Commit = list[0]

	c, err := r.Commit(h)
	if err != nil {
		return p, err
	}
	p.Tree = c.TreeHash.String()
	_, body, _ := strings.Cut(strings.TrimSpace(c.Message), "\n")
	p.Message = strings.ToValidUTF8(strings.TrimSpace(cut(body, 64<<10)), "\uFFFD")

	parent := repo.Zero
	if len(c.ParentHashes) > 0 {
		parent = c.ParentHashes[0]
	}
	if p.Difference, err = Compare(ctx, r, parent, h); err != nil {
		return p, err
	}
	p.Difference.Git = []string{"git show --first-parent " + short(h)}
	return p, nil
}

// Content is what stands at a slash-separated path of a commit, "" being the
// root.
func Content(r *repo.Repository, commit repo.Hash, name string) (show.Content, error) {
	c := show.Content{Repository: r.Name(), Commit: commit.String(), Path: name}
	none := &show.Error{Kind: show.NotFound, What: fmt.Sprintf("there is no %s in %s", name, commit.String()[:12])}
	if len(name) > maxPath {
		return c, none
	}

	tree, err := r.TreeOf(commit)
	if err != nil {
		return c, err
	}
	at := name
	if at == "" {
		at = "."
	}
	e, err := r.Lookup(tree, at)
	if errors.Is(err, repo.ErrNoFile) {
		return c, none
	}
	if err != nil {
		return c, err
	}

	switch c.Kind = kindOf(e.Mode); c.Kind {
	case show.Directory:
		return c, list(r, e.Hash, &c)
	case show.Submodule:
		c.Text = e.Hash.String()
		return c, nil
	}
	return c, text(r, e.Hash, &c)
}

func list(r *repo.Repository, tree repo.Hash, c *show.Content) error {
	entries, err := r.Tree(tree)
	if err != nil {
		return err
	}
	if len(entries) > maxListed {
		entries, c.Cut = entries[:maxListed], true
	}

	c.Entries = []show.TreeEntry{}
	var rest []show.TreeEntry // directories stand first
	for _, e := range entries {
		k := show.TreeEntry{Name: e.Name, Kind: kindOf(e.Mode), Hash: e.Hash.String()}
		if k.Kind == show.Directory {
			c.Entries = append(c.Entries, k)
		} else {
			rest = append(rest, k)
		}
	}
	c.Entries = append(c.Entries, rest...)
	return nil
}

func text(r *repo.Repository, blob repo.Hash, c *show.Content) error {
	_, content, err := r.Raw(blob)
	var big *repo.TooBig
	if errors.As(err, &big) {
		c.Size, c.Cut, c.Binary = big.Size, true, true
		return nil
	}
	if err != nil {
		return err
	}

	c.Size = int64(len(content))
	if bytes.IndexByte(content[:min(len(content), 8000)], 0) >= 0 {
		c.Binary = true
		return nil
	}
	if len(content) > maxText {
		content, c.Cut = content[:maxText], true
	}
	c.Text = strings.ToValidUTF8(string(content), "\uFFFD")
	return nil
}

func kindOf(m filemode.FileMode) show.ContentKind {
	switch m {
	case filemode.Dir:
		return show.Directory
	case filemode.Submodule:
		return show.Submodule
	case filemode.Symlink:
		return show.Link
	case filemode.Executable:
		return show.Program
	}
	return show.File
}

func cut(s string, n int) string {
	if len(s) > n {
		return s[:n]
	}
	return s
}
