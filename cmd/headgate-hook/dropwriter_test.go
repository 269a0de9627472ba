package main

import (
	"strings"
	"testing"
)

// slowReader takes nothing before it is released.
type slowReader struct {
	strings.Builder
	release chan struct{}
}

func (r *slowReader) Write(p []byte) (int, error) {
	<-r.release
	return r.Builder.Write(p)
}

// TestDropWriter: a reader that takes nothing does not hold the writer up, and
// reads what was kept once it goes on.
func TestDropWriter(t *testing.T) {
	to := &slowReader{release: make(chan struct{})}
	w := newDropWriter(to)
	for i := range 2 * waitingMessages {
		w.printf("line %d", i)
	}
	dropped := w.dropped
	if dropped < waitingMessages-1 {
		t.Errorf("%d of %d lines were dropped, with room for %d", dropped, 2*waitingMessages, waitingMessages)
	}
	close(to.release)
	w.printf("last") // may be dropped too: the reader goes on when it likes
	if w.dropped > 0 {
		dropped = w.dropped
	}
	close(w.lines)
	<-w.done

	got := to.String()
	if !strings.HasPrefix(got, "line 0\nline 1\n") || strings.Count(got, "line ")+dropped < 2*waitingMessages {
		t.Errorf("%d lines were read and %d dropped:\n%.200s", strings.Count(got, "line "), dropped, got)
	}
}

// TestDropWriterSaysWhatIsMissing: the reader learns how much it missed, at the
// latest at the end.
func TestDropWriterSaysWhatIsMissing(t *testing.T) {
	var to strings.Builder
	w := newDropWriter(&to)
	w.dropped = 3
	w.drain()
	<-w.done
	if want := "  (3 messages left out: the reader was slow)\n"; to.String() != want {
		t.Errorf("%q, want %q", to.String(), want)
	}
}
