package event

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"time"

	"github.com/headgate-cd/headgate/gitd/access"
	"github.com/headgate-cd/headgate/gitd/secret"
	"github.com/headgate-cd/headgate/gitd/signal"
	"github.com/headgate-cd/headgate/gitd/terminal"
	"github.com/headgate-cd/headgate/hooks/delivery"
)

// How long and how often an event is tried.
const (
	keepTrying    = 24 * time.Hour
	shortestRetry = 5 * time.Second // doubled while it fails
	longestRetry  = time.Hour
	tryTimeout    = 15 * time.Second
	maxAnswer     = 4 << 10 // bytes of an answer that are read
)

// endpoint delivers to one address. Its goroutine (run) owns what is not behind
// mu.
type endpoint struct {
	name    string
	outbox  *delivery.Log
	access  func() *access.Config
	secrets *secret.Store
	now     func() time.Time

	mail  signal.Mailbox[struct{}] // something is pending, or server.yaml is another
	tries map[int64]try            // of what this endpoint alone refuses, by sequence

	mu      sync.Mutex
	down    try    // of all, while the endpoint does not answer
	failing string // why the newest try failed, "" when it did not
	retry   bool   // try now, whatever the time
	last    time.Time
	skipped int64 // that the outbox had no room for, since the start
}

// try is when to try again, and how often it has failed.
type try struct {
	failed int
	at     time.Time
	reason string // why the newest failed
}

// next is the try after one that failed at now. The endpoint may ask for more
// time, but not for more than the longest.
func (t try) next(now time.Time, a answer) try {
	wait := min(shortestRetry<<min(t.failed, 20), longestRetry)
	wait += rand.N(wait/10 + 1) // endpoints that went down together do not come back to one rush
	return try{failed: t.failed + 1, at: now.Add(max(wait, min(a.after, longestRetry))), reason: a.reason()}
}

// run delivers until ctx is done.
func (e *endpoint) run(ctx context.Context) {
	for {
		at := e.deliver(ctx)
		if ctx.Err() != nil {
			return
		}
		var timer <-chan time.Time
		if !at.IsZero() {
			timer = time.After(at.Sub(e.now()))
		}
		select {
		case <-ctx.Done():
			return
		case <-e.mail.C():
		case <-timer:
		}
	}
}

// tryNow has all that is pending tried without waiting.
func (e *endpoint) tryNow() {
	e.mu.Lock()
	e.retry = true
	e.mu.Unlock()
	e.mail.Wake()
}

// deliver tries all that is due, oldest first, and returns when the next is; the
// zero time, when nothing is pending.
func (e *endpoint) deliver(ctx context.Context) (next time.Time) {
	e.mu.Lock()
	if e.retry {
		e.retry, e.down = false, try{}
		clear(e.tries)
	}
	down := e.down
	e.mu.Unlock()

	conf, there := e.access().EventEndpoint(e.name)
	if !there {
		return time.Time{}
	}
	earliest := func(at time.Time) {
		if next.IsZero() || at.Before(next) {
			next = at
		}
	}
	client, closeIdle := newClient(conf)
	defer closeIdle()

	for _, sequence := range e.outbox.Pending() {
		if ctx.Err() != nil {
			return time.Time{}
		}
		d, err := e.outbox.Read(sequence)
		if err != nil {
			e.settle(delivery.Parked, err.Error(), sequence)
			continue
		}
		now := e.now()
		old := now.Sub(d.At) >= keepTrying
		if down.at.After(now) {
			if old {
				e.giveUp(sequence, down.reason)
				continue
			}
			earliest(down.at)
			continue
		}
		if t := e.tries[sequence]; t.at.After(now) {
			earliest(t.at)
			continue
		}

		a := e.send(ctx, client, conf, d.ID, d.Body)
		if ctx.Err() != nil {
			return time.Time{} // it stays pending
		}
		now = e.now()
		if a.class == unavailable {
			down = down.next(now, a)
		} else {
			down = try{}
		}
		e.mu.Lock()
		e.failing, e.down = a.reason(), down
		e.mu.Unlock()

		switch {
		case a.class == accepted:
			e.settle(delivery.Delivered, a.String(), sequence)
		case a.class == gone:
			e.settle(delivery.Parked, a.String(), sequence)
		case old:
			e.giveUp(sequence, a.reason())
		case a.class == refused:
			e.tries[sequence] = e.tries[sequence].next(now, a)
			earliest(e.tries[sequence].at)
		default:
			earliest(down.at)
		}
	}
	return next
}

// giveUp parks an event that was tried for long enough.
func (e *endpoint) giveUp(sequence int64, reason string) {
	e.settle(delivery.Parked, "given up after a day: "+reason, sequence)
}

