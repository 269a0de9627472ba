package forge

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/headgate-cd/headgate/gitd/access"
	"github.com/headgate-cd/headgate/gitd/repo"
	"github.com/headgate-cd/headgate/gitd/signal"
	"github.com/headgate-cd/headgate/hooks/change"
	"github.com/headgate-cd/headgate/hooks/delivery"
)

const (
	// closeGrace is how long GitHub and GitLab may take to see by themselves that
	// what was pushed merges a request.
	closeGrace = 20 * time.Second
	// whileBusy is how often the queue is looked at while a request is in it: where a
	// change is in the queue moves no ref.
	whileBusy = 2 * time.Second
)

// requestOption names the request that a change is of.
const requestOption = "request"

// requests makes changes of a connection's pull or merge requests, and says at the
// forge how they are. Its goroutine (run) owns what is not behind mu.
//
// It is level-triggered: what a request is now, at the forge, is compared with what
// its change is now, here; and what should be said with what was said last. What was
// said last is kept in a file; everything else is in the change's log.
type requests struct {
	w    *worker
	mail signal.Mailbox[struct{}] // something arrived
	pace *rate.Limiter            // of looks that are asked for

	memory  *memory
	lookAt  map[int]time.Time // requests to look at again without being told
	publish backOff
	found   map[int]time.Time     // requests that a poll found changed, and a webhook may still tell of
	heard   bool                  // a comment was read that was not read before
	known   map[int]change.Change // that came from forges, as they were when they were last looked at
	answers answers

	mu     sync.Mutex
	status requestStatus
}

type requestStatus struct {
	open    int
	failing string
	retryAt time.Time
}

// backOff is when to go on after failures.
type backOff struct {
	tries int
	until time.Time
}

// failed is when to try again: when the forge says, or later each time.
func (b *backOff) failed(err error, now time.Time) time.Time {
	wait := min(shortestRetry<<min(b.tries, 20), longestRetry)
	b.tries++
	if busy := (*BusyError)(nil); errors.As(err, &busy) {
		wait = busy.After
	}
	b.until = now.Add(wait)
	return b.until
}

// pass is what one round needs.
type pass struct {
	*requests
	conf   access.Connection
	remote remote
	api    API
	r      *repo.Repository
	// changes are the newest of each request.
	changes map[int]change.Change
}

// prepare opens what a pass needs.
func (q *requests) prepare() (*pass, error) {
	conf, ok := q.w.hub.Access().Connection(q.w.name)
	if !ok || !conf.Requests || q.w.hub.Gate == nil {
		return nil, nil
	}
	m, r, err := q.w.remote()
	if err != nil {
		return nil, err
	}
	p := &pass{requests: q, conf: conf, remote: m, r: r}
	if p.api, err = openAPI(m.kind, conf.URL, conf.Repository, m.credential, &q.answers); err != nil {
		return nil, err
	}
	return p, p.readChanges()
}

func (p *pass) readChanges() error {
	store := p.w.hub.Gate.Changes(p.r.Name())
	if store == nil {
		return fmt.Errorf("repository %s is not there", p.r.Name())
	}
	all, err := store.Summaries()
	if err != nil {
		return err
	}
	p.changes = map[int]change.Change{}
	known := map[int]change.Change{}
	for _, of := range all {
		if of.Via != string(access.ViaForge) {
			continue
		}
		s := p.known[of.Number]
		if s.Tip != of.Tip {
			if s, err = store.Read(of.Number); err != nil {
				return err
			}
		}
		known[of.Number] = s
		if n := requestOf(s, p.w.name); n > 0 {
			p.changes[n] = s
		}
	}
	p.known = known
	return nil
}

// requestOf is the request at a connection that a change is of, 0 for none.
func requestOf(s change.Change, connection string) int {
	first := s.Revisions[0]
	if first.Via != string(access.ViaForge) || !strings.HasSuffix(first.By, "@"+connection) {
		return 0
	}
	value, _ := first.Option(requestOption)
	n, err := strconv.Atoi(value)
	if err != nil {
		return 0
	}
	return n
}

