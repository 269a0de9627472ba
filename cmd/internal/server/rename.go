package server

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/headgate-cd/headgate/gitd/access"
	"github.com/headgate-cd/headgate/gitd/headgateyaml"
	"github.com/headgate-cd/headgate/gitd/repo"
	"github.com/headgate-cd/headgate/gitd/show"
	"github.com/headgate-cd/headgate/gitd/yamlfile"
	"github.com/headgate-cd/headgate/hooks/gate"
)

// RenameEnvironment implements show.Backend: a change of headgate.yaml, through the
// gate like any other.
func (s *Server) RenameEnvironment(ctx context.Context, a access.Identity,
	repository, environment, to string) (show.Done, error) {
	r, err := s.readable(a, repository)
	if err != nil {
		return show.Done{}, err
	}
	branch := s.gate.Branch(repository)
	byHand := fmt.Sprintf("in %s, put %s under its new name, add was: %s there, and push that", headgateyaml.Name,
		environment, environment)
	err = s.mayProposeEdit(a, repository, "rename "+environment+" of "+repository, byHand)
	if err != nil {
		return show.Done{}, err
	}
	tip, err := r.Ref("refs/heads/" + branch)
	if err != nil {
		return show.Done{}, err
	}
	edited, err := s.renamedIn(r, tip, environment, to, byHand)
	if err != nil {
		return show.Done{}, err
	}
	change, err := s.proposeEdit(ctx, a, r, tip, headgateyaml.Name, edited,
		fmt.Sprintf("Rename the environment %s to %s", environment, to))
	if err != nil {
		return show.Done{}, err
	}
	return show.Done{
		What: fmt.Sprintf("proposed as change %d: environment %s of %s is called %s", change, environment,
			repository, to),
		Next: "it is renamed when that lands; follow it: " +
			s.about.Command(fmt.Sprintf("change log -f %s %d", repository, change)),
		State: show.Queued,
	}, nil
}

// mayProposeEdit refuses who may not propose a change of what declares environments.
func (s *Server) mayProposeEdit(a access.Identity, repository, what, byHand string) error {
	config := s.access.Load()
	switch {
	case !config.May(a, access.Write, repository):
		return &show.Error{
			Kind: show.Forbidden,
			What: "you may not " + what,
			Hint: "ask somebody who may write " + repository,
		}
	case !config.Gated(repository):
		return &show.Error{Kind: show.Denied,
			What: repository + " is not gated, so nothing can be proposed to it", Hint: byHand}
	}
	return nil
}

// proposeEdit proposes a change of one file, and says under which number.
func (s *Server) proposeEdit(ctx context.Context, a access.Identity, r *repo.Repository, tip repo.Hash, name string,
	edited []byte, subject string) (change int, err error) {
	branch := s.gate.Branch(r.Name())
	commit, err := s.commitFile(r, tip, name, edited, s.author(s.access.Load(), a), subject)
	if err != nil {
		return 0, err
	}
	decided, err := s.mayPropose(ctx, a, r.Name(), branch, commit)
	if err != nil {
		return 0, err
	}
	accepted, err := s.gate.Propose(ctx,
		gate.Proposal{Repository: r.Name(), Branch: branch, Commit: commit, By: a, Decision: decided})
	return accepted.Change, err
}

// renamedIn is the headgate.yaml of a landed commit with an environment under another
// name, or an error for the person who wants that.
func (s *Server) renamedIn(r *repo.Repository, tip repo.Hash, environment, to, byHand string) ([]byte, error) {
	data, file, err := declaredIn(r, tip)
	if err != nil {
		return nil, err
	}
	if other, there := file.Environment(to); there {
		return nil, &show.Error{
			Kind:  show.Denied,
			What:  fmt.Sprintf("%s has an environment %s already", r.Name(), to),
			Where: []string{fmt.Sprintf("%s:%d: %s", headgateyaml.Name, other.Line, to)},
		}
	}
	if _, err := environmentIn(r, file, environment); err != nil {
		return nil, err
	}

	edited, err := headgateyaml.Rename(data, environment, to)
	var problems yamlfile.Problems
	switch {
	case err == nil:
	case errors.As(err, &problems): // of the new name
		return nil, &show.Error{Kind: show.Usage, What: problems[0].What, Hint: problems[0].Fix}
	case errors.Is(err, headgateyaml.ErrNoEdit):
		return nil, &show.Error{Kind: show.Denied,
			What: fmt.Sprintf("%s of %s cannot be edited by a program", headgateyaml.Name, r.Name()), Hint: byHand}
	default:
		return nil, err
	}
	if file, err = headgateyaml.Parse(headgateyaml.Name, edited); err != nil {
		return nil, err
	}
	_, _, problems, err = s.reconciler.Against(r.Name(), file)
	if err != nil || len(problems) == 0 {
		return edited, err
	}
	return nil, &show.Error{Kind: show.Denied, What: problems[0].What, Hint: problems[0].Fix}
}

// declaredIn is the headgate.yaml of a landed commit. The error for a person says that
// there is none.
func declaredIn(r *repo.Repository, tip repo.Hash) (data []byte, file *headgateyaml.File, err error) {
	tree, err := r.TreeOf(tip)
	if err != nil {
		return nil, nil, err
	}
	data, err = r.File(tree, headgateyaml.Name)
	if errors.Is(err, repo.ErrNoFile) {
		return nil, nil, &show.Error{Kind: show.NotFound,
			What: fmt.Sprintf("%s has no %s, and so no environment", r.Name(), headgateyaml.Name)}
	}
	if err != nil {
		return nil, nil, err
	}
	file, err = headgateyaml.Parse(headgateyaml.Name, data)
	return data, file, err
}

// environmentIn finds an environment by name. The error for a person says which there are.
func environmentIn(r *repo.Repository, file *headgateyaml.File, name string) (headgateyaml.Environment, error) {
	e, there := file.Environment(name)
	if there {
		return e, nil
	}
	var names []string
	for _, other := range file.Environments {
		names = append(names, other.Name)
	}
	return e, &show.Error{
		Kind: show.NotFound,
		What: fmt.Sprintf("%s of %s names no environment %q", headgateyaml.Name, r.Name(), name),
		Hint: "it names " + strings.Join(names, ", "),
	}
}