// settle records what became of an event. When that cannot be written it stays
// pending and is delivered again, which its ID tells.
func (e *endpoint) settle(o delivery.Outcome, detail string, sequence int64) {
	delete(e.tries, sequence)
	if err := e.outbox.Settle(o, detail, sequence); err != nil {
		e.mu.Lock()
		defer e.mu.Unlock()
		e.failing = err.Error()
	}
	if o == delivery.Delivered {
		e.mu.Lock()
		defer e.mu.Unlock()
		e.last = e.now()
	}
}

// class is what an answer means.
type class int

const (
	accepted    class = iota // 2xx
	refused                  // this event is not taken; others may be
	gone                     // it will never be taken
	unavailable              // nothing is taken now
)

// answer is what an endpoint said.
type answer struct {
	class  class
	status int           // 0: it said nothing, and err says why
	after  time.Duration // it asks for that much time
	err    error
}

func (a answer) String() string {
	switch {
	case a.status == 0:
		return terminal.Message(a.err.Error(), 300)
	case a.err != nil:
		return strconv.Itoa(a.status) + ", " + terminal.Message(a.err.Error(), 300)
	}
	return fmt.Sprintf("%d %s", a.status, http.StatusText(a.status))
}

// reason is why it was not accepted, "" when it was.
func (a answer) reason() string {
	if a.class == accepted {
		return ""
	}
	return a.String()
}

// send posts an event once.
func (e *endpoint) send(ctx context.Context, client *http.Client, conf access.EventEndpoint, id string,
	body []byte) answer {
	value, err := e.secrets.Get(secret.ID{Name: conf.Secret})
	if errors.Is(err, secret.ErrNotFound) {
		err = fmt.Errorf("the secret %s is not set: ssh host secret set %s <file", conf.Secret, conf.Secret)
	}
	var key []byte
	if err == nil {
		key, err = keyOf(value)
	}
	if err != nil {
		return answer{class: unavailable, err: err}
	}
	return post(ctx, client, conf.URL, key, id, e.now(), body)
}

// post posts a signed body and reads the answer.
func post(ctx context.Context, client *http.Client, to string, key []byte, id string, at time.Time,
	body []byte) answer {
	ctx, cancel := context.WithTimeout(ctx, tryTimeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, to, bytes.NewReader(body))
	if err != nil {
		return answer{class: unavailable, err: err}
	}
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("User-Agent", "Headgate")
	sign(request.Header, key, id, at, body)

	response, err := client.Do(request)
	if err != nil {
		return answer{class: unavailable, err: withoutURL(err)}
	}
	defer response.Body.Close()
	// So that the connection can be used again.
	_, _ = io.Copy(io.Discard, io.LimitReader(response.Body, maxAnswer))
	return read(response, at)
}

// read says what a status means.
func read(response *http.Response, now time.Time) answer {
	a := answer{status: response.StatusCode, class: refused}
	switch s := response.StatusCode; {
	case s >= 200 && s < 300:
		a.class = accepted
	case s >= 300 && s < 400:
		a.class, a.err = unavailable, errors.New("a redirect, which is not followed: give the address that it leads to")
	case s == http.StatusGone:
		a.class = gone
	case s == http.StatusUnauthorized, s == http.StatusForbidden, s == http.StatusNotFound,
		s == http.StatusRequestTimeout, s == http.StatusTooManyRequests, s >= 500:
		a.class = unavailable // what it says of this event it says of all
	}
	if seconds, err := strconv.Atoi(response.Header.Get("Retry-After")); err == nil && seconds > 0 {
		a.after = time.Duration(min(seconds, int(longestRetry/time.Second))) * time.Second
	} else if at, err := http.ParseTime(response.Header.Get("Retry-After")); err == nil {
		a.after = at.Sub(now)
	}
	return a
}

// withoutURL is an error of package http without the address, which is in
// server.yaml and may say more than is to be logged.
func withoutURL(err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		return u.Err
	}
	return err
}

// newClient is a client that speaks to one endpoint, and to no address inside
// that it does not allow. It follows no redirect and uses no proxy.
func newClient(conf access.EventEndpoint) (client *http.Client, closeIdle func()) {
	dialer := &net.Dialer{Timeout: tryTimeout, Control: control(conf.Allow)}
	transport := &http.Transport{
		DialContext:            dialer.DialContext,
		ForceAttemptHTTP2:      true,
		TLSHandshakeTimeout:    tryTimeout,
		MaxResponseHeaderBytes: 64 << 10,
		MaxIdleConnsPerHost:    1,
	}
	return &http.Client{
		Transport:     transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}, transport.CloseIdleConnections
}
