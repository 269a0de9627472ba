package gate

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/headgate-cd/headgate/gitd/access"
	"github.com/headgate-cd/headgate/gitd/repo"
	"github.com/headgate-cd/headgate/gitd/show"
	"github.com/headgate-cd/headgate/gitd/yamlfile"
	"github.com/headgate-cd/headgate/hooks/build"
	"github.com/headgate-cd/headgate/hooks/release"
	"github.com/headgate-cd/headgate/hooks/verdict"
)

// Tip is where a gated branch of a mirror is, when the forge has moved it there past
// the gate. It is built as it is: green it becomes a release, red it does not.
type Tip struct {
	Branch  string
	Commit  repo.Hash
	State   show.State // Queued, Running, Green, Failed: red; Waits: it cannot be built as it is
	Reason  string     // why it is red, or cannot be built
	Log     string     // of its build
	Release int        // 0: none yet
	Seen    time.Time  // that the forge had it there
}

// tip is a Tip with how it is built.
type tip struct {
	Tip
	old repo.Hash
	candidate
	verdict  *verdict.Verdict
	released bool // it becomes a release when it is green
	asking   bool // it is not known yet in which image it is built
}

// requested is a commit that somebody wants a verdict on: a merge that a forge has made
// to ask about, and that is no tip of a gated branch.
type requested struct {
	branch string
	until  time.Time // that it is wanted
}

// requestedFor is how long a verdict is wanted after it was asked for last.
const requestedFor = 5 * time.Minute

// tips are the gated branches that a forge has moved to where they are now.
func (l *loop) tips(ctx context.Context, image imageOf) (list []tip, err error) {
	newest, _, err := l.mirror.read(l.r)
	if err != nil {
		return nil, err
	}
	for branch, m := range newest {
		at, err := l.r.Ref("refs/heads/" + branch)
		if err != nil {
			return nil, err
		}
		if at == repo.Zero || at != m.new {
			continue
		}
		if gated, err := gates(l.r, at, branch); err != nil || !gated {
			if err != nil {
				return nil, err
			}
			continue
		}
		t := tip{Tip: Tip{Branch: branch, Commit: at, State: show.Queued, Seen: m.at}, old: m.old,
			released: l.g.c.Releases(l.r.Name())}
		if err := l.judgeTip(ctx, &t, image); err != nil {
			return nil, err
		}
		list = append(list, t)
	}
	slices.SortFunc(list, func(a, b tip) int { return cmp.Compare(a.Branch, b.Branch) })
	return list, nil
}

// imageOf is loop.image, or loop.knownImage for others than the loop.
type imageOf func(ctx context.Context, name imageName) (pinned string, err error)

// judgeTip finds out how a tip is built, and what is known of it.
func (l *loop) judgeTip(ctx context.Context, t *tip, image imageOf) (err error) {
	c := &t.candidate
	c.Branch, c.base, c.commit = t.Branch, t.old, t.Commit
	if c.tree, err = l.r.TreeOf(t.Commit); err != nil {
		return err
	}
	var large *repo.TooLarge
	if err := l.r.CheckExtent(ctx, c.tree); errors.As(err, &large) {
		t.State, t.Reason = show.Waits, "the tree is larger than this server takes: "+large.Error()
		return nil
	} else if err != nil {
		return err
	}
	c.Settings, err = tipSettings(l.r, func(tree repo.Hash) (Settings, error) { return l.g.c.Settings(l.r, tree) },
		t.old, t.Commit)
	if problems, ok := yamlfile.ProblemsIn(err); ok && len(problems) > 0 {
		t.State, t.Reason = show.Waits, problems[0].Error()
		return nil
	}
	if err != nil {
		return err
	}
	c.Server = l.server()
	var wrong *build.ImageError
	if err = c.pin(ctx, image); errors.As(err, &wrong) {
		t.State, t.Reason = show.Waits, err.Error()
		return nil
	}
	if errors.Is(err, errAsking) {
		t.asking = true
		return nil
	}
	if err != nil {
		return err
	}
	c.inputs, err = inputs(l.r, c.tree, c.Settings)
	if errors.Is(err, repo.ErrNoFile) {
		t.State, t.Reason = show.Waits, noBuildspec(c.Buildspec).Reason
		return nil
	}
	if err != nil {
		return err
	}
	c.key = c.inputs.Key()
	vs, err := verdict.On(l.r, c.tree)
	if err != nil {
		return err
	}
	if t.verdict = vs.Of(c.key); t.verdict == nil {
		return nil
	}
	t.Log = t.verdict.LogName()
	if t.verdict.Result == verdict.Red {
		t.State, t.Reason = show.Failed, reason(*t.verdict)
		return nil
	}
	t.State = show.Green
	rel, err := l.releases.At(t.Commit)
	if errors.Is(err, release.ErrNone) {
		return nil
	}
	t.Release = rel.Number
	return err
}

