package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/headgate-cd/headgate/gitd/access"
	"github.com/headgate-cd/headgate/gitd/repo"
	"github.com/headgate-cd/headgate/gitd/show"
	"github.com/headgate-cd/headgate/gitd/yamlfile"
	"github.com/headgate-cd/headgate/hooks/gate"
	"github.com/headgate-cd/headgate/hooks/release"
	"github.com/headgate-cd/headgate/hooks/verdict"
	"github.com/headgate-cd/headgate/policies"
	"github.com/headgate-cd/headgate/reconciler"
)

// actor is a user with the rights of now; the zero Actor if there is none.
func (s *server) actor(name, via string) show.Actor {
	c := s.access.Load()
	if _, ok := c.User(name); !ok {
		return show.Actor{}
	}
	return show.Actor{Name: name, Groups: c.Groups(name), Admin: c.IsAdmin(name), Via: via}
}

// policyUser is what policies are told of a user.
func (s *server) policyUser(repository, name string) policies.User {
	c := s.access.Load()
	return policies.User{Name: name, Groups: c.Groups(name), Admin: c.IsAdmin(name), MayRead: c.MayRead(name, repository), MayWrite: c.MayWrite(name, repository)}
}

// Server implements show.House.
func (s *server) Server(context.Context) show.Server {
	about := s.about
	about.WorkersBusy, about.Workers = s.gate.Busy()
	return about
}

// readable opens a repository for an actor. What may not be read is not there.
func (s *server) readable(a show.Actor, name string) (*repo.Repository, error) {
	c := s.access.Load()
	if a.Name != "" && c.MayRead(a.Name, name) {
		r, err := s.store.Repository(name)
		if !errors.Is(err, repo.ErrNoRepository) {
			return r, err
		}
	}
	e := &show.Error{Kind: show.NotFound, What: fmt.Sprintf("there is no repository %q", name), Hint: "repo list shows those you may read"}
	var names []string
	for _, r := range c.Repositories() {
		if c.MayRead(a.Name, r.Name) {
			names = append(names, r.Name)
		}
	}
	if near, ok := yamlfile.Nearest(name, names); ok {
		e.Hint = "did you mean " + near + "?"
	}
	return nil, e
}

// Repositories implements show.House.
func (s *server) Repositories(ctx context.Context, a show.Actor) ([]show.Repository, error) {
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
		if a.Name == "" || !c.MayRead(a.Name, name) {
			continue
		}
		r, err := s.Repository(ctx, a, name)
		if err != nil {
			return nil, err
		}
		list = append(list, r)
	}
	slices.SortStableFunc(list, func(x, y show.Repository) int { return y.LandedAt.Compare(x.LandedAt) })
	return list, nil
}

