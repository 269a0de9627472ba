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
	"github.com/headgate-cd/headgate/gitd/show"
	"github.com/headgate-cd/headgate/hooks/change"
	"github.com/headgate-cd/headgate/hooks/gate/plan"
	"github.com/headgate-cd/headgate/hooks/release"
	"github.com/headgate-cd/headgate/hooks/verdict"
)

// land lands a candidate: assert, ask, note what is about to happen, swap, note
// that it has. A kill between any two of these is repaired by load.
func (l *loop) land(ctx context.Context, c *candidate) {
	o := l.open[c.Changes[0].Change]
	s := o.story
	if why := unasked(s.Head()); why != "" {
		l.waitForPeople(ctx, c, o, why)
		return
	}
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
		l.progress.add(Progress{
			At: l.g.c.Now(), Kind: Verdict, Change: s.Number, Revision: s.Head().Number, Branch: c.Branch,
			Candidate: c.commit, Tree: c.tree,
			With: c.with(), Log: v.LogName(), Green: true, Reused: true, GreenSince: v.Finished, From: builtFor(v),
		})
	}
	switch p, err := pauseOf(l.r, c.Branch); {
	case err != nil:
		if ctx.Err() == nil {
			l.retryLater(s.Number, "the server could not see whether landing is paused, and tries again", err)
		}
		return
	case p != nil:
		l.waitWhilePaused(ctx, c, o, p)
		return
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
			Kind:    change.Refused,
			Subject: "refused by policy: " + why,
			Details: answer.Missing,
			Facts: change.Facts{
				Candidate: c.commit,
				Tree:      c.tree,
				Tip:       c.base,
				Log:       v.LogName(),
				Decision:  record,
				Cause:     change.DeniedByPolicy,
				Rules:     answer.Rules,
				Reason:    "policy: " + why,
				Short:     "policy: " + why,
				Hint:      answer.Hint,
			},
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
		case ctx.Err() != nil, errors.Is(err, errPaused): // or plan again: it waits
		case isMoved(err): // the branch or the change went on meanwhile: plan again
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
		l.g.c.Landed(ctx, l.r.Name(), v.Log)
	}
	l.opened.remove(number)
	e, _ := s.Landing()
	p := l.ending(s, e)
	p.At = l.g.c.Now()
	p.Took = p.At.Sub(o.pushed)
	p.Tree = c.tree
	l.progress.add(p)
}

func (l *loop) move(ctx context.Context, c *candidate, o *open, v verdict.Verdict,
	record repo.Hash) (change.Change, error) {
	l.proposing.Lock()
	defer l.proposing.Unlock()
	s := o.story
	if p, err := pauseOf(l.r, c.Branch); err != nil {
		return s, err
	} else if p != nil {
		return s, errPaused
	}
	now := l.g.c.Now()
	subject, took := fmt.Sprintf("tested %s: green", c.with()), tookOf(v)
	if v.Candidate != c.commit.String() {
		took = 0 // it was not run for this one
		subject += fmt.Sprintf(" since %s (%s)", v.Finished.UTC().Format("2006-01-02 15:04 UTC"), builtFor(v))
	}
	var err error
	if e := s.Last(); e.Kind != change.Tested || e.Candidate != c.commit || e.Base != c.base {
		s, err = l.log.Append(ctx, s, change.Event{Kind: change.Tested, At: now, Subject: subject, Facts: change.Facts{
			Candidate: c.commit,
			Base:      c.base,
			Tree:      c.tree,
			Verdict:   v.Key,
			Decision:  record,
			Log:       v.LogName(),
			Took:      took,
		}})
		if err != nil {
			return s, err
		}
		o.story = s
	} else if at, err := l.r.Ref(change.Ref(s.Number)); err != nil || at != s.Tip {
		return s, errors.Join(err, repo.ErrMoved)
	}
	crash.Point("land.tested")
	if l.g.c.Forward != nil {
		if err := l.g.c.Forward(ctx, l.r, c.Branch, c.base, c.commit); err != nil {
			return s, err
		}
		crash.Point("land.forwarded")
	}
	if err := l.r.Move(ctx, "refs/heads/"+c.Branch, c.base, c.commit); err != nil {
		// Whoever follows the forge may have moved it there first.
		if tip, _ := l.r.Ref("refs/heads/" + c.Branch); !isMoved(err) || tip != c.commit {
			return s, err
		}
	}
	crash.Point("land.moved")
	// From here on it has landed, whatever happens: the note is repaired at start.
	s, err = l.noteLanded(context.WithoutCancel(ctx), s)
	if err != nil {
		return s, err
	}
	crash.Point("land.noted")
	return s, nil
}

// noteLanded appends the landed event that a tested event announced.
func (l *loop) noteLanded(ctx context.Context, s change.Change) (change.Change, error) {
	e := s.Last()
	subject := fmt.Sprintf("landed on %s as %s", s.Branch, show.Short(e.Candidate.String()))
	event := change.Event{Kind: change.Landed, At: l.g.c.Now(), Subject: subject, Facts: change.Facts{
		Old:     e.Base,
		New:     e.Candidate,
		Tree:    e.Tree,
		Verdict: e.Verdict,
		Log:     e.Log,
	}}
	if e.Candidate != s.Head().Commit {
		event.Hint = fmt.Sprintf("%s had moved, so a merge landed; git pull fast-forwards", s.Branch)
	}
	return l.log.Append(ctx, s, event)
}

