package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// Listener serves HTTP on an address from a pool.
type Listener struct {
	listener net.Listener
	server   *http.Server
	pool     atomic.Pointer[Pool]
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

// Listen listens on address and serves it from pool, behind those that are
// trusted, nil for nobody. The error of a taken port
// matches syscall.EADDRINUSE.
func Listen(address string, pool *Pool, transport *http.Transport, trusted Trusted, log *slog.Logger) (*Listener, error) {
	ln, err := net.Listen("tcp", address)
	if err != nil {
		return nil, err
	}
	l := &Listener{listener: ln, done: make(chan struct{})}
	l.pool.Store(pool)
	errorLog := slog.NewLogLogger(log.Handler(), slog.LevelDebug)
	rp := &httputil.ReverseProxy{
		Rewrite:        trusted.rewrite,
		Transport:      carrier{transport},
		ModifyResponse: markUpgrade,
		ErrorHandler:   refuse,
		ErrorLog:       errorLog,
	}
	l.server = &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			ctx, cancel := context.WithCancel(r.Context())
			f := &flight{pool: l.pool.Load(), cancel: cancel}
			defer func() {
				f.pool.leave(f)
				cancel()
			}()
			rp.ServeHTTP(plainWriter{w}, r.WithContext(context.WithValue(ctx, flightKey{}, f)))
		}),
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    64 << 10,
		ErrorLog:          errorLog,
	}
	go func() {
		defer close(l.done)
		// Serve returns when the listener is closed, which is the only way it ends.
		_ = l.server.Serve(ln)
	}()
	return l, nil
}

// Address is what is listened on, with the port that a 0 became.
func (l *Listener) Address() *net.TCPAddr { return l.listener.Addr().(*net.TCPAddr) }

// Serve serves from another pool from now on.
func (l *Listener) Serve(pool *Pool) { l.pool.Store(pool) }

// Pool is the pool it serves from.
func (l *Listener) Pool() *Pool { return l.pool.Load() }

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

var errNoInstance = errors.New("no healthy instance")

// carrier sends a request to an instance of its flight's pool, and to another one
// when that is sure to do no harm.
type carrier struct{ transport *http.Transport }

func (c carrier) RoundTrip(r *http.Request) (*http.Response, error) {
	f := flightOf(r)
	body := &heldBody{ReadCloser: r.Body}
	hasBody := r.Body != nil && r.Body != http.NoBody
	var tried []string
	var failure error
	for {
		to, ok := f.pool.take(f, tried)
		if !ok {
			if failure == nil {
				failure = errNoInstance
			}
			return nil, failure
		}
		out := r.Clone(r.Context())
		out.URL.Host = to.Address
		if hasBody {
			out.Body = body
		}
		resp, err := c.transport.RoundTrip(out)
		if err == nil {
			return resp, nil
		}
		f.pool.leave(f)
		failure = fmt.Errorf("%s: %w", to.ID, err)
		tried = append(tried, to.ID)
		if r.Context().Err() != nil || len(tried) == 3 || !mayRepeat(r, err, hasBody, body) {
			return nil, failure
		}
	}
}

// mayRepeat: nothing of the request can have had an effect (no connection was
// made), or the effect is the same when it comes twice.
func mayRepeat(r *http.Request, err error, hasBody bool, body *heldBody) bool {
	if hasBody && body.read.Load() {
		return false
	}
	var op *net.OpError
	if errors.As(err, &op) && op.Op == "dial" {
		return true
	}
	idempotent := slices.Contains([]string{http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace, http.MethodPut, http.MethodDelete}, r.Method)
	return idempotent && !hasBody
}

// heldBody stays open when a transport closes it, so that it can be sent to
// another instance as long as nothing of it was read. The server closes the
// original when the request is over.
type heldBody struct {
	io.ReadCloser
	read atomic.Bool
	mu   sync.Mutex
}

func (b *heldBody) Read(p []byte) (int, error) {
	b.read.Store(true)
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.ReadCloser.Read(p)
}

func (b *heldBody) Close() error { return nil }

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
	status, text := http.StatusBadGateway, f.pool.Name+": "+plain(err)
	if errors.Is(err, errNoInstance) {
		status, text = http.StatusServiceUnavailable, f.pool.Name+": no healthy instance"
		if why := f.pool.reason(); why != "" {
			text += "\n" + why
		}
		w.Header().Set("Retry-After", "1")
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	// The visitor may be gone; there is nobody else to tell.
	_, _ = fmt.Fprintf(w, "%d %s\n", status, text)
}

// plain says what failed without addresses of the inside.
func plain(err error) string {
	id, _, _ := strings.Cut(err.Error(), ":")
	switch {
	case errors.Is(err, context.Canceled):
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
