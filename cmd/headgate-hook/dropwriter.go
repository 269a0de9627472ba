package main

import (
	"bytes"
	"fmt"
	"io"
	"time"
)

// dropWriter writes to standard error without ever blocking its caller: when git
// does not take the bytes (its client is lost), they are dropped.
type dropWriter struct {
	lines   chan []byte
	done    chan struct{}
	dropped int
}

// Bounds of what waits for a slow reader, and of the wait at the end.
const (
	waitingMessages = 1024
	drainTimeout    = 2 * time.Second
)

func newDropWriter(to io.Writer) *dropWriter {
	w := &dropWriter{lines: make(chan []byte, waitingMessages), done: make(chan struct{})}
	go func() {
		defer close(w.done)
		for line := range w.lines {
			if _, err := to.Write(line); err != nil {
				for range w.lines { // nobody reads: drop the rest
				}
				return
			}
		}
	}()
	return w
}

// Write queues p or drops it. It never fails.
func (w *dropWriter) Write(p []byte) (int, error) {
	w.note()
	select {
	case w.lines <- bytes.Clone(p):
	default:
		w.dropped++
	}
	return len(p), nil
}

// note says how much was dropped, as soon as there is room to say it.
func (w *dropWriter) note() {
	if w.dropped == 0 {
		return
	}
	select {
	case w.lines <- w.missing():
		w.dropped = 0
	default:
	}
}

// missing is the line that says how much was dropped.
func (w *dropWriter) missing() []byte {
	return fmt.Appendf(nil, "  (%d messages left out: the reader was slow)\n", w.dropped)
}

// printf writes one line for the pusher.
func (w *dropWriter) printf(format string, args ...any) {
	w.Write(fmt.Appendf(nil, format+"\n", args...))
}

// drain waits a moment until what was written has been taken, and what is missing
// said. No Write may follow.
func (w *dropWriter) drain() {
	timeout := time.After(drainTimeout)
	if w.dropped > 0 {
		select {
		case w.lines <- w.missing():
		case <-timeout:
			return
		}
	}
	close(w.lines)
	select {
	case <-w.done:
	case <-timeout:
	}
}
