package reconciler

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/headgate-cd/headgate/gitd/access"
	"github.com/headgate-cd/headgate/gitd/crash"
	"github.com/headgate-cd/headgate/gitd/decision"
	"github.com/headgate-cd/headgate/gitd/repo"
	"github.com/headgate-cd/headgate/gitd/show"
	"github.com/headgate-cd/headgate/gitd/terminal"
	"github.com/headgate-cd/headgate/policies"
	"github.com/headgate-cd/headgate/reconciler/record"
	"github.com/headgate-cd/headgate/reconciler/target"
)

// RolledBack is what a rollback did.
type RolledBack struct {
	From, To int
	Commit   repo.Hash // of env/<environment>
	Restores repo.Hash // earlier commit whose content it restores
}

// Rollback makes an environment what it was when release was declared there,
// byte for byte, and sets a hold: nothing is promoted automatically until a
// person promotes forward. The release must have been healthy to the end in
// this environment. Release 0 is an error that names the last one that was.
// Errors for the person are *show.Error.
func (rc *Reconciler) Rollback(ctx context.Context, repository, environment string, release int, by access.Identity,
	reason string) (RolledBack, error) {
	r, err := rc.repository(repository)
	if err != nil {
		return RolledBack{}, err
	}
	w, err := rc.worker(r, environment)
	if err != nil {
		return RolledBack{}, err
	}
	var done RolledBack
	err = w.on(ctx, func(ctx context.Context) (err error) {
		done, err = w.rollback(ctx, release, by, terminal.Message(strings.Join(strings.Fields(reason), " "), maxReason))
		return err
	})
	return done, err
}

func (w *worker) rollback(ctx context.Context, release int, by access.Identity, reason string) (RolledBack, error) {
	// What the target has just reported is noted while it is about what is declared.
	if _, err := w.settle(ctx); err != nil {
		w.log().Error("could not reconcile before a rollback", "err", err) // which is the way out all the same
	}
	s, err := w.rc.load(ctx, w.repo, w.environment)
	if err != nil {
		return RolledBack{}, err
	}
	if err := w.rc.mayWrite(s, by, "roll back"); err != nil {
		return RolledBack{}, err
	}
	all, err := record.History(w.repo, s.application, w.environment, maxHistory)
	if err != nil {
		return RolledBack{}, err
	}
	good, err := rollbackTo(s, all, release)
	if err != nil {
		return RolledBack{}, err
	}
	if err := w.rc.available(good.Artifacts); err != nil {
		return RolledBack{}, &show.Error{
			Kind:    show.Denied,
			What:    fmt.Sprintf("%s cannot be rolled back to release %d: %s", w.environment, good.Release, err),
			Where:   []string{"nothing has moved"},
			Hint:    "restore the artifact from a backup, or roll back to another release",
			Command: "env log " + s.repo.Name() + " " + w.environment,
		}
	}
	saved, err := w.mayGoBack(ctx, s, good, policies.User(w.rc.Access().Standing(by, s.repo.Name())), reason)
	if err != nil {
		return RolledBack{}, err
	}
	if s.evaluated.Decision != policies.Auto {
		return RolledBack{}, &show.Error{Kind: show.Denied,
			What:  fmt.Sprintf("policy does not allow rolling %s back to release %d", w.environment, good.Release),
			Where: s.evaluated.open(), Command: "why " + s.repo.Name() + " " + w.environment}
	}
	commit, err := w.goBack(ctx, s, good, saved, by.User, reason)
	var taken *addressTaken
	switch {
	case errors.As(err, &taken):
		return RolledBack{}, &show.Error{
			Kind:    show.Denied,
			What:    fmt.Sprintf("%s cannot be rolled back to release %d: %v", w.environment, good.Release, taken),
			Where:   []string{"nothing has moved"},
			Hint:    "choose another",
			Command: "env log " + s.repo.Name() + " " + w.environment,
		}
	case errors.Is(err, repo.ErrMoved):
		return RolledBack{}, &show.Error{Kind: show.Again, What: w.environment + " has just changed",
			Hint: "look at it and roll back again"}
	case err != nil:
		return RolledBack{}, err
	}
	if _, err := w.settle(ctx); err != nil {
		// The rollback stands in Git; the loop goes on converging to it.
		w.log().Error("could not act on the rollback at once", "err", err)
	}
	return RolledBack{From: s.Declared.Release, To: good.Release, Commit: commit, Restores: good.Hash}, nil
}

