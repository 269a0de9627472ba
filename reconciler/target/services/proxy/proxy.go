package proxy

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/headgate-cd/headgate/gitd/show"
)

// Listener serves HTTP/1 and HTTP/2, in clear (h2c) or with TLS, on an address from
// pools.
type Listener struct {
	listener net.Listener
	server   *http.Server
	routes   atomic.Pointer[routes]
	tls      atomic.Pointer[tls.Config] // nil: in clear
	instead  atomic.Pointer[http.Handler]
	proxy    *httputil.ReverseProxy
	done     chan struct{}
}

// Transport is what requests go to instances with. Close its idle connections
// when no listener needs it any more.
func Transport() *http.Transport {
	return &http.Transport{
		DialContext:         (&net.Dialer{Timeout: 2 * time.Second}).DialContext,
		MaxIdleConnsPerHost: 64,
		// Shorter than the 5 s after which common servers close an idle connection:
		// a request must not meet that end.
		IdleConnTimeout:    4 * time.Second,
		DisableCompression: true,
	}
}

// HTTP2Transport is the same for instances that speak HTTP/2 in clear, as for gRPC.
func HTTP2Transport() *http.Transport {
	t := Transport()
	t.Protocols = new(http.Protocols)
	t.Protocols.SetUnencryptedHTTP2(true)
	return t
}

// consoleCookie begins the names of the console's cookies. Browsers send them to
// every port of the console's host, and whoever has one is its user.
const consoleCookie = "headgate-"

// withoutConsole takes the console's cookies out of a request: what an
// application has never seen it cannot replay. The other cookies stay as they
// were written, which need not be as Go would write them.
func withoutConsole(h http.Header) {
	for i, line := range h["Cookie"] {
		var kept []string
		for part := range strings.SplitSeq(line, ";") {
			name, _, _ := strings.Cut(strings.TrimSpace(part), "=")
			name = strings.TrimPrefix(strings.TrimSpace(name), "__Host-")
			if !strings.HasPrefix(strings.ToLower(name), consoleCookie) {
				kept = append(kept, part)
			}
		}
		h["Cookie"][i] = strings.TrimSpace(strings.Join(kept, ";"))
	}
	h["Cookie"] = slices.DeleteFunc(h["Cookie"], func(line string) bool { return line == "" })
	if len(h["Cookie"]) == 0 {
		delete(h, "Cookie")
	}
}

// maxHeaderBytes is what a listener takes of the header of a request at most. Pools may
// take less.
const maxHeaderBytes = 256 << 10

// reserved reports whether a service was called by the console's name, with which
// a browser would send it the console's session.
func reserved(host string) bool {
	u := url.URL{Host: host}
	return strings.EqualFold(strings.TrimSuffix(u.Hostname(), "."), show.ConsoleHost)
}

// ServeOn serves what listens on a TCP address from pool, behind those that are
// trusted, nil for nobody.
func ServeOn(ln net.Listener, pool *Pool, transport *http.Transport, trusted Trusted, log *slog.Logger) *Listener {
	l := &Listener{listener: ln, done: make(chan struct{})}
	l.Serve(pool)
	errorLog := slog.NewLogLogger(log.Handler(), slog.LevelDebug)
	l.proxy = &httputil.ReverseProxy{
		Rewrite:        trusted.rewrite,
		Transport:      carrier{transport},
		ModifyResponse: markUpgrade,
		ErrorHandler:   refuse,
		ErrorLog:       errorLog,
		BufferPool:     &buffers{},
	}
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(true)
	protocols.SetUnencryptedHTTP2(true)
	l.server = &http.Server{
		Handler:           l,
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    maxHeaderBytes,
		Protocols:         protocols,
		ErrorLog:          errorLog,
	}
	go func() {
		defer close(l.done)
		// Serve returns when the listener is closed, which is the only way it ends.
		_ = l.server.Serve(secured{ln, &l.tls})
	}()
	return l
}

// secured accepts connections that speak TLS when that is configured at the time.
type secured struct {
	net.Listener
	config *atomic.Pointer[tls.Config]
}

func (s secured) Accept() (net.Conn, error) {
	conn, err := s.Listener.Accept()
	if config := s.config.Load(); err == nil && config != nil {
		return tls.Server(conn, config), nil
	}
	return conn, err
}

// Secure serves new connections with TLS from now on; with nil, in clear.
func (l *Listener) Secure(config *tls.Config) { l.tls.Store(config) }

// Instead has h answer requests from now on, and no pool; with nil, pools again.
func (l *Listener) Instead(h http.Handler) {
	if h == nil {
		l.instead.Store(nil)
		return
	}
	l.instead.Store(&h)
}

