package server

import (
	"context"
	"errors"
	"fmt"
	"path"

	"github.com/go-git/go-git/v5/plumbing/filemode"

	"github.com/headgate-cd/headgate/gitd/access"
	"github.com/headgate-cd/headgate/gitd/headgateyaml"
	"github.com/headgate-cd/headgate/gitd/repo"
	"github.com/headgate-cd/headgate/gitd/show"
	"github.com/headgate-cd/headgate/gitd/yamlfile"
	"github.com/headgate-cd/headgate/reconciler/target"
	"github.com/headgate-cd/headgate/reconciler/target/services"
)

// Scale implements show.Backend: a change of the files that declare the environment,
// through the gate like any other.
func (s *Server) Scale(ctx context.Context, a access.Identity, repository, environment, service string,
	count int) (show.Done, error) {
	r, err := s.readable(a, repository)
	if err != nil {
		return show.Done{}, err
	}
	byHand := "change the count in its files, and push that"
	if err := s.mayProposeEdit(a, repository, "scale "+environment+" of "+repository, byHand); err != nil {
		return show.Done{}, err
	}
	branch := s.gate.Branch(repository)
	tip, err := r.Ref("refs/heads/" + branch)
	if err != nil {
		return show.Done{}, err
	}
	name, edited, err := scaledIn(r, tip, environment, service, count)
	if err != nil {
		return show.Done{}, err
	}
	what := fmt.Sprintf("%s in %s of %s: %s", service, environment, repository, show.Plural(count, "instance"))
	change, err := s.proposeEdit(ctx, a, r, tip, name, edited,
		fmt.Sprintf("Scale %s in %s to %s", service, environment, show.Plural(count, "instance")))
	if err != nil {
		return show.Done{}, err
	}
	return show.Done{
		What: fmt.Sprintf("proposed as change %d: %s", change, what),
		Next: "it is scaled when that is promoted there; follow it: " +
			s.about.Command(fmt.Sprintf("change log -f %s %d", repository, change)),
		State: show.Queued,
	}, nil
}

// scaledIn is the file of a landed commit that says another count then, or an error for
// the person who wants that.
func scaledIn(r *repo.Repository, tip repo.Hash, environment, service string,
	count int) (name string, edited []byte, err error) {
	_, file, err := declaredIn(r, tip)
	if err != nil {
		return "", nil, err
	}
	e, err := environmentIn(r, file, environment)
	if err != nil {
		return "", nil, err
	}
	if e.Target != headgateyaml.Services {
		return "", nil, &show.Error{Kind: show.Denied,
			What: fmt.Sprintf("%s has no services to scale: its target is %s", environment, e.Target)}
	}
	tree, err := r.TreeOf(tip)
	if err != nil {
		return "", nil, err
	}
	dir, err := r.Lookup(tree, e.Path)
	if err == nil && dir.Mode != filemode.Dir {
		err = repo.ErrNoFile
	}
	if err != nil {
		return "", nil, err
	}
	files, err := r.Files(dir.Hash, func(string) bool { return true })
	if err != nil {
		return "", nil, err
	}
	name, edited, err = services.Scale(target.Files(files), service, count)
	var problems yamlfile.Problems
	var names services.NoService
	switch {
	case err == nil && name == "":
		return "", nil, &show.Error{Kind: show.Denied,
			What: fmt.Sprintf("%s in %s has %s already", service, environment, show.Plural(count, "instance"))}
	case err == nil:
		return path.Join(e.Path, name), edited, nil
	case errors.As(err, &names):
		return "", nil, &show.Error{Kind: show.NotFound,
			What: fmt.Sprintf("%s of %s has no service %q", environment, r.Name(), service), Hint: names.Error()}
	case errors.As(err, &problems):
		return "", nil, &show.Error{Kind: show.Denied, What: problems[0].What, Hint: problems[0].Fix}
	case errors.Is(err, services.ErrNoScale):
		return "", nil, &show.Error{
			Kind: show.Denied,
			What: fmt.Sprintf("the count of %s is not written in %s in a way that a program can change", service, e.Path),
			Hint: "change it there, and push that",
		}
	}
	return "", nil, err
}
