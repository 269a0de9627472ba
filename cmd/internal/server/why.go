package server

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/headgate-cd/headgate/gitd/access"
	"github.com/headgate-cd/headgate/gitd/repo"
	"github.com/headgate-cd/headgate/gitd/show"
	"github.com/headgate-cd/headgate/hooks/change"
	"github.com/headgate-cd/headgate/reconciler"
)

// Why implements show.Backend: one verb for a change, an environment or a commit.
func (s *Server) Why(ctx context.Context, a access.Identity, name, thing string) (show.Why, error) {
	r, err := s.readable(a, name)
	if err != nil {
		return show.Why{}, err
	}
	number, err := strconv.Atoi(thing)
	if err == nil && len(thing) < 7 {
		return s.whyChange(ctx, a, name, number)
	}
	why, err := s.reconciler.Why(ctx, a, name, thing)
	var e *show.Error
	if !errors.As(err, &e) || e.Kind != show.NotFound {
		return why, err
	}
	if commit, ok, cerr := s.commit(ctx, r, thing); cerr != nil {
		return show.Why{}, cerr
	} else if ok {
		return s.whyCommit(ctx, a, name, commit)
	}
	e.What = fmt.Sprintf("%q is not a change, an environment or a commit of %s", thing, name)
	e.Hint, e.Command = "see what there is", "change list "+name
	return show.Why{}, e
}

// commit finds a commit by its id or the first digits of it.
func (s *Server) commit(ctx context.Context, r *repo.Repository, prefix string) (repo.Hash, bool, error) {
	if len(prefix) < 4 || len(prefix) > 40 || strings.Trim(prefix, "0123456789abcdef") != "" {
		return repo.Zero, false, nil
	}
	out, err := r.Git(ctx, "rev-parse", "--verify", "--quiet", "--end-of-options", prefix+"^{commit}")
	if err != nil {
		return repo.Zero, false, ctx.Err() // there is none, or several
	}
	h, ok := repo.ParseHash(strings.TrimSpace(string(out)))
	return h, ok, nil
}

func (s *Server) whyChange(ctx context.Context, a access.Identity, name string, number int) (show.Why, error) {
	c, err := s.Change(ctx, a, name, number)
	if err != nil {
		return show.Why{}, err
	}
	w := show.Why{State: c.State}
	fact := func(label, text string) {
		if text != "" {
			w.Facts = append(w.Facts, show.Fact{Label: label, Text: text})
		}
	}
	switch c.State {
	case show.Landed:
		w.Answer = fmt.Sprintf("%d landed on %s as %.7s.", number, c.Branch, c.Candidate)
		if c.Release > 0 {
			fact("release", strconv.Itoa(c.Release))
		}
		fact("runs in", strings.Join(c.RunsIn, ", "))
	case show.Refused, show.Conflict, show.Withdrawn:
		w.Answer = fmt.Sprintf("%d was %s: %s.", number, map[show.State]string{show.Refused: "refused",
			show.Conflict: "refused, it conflicts", show.Withdrawn: "withdrawn"}[c.State], c.Reason)
		for _, d := range c.Details {
			fact("", d)
		}
		files := strings.Join(c.Files, ", ")
		if c.MoreFiles > 0 {
			files += fmt.Sprintf(" and %d more", c.MoreFiles)
		}
		fact("files", files)
		if c.Tip != "" {
			fact(c.Branch, fmt.Sprintf("stays at %.7s", c.Tip))
		}
		fact("next", c.Hint)
	default:
		w.Answer = fmt.Sprintf("%d has not landed: %s.", number, openState(c))
		w.Checks = landingNeeds(c, time.Now())
		fact("tested", c.TestedWith)
	}
	if c.Build != nil {
		where := "change log " + name + " " + strconv.Itoa(number)
		if c.Build.LogLine > 0 {
			where += " --line " + strconv.Itoa(c.Build.LogLine)
		}
		fact("log", s.about.Command(where))
	}
	fact("page", fmt.Sprintf("%s/%s/changes/%d", s.about.HTTP, name, number))
	return w, nil
}

// openState is the state of an open change in words.
func openState(c show.Change) (s string) {
	switch c.State {
	case show.Waits:
		return "it waits: " + c.Reason
	case show.Running:
		s = "it is being built"
	case show.Green:
		s = "it is green"
	default:
		s = "it is queued"
	}
	if c.Place > 0 {
		s += fmt.Sprintf(", at place %d", c.Place)
	}
	if at := c.Estimate.Text(func(t time.Time) string { return t.UTC().Format("15:04 UTC") }); at != "" {
		s += ", and lands " + at
	}
	return s
}

