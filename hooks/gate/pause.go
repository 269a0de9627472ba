package gate

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/headgate-cd/headgate/gitd/access"
	"github.com/headgate-cd/headgate/gitd/crash"
	"github.com/headgate-cd/headgate/gitd/decision"
	"github.com/headgate-cd/headgate/gitd/repo"
	"github.com/headgate-cd/headgate/gitd/show"
	"github.com/headgate-cd/headgate/gitd/terminal"
	"github.com/headgate-cd/headgate/hooks/change"
)

// Somebody can let nothing land on a branch until it is resumed. What is pushed
// meanwhile is taken and built, and waits. Each is a signed commit of the branch's
// line of pauses and resumptions, of which the newest counts.

// pauses holds the lines, by branch.
const pauses = decision.Landings

// What a commit of such a line says.
const (
	keyLanding = "Landing"
	keyBranch  = "Branch"
	keyBy      = "By"
	keyVia     = "Via"
	keyReason  = "Reason"

	landingPaused  = "paused"
	landingResumed = "resumed"
)

// Paused are the branches of a repository on which nothing lands.
func (g *Gate) Paused(repository string) ([]show.Pause, error) {
	r, err := g.c.Store.Repository(repository)
	if err != nil {
		return nil, err
	}
	refs, err := r.Refs(pauses)
	var all []show.Pause
	for _, ref := range refs {
		if p, err := pauseAt(r, ref); err != nil {
			return all, err
		} else if p != nil {
			all = append(all, *p)
		}
	}
	return all, err
}

// pauseOf is the pause of a branch, nil without one.
func pauseOf(r *repo.Repository, branch string) (*show.Pause, error) {
	tip, err := r.Ref(pauses + branch)
	if err != nil || tip == repo.Zero {
		return nil, err
	}
	return pauseAt(r, repo.Ref{Name: pauses + branch, Hash: tip})
}

// pauseAt reads the tip of a line. One that cannot be read pauses: it says so.
func pauseAt(r *repo.Repository, tip repo.Ref) (*show.Pause, error) {
	c, err := r.Commit(tip.Hash)
	if err != nil {
		return nil, fmt.Errorf("read whether landing is paused: %w", err)
	}
	said := func(key string) string { return repo.TrailerValue(c.Message, key) }
	if said(keyLanding) == landingResumed {
		return nil, nil
	}
	p := &show.Pause{
		Branch: strings.TrimPrefix(tip.Name, pauses),
		By:     said(keyBy),
		At:     c.Committer.When.UTC(),
		Via:    said(keyVia),
	}
	p.Reason, _ = strconv.Unquote(said(keyReason)) // what does not read as one says nothing
	return p, nil
}

// Pause lets nothing land on a branch, "" for the one that releases come from, until
// Resume. When it returns nil that is durable, and no landing is under way. already
// reports that it was paused before, which stays as it was.
func (g *Gate) Pause(ctx context.Context, repository, branch string, by access.Identity,
	reason string) (p show.Pause, already bool, err error) {
	l, branch, err := g.pausable(ctx, repository, branch, by, "pause")
	if err != nil {
		return p, false, err
	}
	// While this is held no landing is under way: see move.
	l.proposing.Lock()
	defer l.proposing.Unlock()
	was, err := pauseOf(l.r, branch)
	if err != nil {
		return p, false, err
	}
	if was != nil {
		return *was, true, nil
	}
	reason = strings.Join(strings.Fields(terminal.Message(reason, 1000)), " ")
	subject := fmt.Sprintf("%s paused landing on %s", by.User, branch)
	p = show.Pause{Branch: branch, By: by.User, At: l.g.c.Now().UTC().Truncate(time.Second), Via: string(by.Via),
		Reason: reason}
	err = l.notePause(ctx, p, landingPaused, subject)
	return p, false, err
}

