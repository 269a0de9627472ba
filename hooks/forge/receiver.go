package forge

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"mime"
	"net/http"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"
	"golang.org/x/time/rate"

	"github.com/headgate-cd/headgate/gitd/secret"
	"github.com/headgate-cd/headgate/hooks/delivery"
)

// Connection is one repository of a forge, as headgate.git configures it.
type Connection struct {
	Name       string
	Kind       Kind
	Repository string         // at the forge: "owner/name", with GitLab "group/…/name"
	Secrets    []secret.Value // of its webhook, one to three, so that they can be rotated without a loss
	Names      []string       // of these secrets
}

func (c Connection) nameOf(secret int) string {
	if secret >= len(c.Names) {
		return ""
	}
	return c.Names[secret]
}

// Limits of the receiver.
const (
	MaxBody       = 26 << 20  // GitHub sends nothing above 25 MB
	bodiesAtOnce  = 128 << 20 // bytes in flight, over all connections
	perSecond     = 1000      // deliveries to one connection, whoever sends them
	burst         = 2000
	takenAtOnce   = 1000 // of those that are signed; no forge has more to say, and a poll finds what it had
	takenASecond  = 100
	retryAfter    = "5" // seconds
	readChunk     = 64 << 10
	maxConnection = 100 // bytes of a connection's name
)

// Receiver answers POST /webhooks/{connection}. Its fields are set before the
// first request; it is safe for concurrent use.
type Receiver struct {
	// Connection finds a connection by its name.
	Connection func(name string) (Connection, bool)
	// Inbox is a connection's inbox.
	Inbox func(name string) (*delivery.Log, error)
	// Arrived is called when a delivery is durable. It must not block.
	Arrived func(connection string)
	Log     *slog.Logger
	Now     func() time.Time // nil: time.Now
	// BodyTimeout bounds how long a body may take to arrive; 0: 10 s.
	BodyTimeout time.Duration

	once     sync.Once
	inFlight *semaphore.Weighted

	mu       sync.Mutex
	limiters map[string]limits // by connections that exist
}

// answer is what a delivery is answered with: JSON, one sentence for people.
type answer struct {
	status  int
	Message string `json:"message"`
	Event   string `json:"event,omitempty"` // our id for it: "connection/7"
}

// ServeHTTP takes one delivery. It answers 202 when the delivery is on disk and
// 200 when it was there already; both are promises that it will be looked at.
// A delivery that is signed is never answered with 4xx because of what it is
// about: GitLab would switch the webhook off. The exception is one for another
// repository, which is a mistake in how the webhook was set up.
func (r *Receiver) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	a := r.receive(w, req)
	h := w.Header()
	h.Set("Content-Type", "application/json; charset=utf-8")
	h.Set("Cache-Control", "no-store")
	switch a.status {
	case http.StatusTooManyRequests, http.StatusServiceUnavailable:
		h.Set("Retry-After", retryAfter)
	case http.StatusMethodNotAllowed:
		h.Set("Allow", http.MethodPost)
	}
	w.WriteHeader(a.status)
	_ = json.NewEncoder(w).Encode(a) // a sender that has gone comes again
}

func (r *Receiver) now() time.Time {
	if r.Now == nil {
		return time.Now()
	}
	return r.Now()
}

func (r *Receiver) receive(w http.ResponseWriter, req *http.Request) answer {
	name := req.PathValue("connection")
	if req.Method != http.MethodPost {
		return answer{status: http.StatusMethodNotAllowed, Message: "a webhook is a POST"}
	}
	if kind, _, err := mime.ParseMediaType(req.Header.Get("Content-Type")); err != nil || kind != "application/json" {
		return answer{
			status:  http.StatusUnsupportedMediaType,
			Message: "the content type is not application/json: choose it in the webhook's settings at the forge",
		}
	}
	c, ok := Connection{}, false
	if len(name) <= maxConnection {
		c, ok = r.Connection(name)
	}
	if !ok {
		return answer{status: http.StatusNotFound, Message: "there is no connection of that name"}
	}
	limits, tooMany := r.limits(name), answer{
		status:  http.StatusTooManyRequests,
		Message: "too many deliveries of this connection at once",
	}
	now := r.now()
	// What could not be taken if it were signed is not even read: in a flood that is most.
	if !limits.come.AllowN(now, 1) || limits.taken.TokensAt(now) < 1 {
		return tooMany
	}

	body, release, err := r.readBody(w, req)
	defer release()
	if err != nil {
		return bodyAnswer(err)
	}
	proof, err := Verify(c.Kind, c.Secrets, req.Header, body, r.now())
	if err != nil {
		r.Log.Warn("refused a webhook", "connection", name, "err", err, "from", req.RemoteAddr)
		return answer{status: http.StatusUnauthorized, Message: err.Error()}
	}
	if !limits.taken.AllowN(r.now(), 1) { // apart, so that who cannot sign takes nobody's place
		return tooMany
	}
	repository, err := repositoryOf(c.Kind, body)
	if err != nil {
		return answer{status: http.StatusBadRequest, Message: "the body is not JSON"}
	}
	if repository != "" && !sameRepository(repository, c.Repository) {
		return answer{
			status:  http.StatusForbidden,
			Message: fmt.Sprintf("this connection is for %s: remove the webhook from other repositories", c.Repository),
		}
	}
	return r.keep(c, delivery.Delivery{
		ID:         deliveryID(c.Kind, req.Header),
		Event:      eventName(c.Kind, req.Header),
		At:         r.now(),
		Secret:     proof,
		SecretName: c.nameOf(proof),
		Body:       body,
	})
}

