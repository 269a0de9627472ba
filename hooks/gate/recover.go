package gate

import (
	"context"
	"slices"

	"github.com/headgate-cd/headgate/gitd/repo"
	"github.com/headgate-cd/headgate/hooks/change"
)

// load reads a repository's queue back from its refs, once, and notes landings
// that a kill left without their note. Until it has, nothing is taken in. It is
// called by whoever comes first; an error leaves it to the next one.
func (l *loop) load(ctx context.Context) error {
	l.proposing.Lock()
	defer l.proposing.Unlock()
	if l.loaded {
		return nil
	}
	stories, err := l.log.List()
	if err != nil {
		return err
	}
	var took durations
	var waiting []change.Change
	for _, s := range stories {
		if s.Open() {
			if s, err = l.repairLanded(ctx, s); err != nil {
				return err
			}
		}
		if s.Open() {
			waiting = append(waiting, s)
		}
		for _, e := range s.Events {
			if e.Kind == change.Tested { // green
				took.add(e.Took)
			}
		}
	}
	for _, s := range waiting { // by number: the order they came in
		l.opened.add(s.Number)
		l.progress.begin(s.Number)
	}
	l.loaded = true
	l.mailbox.Post(func() {
		l.durations = append(took, l.durations...)
		for _, s := range waiting {
			if l.open[s.Number] == nil {
				l.enqueue(s, s.Head().At)
			}
		}
		l.heads = append(l.heads, stories...)
		l.releasePending = true
	})
	return nil
}

// repairLanded notes that a change has landed if its branch holds the candidate
// that its newest event announced.
func (l *loop) repairLanded(ctx context.Context, s change.Change) (change.Change, error) {
	e := s.Last()
	candidate := e.Candidate
	if e.Kind != change.Tested || candidate == repo.Zero {
		return s, nil
	}
	tip, err := l.r.Ref("refs/heads/" + s.Branch)
	if err != nil || tip == repo.Zero {
		return s, err
	}
	landed, err := l.contains(ctx, tip, candidate)
	if err != nil || !landed {
		return s, err
	}
	stories, err := l.log.List()
	if err != nil {
		return s, err
	}
	for _, other := range stories {
		if o, ok := other.Landing(); ok && other.Branch == s.Branch && o.Old == e.Base {
			return s, nil // the branch left that base with another change, which holds this one
		}
	}
	l.slog.Info("noted a landing that was cut short", "change", s.Number, "ref", s.Branch, "commit", candidate.String())
	return l.noteLanded(ctx, s)
}

// repairHeads makes refs/changes/<n>/head what the logs say.
func (l *loop) repairHeads(ctx context.Context) {
	heads := l.heads
	l.heads = nil
	for _, s := range heads {
		if err := l.log.RepairHead(ctx, s); err != nil && ctx.Err() == nil {
			l.slog.Error("cannot repair the head of a change", "change", s.Number, "err", err)
		}
	}
}

// repairReleases makes the releases that landings lack, in the order in which
// they landed.
func (l *loop) repairReleases(ctx context.Context) {
	l.releasePending = false
	if !l.g.c.Releases(l.r.Name()) {
		return
	}
	fail := func(err error) {
		l.releasePending = true
		if ctx.Err() == nil {
			l.slog.Error("releases could not be made; they are tried again", "err", err)
		}
	}
	stories, err := l.log.List()
	if err != nil {
		fail(err)
		return
	}
	made, err := l.releases.List()
	if err != nil {
		fail(err)
		return
	}
	has := map[repo.Hash]bool{}
	for _, rel := range made {
		has[rel.Commit] = true
	}
	var landed []change.Change
	for _, s := range stories {
		if e, ok := s.Landing(); ok && e.New != repo.Zero && !has[e.New] {
			landed = append(landed, s)
		}
	}
	slices.SortStableFunc(landed, func(a, b change.Change) int {
		x, _ := a.Landing()
		y, _ := b.Landing()
		return x.At.Compare(y.At)
	})
	for _, s := range landed {
		if err := l.makeRelease(ctx, s); err != nil {
			fail(err)
			return
		}
	}
}
