package forge

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/headgate-cd/headgate/gitd/show"
	"github.com/headgate-cd/headgate/hooks/change"
	"github.com/headgate-cd/headgate/hooks/gate"
)

// calm is how long a check that says "not yet" stays as it is, however much its
// words change: what lies between is left out.
const calm = 30 * time.Second

// marker is in our comment, invisible.
const marker = "<!-- headgate -->"

// sayAll says of every request what should be said and was not. It returns when to
// come back, zero for not before something happens.
func (p *pass) sayAll(ctx context.Context) (again time.Time, err error) {
	now := time.Now()
	if p.publish.until.After(now) {
		return p.publish.until, nil
	}
	soon := func(at time.Time) {
		if again.IsZero() || at.Before(again) {
			again = at
		}
	}
	open := 0
	for n, m := range p.memory.all {
		s, has := p.changes[n]
		if m.Open {
			open++
		}
		if has && s.Open() {
			soon(now.Add(whileBusy))
		}
		if e, ended := endOf(s, has); m.Open && ended && e.Kind == change.Landed && s.Head().Commit.String() == m.Head &&
			p.lookAt[n].IsZero() {
			p.lookAt[n] = now
		}
		wait, err := p.say(ctx, n, m, now)
		if err != nil {
			at := p.publish.failed(err, time.Now())
			return at, fmt.Errorf("request %d: %w", n, err)
		}
		if !wait.IsZero() {
			soon(wait)
		}
		if !m.Open && wait.IsZero() && (!has || !s.Open()) {
			delete(p.memory.all, n) // it is over, and all is said
		}
	}
	tips, err := p.sayTips(ctx, now)
	if err != nil {
		at := p.publish.failed(err, time.Now())
		return at, err
	}
	if !tips.IsZero() {
		soon(tips)
	}
	if p.conf.Promotions && p.w.hub.Promotions != nil {
		proposed, err := p.proposePromotions(ctx, now)
		if err != nil {
			at := p.publish.failed(err, time.Now())
			return at, err
		}
		if !proposed.IsZero() {
			soon(proposed)
		}
	}
	if err := errors.Join(p.answerProtections(ctx, now), p.sayDeployments(ctx)); err != nil {
		return p.publish.failed(err, time.Now()), err
	}
	p.publish = backOff{}
	p.mu.Lock()
	p.status.open = open
	p.mu.Unlock()
	return again, p.memory.save()
}

// endOf is the end of a change that there is.
func endOf(s change.Change, has bool) (change.Event, bool) {
	if !has {
		return change.Event{}, false
	}
	return s.End()
}

// say says one thing if it was not said; wait is when it may be said, if not yet.
func (p *pass) say(ctx context.Context, n int, m *remembered, now time.Time) (wait time.Time, err error) {
	if m.Ignored != "" {
		return time.Time{}, nil
	}
	head, ok := hashOf(m.Head)
	if ok != nil {
		return time.Time{}, nil
	}
	if _, has := p.changes[n]; !has && !m.Open {
		return time.Time{}, nil // it was never ours
	}
	c := p.desired(n, m)
	if c != m.Published || m.PublishedOf != m.Head {
		if at := m.PublishedAt.Add(calm); m.PublishedOf == m.Head && c.State == m.Published.State &&
			c.State == CheckPending && now.Before(at) {
			wait = at
		} else {
			as := m.PublishedAs
			if m.PublishedOf != m.Head {
				as = ""
			} else if as == "" {
				as = ByStatus // by a server that knew no other
			}
			as, err := p.check(ctx, head, as, c, func() Failed {
				return p.failed(p.changes[n].Last().Log, head)
			})
			if err != nil {
				return wait, err
			}
			m.Published, m.PublishedOf, m.PublishedAs, m.PublishedAt = c, m.Head, as, now
			if err := p.memory.save(); err != nil {
				return wait, err
			}
		}
	}

	text := p.comments(n, m)
	if text == m.Said {
		return wait, nil
	}
	if m.Comment == 0 { // it may have been written just before a kill
		list, err := p.api.Comments(ctx, n, time.Time{})
		if err != nil {
			return wait, err
		}
		for _, c := range list {
			if strings.HasPrefix(c.Text, marker) {
				m.Comment = c.ID
			}
		}
	}
	if m.Comment, err = p.api.Write(ctx, n, m.Comment, text); err != nil {
		return wait, err
	}
	m.Said = text
	return wait, p.memory.save()
}

// desired is what should be said of a request's head.
func (p *pass) desired(n int, m *remembered) Check {
	s, has := p.changes[n]
	if !has || m.Open && s.Head().Commit.String() != m.Head {
		return Check{State: CheckPending,
			Text: "waits for somebody who may write here to comment /ok-to-test and the full id of its newest commit"}
	}
	var entry *gate.Entry
	if s.Open() {
		if now, e, err := p.w.hub.Gate.Change(p.r.Name(), s.Number); err == nil {
			s, entry = now, e
		}
	}
	c := checkOf(s, entry)
	if p.w.hub.Page != nil {
		c.URL = p.w.hub.Page(p.r.Name(), s.Number)
	}
	return c
}

// checkOf is what to say of a change, with its place in the queue if it has one.
func checkOf(s change.Change, e *gate.Entry) Check {
	last := s.Last()
	short := last.Short
	if short == "" {
		short = last.Reason
	}
	switch last.Kind {
	case change.Landed:
		return Check{State: CheckSuccess, Text: fmt.Sprintf("landed on %s", s.Branch)}
	case change.Refused, change.Conflict, change.Withdrawn:
		return Check{State: CheckFailure, Text: string(last.Kind) + ": " + short}
	case change.Waits:
		if gate.Green(s) {
			return Check{State: CheckSuccess, Text: "green; " + last.Reason}
		}
		if e == nil || e.State == show.Waits {
			return Check{State: CheckPending, Text: "waits: " + last.Reason}
		}
	}
	if e == nil {
		return Check{State: CheckPending, Text: "queued"}
	}
	text := "queued"
	switch e.State {
	case show.Running:
		text = "building " + e.With
	case show.Waits:
		text = "waits: " + e.Reason
	default:
		if e.Place > 1 {
			text = fmt.Sprintf("queued, number %d in line", e.Place)
		}
	}
	if ready := e.Estimate.Text(func(at time.Time) string { return at.UTC().Format("15:04 UTC") }); ready != "" {
		text += ", ready " + ready
	}
	return Check{State: CheckPending, Text: text, Running: e.State == show.Running}
}

// comments is our one comment on a request: what it came to, and answers.
func (p *pass) comments(n int, m *remembered) string {
	c := p.desired(n, m)
	text := c.Text
	if c.State == CheckPending { // where it is in the queue is the check's to say
		text = "in the queue"
		if s, has := p.changes[n]; !has || s.Head().Commit.String() != m.Head {
			text = c.Text
		}
	}
	var b strings.Builder
	b.WriteString(marker + "\n")
	fmt.Fprintf(&b, "Headgate: %s at %s", code(text), code(m.Head))
	if c.URL != "" {
		fmt.Fprintf(&b, " ([change and log](%s))", c.URL)
	}
	for _, reply := range m.Replies {
		b.WriteString("\n\n" + reply)
	}
	b.WriteString(
		"\n\n<sub>Commands, at the beginning of a line: /land, /hold, /retry, /priority high, /why, /ok-to-test with a full commit id.</sub>\n")
	return b.String()
}
