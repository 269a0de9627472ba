// Package buildlog keeps the logs of builds: one writer, many readers, who may
// come late, on disk.
//
//   - Dir is the directory of logs. A log that grows is running/<id>.log; a finished
//     one is <sha256 of its bytes>.log.
//   - Writer writes one log: steps, their output, notes. It bounds and cleans what
//     commands print (clean.go) and masks secrets (terminal.Mask).
//   - Follow reads a log from its beginning and waits for more until it is done.
//
// A log is a line of JSON per Event. It is data of the build, not a record that
// anything depends on: verdicts name it by digest.
package buildlog

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"iter"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/headgate-cd/headgate/gitd/crash"
	"github.com/headgate-cd/headgate/gitd/terminal"
)

// Bounds of one log.
const (
	MaxBytes = 64 << 20 // of output as it is in the file; steps and notes are kept beyond it
	MaxLine  = 8 << 10  // bytes; a longer line is broken up
)

// Kind is what an Event is.
type Kind string

const (
	Step Kind = "step" // a command begins
	Out  Kind = "out"  // a line that a command printed
	Part Kind = "part" // what there is of a line that is not ended for a while; for those who follow, not in the log
	End  Kind = "end"  // a command has ended
	Note Kind = "note" // a line of Headgate's own
	Done Kind = "done" // the build has ended; the last event
)

// About says of a Note what is to be known without reading it. Most say nothing
// of the kind.
type About string

const (
	Warning About = "warning" // somebody should act on it
	Command About = "command" // it names the command whose Step follows
)

// Event is one entry of a log.
type Event struct {
	Kind    Kind   `json:"k"`
	At      int64  `json:"t"`           // milliseconds since the log began
	Step    int    `json:"n,omitempty"` // from 1; 0 outside of steps
	Phase   string `json:"phase,omitempty"`
	Command string `json:"cmd,omitempty"`
	About   About  `json:"about,omitempty"`
	Text    string `json:"s,omitempty"` // may hold SGR colour codes and tabs, no other controls
	Exit    int    `json:"exit,omitempty"`
	Took    int64  `json:"ms,omitempty"` // milliseconds that the step took
	Line    int    `json:"-"`            // of Out and Note, counted from 1 by the reader
}

// ErrNoLog is returned for a log that is not there.
var ErrNoLog = errors.New("no such log")

// Dir is a directory of logs. It is safe for concurrent use.
type Dir struct {
	root  string
	bound int64 // MaxBytes, or less in a test

	mu       sync.Mutex
	running  map[string]*Writer
	finished map[string]string // id → digest, of logs finished by this process
	created  chan struct{}     // closed and replaced when a log begins
}

var digestForm = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[0-9a-f]{64}$`) })

var idForm = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,199}$`) })

// OpenDir opens a directory of logs, making it if absent. Logs that a killed
// process left unfinished are removed: their builds are run again.
func OpenDir(root string) (*Dir, error) {
	running := filepath.Join(root, "running")
	if err := os.RemoveAll(running); err != nil {
		return nil, fmt.Errorf("open logs: %w", err)
	}
	if err := os.MkdirAll(running, 0o755); err != nil {
		return nil, fmt.Errorf("open logs: %w", err)
	}
	return &Dir{root: root, bound: MaxBytes, running: map[string]*Writer{}, finished: map[string]string{},
		created: make(chan struct{})}, nil
}

// Create begins the log called id. Secrets are the values to be masked.
func (d *Dir) Create(id string, secrets []string) (*Writer, error) {
	if !idForm().MatchString(id) {
		return nil, fmt.Errorf("create log: %q is not a log id", id)
	}
	path := filepath.Join(d.root, "running", id+".log")
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, fmt.Errorf("create log: %w", err)
	}
	w := &Writer{dir: d, id: id, path: path, file: f, hash: sha256.New(), began: time.Now(), more: make(chan struct{})}
	w.mask.Store(terminal.NewMask(secrets))
	d.mu.Lock()
	d.running[id] = w
	close(d.created)
	d.created = make(chan struct{})
	d.mu.Unlock()
	return w, nil
}

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
		lines, events := 0, 0
		for {
			// Whatever is written after this moment closes more.
			var more <-chan struct{}
			ended := true
			var standing *unfinished
			if w != nil {
				more, standing, ended = w.waiting()
			}
			for {
				chunk, err := in.ReadBytes('\n')
				partial = append(partial, chunk...)
				if err != nil {
					if err == io.EOF {
						break
					}
					yield(Event{}, fmt.Errorf("read log %s: %w", name, err))
					return
				}
				var e Event
				if err := json.Unmarshal(partial, &e); err != nil {
					yield(Event{}, fmt.Errorf("read log %s: %w", name, err))
					return
				}
				partial, part = partial[:0], ""
				events++
				if e.Kind == Out || e.Kind == Note {
					lines++
					e.Line = lines
				}
				if !yield(e, nil) {
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
		}
	}
}

