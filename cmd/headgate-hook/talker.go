package main

import (
	"fmt"
	"io"
	"time"
)

// talker writes to standard error without ever blocking its caller: when git
// does not take the bytes (a lost client, spec/git.md E3), they are dropped.
type talker struct {
	lines   chan []byte
	done    chan struct{}
	dropped int
}

// Bounds of what waits for a slow reader, and of the wait at the end.
const (
	waitingMessages = 1024
	lastWords       = 2 * time.Second
)

func newTalker(w io.Writer) *talker {
	t := &talker{lines: make(chan []byte, waitingMessages), done: make(chan struct{})}
	go func() {
		defer close(t.done)
		for line := range t.lines {
			if _, err := w.Write(line); err != nil {
				for range t.lines { // nobody listens: swallow the rest
				}
				return
			}
		}
	}()
	return t
}

// Write queues p or drops it. It never fails.
func (t *talker) Write(p []byte) (int, error) {
	if t.dropped > 0 {
		note := fmt.Appendf(nil, "  (%d messages left out: the reader was slow)\n", t.dropped)
		select {
		case t.lines <- note:
			t.dropped = 0
		default:
		}
	}
	select {
	case t.lines <- append([]byte(nil), p...):
	default:
		t.dropped++
	}
	return len(p), nil
}

// finish waits a moment for the last words. No Write may follow.
func (t *talker) finish() {
	close(t.lines)
	select {
	case <-t.done:
	case <-time.After(lastWords):
	}
}