// landingNeeds are the conditions between an open change and its branch.
func landingNeeds(c show.Change, now time.Time) []show.Check {
	place := show.Check{Rule: "queue", Title: "First in the queue for " + c.Branch, Met: c.Behind == 0}
	if c.Behind > 0 {
		place.Detail = fmt.Sprintf("behind %d, which lands or fails first", c.Behind)
	}
	green := show.Check{Rule: "verdict", Title: "Green verdict for its tree", Detail: "nothing is built for it yet"}
	if c.State == show.Queued && c.Reason != "" {
		green.Detail = c.Reason
	}
	if b := c.Build; b != nil {
		green.Met, green.Detail = b.State == show.Green, fmt.Sprintf("tree %.7s", c.Tree)
		if b.State == show.Running {
			green.Detail += ", building since " + b.Started.Format("15:04 UTC")
			if !c.LandsAt.IsZero() {
				green.Until = c.LandsAt
				green.Progress = now.Sub(b.Started).Seconds() / c.LandsAt.Sub(b.Started).Seconds()
			}
		}
	}
	if c.State != show.Waits {
		return []show.Check{place, green}
	}
	// The others pass it: it has no place.
	return []show.Check{green, {
		Rule:   "policy",
		Title:  "Policy lets it land",
		Detail: c.Reason,
		Until:  c.WaitsUntil,
	}}
}

func (s *Server) whyCommit(ctx context.Context, a access.Identity, name string, commit repo.Hash) (show.Why, error) {
	r, err := s.store.Repository(name)
	if err != nil {
		return show.Why{}, err
	}
	branch := s.gate.Branch(name)
	tip, err := r.Ref("refs/heads/" + branch)
	if err != nil {
		return show.Why{}, err
	}
	on, err := r.Contains(ctx, tip, commit)
	if err != nil {
		return show.Why{}, err
	}
	id := commit.String()[:7]
	if !on {
		of, found, err := s.gate.Changes(name).First(func(of change.Summary) bool { return of.Head == commit })
		if err != nil {
			return show.Why{}, err
		}
		if found {
			return s.whyChange(ctx, a, name, of.Number)
		}
		return show.Why{
			State:  show.Unknown,
			Answer: fmt.Sprintf("%s has not landed on %s, and is not the newest revision of any change.", id, branch),
			Next:   []string{s.about.Command("change list " + name)},
		}, nil
	}
	live, err := s.reconciler.LiveIn(ctx, name, commit)
	if err != nil {
		return show.Why{}, err
	}
	w := show.Why{State: show.Landed, Answer: fmt.Sprintf("%s is on %s, and in no environment.", id, branch)}
	var in, meant []string
	for _, l := range live {
		if l.Serves {
			in = append(in, l.Environment)
		} else {
			meant = append(meant, fmt.Sprintf("%s, which is %s with it", l.Environment, l.State))
			w.State = l.State
		}
		w.Facts = append(w.Facts, show.Fact{
			Label: l.Environment,
			Text:  liveText(l),
		})
	}
	switch {
	case len(in) > 0:
		w.State = show.Landed
		w.Answer = fmt.Sprintf("%s is on %s and in %s.", id, branch, strings.Join(in, " and "))
	case len(meant) > 0:
		w.Answer = fmt.Sprintf("%s is on %s and runs nowhere: it is declared for %s.", id, branch,
			strings.Join(meant, ", and for "))
	default:
		environments, err := s.reconciler.Environments(ctx, a, name)
		if err != nil {
			return show.Why{}, err
		}
		for _, e := range environments { // the first is where a release goes first
			w.Next = append(w.Next, s.about.Command("why "+name+" "+e.Name))
			break
		}
	}
	return w, nil
}

// liveText is what an environment that declares a commit is.
func liveText(l reconciler.Live) string {
	text := fmt.Sprintf("release %d, %s", l.Release, l.State)
	if !l.Since.IsZero() {
		text += " since " + l.Since.UTC().Format("Mon 2 Jan 15:04 UTC")
	}
	if l.State != show.Healthy && l.Reason != "" {
		text += ": " + l.Reason
	}
	return text
}
