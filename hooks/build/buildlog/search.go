package buildlog

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"strings"

	"github.com/headgate-cd/headgate/gitd/terminal"
)

// ErrSpent ends a search that has read as much as it may.
var ErrSpent = errors.New("as much was read as may be at once")

// Search looks for a text in logs, one after another. It is for one goroutine.
type Search struct {
	dir    *Dir
	text   string // in lower case
	needle []byte // the same
	plain  bool   // it stands in JSON as it is
	lower  []byte // the line that is looked at, in lower case
	budget int64  // bytes that may be read yet
	named  []string
}

// Named are the logs, by digest, that the last one looked through says more is in: of the
// tasks of a batch.
func (s *Search) Named() []string { return s.named }

// Search begins one for a text, whatever its case. It reads at most budget bytes of all logs
// together.
func (d *Dir) Search(text string, budget int64) *Search {
	text = strings.ToLower(text)
	return &Search{dir: d, text: text, needle: []byte(text), plain: plain(text), budget: budget}
}

// Match is a line that has the text, and the step that it is of.
type Match struct {
	Event
	Phase   string
	Command string
}

// searchedTogether is how many bytes are looked through before others have their turn.
const searchedTogether = 256 << 10

// In yields the lines of a log, by id or digest, that have the text: of one that grows those
// that are there now. What it yields last may be an error: ErrNoLog, ErrSpent, that of ctx.
func (s *Search) In(ctx context.Context, name string) iter.Seq2[Match, error] {
	return func(yield func(Match, error) bool) {
		f, _, err := s.dir.open(strings.TrimPrefix(name, "sha256:"))
		if err != nil {
			yield(Match{}, err)
			return
		}
		defer f.Close()
		s.named = nil
		in := lineReader{in: bufio.NewReaderSize(f, searchedTogether)}
		var at Match // the step that lines are of by now
		for {
			found, err := s.part(ctx, &in, &at)
			for _, m := range found {
				if !yield(m, nil) {
					return
				}
			}
			if err == io.EOF {
				return
			}
			if err != nil {
				if ctx.Err() == nil && err != ErrSpent && !errors.Is(err, os.ErrClosed) {
					err = fmt.Errorf("search log %s: %w", name, err)
				}
				yield(Match{}, err)
				return
			}
		}
	}
}

// part looks through some lines. However many search, a few do so at a time.
func (s *Search) part(ctx context.Context, in *lineReader, at *Match) (found []Match, err error) {
	select {
	case s.dir.searching <- struct{}{}:
		defer func() { <-s.dir.searching }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	for read := 0; read < searchedTogether; {
		if ctx.Err() != nil {
			return found, ctx.Err()
		}
		if s.budget <= 0 {
			return found, ErrSpent
		}
		line, err := in.next()
		if err != nil {
			return found, err
		}
		read += len(line)
		s.budget -= int64(len(line))
		m, ok, err := s.look(line, at)
		if err != nil {
			return found, err
		}
		if ok {
			found = append(found, m)
		}
	}
	return found, nil
}

// look says whether a line of the file is a match, and keeps count of lines and steps.
func (s *Search) look(line []byte, at *Match) (m Match, ok bool, err error) {
	switch {
	case bytes.HasPrefix(line, []byte(`{"k":"out"`)):
		at.Line++
		if !s.may(line) {
			return m, false, nil
		}
	case bytes.HasPrefix(line, []byte(`{"k":"note"`)):
		at.Line++
	case bytes.HasPrefix(line, []byte(`{"k":"step"`)):
	default:
		return m, false, nil
	}
	e, err := decode(line)
	if err != nil {
		return m, false, err
	}
	if e.Kind == Step {
		at.Step, at.Phase, at.Command = e.Step, e.Phase, e.Command
		return m, false, nil
	}
	if e.Log != "" {
		s.named = append(s.named, e.Log)
	}
	if !strings.Contains(strings.ToLower(terminal.Plain(e.Text)), s.text) {
		return m, false, nil
	}
	e.Line = at.Line
	m.Event = e
	if e.Step > 0 && e.Step == at.Step {
		m.Phase, m.Command = at.Phase, at.Command
	}
	return m, true, nil
}

// may is false for a line that does not have the text, as far as that shows without decoding
// it: what has colours, escapes or other letters than ASCII's must be.
func (s *Search) may(line []byte) bool {
	if cap(s.lower) < len(line) {
		s.lower = make([]byte, 2*len(line))
	}
	lower := s.lower[:len(line)]
	escaped := false
	for i, c := range line {
		low := folded[c]
		escaped = escaped || low == 0
		lower[i] = low
	}
	return escaped || s.plain && bytes.Contains(lower, s.needle)
}

// folded is the lower case of each byte, and 0 for what does not stand for itself.
var folded = func() (to [256]byte) {
	for c := range byte(0x80) {
		to[c] = c
	}
	for c := byte('A'); c <= 'Z'; c++ {
		to[c] = c - 'A' + 'a'
	}
	to['\\'] = 0
	return to
}()

// lineReader reads lines of any length.
type lineReader struct {
	in   *bufio.Reader
	long []byte
}

// next is the next whole line, until the call after it; io.EOF when no more is there.
func (r *lineReader) next() ([]byte, error) {
	line, err := r.in.ReadSlice('\n')
	if err == nil {
		return line, nil
	}
	r.long = append(r.long[:0], line...)
	for err == bufio.ErrBufferFull {
		line, err = r.in.ReadSlice('\n')
		r.long = append(r.long, line...)
	}
	return r.long, err
}
