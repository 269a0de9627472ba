package services

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/headgate-cd/headgate/reconciler/target/logfile"
)

// Bounds of the file that an instance prints to.
const (
	maxBacklog  = 8 << 20   // not read yet; what is over is left out
	keptBacklog = 1 << 20   // of it, when something is left out
	blockSize   = 64 << 10  // read at once
	punchEvery  = 256 << 10 // read bytes after which their room is given back
)

// output carries what an instance prints from the file that it prints to into its
// log. An instance needs nobody for printing: it goes on when the agent is gone,
// and another one carries on from where this one was. What has been read gives
// its room back to the disk; the file only looks long.
type output struct {
	file *os.File // open to read, and to give back what was read
	log  *logfile.File
	kept *os.File // how far it was read, for the next agent

	offset  int64 // read up to here
	line    int64 // a line begins here
	punched int64 // there is nothing on the disk before this
}

// openOutput opens what an instance prints to, which is there.
func openOutput(path, position string, log *logfile.File) (*output, error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	kept, err := os.OpenFile(position, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	o := &output{file: f, log: log, kept: kept}
	var at [8]byte
	if n, _ := kept.ReadAt(at[:], 0); n == len(at) { // else it begins at the beginning
		o.line = max(0, int64(binary.BigEndian.Uint64(at[:])))
	}
	o.offset, o.punched = o.line, o.line/blockSize*blockSize
	return o, nil
}

// follow carries over what is printed until stop is closed, and then what is there
// still. printed wakes it.
func (o *output) follow(printed <-chan struct{}, stop <-chan struct{}) {
	every := outputTick
	if printed != nil {
		every = printedTick
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		o.carry(o.log.Write)
		select {
		case <-printed:
		case <-tick.C:
		case <-stop:
			o.carry(func(p []byte) (int, error) { o.log.Take(p); return len(p), nil })
			return
		}
	}
}

const (
	// outputTick is how often an output is looked at where nobody says that it grew.
	outputTick = 5 * time.Second
	// printedTick is the same where somebody does, who might have missed it.
	printedTick = time.Minute
)

// blocks are what outputs are read into, *[blockSize]byte: most of hundreds print nothing.
var blocks = sync.Pool{New: func() any { return new([blockSize]byte) }}

// carry reads what there is. A disk that cannot be read loses output, and nothing
// else.
func (o *output) carry(write func([]byte) (int, error)) {
	var block *[blockSize]byte
	defer func() {
		if block != nil {
			blocks.Put(block)
		}
	}()
	for {
		info, err := o.file.Stat()
		if err != nil {
			return
		}
		if info.Size() < o.offset { // whoever prints has cut it off
			o.offset, o.line, o.punched = 0, 0, 0
		}
		if backlog := info.Size() - o.offset; backlog > maxBacklog {
			left := backlog - keptBacklog
			o.log.LeaveOut(left)
			o.offset += left
		}
		if info.Size() == o.offset {
			return
		}
		if block == nil {
			block = blocks.Get().(*[blockSize]byte)
		}
		n, err := o.file.ReadAt(block[:], o.offset)
		if n > 0 {
			_, _ = write(block[:n]) // a log never fails
			if end := bytes.LastIndexByte(block[:n], '\n'); end >= 0 {
				o.line = o.offset + int64(end) + 1
			}
			o.offset += int64(n)
			o.giveBack()
		}
		if n == 0 || err != nil && !errors.Is(err, io.EOF) {
			return
		}
	}
}

// giveBack notes how far it was read, and gives the room of what was back.
func (o *output) giveBack() {
	var at [8]byte
	binary.BigEndian.PutUint64(at[:], uint64(o.line))
	_, _ = o.kept.WriteAt(at[:], 0) // without it the next agent reads again what this one has
	upTo := o.line / blockSize * blockSize
	if upTo-o.punched < punchEvery {
		return
	}
	err := unix.Fallocate(int(o.file.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, o.punched, upTo-o.punched)
	if err == nil {
		o.punched = upTo
		return
	}
	// A file system without holes: what is printed between the look and the cut is lost.
	if info, err := o.file.Stat(); err == nil && info.Size() == o.offset && o.file.Truncate(0) == nil {
		o.offset, o.line, o.punched = 0, 0, 0
	}
}

func (o *output) close() {
	// Nothing was promised about the last lines on a full disk.
	_ = errors.Join(o.file.Close(), o.kept.Close())
}

// outputWatch wakes those who follow files when something is written to them: one
// inotify for all of them. Where the machine has no more of those, nobody is woken.
type outputWatch struct {
	notify *os.File // nil: none could be had
	fd     int      // its descriptor: asking it for that would have it block

	mu  sync.Mutex
	all map[int32]chan struct{}
}

func newOutputWatch() *outputWatch {
	w := &outputWatch{all: map[int32]chan struct{}{}}
	if fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK); err == nil {
		w.notify, w.fd = os.NewFile(uintptr(fd), "inotify"), fd
	}
	return w
}

// run wakes until the watch is closed.
func (w *outputWatch) run() {
	if w.notify == nil {
		return
	}
	events := make([]byte, 64*(unix.SizeofInotifyEvent+unix.NAME_MAX+1))
	for {
		n, err := w.notify.Read(events)
		if err != nil {
			return
		}
		w.mu.Lock()
		for rest := events[:n]; len(rest) >= unix.SizeofInotifyEvent; {
			of := int32(binary.NativeEndian.Uint32(rest))
			named := binary.NativeEndian.Uint32(rest[12:])
			if printed := w.all[of]; printed != nil {
				wake(printed)
			}
			if of < 0 { // there were too many events at once to keep them
				for _, printed := range w.all {
					wake(printed)
				}
			}
			rest = rest[min(len(rest), unix.SizeofInotifyEvent+int(named)):]
		}
		w.mu.Unlock()
	}
}

func wake(printed chan<- struct{}) {
	select {
	case printed <- struct{}{}:
	default: // it was woken already
	}
}

// add returns a channel that gets a value after something was written to a file,
// and a function that ends that.
func (w *outputWatch) add(path string) (printed <-chan struct{}, end func()) {
	if w.notify == nil {
		return nil, func() {}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	wd, err := unix.InotifyAddWatch(w.fd, filepath.Clean(path), unix.IN_MODIFY)
	if err != nil {
		return nil, func() {}
	}
	c := make(chan struct{}, 1)
	w.all[int32(wd)] = c
	return c, func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		delete(w.all, int32(wd))
		_, _ = unix.InotifyRmWatch(w.fd, uint32(wd)) // gone with its file
	}
}

func (w *outputWatch) close() {
	if w.notify != nil {
		w.notify.Close()
	}
}
