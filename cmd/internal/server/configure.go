package server

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/go-git/go-git/v5/plumbing/filemode"

	"github.com/headgate-cd/headgate/gitd/access"
	"github.com/headgate-cd/headgate/gitd/crash"
	"github.com/headgate-cd/headgate/gitd/repo"
	"github.com/headgate-cd/headgate/gitd/show"
	"github.com/headgate-cd/headgate/gitd/signal"
	"github.com/headgate-cd/headgate/hooks/change"
	"github.com/headgate-cd/headgate/hooks/gate"
	"github.com/headgate-cd/headgate/policies"
)

// configBranch is the gated branch of the server's own repository.
const configBranch = "main"

// configure brings the server's configuration into force: what has landed in
// the repository headgate, made by its first change at the first start.
func (s *Server) configure(ctx context.Context) error {
	own, err := s.store.Create(ctx, access.Own)
	if err != nil {
		return unreadable(s.opts.Data, err)
	}
	crash.Point("configure.own-repository")
	tip, err := own.Ref("refs/heads/" + configBranch)
	if err != nil {
		return unreadable(s.opts.Data, err)
	}
	if tip == repo.Zero {
		if err := s.firstConfiguration(ctx, own); err != nil {
			return err
		}
	}
	if err := s.loadAccess(ctx); err != nil {
		return unreadable(s.opts.Data, err)
	}
	if s.opts.DropOwnPolicies {
		return s.dropOwnPolicies(ctx, own)
	}
	return nil
}

// dropOwnPolicies lands a change that removes policies/ from the server's own
// configuration, judged by the default policies alone. Rules there that deny every
// change of them leave no other way out, since only who has the machine stands above
// them. It is a change like any other: on record, signed, and reverted by git revert.
func (s *Server) dropOwnPolicies(ctx context.Context, own *repo.Repository) error {
	tip, err := own.Ref("refs/heads/" + configBranch)
	if err != nil {
		return err
	}
	tree, err := own.TreeOf(tip)
	if err != nil {
		return err
	}
	if _, err := own.Lookup(tree, policies.Dir); errors.Is(err, repo.ErrNoFile) {
		return nil // they were dropped at an earlier start
	} else if err != nil {
		return err
	}
	by, ok := s.startedBy()
	if !ok {
		return errors.New(
			"--drop-own-policies: none of your SSH keys is an administrator's; name the public key of one with --admin-key")
	}

	s.ownPoliciesOff.Store(true)
	defer s.ownPoliciesOff.Store(false)
	commit, err := s.commitEdits(own, tip, map[string]repo.Edit{policies.Dir: {Remove: true}}, repo.Person{},
		fmt.Sprintf("Drop %s/, as %s has said at the machine", policies.Dir, by.User))
	if err != nil {
		return err
	}
	change, err := s.proposeOwn(ctx, commit, by)
	if err != nil {
		return err
	}
	if _, err := s.landed(ctx, access.Own, change); err != nil {
		return fmt.Errorf("drop the policies of %s: %w", access.Own, err)
	}
	s.log.Warn("dropped the policies of the server's own configuration", "change", change, "by", by.User)
	return s.loadAccess(ctx)
}

// proposeOwn proposes a commit for the server's own configuration.
func (s *Server) proposeOwn(ctx context.Context, commit repo.Hash, by access.Identity) (change int, err error) {
	accepted, err := s.gate.Propose(ctx, gate.Proposal{
		Repository: access.Own,
		Branch:     configBranch,
		Commit:     commit,
		By:         by,
	})
	return accepted.Change, err
}

// startedBy is the administrator who starts the server, by one of the keys it was given.
func (s *Server) startedBy() (access.Identity, bool) {
	for _, key := range s.opts.Keys {
		if who, ok := s.Operator(key); ok && s.access.Load().May(who, access.Administer, access.Own) {
			return who, true
		}
	}
	return access.Identity{}, false
}

