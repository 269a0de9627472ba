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
	config := s.access.Load()
	if !config.May(a, access.Write, repository) {
		return show.Done{}, &show.Error{
			Kind: show.Forbidden,
			What: fmt.Sprintf("you may not rename %s of %s", environment, repository),
			Hint: "ask somebody who may write " + repository,
		}
	}
	branch := s.gate.Branch(repository)
	byHand := fmt.Sprintf("in %s, put %s under its new name, add was: %s there, and push that", headgateyaml.Name,
		environment, environment)
	if !config.Gated(repository) {
		return show.Done{}, &show.Error{Kind: show.Denied,
			What: repository + " is not gated, so nothing can be proposed to it", Hint: byHand}
	}
	tip, err := r.Ref("refs/heads/" + branch)
	if err != nil {
		return show.Done{}, err
	}
	edited, err := s.renamedIn(r, tip, environment, to, byHand)
	if err != nil {
		return show.Done{}, err
	}
	commit, err := s.commitFile(r, tip, headgateyaml.Name, edited, s.author(config, a),
		fmt.Sprintf("Rename the environment %s to %s", environment, to))
	if err != nil {
		return show.Done{}, err
	}
	decided, err := s.mayPropose(ctx, a, repository, branch, commit)
	if err != nil {
		return show.Done{}, err
	}
	accepted, err := s.gate.Propose(ctx,
		gate.Proposal{Repository: repository, Branch: branch, Commit: commit, By: a, Decision: decided})
	if err != nil {
		return show.Done{}, err
	}
	return show.Done{
		What: fmt.Sprintf("proposed as change %d: environment %s of %s is called %s", accepted.Change, environment,
			repository, to),
		Next:  fmt.Sprintf("it is renamed when that lands; follow it: change log -f %s %d", repository, accepted.Change),
		State: show.Queued,
	}, nil
}

// renamedIn is the headgate.yaml of a landed commit with an environment under another
// name, or an error for the person who wants that.
func (s *Server) renamedIn(r *repo.Repository, tip repo.Hash, environment, to, byHand string) ([]byte, error) {
	tree, err := r.TreeOf(tip)
	if err != nil {
		return nil, err
	}
	data, err := r.File(tree, headgateyaml.Name)
	if errors.Is(err, repo.ErrNoFile) {
		return nil, &show.Error{Kind: show.NotFound,
			What: fmt.Sprintf("%s has no %s, and so no environment", r.Name(), headgateyaml.Name)}
	}
	if err != nil {
		return nil, err
	}
	file, err := headgateyaml.Parse(headgateyaml.Name, data)
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
	if _, there := file.Environment(environment); !there {
		var names []string
		for _, e := range file.Environments {
			names = append(names, e.Name)
		}
		return nil, &show.Error{
			Kind: show.NotFound,
			What: fmt.Sprintf("%s of %s names no environment %q", headgateyaml.Name, r.Name(), environment),
			Hint: "it names " + strings.Join(names, ", "),
		}
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
