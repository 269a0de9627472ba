package gate

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/go-git/go-git/v5/plumbing/object"

	"github.com/headgate-cd/headgate/gitd/access"
	"github.com/headgate-cd/headgate/gitd/crash"
	"github.com/headgate-cd/headgate/gitd/repo"
	"github.com/headgate-cd/headgate/gitd/show"
	"github.com/headgate-cd/headgate/hooks/change"
)

// maxOpen bounds the open changes of one repository.
const maxOpen = 1000

// Propose takes a push into the queue. When it returns nil the change is
// durable: nothing short of losing the disk loses it. Rules, the first that
// fits:
//
//   - the same commit is open for the same branch: the caller is attached to it
//   - option change=<n>: a new revision of that open change of the same user
//   - it is plainly a new version of an open change of the same user to the same
//     branch: a new revision of it (of the newest, if several). See isVersion
//   - otherwise a new change
//
// A commit that the branch holds already is attached to the change that brought
// it; if none did, it is refused: there is nothing to land. Errors for the
// pusher are *show.Error.
func (g *Gate) Propose(ctx context.Context, p Proposal) (Accepted, error) {
	l, err := g.loop(p.Repository)
	if err != nil {
		return Accepted{}, err
	}
	if err := l.load(ctx); err != nil {
		return Accepted{}, err
	}
	if p.By.User == "" {
		return Accepted{}, &show.Error{Kind: show.Forbidden, What: "nobody may propose a change without a name"}
	}
	g.mu.Lock()
	closed := g.closed
	g.mu.Unlock()
	if closed {
		return Accepted{}, errRestarting()
	}
	l.proposing.Lock()
	defer l.proposing.Unlock()
	for {
		a, err := l.propose(ctx, p)
		if err == nil {
			// What cannot be read now is told when its turn comes.
			a.Paused, _ = pauseOf(l.r, p.Branch)
		}
		if !isMoved(err) {
			return a, err
		}
		// The change came to its end as its new revision came in: look again.
	}
}

// propose is Propose with l.proposing held, once.
func (l *loop) propose(ctx context.Context, p Proposal) (Accepted, error) {
	mine, same, err := l.openFor(p)
	if err != nil {
		return Accepted{}, err
	}
	if same != nil {
		return attached(*same), nil
	}
	if s, err := l.heldAlready(ctx, p); s != nil || err != nil {
		if err != nil {
			return Accepted{}, err
		}
		return attached(*s), nil
	}
	target, err := l.reviseTarget(ctx, p, mine)
	if err != nil {
		return Accepted{}, err
	}
	if err := ctx.Err(); err != nil {
		return Accepted{}, err
	}
	ctx = context.WithoutCancel(ctx) // from here on it is accepted, client or no client
	at := l.g.c.Now()
	push := change.Push{
		Branch: p.Branch, Commit: p.Commit, By: p.By.User, Key: p.Key, Via: string(p.By.Via),
		Options: p.Options, Decision: p.Decision, At: at,
	}
	var s change.Change
	if target != nil {
		s, err = l.log.Revise(ctx, *target, push)
	} else {
		if n := l.opened.count(); n >= maxOpen {
			return Accepted{}, &show.Error{
				Kind: show.Again, What: fmt.Sprintf("%d changes are open in %s, which is the limit", n, p.Repository),
				Hint: "withdraw old ones", Command: "change cancel " + p.Repository + " <change>",
			}
		}
		s, err = l.log.Open(ctx, push)
	}
	if err != nil {
		return Accepted{}, err
	}
	l.accept(s, at)
	a := Accepted{Change: s.Number, Revision: s.Head().Number, PushedAt: at}
	for _, other := range mine {
		if other.Number != s.Number {
			a.Others = append(a.Others, other.Number)
		}
	}
	return a, nil
}

func attached(s change.Change) Accepted {
	return Accepted{Change: s.Number, Revision: s.Head().Number, Attached: true, PushedAt: s.Head().At}
}

// accept begins to follow a new revision and tells the loop.
func (l *loop) accept(s change.Change, at time.Time) {
	l.opened.add(s.Number)
	if earlier := l.progress.begin(s.Number); earlier != nil {
		earlier.add(Progress{
			At: at, Kind: Withdrawn, Change: s.Number, Revision: s.Head().Number - 1, Branch: s.Branch,
			Reason: fmt.Sprintf("revision %d took its place", s.Head().Number),
			Short:  fmt.Sprintf("replaced by revision %d", s.Head().Number),
		})
	}
	l.mailbox.Post(func() { l.enqueue(s, at) })
}

