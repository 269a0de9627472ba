package transport

import (
	"errors"
	"io"
	"os"
	"sync"
	"time"
)

// Bounds of what is kept of a pack for a client that takes it slowly.
const (
	chunkSize = 32 << 10
	inMemory  = 8        // chunks; most clients never lag behind more
	inFile    = 64 << 20 // bytes; only then does git wait for the client
)

// errSlow is why a client is left that takes so little that others cannot begin.
var errSlow = errors.New("too slow while others wait")

// spool takes what git writes faster than its client reads, so that git can end and
// leave its place to another: a little in memory, more in a file without a name.
type spool struct {
	file func() *os.File // makes the file; nil when there are too many
	// crowded reports that others wait for a place; then a client that holds one must
	// take so many bytes in each window.
	crowded func() bool
	least   int64
	window  time.Duration

	mu          sync.Mutex // guards the rest
	memory      [][]byte
	kept        *os.File
	from, to    int64 // what is in the file: a ring of inFile bytes
	taken       int64 // by the client, so far
	ended, gone bool
	err         error // of the file

	moved chan struct{} // holds a token when there is more, or more room
	room  chan struct{}
}

func newSpool() *spool {
	return &spool{moved: make(chan struct{}, 1), room: make(chan struct{}, 1)}
}

func wake(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// put keeps a chunk, and waits while there is no room. What a client that has gone
// would be sent is thrown away.
func (s *spool) put(chunk []byte) error {
	began, before := time.Now(), int64(-1)
	tick := time.NewTimer(s.window)
	defer tick.Stop()
	for {
		s.mu.Lock()
		if before < 0 {
			before = s.taken
		}
		for len(chunk) > 0 && s.keep(&chunk) {
		}
		taken, done, err := s.taken, s.gone || len(chunk) == 0, s.err
		s.mu.Unlock()
		wake(s.moved)
		if done || err != nil {
			return err
		}

		select {
		case <-s.room:
		case <-tick.C:
			tick.Reset(s.window)
		}
		if time.Since(began) >= s.window {
			if taken-before < s.least && s.crowded() {
				return errSlow
			}
			began, before = time.Now(), taken
		}
	}
}

// keep keeps some of a chunk, and reports whether it did. The caller holds mu.
func (s *spool) keep(chunk *[]byte) bool {
	if s.gone {
		return false
	}
	if s.from == s.to && len(s.memory) < inMemory {
		s.memory = append(s.memory, append([]byte{}, *chunk...))
		*chunk = nil
		return true
	}
	if s.kept == nil {
		if s.kept = s.file(); s.kept == nil {
			return false
		}
	}
	n := min(int64(len(*chunk)), inFile-s.to%inFile, inFile-(s.to-s.from))
	if n == 0 {
		return false
	}
	if _, err := s.kept.WriteAt((*chunk)[:n], s.to%inFile); err != nil {
		s.err = err
		return false
	}
	s.to += n
	*chunk = (*chunk)[n:]
	return true
}

// get is the next of what was kept; io.EOF when that was all.
func (s *spool) get(buffer []byte) ([]byte, error) {
	for {
		s.mu.Lock()
		switch {
		case s.gone:
			s.mu.Unlock()
			return nil, io.EOF
		case len(s.memory) > 0:
			chunk := s.memory[0]
			s.memory = s.memory[1:]
			s.mu.Unlock()
			return chunk, nil
		case s.from < s.to:
			n := min(int64(len(buffer)), s.to-s.from, inFile-s.from%inFile)
			_, err := s.kept.ReadAt(buffer[:n], s.from%inFile)
			s.from += n
			s.mu.Unlock()
			return buffer[:n], err
		case s.ended:
			err := s.err
			s.mu.Unlock()
			if err == nil {
				err = io.EOF
			}
			return nil, err
		}
		s.mu.Unlock()
		<-s.moved
	}
}

// end says that nothing more is put; err is why, if that is not the end.
func (s *spool) end(err error) {
	s.mu.Lock()
	s.ended = true
	if s.err == nil {
		s.err = err
	}
	s.mu.Unlock()
	wake(s.moved)
}

// drop throws away what is kept, and what is put from now on.
func (s *spool) drop() {
	s.mu.Lock()
	s.gone = true
	s.mu.Unlock()
	wake(s.moved)
	wake(s.room)
}

// drain sends a client what is kept, until there is no more or the client is gone.
func (s *spool) drain(to io.Writer, progress, gone func()) {
	buffer := make([]byte, chunkSize)
	for {
		chunk, err := s.get(buffer)
		if err == nil {
			_, err = to.Write(chunk)
		}
		if err != nil {
			s.mu.Lock()
			s.gone, s.memory = true, nil
			if s.kept != nil {
				s.kept.Close()
			}
			s.mu.Unlock()
			wake(s.room)
			if !errors.Is(err, io.EOF) {
				gone()
			}
			return
		}
		s.mu.Lock()
		s.taken += int64(len(chunk))
		s.mu.Unlock()
		wake(s.room)
		progress()
	}
}

// fill keeps a child's output. It reads all of it, whatever becomes of the client.
func (s *spool) fill(from *os.File, slow func()) {
	defer from.Close()
	buffer := make([]byte, chunkSize)
	var failed error
	for {
		n, err := from.Read(buffer)
		if n > 0 && failed == nil {
			if failed = s.put(buffer[:n]); failed != nil {
				s.end(failed)
				slow()
			}
		}
		if err != nil {
			s.end(nil)
			return
		}
	}
}
