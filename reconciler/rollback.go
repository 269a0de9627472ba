package reconciler

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/go-git/go-git/v5/plumbing/filemode"

	"github.com/headgate-cd/headgate/gitd/crash"
	"github.com/headgate-cd/headgate/gitd/repo"
	"github.com/headgate-cd/headgate/gitd/show"
	"github.com/headgate-cd/headgate/gitd/terminal"
	"github.com/headgate-cd/headgate/policies"
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
func (rc *Reconciler) Rollback(ctx context.Context, repository, environment string, release int, by show.Actor, reason string) (RolledBack, error) {
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

func (w *worker) rollback(ctx context.Context, release int, by show.Actor, reason string) (RolledBack, error) {
	s, err := w.rc.look(ctx, w.repo, w.environment)
	if err != nil {
		return RolledBack{}, err
	}
	if err := w.rc.mayWrite(s, by, "roll back"); err != nil {
		return RolledBack{}, err
	}
	all, err := w.rc.history(w.repo, w.environment, maxHistory)
	if err != nil {
		return RolledBack{}, err
	}
	good, err := rollbackTo(s, all, release)
	if err != nil {
		return RolledBack{}, err
	}
	if err := w.rc.ask(ctx, s, &rollbackTarget{to: good, by: by}); err != nil {
		return RolledBack{}, err
	}
	saved, err := w.save(ctx, s.asked)
	if err != nil {
		return RolledBack{}, err
	}
	if s.Answer.Decision != policies.Auto {
		return RolledBack{}, &show.Error{Kind: show.Denied,
			What:  fmt.Sprintf("policy does not allow rolling %s back to release %d", w.environment, good.Release),
			Where: s.asked.open(), Hint: "why " + s.app + " " + w.environment}
	}
	hold, err := json.MarshalIndent(Hold{By: by.Name, At: s.Now.UTC(), Reason: reason}, "", "  ")
	if err != nil {
		return RolledBack{}, err
	}
	blob := repo.Blob(append(hold, '\n'))
	if err := w.repo.Write(blob); err != nil {
		return RolledBack{}, err
	}
	apps, err := w.repo.Lookup(good.Tree, appPath(s.app))
	if err != nil {
		return RolledBack{}, err
	}
	tree, err := w.repo.TreeWith(s.declared.Tree, map[string]repo.Edit{
		appPath(s.app):  {Mode: dirMode, Hash: apps.Hash},
		holdPath(s.app): {Mode: filemode.Regular, Hash: blob.Hash()},
	})
	if err != nil {
		return RolledBack{}, err
	}
	p := Promotion{Release: good.Release, Source: good.Source, Path: good.Path, Artifacts: good.Artifacts,
		RollbackOf: s.declared.Commit, Restores: good.Commit, By: by.Name, Reason: reason,
		Hold: s.app + " until promoted forward", Policy: s.asked.Policy, Decision: decisionTrailer(s.asked, saved),
		ID: promotionID(s.app, w.environment, s.declared.Commit, tree)}
	commit, err := w.repo.WriteCommit(repo.NewCommit{Tree: tree, Parents: parents(s.declared.Commit), At: s.Now, Message: p.message(s.app, w.environment)})
	if err != nil {
		return RolledBack{}, err
	}
	crash.Point("rollback.before-environment-moved")
	switch err := w.repo.Move(ctx, EnvironmentRef(w.environment), s.declared.Commit, commit); {
	case errors.Is(err, repo.ErrMoved):
		return RolledBack{}, &show.Error{Kind: show.Again, What: w.environment + " has just changed", Hint: "look at it and roll back again"}
	case err != nil:
		return RolledBack{}, err
	}
	crash.Point("rollback.environment-moved")
	w.log().Info("rolled back", "release", good.Release, "commit", commit.String(), "by", by.Name)
	if _, err := w.settle(ctx); err != nil {
		// The rollback stands in Git; the loop goes on converging to it.
		w.log().Error("could not act on the rollback at once", "err", err)
	}
	return RolledBack{From: s.declared.Release, To: good.Release, Commit: commit, Restores: good.Commit}, nil
}

// rollbackTo finds the newest commit of a release in history that may be rolled
// back to. all is newest first; the first is what is declared now.
func rollbackTo(s *sight, all []declaration, release int) (declaration, error) {
	app, environment := s.app, s.environment
	if len(all) == 0 {
		return declaration{}, &show.Error{Kind: show.Denied, What: fmt.Sprintf("nothing was ever promoted to %s of %s", environment, app)}
	}
	last := 0
	for _, d := range all[1:] {
		if ok, _ := mayRollback(all[0], d); ok {
			last = d.Release
			break
		}
	}
	e := &show.Error{Kind: show.Usage}
	if last == 0 {
		e.Where = []string{"no earlier release was healthy to the end in " + environment}
		e.Hint = "repair it forward: push a change that mends it"
	} else {
		e.Hint = fmt.Sprintf("rollback %s %s %d", app, environment, last)
	}
	if release == 0 {
		e.What = "say which release"
		if last != 0 {
			e.What += fmt.Sprintf("; the last healthy one is %d", last)
		}
		return declaration{}, e
	}
	e.Kind = show.Denied
	why := ""
	for _, d := range all {
		if d.Release != release && d.Outcome.covers(d.Release) != release {
			continue
		}
		ok, whyNot := mayRollback(all[0], d)
		if ok {
			return d, nil
		}
		if why == "" {
			why = whyNot
		}
	}
	if why == "" {
		e.What = fmt.Sprintf("release %d never ran in %s of %s", release, environment, app)
	} else {
		e.What = fmt.Sprintf("%s cannot be rolled back to release %d: %s", environment, release, why)
	}
	return declaration{}, e
}

// mayRollback says whether commit d of an environment's branch can be rolled
// back to while now is declared.
func mayRollback(now, d declaration) (ok bool, whyNot string) {
	if d.Commit == now.Commit {
		return false, "it is what is declared now"
	}
	if d.Release == now.Release {
		return false, "the same release is declared now"
	}
	return d.Outcome.good()
}
