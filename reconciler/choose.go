package reconciler

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/headgate-cd/headgate/gitd/access"
	"github.com/headgate-cd/headgate/gitd/crash"
	"github.com/headgate-cd/headgate/gitd/repo"
	"github.com/headgate-cd/headgate/gitd/show"
	"github.com/headgate-cd/headgate/gitd/terminal"
	"github.com/headgate-cd/headgate/reconciler/record"
)

// Chosen is what became of a release that a person chose.
type Chosen struct {
	From, Release int
	Tree          repo.Hash
	Promoted      repo.Hash // commit of env/<environment>; Zero while something is missing
	Waits         string    // for what, while Promoted is Zero
}

// Choose proposes a release for an environment because a person says so: an older
// one than would be proposed by itself, or one that was rejected. 0 is the removal
// of an environment that headgate.yaml does not name any more. It stays proposed
// until it is promoted, rejected, or another one is chosen, and is judged like any
// other. What is not newer than what is declared is a rollback, and refused.
func (rc *Reconciler) Choose(ctx context.Context, repository, environment string, release int,
	by access.Identity) (Chosen, error) {
	r, err := rc.repository(repository)
	if err != nil {
		return Chosen{}, err
	}
	w, err := rc.worker(r, environment)
	if err != nil {
		return Chosen{}, err
	}
	var done Chosen
	err = w.on(ctx, func(ctx context.Context) (err error) {
		done, err = w.choose(ctx, release, by)
		return err
	})
	return done, err
}

func (w *worker) choose(ctx context.Context, release int, by access.Identity) (Chosen, error) {
	if _, err := w.settle(ctx); err != nil {
		return Chosen{}, err
	}
	s, err := w.rc.load(ctx, w.repo, w.environment)
	if err != nil {
		return Chosen{}, err
	}
	if err := w.rc.mayWrite(s, by, "choose a release for"); err != nil {
		return Chosen{}, err
	}
	tree, err := w.choosable(s, release)
	if err != nil {
		return Chosen{}, err
	}

	p := s.promotion(release)
	p.Chosen = &record.Choice{User: by.User, At: s.Now}
	if len(s.Rejected) > 0 {
		p.Chosen.Rejections = s.Rejected[0].Hash
	}
	if q := s.Proposal; q != nil && q.Release == release && q.Tree == tree {
		p.Approvals = q.Approvals
	}
	p.Former = s.former(p.Approvals)
	before := s.tip()
	switch _, err := w.writeProposal(ctx, s, p, tree); {
	case errors.Is(err, repo.ErrMoved):
		return Chosen{}, &show.Error{Kind: show.Again, What: "the proposal has just changed",
			Hint: "look at it and choose again"}
	case err != nil:
		return Chosen{}, err
	}
	w.log().Info("chosen", "release", release, "by", by.User)
	done := Chosen{From: s.covers(), Release: release, Tree: tree}
	if _, err := w.settle(ctx); err != nil {
		w.log().Error("could not act on the choice at once", "err", err) // the loop tries again
	}
	after, err := w.rc.load(ctx, w.repo, w.environment)
	if err != nil {
		return done, err
	}
	if d := after.Declared; d != nil && d.Hash != before && d.Tree == tree {
		done.Promoted = d.Hash
		return done, nil
	}
	done.Waits = w.rc.waitsFor(ctx, after)
	return done, nil
}

