package buildlog

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/headgate-cd/headgate/gitd/signal"
)

// await opens a log that may not have begun yet: whoever is told that a build
// runs may come before its log.
func (d *Dir) await(ctx context.Context, name string, wait bool) (*os.File, *Writer, error) {
	for {
		d.mu.Lock()
		created := d.created
		d.mu.Unlock()
		f, w, err := d.open(name)
		if !wait || !errors.Is(err, ErrNoLog) || digestForm().MatchString(name) || !idForm().MatchString(name) {
			return f, w, err
		}
		select {
		case <-created:
		case <-ctx.Done():
			return nil, nil, err
		}
	}
}

// open finds a log by id or digest; w is nil when it is finished.
func (d *Dir) open(name string) (f *os.File, w *Writer, err error) {
	if !idForm().MatchString(name) {
		return nil, nil, ErrNoLog
	}
	d.mu.Lock()
	defer d.mu.Unlock() // so that Finish renames before or after, not between
	if w = d.running[name]; w != nil {
		f, err = os.Open(w.path)
		return f, w, err
	}
	if digest, ok := d.finished[name]; ok {
		name = digest
	}
	f, err = os.Open(filepath.Join(d.root, name+".log"))
	if errors.Is(err, os.ErrNotExist) {
		err = ErrNoLog
	}
	return f, nil, err
}

// Follow yields the events of a log, by id or digest (with or without the
// "sha256:" of verdicts), from its beginning. With wait it waits for a log that
// is not there yet, and goes on until the log is
// done or ctx is; without, it ends at what is there now. An error is the last
// thing it yields.
func (d *Dir) Follow(ctx context.Context, name string, wait bool) iter.Seq2[Event, error] {
	return func(yield func(Event, error) bool) {
		f, w, err := d.await(ctx, strings.TrimPrefix(name, "sha256:"), wait)
		if err != nil {
			yield(Event{}, err)
			return
		}
		defer f.Close()
		r := &reader{file: f, in: bufio.NewReaderSize(f, 64<<10), reading: d.reading}
		if w != nil {
			r.shared = &w.read
		}
		var part string // as it was yielded last
		var woken time.Time
		lines := 0
		for {
			// Whatever is written after this moment closes more.
			var more <-chan struct{}
			ended := true
			var standing *unfinished
			if w != nil {
				more, standing, ended = w.waiting()
			}
			for whole := true; whole; {
				some, err := r.next(ctx)
				whole = err == nil
				for _, e := range some {
					part = ""
					if e.Kind == Out || e.Kind == Note {
						lines++
						e.Line = lines
					}
					if !yield(e, nil) {
						return
					}
				}
				if err != nil && err != io.EOF {
					if ctx.Err() == nil {
						err = fmt.Errorf("read log %s: %w", name, err)
					}
					yield(Event{}, err)
					return
				}
			}
			if ended || !wait {
				return
			}
			// What came since belongs before it.
			if standing != nil && standing.after == r.events && standing.Text != part {
				part = standing.Text
				if !yield(standing.Event, nil) {
					return
				}
			}
			select {
			case <-more:
			case <-ctx.Done():
				yield(Event{}, ctx.Err())
				return
			}
			// Who has just been here comes back for several lines together.
			signal.Sleep(ctx, together-time.Since(woken))
			woken = time.Now()
		}
	}
}

// together is how long a log that grows fast is left alone between two looks at it.
const together = 5 * time.Millisecond

// reader is where somebody who follows a log is in it.
type reader struct {
	file    *os.File
	in      *bufio.Reader // of file
	partial []byte        // the beginning of an event that in has given
	reading chan struct{} // Dir.reading
	shared  *blocks       // nil for a log that is done

	events int   // that were read
	offset int64 // of the file, after the last of them
	behind bool  // in is not there
}

// blocks are events of a log that somebody has decoded who follows it, for all who come by
// soon after. Those who follow a log that grows fast are all behind, at nearly the same place,
// and each of them would decode the same lines, for which the build would wait.
type blocks struct {
	mu   sync.Mutex
	some [sharedBlocks]block
}

// block has as many events as there are in one, and nothing alters it.
type block struct {
	n      int // which one of the log, from 0
	events []Event
	end    int64 // where it ends in the file
}

const (
	inBlock      = 512 // events
	sharedBlocks = 32
	maxBlock     = 256 << 10 // bytes in the file of one that is shared
)

func (s *blocks) find(n int) (block, bool) {
	if s == nil {
		return block{}, false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	b := s.some[n%sharedBlocks]
	return b, b.n == n && b.events != nil
}

func (s *blocks) keep(b block) {
	if s != nil {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.some[b.n%sharedBlocks] = b
	}
}

// next gives the next events of a log, as far as they are of one block. The error is io.EOF at
// the end of what is there.
func (r *reader) next(ctx context.Context) (some []Event, err error) {
	if some = r.recall(); some != nil {
		return some, ctx.Err()
	}
	// A few read at a time, so that however many follow a log, who writes it is not kept from
	// doing so.
	select {
	case r.reading <- struct{}{}:
		defer func() { <-r.reading }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if some = r.recall(); some != nil { // another one has read it meanwhile
		return some, nil
	}
	return r.read()
}

// recall is what is left of a block that another one has read, nil if there is none.
func (r *reader) recall() []Event {
	b, ok := r.shared.find(r.events / inBlock)
	if !ok {
		return nil
	}
	some := b.events[r.events%inBlock:]
	r.events += len(some)
	r.offset, r.behind = b.end, true
	return some
}

// read reads the file, to the end of a block at most.
func (r *reader) read() (some []Event, err error) {
	if r.behind {
		if _, err := r.file.Seek(r.offset, io.SeekStart); err != nil {
			return nil, err
		}
		r.in.Reset(r.file)
		r.partial, r.behind = r.partial[:0], false
	}
	begin, from := r.events, r.offset
	for r.events == begin || r.events%inBlock != 0 {
		line, err := r.in.ReadSlice('\n')
		if err != nil || len(r.partial) > 0 {
			r.partial = append(r.partial, line...)
			line = r.partial
		}
		if err == bufio.ErrBufferFull {
			continue
		}
		if err != nil {
			return some, err
		}
		e, err := decode(line)
		if err != nil {
			return some, err
		}
		r.events++
		r.offset += int64(len(line))
		r.partial = r.partial[:0]
		some = append(some, e)
	}
	if len(some) == inBlock && r.offset-from <= maxBlock {
		r.shared.keep(block{begin / inBlock, some, r.offset})
	}
	return some, nil
}