// ServeHTTP carries one request.
func (l *Listener) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if reserved(r.Host) {
		say(w, r, nil, http.StatusMisdirectedRequest,
			"a service is here, and "+show.ConsoleHost+" is the console's name: call it by another")
		return
	}
	if h := l.instead.Load(); h != nil {
		(*h).ServeHTTP(w, r)
		return
	}
	pool := l.routes.Load().find(r)
	if pool == nil {
		say(w, r, nil, http.StatusNotFound, "no service is here for "+r.Host+r.URL.Path)
		return
	}
	settings := pool.Settings()
	began := time.Now()
	control := http.NewResponseController(w)
	answer := &answerWriter{ResponseWriter: w, control: control, stall: settings.Stall}
	ctx, cancel := context.WithCancelCause(r.Context())
	f := &flight{pool: pool, cancel: cancel}
	pool.metrics.began()
	defer func() {
		pool.leave(f)
		cancel(nil)
		a := Access{
			At:       began,
			Remote:   r.RemoteAddr,
			Method:   r.Method,
			Host:     r.Host,
			URI:      r.RequestURI,
			Proto:    r.Proto,
			Status:   answer.status,
			Bytes:    answer.bytes,
			Duration: time.Since(began),
			Instance: f.instance,
			Release:  f.release,
			Agent:    r.UserAgent(),
			Referer:  r.Referer(),
		}
		pool.metrics.ended(a, f.tries)
		if settings.Access != nil {
			settings.Access(a)
		}
	}()

	switch {
	case settings.Traffic == Maintenance:
		w.Header().Set("Retry-After", "60")
		say(answer, r, settings.Page, http.StatusServiceUnavailable, pool.Name+": down for maintenance")
		return
	case settings.MaxHeader > 0 && headerSize(r) > settings.MaxHeader:
		say(answer, r, nil, http.StatusRequestHeaderFieldsTooLarge, pool.Name+": the header of the request is too large")
		return
	case settings.MaxBody > 0 && r.ContentLength > settings.MaxBody:
		say(answer, r, nil, http.StatusRequestEntityTooLarge, pool.Name+": "+errTooLarge.Error())
		return
	}
	pool.assign(f, answer, r)
	if r.Body != nil && r.Body != http.NoBody {
		// An instance may begin to answer before it has all of the request. HTTP/2 always can.
		_ = control.EnableFullDuplex()
		f.body = &heldBody{ReadCloser: r.Body, control: control, stall: settings.Stall, left: -1}
		if settings.MaxBody > 0 {
			f.body.left = settings.MaxBody
		}
	}
	l.proxy.ServeHTTP(answer, r.WithContext(context.WithValue(ctx, flightKey{}, f)))
}

// Address is what is listened on, with the port that a 0 became.
func (l *Listener) Address() *net.TCPAddr { return l.listener.Addr().(*net.TCPAddr) }

// Serve serves all requests from one pool from now on.
func (l *Listener) Serve(pool *Pool) { l.Route(Route{Pool: pool}) }

// Route serves from several pools from now on.
func (l *Listener) Route(all ...Route) {
	to := routes(all)
	l.routes.Store(&to)
}

// Stop stops listening: the address is free when it returns. Close is to follow.
func (l *Listener) Stop() {
	_ = l.listener.Close() // which Close does again, and does not mind
	<-l.done
}

// Close stops listening at once, lets requests in flight finish until ctx ends,
// and then closes what is left.
func (l *Listener) Close(ctx context.Context) {
	if err := l.server.Shutdown(ctx); err != nil {
		// The context ended first; Close only reports listeners closed already.
		_ = l.server.Close()
	}
	<-l.done
}

type flightKey struct{}

func flightOf(r *http.Request) *flight { return r.Context().Value(flightKey{}).(*flight) }

// Why an instance does not answer a request.
var (
	errNoInstance = errors.New("no healthy instance")
	errPaused     = errors.New("paused")
	errStopped    = errors.New("the instance was stopped")
	errTooLong    = errors.New("took too long")
)

// carrier sends a request to an instance of its flight's pool, and to another one
// when that is sure to do no harm.
type carrier struct{ transport http.RoundTripper }

