package gate

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/headgate-cd/headgate/gitd/crash"
	"github.com/headgate-cd/headgate/gitd/decision"
	"github.com/headgate-cd/headgate/gitd/repo"
	"github.com/headgate-cd/headgate/hooks/change"
	"github.com/headgate-cd/headgate/hooks/gate/plan"
	"github.com/headgate-cd/headgate/hooks/release"
	"github.com/headgate-cd/headgate/hooks/verdict"
)

// land lands a candidate: assert, ask, note what is about to happen, swap, note
// that it has. A kill between any two of these is mended by load.
func (l *loop) land(ctx context.Context, c *candidate) {
	o := l.open[c.Changes[0].Change]
	s := o.story
	x := landing{branch: c.Branch, tip: c.base, commit: c.commit, heads: []repo.Hash{s.Head().Commit}}
	v, paths, err := l.assert(ctx, x)
	if a := (*assertion)(nil); errors.As(err, &a) {
		l.stopped(ctx, c, a)
		return
	}
	if err != nil {
		if ctx.Err() == nil {
			l.retryLater(s.Number, "the server could not check it, and tries again", err)
		}
		return
	}
	// Whoever built it now, in another life or for another change: it is reused.
	if p, ok := l.lastShown(s.Number); !ok || p.Kind != Verdict || p.Candidate != c.commit {
		l.board.add(Progress{
			At: l.g.c.Now(), Kind: Verdict, Change: s.Number, Revision: s.Head().Number, Branch: c.Branch, Candidate: c.commit, Tree: c.tree,
			With: c.with(), Log: v.LogName(), Green: true, Reused: true, GreenSince: v.Finished, From: fmt.Sprintf("change %d", v.Change),
		})
	}
	now := l.g.c.Now()
	answer, record, err := l.ask(ctx, Question{
		Repository: l.r,
		Branch:     c.Branch,
		Tip:        c.base,
		Candidate:  c.commit,
		Tree:       c.tree,
		Change:     s,
		Verdict:    v,
		Paths:      paths,
		Now:        now,
	})
	if err != nil {
		if ctx.Err() == nil {
			l.retryLater(s.Number, "its policy could not be asked; the server tries again", err)
		}
		return
	}
	crash.Point("land.decided")
	why := strings.Join(answer.Reasons, "; ")
	switch {
	case answer.Decision == "auto":
		l.swap(ctx, c, o, v, record)
	case answer.Decision == "manual", answer.NotBefore.After(now): // a denial that ends by itself
		l.wait(ctx, c, o, answer, now, record)
	default:
		if why == "" {
			why = fmt.Sprintf("the policy answered %q", answer.Decision)
		}
		l.refuse(ctx, s.Number, change.Event{
			Kind: change.Refused, Subject: "refused by policy: " + why, Body: strings.Join(answer.Missing, "\n"),
			Trailers: trailers("Reason", "policy: "+why, "Short", "policy: "+why, "Hint", answer.Hint, "Decision", record.String(),
				"Candidate", c.commit.String(), "Tree", c.tree.String(), "Log", v.LogName()),
		})
	}
}

// ask asks the land policy and saves what it decided.
func (l *loop) ask(ctx context.Context, q Question) (Answer, repo.Hash, error) {
	a, err := l.g.c.Ask(ctx, q)
	if err != nil {
		return a, repo.Zero, err
	}
	if a.Record.Digest == "" {
		return a, repo.Zero, errors.New("the policy's answer comes without a record")
	}
	saved, err := decision.Save(ctx, l.r, q.Now, a.Record)
	return a, saved, err
}

// swap moves the branch. The tested event before it is the intent, the landed
// event after it the note; no other event of the change comes between.
func (l *loop) swap(ctx context.Context, c *candidate, o *open, v verdict.Verdict, record repo.Hash) {
	number := o.story.Number
	s, err := l.move(ctx, c, o, v, record)
	if err != nil {
		switch {
		case ctx.Err() != nil:
		case isMoved(err): // the branch or the change went on meanwhile: plan anew
			delete(l.made, c.ID())
			if s, err := l.log.Read(number); err == nil {
				o.story = s
				if !s.Open() {
					delete(l.open, number)
				}
			}
		default:
			l.retryLater(number, "the server could not land it, and tries again", err)
		}
		return
	}
	delete(l.open, number)
	l.slog.Info("change landed", "change", number, "ref", c.Branch, "commit", c.commit.String())
	l.release(ctx, s)
	if l.g.c.Landed != nil {
		l.g.c.Landed(ctx, l.r.Name())
	}
	l.opened.remove(number)
	e, _ := s.Landing()
	p := l.ending(s, e)
	p.At = l.g.c.Now()
	p.Took = p.At.Sub(o.pushed)
	p.Tree = c.tree
	l.board.add(p)
}

