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
		in := bufio.NewReaderSize(f, 64<<10)
		var partial []byte
		var part string // as it was yielded last
		var woken time.Time
		lines, events := 0, 0
		for {
			// Whatever is written after this moment closes more.
			var more <-chan struct{}
			ended := true
			var standing *unfinished
			if w != nil {
				more, standing, ended = w.waiting()
			}
			for whole := true; whole; {
				some, err := d.read(ctx, in, &partial)
				whole = err == nil
				for _, e := range some {
					part = ""
					events++
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
			if standing != nil && standing.after == events && standing.Text != part {
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

// batch is how many events are read at a time.
const batch = 256

// read reads the next events of a log, of which partial is the beginning. The error is io.EOF
// at the end of what is there. A few read at a time, so that however many follow a log, who
// writes it is not kept from doing so.
func (d *Dir) read(ctx context.Context, in *bufio.Reader, partial *[]byte) (some []Event, err error) {
	select {
	case d.reading <- struct{}{}:
		defer func() { <-d.reading }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	for len(some) < batch {
		line, err := in.ReadSlice('\n')
		if err != nil || len(*partial) > 0 {
			*partial = append(*partial, line...)
			line = *partial
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
		*partial = (*partial)[:0]
		some = append(some, e)
	}
	return some, nil
}