// choosable renders what a person chose, or says why it cannot be proposed.
func (w *worker) choosable(s *snapshot, release int) (repo.Hash, error) {
	where := s.repo.Name() + " " + s.environment
	no := func(command, format string, args ...any) error {
		return &show.Error{Kind: show.Denied, What: fmt.Sprintf(format, args...), Where: []string{"nothing has moved"},
			Command: command}
	}
	switch {
	case s.Leaving && release != 0:
		return repo.Zero, no("promote "+where+" removal",
			"headgate.yaml does not name %s any more: only its removal can be proposed", s.environment)
	case s.Leaving && s.Declared == nil, s.Leaving && s.Declared.Removal:
		return repo.Zero, no("", "%s was removed already", s.environment)
	case s.Leaving:
		return record.Without(s.repo, s.Declared.Tree, s.application)
	case release == 0:
		return repo.Zero, no("", "%s is in headgate.yaml: there is no removal to propose before it is taken out of that",
			s.environment)
	}
	if _, ok := s.release(release); !ok {
		return repo.Zero, &show.Error{
			Kind:    show.NotFound,
			What:    fmt.Sprintf("there is no release %d of %s", release, s.repo.Name()),
			Hint:    "see them",
			Command: "release list " + s.repo.Name(),
		}
	}
	switch {
	case release == s.covers():
		return repo.Zero, no("", "release %d is what %s declares already", release, s.environment)
	case release < s.covers():
		return repo.Zero, no(fmt.Sprintf("rollback %s %d", where, release),
			"release %d is not newer than release %d, which %s declares: going back is a rollback", release, s.covers(), s.environment)
	}
	wanted, err := s.render(w.rc, release)
	if err != nil {
		return repo.Zero, err
	}
	s.Wanted = wanted
	switch {
	case wanted.Problem != "":
		return repo.Zero, no("", "%s", s.problem())
	case wanted.Same:
		return repo.Zero, no("", "release %d has the content that %s declares already", release, s.environment)
	}
	return wanted.Tree, nil
}

// Rejected is what became of a rejection.
type Rejected struct {
	Release  int  // 0: the removal
	Repeated bool // the same user had rejected it already
	Commit   repo.Hash
	Next     int // release that is proposed now instead; 0: none
}

// Reject says no to the open proposal of an environment: that release is not
// proposed again until somebody chooses it. tree, when not empty, is the content
// that the user saw, whole or as its first digits; another one is refused. Who may
// write may reject, and so may whose approval is asked for; it may be their own.
func (rc *Reconciler) Reject(ctx context.Context, repository, environment string, by access.Identity,
	tree, reason string) (Rejected, error) {
	return rc.reject(ctx, repository, environment, by, reason, func(s *snapshot) error { return sameTree(s, tree) })
}

// RejectPush is Reject by deleting promote/<environment>, which the client believed
// to be at a commit.
func (rc *Reconciler) RejectPush(ctx context.Context, repository, environment string, by access.Identity,
	commit repo.Hash, reason string) ([]string, error) {
	by.Via = access.ViaPush
	done, err := rc.reject(ctx, repository, environment, by, reason,
		func(s *snapshot) error { return rc.isProposal(s, commit) })
	if err != nil {
		return nil, err
	}
	return []string{done.Sentence(environment, by.User), done.Then(rc.ssh(), repository, environment)}, nil
}

func (rc *Reconciler) reject(ctx context.Context, repository, environment string, by access.Identity, reason string,
	check func(*snapshot) error) (Rejected, error) {
	r, err := rc.repository(repository)
	if err != nil {
		return Rejected{}, err
	}
	w, err := rc.worker(r, environment)
	if err != nil {
		return Rejected{}, err
	}
	var done Rejected
	err = w.on(ctx, func(ctx context.Context) (err error) {
		done, err = w.reject(ctx, by, terminal.Message(strings.Join(strings.Fields(reason), " "), 1000), check)
		return err
	})
	return done, err
}

