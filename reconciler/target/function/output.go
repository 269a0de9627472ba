package function

import (
	"bytes"
	"errors"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/headgate-cd/headgate/gitd/terminal"
	"github.com/headgate-cd/headgate/reconciler/target/logfile"
)

// output takes what an instance prints: into the log, and the end of it for whoever
// invoked it and asked.
type output struct {
	file *os.File
	conn syscall.RawConn
	log  *logfile.File

	mu   sync.Mutex
	tail []byte    // since the event began, the last logTail bytes
	last []byte    // line that was not blank
	part []byte    // of a line whose end has not come
	busy time.Time // until which the log takes nothing more
}

func newOutput(f *os.File, log *logfile.File) *output {
	conn, err := f.SyscallConn()
	if err != nil {
		panic(err) // a pipe that was just made has one
	}
	return &output{file: f, conn: conn, log: log}
}

// follow reads until nobody can print any more.
func (o *output) follow() {
	defer o.file.Close()
	block := make([]byte, 32<<10)
	for {
		ended := false
		err := o.conn.Read(func(fd uintptr) bool {
			n, wait := o.read(int(fd), block)
			ended = n <= 0 && !wait
			return !wait
		})
		if err != nil || ended {
			return
		}
	}
}

// read takes what there is, up to a block.
func (o *output) read(fd int, block []byte) (n int, wait bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for {
		n, err := unix.Read(fd, block)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.EAGAIN):
			return 0, true
		case err != nil || n <= 0:
			return 0, false
		}
		o.take(block[:n])
		return n, false
	}
}

// take is called with mu held.
func (o *output) take(p []byte) {
	// An instance that floods is not slowed down, since its event has a deadline: what the
	// log has no time for is left out.
	if now := time.Now(); now.Before(o.busy) {
		o.log.LeaveOut(int64(len(p)))
	} else {
		o.busy = now.Add(o.log.Take(p))
	}
	if len(p) >= logTail {
		o.tail = append(o.tail[:0], p[len(p)-logTail:]...)
	} else {
		o.tail = append(o.tail, p...)
		o.tail = o.tail[max(0, len(o.tail)-logTail):]
	}
	for rest := p; len(rest) > 0; {
		line, after, whole := bytes.Cut(rest, []byte("\n"))
		if room := 1024 - len(o.part); room > 0 {
			o.part = append(o.part, line[:min(room, len(line))]...)
		}
		if !whole {
			return
		}
		if len(bytes.TrimSpace(o.part)) > 0 {
			o.last = append(o.last[:0], o.part...)
		}
		o.part, rest = o.part[:0], after
	}
}

// begin forgets what was printed before an event.
func (o *output) begin() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.tail = o.tail[:0]
}

// since is what was printed since the event began, the end of it. What the process had
// printed before it answered is in the pipe, and read.
func (o *output) since() []byte {
	block := make([]byte, 32<<10)
	_ = o.conn.Control(func(fd uintptr) { // a pipe that was closed was read to its end
		// A pipe takes 64 KiB; whoever goes on printing is not followed.
		for range 4 {
			if n, _ := o.read(int(fd), block); n <= 0 {
				return
			}
		}
	})
	o.mu.Lock()
	defer o.mu.Unlock()
	return bytes.Clone(o.tail)
}

// lastLine is the last line that was not blank, fit for a message.
func (o *output) lastLine() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	last := o.last
	if len(bytes.TrimSpace(o.part)) > 0 {
		last = o.part
	}
	return terminal.Plain(oneLine(string(last)))
}
