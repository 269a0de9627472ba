package gate

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/headgate-cd/headgate/gitd/access"
	"github.com/headgate-cd/headgate/gitd/show"
	"github.com/headgate-cd/headgate/hooks/change"
)

// Options of a revision that comes from a pull or merge request at a forge. They
// mean something in such a revision only: whoever pushes cannot give them.
const (
	OptionLand = "land" // somebody who may write there wants it to land
	OptionHold = "hold" // somebody who may write there wants it not to land yet
	OptionFork = "fork" // it comes from a repository that is not the forge's own
)

// fromForge reports whether a revision comes from a request at a forge, and whether
// an option is given in it.
func fromForge(r change.Revision) bool { return r.Via == string(access.ViaForge) }

func given(r change.Revision, option string) bool {
	_, is := r.Option(option)
	return is
}

// untrusted reports whether nobody who may write has vouched for a revision: its
// build gets what the branch says, and reaches nothing.
func untrusted(r change.Revision) bool {
	return fromForge(r) && given(r, OptionFork) && !given(r, OptionLand)
}

// unasked says why a revision of a request does not land although it is green, ""
// if it does: opening a request asks for a build and no more.
func unasked(r change.Revision) string {
	switch {
	case !fromForge(r):
		return ""
	case given(r, OptionHold):
		return "held at the forge, until somebody who may write there comments /land"
	case !given(r, OptionLand):
		return "it lands when somebody who may write at the forge comments /land"
	}
	return ""
}

// ProposeRequest takes a request at a forge into the queue: as a new change with
// number 0, else as the next revision of that one, which may have ended. Proposing
// what is the newest revision of an open change already changes nothing. Who may is
// the caller's to know. When it returns nil it is durable.
func (g *Gate) ProposeRequest(ctx context.Context, p Proposal, number int) (Accepted, error) {
	l, err := g.loop(p.Repository)
	if err != nil {
		return Accepted{}, err
	}
	if err := l.load(ctx); err != nil {
		return Accepted{}, err
	}
	g.mu.Lock()
	closed := g.closed
	g.mu.Unlock()
	if closed {
		return Accepted{}, errRestarting()
	}
	l.proposing.Lock()
	defer l.proposing.Unlock()

	at := l.g.c.Now()
	push := change.Push{
		Branch:  p.Branch,
		Commit:  p.Commit,
		By:      p.By.User,
		Via:     string(p.By.Via),
		Options: p.Options,
		At:      at,
	}
	var s change.Change
	if number == 0 {
		if n := l.opened.count(); n >= maxOpen {
			return Accepted{}, &show.Error{Kind: show.Again,
				What: fmt.Sprintf("%d changes are open in %s, which is the limit", n, p.Repository)}
		}
		s, err = l.log.Open(ctx, push)
	} else {
		if s, err = l.log.Read(number); err != nil {
			return Accepted{}, err
		}
		if s.Open() && s.Head().Commit == p.Commit && slices.Equal(s.Head().Options, p.Options) {
			return attached(s), nil
		}
		s, err = l.log.Revise(ctx, s, push)
	}
	if err != nil {
		return Accepted{}, err // moved: a landing went on, and the caller looks again
	}
	l.accept(s, at)
	return Accepted{Change: s.Number, Revision: s.Head().Number, PushedAt: at}, nil
}

// EndRequest takes an open change out of the queue whose request at the forge does
// not ask for it any more. One that has ended is left alone; so is one that is about to
// land when its request was merged: a kill may have come between the push to the
// forge and the note of it, and the gate finds that out.
func (g *Gate) EndRequest(ctx context.Context, repository string, number int, by access.Identity, merged bool,
	why string) error {
	l, err := g.loop(repository)
	if err != nil {
		return err
	}
	if err := l.load(ctx); err != nil {
		return err
	}
	l.proposing.Lock()
	defer l.proposing.Unlock()
	s, err := l.log.Read(number)
	if err != nil || !s.Open() {
		return err
	}
	if merged && s.Last().Kind == change.Tested {
		l.mailbox.Wake()
		return nil
	}
	return l.withdraw(ctx, s, by, why, change.Facts{Reason: why, Short: why})
}

// Green reports whether all that a change of a request waits for is to be asked for:
// its newest revision is green as it would land.
func Green(s change.Change) bool {
	e := s.Last()
	return e.Kind == change.Waits && unasked(s.Head()) != "" && e.Reason == unasked(s.Head())
}

// waitForPeople lets a green change of a request wait until it is asked to land.
func (l *loop) waitForPeople(ctx context.Context, c *candidate, o *open, why string) {
	l.wait(ctx, c, o, Answer{Decision: "manual", Reasons: []string{why}}, time.Time{}, o.story.Head().Decision)
}
