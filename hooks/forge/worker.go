package forge

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/headgate-cd/headgate/gitd/repo"
	"github.com/headgate-cd/headgate/gitd/signal"
	"github.com/headgate-cd/headgate/hooks/delivery"
	"github.com/headgate-cd/headgate/hooks/gate"
)

// How often a forge is asked that has said nothing, and one that did not answer.
const (
	shortestPoll  = 5 * time.Minute // after something has moved; doubled while nothing does
	longestPoll   = time.Hour
	shortestRetry = time.Second // doubled while it fails
	longestRetry  = 5 * time.Minute
	webhookGrace  = time.Minute // that the webhook of what a poll has found may still take
)

// Webhooks that come in a flood are looked at together: a look costs git and the forge much
// more than a webhook does. The first ones are looked at as they come.
const (
	paceOfLooks = time.Second / 2
	looksAtOnce = 20
)

// paced waits until there may be a look again. False: ctx is done.
func paced(ctx context.Context, pace *rate.Limiter) bool { return pace.Wait(ctx) == nil }

// Status says how a connection is.
type Status struct {
	delivery.Stats
	LastDelivery time.Time  `json:"last_delivery,omitzero"`
	LastSync     time.Time  `json:"last_sync,omitzero"` // that the mirror was where the forge was
	NextPoll     time.Time  `json:"next_poll,omitzero"`
	Recovered    int64      `json:"recovered"` // what a poll found, and no webhook told of: lost webhooks
	LastLost     time.Time  `json:"last_lost,omitzero"`
	Hook         HookState  `json:"hook"`              // as the forge has it; empty: it was not asked, or does not say
	Requests     int        `json:"requests"`          // that are open
	Tips         []gate.Tip `json:"-"`                 // of gated branches, that came past the gate
	Left         int        `json:"left,omitempty"`    // refs at the forge whose names are not mirrored
	Failing      string     `json:"failing,omitempty"` // why the last try failed
	RetryAt      time.Time  `json:"retry_at,omitzero"`
}

// worker is one connection at work. Its goroutine (run) owns what is not behind
// mu.
type worker struct {
	hub   *Hub
	name  string
	inbox *delivery.Log
	mail  signal.Mailbox[struct{}] // something arrived, or server.yaml is another

	requests *requests
	pending  *pending // of inbox
	lost     *lost
	pace     *rate.Limiter // of looks that are asked for

	interval time.Duration // until the next poll, if nothing moves
	tries    int           // failed, in a row
	found    int64         // moves that a poll found, which a webhook may still tell of
	foundAt  time.Time

	mu       sync.Mutex
	status   Status
	pollAt   time.Time
	conf     string // what the connection was when it was last looked at
	pollOnce bool
	listOnce bool // the same, for requests
}

// Status says how the connection is.
func (w *worker) Status() Status {
	w.mu.Lock()
	s := w.status
	s.NextPoll = w.pollAt
	w.mu.Unlock()
	s.Stats = w.inbox.Stats()
	kept := w.lost.read()
	s.Recovered, s.LastLost = kept.Count, kept.Last
	w.requests.add(&s)
	if c, ok := w.hub.Access().Connection(w.name); ok && w.hub.Gate != nil {
		s.Tips, _ = w.hub.Gate.Tips(c.Mirror) // who cannot read it now is told so elsewhere
	}
	if newest := w.inbox.List(1); len(newest) > 0 {
		s.LastDelivery = newest[0].At
	}
	return s
}

// reconfigured has the forge asked now, if server.yaml says something else of
// the connection.
func (w *worker) reconfigured() {
	c, _ := w.hub.Access().Connection(w.name)
	now := fmt.Sprint(c)
	w.mu.Lock()
	changed := w.conf != "" && w.conf != now
	w.conf = now
	w.mu.Unlock()
	if changed {
		w.askNow()
	}
}

// askNow has the forge asked without waiting for the next poll or try.
func (w *worker) askNow() {
	w.mu.Lock()
	w.pollOnce, w.listOnce = true, true
	w.mu.Unlock()
	w.mail.Wake()
	w.requests.mail.Wake()
}

// askedAll reports whether all requests are to be looked at now, once.
func (w *worker) askedAll() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	asked := w.listOnce
	w.listOnce = false
	return asked
}