// Writer writes one log. It is safe for concurrent use.
type Writer struct {
	dir   *Dir
	id    string
	path  string
	began time.Time
	mask  atomic.Pointer[terminal.Mask] // replaced, not altered

	mu    sync.Mutex
	file  *os.File
	hash  hash.Hash
	err   error // the first of the file
	size  int64 // bytes that output takes in the file
	cut   bool
	lines int
	steps int
	step  time.Time // when the running step began
	ended bool
	more  chan struct{} // closed and replaced at each event

	events   int         // in the file
	standing *unfinished // replaced, not altered
}

// unfinished is a line that stands without its end, after so many events.
type unfinished struct {
	Event
	after int
}

// Mask has more values masked, in what is written from here on.
func (w *Writer) Mask(secrets ...string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.mask.Store(terminal.NewMask(slices.Concat(w.mask.Load().Values(), secrets)))
}

// Masked is a text as the log would say it: without the values that are masked.
func (w *Writer) Masked(text string) string { return w.mask.Load().Apply(text) }

// Beside creates a log beside this one, with the same values masked.
func (w *Writer) Beside(name string) (*Writer, error) {
	return w.dir.Create(w.id+"-"+name, w.mask.Load().Values())
}

// Others is the directory that the log is in.
func (w *Writer) Others() *Dir { return w.dir }

// ID names the log while it runs.
func (w *Writer) ID() string { return w.id }

func (w *Writer) waiting() (more <-chan struct{}, standing *unfinished, ended bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.more, w.standing, w.ended
}

// stand shows followers a line that is not ended.
func (w *Writer) stand(step int, text string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.ended || w.cut || text == "" || w.standing != nil && w.standing.Text == text {
		return
	}
	w.standing = &unfinished{Event{Kind: Part, At: time.Since(w.began).Milliseconds(), Step: step, Text: text}, w.events}
	close(w.more)
	w.more = make(chan struct{})
}

// write appends an event and returns how many bytes that took in the file. The
// caller holds w.mu.
func (w *Writer) write(e Event) (size int64) {
	if w.ended || w.err != nil {
		return 0
	}
	e.At = time.Since(w.began).Milliseconds()
	data, err := json.Marshal(e)
	if err == nil {
		data = append(data, '\n')
		w.hash.Write(data)
		_, err = w.file.Write(data)
	}
	if err != nil {
		w.err = fmt.Errorf("write log: %w", err)
		return 0
	}
	if e.Kind == Out || e.Kind == Note {
		w.lines++
	}
	w.events++
	w.standing = nil
	close(w.more)
	w.more = make(chan struct{})
	return int64(len(data))
}

// Begin tells that a command begins and returns the number of its step.
func (w *Writer) Begin(phase, command string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.steps++
	w.step = time.Now()
	w.write(Event{Kind: Step, Step: w.steps, Phase: phase, Command: w.mask.Load().Apply(terminal.Log(firstLine(command)))})
	return w.steps
}

// firstLine is how a command of several lines is named.
func firstLine(command string) string {
	b := bytes.TrimSpace([]byte(command))
	if line, rest, ok := bytes.Cut(b, []byte("\n")); ok && len(bytes.TrimSpace(rest)) > 0 {
		return string(bytes.TrimRight(line, "\r \t")) + " …"
	}
	return string(b)
}

// End tells that the command of a step has ended.
func (w *Writer) End(step, exit int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.write(Event{Kind: End, Step: step, Exit: exit, Took: time.Since(w.step).Milliseconds()})
}

// Note writes a line of Headgate's own.
func (w *Writer) Note(format string, args ...any) { w.NoteAbout("", format, args...) }

// NoteAbout is Note for a line that programs take up.
func (w *Writer) NoteAbout(about About, format string, args ...any) {
	text := w.mask.Load().Apply(terminal.Log(fmt.Sprintf(format, args...)))
	w.mu.Lock()
	defer w.mu.Unlock()
	w.write(Event{Kind: Note, About: about, Text: text})
}

func (w *Writer) line(step int, text string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.size >= w.dir.bound {
		if !w.cut {
			w.cut = true
			w.write(Event{Kind: Note, Step: step,
				Text: fmt.Sprintf("the log is cut here: the output is over %d MiB; the build goes on", w.dir.bound>>20)})
		}
		return
	}
	w.size += w.write(Event{Kind: Out, Step: step, Text: text}) // in the file: a million empty lines are not nothing
}