// mayGoBack asks policy whether to go back to a commit, leaves the answer in s and
// returns the record of it.
func (w *worker) mayGoBack(ctx context.Context, s *snapshot, good record.Commit, by policies.User,
	reason string) (saved repo.Hash, err error) {
	if err := w.rc.evaluateRollback(ctx, s, good, by, reason); err != nil {
		return repo.Zero, err
	}
	return w.save(ctx, s.evaluated)
}

// goBack declares what an earlier commit declared, and holds it there: one commit that
// says everything, one move. *That move is the rollback.*
func (w *worker) goBack(ctx context.Context, s *snapshot, good record.Commit, saved repo.Hash,
	by, reason string) (repo.Hash, error) {
	place, err := decision.Place(w.repo, saved)
	if err != nil {
		return repo.Zero, err
	}
	hold := record.Hold{By: by, At: s.Now.UTC(), Reason: reason}
	tree, err := record.Restore(w.repo, s.Declared.Tree, good.Tree, s.application, hold)
	if err != nil {
		return repo.Zero, err
	}
	p := record.Promotion{
		ID:        record.PromotionID(s.application, w.environment, s.Declared.Hash, tree),
		Sequence:  s.Declared.Sequence + 1,
		Release:   good.Release,
		Source:    good.Source,
		Path:      good.Path,
		Artifacts: good.Artifacts,
		Policy:    s.evaluated.Policy,
		Decision:  record.Decision{Decision: s.evaluated.Decision, Commit: saved, Place: place},
		Rollback:  &record.Rollback{Of: s.Declared.Hash, Restores: good.Hash, By: by, Reason: reason},
	}
	commit, err := w.repo.WriteCommit(repo.NewCommit{
		Tree:    tree,
		Parents: record.Parents(s.Declared.Hash),
		At:      s.Now,
		Message: p.Message(s.application, w.environment),
	})
	if err != nil {
		return repo.Zero, err
	}
	crash.Point("rollback.before-environment-moved")
	if err := w.declare(ctx, s, tree, commit); err != nil {
		return repo.Zero, err
	}
	crash.Point("rollback.environment-moved")
	w.log().Info("rolled back", "release", good.Release, "commit", commit.String(), "by", by)
	return commit, nil
}

// maxReason bounds the reason of a rollback, in bytes.
const maxReason = 1000

// rollbackByItself goes back to what was good last, because a deployment gave up what is
// declared. The commit comes first: the target converges to it, and git log tells why.
// What policy denies stays as it is, failed, for people to decide.
func (w *worker) rollbackByItself(ctx context.Context, s *snapshot) error {
	reason := terminal.Message(strings.Join(strings.Fields(s.Observed.Message), " "), maxReason)
	by := policies.User{Name: record.Automatic, MayWrite: true}
	saved, err := w.mayGoBack(ctx, s, s.good, by, reason)
	if err != nil {
		return err
	}
	if s.evaluated.Decision != policies.Auto {
		w.stays = s.Declared.Hash
		w.log().Warn("policy does not let what has failed be rolled back by itself", "release", s.Declared.Release, "why",
			s.evaluated.Why())
		return nil
	}
	crash.Point("rollback.decided-by-itself")
	_, err = w.goBack(ctx, s, s.good, saved, record.Automatic, reason)
	var taken *addressTaken
	if errors.As(err, &taken) {
		w.stays = s.Declared.Hash
		w.log().Warn("what has failed cannot be rolled back by itself", "release", s.Declared.Release, "err", err)
		return nil
	}
	return err
}

// loadGood finds what is to be rolled back to when what is declared has failed for
// good: the last state that was good to its end, and whose bytes are there.
func (rc *Reconciler) loadGood(s *snapshot) error {
	if !s.Observed.RollBack || s.Leaving || s.Declared == nil || s.Declared.Removal {
		return nil
	}
	all, err := record.History(s.repo, s.application, s.environment, maxHistory)
	if err != nil {
		return err
	}
	if good, ok := lastGood(all); ok && rc.available(good.Artifacts) == nil {
		s.good, s.Good = good, good.Hash
	}
	return nil
}