// run works until ctx is done.
func (q *requests) run(ctx context.Context) {
	var look backOff
	poll := time.Now() // what was missed while the server was down
	interval := shortestPoll
	var watched string
	var moved <-chan struct{}
	unwatch := func() {}
	defer func() { unwatch() }()
	for {
		// Watched before anything is read: what moves meanwhile is looked at once more.
		if conf, _ := q.w.hub.Access().Connection(q.w.name); conf.Mirror != watched {
			unwatch()
			watched, moved, unwatch = conf.Mirror, nil, func() {}
			if watched != "" {
				moved, unwatch = q.w.hub.Store.Watch(watched)
			}
		}
		p, err := q.prepare()
		now := time.Now()
		next := now.Add(time.Minute) // when server.yaml may say something else
		switch {
		case err != nil:
			next = look.failed(err, now)
			q.failing(err, next)
		case p != nil:
			if err := p.hearProtections(); err != nil {
				q.w.hub.Log.Warn("kept no question about a deployment", "connection", q.w.name, "err", err)
			}
			if !look.until.After(now) {
				if err := p.rerun(ctx); ctx.Err() != nil {
					return
				} else if err != nil {
					q.failing(err, look.failed(err, now))
				}
			}
			told := p.told()
			q.countLost(now, told)
			if q.w.askedAll() {
				poll, look = now, backOff{}
			}
			all := !poll.After(now)
			if !look.until.After(now) && (all || len(told) > 0 || q.due(now)) {
				err := p.look(ctx, told, all)
				if ctx.Err() != nil {
					return // what is pending stays so
				}
				if now = time.Now(); err != nil {
					q.failing(err, look.failed(err, now))
				} else {
					look = backOff{}
					q.failing(nil, time.Time{})
					if interval = min(2*interval, longestPoll); len(told) > 0 {
						interval = shortestPoll
					}
					if all {
						poll = now.Add(interval)
					}
				}
			}
			again, err := p.sayAll(ctx)
			if ctx.Err() != nil {
				return
			}
			if err != nil {
				q.w.hub.Log.Warn("could not tell the forge", "connection", q.w.name, "err", err)
			}
			next = poll
			if look.tries > 0 {
				next = look.until
			}
			for _, at := range q.found {
				next = sooner(next, at.Add(webhookGrace))
			}
			for _, at := range q.lookAt {
				next = sooner(next, later(at, look.until))
			}
			if !again.IsZero() {
				next = sooner(next, again)
			}
		}
		if !q.wait(ctx, moved, next) {
			return
		}
	}
}

func later(a, b time.Time) time.Time {
	if a.Before(b) {
		return b
	}
	return a
}

func sooner(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

// wait waits until something happened, or a time. False: ctx is done.
func (q *requests) wait(ctx context.Context, moved <-chan struct{}, until time.Time) bool {
	timer := time.NewTimer(time.Until(until))
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-q.mail.C():
		return paced(ctx, q.pace)
	case <-moved:
	case <-timer.C:
	}
	return true
}

func (q *requests) due(now time.Time) bool {
	for _, at := range q.lookAt {
		if !at.After(now) {
			return true
		}
	}
	return false
}

func (q *requests) failing(err error, again time.Time) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.status.failing, q.status.retryAt = "", again
	if err != nil {
		q.status.failing = err.Error()
		q.w.hub.Log.Warn("could not follow requests", "connection", q.w.name, "err", err, "again_at",
			again.UTC().Format(time.RFC3339))
	}
}

// told are the deliveries that wait, by the request that they tell of.
func (p *pass) told() map[int][]int64 {
	told := map[int][]int64{}
	for _, d := range p.w.pending.list(p.remote.kind) {
		if d.is(OfRequest) || d.is(OfComment) {
			n := d.hints.Keys[0].Request
			told[n] = append(told[n], d.sequence)
		}
	}
	return told
}