// run works until ctx is done. It is level-triggered: it reads what is pending,
// looks at the forge once for all of it, and settles it. What arrives meanwhile
// is pending the next time.
func (w *worker) run(ctx context.Context) {
	w.reconfigured()
	var looking sync.WaitGroup // beside the loop: a forge may take its time over what is only shown
	defer looking.Wait()
	free := make(chan struct{}, 1)
	free <- struct{}{}
	var retryAt time.Time
	poll := time.Now() // what was missed while the server was down
	for {
		w.mu.Lock()
		if w.pollOnce {
			w.pollOnce, poll, retryAt = false, time.Now(), time.Time{}
		}
		w.pollAt = poll
		w.mu.Unlock()

		told := w.reduce()
		now := time.Now()
		w.countLost(now, len(told) > 0)
		if due := !poll.After(now); (due || len(told) > 0) && !retryAt.After(now) {
			moves, err := w.sync(ctx)
			if ctx.Err() != nil {
				return // what is pending stays so
			}
			w.settle(told, moves, err)
			if due && err == nil {
				select {
				case <-free:
					looking.Go(func() {
						w.lookAtHook(ctx)
						free <- struct{}{}
					})
				default: // it still looks
				}
			}
			now = time.Now()
			if err != nil {
				retryAt = now.Add(w.backOff())
				w.failing(err, retryAt)
				poll = retryAt
			} else {
				retryAt, w.tries = time.Time{}, 0
				poll = now.Add(w.synced(moves, len(told) > 0, now))
			}
			w.mu.Lock()
			w.pollAt = poll
			w.mu.Unlock()
		}

		until := poll
		if w.found > 0 && w.foundAt.Add(webhookGrace).Before(until) {
			until = w.foundAt.Add(webhookGrace)
		}
		timer := time.NewTimer(time.Until(until))
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-w.mail.C():
			if !paced(ctx, w.pace) {
				timer.Stop()
				return
			}
		case <-timer.C:
		}
		timer.Stop()
	}
}

// reduce reads what is pending and settles what is of no interest. What is left
// tells of refs.
func (w *worker) reduce() (told []int64) {
	conf, ok := w.hub.Access().Connection(w.name)
	kind, err := ParseKind(conf.Forge)
	if !ok || err != nil {
		return nil
	}
	follows := conf.Requests && w.hub.Gate != nil
	dull := map[delivery.Outcome]map[string][]int64{delivery.Ignored: {}, delivery.Failed: {}}
	for _, d := range w.pending.list(kind) {
		sequence, h, err := d.sequence, d.hints, d.err
		switch {
		case err != nil:
			dull[delivery.Failed][err.Error()] = append(dull[delivery.Failed][err.Error()], sequence)
		case len(h.Keys) == 0:
			dull[delivery.Ignored][h.Reason] = append(dull[delivery.Ignored][h.Reason], sequence)
		case h.Keys[0].Of == OfRefs, h.Keys[0].Of == OfMergeGroup: // which is a branch, too
			told = append(told, sequence)
		case follows:
			// requests.go
		default:
			reason := "requests are left alone: the connection does not say requests: true"
			dull[delivery.Ignored][reason] = append(dull[delivery.Ignored][reason], sequence)
		}
	}
	for outcome, reasons := range dull {
		for reason, sequences := range reasons {
			w.note(w.inbox.Settle(outcome, reason, sequences...))
		}
	}
	return told
}

// note logs that outcomes could not be kept: they are pending again.
func (w *worker) note(err error) {
	if err != nil {
		w.hub.Log.Warn("kept no outcome of a delivery", "connection", w.name, "err", err)
	}
}

// settle notes what became of deliveries that told of refs. After an error they
// are pending still, and say why.
func (w *worker) settle(told []int64, moves []Move, err error) {
	if len(told) == 0 {
		return
	}
	if err != nil {
		w.note(w.inbox.Settle(delivery.Pending, "tried again, for it failed: "+err.Error(), told...))
		return
	}
	w.note(w.inbox.Settle(delivery.Applied, sentence(moves), told...))
}

// sentence says what moved.
func sentence(moves []Move) string {
	if len(moves) == 0 {
		return "everything was where the forge has it"
	}
	var parts []string
	for _, m := range moves[:min(len(moves), 5)] {
		name := strings.TrimPrefix(strings.TrimPrefix(m.Ref, "refs/heads/"), "refs/")
		if m.New == repo.Zero {
			parts = append(parts, name+" deleted")
			continue
		}
		parts = append(parts, fmt.Sprintf("%s at %.7s", name, m.New))
	}
	if more := len(moves) - len(parts); more > 0 {
		parts = append(parts, fmt.Sprintf("and %d more", more))
	}
	return strings.Join(parts, ", ")
}

// remote is the connection's repository at the forge, and its mirror here.
func (w *worker) remote() (remote, *repo.Repository, error) {
	conf, ok := w.hub.Access().Connection(w.name)
	if !ok {
		return remote{}, nil, fmt.Errorf("there is no connection %s", w.name)
	}
	m, err := w.hub.remoteOf(conf.Forge, conf.URL, conf.Repository, conf.Credentials, appUse{
		follows:     true,
		writes:      conf.Requests,
		requests:    conf.Requests,
		deployments: conf.Deployments,
	})
	if err != nil {
		return remote{}, nil, err
	}
	r, err := w.hub.Store.Repository(conf.Mirror)
	return m, r, err
}