// Resume lets changes land on a branch again. It returns the pause that it ended; nil
// when there was none.
func (g *Gate) Resume(ctx context.Context, repository, branch string, by access.Identity,
	reason string) (ended *show.Pause, of string, err error) {
	l, branch, err := g.pausable(ctx, repository, branch, by, "resume")
	if err != nil {
		return nil, branch, err
	}
	l.proposing.Lock()
	defer l.proposing.Unlock()
	was, err := pauseOf(l.r, branch)
	if err != nil || was == nil {
		return nil, branch, err
	}
	reason = strings.Join(strings.Fields(terminal.Message(reason, 1000)), " ")
	p := show.Pause{Branch: branch, By: by.User, At: l.g.c.Now().UTC().Truncate(time.Second), Via: string(by.Via),
		Reason: reason}
	err = l.notePause(ctx, p, landingResumed, fmt.Sprintf("%s resumed landing on %s", by.User, branch))
	return was, branch, err
}

// pausable is the loop of a repository and the branch that is meant, for somebody who
// may pause and resume it.
func (g *Gate) pausable(ctx context.Context, repository, branch string, by access.Identity,
	what string) (*loop, string, error) {
	l, err := g.loop(repository)
	if err != nil {
		return nil, branch, err
	}
	if err := l.load(ctx); err != nil {
		return nil, branch, err
	}
	main := g.Branch(repository)
	if branch == "" {
		branch = main
	}
	config := g.c.Access()
	switch {
	case repository == Own:
		return nil, branch, &show.Error{Kind: show.Denied,
			What: "the server's own configuration cannot be paused: commands wait for it to land"}
	case !config.May(by, access.Write, repository):
		return nil, branch, &show.Error{
			Kind: show.Forbidden,
			What: fmt.Sprintf("%s may not %s landing in %s", by.User, what, repository),
			Hint: "ask somebody who may write " + repository,
		}
	case !config.Gated(repository):
		return nil, branch, &show.Error{Kind: show.Denied,
			What: repository + " is not gated: nothing lands there that could be paused"}
	}
	if branch == main {
		return l, branch, nil
	}
	tree := repo.Zero
	tip, err := l.r.Ref("refs/heads/" + main)
	if err == nil && tip != repo.Zero {
		tree, err = l.r.TreeOf(tip)
	}
	if err != nil {
		return nil, branch, err
	}
	file, err := fileIn(l.r, tree)
	if err != nil {
		return nil, branch, err
	}
	if !file.Gates(branch) {
		return nil, branch, &show.Error{
			Kind: show.NotFound,
			What: fmt.Sprintf("%q is not a gated branch of %s", branch, repository),
			Hint: "its gated branches are " + strings.Join(file.Land.Branches, ", "),
		}
	}
	return l, branch, nil
}

// notePause adds to the line of a branch, with l.proposing held.
func (l *loop) notePause(ctx context.Context, p show.Pause, what, subject string) error {
	ref := pauses + p.Branch
	old, err := l.r.Ref(ref)
	if err != nil {
		return err
	}
	var parents []repo.Hash
	if old != repo.Zero {
		parents = []repo.Hash{old}
	}
	commit, err := l.r.WriteCommit(repo.NewCommit{
		Parents: parents,
		At:      p.At,
		Message: repo.Message(subject, p.Reason, trailers(
			keyLanding, what,
			keyBranch, p.Branch,
			keyBy, p.By,
			keyVia, p.Via,
			keyReason, strconv.Quote(p.Reason),
		)...),
	})
	if err != nil {
		return err
	}
	crash.Point("pause.before-noted")
	if err := l.r.Move(ctx, ref, old, commit); err != nil {
		return err
	}
	crash.Point("pause.noted")
	l.slog.Info("landing "+what, "ref", p.Branch, "user", p.By, "reason", p.Reason)
	l.mailbox.Wake()
	return nil
}

// errPaused is that landing on a branch was paused when a change was about to land.
var errPaused = errors.New("landing is paused")

// waitWhilePaused lets a green change wait until its branch is resumed.
func (l *loop) waitWhilePaused(ctx context.Context, c *candidate, o *open, p *show.Pause) {
	o.waiting = &waiting{reason: p.String(),
		hint: "it lands when somebody resumes: repo resume " + l.r.Name() + " " + p.Branch, paused: true}
	l.noteWait(ctx, o, change.Facts{
		Candidate: c.commit,
		Tree:      c.tree,
		Cause:     change.LandingPaused,
		Reason:    o.waiting.reason,
		Hint:      o.waiting.hint,
	})
}