// look looks at what was told of, at what is due, or at all that may matter.
func (p *pass) look(ctx context.Context, told map[int][]int64, all bool) error {
	now := time.Now()
	numbers := map[int]bool{}
	for n := range told {
		numbers[n] = true
	}
	for n, at := range p.lookAt {
		if !at.After(now) {
			numbers[n] = true
		}
	}
	listed := map[int]Request{}
	if all {
		list, err := p.api.Requests(ctx)
		if err != nil {
			return p.pending(told, err)
		}
		for _, r := range list {
			listed[r.Number], numbers[r.Number] = r, true
		}
		for n, s := range p.changes {
			numbers[n] = numbers[n] || s.Open()
		}
		for n, m := range p.memory.all {
			numbers[n] = numbers[n] || m.Open
		}
		for _, m := range p.memory.promotions {
			if m.Number > 0 {
				numbers[m.Number] = true
				delete(listed, m.Number) // it may have been merged since
			}
		}
	}

	var first error
	for _, n := range slices.Sorted(maps.Keys(numbers)) {
		r, ok := listed[n]
		var err error
		if !ok {
			r, err = p.api.Request(ctx, n)
		}
		outcome, detail := delivery.Applied, ""
		if err == nil {
			was, had := p.memory.all[n]
			missed := r.State == Open && (!had || was.Head != r.Head.String() || !was.Open) ||
				r.State != Open && had && was.Open && !p.landed(n)
			p.heard = false
			detail, err = p.one(ctx, r)
			if all && len(told[n]) == 0 && (missed || p.heard) && p.w.lost.read().Seen {
				p.found[n] = now
			}
		}
		switch busy := (*BusyError)(nil); {
		case ctx.Err() != nil: // though this one may be done
			return ctx.Err()
		case errors.As(err, &busy):
			return p.pending(told, err)
		case errors.Is(err, ErrNotFound):
			outcome, detail = delivery.Failed, fmt.Sprintf("request %d: %v", n, err)
		case err != nil:
			first = cmp.Or(first, fmt.Errorf("request %d: %w", n, err))
			p.w.note(p.w.inbox.Settle(delivery.Pending, "tried again, for it failed: "+err.Error(), told[n]...))
			delete(told, n)
			continue
		}
		if sequences := told[n]; len(sequences) > 0 {
			p.w.note(p.w.inbox.Settle(outcome, detail, sequences...))
			delete(told, n)
		}
	}
	if all && first == nil {
		if err := p.w.lost.change(func(k *keptLost) { k.Seen = true }); err != nil {
			p.w.hub.Log.Warn("kept no count of lost webhooks", "connection", p.w.name, "err", err)
		}
	}
	return first
}

// landed reports whether the change of a request has: then it was this server that ended it.
func (p *pass) landed(request int) bool {
	s, has := p.changes[request]
	e, ended := endOf(s, has)
	return ended && e.Kind == change.Landed
}

// countLost counts what a poll found as lost webhooks, unless one has come since.
func (q *requests) countLost(now time.Time, told map[int][]int64) {
	for n, at := range q.found {
		if len(told[n]) == 0 && now.Before(at.Add(webhookGrace)) {
			continue
		}
		delete(q.found, n)
		if len(told[n]) == 0 {
			q.w.hub.Log.Warn("a poll found what no webhook told of", "connection", q.w.name, "request", n)
			q.w.noteLost(1, now)
		}
	}
}

// pending notes why what was told of is still not done.
func (p *pass) pending(told map[int][]int64, err error) error {
	for _, sequences := range told {
		p.w.note(p.w.inbox.Settle(delivery.Pending, "tried again, for it failed: "+err.Error(), sequences...))
	}
	return err
}

// one brings the change of a request to where the request is, and does what was
// commented. It says what became of it.
func (p *pass) one(ctx context.Context, r Request) (string, error) {
	delete(p.lookAt, r.Number)
	if environment, is := strings.CutPrefix(r.Target, "env/"); is && p.conf.Promotions {
		return p.promotionRequest(ctx, environment, r)
	}
	m := p.memory.of(r.Number)
	if m.Head != r.Head.String() {
		m.OK, m.Replies = "", nil // a new push voids what was said about the old one
	}
	m.Open, m.Head, m.Target, m.Ignored = r.State == Open, r.Head.String(), r.Target, ""
	if m.Open {
		gated, err := p.w.hub.Gate.Gates(p.r, r.Target)
		if err != nil {
			return "", err
		}
		if !gated {
			m.Ignored = fmt.Sprintf("%s is not gated: its headgate.yaml does not name it under land.branches", r.Target)
			return m.Ignored, p.memory.save()
		}
	}
	if err := p.propose(ctx, r, m); err != nil {
		return "", err
	}
	if m.Open {
		again, err := p.obey(ctx, r, m)
		if err != nil {
			return "", err
		}
		if again {
			if err := p.propose(ctx, r, m); err != nil {
				return "", err
			}
		}
	}
	if err := p.memory.save(); err != nil {
		return "", err
	}
	s, has := p.changes[r.Number]
	if !has {
		return fmt.Sprintf("request %d: %s, without a change", r.Number, r.State), nil
	}
	return fmt.Sprintf("request %d: %s, change %d, revision %d: %s", r.Number, r.State, s.Number, s.Head().Number,
		s.State()), nil
}

// add adds to the connection's status.
func (q *requests) add(s *Status) {
	q.mu.Lock()
	defer q.mu.Unlock()
	s.Requests = q.status.open
	if s.Failing == "" && q.status.failing != "" {
		s.Failing, s.RetryAt = q.status.failing, q.status.retryAt
	}
}