// openFor finds the open changes of the pusher to the branch, and the open one
// that has the very commit, whoever pushed it.
func (l *loop) openFor(p Proposal) (mine []change.Change, same *change.Change, err error) {
	for _, n := range l.opened.list() {
		s, err := l.log.Read(n)
		if err != nil {
			return nil, nil, err
		}
		if !s.Open() || s.Branch != p.Branch {
			continue
		}
		if s.Head().Commit == p.Commit {
			return nil, &s, nil
		}
		if s.Revisions[0].By == p.By.User {
			mine = append(mine, s)
		}
	}
	return mine, nil, nil
}

// heldAlready looks whether the branch holds the commit, and which change
// brought it.
func (l *loop) heldAlready(ctx context.Context, p Proposal) (*change.Change, error) {
	tip, err := l.r.Ref("refs/heads/" + p.Branch)
	if err != nil || tip == repo.Zero {
		return nil, err
	}
	held, err := l.contains(ctx, tip, p.Commit)
	if err != nil || !held {
		return nil, err
	}
	landed := func(of change.Summary) bool {
		return of.Ended && of.Landed && of.Branch == p.Branch && of.Head == p.Commit
	}
	for s, err := range l.log.Find(landed) {
		if err != nil {
			return nil, err
		}
		if e, _ := s.End(); e.Kind == change.Landed {
			return &s, nil
		}
	}
	return nil, &show.Error{
		Kind: show.Denied, What: fmt.Sprintf("%s holds %s already: there is nothing to land", p.Branch,
			p.Commit.String()[:7]),
		Hint: "git pull",
	}
}

// reviseTarget is the change that a proposal is a new revision of, nil for none.
func (l *loop) reviseTarget(ctx context.Context, p Proposal, mine []change.Change) (*change.Change, error) {
	if value, given := (change.Revision{Options: p.Options}).Option("change"); given {
		n, _ := strconv.Atoi(value)
		for _, s := range mine {
			if s.Number == n {
				return &s, nil
			}
		}
		return nil, &show.Error{
			Kind: show.Denied, What: fmt.Sprintf("change %s is not an open change of %s to %s", value, p.By.User, p.Branch),
			Hint: "leave out -o change=" + value + " to open a new change",
		}
	}
	for _, s := range slices.Backward(mine) {
		if is, err := l.isVersion(ctx, p.Commit, s.Head().Commit); is || err != nil {
			return &s, err
		}
	}
	return nil, nil
}

// changeID is the trailer that keeps its value in all versions of a change.
const changeID = "Change-Id"

// isVersion reports whether a commit is plainly a new version of another: both have
// the same Change-Id; or one is an ancestor of the other; or it is the other one
// amended, with the same parents, author and author's time, and committed later
// than written.
func (l *loop) isVersion(ctx context.Context, commit, of repo.Hash) (bool, error) {
	a, err := l.r.Commit(commit)
	if err != nil {
		return false, err
	}
	b, err := l.r.Commit(of)
	if err != nil {
		return false, err
	}
	if known, same := SaysVersion(a, b); known {
		return same, nil
	}
	for _, pair := range [][2]repo.Hash{{commit, of}, {of, commit}} {
		if descends, err := l.contains(ctx, pair[0], pair[1]); descends || err != nil {
			return descends, err
		}
	}
	return false, nil
}

// SaysVersion reports what two commits themselves say of whether one is a new version of
// the other; known is false when that is nothing.
func SaysVersion(a, of *object.Commit) (known, same bool) {
	if x, y := repo.TrailerValue(a.Message, changeID), repo.TrailerValue(of.Message, changeID); x != "" && y != "" {
		return true, x == y
	}
	amended := slices.Equal(a.ParentHashes, of.ParentHashes) && a.Author.Name == of.Author.Name &&
		a.Author.Email == of.Author.Email && a.Author.When.Equal(of.Author.When) &&
		a.Committer.When.After(a.Author.When)
	return amended, amended
}

// Withdraw takes an open change out of the queue. The one who pushed it may, and
// an administrator. When it returns nil the change will not land.
func (g *Gate) Withdraw(ctx context.Context, repository string, number int, by access.Identity) error {
	l, err := g.loop(repository)
	if err != nil {
		return err
	}
	if err := l.load(ctx); err != nil {
		return err
	}
	// While this is held no landing is under way: see land.
	l.proposing.Lock()
	defer l.proposing.Unlock()
	s, err := l.log.Read(number)
	if err != nil {
		return &show.Error{Kind: show.NotFound, What: fmt.Sprintf("there is no change %d in %s", number, repository),
			Hint: "see them", Command: "change list " + repository}
	}
	own := by.User == s.Revisions[0].By && by.Scope.Allows(access.Write, repository)
	if !own && !g.c.Access().May(by, access.Administer, repository) {
		return &show.Error{Kind: show.Forbidden, What: fmt.Sprintf("change %d is %s's to withdraw", number,
			s.Revisions[0].By), Hint: "ask " + s.Revisions[0].By + ", or an administrator"}
	}
	withdrawn := by.User + " withdrew it"
	return l.withdraw(ctx, s, by, withdrawn, change.Facts{Reason: withdrawn, Short: "withdrawn by " + by.User})
}

