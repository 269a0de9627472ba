package reconciler

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/headgate-cd/headgate/gitd/crash"
	"github.com/headgate-cd/headgate/gitd/headgateyaml"
	"github.com/headgate-cd/headgate/gitd/repo"
	"github.com/headgate-cd/headgate/gitd/show"
	"github.com/headgate-cd/headgate/reconciler/record"
)

// An environment is renamed by headgate.yaml, which names the old name under `was`.
// Its line goes on under the new name: one commit on top, with the same content,
// that says so, at env/<new>. That move is all there is to it. The old branch stays
// where it was, so that no record of it is cut; what another line has gone on from
// is not declared by it any more.

// renaming is one commit of a line that renamed its environment.
type renaming struct {
	from string    // the name before
	at   repo.Hash // the commit before
}

// renamings are those of a line, the newest first.
func (rc *Reconciler) renamings(r *repo.Repository, tip repo.Hash) ([]renaming, error) {
	var walked []repo.Hash
	var all []renaming
	at := tip
	for at != repo.Zero {
		if known, ok := rc.renamed.get(r.Name() + " " + at.String()); ok {
			all = known
			break
		}
		walked = append(walked, at)
		c, err := r.Commit(at)
		if err != nil {
			return nil, fmt.Errorf("read how an environment of %s was called: %w", r.Name(), err)
		}
		if at = repo.Zero; len(c.ParentHashes) > 0 {
			at = c.ParentHashes[0]
		}
	}
	for _, commit := range slices.Backward(walked) { // the oldest first
		c, err := r.Commit(commit)
		if err != nil {
			return nil, err
		}
		if p, ok := record.ParsePromotion(c.Message, c.TreeHash); ok && p.Renamed != "" && len(c.ParentHashes) > 0 {
			all = append([]renaming{{p.Renamed, c.ParentHashes[0]}}, all...)
		}
	}
	if tip != repo.Zero {
		rc.renamed.put(r.Name()+" "+tip.String(), all)
	}
	return all, nil
}

// successor is the name that an environment has now: the one whose line has gone on
// from where its own ends. It is "" for one that was not renamed.
func (rc *Reconciler) successor(r *repo.Repository, environment string) (string, error) {
	refs, err := r.Refs(record.EnvironmentRef(""))
	if err != nil {
		return "", err
	}
	tips := map[string]repo.Hash{}
	for _, ref := range refs {
		tips[strings.TrimPrefix(ref.Name, record.EnvironmentRef(""))] = ref.Hash
	}

	now := ""
	for at := environment; ; { // each hop ends nearer to the end of the line
		next := ""
		for name, tip := range tips {
			if name == at || tip == tips[at] {
				continue
			}
			all, err := rc.renamings(r, tip)
			if err != nil {
				return "", err
			}
			if slices.Contains(all, renaming{at, tips[at]}) {
				next = name
				break
			}
		}
		if next == "" || tips[at] == repo.Zero {
			return now, nil
		}
		delete(tips, at)
		now, at = next, next
	}
}

// renames says what an environment of headgate.yaml is to go on from, by its `was`;
// nil when there is nothing, or that was done. why says what keeps it from that.
func (rc *Reconciler) renames(r *repo.Repository,
	e headgateyaml.Environment) (from *record.Commit, why string, err error) {
	if e.Was == "" {
		return nil, "", nil
	}
	application := applicationOf(r, e)
	from, err = record.Tip(r, application, e.Was)
	if err != nil || from == nil || from.Removal {
		return nil, "", err
	}
	switch now, err := rc.successor(r, e.Was); {
	case err != nil:
		return nil, "", err
	case now == e.Name:
		return nil, "", nil
	case now != "":
		return nil, fmt.Sprintf("environment %s is called %s by now", e.Was, now), nil
	}
	mine, err := r.Ref(record.EnvironmentRef(e.Name))
	if err != nil {
		return nil, "", err
	}
	if mine != repo.Zero {
		all, err := rc.renamings(r, from.Hash)
		if err != nil {
			return nil, "", err
		}
		if !slices.Contains(all, renaming{e.Name, mine}) { // else it is called again what it was
			return nil, fmt.Sprintf("environment %s has a history of its own", e.Name), nil
		}
	}
	return from, "", nil
}

