package server

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/headgate-cd/headgate/gitd/access"
	"github.com/headgate-cd/headgate/gitd/repo"
	"github.com/headgate-cd/headgate/gitd/show"
	"github.com/headgate-cd/headgate/hooks/change"
	"github.com/headgate-cd/headgate/hooks/gate"
	"github.com/headgate-cd/headgate/hooks/release"
	"github.com/headgate-cd/headgate/hooks/verdict"
)

// Changes implements show.Backend.
func (s *Server) Changes(ctx context.Context, a access.Identity, name string,
	f show.ChangeFilter) (show.ChangePage, error) {
	r, err := s.readable(a, name)
	if err != nil {
		return show.ChangePage{}, err
	}
	store := s.gate.Changes(name)
	all, err := store.Summaries()
	if err != nil {
		return show.ChangePage{}, err
	}
	numbers := make([]int, len(all))
	for i, of := range all {
		numbers[i] = of.Number
	}
	queue := s.gate.Queue(name)
	b := bounds{most: show.Newest, looked: len(all)}
	if f.Path != "" {
		b.looked = show.MaxLooked
	}
	if f.All {
		f.Part, b = show.Part{}, bounds{most: len(all), looked: len(all)}
	}

	found := show.ChangePage{Total: len(all)}
	found.Changes, found.Beside, err = page(numbers, f.Part, b, func(at int) (c show.Change, wanted bool, err error) {
		of := all[at]
		entry := entryOf(queue, of.Number)
		if !named(f.Author, of.Author, of.By) || f.State != "" && entry == nil && f.State != of.State {
			return c, false, nil
		}
		story, err := store.Read(of.Number)
		if err != nil {
			return c, false, err
		}
		head := story.Head()
		if f.State != "" && f.State != stateOf(story, entry) {
			return c, false, nil
		}
		if f.Path != "" {
			base, err := s.baseOf(ctx, r, story, head.Commit)
			if err != nil {
				return c, false, err
			}
			if wanted, err := differs(ctx, r, base, head.Commit, f.Path); !wanted {
				return c, false, err
			}
		}
		if c, err = s.summary(r, story, entry); err != nil {
			return c, false, err
		}
		if c.By == a.User && (c.State == show.Refused || c.State == show.Conflict) &&
			time.Since(c.EndedAt) < show.RefusalsShown {
			c.Mended, err = s.mended(ctx, r, store, story)
		}
		return c, true, err
	})
	return found, err
}

// mended reports whether what a refused change wanted is on its branch all the same: the
// branch holds its commit, below another perhaps that makes it good, or a later change
// landed that is a new version of it.
func (s *Server) mended(ctx context.Context, r *repo.Repository, store *change.Store,
	refused change.Change) (bool, error) {
	head := refused.Head().Commit
	tip, err := r.Ref("refs/heads/" + refused.Branch)
	if err != nil || tip == repo.Zero {
		return false, err
	}
	if held, err := r.Contains(ctx, tip, head); held || err != nil {
		return held, err
	}
	mine, err := r.Commit(head)
	if err != nil {
		return false, err
	}
	all, err := store.Summaries()
	if err != nil {
		return false, err
	}
	for _, later := range slices.Backward(all) {
		if later.Number <= refused.Number {
			break
		}
		if !later.Landed || later.Branch != refused.Branch || later.By != refused.Head().By {
			continue
		}
		c, err := r.Commit(later.Head)
		if err != nil {
			return false, err
		}
		if _, same := gate.SaysVersion(c, mine); same {
			return true, nil
		}
	}
	return false, nil
}

// stateOf is a change's state: its place in the queue knows better than its log
// what is going on just now.
func stateOf(story change.Change, entry *gate.Entry) show.State {
	if entry != nil {
		return entry.State
	}
	return story.State()
}

// summary is a change as lists show it.
func (s *Server) summary(r *repo.Repository, story change.Change, entry *gate.Entry) (show.Change, error) {
	head := story.Head()
	c := show.Change{
		Repository: story.Repository,
		Number:     story.Number,
		Revision:   head.Number,
		Branch:     story.Branch,
		Subject:    head.Subject,
		By:         head.By,
		Author:     head.Author,
		Commit:     head.Commit.String(),
		State:      stateOf(story, entry),
		PushedAt:   head.At.UTC(),
	}
	if entry != nil {
		c.Place, c.Behind, c.Reason, c.TestedWith = entry.Place, entry.Behind, entry.Reason, entry.With
		c.WaitsUntil = entry.Until
		c.Expected, c.Estimate = show.Duration(entry.Took), entry.Estimate
		if entry.Candidate != repo.Zero {
			c.Candidate, c.Tree = entry.Candidate.String(), entry.Tree.String()
		}
		if entry.Log != "" {
			c.Build = &show.Build{
				ID:      entry.Log,
				Tree:    c.Tree,
				State:   show.Running,
				Log:     entry.Log,
				Started: entry.Started.UTC(),
			}
		}
		return c, nil
	}
	end, ended := story.End()
	if !ended {
		return c, nil // accepted a moment ago; the gate has not looked yet
	}
	c.Reason, c.Hint, c.EndedAt = end.Reason, s.about.Commands(end.Hint), end.At.UTC()
	c.Cause, c.Rules, c.Files, c.MoreFiles, c.With = string(end.Cause), end.Rules, end.Files, end.MoreFiles, end.With
	if end.Tip != repo.Zero {
		c.Tip = end.Tip.String()
	}
	candidate, tree := end.Candidate, end.Tree
	if end.Kind == change.Landed {
		if candidate = end.New; candidate == repo.Zero {
			candidate = end.In
		}
		var err error
		c.Release, err = s.gate.ReleasesOf(story.Repository).NumberAt(candidate)
		if err != nil && !errors.Is(err, release.ErrNone) {
			return c, err
		}
	}
	if candidate != repo.Zero {
		c.Candidate = candidate.String()
		if tree == repo.Zero {
			var err error
			if tree, err = r.TreeOf(candidate); err != nil {
				return c, err
			}
		}
	}
	if tree != repo.Zero {
		c.Tree = tree.String()
	}
	c.Build = builtFor(story, end, c.Tree)
	return c, nil
}

