// Package web is the console: the facts of gitd/show as pages in a browser,
// and as JSON at the same addresses.
//
// Server has what the console needs; Server.Handler is all of it. Every page
// is one function from a request to a page value (home.go, repository.go,
// change.go …): the same value is rendered whole, part by part on a live
// stream (live.go), or as JSON. The table in routes.go is the only place where
// an address gets a meaning; what it does not name does not exist. The handler
// stands at "/" of the server's http.ServeMux, beside whatever else the server
// answers; names that repositories must not have are access.Reserved.
//
// Who somebody is comes from a session that a one-time code opened (`ssh host
// login` prints the code); what they may do is asked afresh for each request.
// GET changes nothing; POSTs come from the console's own pages. User data is
// only ever text: there is no inline script or style, and the Content-Security-
// Policy forbids both.
//
// Left to others: the facts and the acts (show.Backend), rights (Actor), codes
// (Login), and the listener. The caller's http.Server sets ReadHeaderTimeout,
// ReadTimeout (bodies are at most 64 KiB), IdleTimeout, and a BaseContext that
// ends when the server stops, which ends the live streams; WriteTimeout may be
// set, streams extend it as they write.
package web

import (
	"context"
	"embed"
	"html/template"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/headgate-cd/headgate/gitd/access"
	"github.com/headgate-cd/headgate/gitd/attempts"
	"github.com/headgate-cd/headgate/gitd/show"
)

// Login redeems the one-time codes that `ssh host login` prints. Redeem
// consumes the code: a second call with the same code is not ok. It decides
// about spelling (case, dash); the console only trims space around the code.
type Login interface {
	Redeem(code string) (user string, ok bool)
}

// Server is the console. All fields but Now and Log must be set before
// Handler; they are not changed afterwards.
type Server struct {
	Backend show.Backend
	// Actor looks up a user's rights, at each request. False: no such user
	// (any more), and their sessions count for nothing.
	Actor func(ctx context.Context, name string) (access.Identity, bool)
	// Administers reports whether an actor administers the server.
	Administers func(access.Identity) bool
	// Unwell says what does not work, for everybody, who ask /healthz. nil: nothing
	// is looked at.
	Unwell func() []string
	Login  Login
	Key    []byte       // 32 bytes that sign session cookies; keep it across restarts and sessions survive them
	Log    *slog.Logger // nil: slog.Default
	// Now is the clock; its zone is the zone of every time shown. nil: the
	// wall clock in UTC.
	Now func() time.Time
}

// maxBody bounds every request body, in bytes.
const maxBody = 64 << 10

//go:embed templates assets
var files embed.FS

// site is a Server at work.
type site struct {
	Server
	pages    *template.Template
	sessions *sessions
	attempts attempts.Limiter
	streams  *streams
	kept     *figureStore

	differences *differences
	assets      map[string]asset
	csrf        *http.CrossOriginProtection

	mux          *http.ServeMux // of all addresses
	repositories *http.ServeMux // of those below a repository's name

	mu   sync.Mutex // guards base
	base string     // what learn has seen
}

// Handler returns the console. It panics when Key is not 32 bytes: an unsigned
// session must not be possible by oversight.
func (s *Server) Handler() http.Handler {
	if len(s.Key) != 32 {
		panic("web: Server.Key must be 32 bytes")
	}
	t := &site{Server: *s, streams: newStreams(), kept: newFigureStore(), differences: &differences{},
		csrf: http.NewCrossOriginProtection()}
	if t.Log == nil {
		t.Log = slog.Default()
	}
	if t.Now == nil {
		t.Now = func() time.Time { return time.Now().UTC() }
	}
	t.sessions = newSessions(s.Key)
	t.assets = loadAssets()
	t.pages = parseTemplates(t.assets)
	t.mount()
	return t
}

// learn takes in the console's base URL, which may be known only once the
// server listens, and may differ from what reaches us behind a proxy that ends
// TLS: https makes cookies secure, and the origin is trusted to send forms.
func (t *site) learn(base string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if base == t.base {
		return
	}
	t.base = base
	u, err := url.Parse(base)
	if err != nil || u.Host == "" {
		return // no origin: nothing more is trusted
	}
	t.sessions.secure.Store(u.Scheme == "https")
	if err := t.csrf.AddTrustedOrigin(u.Scheme + "://" + u.Host); err != nil {
		t.Log.Warn("the console's base URL is no origin that could be trusted", "url", base, "err", err)
	}
}

// ServeHTTP takes a request from the socket to its route. An address that could
// be read in two ways is nowhere: http.ServeMux would tidy it up into a page.
func (t *site) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	setHeaders(w.Header())
	if ambiguousPath(r.URL) {
		t.serve(ambiguousRoute, w, r)
		return
	}
	clean := strings.TrimRight(r.URL.Path, "/")
	if clean != r.URL.Path && clean != "" && (r.Method == http.MethodGet || r.Method == http.MethodHead) {
		to := url.URL{Path: clean, RawQuery: r.URL.RawQuery}
		http.Redirect(w, r, to.String(), http.StatusPermanentRedirect)
		return
	}
	t.mux.ServeHTTP(w, r)
}

// serve answers for a route: session, method, origin, then the page or the act.
func (t *site) serve(rt *route, w http.ResponseWriter, r *http.Request) {
	out := &outcome{ResponseWriter: w}
	q := &request{site: t, w: out, r: r, now: t.Now()}
	defer func() {
		if p := recover(); p != nil {
			if p == http.ErrAbortHandler {
				panic(p)
			}
			q.crashed(p, out)
		}
	}()

	q.server = t.Backend.Server(r.Context())
	t.learn(q.server.HTTP)
	if rt.public {
		q.know()
	} else if !q.signIn() {
		return
	}

	if err := q.allowed(rt); err != nil {
		q.fail(err)
		return
	}
	if r.Method != http.MethodPost {
		if err := rt.serve(q); err != nil {
			q.fail(err)
		}
		return
	}

	if err := t.csrf.Check(r); err != nil {
		q.fail(&show.Error{Kind: show.Forbidden, What: "this form was sent from another site",
			Hint: "open the page here and send it again"})
		return
	}
	if err := q.readForm(); err != nil {
		q.fail(err)
		return
	}
	if q.session.ID != "" && rt.pattern != signInPattern && !q.sessions.holds(q.session, q.form("token")) {
		q.fail(&show.Error{Kind: show.Forbidden, What: "this form is not from a page of your session",
			Hint: "open the page again and send its form"})
		return
	}
	if err := rt.act(q); err != nil {
		q.fail(err)
	}
}

// setHeaders writes what every answer carries, errors and assets included.
func setHeaders(h http.Header) {
	h.Set("Content-Security-Policy",
		"default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; "+
			"form-action 'self'; base-uri 'none'; frame-ancestors 'none'")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("X-Frame-Options", "DENY")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Permissions-Policy", "camera=(), display-capture=(), geolocation=(), microphone=(), payment=(), usb=()")
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	h.Set("Cache-Control", "no-store")
	h.Add("Vary", "Accept, Cookie")
}

// outcome remembers whether an answer has begun, so that a late failure does
// not write a second one into it.
type outcome struct {
	http.ResponseWriter
	started bool
}

func (o *outcome) WriteHeader(status int) { o.started = true; o.ResponseWriter.WriteHeader(status) }
func (o *outcome) Write(b []byte) (int, error) {
	o.started = true
	return o.ResponseWriter.Write(b)
}
func (o *outcome) Unwrap() http.ResponseWriter { return o.ResponseWriter }
