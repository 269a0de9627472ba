package server

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/headgate-cd/headgate/gitd/access"
	"github.com/headgate-cd/headgate/gitd/decision"
	"github.com/headgate-cd/headgate/gitd/repo"
	"github.com/headgate-cd/headgate/gitd/show"
	"github.com/headgate-cd/headgate/hooks/gate"
	"github.com/headgate-cd/headgate/policies"
)

// CreateRepository implements show.Backend: a change of server.yaml, through the
// gate like any other.
func (s *Server) CreateRepository(ctx context.Context, a access.Identity, name, description string) (show.Done, error) {
	if err := s.administrator(a, "make repositories"); err != nil {
		return show.Done{}, err
	}
	if err := access.CheckRepositoryName(name); err != nil {
		return show.Done{}, &show.Error{Kind: show.Usage, What: err.Error()}
	}
	err := s.reconfigure(ctx, a, fmt.Sprintf("Make the repository %s", name),
		func(c *access.Config, data []byte) ([]byte, error) {
			if _, there := c.Repository(name); there {
				return nil, &show.Error{Kind: show.Denied, What: fmt.Sprintf("there is a repository %s already", name)}
			}
			if _, err := s.store.Repository(name); !errors.Is(err, repo.ErrNoRepository) {
				return nil, &show.Error{ // whose content may be for fewer people than a new one's
					Kind: show.Denied,
					What: fmt.Sprintf("there was a repository %s before, and all of it is kept", name),
					Hint: fmt.Sprintf(
						"to have it back as it was, write it into %s again, with the rights that it is to have; for an empty one choose another name",
						access.FileName),
				}
			}
			return access.AddRepository(data, name, description)
		})
	if err != nil {
		return show.Done{}, err
	}
	return show.Done{What: "made the repository " + name, Next: "git clone " + s.about.CloneURL(name)}, nil
}

// Set implements show.Backend.
func (s *Server) Set(ctx context.Context, a access.Identity, name string, what access.Switch,
	on bool) (show.Done, error) {
	if err := s.administrator(a, "set the "+string(what)+" of repositories"); err != nil {
		return show.Done{}, err
	}
	if _, err := s.readable(a, name); err != nil {
		return show.Done{}, err
	}
	if name == access.Own {
		return show.Done{}, &show.Error{Kind: show.Denied,
			What: "the " + string(what) + " of the server's own configuration is always on"}
	}
	if r, _ := s.access.Load().Repository(name); what == access.Gate && r.Mirror != "" {
		return show.Done{}, &show.Error{
			Kind: show.Denied,
			What: fmt.Sprintf("%s is a mirror: what lands is decided at the forge of connection %s", name, r.Mirror),
			Hint: "take the connection out of " + access.FileName + " first",
		}
	}
	state := map[bool]string{true: "on", false: "off"}[on]
	unchanged := false
	err := s.reconfigure(ctx, a, fmt.Sprintf("Set the %s of %s %s", what, name, state),
		func(c *access.Config, data []byte) ([]byte, error) {
			is := c.Gated(name)
			if what == access.OwnPolicies {
				is = c.Policies(name)
			}
			if unchanged = is == on; unchanged {
				return data, nil
			}
			return access.Set(data, name, what, on, a.User+" on "+time.Now().UTC().Format(time.DateOnly))
		})
	if err != nil {
		return show.Done{}, err
	}
	if unchanged {
		return show.Done{What: fmt.Sprintf("%s of %s: %s already", what, name, state)}, nil
	}
	return show.Done{What: fmt.Sprintf("%s of %s: %s, by %s", what, name, state, a.User)}, nil
}

func (s *Server) administrator(a access.Identity, what string) error {
	if s.access.Load().May(a, access.Administer, access.Own) {
		return nil
	}
	return &show.Error{
		Kind: show.Forbidden,
		What: "only an administrator may " + what,
		Hint: "ask one of the group " + access.Administrators,
	}
}

// reconfigure lands a change of server.yaml that an edit makes of the newest
// one, and returns when it is in force. When somebody else's change lands in
// between it edits again.
func (s *Server) reconfigure(ctx context.Context, a access.Identity, subject string,
	edit func(c *access.Config, data []byte) ([]byte, error)) error {
	for try := 0; ; try++ {
		was, err := s.landedConfiguration()
		if err != nil {
			return err
		}
		own, tip, data, config := was.own, was.tip, was.data, was.config
		edited, err := edit(config, data)
		if err != nil {
			return err
		}
		if string(edited) == string(data) {
			return nil
		}
		commit, err := s.commitFile(own, tip, access.FileName, edited, s.author(config, a), subject)
		if err != nil {
			return err
		}
		// A change of its own, whatever else its author has open there.
		change, err := s.proposeOwn(ctx, commit, a)
		if err != nil {
			return err
		}
		if _, err := s.landed(ctx, access.Own, change); err != nil {
			if moved, rerr := own.Ref("refs/heads/" + configBranch); rerr == nil && moved != tip && try < 3 {
				continue // it conflicted with what has landed since
			}
			return err
		}
		return s.loadAccess(ctx)
	}
}