func (l *loop) move(ctx context.Context, c *candidate, o *open, v verdict.Verdict, record repo.Hash) (change.Story, error) {
	l.proposing.Lock()
	defer l.proposing.Unlock()
	s := o.story
	now := l.g.c.Now()
	subject, took := fmt.Sprintf("tested %s: green", c.with()), v.Finished.Sub(v.Started).String()
	if v.Candidate != c.commit.String() {
		took = "" // it took none
		subject += fmt.Sprintf(" since %s (change %d)", v.Finished.UTC().Format("2006-01-02 15:04 UTC"), v.Change)
	}
	var err error
	if e := s.Last(); e.Kind != change.Tested || e.Hash("Candidate") != c.commit || e.Hash("Base") != c.base {
		s, err = l.log.Append(ctx, s, change.Event{Kind: change.Tested, At: now, Subject: subject, Trailers: trailers(
			"Candidate", c.commit.String(), "Base", c.base.String(), "Tree", c.tree.String(), "Verdict", v.Key,
			"Decision", record.String(), "Log", v.LogName(), "Took", took,
		)})
		if err != nil {
			return s, err
		}
		o.story = s
	} else if at, err := l.r.Ref(change.Ref(s.Number)); err != nil || at != s.Tip {
		return s, errors.Join(err, repo.ErrMoved)
	}
	crash.Point("land.tested")
	if err := l.r.Move(ctx, "refs/heads/"+c.Branch, c.base, c.commit); err != nil {
		return s, err
	}
	crash.Point("land.moved")
	// From here on it has landed, whatever happens: the note is mended at start.
	s, err = l.noteLanded(context.WithoutCancel(ctx), s)
	if err != nil {
		return s, err
	}
	crash.Point("land.noted")
	return s, nil
}

// noteLanded appends the landed event that a tested event announced.
func (l *loop) noteLanded(ctx context.Context, s change.Story) (change.Story, error) {
	e := s.Last()
	commit, head := e.Hash("Candidate"), s.Head()
	subject := fmt.Sprintf("landed on %s as %s", s.Branch, short(commit))
	event := change.Event{Kind: change.Landed, At: l.g.c.Now(), Subject: subject, Trailers: trailers(
		"Old", e.Get("Base"), "New", commit.String(), "Tree", e.Get("Tree"), "Verdict", e.Get("Verdict"), "Log", e.Get("Log"),
	)}
	if commit != head.Commit {
		hint := fmt.Sprintf("%s had moved, so a merge landed; git pull fast-forwards", s.Branch)
		event.Trailers = append(event.Trailers, repo.Trailer{Key: "Hint", Value: hint})
	}
	return l.log.Append(ctx, s, event)
}

// stopped ends a change for which an assertion failed. Nothing has moved.
func (l *loop) stopped(ctx context.Context, c *candidate, a *assertion) {
	number := c.Changes[0].Change
	id := fmt.Sprintf("gate-%s-%d-%s", l.r.Name(), number, l.g.c.Now().UTC().Format("20060102T150405"))
	l.slog.Error("gate stopped a landing: an assertion failed", "id", id, "change", number, "ref", c.Branch, "commit", c.commit.String(), "assertion", a.name, "err", a)
	l.refuse(ctx, number, change.Event{
		Kind: change.Refused, Subject: "stopped by the gate itself: assertion " + a.name + ", " + id,
		Trailers: trailers("Reason", fmt.Sprintf("the gate stopped it before anything moved (assertion %s, %s): a fault of the server, not of the change", a.name, id),
			"Short", "stopped by the gate, "+id, "Hint", "tell the administrator "+id+"; it finds the line in the server's log", "Assertion", a.name,
			"Candidate", c.commit.String()),
	})
}

