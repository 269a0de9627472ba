package gate

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/headgate-cd/headgate/gitd/repo"
	"github.com/headgate-cd/headgate/gitd/show"
	"github.com/headgate-cd/headgate/gitd/signal"
	"github.com/headgate-cd/headgate/hooks/change"
	"github.com/headgate-cd/headgate/hooks/gate/plan"
	"github.com/headgate-cd/headgate/hooks/release"
	"github.com/headgate-cd/headgate/hooks/verdict"
)

// loop is the gate of one repository. run owns what is marked so; others post
// functions that run executes.
type loop struct {
	g        *Gate
	r        *repo.Repository
	log      *change.Store
	releases *release.Store
	slog     *slog.Logger
	progress progressBoard
	mirror   mirrorLog
	shown    tipBoard
	opened   numbers

	// proposing is held while a push or a withdrawal is taken in, and while a
	// landing goes from its tested event to its landed event: nothing comes
	// between those.
	proposing sync.Mutex
	loaded    bool // guarded by proposing

	mailbox signal.Mailbox[func()] // what run is to do to what it owns

	// The rest is owned by run.
	open           map[int]*open
	made           map[string]*candidate // by plan.Candidate.ID
	building       map[string]*building  // by key
	failures       map[string]int        // by key
	durations      durations
	greenTip       map[string]repo.Hash // by branch: the tip whose tree is known to be green
	heads          []change.Change      // whose head ref may have to be repaired
	headsPending   bool                 // those of all changes have to be looked at
	releasePending bool                 // a release may be missing
	tipBuilds      map[string]*building // of tips that came from a forge, by key
	tipFailures    map[string]tipFailure
	images         imageBoard
	builds         sync.WaitGroup
}

// open is an open change in the queue.
type open struct {
	story   change.Change
	pushed  time.Time
	waiting *waiting // nil: it is tried when its turn comes
	trouble int      // times in a row that the server could not go on with it
	shown   Progress // what was published last about its place
}

func newLoop(g *Gate, r *repo.Repository) *loop {
	l := &loop{
		g: g, r: r, log: change.Of(r), releases: release.Of(r),
		slog: g.c.Log.With("repo", r.Name()),
		open: map[int]*open{}, made: map[string]*candidate{}, building: map[string]*building{}, failures: map[string]int{},
		greenTip: map[string]repo.Hash{}, tipBuilds: map[string]*building{}, tipFailures: map[string]tipFailure{},
	}
	l.progress.open = map[int]*revisionProgress{}
	l.opened.set = map[int]bool{}
	return l
}

// drain executes what was posted.
func (l *loop) drain() {
	for _, f := range l.mailbox.Drain() {
		f()
	}
}

// run drains its mailbox, plans, and does what the plan says, until ctx is done. Then
// it waits for its builds, which ctx stops.
func (l *loop) run(ctx context.Context) {
	defer func() {
		l.builds.Wait()
		l.progress.close(Progress{At: l.g.c.Now(), Kind: Restarting,
			Reason: "the server is restarting; the change keeps its place", Short: "restarting; still queued", Hint: "push again in a moment to come back"})
	}()
	moved, stop := l.g.c.Store.Watch(l.r.Name())
	defer stop()
	for ctx.Err() == nil {
		again, err := l.step(ctx)
		if err != nil && ctx.Err() == nil {
			l.slog.Error("gate stands still and tries again", "in", l.g.c.Retry, "err", err)
			again = l.g.c.Now().Add(l.g.c.Retry)
		}
		var timer <-chan time.Time
		if !again.IsZero() {
			timer = time.After(max(0, again.Sub(l.g.c.Now())))
		}
		select {
		case <-ctx.Done():
		case <-l.mailbox.C():
		case <-moved:
		case <-timer:
		}
	}
}