// PauseLanding implements show.Backend.
func (s *Server) PauseLanding(ctx context.Context, a access.Identity,
	repository, branch, reason string) (show.Done, error) {
	if _, err := s.readable(a, repository); err != nil {
		return show.Done{}, err
	}
	p, already, err := s.gate.Pause(ctx, repository, branch, a, reason)
	if err != nil {
		return show.Done{}, err
	}
	d := show.Done{What: p.String(),
		Next: "what is pushed is built and waits; to resume: " +
			s.about.Command("repo resume "+repository+" "+p.Branch)}
	if already {
		d.What = "already so: " + p.String()
	}
	return d, nil
}

// ResumeLanding implements show.Backend.
func (s *Server) ResumeLanding(ctx context.Context, a access.Identity,
	repository, branch, reason string) (show.Done, error) {
	if _, err := s.readable(a, repository); err != nil {
		return show.Done{}, err
	}
	ended, branch, err := s.gate.Resume(ctx, repository, branch, a, reason)
	if err != nil {
		return show.Done{}, err
	}
	if ended == nil {
		return show.Done{What: fmt.Sprintf("landing on %s of %s is not paused", branch, repository)}, nil
	}
	return show.Done{What: fmt.Sprintf("landing on %s of %s is resumed, as %s", branch, repository, a.User)}, nil
}

// author is who a user is in the commits that are made for them.
func (s *Server) author(config *access.Config, a access.Identity) repo.Person {
	author := repo.Person{Name: a.User, Email: a.User + "@" + s.about.Name}
	if u, ok := config.User(a.User); ok {
		author.Name = u.FullName
		if len(u.Email) > 0 {
			author.Email = u.Email[0]
		}
	}
	return author
}

// Withdraw implements show.Backend.
func (s *Server) Withdraw(ctx context.Context, a access.Identity, repository string, number int) (show.Done, error) {
	if _, err := s.readable(a, repository); err != nil {
		return show.Done{}, err
	}
	if err := s.gate.Withdraw(ctx, repository, number, a); err != nil {
		return show.Done{}, err
	}
	return show.Done{
		What: fmt.Sprintf("withdrew change %d of %s", number, repository),
		Next: "propose it once more: " + s.about.Command(fmt.Sprintf("change retry %s %d", repository, number)),
	}, nil
}

// notRetried is why a change cannot be retried.
func notRetried(s show.State) string {
	if s == show.Landed {
		return "has landed"
	}
	return "has not ended, it is " + string(s)
}

// Retry implements show.Backend: the same commit, proposed like a push of it.
func (s *Server) Retry(ctx context.Context, a access.Identity, repository string, number int) (show.Done, error) {
	c, err := s.Change(ctx, a, repository, number)
	if err != nil {
		return show.Done{}, err
	}
	switch {
	case !s.access.Load().May(a, access.Write, repository):
		return show.Done{}, &show.Error{Kind: show.Forbidden, What: fmt.Sprintf("you may not write to %s", repository),
			Hint: "ask " + c.By + " to retry it"}
	case !c.MayRetry:
		return show.Done{}, &show.Error{Kind: show.Denied,
			What: fmt.Sprintf("change %d %s: there is nothing to retry", number, notRetried(c.State))}
	}

	commit, _ := repo.ParseHash(c.Commit)
	decided, err := s.mayPropose(ctx, a, repository, c.Branch, commit)
	if err != nil {
		return show.Done{}, err
	}
	accepted, err := s.gate.Propose(ctx,
		gate.Proposal{Repository: repository, Branch: c.Branch, Commit: commit, By: a, Decision: decided})
	if err != nil {
		return show.Done{}, err
	}
	d := show.Done{What: fmt.Sprintf("change %d of %s is proposed again as change %d", number, repository,
		accepted.Change), State: show.Queued}
	if accepted.Attached {
		d.What = fmt.Sprintf("the commit of change %d is open already, as change %d", number, accepted.Change)
	}
	return d, nil
}

