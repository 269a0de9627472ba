package event

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/headgate-cd/headgate/gitd/access"
	"github.com/headgate-cd/headgate/gitd/repo"
	"github.com/headgate-cd/headgate/gitd/secret"
	"github.com/headgate-cd/headgate/gitd/signal"
	"github.com/headgate-cd/headgate/hooks/delivery"
)

// Sender reads events and delivers them to the endpoints of server.yaml. Its
// fields are set before its first use; it is safe for concurrent use.
//
// Goroutines: Run, which reads the feed, and one for each endpoint, which Run
// starts and ends as server.yaml says, and waits for.
type Sender struct {
	Dir     string // holds the feed's place and the outboxes
	Store   *repo.Store
	Access  func() *access.Config
	Secrets *secret.Store
	Source  string            // address of the console: who events are from
	Readers map[string]Reader // of refs besides those of changes and releases, by prefix
	Log     *slog.Logger
	Now     func() time.Time // nil: time.Now

	once    sync.Once
	feed    *feed
	changed signal.Mailbox[struct{}]

	mu        sync.Mutex
	endpoints map[string]*endpoint // whose outbox is open
}

func (s *Sender) start() {
	s.once.Do(func() {
		if s.Now == nil {
			s.Now = time.Now
		}
		readers := map[string]Reader{changePrefix: readChange, releasePrefix: readRelease}
		maps.Copy(readers, s.Readers)
		s.feed = &feed{dir: filepath.Join(s.Dir, "feed"), readers: readers}
		s.endpoints = map[string]*endpoint{}
	})
}

// Wake has the sender look at server.yaml again, and every endpoint tried now.
func (s *Sender) Wake() {
	s.start()
	s.changed.Wake()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range s.endpoints {
		e.tryNow()
	}
}

// Run reads and delivers until ctx is done.
func (s *Sender) Run(ctx context.Context) error {
	s.start()
	moved, stop := s.Store.Watch(signal.All)
	defer stop()
	running := map[string]func(){} // ends an endpoint, and waits for that: one that comes back is alone
	defer func() {
		for _, end := range running {
			end()
		}
		s.close()
	}()

	for {
		if s.Access() == nil { // nothing is known yet: that is not the same as no endpoints
			select {
			case <-ctx.Done():
				return nil
			case <-s.changed.C():
				continue
			}
		}
		wanted := map[string]bool{}
		for _, conf := range s.Access().EventEndpoints() {
			wanted[conf.Name] = true // also one whose outbox cannot be opened now: what happens is kept for it
			e, err := s.endpoint(conf.Name)
			if err != nil {
				s.Log.Error("opened no outbox", "endpoint", conf.Name, "err", err)
				continue
			}
			if running[conf.Name] == nil {
				inner, cancel := context.WithCancel(ctx)
				ended := make(chan struct{})
				running[conf.Name] = func() {
					cancel()
					<-ended
				}
				go func() {
					defer close(ended)
					e.run(inner)
				}()
			}
		}
		for name, end := range running {
			if !wanted[name] {
				end() // its outbox stays, for it may come back
				delete(running, name)
			}
		}
		if err := s.read(ctx, len(wanted) > 0); err != nil && ctx.Err() == nil {
			s.Log.Error("events were not all read", "err", err)
		}

		select {
		case <-ctx.Done():
			return nil
		case <-moved:
		case <-s.changed.C():
		case <-time.After(time.Minute): // what failed is tried again
		}
	}
}

// read puts what has happened into the outboxes.
func (s *Sender) read(ctx context.Context, wanted bool) error {
	if !wanted {
		return s.feed.end()
	}
	if err := s.feed.begin(s.Store); err != nil {
		return err
	}
	names, err := s.Store.Names()
	if err != nil {
		return err
	}
	var failed []error
	for _, name := range names {
		r, err := s.Store.Repository(name)
		if err == nil {
			err = s.feed.read(ctx, r, s.put)
		}
		failed = append(failed, err)
	}
	return errors.Join(failed...)
}