// keep makes a delivery durable.
func (r *Receiver) keep(c Connection, d delivery.Delivery) answer {
	inbox, err := r.Inbox(c.Name)
	if err != nil {
		r.Log.Error("opened no inbox", "connection", c.Name, "err", err)
		return answer{status: http.StatusServiceUnavailable, Message: "deliveries cannot be kept just now"}
	}
	receipt, err := inbox.Put(d)
	switch {
	case errors.Is(err, delivery.ErrFull):
		return answer{status: http.StatusTooManyRequests, Message: err.Error()}
	case err != nil:
		r.Log.Error("kept no delivery", "connection", c.Name, "err", err)
		return answer{status: http.StatusServiceUnavailable, Message: "deliveries cannot be kept just now"}
	}
	event := fmt.Sprintf("%s/%d", c.Name, receipt.Sequence)
	if receipt.Duplicate {
		return answer{status: http.StatusOK, Message: "duplicate", Event: event}
	}
	r.Arrived(c.Name)
	return answer{status: http.StatusAccepted, Message: "accepted", Event: event}
}

// limits are those of one connection.
type limits struct{ come, taken *rate.Limiter }

func (r *Receiver) limits(name string) limits {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.limiters == nil {
		r.limiters = map[string]limits{}
	}
	l, ok := r.limiters[name]
	if !ok {
		l = limits{rate.NewLimiter(perSecond, burst), rate.NewLimiter(takenASecond, takenAtOnce)}
		r.limiters[name] = l
	}
	return l
}

var (
	errBusy     = errors.New("too many bytes of deliveries in flight")
	errTooBig   = errors.New("the body is too big")
	errEncoding = errors.New("the body is encoded: send it as it was signed")
	errTimeout  = errors.New("the body did not come in time")
)

func bodyAnswer(err error) answer {
	switch {
	case errors.Is(err, errBusy):
		return answer{status: http.StatusTooManyRequests, Message: errBusy.Error()}
	case errors.Is(err, errTooBig):
		return answer{
			status:  http.StatusRequestEntityTooLarge,
			Message: fmt.Sprintf("the body is over %d MiB", MaxBody>>20),
		}
	case errors.Is(err, errEncoding):
		return answer{status: http.StatusUnsupportedMediaType, Message: errEncoding.Error()}
	}
	return answer{status: http.StatusRequestTimeout, Message: errTimeout.Error()}
}

// chunks are what bodies are read with: most are much shorter.
var chunks = sync.Pool{New: func() any { return new([readChunk]byte) }}

// readBody reads the body within bounds of size, time and bytes in flight: what
// is not there yet takes no part of the last. release gives its part back.
func (r *Receiver) readBody(w http.ResponseWriter, req *http.Request) (body []byte, release func(), err error) {
	r.once.Do(func() { r.inFlight = semaphore.NewWeighted(bodiesAtOnce) })
	held := int64(0)
	release = func() { r.inFlight.Release(held) }

	if req.ContentLength > MaxBody {
		return nil, release, errTooBig
	}
	if req.Header.Get("Content-Encoding") != "" {
		return nil, release, errEncoding
	}
	// An http.Server's connection takes a deadline; without one (tests that call
	// the handler) the body is in memory anyway.
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(cmp.Or(r.BodyTimeout, 10*time.Second)))

	chunk, _ := chunks.Get().(*[readChunk]byte)
	defer chunks.Put(chunk)
	for {
		n, err := req.Body.Read(chunk[:])
		if n > 0 {
			if len(body)+n > MaxBody {
				return nil, release, errTooBig
			}
			if !r.inFlight.TryAcquire(int64(n)) {
				return nil, release, errBusy
			}
			held += int64(n)
			body = append(body, chunk[:n]...)
		}
		switch {
		case err == io.EOF:
			return body, release, nil
		case err != nil:
			return nil, release, fmt.Errorf("%w: %w", errTimeout, err)
		case req.Context().Err() != nil:
			return nil, release, fmt.Errorf("%w: %w", errTimeout, context.Cause(req.Context()))
		}
	}
}

// deliveryID is the forge's name for a delivery, equal when it is sent again.
func deliveryID(k Kind, h http.Header) string {
	switch k {
	case GitHub:
		return h.Get("X-GitHub-Delivery")
	case GitLab:
		// Not X-Gitlab-Event-UUID: events that follow from one another share it.
		return firstOf(h, "Idempotency-Key", "Webhook-Id")
	case Gitea:
		return firstOf(h, "X-Forgejo-Delivery", "X-Gitea-Delivery")
	}
	return ""
}

func eventName(k Kind, h http.Header) string {
	switch k {
	case GitHub:
		return h.Get("X-GitHub-Event")
	case GitLab:
		return h.Get("X-Gitlab-Event")
	case Gitea:
		return firstOf(h, "X-Forgejo-Event", "X-Gitea-Event")
	}
	return ""
}

func firstOf(h http.Header, names ...string) string {
	for _, name := range names {
		if v := h.Get(name); v != "" {
			return v
		}
	}
	return ""
}