// refuseFor does what the planner said about a change that will not land.
func (l *loop) refuseFor(ctx context.Context, r plan.Refusal) {
	c := l.made[r.With.Candidate.ID()]
	o := l.open[r.Change.Change]
	if c == nil || o == nil {
		return
	}
	e := change.Event{Kind: change.Refused}
	why, brief, hint, details := "", "", "", []string(nil)
	switch r.Why {
	case plan.Problem:
		p := c.problem
		e.Kind, why, brief, hint, details = p.kind, p.reason, p.short, p.hint, p.details
		if p.kind == change.Landed {
			if l.landedAfterAll(ctx, o) {
				return
			}
			e.Subject = fmt.Sprintf("landed on %s: %s holds it", c.Branch, short(c.base))
			e.Trailers = trailers("In", c.base.String())
		}
	case plan.Red:
		v := c.known.RedFor(c.key, r.Change.Change, r.Change.Revision)
		if v == nil {
			v = c.known.Of(c.key)
		}
		why, brief = reason(*v), reason(*v)
		hint = "mend it, commit and push again"
		took := v.Finished.Sub(v.Started).String()
		if v.Change != r.Change.Change || v.Revision != r.Change.Revision {
			details = append(details, fmt.Sprintf("the identical tree was red at %s, for change %d", v.Finished.UTC().Format("2006-01-02 15:04 UTC"), v.Change))
			hint = "mend it, or have it built again: git push -o rebuild"
			took = ""
		}
		e.Trailers = trailers("Log", v.LogName(), "Verdict", v.Key, "Took", took)
	case plan.Broken:
		why, brief = "its build could not run, so it is not green; "+c.failure, "the build could not run"
		hint = "push again once the server is mended"
		delete(l.failures, c.key)
	}
	if c.base != repo.Zero && e.Kind == change.Refused {
		details = append(details, fmt.Sprintf("%s stays at %s", c.Branch, short(c.base)))
	}
	if e.Subject == "" {
		e.Subject = "refused: " + why
	}
	e.Body = strings.Join(details, "\n")
	e.Trailers = append(e.Trailers, trailers("Reason", why, "Short", brief, "Hint", hint)...)
	if c.commit != repo.Zero {
		e.Trailers = append(e.Trailers, trailers("Candidate", c.commit.String(), "Tree", c.tree.String())...)
	}
	l.refuse(ctx, r.Change.Change, e)
}

// landedAfterAll finishes a landing of which only the note is missing.
func (l *loop) landedAfterAll(ctx context.Context, o *open) bool {
	l.proposing.Lock()
	s, err := l.mendLanded(ctx, o.story)
	l.proposing.Unlock()
	if err != nil || s.Open() {
		if err != nil && ctx.Err() == nil {
			l.retryLater(s.Number, "the server could not note its end, and tries again", err)
			return true
		}
		return false
	}
	delete(l.open, s.Number)
	l.release(ctx, s)
	l.end(s)
	return true
}

// refuse ends a change with an event.
func (l *loop) refuse(ctx context.Context, number int, e change.Event) {
	o := l.open[number]
	e.At = l.g.c.Now()
	crash.Point("refuse.decided")
	s, err := l.log.Append(ctx, o.story, e)
	switch {
	case err == nil:
	case isMoved(err): // a revision or a withdrawal came first: it is in the mailbox
		if s, err := l.log.Read(number); err == nil {
			o.story = s
			if !s.Open() {
				delete(l.open, number)
			}
		}
		return
	default:
		if ctx.Err() == nil {
			l.retryLater(number, "the server could not note its end, and tries again", err)
		}
		return
	}
	crash.Point("refuse.noted")
	delete(l.open, number)
	l.slog.Info("change ended", "change", number, "what", e.Subject)
	l.end(s)
}

// release makes the release of a landing. If it cannot be made now it is made
// later: the landing stands.
func (l *loop) release(ctx context.Context, s change.Story) {
	if !l.g.c.Releases(l.r.Name()) {
		return
	}
	if err := l.makeRelease(ctx, s); err != nil {
		l.owing = true
		if ctx.Err() == nil {
			l.slog.Error("release could not be made; it is tried again", "change", s.Number, "err", err)
		}
	}
}

func (l *loop) makeRelease(ctx context.Context, s change.Story) error {
	e, ok := s.Landing()
	commit := e.Hash("New")
	if !ok || commit == repo.Zero {
		return nil
	}
	vs, err := verdict.On(l.r, e.Hash("Tree"))
	if err != nil {
		return err
	}
	v := vs.Of(e.Get("Verdict"))
	if v == nil || v.Result != verdict.Green {
		return fmt.Errorf("change %d landed as %s, and the note of its green verdict is gone", s.Number, commit)
	}
	revision := s.Revisions[e.Revision-1]
	x := release.Landing{
		Branch: s.Branch, Commit: commit, Previous: e.Hash("Old"), Subject: revision.Subject, Changes: []int{s.Number},
		By: revision.By, At: e.At.UTC().Truncate(time.Second), Verdict: *v,
	}
	for _, r := range s.Revisions[:e.Revision] {
		if r.By != x.By && !slices.Contains(x.AlsoBy, r.By) {
			x.AlsoBy = append(x.AlsoBy, r.By)
		}
	}
	_, err = l.releases.Make(ctx, x)
	return err
}

func (l *loop) lastShown(number int) (Progress, bool) {
	t := l.board.track(number)
	if t == nil {
		return Progress{}, false
	}
	return t.last()
}
