package forge

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/headgate-cd/headgate/gitd/access"
	"github.com/headgate-cd/headgate/gitd/repo"
	"github.com/headgate-cd/headgate/gitd/secret"
	"github.com/headgate-cd/headgate/gitd/signal"
	"github.com/headgate-cd/headgate/hooks/build/report"
	"github.com/headgate-cd/headgate/hooks/delivery"
	"github.com/headgate-cd/headgate/hooks/gate"
)

// Hub is all connections and publications of a server: it takes their webhooks, keeps
// mirrors where the forges are, and forges where repositories are here. Its fields are set before its first use; it is
// safe for concurrent use.
//
// Goroutines: two for each connection (worker.go, requests.go) and one for each publication
// (publish.go), which Run starts and ends as server.yaml says, and waits for.
type Hub struct {
	Dir     string // of the inboxes, one directory a connection
	Store   *repo.Store
	Access  func() *access.Config
	Secrets *secret.Store
	Gate    *gate.Gate // takes requests as changes; nil: they are left alone
	// Promotions are what environments have open, for who may approve them by a merge at
	// the forge. Nil: none.
	Promotions Promotions
	// Reports are what tests have said, for check runs. Nil: nothing is known of them.
	Reports *report.Store
	// Webhook is the address of a connection's webhook.
	Webhook func(name string) string
	// Page is where people see a change, or the repository for 0. Nil: nowhere.
	Page func(repository string, change int) string
	Log  *slog.Logger

	apps     apps
	once     sync.Once
	receiver *Receiver
	changed  signal.Mailbox[struct{}]

	mu         sync.Mutex // guards what follows
	workers    map[string]*worker
	publishers map[string]*publisher
}

func (h *Hub) start() {
	h.once.Do(func() {
		h.workers, h.publishers = map[string]*worker{}, map[string]*publisher{}
		h.receiver = &Receiver{
			Connection: h.connection,
			Inbox: func(name string) (*delivery.Log, error) {
				w, err := h.worker(name)
				if err != nil {
					return nil, err
				}
				return w.inbox, nil
			},
			Arrived: func(name string) {
				if w, err := h.worker(name); err == nil {
					w.mail.Wake()
					w.requests.mail.Wake()
				}
			},
			Log: h.Log,
		}
	})
}

// ServeHTTP takes a webhook: POST /webhooks/{connection}.
func (h *Hub) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h.start()
	h.receiver.ServeHTTP(w, r)
}

// Wake has the hub look at server.yaml again.
func (h *Hub) Wake() { h.changed.Wake() }

// Retry has every forge asked now.
func (h *Hub) Retry() {
	h.start()
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, w := range h.workers {
		w.askNow()
	}
	for _, p := range h.publishers {
		p.askNow()
	}
}

// connection is a connection with its secrets, as far as they have been set.
func (h *Hub) connection(name string) (Connection, bool) {
	conf, ok := h.Access().Connection(name)
	if !ok {
		return Connection{}, false
	}
	kind, err := ParseKind(conf.Forge)
	if err != nil {
		return Connection{}, false
	}
	c := Connection{Name: name, Kind: kind, Repository: conf.Repository, Names: conf.Secrets}
	for _, of := range conf.Secrets {
		// One that is not set has its place, and matches nothing.
		value, err := h.Secrets.Get(secret.ID{Name: of})
		if err != nil && !errors.Is(err, secret.ErrNotFound) {
			h.Log.Error("read no secret", "connection", name, "err", err)
		}
		c.Secrets = append(c.Secrets, value)
	}
	return c, true
}

