package transport

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"regexp"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/headgate-cd/headgate/gitd/access"
	"github.com/headgate-cd/headgate/gitd/attempts"
	"github.com/headgate-cd/headgate/gitd/repo"
	"github.com/headgate-cd/headgate/gitd/show"
)

// HTTP serves git's smart protocol over HTTP. It answers three addresses below a
// repository's name, with or without ".git":
//
//	GET  info/refs?service=git-upload-pack or git-receive-pack
//	POST git-upload-pack
//	POST git-receive-pack
//
// Which right is needed follows from the service that runs, and nothing else that
// the client says. Its fields are set before its first use.
type HTTP struct {
	Transport *Transport
	Tokens    *Tokens

	once     sync.Once
	children context.Context
	end      context.CancelCauseFunc
	mu       sync.Mutex // held while a request begins, or all are ended
	work     sync.WaitGroup
}

// Bounds of a request's body, unpacked: of what a client wants and has, and of
// commands and a pack, which git bounds by itself (receive.maxInputSize).
const (
	maxFetchBody = 32 << 20
	maxPushBody  = 1 << 30
	maxMessage   = 4 << 10 // of what git says to people when it has no other way
)

// drained is how long a client that has its answer may go on sending.
const drained = 2 * time.Second

var errStopping = &show.Error{Kind: show.Again, What: "the server is restarting", Hint: "try again in a moment"}

func (h *HTTP) start() {
	h.once.Do(func() { h.children, h.end = context.WithCancelCause(context.Background()) })
}

// Close ends what still runs and returns when it has ended. The caller has closed
// the connections.
func (h *HTTP) Close() {
	h.start()
	h.mu.Lock()
	h.end(errStopping)
	h.mu.Unlock()
	h.work.Wait()
}

// begin notes a request, which calls work.Done at its end. False: all are being ended, and a
// request of a connection that was just closed begins no more.
func (h *HTTP) begin() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.children.Err() != nil {
		return false
	}
	h.work.Add(1)
	return true
}

// Before answers git's addresses, and leaves all others to next.
func (h *HTTP) Before(next http.Handler) http.Handler {
	h.start()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		route, ok := routeOf(r)
		if !ok {
			next.ServeHTTP(w, r)
			return
		}
		if !h.begin() {
			w.Header().Set("Retry-After", "1")
			http.Error(w, errStopping.What+"; "+errStopping.Hint, http.StatusServiceUnavailable)
			return
		}
		defer h.work.Done()
		h.serve(w, r, route)
	})
}

// route is what an address of git's asks for.
type route struct {
	repository string
	method     string
	service    Service // "" for the protocol of files, which this server does not speak
	advertise  bool
}

// protocolForm is a well-formed GIT_PROTOCOL.
var protocolForm = regexp.MustCompile(`^version=[0-2](:[a-z0-9-]+(=[a-z0-9.-]+)?){0,8}$`)

// ValidProtocol reports whether s can be handed to git as GIT_PROTOCOL.
func ValidProtocol(s string) bool { return protocolForm.MatchString(s) }

// routeOf is the route of a request, if its address is one of git's. An address
// that is spelled in an unusual way is not.
func routeOf(r *http.Request) (route, bool) {
	name, rest, ok := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	name = strings.TrimSuffix(name, ".git")
	if !ok || r.URL.RawPath != "" || repo.CheckName(name) != nil {
		return route{}, false
	}
	if slices.Contains(access.Reserved(), strings.ToLower(name)) && name != access.Own {
		return route{}, false
	}
	switch rest {
	case "info/refs":
		to := route{repository: name, method: http.MethodGet, advertise: true}
		if asked := r.URL.Query()["service"]; len(asked) == 1 &&
			(asked[0] == string(UploadPack) || asked[0] == string(ReceivePack)) {
			to.service = Service(asked[0])
		}
		return to, true
	case string(UploadPack), string(ReceivePack):
		return route{repository: name, method: http.MethodPost, service: Service(rest)}, true
	}
	if rest == "HEAD" || strings.HasPrefix(rest, "objects/") {
		return route{repository: name, method: http.MethodGet}, true
	}
	return route{}, false
}

// right is what a service takes.
func (s Service) right() access.Right {
	if s == ReceivePack {
		return access.Write
	}
	return access.Read
}

