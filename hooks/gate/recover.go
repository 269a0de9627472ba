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
	took, err := l.usualDurations()
	if err != nil {
		return err
	}
	var waiting []change.Change
	for s, err := range l.log.Find(func(of change.Summary) bool { return !of.Ended }) {
		if err == nil {
			s, err = l.repairLanded(ctx, s)
		}
		if err != nil {
			return err
		}
		if s.Open() {
			waiting = append(waiting, s)
		}
	}
	slices.Reverse(waiting)
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
		l.headsPending, l.releasePending = true, true
	})
	return nil
}

// usualDurations are how long the newest green builds took.
func (l *loop) usualDurations() (took durations, err error) {
	looked := 0
	for s, err := range l.log.Find(func(of change.Summary) bool { return of.New != repo.Zero }) {
		if err != nil {
			return nil, err
		}
		for _, e := range slices.Backward(s.Events) {
			if e.Kind == change.Tested && e.Took > 0 { // green
				took = append(took, e.Took)
			}
		}
		if looked++; len(took) >= recent || looked == 2*recent { // the others were built before
			break
		}
	}
	took = took[:min(len(took), recent)]
	slices.Reverse(took)
	return took, nil
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
	_, other, err := l.log.First(func(of change.Summary) bool {
		return of.New != repo.Zero && of.Branch == s.Branch && of.Old == e.Base
	})
	if err != nil || other {
		return s, err // the branch left that base with another change, which holds this one
	}
	l.slog.Info("noted a landing that was cut short", "change", s.Number, "ref", s.Branch, "commit", candidate.String())
	return l.noteLanded(ctx, s)
}

// repairHeads makes refs/changes/<n>/head what the logs say: of all changes at the start,
// and of those that were pushed since.
func (l *loop) repairHeads(ctx context.Context) {
	if l.headsPending {
		behind, err := l.log.HeadsBehind()
		if err != nil {
			l.slog.Error("cannot look at the heads of changes, and tries again", "err", err)
			return
		}
		l.heads, l.headsPending = append(behind, l.heads...), false
	}
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
	made, err := l.releases.Commits()
	if err != nil {
		fail(err)
		return
	}
	var landed []change.Change
	for s, err := range l.log.Find(func(of change.Summary) bool { return of.New != repo.Zero && made[of.New] == 0 }) {
		if err != nil {
			fail(err)
			return
		}
		landed = append(landed, s)
	}
	slices.Reverse(landed)
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