// nameNow is the name that an environment has in a headgate.yaml that may know it
// by another one.
func (rc *Reconciler) nameNow(r *repo.Repository, file *headgateyaml.File, name string) (string, error) {
	if _, there := file.Environment(name); there || name == "" {
		return name, nil
	}
	if e, renamed := file.RenamedTo(name); renamed {
		return e.Name, nil
	}
	now, err := rc.successor(r, name)
	if now == "" {
		now = name
	}
	return now, err
}

// settingsIn are the settings of the environment in the headgate.yaml of a landed
// commit, which may know it by a name that it had before.
func (s *snapshot) settingsIn(file *headgateyaml.File) (headgateyaml.Environment, bool) {
	for _, name := range append([]string{s.environment}, s.formerly...) {
		if e, ok := file.Environment(name); ok {
			return e, true
		}
	}
	return s.settings, false
}

// rename lets the environment's branch go on from that of its old name.
func (w *worker) rename(ctx context.Context, s *snapshot) error {
	from := s.Renames
	old, err := w.repo.Ref(record.EnvironmentRef(w.environment))
	if err != nil {
		return err
	}
	// What people rejected stays rejected. This comes first: what follows ends it.
	rejected, err := w.repo.Ref(record.RejectionsRef(s.settings.Was))
	if err != nil {
		return err
	}
	mine, err := w.repo.Ref(record.RejectionsRef(w.environment))
	if err != nil {
		return err
	}
	grows, err := w.repo.Contains(ctx, rejected, mine)
	if err != nil {
		return err
	}
	if rejected != repo.Zero && rejected != mine && grows {
		crash.Point("rename.before-rejections")
		if err := w.repo.Move(ctx, record.RejectionsRef(w.environment), mine, rejected); err != nil {
			return err
		}
		crash.Point("rename.rejections")
	}

	p := from.Promotion
	p.Renamed = s.settings.Was
	p.Rollback, p.Chosen, p.Former, p.Subject = nil, nil, nil, ""
	p.ID = record.PromotionID(s.application, w.environment, from.Hash, from.Tree)
	if p.Sequence, err = w.rc.nextSequence(ctx, w.repo, from.Hash); err != nil {
		return err
	}
	commit, err := w.repo.WriteCommit(repo.NewCommit{
		Tree:    from.Tree,
		Parents: record.Parents(from.Hash),
		At:      s.Now,
		Message: p.Message(s.application, w.environment),
	})
	if err != nil {
		return err
	}
	// Nothing is declared under the old name meanwhile: see declare.
	w.rc.declaring.Lock()
	defer w.rc.declaring.Unlock()
	if now, err := w.repo.Ref(record.EnvironmentRef(s.settings.Was)); err != nil {
		return err
	} else if now != from.Hash {
		return repo.ErrMoved
	}
	crash.Point("rename.before-environment-moved")
	if err := w.repo.Move(ctx, record.EnvironmentRef(w.environment), old, commit); err != nil {
		return err
	}
	crash.Point("rename.environment-moved")
	w.log().Info("renamed", "was", s.settings.Was, "commit", commit.String(), "release", p.Release)
	w.rc.Wake(w.repo.Name()) // it is not what is declared under the old name any more
	return nil
}

// leave ends the work of an environment that has another name now, under which what
// runs goes on: what is proposed under the old one goes.
func (w *worker) leave(ctx context.Context) error {
	w.given = given{}
	open, err := w.repo.Ref(record.ProposalRef(w.environment))
	if err != nil || open == repo.Zero {
		return err
	}
	crash.Point("rename.before-dropped")
	if err := w.repo.Move(ctx, record.ProposalRef(w.environment), open, repo.Zero); err != nil {
		return err
	}
	crash.Point("rename.dropped")
	return nil
}

// calledNow is the error for an environment that has another name now.
func calledNow(repository, environment, now string) error {
	return &show.Error{
		Kind:    show.NotFound,
		What:    fmt.Sprintf("environment %s of %s is called %s now", environment, repository, now),
		Command: fmt.Sprintf("env show %s %s", repository, now),
	}
}