// Repository implements show.House.
func (s *server) Repository(ctx context.Context, a show.Actor, name string) (show.Repository, error) {
	r, err := s.readable(a, name)
	if err != nil {
		return show.Repository{}, err
	}
	c := s.access.Load()
	configured, _ := c.Repository(name)
	v := show.Repository{
		Name: name, Description: configured.Description, Clone: s.about.CloneURL(name), Gated: c.Gated(name), UngatedBy: configured.UngatedBy,
		Branch: s.branchOf(name), State: show.Empty, MayWrite: c.MayWrite(a.Name, name), Queue: []show.Change{}, Environments: []show.Environment{},
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
	releases, err := s.gate.Book(name).List()
	if err != nil {
		return v, err
	}
	if n := len(releases); n > 0 {
		v.Release = releases[n-1].Number
		if releases[n-1].Commit == tip {
			v.LandedAt = releases[n-1].Manifest.At.UTC()
		}
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
		environments, err := s.reconciler.Environments(ctx, name)
		if err != nil {
			return v, err
		}
		v.Environments = append(v.Environments, environments...)
	}
	return v, nil
}

// stateOf is what may be said of a branch's tip: green only with a verdict.
func (s *server) stateOf(r *repo.Repository, tree repo.Hash, gated bool) (show.State, error) {
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

// branchOf is the gated branch whose landings become releases: the first that
// the repository's headgate.yaml names and that is there, else main.
func (s *server) branchOf(name string) string {
	r, err := s.store.Repository(name)
	if err != nil {
		return configBranch
	}
	for _, branch := range []string{"main", "master"} {
		if tip, err := r.Ref("refs/heads/" + branch); err == nil && tip != repo.Zero {
			return branch
		}
	}
	refs, err := r.Refs("refs/heads/")
	if err != nil {
		return configBranch
	}
	for _, ref := range refs {
		branch := strings.TrimPrefix(ref.Name, "refs/heads/")
		if f, err := fileAt(r, ref.Hash); err == nil && f.Gates(branch) && !strings.HasPrefix(branch, "env/") && !strings.HasPrefix(branch, "promote/") {
			return branch
		}
	}
	return configBranch
}

// releasesOf is what the reconciler knows of releases, each verified.
func (s *server) releasesOf(r *repo.Repository) ([]reconciler.Release, error) {
	book := s.gate.Book(r.Name())
	if book == nil {
		return nil, nil
	}
	list, err := book.List()
	if err != nil {
		return nil, err
	}
	signers := repo.Signers{r.Signer().PublicKey()}
	var all []reconciler.Release
	for _, rel := range list {
		all = append(all, toReconcile(rel, s.verify(r, rel, signers)))
	}
	return all, nil
}

// toReconcile is a release as the reconciler knows it.
func toReconcile(rel release.Release, verifies error) reconciler.Release {
	to := reconciler.Release{
		Number: rel.Number, Commit: rel.Commit, By: rel.Manifest.By, Authors: rel.AlsoBy, Subject: rel.Subject, At: rel.Manifest.At, Verifies: verifies,
	}
	if len(rel.Changes) > 0 {
		to.Change = rel.Changes[0]
	}
	for _, a := range rel.Artifacts {
		to.Artifacts = append(to.Artifacts, reconciler.Artifact{Name: a.Name, Digest: a.Digest, Size: a.Size})
	}
	return to
}

// verify checks a release's signature and provenance, once.
func (s *server) verify(r *repo.Repository, rel release.Release, signers repo.Signers) error {
	if _, ok := s.verified.Load(rel.Tag); ok {
		return nil
	}
	err := rel.Verify(r, signers)
	if err == nil {
		s.verified.Store(rel.Tag, true)
	}
	return err
}

// Releases implements show.House.
func (s *server) Releases(ctx context.Context, a show.Actor, name string) ([]show.Release, error) {
	if _, err := s.readable(a, name); err != nil {
		return nil, err
	}
	list, err := s.gate.Book(name).List()
	if err != nil {
		return nil, err
	}
	environments, err := s.reconciler.Environments(ctx, name)
	if err != nil {
		return nil, err
	}
	shown := []show.Release{}
	for _, rel := range slices.Backward(list) {
		v := show.Release{Repository: name, Number: rel.Number, Commit: rel.Commit.String(), Subject: rel.Subject, By: rel.Manifest.By, At: rel.Manifest.At.UTC(), Artifacts: []show.Artifact{}}
		if len(rel.Changes) > 0 {
			v.Change = rel.Changes[0]
		}
		for _, a := range rel.Artifacts {
			v.Artifacts = append(v.Artifacts, show.Artifact(a))
		}
		for _, e := range environments {
			if e.Release == rel.Number {
				v.RunsIn = append(v.RunsIn, e.Name)
			}
		}
		shown = append(shown, v)
	}
	return shown, nil
}

// Environment implements show.House.
func (s *server) Environment(ctx context.Context, a show.Actor, repository, environment string) (show.Environment, error) {
	if _, err := s.readable(a, repository); err != nil {
		return show.Environment{}, err
	}
	for range 3 { // a proposal may be gone before it was looked at
		e, err := s.environment(ctx, a, repository, environment)
		if !errors.Is(err, errProposalGone) {
			return e, err
		}
	}
	return s.reconciler.Environment(ctx, repository, environment)
}

var errProposalGone = errors.New("the proposal is gone")

func (s *server) environment(ctx context.Context, a show.Actor, repository, environment string) (show.Environment, error) {
	e, err := s.reconciler.Environment(ctx, repository, environment)
	if err != nil {
		return e, err
	}
	e.MayRollback = s.access.Load().MayWrite(a.Name, repository)
	if e.Promotion != nil { // what this actor may do
		p, err := s.reconciler.Promotion(ctx, a, repository, environment)
		var gone *show.Error
		switch {
		case errors.As(err, &gone) && gone.Kind == show.NotFound:
			return e, errProposalGone
		case err != nil:
			return e, err
		}
		e.Promotion = &p
	}
	return e, nil
}

// Promotion implements show.House.
func (s *server) Promotion(ctx context.Context, a show.Actor, repository, environment string) (show.Promotion, error) {
	if _, err := s.readable(a, repository); err != nil {
		return show.Promotion{}, err
	}
	return s.reconciler.Promotion(ctx, a, repository, environment)
}

// Watch implements show.House: refs that move, builds that begin, instances
// that come and go.
func (s *server) Watch(repository string) (<-chan struct{}, func()) {
	moved, stopMoved := s.store.Watch(repository)
	seen, stopSeen := s.services.Watch()
	changed := make(chan struct{}, 1)
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		defer close(changed)
		for {
			select {
			case <-done:
				return
			case <-moved:
			case <-seen:
			}
			select {
			case <-done: // both channels are closed by now
				return
			case changed <- struct{}{}:
			default:
			}
		}
	})
	return changed, sync.OnceFunc(func() {
		close(done)
		stopMoved()
		stopSeen()
		wg.Wait()
	})
}

// entryOf is a change's place in the queue, nil if it has none.
func entryOf(queue []gate.Entry, number int) *gate.Entry {
	for i := range queue {
		if queue[i].Change == number {
			return &queue[i]
		}
	}
	return nil
}