// firstConfiguration proposes the first server.yaml through the gate, as any
// later one comes; after a kill it finds its own change open or landed.
func (s *Server) firstConfiguration(ctx context.Context, own *repo.Repository) error {
	data, err := access.Initial(s.opts.Admin, "", "", s.opts.Keys)
	if err != nil {
		return fmt.Errorf("make the first %s: %w", access.FileName, err)
	}
	config, err := access.Parse(access.FileName, data)
	if err != nil {
		return fmt.Errorf("make the first %s: %w", access.FileName, err)
	}
	s.access.Store(config) // the pusher must be somebody for the policy
	story, found, err := s.gate.Changes(access.Own).First(func(of change.Summary) bool { return !of.Ended })
	if err != nil {
		return err
	}
	number := story.Number
	if !found {
		commit, err := s.commitFile(own, repo.Zero, access.FileName, data, repo.Person{},
			"Make "+s.opts.Admin+" the first administrator")
		if err != nil {
			return err
		}
		by, ok := operator(config, s.opts.Keys[0])
		if !ok {
			return fmt.Errorf("make the first %s: the key %q is not in it", access.FileName, s.opts.Keys[0])
		}
		accepted, err := s.gate.Propose(ctx, gate.Proposal{
			Repository: access.Own,
			Branch:     configBranch,
			Commit:     commit,
			By:         by,
		})
		if err != nil {
			return err
		}
		number = accepted.Change
	}
	if _, err := s.landed(ctx, access.Own, number); err != nil {
		return fmt.Errorf("land the first configuration: %w", err)
	}
	s.first = true
	return nil
}

// commitFile makes a commit on tip in which one file at the top is replaced.
func (s *Server) commitFile(r *repo.Repository, tip repo.Hash, name string, data []byte, author repo.Person,
	subject string) (repo.Hash, error) {
	blob := repo.Blob(data)
	if err := r.Write(blob); err != nil {
		return repo.Zero, err
	}
	edits := map[string]repo.Edit{name: {Mode: filemode.Regular, Hash: blob.Hash()}}
	return s.commitEdits(r, tip, edits, author, subject)
}

func (s *Server) commitEdits(r *repo.Repository, tip repo.Hash, edits map[string]repo.Edit, author repo.Person,
	subject string) (repo.Hash, error) {
	tree := repo.Zero
	var parents []repo.Hash
	if tip != repo.Zero {
		var err error
		if tree, err = r.TreeOf(tip); err != nil {
			return repo.Zero, err
		}
		parents = []repo.Hash{tip}
	}
	tree, err := r.TreeWith(tree, edits)
	if err != nil {
		return repo.Zero, err
	}
	return r.WriteCommit(repo.NewCommit{
		Tree:    tree,
		Parents: parents,
		Author:  author,
		At:      time.Now(),
		Message: repo.Message(subject, ""),
	})
}

// landed waits until a change has landed, and returns where. Any other end is
// an error for the person who made the change.
func (s *Server) landed(ctx context.Context, repository string, change int) (repo.Hash, error) {
	for p := range s.gate.Follow(ctx, repository, change) {
		if !p.Ends() {
			continue
		}
		switch p.Kind {
		case gate.Landed:
			return p.Landed, nil
		case gate.Restarting:
			return repo.Zero, &show.Error{
				Kind: show.Again,
				What: "the server is restarting; the change is safe",
				Hint: "try again in a moment",
			}
		}
		return repo.Zero, &show.Error{
			Kind:  show.Denied,
			What:  fmt.Sprintf("change %d of %s was %s: %s", change, repository, p.Kind, p.Reason),
			Where: p.Details,
			Hint:  p.Hint,
		}
	}
	if err := ctx.Err(); err != nil {
		return repo.Zero, err
	}
	return repo.Zero, &show.Error{
		Kind: show.Again,
		What: "the server is stopping; the change is safe",
		Hint: "try again in a moment",
	}
}