// tipSettings is how a tip that came from a forge is built: as it says itself, with
// what the tip before it lets a build reach.
func tipSettings(r *repo.Repository, settings func(tree repo.Hash) (Settings, error),
	old, new repo.Hash) (Settings, error) {
	of := func(commit repo.Hash) (Settings, error) {
		tree, err := r.TreeOf(commit)
		if err != nil {
			return Settings{}, err
		}
		return settings(tree)
	}
	own, err := of(new)
	if err != nil || old == repo.Zero {
		return own.filled(), err
	}
	before, err := of(old)
	if _, wrong := yamlfile.ProblemsIn(err); wrong {
		before, err = Settings{}, nil // it lets nothing be reached
	}
	return before.building(own), err
}

// syncTips has tips built that have no verdict, and released that are green. It
// returns when to come back, zero for not before something happens.
func (l *loop) syncTips(ctx context.Context) (again time.Time, err error) {
	list, err := l.tips(ctx, l.image)
	if err != nil {
		return time.Time{}, err
	}
	for commit, j := range l.shown.wanted(l.g.c.Now()) {
		t, err := l.judge(j.branch, commit, l.image)
		if err != nil {
			return time.Time{}, err
		}
		list = append(list, t)
	}
	wanted := map[string]bool{}
	for _, t := range list {
		switch {
		case t.State == show.Green && t.Release == 0 && t.released:
			if err := l.releaseTip(ctx, t); err != nil {
				return time.Time{}, err
			}
		case t.State != show.Queued || t.asking:
		case l.building[t.key] != nil:
			// The same tree is built for a change: its end wakes this loop.
		default:
			wanted[t.key] = true
			switch until := l.tipFailures[t.key].until; {
			case l.tipBuilds[t.key] != nil:
			case until.After(l.g.c.Now()):
				again = earlier(again, until)
			default:
				l.beginTip(ctx, t)
			}
		}
	}
	for key, b := range l.tipBuilds {
		if !wanted[key] && !b.stopped {
			b.stopped = true
			b.cancel()
		}
	}
	for key := range l.tipFailures {
		if !wanted[key] {
			delete(l.tipFailures, key)
		}
	}
	l.shown.set(l.tipBuilds, l.tipFailures)
	return again, nil
}

// tipBoard shows what is done about tips that have no verdict yet, by key.
type tipBoard struct {
	mu        sync.Mutex
	running   map[string]string // the log of their build
	why       map[string]string // it did not run
	requested map[repo.Hash]requested
}

// wanted are the commits that somebody wants a verdict on.
func (b *tipBoard) wanted(now time.Time) map[repo.Hash]requested {
	b.mu.Lock()
	defer b.mu.Unlock()
	maps.DeleteFunc(b.requested, func(_ repo.Hash, j requested) bool { return j.until.Before(now) })
	return maps.Clone(b.requested)
}

// want notes that somebody wants a verdict on a commit, and reports whether that is new.
func (b *tipBoard) want(commit repo.Hash, j requested) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.requested == nil {
		b.requested = map[repo.Hash]requested{}
	}
	_, there := b.requested[commit]
	b.requested[commit] = j
	return !there
}

func (b *tipBoard) set(builds map[string]*building, failures map[string]tipFailure) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.running, b.why = map[string]string{}, map[string]string{}
	for key, one := range builds {
		if !one.started.IsZero() {
			b.running[key] = one.log
		}
	}
	for key, f := range failures {
		b.why[key] = f.why
	}
}

func (b *tipBoard) of(key string) (state show.State, reason, log string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case b.running[key] != "":
		return show.Running, "", b.running[key]
	case b.why[key] != "":
		return show.Waits, b.why[key], ""
	}
	return show.Queued, "", ""
}