// worker is the worker of a connection that there is, its inbox open.
func (h *Hub) worker(name string) (*worker, error) {
	h.start()
	if _, ok := h.Access().Connection(name); !ok {
		return nil, fmt.Errorf("connection %s: %w", name, os.ErrNotExist)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if w := h.workers[name]; w != nil {
		return w, nil
	}
	inbox, err := delivery.Open(filepath.Join(h.Dir, name))
	if err != nil {
		return nil, err
	}
	remembers, err := openMemory(filepath.Join(h.Dir, name+".requests.json"))
	if err != nil {
		return nil, errors.Join(err, inbox.Close())
	}
	never, err := openLost(filepath.Join(h.Dir, name+".lost.json"))
	if err != nil {
		return nil, errors.Join(err, inbox.Close())
	}
	pace := func() *rate.Limiter { return rate.NewLimiter(rate.Every(paceOfLooks), looksAtOnce) }
	w := &worker{
		hub:      h,
		name:     name,
		inbox:    inbox,
		pending:  &pending{inbox: inbox},
		lost:     never,
		pace:     pace(),
		interval: shortestPoll,
	}
	w.requests = &requests{w: w, memory: remembers, pace: pace(), lookAt: map[int]time.Time{}, found: map[int]time.Time{}}
	h.workers[name] = w
	return w, nil
}

// Run serves all connections and publications until ctx is done.
func (h *Hub) Run(ctx context.Context) error {
	h.start()
	running := map[string]func(){} // ends a worker, and waits for that: one that comes back is alone
	defer func() {
		for _, end := range running {
			end()
		}
		h.close()
	}()
	begin := func(key string, runs ...func(context.Context)) {
		inner, stop := context.WithCancel(ctx)
		var work sync.WaitGroup
		running[key] = func() {
			stop()
			work.Wait()
		}
		for _, run := range runs {
			work.Go(func() { run(inner) })
		}
	}

	for {
		conf := h.Access()
		current := map[string]bool{}
		for _, p := range conf.Publications() {
			current[fmt.Sprint(p)] = true
		}
		for _, c := range conf.Connections() {
			current[c.Name] = true
		}
		for key, end := range running {
			if !current[key] {
				end() // an inbox stays open, and on disk: the connection may come back
				delete(running, key)
			}
		}
		for _, c := range conf.Connections() {
			w, err := h.worker(c.Name)
			switch {
			case err != nil:
				h.Log.Error("opened no inbox", "connection", c.Name, "err", err)
			case running[c.Name] == nil:
				begin(c.Name, w.run, w.requests.run)
			default:
				w.reconfigured()
			}
		}
		for _, p := range conf.Publications() {
			if running[fmt.Sprint(p)] != nil {
				continue
			}
			if one, err := h.publisher(p); err != nil {
				h.Log.Error("cannot publish", "publication", p.Name, "err", err)
			} else {
				begin(fmt.Sprint(p), one.run)
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-h.changed.C():
		case <-time.After(time.Minute): // an inbox that could not be opened
		}
	}
}

// publisher is a new one for a publication, in the place of the one that it had.
func (h *Hub) publisher(conf access.Publication) (*publisher, error) {
	if err := os.MkdirAll(h.Dir, 0o700); err != nil {
		return nil, err
	}
	put, err := openPublished(filepath.Join(h.Dir, conf.Name+".published.json"), conf.URL)
	if err != nil {
		return nil, err
	}
	p := &publisher{hub: h, conf: conf, put: put}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.publishers[conf.Name] = p
	return p, nil
}

// Publishing says how a publication is. One that has just been made says nothing yet.
func (h *Hub) Publishing(name string) Publishing {
	h.start()
	h.mu.Lock()
	p := h.publishers[name]
	h.mu.Unlock()
	if p == nil {
		return Publishing{}
	}
	return p.Status()
}

// Publish has a publication look at its forge now.
func (h *Hub) Publish(name string) {
	h.start()
	h.mu.Lock()
	defer h.mu.Unlock()
	if p := h.publishers[name]; p != nil {
		p.askNow()
	}
}

func (h *Hub) close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, w := range h.workers {
		if err := w.inbox.Close(); err != nil {
			h.Log.Warn("closed no inbox", "connection", w.name, "err", err)
		}
	}
}

// Forward moves a branch of a mirror at its forge, for gate.Config: there it is
// decided where the branch is. A repository that is not a mirror it leaves alone.
func (h *Hub) Forward(ctx context.Context, r *repo.Repository, branch string, old, new repo.Hash) error {
	conf, ok := h.Access().Repository(r.Name())
	if !ok || conf.Mirror == "" {
		return nil
	}
	w, err := h.worker(conf.Mirror)
	if err != nil {
		return err
	}
	m, _, err := w.remote()
	if err != nil {
		return err
	}
	// What came before there was a record is on it from here on.
	if err := w.record(ctx, r, branch, repo.Zero, old); err != nil {
		return err
	}
	if err := m.push(ctx, r, branch, old, new); !errors.Is(err, repo.ErrMoved) {
		return err
	}
	// Somebody pushed past the gate: it goes on from there.
	if _, err := w.sync(ctx); err != nil {
		return err
	}
	return fmt.Errorf("%s: %w", branch, repo.ErrMoved)
}

// Status says how a connection is.
func (h *Hub) Status(name string) (Status, error) {
	w, err := h.worker(name)
	if err != nil {
		return Status{}, err
	}
	return w.Status(), nil
}

// Deliveries are the newest n of a connection, newest first.
func (h *Hub) Deliveries(name string, n int) ([]delivery.Entry, error) {
	w, err := h.worker(name)
	if err != nil {
		return nil, err
	}
	return w.inbox.List(n), nil
}

// Replay processes a delivery again.
func (h *Hub) Replay(name string, sequence int64) error {
	w, err := h.worker(name)
	if err != nil {
		return err
	}
	if err := w.inbox.Settle(delivery.Pending, "", sequence); err != nil {
		return err
	}
	w.mail.Wake()
	w.requests.mail.Wake()
	return nil
}

// Proof is what a test of a connection has shown.
type Proof struct {
	Refs    int   // that git lists at the forge
	API     error // why the API does not answer; nil: it does, or there is no token for it
	Hook    error // why the forge could not be asked for a webhook
	Arrived bool  // the webhook that it was asked for has come
}

// hookTimeout is how long the webhook of a test may take.
const hookTimeout = 30 * time.Second

// Test proves a connection both ways: it asks the forge, as a poll does, and has it post a
// webhook and waits for that. The error says that it cannot be fetched from.
func (h *Hub) Test(ctx context.Context, name string) (p Proof, err error) {
	w, err := h.worker(name)
	if err != nil {
		return p, err
	}
	m, r, err := w.remote()
	if err != nil {
		return p, err
	}
	conf, _ := h.Access().Connection(name)
	if app, ok := m.credential.(*installation); ok {
		app.forget() // what it may do now is what is proven
	}
	l, err := m.list(ctx, r)
	if p.Refs = len(l.refs); err != nil || !conf.HasAPI() {
		return p, err
	}
	api, err := openAPI(m.kind, conf.URL, conf.Repository, m.credential, nil)
	if err != nil {
		p.API = err
		return p, nil
	}
	if _, p.API = api.Requests(ctx); p.API != nil {
		return p, nil
	}
	newest := func() (sequence int64) {
		for _, d := range w.inbox.List(1) {
			sequence = d.Sequence
		}
		return sequence
	}
	before := newest()
	if p.Hook = api.PingHook(ctx, h.Webhook(name)); p.Hook != nil {
		return p, nil
	}
	ctx, cancel := context.WithTimeout(ctx, hookTimeout)
	defer cancel()
	for tick := time.NewTicker(50 * time.Millisecond); ; {
		if newest() > before {
			tick.Stop()
			p.Arrived = true
			return p, nil
		}
		select {
		case <-ctx.Done():
			tick.Stop()
			return p, nil
		case <-tick.C:
		}
	}
}

// Setup is what somebody wants to connect.
type Setup struct {
	Kind       Kind
	URL        string
	Repository string
	Shown      secret.Value // a token, or the private key of App
	App        access.App
}

func (s Setup) api() (API, error) {
	if s.App.ID == 0 {
		return openAPI(s.Kind, s.URL, s.Repository, fixed{s.Shown}, nil)
	}
	var own apps
	use := appUse{follows: true, writes: true, requests: true}
	c, err := own.of(s.App, s.Shown, s.URL, s.Repository, use)
	if err != nil {
		return nil, err
	}
	return openAPI(s.Kind, s.URL, s.Repository, c, nil)
}

// Check reports whether a token or an App does for a connection, before there is one: its forge
// answers, and lets it read.
func (s Setup) Check(ctx context.Context) error {
	api, err := s.api()
	if err == nil {
		_, err = api.Requests(ctx)
	}
	return err
}

// SetHook has the webhook for an address be there.
func (s Setup) SetHook(ctx context.Context, address string, signed secret.Value) error {
	api, err := s.api()
	if err != nil {
		return err
	}
	return api.SetHook(ctx, address, string(signed.Reveal()))
}