// lastGood is the newest commit in history that may be rolled back to, and was not
// rolled back since.
func lastGood(all []record.Commit) (good record.Commit, ok bool) {
	undone := map[repo.Hash]bool{} // good to its end, and yet not good enough
	for _, d := range all {
		if d.Rollback != nil {
			undone[d.Rollback.Of] = true
		}
		if mayRollback(all[0], d) == "" && !undone[d.Hash] {
			return d, true
		}
	}
	return record.Commit{}, false
}

// rollbackTo finds the newest commit of a release in history that may be rolled
// back to. all is newest first; the first is what is declared now.
func rollbackTo(s *snapshot, all []record.Commit, release int) (record.Commit, error) {
	repository, environment := s.repo.Name(), s.environment
	if len(all) == 0 {
		return record.Commit{}, &show.Error{Kind: show.Denied,
			What: fmt.Sprintf("nothing was ever promoted to %s of %s", environment, repository)}
	}
	good, _ := lastGood(all)
	last := good.Release
	e := &show.Error{Kind: show.Usage}
	if last == 0 {
		e.Where = []string{"no earlier release was healthy to the end in " + environment}
		e.Hint = "go forward: push a change that fixes it"
	} else {
		e.Command = fmt.Sprintf("rollback %s %s %d", repository, environment, last)
	}
	if release == 0 {
		e.What = "say which release"
		if last != 0 {
			e.What += fmt.Sprintf("; the last healthy one is %d", last)
		}
		return record.Commit{}, e
	}
	e.Kind = show.Denied
	why := ""
	for _, d := range all {
		if d.Release != release && d.Covers() != release {
			continue
		}
		bar := mayRollback(all[0], d)
		if bar == "" {
			return d, nil
		}
		if why == "" {
			why = bar.explain(d)
		}
	}
	if _, released := s.release(release); released && release > all[0].Covers() {
		e.Hint, e.Command = "go forward", fmt.Sprintf("promote %s %s %d", repository, environment, release)
		if s.Proposal != nil && s.Proposal.Release == release {
			e.Command = fmt.Sprintf("approve %s %s", repository, environment)
		}
	}
	if why == "" {
		e.What = fmt.Sprintf("release %d never ran in %s of %s", release, environment, repository)
	} else {
		e.What = fmt.Sprintf("%s cannot be rolled back to release %d: %s", environment, release, why)
	}
	return record.Commit{}, e
}

// barrier is why an environment cannot be rolled back to a commit of its branch.
type barrier string

// The barriers; the zero barrier is none.
const (
	declaredNow barrier = "declared now"
	sameRelease barrier = "same release"
	newer       barrier = "newer"
	failedOnce  barrier = "failed"
	silent      barrier = "silent"
	neverGood   barrier = "never healthy"
	notAtTheEnd barrier = "not healthy at the end"
)

// mayRollback says whether commit d of an environment's branch can be rolled
// back to while now is declared.
func mayRollback(now, d record.Commit) barrier {
	switch o := d.Outcome; {
	case d.Hash == now.Hash:
		return declaredNow
	case d.Release == now.Release:
		return sameRelease
	case d.Release > now.Release:
		return newer
	case o.Good():
		return ""
	case !o.FailedAt.IsZero():
		return failedOnce
	case o.State == target.Unknown:
		return silent
	case o.State == "" || o.State == target.Converging: // the latter in older notes
		return neverGood
	}
	return notAtTheEnd
}

// explain says it of a commit.
func (b barrier) explain(d record.Commit) string {
	switch b {
	case "":
		return ""
	case declaredNow:
		return "it is what is declared now"
	case sameRelease:
		return "the same release is declared now"
	case newer:
		return "it is newer than what is declared now, and going forward is a promotion"
	case failedOnce:
		return "it failed at " + show.Clock(d.Outcome.FailedAt)
	case silent:
		return "nothing is known of how it went"
	case neverGood:
		return "it was never seen healthy"
	}
	return fmt.Sprintf("it was %s at the end", d.Outcome.State)
}
