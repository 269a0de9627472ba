package main

import (
	"regexp"
	"strconv"
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

// TestDropWriter: a reader that takes nothing does not hold the writer up; once it
// goes on, it reads what was kept, and how much was not, wherever that was said.
func TestDropWriter(t *testing.T) {
	const lines = 2 * waitingMessages
	to := &slowReader{release: make(chan struct{})}
	w := newDropWriter(to)
	for i := range lines {
		w.printf("line %d", i)
	}
	close(to.release)
	w.drain()
	<-w.done

	got := to.String()
	read, missing := strings.Count(got, "line "), 0
	for _, said := range regexp.MustCompile(`\((\d+) messages left out`).FindAllStringSubmatch(got, -1) {
		n, err := strconv.Atoi(said[1])
		if err != nil {
			t.Fatal(err)
		}
		missing += n
	}
	if !strings.HasPrefix(got, "line 0\nline 1\n") || read+missing != lines || missing < lines-waitingMessages-1 {
		t.Errorf("of %d lines, %d were read and %d said to be left out:\n%.200s", lines, read, missing, got)
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