func (h *HTTP) serve(w http.ResponseWriter, r *http.Request, to route) {
	w.Header().Set("Cache-Control", "no-cache, max-age=0, must-revalidate")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.Header().Set("Vary", "Authorization, Git-Protocol")
	answer := &answer{w: w, control: http.NewResponseController(w)}
	defer func() {
		if p := recover(); p != nil {
			if p != http.ErrAbortHandler {
				h.Transport.Log.Error("contained a panic in a request", "path", r.URL.Path, "err", p, "stack",
					string(debug.Stack()))
			}
			panic(http.ErrAbortHandler) // ends the connection without an answer that could be taken for whole
		}
	}()
	h.Transport.start()

	if r.Method != to.method {
		w.Header().Set("Allow", to.method)
		answer.refuse(http.StatusMethodNotAllowed, &show.Error{What: r.Method + " is not answered here"})
		return
	}
	if to.service == "" {
		answer.refuse(http.StatusForbidden, &show.Error{
			What: "this server speaks git's smart protocol only, to fetch and to push",
			Hint: "use a git newer than 1.6.6, and leave GIT_SMART_HTTP alone",
		})
		return
	}
	actor, key, ok := h.authorise(answer, r, to)
	if !ok {
		return
	}
	h.run(answer, r, to, actor, key)
}

// authorise says who asks and that they may, or answers that they may not.
func (h *HTTP) authorise(w *answer, r *http.Request, to route) (who access.Identity, key string, ok bool) {
	who, key, refusal := h.Tokens.Authorise(r, to.service.right(), to.repository)
	if refusal != nil {
		refusal.Header(w.w.Header())
		w.refuse(refusal.Status, refusal.Err)
	}
	return who, key, refusal == nil
}

// run has git answer.
func (h *HTTP) run(w *answer, r *http.Request, to route, actor access.Identity, key string) {
	request := Request{
		Source:     attempts.Network(r.RemoteAddr).String(),
		Actor:      actor,
		Key:        key,
		Service:    to.service,
		Repository: to.repository,
		Stateless:  true,
		Advertise:  to.advertise,
	}
	if p := r.Header.Get("Git-Protocol"); ValidProtocol(p) {
		request.Protocol = p
	}
	in := &body{r: strings.NewReader("")}
	kind := "application/x-" + string(to.service)
	if to.advertise {
		w.kind = kind + "-advertisement"
		if to.service == ReceivePack || !strings.HasPrefix(request.Protocol, "version=2") {
			line := "# service=" + string(to.service) + "\n"
			w.first = fmt.Sprintf("%04x%s0000", len(line)+4, line)
		}
	} else {
		w.kind = kind + "-result"
		if got, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || got != kind+"-request" {
			w.refuse(http.StatusUnsupportedMediaType, &show.Error{What: "the body must be of the type " + kind + "-request"})
			return
		}
		var err error
		if in, err = bodyOf(r, to.service); err != nil {
			w.refuse(http.StatusUnsupportedMediaType, &show.Error{What: err.Error()})
			return
		}
	}

	// Each is an error only of a ResponseWriter that is not the server's own. What
	// the server gives a request altogether is no measure of a push: the child is
	// watched instead (Limits).
	_ = w.control.SetReadDeadline(time.Time{})
	_ = w.control.SetWriteDeadline(time.Time{})
	_ = w.control.EnableFullDuplex()

	var reading sync.WaitGroup
	var said message
	status, err := h.Transport.Serve(h.children, request, Client{
		In:   in,
		Out:  w,
		Err:  &said,
		Gone: r.Context(),
		Kick: func() {
			past := time.Now().Add(-time.Second)
			_ = w.control.SetReadDeadline(past) // an error: there is no connection any more
			_ = w.control.SetWriteDeadline(past)
		},
		Reading: &reading,
	})
	late := time.AfterFunc(drained, func() { _ = w.control.SetReadDeadline(time.Now().Add(-time.Second)) })
	reading.Wait()
	// In full duplex net/http takes what is left of a body for the next request, or
	// reads it in two places at once: nothing may be left.
	_, unread := io.Copy(io.Discard, r.Body)
	late.Stop()
	if unread != nil && !w.started {
		w.w.Header().Set("Connection", "close")
	}

	switch {
	case w.started && (err != nil || unread != nil), w.broken:
		panic(http.ErrAbortHandler) // so that the client does not take what it has for all
	case err != nil:
		w.fail(err)
	case !w.started && in.over.Load():
		w.refuse(http.StatusRequestEntityTooLarge,
			&show.Error{What: fmt.Sprintf("the request is longer than %d MiB", in.most>>20)})
	case !w.started && status != 0:
		h.Transport.Log.Info("git refused a request", "repo", to.repository, "verb", string(to.service), "user", actor.User,
			"status", status)
		w.refuse(http.StatusBadRequest, &show.Error{What: "git could not read the request", Where: []string{said.String()}})
	case !w.started:
		w.Write(nil)
	}
}