func (c carrier) RoundTrip(r *http.Request) (*http.Response, error) {
	f := flightOf(r)
	settings := f.pool.Settings()
	timeout := newAnswerTimeout(settings.Timeout, func() { f.cancel(errTooLong) })
	defer timeout.end()
	if f.body != nil {
		f.body.active.Store(timeout)
	}
	var holding context.Context
	var tried []string
	var failure error
	for {
		to, ok := f.pool.take(f, tried)
		if !ok && failure != nil {
			return nil, failure
		}
		if !ok {
			if holding == nil {
				var cancel context.CancelFunc
				holding, cancel = context.WithTimeout(r.Context(), settings.Hold)
				defer cancel()
			}
			if err := f.pool.wait(holding); err != nil {
				return nil, err
			}
			continue
		}
		timeout.again()
		out, at := *r, *r.URL
		out.URL, at.Host = &at, to.Address
		if f.body != nil {
			out.Body = f.body
		}
		transport := c.transport
		if to.HTTP2 {
			transport = settings.HTTP2
		}
		resp, err := transport.RoundTrip(&out)
		if err == nil {
			return resp, nil
		}
		f.pool.leave(f)
		failure = fmt.Errorf("%s: %w", to.ID, err)
		tried = append(tried, to.ID)
		if r.Context().Err() != nil || len(tried) == 3 || !mayRepeat(r, err, f.body) {
			return nil, failure
		}
	}
}

// answerTimeout ends what takes too long. The nil one has no end.
type answerTimeout struct {
	mu    sync.Mutex
	timer *time.Timer
	time  time.Duration
}

func newAnswerTimeout(d time.Duration, over func()) *answerTimeout {
	if d == 0 {
		return nil
	}
	return &answerTimeout{timer: time.AfterFunc(d, over), time: d}
}

// again begins the time anew, unless it has ended.
func (p *answerTimeout) again() {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.timer != nil {
		p.timer.Reset(p.time)
	}
}

func (p *answerTimeout) end() {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.timer.Stop()
	p.timer = nil
}

// mayRepeat: nothing of the request can have had an effect (no connection was
// made), or the effect is the same when it comes twice.
func mayRepeat(r *http.Request, err error, body *heldBody) bool {
	if body != nil && body.read.Load() {
		return false
	}
	var op *net.OpError
	if errors.As(err, &op) && op.Op == "dial" {
		return true
	}
	idempotent := slices.Contains([]string{http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace,
		http.MethodPut, http.MethodDelete}, r.Method)
	return idempotent && body == nil
}

func markUpgrade(resp *http.Response) error {
	if resp.StatusCode == http.StatusSwitchingProtocols {
		f := flightOf(resp.Request)
		f.pool.upgrade(f)
	}
	return nil
}

// refuse answers a request that no instance answered with what is true.
func refuse(w http.ResponseWriter, r *http.Request, err error) {
	f := flightOf(r)
	var page []byte
	status, text := http.StatusBadGateway, f.pool.Name+": "+plain(err)
	fault := f.body.fault()
	switch {
	case errors.Is(fault, errTooLarge):
		status, text = http.StatusRequestEntityTooLarge, f.pool.Name+": "+fault.Error()
	case errors.Is(fault, errStalled):
		status, text = http.StatusRequestTimeout, f.pool.Name+": "+fault.Error()
	case errors.Is(context.Cause(r.Context()), errTooLong):
		status, text = http.StatusGatewayTimeout, f.pool.Name+": "+f.instance+" took too long"
	case errors.Is(err, errPaused):
		status, text, page = http.StatusGatewayTimeout, f.pool.Name+
			": requests are held, and this one was for too long", f.pool.Settings().Page
	case errors.Is(err, errNoInstance):
		status, text, page = http.StatusServiceUnavailable, f.pool.Name+": no healthy instance", f.pool.Settings().Page
		if why := f.pool.reason(); why != "" {
			text += "\n" + why
		}
		w.Header().Set("Retry-After", "1")
	}
	say(w, r, page, status, text)
}

// say answers with a page for people, if there is one and they take it, or a text.
func say(w http.ResponseWriter, r *http.Request, page []byte, status int, text string) {
	h := w.Header()
	h.Set("Cache-Control", "no-store")
	if page != nil && (strings.Contains(r.Header.Get("Accept"), "text/html") || r.Header.Get("Accept") == "") {
		h.Set("Content-Type", "text/html; charset=utf-8")
	} else {
		h.Set("Content-Type", "text/plain; charset=utf-8")
		page = fmt.Appendf(nil, "%d %s\n", status, text)
	}
	h.Set("Content-Length", strconv.Itoa(len(page)))
	w.WriteHeader(status)
	// The visitor may be gone; there is nobody else to tell.
	_, _ = w.Write(page)
}

// plain says what failed without addresses of the inside.
func plain(err error) string {
	id, _, _ := strings.Cut(err.Error(), ":")
	switch {
	case errors.Is(err, context.Canceled), errors.Is(err, errStopped):
		return id + " was stopped before it answered"
	case errors.Is(err, syscall.ECONNREFUSED):
		return id + " takes no connection"
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, syscall.ECONNRESET):
		return id + " ended before it answered"
	case errors.Is(err, context.DeadlineExceeded):
		return id + " took too long"
	}
	var op *net.OpError
	if errors.As(err, &op) {
		return id + ": " + op.Op + " failed"
	}
	return id + " did not answer"
}
