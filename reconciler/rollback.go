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
func (rc *Reconciler) Rollback(ctx context.Context, repository, environment string, release int, by access.Identity, reason string) (RolledBack, error) {
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
		done, err = w.rollback(ctx, release, by, terminal.Message(strings.Join(strings.Fields(reason), " "), 1000))
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
	if err := w.rc.evaluateRollback(ctx, s, good, by, reason); err != nil {
		return RolledBack{}, err
	}
	saved, err := w.save(ctx, s.evaluated)
	if err != nil {
		return RolledBack{}, err
	}
	place, err := decision.Place(w.repo, saved)
	if err != nil {
		return RolledBack{}, err
	}
	if s.evaluated.Decision != policies.Auto {
		return RolledBack{}, &show.Error{Kind: show.Denied,
			What:  fmt.Sprintf("policy does not allow rolling %s back to release %d", w.environment, good.Release),
			Where: s.evaluated.open(), Command: "why " + s.repo.Name() + " " + w.environment}
	}
	hold := record.Hold{By: by.User, At: s.Now.UTC(), Reason: reason}
	tree, err := record.Restore(w.repo, s.Declared.Tree, good.Tree, s.application, hold)
	if err != nil {
		return RolledBack{}, err
	}
	p := record.Promotion{
		ID:        record.PromotionID(s.application, w.environment, s.Declared.Hash, tree),
		Release:   good.Release,
		Source:    good.Source,
		Path:      good.Path,
		Artifacts: good.Artifacts,
		Policy:    s.evaluated.Policy,
		Decision:  record.Decision{Decision: s.evaluated.Decision, Commit: saved, Place: place},
		Rollback:  &record.Rollback{Of: s.Declared.Hash, Restores: good.Hash, By: by.User, Reason: reason},
	}
	commit, err := w.repo.WriteCommit(repo.NewCommit{
		Tree:    tree,
		Parents: record.Parents(s.Declared.Hash),
		At:      s.Now,
		Message: p.Message(s.application, w.environment),
	})
	if err != nil {
		return RolledBack{}, err
	}
	crash.Point("rollback.before-environment-moved")
	var taken *addressTaken
	switch err := w.declare(ctx, s, tree, commit); {
	case errors.As(err, &taken):
		return RolledBack{}, &show.Error{
			Kind:    show.Denied,
			What:    fmt.Sprintf("%s cannot be rolled back to release %d: %v", w.environment, good.Release, taken),
			Where:   []string{"nothing has moved"},
			Hint:    "choose another",
			Command: "env log " + s.repo.Name() + " " + w.environment,
		}
	case errors.Is(err, repo.ErrMoved):
		return RolledBack{}, &show.Error{Kind: show.Again, What: w.environment + " has just changed", Hint: "look at it and roll back again"}
	case err != nil:
		return RolledBack{}, err
	}
	crash.Point("rollback.environment-moved")
	w.log().Info("rolled back", "release", good.Release, "commit", commit.String(), "by", by.User)
	if _, err := w.settle(ctx); err != nil {
		// The rollback stands in Git; the loop goes on converging to it.
		w.log().Error("could not act on the rollback at once", "err", err)
	}
	return RolledBack{From: s.Declared.Release, To: good.Release, Commit: commit, Restores: good.Hash}, nil
}

// rollbackTo finds the newest commit of a release in history that may be rolled
// back to. all is newest first; the first is what is declared now.
func rollbackTo(s *snapshot, all []record.Commit, release int) (record.Commit, error) {
	repository, environment := s.repo.Name(), s.environment
	if len(all) == 0 {
		return record.Commit{}, &show.Error{Kind: show.Denied, What: fmt.Sprintf("nothing was ever promoted to %s of %s", environment, repository)}
	}
	last := 0
	undone := map[repo.Hash]bool{} // rolled back since: good to its end, and yet not good enough
	for _, d := range all {
		if d.Rollback != nil {
			undone[d.Rollback.Of] = true
		}
		if mayRollback(all[0], d) == "" && !undone[d.Hash] {
			last = d.Release
			break
		}
	}
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
		if bar == newer {
			e.Hint, e.Command = "go forward", fmt.Sprintf("approve %s %s", repository, environment)
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
		return "it failed at " + clock(d.Outcome.FailedAt)
	case silent:
		return "nothing is known of how it went"
	case neverGood:
		return "it was never seen healthy"
	}
	return fmt.Sprintf("it was %s at the end", d.Outcome.State)
}
