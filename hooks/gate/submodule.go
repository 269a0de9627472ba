package gate

import (
	"context"
	"errors"
	"fmt"
	"path"
	"path/filepath"

	"github.com/headgate-cd/headgate/gitd/repo"
	"github.com/headgate-cd/headgate/gitd/show"
	"github.com/headgate-cd/headgate/gitd/terminal"
)

// Bounds of the submodules of one build: how many are checked out, and how many
// levels of them.
const (
	maxSubmodules     = 100
	maxSubmoduleLevel = 8
)

// submodules checks out those submodules of a tree that are of this server.
type submodules struct {
	find    func(of, url string) (*repo.Repository, string)
	root    string
	level   int
	done    int
	notices []string
}

// checkOut fills the directories of these submodules of a tree of r, which is
// checked out at dir below the root.
func (s *submodules) checkOut(ctx context.Context, r *repo.Repository, tree repo.Hash, dir string,
	links []repo.Gitlink) error {
	if len(links) == 0 {
		return nil
	}
	urls, err := r.Submodules(ctx, tree)
	if err != nil {
		return err
	}
	s.level++
	defer func() { s.level-- }()
	for _, link := range links {
		at := path.Join(dir, link.Path)
		of, why := s.of(r.Name(), urls, link.Path)
		if why == "" {
			why, err = missing(ctx, of, link.Commit)
			if err != nil {
				return err
			}
		}
		if why != "" {
			s.note("submodule %s is not checked out: %s", at, why)
			continue
		}
		s.done++
		commit, err := of.Commit(link.Commit)
		if err != nil {
			return err
		}
		// Nobody has measured what was pushed past the gate.
		var large *repo.TooLarge
		if err := of.CheckExtent(ctx, commit.TreeHash); errors.As(err, &large) {
			s.note("submodule %s is not checked out: %s", at, large.Error())
			continue
		} else if err != nil {
			return err
		}
		below, err := of.Checkout(ctx, commit.TreeHash, filepath.Join(s.root, filepath.FromSlash(at)))
		if err != nil {
			return err
		}
		s.note("submodule %s: %s at %s", at, of.Name(), show.Short(link.Commit.String()))
		if err := s.checkOut(ctx, of, commit.TreeHash, at, below); err != nil {
			return err
		}
	}
	return nil
}

// of is the repository of a submodule, or why it is not checked out.
func (s *submodules) of(name string, urls map[string]string, link string) (of *repo.Repository, why string) {
	url, ok := urls[link]
	switch {
	case !ok:
		return nil, ".gitmodules does not say where it comes from"
	case s.find == nil:
		return nil, "there is no server here"
	case s.done >= maxSubmodules:
		return nil, fmt.Sprintf("%d are already", s.done)
	case s.level > maxSubmoduleLevel:
		return nil, fmt.Sprintf("it is %d levels down", s.level)
	}
	return s.find(name, url)
}

// missing says what keeps clones from getting a commit.
func missing(ctx context.Context, r *repo.Repository, commit repo.Hash) (why string, err error) {
	holds, err := r.Holds(ctx, commit)
	if err == nil && !holds {
		why = fmt.Sprintf("no branch and no tag of %s holds %s", r.Name(), show.Short(commit.String()))
	}
	return why, err
}

func (s *submodules) note(format string, args ...any) {
	s.notices = append(s.notices, terminal.Plain(fmt.Sprintf(format, args...)))
}