func (w *worker) reject(ctx context.Context, by access.Identity, reason string,
	check func(*snapshot) error) (Rejected, error) {
	if _, err := w.settle(ctx); err != nil {
		return Rejected{}, err
	}
	s, err := w.rc.load(ctx, w.repo, w.environment)
	if err != nil {
		return Rejected{}, err
	}
	if s.Proposal == nil {
		if len(s.Rejected) > 0 && s.Rejected[0].By == by.User {
			last := s.Rejected[0] // somebody repeats a command whose answer was lost
			return Rejected{Release: last.Release, Repeated: true, Commit: last.Hash}, nil
		}
		return Rejected{}, w.rc.nothingOpen(s)
	}
	if err := w.rc.mayReject(ctx, s, by); err != nil {
		return Rejected{}, err
	}
	if err := check(s); err != nil {
		return Rejected{}, err
	}

	p := s.Proposal
	rejection := record.Rejection{
		Release:  p.Release,
		Removal:  p.Removal,
		Declared: s.tip(),
		Proposal: p.Commit,
		By:       by.User,
		Via:      via(by),
		Reason:   reason,
	}
	old := repo.Zero
	parents := []repo.Hash{p.Commit}
	if len(s.Rejected) > 0 {
		old = s.Rejected[0].Hash
		parents = []repo.Hash{old, p.Commit}
	}
	commit, err := w.repo.WriteCommit(repo.NewCommit{
		Tree:    p.Tree,
		Parents: parents,
		At:      s.Now,
		Message: rejection.Message(s.application, w.environment),
	})
	if err != nil {
		return Rejected{}, err
	}
	crash.Point("promote.before-rejected")
	if err := w.repo.Move(ctx, record.RejectionsRef(w.environment), old, commit); err != nil {
		return Rejected{}, err
	}
	crash.Point("promote.rejected")
	w.log().Info("rejected", "release", p.Release, "by", by.User, "via", via(by), "commit", commit.String())

	// That the proposal goes, and what comes in its place, follows from the record.
	if _, err := w.settle(ctx); err != nil {
		w.log().Error("could not act on the rejection at once", "err", err)
	}
	done := Rejected{Release: p.Release, Commit: commit}
	after, err := w.rc.load(ctx, w.repo, w.environment)
	if err == nil {
		done.Next = after.proposedRelease()
	}
	return done, err
}

// Sentence says what was done: "rejected release 5 for production, as jun".
func (r Rejected) Sentence(environment, user string) string {
	what := fmt.Sprintf("release %d", r.Release)
	if r.Release == 0 {
		what = "the removal"
	}
	s := fmt.Sprintf("rejected %s for %s, as %s", what, environment, user)
	if r.Repeated {
		s = "already " + s
	}
	return s
}

// Then says what comes of it.
func (r Rejected) Then(ssh, repository, environment string) string {
	what := fmt.Sprintf("%s %s", repository, environment)
	if r.Release == 0 {
		what += " removal"
	} else {
		what += fmt.Sprintf(" %d", r.Release)
	}
	text := "it is not proposed again until somebody says so: " + ssh + " promote " + what
	if r.Next > 0 {
		text += fmt.Sprintf("; release %d is proposed now", r.Next)
	}
	return text
}

// mayReject refuses who may neither write nor approve.
func (rc *Reconciler) mayReject(ctx context.Context, s *snapshot, by access.Identity) error {
	may, err := rc.approvers(ctx, s)
	if err != nil {
		return err
	}
	config := rc.Access()
	asked := slices.ContainsFunc(may.rules,
		func(r rules) bool { return r.settings.Approvals.Count > 0 && may.counts(r, by) })
	if config.May(by, access.Approve, s.repo.Name()) && (asked || config.May(by, access.Write, s.repo.Name())) {
		return nil
	}
	return &show.Error{
		Kind: show.Forbidden,
		What: fmt.Sprintf("%s may not reject %s for %s of %s", someone(by), s.proposed(), s.environment, s.repo.Name()),
		Hint: "ask one of: " + list(config.Who(access.Write, s.repo.Name())),
	}
}

// lastRejection is the newest rejection that still stands of what could be proposed
// now, nil for none.
func (s *snapshot) lastRejection() *record.Rejection {
	for _, r := range s.Rejected {
		if (r.Release > s.covers() || r.Removal && s.Leaving) && s.rejected(r.Release) {
			return &r
		}
	}
	return nil
}