// beginTip starts the build of a tip. It takes its turn with the builds of changes.
func (l *loop) beginTip(ctx context.Context, t tip) {
	b := &building{key: t.key, candidate: &t.candidate}
	b.log = fmt.Sprintf("%s-%.7s-%s", l.r.Name(), t.Commit, strconv.FormatInt(l.g.c.Now().UnixNano(), 36))
	job := l.job(b)
	job.By = l.forge()
	ctx, b.cancel = context.WithCancel(ctx)
	l.tipBuilds[t.key] = b
	l.builds.Go(func() {
		defer b.cancel()
		v, err := l.work(ctx, b, job)
		stopped := ctx.Err() != nil
		l.mailbox.Post(func() {
			delete(l.tipBuilds, b.key)
			switch {
			case err == nil:
				delete(l.tipFailures, b.key)
				if v.Result == verdict.Green {
					l.durations.add(v.Finished.Sub(v.Started))
				}
				l.slog.Info("built a tip that came from the forge", "ref", job.Branch, "commit", job.Candidate.String(),
					"result", v.Result)
			case !stopped:
				l.tipNotBuilt(b, err)
			}
		})
	})
}

// tipNotBuilt: the build of a tip came to no end. It is tried again, later each time.
func (l *loop) tipNotBuilt(b *building, err error) {
	f := l.tipFailures[b.key]
	f.until = l.g.c.Now().Add(l.g.c.Retry << min(f.times, maxTipBackOff))
	f.times++
	f.why = "its build could not run, and is tried again; the server's log says why under " + b.log
	if known := (interface{ ForPeople() string })(nil); errors.As(err, &known) {
		f.why = "its build could not run, and is tried again: " + known.ForPeople()
	}
	l.tipFailures[b.key] = f
	l.slog.Error("build could not run", "ref", b.candidate.Branch, "commit", b.candidate.commit.String(), "build",
		b.log, "err", err)
}

// maxTipBackOff is how often the time between two tries is doubled.
const maxTipBackOff = 5

// tipFailure is what kept a tip from being built.
type tipFailure struct {
	times int
	until time.Time // of the next try
	why   string
}

// forge is who moves the branches of a mirror, where nobody is known by name.
func (l *loop) forge() string {
	conf, _ := l.g.c.Access().Repository(l.r.Name())
	return access.ByForge(conf.Mirror, "").User
}

func (l *loop) releaseTip(ctx context.Context, t tip) error {
	c, err := l.r.Commit(t.Commit)
	if err != nil {
		return err
	}
	_, err = l.releases.Make(ctx, release.Landing{
		Branch:   t.Branch,
		Commit:   t.Commit,
		Previous: t.old,
		Subject:  repo.Subject(c.Message),
		Changes:  []int{},
		By:       l.forge(),
		At:       t.Seen.UTC().Truncate(time.Second),
		Verdict:  *t.verdict,
	})
	if err == nil && l.g.c.Landed != nil {
		l.g.c.Landed(ctx, l.r.Name(), t.verdict.Log)
	}
	return err
}

// Tips are the gated branches of a repository that a forge has moved, past the gate,
// to where they are now.
func (g *Gate) Tips(repository string) ([]Tip, error) {
	l, err := g.loop(repository)
	if err != nil {
		return nil, err
	}
	list, err := l.tips(context.Background(), l.knownImage) // it bounds itself
	if err != nil {
		return nil, err
	}
	all := make([]Tip, 0, len(list))
	for _, t := range list {
		if t.State == show.Queued {
			t.State, t.Reason, t.Log = l.shown.of(t.key)
		}
		if t.State == show.Green && t.released && t.Release == 0 {
			t.State = show.Running // its release is made in a moment, and GitLab takes one success only
		}
		all = append(all, t.Tip)
	}
	return all, nil
}

// judge is how a commit is built that would become the tip of a branch, and what is known of it.
func (l *loop) judge(branch string, commit repo.Hash, image imageOf) (t tip, err error) {
	t.Tip = Tip{Branch: branch, Commit: commit, State: show.Queued}
	if t.old, err = l.r.Ref("refs/heads/" + branch); err != nil {
		return t, err
	}
	return t, l.judgeTip(context.Background(), &t, image) // it bounds itself
}

// Judge says how a commit is that a forge would have as the next tip of a branch, and
// has it built if nothing is known of it. Whoever wants to know asks again; it makes no
// release.
func (g *Gate) Judge(repository, branch string, commit repo.Hash) (Tip, error) {
	l, err := g.loop(repository)
	if err != nil {
		return Tip{}, err
	}
	t, err := l.judge(branch, commit, l.knownImage)
	if err != nil || t.State != show.Queued {
		return t.Tip, err
	}
	if l.shown.want(commit, requested{branch, g.c.Now().Add(requestedFor)}) {
		l.mailbox.Wake()
	}
	t.State, t.Reason, t.Log = l.shown.of(t.key)
	return t.Tip, nil
}