// builtFor is the build of an ended change as far as its story tells it: green
// or failed, and whether an earlier verdict saved it. Nil if nothing was built.
func builtFor(story change.Change, end change.Event, tree string) *show.Build {
	tested, state := end, show.Failed
	if end.Kind == change.Landed {
		state = show.Green
		for _, e := range story.Events {
			if e.Kind == change.Tested && e.Revision == end.Revision {
				tested = e
			}
		}
	}
	if tested.Log == "" {
		return nil
	}
	return &show.Build{
		ID:     tested.Log,
		Tree:   tree,
		State:  state,
		Log:    tested.Log,
		Reused: tested.Took == 0,
	}
}

// Paused implements show.Backend.
func (s *Server) Paused(_ context.Context, a access.Identity, repository string) ([]show.Pause, error) {
	if _, err := s.readable(a, repository); err != nil {
		return nil, err
	}
	return s.gate.Paused(repository)
}

// Change implements show.Backend.
func (s *Server) Change(ctx context.Context, a access.Identity, name string, number int) (show.Change, error) {
	r, err := s.readable(a, name)
	if err != nil {
		return show.Change{}, err
	}
	story, entry, err := s.gate.Change(name, number)
	if errors.Is(err, change.ErrNone) {
		return show.Change{}, &show.Error{
			Kind: show.NotFound,
			What: fmt.Sprintf("there is no change %d in %s", number, name),
			Hint: "see what there is", Command: "change list " + name,
		}
	}
	if err != nil {
		return show.Change{}, err
	}
	c, err := s.summary(r, story, entry)
	if err != nil {
		return c, err
	}
	for _, revision := range story.Revisions {
		c.Revisions = append(c.Revisions, revision.Commit.String())
	}
	c.MayWithdraw, c.MayRetry = s.mayEnd(a, story), s.mayRetry(a, story)
	for _, e := range story.Events {
		c.Story = append(c.Story, show.Event{
			At:   e.At.UTC(),
			Kind: string(e.Kind),
			What: whatHappened(story, e),
			By:   e.By,
			More: strings.Join(e.Details, "; "),
		})
	}
	if end, ended := story.End(); ended && entry == nil {
		c.Details = end.Details
	}
	if (c.Build == nil || entry == nil) && c.Tree != "" {
		if c.Build, err = s.buildOf(r, c); err != nil {
			return c, err
		}
	}
	if c.State == show.Landed && c.Candidate != "" {
		landed, _ := repo.ParseHash(c.Candidate)
		live, err := s.reconciler.LiveIn(ctx, name, landed)
		if err != nil {
			return c, err
		}
		for _, l := range live {
			if !l.Serves {
				continue
			}
			c.RunsIn = append(c.RunsIn, l.Environment)
		}
	}
	return c, nil
}

// mayEnd is whether an actor may withdraw a change: who pushed it, and
// administrators.
func (s *Server) mayEnd(a access.Identity, story change.Change) bool {
	own := a.User == story.Revisions[0].By && a.Scope.Allows(access.Write, story.Repository)
	return story.Open() && (own || s.access.Load().May(a, access.Administer, story.Repository))
}

// mayRetry is whether an actor may propose a change once more.
func (s *Server) mayRetry(a access.Identity, story change.Change) bool {
	end, ended := story.End()
	return ended && end.Kind != change.Landed && s.access.Load().May(a, access.Write, story.Repository)
}

// whatHappened is an event in words that follow the name of who did it, or stand
// alone when that was the server.
func whatHappened(story change.Change, e change.Event) string {
	switch e.Kind {
	case change.Pushed:
		return fmt.Sprintf("pushed revision %d to %s: %s", e.Revision, story.Branch, story.Revisions[e.Revision-1].Subject)
	case change.Withdrawn:
		return "withdrew it"
	}
	return e.Subject
}

// buildOf is the build that tested a change: its own, or the earlier one of an
// identical tree.
func (s *Server) buildOf(r *repo.Repository, c show.Change) (*show.Build, error) {
	tree, ok := repo.ParseHash(c.Tree)
	if !ok {
		return nil, nil
	}
	list, err := verdict.On(r, tree)
	if err != nil || len(list) == 0 {
		return nil, err
	}
	best := list[len(list)-1]
	for _, v := range list {
		if v.Change == c.Number && v.Revision == c.Revision {
			best = v
		}
	}
	b := &show.Build{
		ID:       best.Log,
		Tree:     c.Tree,
		State:    show.Green,
		Reason:   best.Reason,
		Log:      best.LogDigest,
		Started:  best.Started.UTC(),
		Finished: best.Finished.UTC(),
		Reused:   best.Change != c.Number || best.Revision != c.Revision,
		Phase:    best.Phase,
		Command:  best.Command,
		Exit:     best.Exit,
		LogLine:  best.LogLine,
	}
	if best.Result != verdict.Green {
		b.State = show.Failed
	}
	return b, nil
}

func nonEmpty(s string) []string {
	if s == "" {
		return nil
	}
	return []string{s}
}

// entryOf is a change's place in the queue, nil if it has none.
func entryOf(queue []gate.Entry, number int) *gate.Entry {
	for i := range queue {
		if queue[i].Change == number {
			return &queue[i]
		}
	}
	return nil
}