// mayPropose asks the policies what a push of a commit for a gated branch is asked:
// what they allowed when it was pushed they need not allow now, nor to somebody
// else. It returns the decision, which is kept before anything follows from it.
func (s *Server) mayPropose(ctx context.Context, a access.Identity, repository, branch string,
	commit repo.Hash) (repo.Hash, error) {
	r, err := s.store.Repository(repository)
	if err != nil {
		return repo.Zero, err
	}
	tip, err := r.Ref("refs/heads/" + branch)
	if err != nil {
		return repo.Zero, err
	}
	engine, err := s.engine(r, tip)
	if engine == nil {
		return repo.Zero, fmt.Errorf("read the policies of %s: %w", repository, err)
	}
	in := policies.PushInput{
		Now:        time.Now().UTC(),
		Repository: repository,
		Own:        repository == access.Own,
		Ref:        "refs/for/" + branch,
		Class:      policies.ClassProposal,
		User:       policies.User(s.access.Load().Standing(a, repository)),
		Old:        tip.String(),
		New:        commit.String(),
	}
	answer, rec := engine.Push(ctx, in)
	saved, err := decision.Save(context.WithoutCancel(ctx), r, in.Now, decision.Record{
		Query:  rec.Query,
		About:  in.Ref + " by " + a.User,
		Answer: string(answer.Decision),
		Policy: answer.Policy,
		Digest: rec.Digest(),
		JSON:   rec.JSON(),
	})
	if err != nil {
		return repo.Zero, err
	}
	if answer.Decision != policies.Auto {
		return saved, &show.Error{
			Kind:  show.Denied,
			What:  "the policies do not allow to propose this: " + answer.Why(),
			Where: []string{"decision " + decision.ID(saved)},
			Hint:  "ask an administrator, and name the decision",
		}
	}
	return saved, nil
}

// Replace implements show.Backend.
func (s *Server) Replace(ctx context.Context, a access.Identity, repository string, number, by int) (show.Done, error) {
	if _, err := s.readable(a, repository); err != nil {
		return show.Done{}, err
	}
	if !s.access.Load().May(a, access.Write, repository) {
		return show.Done{}, &show.Error{Kind: show.Forbidden, What: "you may not write to " + repository}
	}
	c, err := s.Change(ctx, a, repository, by)
	if err != nil {
		return show.Done{}, err
	}
	commit, _ := repo.ParseHash(c.Commit)
	decided, err := s.mayPropose(ctx, a, repository, c.Branch, commit)
	if err != nil {
		return show.Done{}, err
	}
	accepted, err := s.gate.Replace(ctx, repository, number, by, a, decided)
	if err != nil {
		return show.Done{}, err
	}
	return show.Done{
		What:  fmt.Sprintf("change %d of %s is revision %d of change %d now", by, repository, accepted.Revision, number),
		Next:  "follow it: " + s.about.Command(fmt.Sprintf("change log -f %s %d", repository, number)),
		State: show.Queued,
	}, nil
}

// Approve implements show.Backend.
func (s *Server) Approve(ctx context.Context, a access.Identity,
	repository, environment, tree, reason string) (show.Done, error) {
	if _, err := s.readable(a, repository); err != nil {
		return show.Done{}, err
	}
	approved, err := s.reconciler.Approve(ctx, repository, environment, a, tree, reason)
	if err != nil {
		return show.Done{}, err
	}
	d := show.Done{What: approved.Sentence, State: show.Open}
	if approved.Promoted == repo.Zero {
		d.State, d.Next = show.Waits, "now waits for "+approved.Waits
	} else {
		d.Next = fmt.Sprintf("env/%s is at %.7s; it converges by itself", environment, approved.Promoted)
	}
	return d, nil
}

// Reject implements show.Backend.
func (s *Server) Reject(ctx context.Context, a access.Identity,
	repository, environment, tree, reason string) (show.Done, error) {
	if _, err := s.readable(a, repository); err != nil {
		return show.Done{}, err
	}
	done, err := s.reconciler.Reject(ctx, repository, environment, a, tree, reason)
	if err != nil {
		return show.Done{}, err
	}
	return show.Done{
		What: done.Sentence(environment, a.User),
		Next: done.Then("ssh "+s.about.Login(), repository, environment),
	}, nil
}

