package buildlog

import (
	"bytes"
	"io"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/headgate-cd/headgate/gitd/terminal"
)

// Output returns where the output of a step is written. Close it to have a last
// line without a newline counted.
func (w *Writer) Output(step int) io.WriteCloser { return &output{w: w, step: step} }

// standTime is how long a line may go without its end before it is shown.
const standTime = time.Second

// output cuts a stream into lines.
type output struct {
	w    *Writer
	step int

	mu    sync.Mutex // guards the rest
	buf   []byte
	lines []string    // for the log, of this Write
	began time.Time   // when what is in buf did
	timer *time.Timer // running while there is something in buf
}

// look shows what stands without its end for long enough, and looks again.
func (o *output) look() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.timer = nil
	if len(o.buf) == 0 {
		return
	}
	wait := standTime - time.Since(o.began)
	if wait <= 0 {
		// The beginning of a secret is no secret yet to the mask.
		text := o.w.mask.Load().Apply(string(o.buf))
		o.w.stand(o.step, o.w.mask.Load().Apply(terminal.Log(text[:len(text)-o.w.mask.Load().Incomplete(text)])))
		wait = standTime
	}
	o.timer = time.AfterFunc(wait, o.look)
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.buf) == 0 || bytes.IndexByte(p, '\n') >= 0 {
		o.began = time.Now()
	}
	o.buf = append(o.buf, p...)
	for {
		i := bytes.IndexByte(o.buf, '\n')
		if i < 0 {
			break
		}
		o.emit(o.buf[:i])
		o.buf = o.buf[i+1:]
	}
	// A line without end is broken up; what is held back is as long as a secret
	// may be, so that none is broken in two and missed.
	if hold := o.w.mask.Load().Longest(); len(o.buf) > MaxLine+hold {
		rest := []byte(o.w.mask.Load().Apply(string(o.buf)))
		for len(rest) > MaxLine+hold {
			n := breakAt(rest)
			o.emit(rest[:n])
			rest = rest[n:]
		}
		o.buf = rest
	}
	o.flush()
	if len(o.buf) == 0 {
		o.buf = nil // let a large buffer go
	} else if o.timer == nil {
		o.timer = time.AfterFunc(standTime, o.look)
	}
	return len(p), nil
}

func (o *output) Close() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.timer != nil {
		o.timer.Stop()
	}
	if len(o.buf) > 0 {
		o.emit(o.buf)
		o.buf = nil
		o.flush()
	}
	return nil
}

// flush gives the log what emit has made of lines. The caller holds o.mu.
func (o *output) flush() {
	if len(o.lines) > 0 {
		o.w.output(o.step, o.lines)
		clear(o.lines)
		o.lines = o.lines[:0]
	}
}

func (o *output) emit(line []byte) {
	// Once more afterwards: what was printed over may have been in the middle of one.
	text := o.w.mask.Load().Apply(terminal.Log(o.w.mask.Load().Apply(string(line))))
	for len(text) > MaxLine {
		n := breakAt(text)
		o.lines = append(o.lines, text[:n])
		text = text[n:]
	}
	o.lines = append(o.lines, text)
}

// breakAt is where a line of over MaxLine bytes is broken: not inside a character.
func breakAt[T string | []byte](line T) int {
	for n := MaxLine; n > MaxLine-utf8.UTFMax; n-- {
		if utf8.RuneStart(line[n]) {
			return n
		}
	}
	return MaxLine // it is not text
}