// Replace makes the newest revision of one open change that of another one of the
// same user to the same branch, in the place in the queue that this has, and
// withdraws the first. When it returns nil both are done; a kill in between leaves
// two changes of the same commit, which land as one.
func (g *Gate) Replace(ctx context.Context, repository string, number, with int, by access.Identity,
	decision repo.Hash) (Accepted, error) {
	l, err := g.loop(repository)
	if err != nil {
		return Accepted{}, err
	}
	if err := l.load(ctx); err != nil {
		return Accepted{}, err
	}
	l.proposing.Lock()
	defer l.proposing.Unlock()

	old, err := l.openOf(by, repository, number)
	if err != nil {
		return Accepted{}, err
	}
	other, err := l.openOf(by, repository, with)
	if err != nil {
		return Accepted{}, err
	}
	if number == with || old.Branch != other.Branch {
		return Accepted{}, &show.Error{
			Kind: show.Denied, What: fmt.Sprintf("change %d cannot take the place of change %d", with, number),
			Hint: "choose two open changes to the same branch",
		}
	}
	ctx = context.WithoutCancel(ctx)
	at, head := l.g.c.Now(), other.Head()
	old, err = l.log.Revise(ctx, old, change.Push{
		Branch: old.Branch, Commit: head.Commit, By: by.User, Via: string(by.Via),
		Options: head.Options, Decision: decision, At: at,
	})
	if isMoved(err) {
		return Accepted{}, &show.Error{Kind: show.Again, What: fmt.Sprintf("change %d went on meanwhile", number),
			Hint: "look at it, then do it again"}
	}
	if err != nil {
		return Accepted{}, err
	}
	l.accept(old, at)
	became := fmt.Sprintf("it is revision %d of change %d now", old.Head().Number, number)
	if err := l.withdraw(ctx, other, by, became,
		change.Facts{Reason: became, Short: "now change " + strconv.Itoa(number)}); err != nil {
		return Accepted{}, err
	}
	return Accepted{Change: number, Revision: old.Head().Number, PushedAt: at}, nil
}

// openOf is an open change that somebody has pushed.
func (l *loop) openOf(by access.Identity, repository string, number int) (change.Change, error) {
	s, err := l.log.Read(number)
	switch {
	case err != nil:
		return s, &show.Error{Kind: show.NotFound, What: fmt.Sprintf("there is no change %d in %s", number, repository),
			Hint: "see them", Command: "change list " + repository}
	case s.Revisions[0].By != by.User:
		return s, &show.Error{Kind: show.Forbidden, What: fmt.Sprintf("change %d is %s's", number, s.Revisions[0].By),
			Hint: "ask " + s.Revisions[0].By}
	case !s.Open():
		e, _ := s.End()
		return s, &show.Error{Kind: show.Denied, What: fmt.Sprintf("change %d has ended: %s", number, e.Subject),
			Hint: "see what is open", Command: "change list " + repository}
	}
	return s, nil
}

// withdraw ends an open change, with l.proposing held.
func (l *loop) withdraw(ctx context.Context, s change.Change, by access.Identity, subject string,
	facts change.Facts) error {
	number := s.Number
	for {
		if e, ended := s.End(); ended {
			return &show.Error{Kind: show.Denied, What: fmt.Sprintf("change %d has ended: %s", number, e.Subject),
				Hint: "nothing is left to withdraw"}
		}
		crash.Point("withdraw.asked")
		next, err := l.log.Append(ctx, s, change.Event{
			Kind:    change.Withdrawn,
			At:      l.g.c.Now(),
			By:      by.User,
			Subject: subject,
			Facts:   facts,
		})
		if err == nil {
			s = next
			break
		}
		if !isMoved(err) {
			return err
		}
		if s, err = l.log.Read(number); err != nil {
			return err
		}
	}
	crash.Point("withdraw.noted")
	l.end(s)
	l.mailbox.Post(func() { delete(l.open, number) })
	return nil
}