// step does all that can be done now. It returns when to come back, zero for
// not before something happens.
func (l *loop) step(ctx context.Context) (again time.Time, err error) {
	if err := l.load(ctx); err != nil {
		return time.Time{}, err
	}
	l.drain()
	if l.releasePending {
		l.repairReleases(ctx)
	}
	for ctx.Err() == nil {
		l.drain()
		l.repairHeads(ctx)
		now := l.g.c.Now()
		if err := l.endWaits(now); err != nil {
			return time.Time{}, err
		}
		s, err := l.state()
		if err != nil {
			return time.Time{}, err
		}
		d := plan.Plan(s)
		if len(d.Make) > 0 {
			for _, c := range d.Make {
				l.prepare(ctx, c)
			}
			continue
		}
		l.syncBuilds(ctx, d)
		acted := false
		for _, refusal := range d.Refuse {
			l.refuseFor(ctx, refusal)
			acted = true
		}
		for _, c := range d.Land {
			l.land(ctx, l.made[c.ID()])
			acted = true
		}
		if !acted {
			l.publish(s)
			break
		}
	}
	again = l.nextTurn()
	if tips, err := l.syncTips(ctx); err != nil && ctx.Err() == nil {
		l.slog.Error("cannot build what came from the forge, and tries again", "in", l.g.c.Retry, "err", err)
		again = earlier(again, l.g.c.Now().Add(l.g.c.Retry))
	} else {
		again = earlier(again, tips)
	}
	if l.releasePending {
		again = earlier(again, l.g.c.Now().Add(l.g.c.Retry))
	}
	return again, nil
}