// Lines is how many lines the log has by now.
func (w *Writer) Lines() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.lines
}

// Output returns where the output of a step is written. Close it to have a last
// line without a newline counted.
func (w *Writer) Output(step int) io.WriteCloser { return &output{w: w, step: step} }

// standTime is how long a line may go without its end before it is shown.
const standTime = time.Second

// output cuts a stream into lines.
type output struct {
	w    *Writer
	step int

	mu    sync.Mutex // guards the rest
	buf   []byte
	began time.Time   // when what is in buf did
	timer *time.Timer // running while there is something in buf
}

// look shows what stands without its end for long enough, and looks again.
func (o *output) look() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.timer = nil
	if len(o.buf) == 0 {
		return
	}
	wait := standTime - time.Since(o.began)
	if wait <= 0 {
		// The beginning of a secret is no secret yet to the mask.
		text := o.w.mask.Load().Apply(string(o.buf))
		o.w.stand(o.step, o.w.mask.Load().Apply(terminal.Log(text[:len(text)-o.w.mask.Load().Incomplete(text)])))
		wait = standTime
	}
	o.timer = time.AfterFunc(wait, o.look)
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.buf) == 0 || bytes.IndexByte(p, '\n') >= 0 {
		o.began = time.Now()
	}
	o.buf = append(o.buf, p...)
	for {
		i := bytes.IndexByte(o.buf, '\n')
		if i < 0 {
			break
		}
		o.emit(o.buf[:i])
		o.buf = o.buf[i+1:]
	}
	// A line without end is broken up; what is held back is as long as a secret
	// may be, so that none is broken in two and missed.
	if hold := o.w.mask.Load().Longest(); len(o.buf) > MaxLine+hold {
		rest := []byte(o.w.mask.Load().Apply(string(o.buf)))
		for len(rest) > MaxLine+hold {
			n := breakAt(rest)
			o.emit(rest[:n])
			rest = rest[n:]
		}
		o.buf = rest
	}
	if len(o.buf) == 0 {
		o.buf = nil // let a large buffer go
	} else if o.timer == nil {
		o.timer = time.AfterFunc(standTime, o.look)
	}
	return len(p), nil
}

func (o *output) Close() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.timer != nil {
		o.timer.Stop()
	}
	if len(o.buf) > 0 {
		o.emit(o.buf)
		o.buf = nil
	}
	return nil
}

func (o *output) emit(line []byte) {
	// Once more afterwards: what was printed over may have been in the middle of one.
	text := o.w.mask.Load().Apply(terminal.Log(o.w.mask.Load().Apply(string(line))))
	for len(text) > MaxLine {
		n := breakAt(text)
		o.w.line(o.step, text[:n])
		text = text[n:]
	}
	o.w.line(o.step, text)
}

// breakAt is where a line of over MaxLine bytes is broken: not inside a character.
func breakAt[T string | []byte](line T) int {
	for n := MaxLine; n > MaxLine-utf8.UTFMax; n-- {
		if utf8.RuneStart(line[n]) {
			return n
		}
	}
	return MaxLine // it is not text
}

// Finish ends the log with how the build ended, makes it durable and returns its
// digest. Afterwards the Writer takes nothing more.
func (w *Writer) Finish(status string) (digest string, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.ended {
		return "", errors.New("finish log: it is finished")
	}
	w.write(Event{Kind: Done, Text: status})
	digest = hex.EncodeToString(w.hash.Sum(nil))
	err = errors.Join(w.err, w.file.Sync(), w.file.Close())
	crash.Point("build.log-synced")
	if err == nil {
		w.dir.mu.Lock()
		err = os.Rename(w.path, filepath.Join(w.dir.root, digest+".log"))
		delete(w.dir.running, w.id)
		w.dir.finished[w.id] = digest
		w.dir.mu.Unlock()
	} else {
		w.dir.forget(w)
	}
	if err == nil {
		err = syncDir(w.dir.root)
	}
	w.ended = true
	close(w.more)
	crash.Point("build.log-named")
	if err != nil {
		return "", fmt.Errorf("finish log: %w", err)
	}
	return digest, nil
}

// Discard ends and removes a log that nobody will ask for: of a build that was
// cut off. Followers see it end.
func (w *Writer) Discard() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.ended {
		return
	}
	w.write(Event{Kind: Done, Text: "STOPPED"})
	w.file.Close()
	w.dir.forget(w)
	w.ended = true
	close(w.more)
}

func (d *Dir) forget(w *Writer) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.running, w.id)
	os.Remove(w.path) // if not now, then at the next start
}

func syncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}