// put puts events into the outboxes of the endpoints that want them.
func (s *Sender) put(events []Event) error {
	for _, conf := range s.Access().EventEndpoints() {
		e, err := s.endpoint(conf.Name)
		if err != nil {
			return err
		}
		for _, event := range events {
			if !conf.Wants(event.Repository, event.Kind) {
				continue
			}
			body, err := event.encode(s.Source)
			if err != nil {
				return err
			}
			_, err = e.outbox.Put(delivery.Delivery{ID: event.ID, Event: string(event.Type), At: s.Now(), Body: body})
			switch {
			case errors.Is(err, delivery.ErrFull): // one endpoint does not hold up the others
				e.mu.Lock()
				e.skipped++
				e.mu.Unlock()
			case err != nil:
				return err
			}
		}
		e.mail.Wake()
	}
	return nil
}

// endpoint is an endpoint of server.yaml, its outbox open.
func (s *Sender) endpoint(name string) (*endpoint, error) {
	s.start()
	if _, ok := s.Access().EventEndpoint(name); !ok {
		return nil, fmt.Errorf("endpoint %s: %w", name, os.ErrNotExist)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if e := s.endpoints[name]; e != nil {
		return e, nil
	}
	outbox, err := delivery.Open(filepath.Join(s.Dir, "outbox", name))
	if err != nil {
		return nil, err
	}
	e := &endpoint{
		name:    name,
		outbox:  outbox,
		access:  s.Access,
		secrets: s.Secrets,
		now:     s.Now,
		tries:   map[int64]try{},
	}
	s.endpoints[name] = e
	return e, nil
}

func (s *Sender) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range s.endpoints {
		if err := e.outbox.Close(); err != nil {
			s.Log.Warn("closed no outbox", "endpoint", e.name, "err", err)
		}
	}
}

// Status says how an endpoint is.
type Status struct {
	delivery.Stats
	Parked        int
	Skipped       int64     // that there was no room for, since the start
	LastDelivered time.Time // since the start
	Failing       string    // why the newest try failed
	RetryAt       time.Time
}

// Status says how an endpoint is.
func (s *Sender) Status(name string) (Status, error) {
	e, err := s.endpoint(name)
	if err != nil {
		return Status{}, err
	}
	status := Status{Stats: e.outbox.Stats()}
	for _, entry := range e.outbox.List(status.Kept) {
		if entry.Outcome == delivery.Parked {
			status.Parked++
		}
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	status.Skipped, status.LastDelivered = e.skipped, e.last
	status.Failing, status.RetryAt = e.failing, e.down.at
	return status, nil
}

// Deliveries are the newest n events of an endpoint, newest first.
func (s *Sender) Deliveries(name string, n int) ([]delivery.Entry, error) {
	e, err := s.endpoint(name)
	if err != nil {
		return nil, err
	}
	return e.outbox.List(n), nil
}

// Replay delivers events again: those given by their numbers, or all that are
// parked. It returns how many. The error wraps os.ErrNotExist when one is not
// kept any more.
func (s *Sender) Replay(name string, sequences ...int64) (int, error) {
	e, err := s.endpoint(name)
	if err != nil {
		return 0, err
	}
	if len(sequences) == 0 {
		for _, entry := range e.outbox.List(e.outbox.Stats().Kept) {
			if entry.Outcome == delivery.Parked {
				sequences = append(sequences, entry.Sequence)
			}
		}
	}
	if len(sequences) == 0 {
		return 0, nil
	}
	err = e.outbox.Settle(delivery.Pending, "", sequences...)
	e.tryNow()
	return len(sequences), err
}

// Test delivers an event that says nothing, once, and returns what the endpoint
// answered. The error says why it is not accepted.
func (s *Sender) Test(ctx context.Context, name, by string) (answered string, err error) {
	e, err := s.endpoint(name)
	if err != nil {
		return "", err
	}
	conf, _ := s.Access().EventEndpoint(name)
	event := Event{
		ID:      rand.Text(),
		Type:    EndpointTested,
		At:      s.Now(),
		Subject: name,
		Data:    Data{By: by},
	}
	body, err := event.encode(s.Source)
	if err != nil {
		return "", err
	}
	client, closeIdle := newClient(conf)
	defer closeIdle()
	a := e.send(ctx, client, conf, event.ID, body)
	if reason := a.reason(); reason != "" {
		return "", errors.New(reason)
	}
	return a.String(), nil
}