// Choose implements show.Backend.
func (s *Server) Choose(ctx context.Context, a access.Identity, repository, environment string,
	release int) (show.Done, error) {
	if _, err := s.readable(a, repository); err != nil {
		return show.Done{}, err
	}
	done, err := s.reconciler.Choose(ctx, repository, environment, release, a)
	if err != nil {
		return show.Done{}, err
	}
	d := show.Done{What: fmt.Sprintf("proposed release %d for %s, tree %.7s, as %s", release, environment, done.Tree,
		a.User), State: show.Open}
	if release == 0 {
		d.What = fmt.Sprintf("proposed the removal of %s, as %s", environment, a.User)
	}
	if done.Promoted == repo.Zero {
		d.State, d.Next = show.Waits, "now waits for "+done.Waits
	} else {
		d.Next = fmt.Sprintf("env/%s is at %.7s; it converges by itself", environment, done.Promoted)
	}
	return d, nil
}

// Pause implements show.Backend.
func (s *Server) Pause(ctx context.Context, a access.Identity,
	repository, environment, reason string) (show.Done, error) {
	if _, err := s.readable(a, repository); err != nil {
		return show.Done{}, err
	}
	release, over, err := s.reconciler.Pause(ctx, repository, environment, a, reason)
	if err != nil {
		return show.Done{}, err
	}
	if over {
		return show.Done{
			What: fmt.Sprintf("release %d is healthy in %s: of its deployment nothing was left to pause", release, environment),
			Next: "what is promoted next goes its way; to let nothing land: " + s.about.Command("repo pause "+repository),
		}, nil
	}
	return show.Done{
		What: fmt.Sprintf("paused the deployment of release %d to %s", release, environment),
		Next: "what serves goes on serving until somebody continues it, or rolls back",
	}, nil
}

// Continue implements show.Backend.
func (s *Server) Continue(ctx context.Context, a access.Identity, repository, environment string) (show.Done, error) {
	if _, err := s.readable(a, repository); err != nil {
		return show.Done{}, err
	}
	release, err := s.reconciler.Continue(ctx, repository, environment, a)
	if err != nil {
		return show.Done{}, err
	}
	return show.Done{What: fmt.Sprintf("the deployment of release %d to %s goes on", release, environment)}, nil
}

// StopDeployment implements show.Backend.
func (s *Server) StopDeployment(ctx context.Context, a access.Identity, repository, environment, reason string) (show.Done, error) {
	if _, err := s.readable(a, repository); err != nil {
		return show.Done{}, err
	}
	release, err := s.reconciler.Stop(ctx, repository, environment, a, reason)
	if err != nil {
		return show.Done{}, err
	}
	return show.Done{
		What: fmt.Sprintf("stopped the deployment of release %d to %s", release, environment),
		Next: "hosts that are at it come to an end; to see: " + s.about.Command("env show "+repository+" "+environment),
	}, nil
}

// RetryDeployment implements show.Backend.
func (s *Server) RetryDeployment(ctx context.Context, a access.Identity, repository, environment, host string) (show.Done, error) {
	if _, err := s.readable(a, repository); err != nil {
		return show.Done{}, err
	}
	release, err := s.reconciler.Retry(ctx, repository, environment, host, a)
	if err != nil {
		return show.Done{}, err
	}
	to := environment
	if host != "" {
		to = host + " in " + environment
	}
	return show.Done{What: fmt.Sprintf("release %d is deployed to %s once more, where it is not", release, to)}, nil
}

// SkipHost implements show.Backend.
func (s *Server) SkipHost(ctx context.Context, a access.Identity, repository, environment, host string) (show.Done, error) {
	if _, err := s.readable(a, repository); err != nil {
		return show.Done{}, err
	}
	release, err := s.reconciler.Skip(ctx, repository, environment, host, a)
	if err != nil {
		return show.Done{}, err
	}
	return show.Done{
		What: fmt.Sprintf("the deployment of release %d to %s leaves %s out", release, environment, host),
		Next: "to take it in again: " + s.about.Command("retry "+repository+" "+environment+" --host "+host),
	}, nil
}

// Rollback implements show.Backend.
func (s *Server) Rollback(ctx context.Context, a access.Identity, repository, environment string, release int,
	reason string) (show.Done, error) {
	if _, err := s.readable(a, repository); err != nil {
		return show.Done{}, err
	}
	done, err := s.reconciler.Rollback(ctx, repository, environment, release, a, reason)
	if err != nil {
		return show.Done{}, err
	}
	return show.Done{
		What: fmt.Sprintf("rolled back %s %d -> %d in Git: env/%s %.7s", environment, done.From, done.To,
			environment, done.Commit),
		Next: "hold set: no automatic promotion until someone promotes forward",
	}, nil
}