// earlier is the earlier of two times; zero is none.
func earlier(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

// state is what is known, for the planner.
func (l *loop) state() (plan.State, error) {
	now := l.g.c.Now()
	s := plan.State{
		Tips: map[string]plan.Tip{}, Made: map[string]plan.Made{}, Verdicts: map[string]plan.Verdict{},
		Failures: l.failures, Workers: l.g.c.Workers, Containers: l.g.c.Containers, Expected: l.durations.median(),
	}
	for _, o := range l.open {
		branch := o.story.Branch
		s.Queue = append(s.Queue, o.queued())
		if _, known := s.Tips[branch]; known {
			continue
		}
		tip, err := l.r.Ref("refs/heads/" + branch)
		if err != nil {
			return s, err
		}
		s.Tips[branch] = plan.Tip{}
		if tip != repo.Zero {
			s.Tips[branch] = plan.Tip{Commit: tip.String(), Green: l.green(branch, tip)}
		}
	}
	for id, c := range l.made {
		if !l.current(c, s.Tips) {
			delete(l.made, id)
			continue
		}
		m := plan.Made{Key: c.key, Contained: inContainer(c.Image)}
		if c.problem != nil {
			m.Problem = c.problem.Reason
		}
		s.Made[id] = m
		s.Verdicts[c.key] = planned(c.known, c.key)
	}
	for key := range l.failures { // of what nobody wants any more
		if _, wanted := s.Verdicts[key]; !wanted {
			delete(l.failures, key)
		}
	}
	for _, b := range l.building {
		p := plan.Build{Key: b.key, Candidate: b.candidate.Candidate}
		if !b.started.IsZero() {
			p.Elapsed = now.Sub(b.started)
		}
		s.Running = append(s.Running, p)
	}
	return s, nil
}

// current reports whether a candidate is still on its branch's tip and holds
// changes as they are.
func (l *loop) current(c *candidate, tips map[string]plan.Tip) bool {
	tip, known := tips[c.Branch]
	if !known || tip.Commit != c.Base {
		return false
	}
	for _, ref := range c.Changes {
		if o := l.open[ref.Change]; o == nil || o.story.Head().Number != ref.Revision {
			return false
		}
	}
	return true
}

// green reports whether a tip's tree has a green verdict. The planner notes it
// as evidence; landing asserts on its own account.
func (l *loop) green(branch string, commit repo.Hash) bool {
	if l.greenTip[branch] == commit {
		return true
	}
	tree, err := l.r.TreeOf(commit)
	if err != nil {
		return false
	}
	vs, err := verdict.On(l.r, tree)
	if err != nil || !slices.ContainsFunc(vs, func(v verdict.Verdict) bool { return v.Result == verdict.Green }) {
		return false
	}
	l.greenTip[branch] = commit
	return true
}

func planned(vs verdict.List, key string) plan.Verdict {
	var p plan.Verdict
	for _, v := range vs {
		switch {
		case v.Key != key:
		case v.Result == verdict.Green:
			p.Green = true
		default:
			p.Red = append(p.Red, plan.Ref{Change: v.Change, Revision: v.Revision})
		}
	}
	return p
}

func (o *open) queued() plan.Change {
	head := o.story.Head()
	c := plan.Change{Ref: plan.Ref{Change: o.story.Number, Revision: head.Number}, Branch: o.story.Branch,
		Waits: o.waiting != nil}
	_, c.Rebuild = head.Option("rebuild")
	switch p, _ := head.Option("priority"); p {
	case "high":
		c.Priority = 1
	case "low":
		c.Priority = -1
	}
	return c
}

// enqueue takes a revision into the queue. Called by run alone.
func (l *loop) enqueue(s change.Change, pushed time.Time) {
	l.open[s.Number] = &open{story: s, pushed: pushed}
	l.heads = append(l.heads, s)
}

// end tells followers of a change that has ended, and forgets it as open.
func (l *loop) end(s change.Change) {
	l.opened.remove(s.Number)
	e, _ := s.End()
	l.progress.add(l.ending(s, e))
}

// contains is repo.Contains, without asking git for what a commit says itself.
func (l *loop) contains(ctx context.Context, commit, ancestor repo.Hash) (bool, error) {
	if commit != repo.Zero && ancestor != repo.Zero && commit != ancestor {
		c, err := l.r.Commit(commit)
		if err != nil {
			return false, err
		}
		if slices.Contains(c.ParentHashes, ancestor) {
			return true, nil
		}
	}
	return l.r.Contains(ctx, commit, ancestor)
}

// publish tells followers their place, and shows the queue.
func (l *loop) publish(s plan.State) {
	now := l.g.c.Now()
	plan.Sort(s.Queue)
	slices.SortStableFunc(s.Queue, func(a, b plan.Change) int { return cmp.Compare(a.Branch, b.Branch) })
	var entries []Entry
	place, behind, branch := 0, 0, ""
	for _, q := range s.Queue {
		if q.Branch != branch {
			place, behind, branch = 0, 0, q.Branch
		}
		o := l.open[q.Change]
		e := Entry{
			Repository: l.r.Name(),
			Branch:     branch,
			Change:     q.Change,
			Revision:   q.Revision,
			State:      show.Queued,
			Took:       l.durations.median(),
		}
		if o.waiting != nil {
			e.State, e.Reason, e.Until = show.Waits, o.waiting.reason, o.waiting.until
		} else { // the others pass those that wait
			place++
			e.Place, e.Behind = place, behind
			behind = q.Change
		}
		if c := l.made[plan.Candidate{Branch: branch, Base: s.Tips[branch].Commit,
			Changes: []plan.Ref{q.Ref}}.ID()]; c != nil {
			e.Candidate, e.Tree, e.With = c.commit, c.tree, c.with()
			if b := l.building[c.key]; b != nil && !b.started.IsZero() {
				e.State, e.Log, e.Started = show.Running, b.log, b.started
			}
		}
		entries = append(entries, e)
		p := Progress{
			At:       now,
			Kind:     Queued,
			Change:   q.Change,
			Revision: q.Revision,
			Branch:   branch,
			Place:    e.Place,
			Behind:   e.Behind,
		}
		if w := o.waiting; w != nil {
			p.Waits, p.Reason, p.Hint = true, w.reason, w.hint
		}
		last := o.shown
		if e.State != show.Running && (last.Kind == "" || last.Place != p.Place || last.Behind != p.Behind ||
			last.Waits != p.Waits || last.Reason != p.Reason) {
			o.shown = p
			l.progress.add(p)
		}
	}
	l.progress.show(entries, slices.Clone(l.durations))
}

// trailers pairs names and values.
func trailers(pairs ...string) []repo.Trailer {
	var ts []repo.Trailer
	for i := 0; i+1 < len(pairs); i += 2 {
		ts = append(ts, repo.Trailer{Key: pairs[i], Value: pairs[i+1]})
	}
	return ts
}

func isMoved(err error) bool { return errors.Is(err, repo.ErrMoved) }

func many(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return strconv.Itoa(n) + " " + what + "s"
}

// numbers is a set of change numbers, safe for concurrent use.
type numbers struct {
	mu  sync.Mutex
	set map[int]bool
}

func (n *numbers) add(i int)    { n.mu.Lock(); n.set[i] = true; n.mu.Unlock() }
func (n *numbers) remove(i int) { n.mu.Lock(); delete(n.set, i); n.mu.Unlock() }

func (n *numbers) count() int { n.mu.Lock(); defer n.mu.Unlock(); return len(n.set) }

func (n *numbers) list() []int {
	n.mu.Lock()
	defer n.mu.Unlock()
	list := make([]int, 0, len(n.set))
	for i := range n.set {
		list = append(list, i)
	}
	slices.Sort(list)
	return list
}
