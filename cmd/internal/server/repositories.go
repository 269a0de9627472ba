package server

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/headgate-cd/headgate/gitd/access"
	"github.com/headgate-cd/headgate/gitd/repo"
	"github.com/headgate-cd/headgate/gitd/show"
	"github.com/headgate-cd/headgate/gitd/yamlfile"
	"github.com/headgate-cd/headgate/hooks/verdict"
)

// Server implements show.Backend.
func (s *Server) Server(context.Context) show.Server {
	about := s.about
	machine, containers := s.gate.Load()
	about.Workers, about.WorkersBusy = machine.Workers, machine.Busy
	if s.containers.Present() {
		about.Containers, about.ContainersBusy = containers.Workers, containers.Busy
	}
	return about
}

// readable opens a repository for an actor. What may not be read is not there.
func (s *Server) readable(a access.Identity, name string) (*repo.Repository, error) {
	c := s.access.Load()
	if c.May(a, access.Read, name) {
		r, err := s.store.Repository(name)
		if err == nil && r.Damage() != nil {
			err = r.Damage()
		}
		if damaged := (*repo.Damaged)(nil); errors.As(err, &damaged) {
			return nil, &show.Error{
				Kind:  show.Again,
				What:  "the repository " + damaged.Error() + "; it is read-only until that is repaired",
				Where: damaged.What,
				Hint:  "an administrator of this server can look at it with: headgate doctor",
			}
		}
		if !errors.Is(err, repo.ErrNoRepository) {
			return r, err
		}
	}
	e := &show.Error{
		Kind: show.NotFound,
		What: fmt.Sprintf("there is no repository %q", name),
		Hint: "see those you may read", Command: "repo list",
	}
	var names []string
	for _, r := range c.Repositories() {
		if c.May(a, access.Read, r.Name) {
			names = append(names, r.Name)
		}
	}
	if near, ok := yamlfile.Nearest(name, names); ok {
		e.Hint = "did you mean " + near + "?"
	}
	return nil, e
}

// Repositories implements show.Backend.
func (s *Server) Repositories(ctx context.Context, a access.Identity) ([]show.Repository, error) {
	c := s.access.Load()
	var names []string
	for _, r := range c.Repositories() {
		names = append(names, r.Name)
	}
	if !slices.Contains(names, access.Own) {
		names = append(names, access.Own)
	}
	var list []show.Repository
	for _, name := range names {
		if !c.May(a, access.Read, name) {
			continue
		}
		r, err := s.Repository(ctx, a, name)
		if err == nil { // whoever lists the changes of all reads these next, and leaves out what is damaged
			_, err = s.gate.Changes(name).Summaries()
		}
		if ctx.Err() != nil {
			return nil, err
		}
		if err != nil {
			// One that cannot be read must not keep the others from being seen.
			s.log.Error("a repository cannot be shown", "repo", name, "err", err)
			configured, _ := c.Repository(name)
			r = s.unreadable(a, name, configured.Description, err)
		}
		list = append(list, r)
	}
	slices.SortStableFunc(list, func(x, y show.Repository) int { return y.LandedAt.Compare(x.LandedAt) })
	return list, nil
}

// unreadable is what is shown of a repository that err keeps from being read.
func (s *Server) unreadable(a access.Identity, name, description string, err error) show.Repository {
	reason := "it cannot be read; the server's log says why"
	if known := (*show.Error)(nil); errors.As(err, &known) {
		reason = known.What
	} else if s.access.Load().May(a, access.Administer, access.Own) {
		reason = err.Error()
	}
	return show.Repository{
		Name:         name,
		Description:  description,
		Clone:        s.about.CloneURL(name),
		Gated:        s.access.Load().Gated(name),
		Branch:       s.gate.Branch(name),
		State:        show.Damaged,
		Reason:       reason,
		Queue:        []show.Change{},
		Environments: []show.Environment{},
	}
}

// Repository implements show.Backend.
func (s *Server) Repository(ctx context.Context, a access.Identity, name string) (show.Repository, error) {
	r, err := s.readable(a, name)
	if err != nil {
		return show.Repository{}, err
	}
	c := s.access.Load()
	configured, _ := c.Repository(name)
	v := show.Repository{
		Name:         name,
		Description:  configured.Description,
		Clone:        s.about.CloneURL(name),
		Gated:        c.Gated(name),
		UngatedBy:    configured.UngatedBy,
		Branch:       s.gate.Branch(name),
		State:        show.Empty,
		MayWrite:     c.May(a, access.Write, name),
		Queue:        []show.Change{},
		Environments: []show.Environment{},
	}
	if name == access.Own {
		v.Description = "Users, keys, groups and repositories of this server"
	}
	tip, err := r.Ref("refs/heads/" + v.Branch)
	if err != nil {
		return v, err
	}
	if tip != repo.Zero {
		commit, err := r.Commit(tip)
		if err != nil {
			return v, err
		}
		v.Tip, v.Tree, v.LandedAt = tip.String(), commit.TreeHash.String(), commit.Committer.When.UTC()
		if v.State, err = s.stateOf(r, commit.TreeHash, v.Gated); err != nil {
			return v, err
		}
	} else if !v.Gated {
		v.State = show.NotGated
	}
	releases := s.gate.ReleasesOf(name)
	tags, err := releases.Tags()
	if err != nil {
		return v, err
	}
	if n := len(tags); n > 0 {
		newest, err := releases.ReadTag(tags[n-1])
		if err != nil {
			return v, err
		}
		v.Release = newest.Number
		if newest.Commit == tip {
			v.LandedAt = newest.Manifest.At.UTC()
		}
	}
	if v.Paused, err = s.gate.Paused(name); err != nil {
		return v, err
	}
	for _, e := range s.gate.Queue(name) {
		story, err := s.gate.Changes(name).Read(e.Change)
		if err != nil {
			return v, err
		}
		change, err := s.summary(r, story, &e)
		if err != nil {
			return v, err
		}
		v.Queue = append(v.Queue, change)
	}
	if v.Tip != "" && name != access.Own {
		environments, err := s.reconciler.Environments(ctx, a, name)
		if err != nil {
			return v, err
		}
		for i := range environments {
			environments[i].MayRollback = v.MayWrite // as on its own page
		}
		v.Environments = append(v.Environments, environments...)
	}
	return v, nil
}

// stateOf is what may be said of a branch's tip: green only with a verdict.
func (s *Server) stateOf(r *repo.Repository, tree repo.Hash, gated bool) (show.State, error) {
	if !gated {
		return show.NotGated, nil
	}
	list, err := verdict.On(r, tree)
	if err != nil {
		return show.Unknown, err
	}
	for _, v := range list {
		if v.Result == verdict.Green {
			return show.Green, nil
		}
	}
	return show.Unknown, nil
}