func (w *worker) sync(ctx context.Context) ([]Move, error) {
	m, r, err := w.remote()
	if err != nil {
		return nil, err
	}
	moves, left, err := m.sync(ctx, r, func(move Move) error {
		branch, ok := strings.CutPrefix(move.Ref, "refs/heads/")
		if !ok {
			return nil
		}
		return w.record(ctx, r, branch, move.Old, move.New)
	})
	for _, move := range moves {
		w.hub.Log.Info("mirrored", "connection", w.name, "repo", r.Name(), "ref", move.Ref, "commit", move.New.String())
	}
	w.mu.Lock()
	w.status.Left = left
	w.mu.Unlock()
	return moves, err
}

// record has tips of gated branches that come from the forge on record: the gate builds
// them, and lands on them.
func (w *worker) record(ctx context.Context, r *repo.Repository, branch string, old, new repo.Hash) error {
	if w.hub.Gate == nil {
		return nil
	}
	return w.hub.Gate.RecordMirrored(ctx, r, branch, old, new, time.Now())
}

// backOff is how long to wait after one more failure.
func (w *worker) backOff() time.Duration {
	d := min(shortestRetry<<min(w.tries, 20), longestRetry)
	w.tries++
	return d
}

func (w *worker) failing(err error, again time.Time) {
	w.hub.Log.Warn("could not follow the forge", "connection", w.name, "err", err, "again_at",
		again.UTC().Format(time.RFC3339))
	w.mu.Lock()
	defer w.mu.Unlock()
	w.status.Failing, w.status.RetryAt = err.Error(), again
}

// synced notes that the mirror is where the forge is, and says when to look again
// unasked.
func (w *worker) synced(moves []Move, told bool, now time.Time) time.Duration {
	w.mu.Lock()
	first := w.status.LastSync.IsZero()
	w.status.LastSync, w.status.Failing, w.status.RetryAt = now, "", time.Time{}
	w.mu.Unlock()
	if len(moves) > 0 || told {
		w.interval = shortestPoll
	} else {
		w.interval = min(2*w.interval, longestPoll)
	}
	// What fills an empty mirror was not lost.
	filled := first && !slices.ContainsFunc(moves, func(m Move) bool { return m.Old != repo.Zero })
	if len(moves) > 0 && !told && !filled {
		w.found, w.foundAt = w.found+int64(len(moves)), now
	}
	return w.interval
}

// noteLost counts webhooks that never came.
func (w *worker) noteLost(n int64, now time.Time) {
	if err := w.lost.add(n, now); err != nil {
		w.hub.Log.Warn("kept no count of lost webhooks", "connection", w.name, "err", err)
	}
}

// lookAtHook asks the forge about its end of the webhook: one that it has switched off
// tells of nothing, and what it could not deliver it does not send again; only the forge
// knows.
func (w *worker) lookAtHook(ctx context.Context) {
	conf, ok := w.hub.Access().Connection(w.name)
	if !ok || !conf.HasAPI() || w.hub.Webhook == nil {
		return
	}
	var state HookState
	address := w.hub.Webhook(w.name)
	m, _, err := w.remote()
	if err == nil {
		var api API
		if api, err = openAPI(m.kind, conf.URL, conf.Repository, m.credential, nil); err == nil {
			state, err = api.Hook(ctx, address)
			if err == nil && state != HookNone {
				if err := w.recover(ctx, api, address); err != nil && ctx.Err() == nil {
					w.hub.Log.Warn("recovered no webhooks", "connection", w.name, "err", err)
				}
			}
		}
	}
	if err != nil {
		state = "" // a token need not have the right to see it
		w.hub.Log.Debug("did not see the webhook at the forge", "connection", w.name, "err", err)
	}
	w.mu.Lock()
	before := w.status.Hook
	w.status.Hook = state
	w.mu.Unlock()
	if state == HookOff && before != HookOff {
		w.hub.Log.Warn("the forge has switched the webhook off", "connection", w.name)
	}
}

// countLost counts what a poll found as lost webhooks, unless one has come since.
func (w *worker) countLost(now time.Time, told bool) {
	if w.found == 0 {
		return
	}
	if told {
		w.found = 0
		return
	}
	if now.Before(w.foundAt.Add(webhookGrace)) {
		return
	}
	w.hub.Log.Warn("a poll found what no webhook told of", "connection", w.name, "moves", w.found)
	w.noteLost(w.found, now)
	w.found = 0
}