// stopped ends a change for which an assertion failed. Nothing has moved.
func (l *loop) stopped(ctx context.Context, c *candidate, a *assertion) {
	number := c.Changes[0].Change
	id := fmt.Sprintf("gate-%s-%d-%s", l.r.Name(), number, l.g.c.Now().UTC().Format("20060102T150405"))
	l.slog.Error("gate stopped a landing: an assertion failed", "id", id, "change", number, "ref", c.Branch, "commit",
		c.commit.String(), "assertion", a.name, "err", a)
	reason := fmt.Sprintf(
		"the gate stopped it before anything moved (assertion %s, %s): a fault of the server, not of the change", a.name, id)
	l.refuse(ctx, number, change.Event{
		Kind:    change.Refused,
		Subject: "stopped by the gate itself: assertion " + a.name + ", " + id,
		Facts: change.Facts{
			Candidate: c.commit,
			Tip:       c.base,
			Cause:     change.AssertionFailed,
			Assertion: a.name,
			Reason:    reason,
			Short:     "stopped by the gate, " + id,
			Hint:      "tell the administrator " + id + "; it finds the line in the server's log",
		},
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
	switch r.Why {
	case plan.Problem:
		e.Kind, e.Details, e.Facts = c.problem.kind, c.problem.details, c.problem.Facts
		if e.Kind == change.Landed {
			if l.landedAfterAll(ctx, o) {
				return
			}
			e.Subject = fmt.Sprintf("landed on %s: %s holds it", c.Branch, show.Short(c.base.String()))
		}
	case plan.Red:
		v := c.known.RedFor(c.key, r.Change.Change, r.Change.Revision)
		if v == nil {
			v = c.known.Of(c.key)
		}
		e.Facts = change.Facts{
			Cause:   change.BuildFailed,
			Verdict: v.Key,
			Log:     v.LogName(),
			Took:    tookOf(*v),
			Reason:  reason(*v),
			Short:   reason(*v),
			Hint:    "fix it, commit and push again",
		}
		if len(v.Flaky) > 0 {
			e.Details = append(e.Details, flaky(v.Flaky))
			e.Hint = rebuildHint
		}
		if v.Change != r.Change.Change || v.Revision != r.Change.Revision {
			at := v.Finished.UTC().Format("2006-01-02 15:04 UTC")
			e.Details = append(e.Details, fmt.Sprintf("the identical tree was red at %s, for %s", at, builtFor(*v)))
			e.Hint = rebuildHint
			e.Took = 0 // it was not run for this one
		}
	case plan.Broken:
		e.Facts = change.Facts{
			Cause:  change.BuildNotRun,
			Reason: "its build could not run, so it is not green; " + c.failure,
			Short:  "the build could not run",
			Hint:   "push again once the server can build",
		}
		delete(l.failures, c.key)
	}
	if e.Subject == "" {
		e.Subject = "refused: " + e.Reason
	}
	if e.Kind == change.Refused {
		e.Tip = c.base
	}
	e.Candidate, e.Tree = c.commit, c.tree
	l.refuse(ctx, r.Change.Change, e)
}

const rebuildHint = "fix it, or have it built again: git push -o rebuild"

// flaky says of tests that their failure may tell nothing about the change.
func flaky(tests []string) string {
	const named = 3
	text := strings.Join(tests[:min(len(tests), named)], ", ")
	if n := len(tests) - named; n > 0 {
		text += fmt.Sprintf(" and %d more", n)
	}
	return text + " lately passed and failed on one and the same tree"
}

// builtFor names what a verdict's build was run for.
func builtFor(v verdict.Verdict) string {
	if v.Change == 0 {
		return "a tip that came from the forge"
	}
	return fmt.Sprintf("change %d", v.Change)
}

// tookOf is how long a build ran; never zero, which means that none was run.
func tookOf(v verdict.Verdict) time.Duration {
	return max(v.Finished.Sub(v.Started), time.Nanosecond)
}

// landedAfterAll finishes a landing of which only the note is missing.
func (l *loop) landedAfterAll(ctx context.Context, o *open) bool {
	l.proposing.Lock()
	s, err := l.repairLanded(ctx, o.story)
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
func (l *loop) release(ctx context.Context, s change.Change) {
	if !l.g.c.Releases(l.r.Name()) {
		return
	}
	if err := l.makeRelease(ctx, s); err != nil {
		l.releasePending = true
		if ctx.Err() == nil {
			l.slog.Error("release could not be made; it is tried again", "change", s.Number, "err", err)
		}
	}
}

func (l *loop) makeRelease(ctx context.Context, s change.Change) error {
	e, ok := s.Landing()
	commit := e.New
	if !ok || commit == repo.Zero {
		return nil
	}
	vs, err := verdict.On(l.r, e.Tree)
	if err != nil {
		return err
	}
	v := vs.Of(e.Verdict)
	if v == nil || v.Result != verdict.Green {
		return fmt.Errorf("change %d landed as %s, and the note of its green verdict is gone", s.Number, commit)
	}
	revision := s.Revisions[e.Revision-1]
	x := release.Landing{
		Branch: s.Branch, Commit: commit, Previous: e.Old, Subject: revision.Subject, Changes: []int{s.Number},
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
	t := l.progress.of(number)
	if t == nil {
		return Progress{}, false
	}
	return t.last()
}
