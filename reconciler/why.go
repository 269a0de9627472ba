package reconciler

import (
	"cmp"
	"context"
	"fmt"
	"strings"

	"github.com/headgate-cd/headgate/gitd/access"
	"github.com/headgate-cd/headgate/gitd/show"
	"github.com/headgate-cd/headgate/gitd/terminal"
)

// Why says what an environment is, and why it is not further: the conditions of
// its open proposal, until when or until whom each is open, and what to do.
func (rc *Reconciler) Why(ctx context.Context, actor access.Identity,
	repository, environment string) (show.Why, error) {
	r, err := rc.repository(repository)
	if err != nil {
		return show.Why{}, err
	}
	s, err := rc.load(ctx, r, environment)
	if err != nil {
		return show.Why{}, err
	}
	e, err := rc.environment(ctx, s, actor)
	if err != nil {
		return show.Why{}, err
	}
	w := show.Why{State: e.State}
	runs := "nothing was promoted to " + environment + " yet"
	if s.Declared != nil {
		runs = fmt.Sprintf("%s is release %d and %s", environment, e.Release, e.State)
		if e.Reason != "" {
			runs += ": " + e.Reason
		}
		if e.Unhealed {
			runs += "; policy says to report drift, not to heal it"
		}
	}
	if e.Held != nil {
		text := fmt.Sprintf("by %s, %s", cmp.Or(e.Held.By, "unknown"), show.Clock(e.Held.At))
		if e.Held.Reason != "" {
			text += ": " + e.Held.Reason
		}
		w.Facts = append(w.Facts, show.Fact{Label: "hold", Text: text + "; lifted by promoting forward"})
	}
	if !s.openProposal() {
		w.Answer = rc.whyNothing(s, runs)
		if r := s.lastRejection(); r != nil && s.Wanted == nil {
			w.Next = []string{strings.Join([]string{rc.ssh(), "promote", repository, environment, proposable(r)}, " ")}
		}
		return w, nil
	}
	p, err := rc.promotion(ctx, s, actor)
	if err != nil {
		return show.Why{}, err
	}
	w.State, w.Checks = show.Waits, p.Checks
	switch {
	case p.Removal:
		w.Answer = fmt.Sprintf("%s is to be removed: the removal %s", environment, p.Summary)
		w.Facts = append(w.Facts, show.Fact{Label: "means", Text: p.Means()})
	case len(s.evaluated.open()) == 0:
		w.Answer = p.Subject() + " " + p.Summary
	default:
		w.Answer = fmt.Sprintf("%s is not in %s: it %s", p.Subject(), environment, p.Summary)
	}
	for _, c := range p.Cover {
		w.Facts = append(w.Facts, show.Fact{Label: "approval", Text: c.What() + ": " + c.Answer()})
	}
	if c := p.Chosen; c != nil {
		w.Facts = append(w.Facts, show.Fact{Label: "chosen", Text: "by " + c.By + ", " + show.Clock(c.At)})
	}
	if r := s.lastRejection(); r != nil {
		w.Facts = append(w.Facts, show.Fact{Label: "rejected", Text: rejectedBy(r)})
	}
	for _, r := range p.Rules {
		w.Facts = append(w.Facts, show.Fact{Label: "rule", Text: fmt.Sprintf("%s: %s -> %s", r.Rule, r.Was, r.Is)})
	}
	if !p.FailedAt.IsZero() {
		text := fmt.Sprintf("release %d was here before and failed at %s", p.To, show.Clock(p.FailedAt))
		if p.Failure != "" {
			text += ": " + p.Failure
		}
		w.Facts = append(w.Facts, show.Fact{Label: "before", Text: text})
	}
	if len(p.Rules) > 0 {
		w.Facts = append(w.Facts, show.Fact{Label: "until then", Text: "the rules before it hold as well"})
	}
	if p.WayOut != "" {
		w.Facts = append(w.Facts, show.Fact{Label: "way out", Text: p.WayOut})
	}
	w.Facts = append(w.Facts, show.Fact{Label: "now", Text: runs})
	if !p.NotBefore.IsZero() {
		w.Facts = append(w.Facts, show.Fact{Label: "earliest", Text: show.Clock(show.FullMinute(p.NotBefore))})
	}
	w.Facts = append(w.Facts,
		show.Fact{Label: "content", Text: "tree " + p.Tree[:7] + ", which is what an approval binds to"},
		show.Fact{Label: "policy", Text: terminal.Message(p.Policy, 100)})
	switch {
	case p.MayApprove:
		w.Next = p.Commands
	case actor.User != "":
		w.Facts = append(w.Facts, show.Fact{Label: "you", Text: p.WhyNot})
	}
	return w, nil
}

// whyNothing is the answer for an environment without a proposal.
func (rc *Reconciler) whyNothing(s *snapshot, runs string) string {
	switch {
	case s.problem() != "":
		return runs + "; " + s.problem()
	case s.lastRejection() != nil:
		return fmt.Sprintf("%s; %s", runs, rejectedBy(s.lastRejection()))
	case s.Wanted != nil:
		return fmt.Sprintf("%s; release %d is about to be proposed", runs, s.Wanted.Release)
	case len(s.Releases) == 0:
		return "nothing has been released yet"
	case s.Upstream != nil && s.Upstream.Release() == 0:
		return fmt.Sprintf("%s; it takes what is healthy in %s, to which nothing was promoted yet", runs, s.Upstream.Name)
	case s.Upstream != nil && s.Declared != nil && s.Upstream.Release() <= s.covers():
		return fmt.Sprintf("%s; %s, which comes before it, has nothing newer", runs, s.Upstream.Name)
	case s.Upstream != nil && !s.Upstream.Healthy():
		return fmt.Sprintf("%s; release %d is not healthy in %s yet", runs, s.Upstream.Release(), s.Upstream.Name)
	}
	return runs + "; nothing newer has landed"
}

// waitsFor is what a proposal waits for, in one line without a verb.
func (rc *Reconciler) waitsFor(ctx context.Context, s *snapshot) string {
	if !s.openProposal() {
		return "the next look at " + s.environment
	}
	if err := rc.evaluate(ctx, s); err != nil {
		return "policy, which could not be asked"
	}
	w := s.waits()
	if w.denied {
		return "policy to allow it: " + join(w.on)
	}
	return join(w.on)
}
