package deploy

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/headgate-cd/headgate/gitd/terminal"
	"github.com/headgate-cd/headgate/reconciler/target/hosts/appspec"
)

// Bounds of what a script may print.
const (
	maxScriptLog = 4 << 20 // bytes of a script that are kept in the log
	maxLine      = 8 << 10 // bytes of a line; a longer one is broken
	tailBytes    = 2048    // of the end, which travels with a failure
)

// scriptLog writes scripts.log, in CodeDeploy's format, and tells whoever watches. A
// log that cannot be written stops nothing.
type scriptLog struct {
	mu        sync.Mutex
	file      io.WriteCloser // nil: none could be opened
	progress  func(Progress)
	restoring bool
}

func openLog(name string, progress func(Progress)) *scriptLog {
	l := &scriptLog{progress: progress}
	if os.MkdirAll(filepath.Dir(name), 0o755) == nil {
		if f, err := os.OpenFile(name, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644); err == nil {
			l.file = f
		}
	}
	return l
}

func (l *scriptLog) close() {
	if l.file != nil {
		_ = l.file.Close()
	}
}

// tell writes a line, if it has a text for the log, and reports p.
func (l *scriptLog) tell(p Progress, line string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	p.Time, p.Restoring = time.Now(), l.restoring
	if l.file != nil && line != "" {
		_, _ = fmt.Fprintf(l.file, "%s %s\n", p.Time.Format("2006-01-02 15:04:05"), line)
	}
	if l.progress != nil {
		l.progress(p)
	}
}

func (l *scriptLog) event(e appspec.Event) {
	l.tell(Progress{Kind: EventStarted, Event: e}, "LifecycleEvent - "+string(e))
}

func (l *scriptLog) script(e appspec.Event, location string) {
	l.tell(Progress{Kind: ScriptBegun, Event: e, Script: location}, "Script - "+location)
}

// warn is about something of Headgate's own, which nobody but its users expects in the log.
func (l *scriptLog) warn(e appspec.Event, text string) {
	l.tell(Progress{Kind: Warned, Event: e, Text: text}, "[headgate]"+terminal.Line(text))
}

// note writes to the log what whoever watches is told otherwise.
func (l *scriptLog) note(text string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.file != nil {
		_, _ = fmt.Fprintf(l.file, "%s [headgate]%s\n", time.Now().Format("2006-01-02 15:04:05"), terminal.Line(text))
	}
}

// capture takes what a script prints on one stream, line by line.
type capture struct {
	log    *scriptLog
	event  appspec.Event
	script string
	stream string
	shared *captured // by both streams of a script

	line []byte
}

// captured counts and keeps the end of what a script has printed.
type captured struct {
	mu      sync.Mutex
	written int
	dropped int
	tail    []byte
}

func (c *capture) Write(data []byte) (int, error) {
	for _, b := range data {
		if b != '\n' && len(c.line) < maxLine {
			c.line = append(c.line, b)
			continue
		}
		c.flush()
		if b != '\n' {
			c.line = append(c.line, b)
		}
	}
	return len(data), nil
}

// flush ends the line.
func (c *capture) flush() {
	text := strings.TrimRight(terminal.Log(strings.ToValidUTF8(string(c.line), "\uFFFD")), "\r")
	c.line = c.line[:0]
	entry := "[" + c.stream + "]" + text
	if c.shared.add(entry) {
		c.log.tell(Progress{Kind: Output, Event: c.event, Script: c.script, Stream: c.stream, Text: text}, entry)
	}
}

// end flushes what is left without a newline.
func (c *capture) end() {
	if len(c.line) > 0 {
		c.flush()
	}
}

// add reports whether a line is still to be kept.
func (c *captured) add(line string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.tail = append(append(c.tail, line...), '\n')
	if over := len(c.tail) - tailBytes; over > 0 {
		c.tail = append(c.tail[:0], c.tail[over:]...)
	}
	if c.written += len(line) + 1; c.written > maxScriptLog {
		c.dropped++
		return false
	}
	return true
}

// end is the end of the output, and how many lines were dropped.
func (c *captured) end() (tail string, dropped int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return strings.ToValidUTF8(string(c.tail), ""), c.dropped
}
