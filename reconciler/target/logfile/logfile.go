// Package logfile keeps what instances print: a file for each instance, line by line with
// the time, bounded in size and in what is taken in a second. Reader reads those of a
// directory in the order of time.
package logfile

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/headgate-cd/headgate/gitd/terminal"
)

// Bounds of what is kept of an instance's output.
const (
	maxLogBytes = 1 << 20  // of one file; there are at most two, the older one ends in .1
	maxLogLine  = 16 << 10 // what is over is cut off
	maxLogFiles = 40       // of one application, newest first
)

// Bounds of what is kept and read of it in a second. What is over the first two is
// left out, and the log says how much; what is over the third waits in the file
// that it was printed to: even reading it takes a processor.
const (
	maxLogRateLines = 2000
	maxLogRateBytes = 512 << 10
	maxLogRateRead  = 8 << 20
)

// File takes the output of one process line by line, with the time in front.
// It never fails: a full disk must not stop the process that writes.
type File struct {
	Path                 func() string  // where it is, which may change while it is open
	RateLines, RateBytes int            // what is kept of a second
	Wrote                func()         // called after each line; nil for none
	Mask                 *terminal.Mask // of what is not to be read there; nil for none
	Lost                 func(error)    // called when lines begin to be lost, and with nil when they are kept again

	mu   sync.Mutex
	file *os.File
	size int64
	part []byte // of a line whose end has not come yet
	last []byte // last line that was not blank, as it came
	lost bool   // the last line could not be written

	second            time.Time // in which the rest was counted
	lines, kept, read int       // lines and bytes that were kept, bytes that were read
	left              int       // lines that were left out, and not told of yet
	leftBytes         int64
	unread            int64       // bytes that were left out before they were lines
	tell              *time.Timer // tells of them when nothing more comes; nil: none were
}

// Open opens the log of an instance to append to it.
func Open(path string) (*File, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &File{Path: func() string { return path }, RateLines: maxLogRateLines, RateBytes: maxLogRateBytes, file: f,
		size: info.Size()}, nil
}

// Write implements io.Writer. It slows down who writes too much.
func (l *File) Write(p []byte) (int, error) {
	if wait := l.Take(p); wait > 0 {
		time.Sleep(wait)
	}
	return len(p), nil
}

// Take keeps what of p may be kept, and says how long not to read on.
func (l *File) Take(p []byte) (wait time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	if now.Sub(l.second) >= time.Second {
		l.tellLeft()
		l.second, l.lines, l.kept, l.read = now, 0, 0, 0
	}
	if l.read += len(p); l.read > maxLogRateRead {
		wait = l.second.Add(time.Second).Sub(now)
	}
	for rest := p; len(rest) > 0; {
		line, after, ended := bytes.Cut(rest, []byte("\n"))
		if room := maxLogLine - len(l.part); room > 0 {
			l.part = append(l.part, line[:min(room, len(line))]...)
		}
		if !ended {
			break
		}
		l.flush()
		rest = after
	}
	return wait
}

func (l *File) flush() {
	part := l.part
	l.part = l.part[:0]
	if len(bytes.TrimSpace(part)) > 0 {
		l.last = append(l.last[:0], part...)
	}
	if l.lines >= l.RateLines || l.kept+len(part) > l.RateBytes {
		l.left++
		l.leftBytes += int64(len(part)) + 1
		l.tellLater()
		return
	}
	l.lines++
	l.kept += len(part) + 1
	l.append(ofOutput + l.readable(part))
}

// Readable is a line as it stands in the log: printable, and without secrets.
func (l *File) Readable(line string) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.readable([]byte(line[:min(len(line), maxLogLine)]))
}

func (l *File) readable(line []byte) string {
	return strings.TrimRight(terminal.Plain(l.Mask.Apply(string(line))), " ")
}

// LeaveOut counts bytes that nobody has looked at.
func (l *File) LeaveOut(bytes int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.part = l.part[:0]
	l.unread += bytes
	l.tellLater()
}

// tellLater has what was left out be told of in a second.
func (l *File) tellLater() {
	if l.tell != nil {
		return
	}
	l.tell = time.AfterFunc(time.Second, func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.tellLeft()
	})
}

// tellLeft says in the log what was left out of it.
func (l *File) tellLeft() {
	if l.left == 0 && l.unread == 0 {
		return
	}
	l.tell.Stop()
	l.tell = nil
	if l.left > 0 {
		l.append(ofNote + fmt.Sprintf("%d lines (%d bytes) were left out here: more than %d lines or %d KiB in a second",
			l.left, l.leftBytes, l.RateLines, l.RateBytes>>10))
	}
	if l.unread > 0 {
		l.append(ofNote + fmt.Sprintf("%d bytes were left out here: they came faster than they could be read", l.unread))
	}
	l.left, l.leftBytes, l.unread = 0, 0, 0
}

func (l *File) append(text string) {
	if l.file == nil {
		return
	}
	if l.size > maxLogBytes {
		l.rotate()
	}
	n, err := fmt.Fprintf(l.file, "%s%s\n", time.Now().UTC().Format(logTime), text)
	l.size += int64(n)
	if lost := err != nil; lost != l.lost {
		l.lost = lost
		if l.Lost != nil {
			l.Lost(err)
		}
	}
	if l.Wrote != nil {
		l.Wrote()
	}
}

func (l *File) rotate() {
	// If the rename fails, truncating the file still keeps the bound.
	path := l.Path()
	_ = os.Rename(path, path+".1")
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return
	}
	_ = l.file.Close()
	l.file, l.size = f, 0
}

// Note writes a line of headgate's own.
func (l *File) Note(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.tellLeft()
	l.append(ofNote + fmt.Sprintf(format, args...))
}

// LastLine is the last line that was not blank, short enough for a message.
func (l *File) LastLine() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.part) > 0 {
		l.flush()
	}
	last := l.readable(l.last)
	if r := []rune(last); len(r) > 200 {
		return string(r[:200]) + "…"
	}
	return last
}

// ForgetPart forgets a line whose end has not come: another agent reads it whole.
func (l *File) ForgetPart() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.part = l.part[:0]
}

// Close ends it: the last line may have no end.
func (l *File) Close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.part) > 0 {
		l.flush()
	}
	l.tellLeft()
	// Nothing was promised about the last lines of a process on a full disk.
	_ = l.file.Close()
	l.file = nil
}

// Tail reads the last lines of a log and the file it was rotated to.
func Tail(path string, lines int) ([]string, error) {
	var all []string
	found := false
	for _, p := range []string{path + ".1", path} {
		f, err := os.Open(p)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		found = true
		sc := bufio.NewScanner(io.LimitReader(f, 2*maxLogBytes))
		sc.Buffer(nil, 4*maxLogLine) // making it printable may double a line
		for sc.Scan() {
			all = append(all, sc.Text())
		}
		if err := errors.Join(sc.Err(), f.Close()); err != nil {
			return nil, err
		}
	}
	if !found {
		return nil, fs.ErrNotExist
	}
	return all[max(0, len(all)-lines):], nil
}

// Prune removes the oldest logs of a directory over the bound.
func Prune(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) <= maxLogFiles {
		return err
	}
	age := map[string]time.Time{}
	for _, e := range entries {
		if info, err := e.Info(); err == nil {
			age[e.Name()] = info.ModTime()
		}
	}
	slices.SortFunc(entries, func(a, b os.DirEntry) int { return age[b.Name()].Compare(age[a.Name()]) })
	for _, e := range entries[maxLogFiles:] {
		err = errors.Join(err, os.Remove(filepath.Join(dir, e.Name())))
	}
	return err
}