// loadAccess brings the server.yaml that has landed into force and makes the
// repositories that it names. One that cannot be read leaves the old in force.
// Whoever waits because of what the old one said is woken.
func (s *Server) loadAccess(ctx context.Context) error {
	// Whoever read an older one must not bring it into force after a newer.
	s.loading.Lock()
	defer s.loading.Unlock()
	landed, err := s.landedConfiguration()
	if err != nil {
		return err
	}
	config := landed.config
	made := []string{access.Own}
	for _, r := range config.Repositories() {
		made = append(made, r.Name)
		_, err := s.store.Create(ctx, r.Name)
		if damaged := (*repo.Damaged)(nil); errors.As(err, &damaged) {
			s.log.Error("a repository is damaged; the others go on", "repo", r.Name, "what", damaged.What)
		} else if err != nil {
			return err
		}
		crash.Point("configure.repository-made")
	}
	if err := s.store.Made(made); err != nil {
		return err
	}
	s.access.Store(config)
	s.remotes.sync()
	s.services.Changed()
	s.moved.Notify(access.Own)
	if err := s.tokens.Retain(func(user string) bool { _, known := config.User(user); return known }); err != nil {
		return err
	}

	// Only what has changed wakes: asking again is recorded in refs, and those of
	// the server's own repository bring us here.
	if s.inForce != landed.tip {
		s.inForce = landed.tip
		s.gate.Wake(signal.All)
		s.reconciler.Wake(signal.All)
		s.forges.Wake()
		s.events.Wake()
	}
	return nil
}

// configuration is one server.yaml that has landed.
type configuration struct {
	own    *repo.Repository
	tip    repo.Hash
	data   []byte
	config *access.Config
}

func (s *Server) landedConfiguration() (c configuration, err error) {
	fail := func(err error) (configuration, error) { return c, fmt.Errorf("read %s: %w", access.FileName, err) }
	if c.own, err = s.store.Repository(access.Own); err != nil {
		return fail(err)
	}
	if c.tip, err = c.own.Ref("refs/heads/" + configBranch); err != nil {
		return fail(err)
	}
	c.data, c.config, err = configurationAt(c.own, c.tip)
	return c, err
}

// configurationAt reads server.yaml of a commit.
func configurationAt(own *repo.Repository, tip repo.Hash) (data []byte, config *access.Config, err error) {
	tree, err := own.TreeOf(tip)
	if err == nil {
		data, err = own.File(tree, access.FileName)
	}
	if err == nil {
		config, err = access.Parse(access.FileName, data)
	}
	if err != nil {
		err = fmt.Errorf("read %s of %s at %s: %w", access.FileName, access.Own, show.Short(tip.String()), err)
	}
	return data, config, err
}

// changed brings a configuration into force as it lands: whoever pushed it reads
// "landed" and may rely on it. What tools of the build have kept is for the next ones.
func (s *Server) changed(ctx context.Context, repository, build string) {
	s.cache.Landed(repository, build)
	if repository != access.Own {
		return
	}
	if err := s.loadAccess(ctx); err != nil && ctx.Err() == nil {
		s.log.Error("kept the configuration that was in force", "repo", access.Own, "err", err)
	}
}

// retryAccess is when a configuration that could not be brought into force is
// tried again.
const retryAccess = 5 * time.Second

// watchAccess follows the configuration until ctx is done.
func (s *Server) watchAccess(ctx context.Context) error {
	moved, stop := s.store.Watch(access.Own)
	defer stop()
	var again <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-moved:
		case <-again:
		}
		again = nil
		if err := s.loadAccess(ctx); err != nil {
			if ctx.Err() == nil {
				s.log.Error("kept the configuration that was in force", "repo", access.Own, "err", err, "again_in", retryAccess)
			}
			again = time.After(retryAccess)
		}
	}
}
