package services

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

// logFile takes the output of one process line by line, with the time in front.
// It never fails: a full disk must not stop the process that writes.
type logFile struct {
	path string

	mu   sync.Mutex
	file *os.File
	size int64
	part []byte // of a line whose end has not come yet
	last string // last line that was not blank
}

// openLog opens the log of an instance to append to it.
func openLog(path string) (*logFile, error) {
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
	return &logFile{path: path, file: f, size: info.Size()}, nil
}

func (l *logFile) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
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
	return len(p), nil
}

func (l *logFile) flush() {
	text := strings.TrimRight(terminal.Plain(string(l.part)), " ")
	l.part = l.part[:0]
	if text != "" {
		l.last = text
	}
	l.append(text)
}

func (l *logFile) append(text string) {
	if l.file == nil {
		return
	}
	if l.size > maxLogBytes {
		l.rotate()
	}
	n, _ := fmt.Fprintf(l.file, "%s %s\n", time.Now().UTC().Format("2006-01-02T15:04:05.000Z"), text)
	l.size += int64(n)
}

func (l *logFile) rotate() {
	// If the rename fails, truncating the file still keeps the bound.
	_ = os.Rename(l.path, l.path+".1")
	f, err := os.OpenFile(l.path, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return
	}
	_ = l.file.Close()
	l.file, l.size = f, 0
}

// note writes a line of headgate's own.
func (l *logFile) note(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.append("headgate: " + fmt.Sprintf(format, args...))
}

// lastLine is the last line that was not blank, short enough for a message.
func (l *logFile) lastLine() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.part) > 0 {
		l.flush()
	}
	if r := []rune(l.last); len(r) > 200 {
		return string(r[:200]) + "…"
	}
	return l.last
}

func (l *logFile) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.part) > 0 {
		l.flush()
	}
	// Nothing was promised about the last lines of a process on a full disk.
	_ = l.file.Close()
	l.file = nil
}

// tail reads the last lines of a log and the file it was rotated to.
func tail(path string, lines int) ([]string, error) {
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

// pruneLogs removes the oldest logs of a directory over the bound.
func pruneLogs(dir string) error {
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