// answer is the response: started with the first byte that git writes, each flushed
// as it comes, for people read what a push says while it runs.
type answer struct {
	w       http.ResponseWriter
	control *http.ResponseController
	kind    string // of content
	first   string // what stands before git's own
	started bool
	broken  bool
}

func (a *answer) Write(p []byte) (n int, err error) {
	if !a.started {
		a.started = true
		a.w.Header().Set("Content-Type", a.kind)
		a.w.WriteHeader(http.StatusOK)
		if _, err := io.WriteString(a.w, a.first); err != nil {
			a.broken = true
			return 0, err
		}
	}
	if n, err = a.w.Write(p); err == nil {
		err = a.control.Flush()
	}
	a.broken = a.broken || err != nil
	return n, err
}

// fail answers with an error for the person who asked.
func (a *answer) fail(err error) {
	refusal := RefusalOf(err)
	refusal.Header(a.w.Header())
	a.refuse(refusal.Status, refusal.Err)
}

// refuse answers with a status and lines that git shows behind "remote:".
func (a *answer) refuse(status int, e *show.Error) {
	text := "error: " + e.What + "\n"
	for _, where := range e.Where {
		text += "  " + where + "\n"
	}
	if e.Hint != "" {
		text += "hint: " + e.Hint + "\n"
	}
	a.w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	a.w.WriteHeader(status)
	_, _ = io.WriteString(a.w, text) // an error: there is nobody to tell
}

// body is what a client sends, unpacked and bounded.
type body struct {
	r    io.Reader
	most int64
	n    int64
	over atomic.Bool // it was longer
}

// bodyOf is the body of a request. git packs what it wants and has with gzip.
func bodyOf(r *http.Request, service Service) (*body, error) {
	b := &body{r: r.Body, most: maxFetchBody}
	if service == ReceivePack {
		b.most = maxPushBody
	}
	switch encoding := r.Header.Get("Content-Encoding"); encoding {
	case "", "identity":
	case "gzip", "x-gzip":
		b.r = &unpacked{from: r.Body}
	default:
		return nil, fmt.Errorf("the body is encoded as %q; this server reads gzip", encoding)
	}
	return b, nil
}

var errTooLong = errors.New("the request is too long")

func (b *body) Read(p []byte) (int, error) {
	if b.most > 0 && b.n >= b.most {
		// One byte more tells whether it ends here.
		var one [1]byte
		if n, err := io.ReadFull(b.r, one[:]); n == 0 {
			return 0, err
		}
		b.over.Store(true)
		return 0, errTooLong
	}
	if b.most > 0 {
		p = p[:min(int64(len(p)), b.most-b.n)]
	}
	n, err := b.r.Read(p)
	b.n += int64(n)
	return n, err
}

// unpacked reads gzip. Its header is read with the first byte, not before: the
// client may take its time with it.
type unpacked struct {
	from io.Reader
	zip  *gzip.Reader
}

func (u *unpacked) Read(p []byte) (n int, err error) {
	if u.zip == nil {
		if u.zip, err = gzip.NewReader(u.from); err != nil {
			return 0, err
		}
	}
	return u.zip.Read(p)
}

// message keeps the beginning of what git says to people. It is written by one
// goroutine, which has ended when it is read.
type message struct{ bytes.Buffer }

func (m *message) Write(p []byte) (int, error) {
	m.Buffer.Write(p[:min(len(p), max(0, maxMessage-m.Len()))])
	return len(p), nil
}

// String is one line.
func (m *message) String() string { return strings.Join(strings.Fields(m.Buffer.String()), " ") }
