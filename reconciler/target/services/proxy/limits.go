package proxy

import (
	"errors"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// headerSize is about what the header of a request takes on the wire.
func headerSize(r *http.Request) int {
	n := len(r.Method) + len(r.RequestURI) + len(r.Proto) + len(r.Host)
	for name, values := range r.Header {
		for _, v := range values {
			n += len(name) + len(v) + 4
		}
	}
	return n
}

// heldBody is the body of a request. It stays open when a transport closes it, so that
// it can be sent to another instance as long as nothing of it was read; the server
// closes the original when the request is over.
type heldBody struct {
	io.ReadCloser
	control *http.ResponseController
	stall   time.Duration
	left    int64                         // how much more it may be; -1: any
	active  atomic.Pointer[answerTimeout] // begun anew when some of it was read

	read atomic.Bool
	mu   sync.Mutex
	err  error // of the visitor's side
}

// The errors of bodies that are not taken to their end.
var (
	errTooLarge = errors.New("request body too large")
	errStalled  = errors.New("the visitor sends nothing")
)

func (b *heldBody) Read(p []byte) (int, error) {
	b.read.Store(true)
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.left >= 0 && int64(len(p)) > b.left+1 {
		p = p[:b.left+1]
	}
	// A deadline must not outlive its read: the server goes on reading to notice that
	// the visitor hangs up. What cannot set one has none.
	if b.stall > 0 {
		_ = b.control.SetReadDeadline(time.Now().Add(b.stall))
	}
	n, err := b.ReadCloser.Read(p)
	if b.stall > 0 {
		_ = b.control.SetReadDeadline(time.Time{})
	}
	var timeout interface{ Timeout() bool }
	if errors.As(err, &timeout) && timeout.Timeout() {
		err = errStalled
	}
	if b.left >= 0 {
		if b.left -= int64(n); b.left < 0 {
			n, err, b.left = 0, errTooLarge, 0
		}
	}
	if err != nil && !errors.Is(err, io.EOF) {
		b.err = err
	}
	b.active.Load().again()
	return n, err
}

func (b *heldBody) Close() error { return nil }

// fault is why the body could not be read to its end, nil if it could.
func (b *heldBody) fault() error {
	if b == nil {
		return nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.err
}

// answerWriter is the answer to one request on its way out. It keeps the server from
// guessing the type of what an instance sent without one, and gives up on a visitor
// who takes nothing.
type answerWriter struct {
	http.ResponseWriter
	control *http.ResponseController
	stall   time.Duration

	status int
	bytes  int64
}

func (w *answerWriter) WriteHeader(status int) {
	if h := w.Header(); h["Content-Type"] == nil {
		h["Content-Type"] = nil // present and empty: nothing is guessed, nothing is sent
	}
	if status >= 200 || status == http.StatusSwitchingProtocols {
		w.status = status
	}
	w.ResponseWriter.WriteHeader(status)
}

func (w *answerWriter) Write(p []byte) (int, error) {
	w.deadline()
	n, err := w.ResponseWriter.Write(p)
	w.noDeadline()
	w.bytes += int64(n)
	return n, err
}

// FlushError implements what http.ResponseController asks of a writer.
func (w *answerWriter) FlushError() error {
	w.deadline()
	defer w.noDeadline()
	return w.control.Flush()
}

// A deadline must not outlive its write: with HTTP/2 it would end a quiet stream, and
// with HTTP/1 whatever is written next. What cannot set one has none.
func (w *answerWriter) deadline() {
	if w.stall > 0 {
		_ = w.control.SetWriteDeadline(time.Now().Add(w.stall))
	}
}

func (w *answerWriter) noDeadline() {
	if w.stall > 0 {
		_ = w.control.SetWriteDeadline(time.Time{})
	}
}

// Unwrap gives http.ResponseController what it hijacks.
func (w *answerWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// buffers are what answers are copied with.
type buffers struct{ pool sync.Pool }

func (b *buffers) Get() []byte {
	if p, ok := b.pool.Get().(*[]byte); ok {
		return *p
	}
	return make([]byte, 32<<10)
}

func (b *buffers) Put(p []byte) { b.pool.Put(&p) }
