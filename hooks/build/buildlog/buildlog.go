// Package buildlog keeps the logs of builds: one writer, many readers, who may
// come late, on disk.
//
//   - Dir is the directory of logs. A log that grows is running/<id>.log; a finished
//     one is <sha256 of its bytes>.log.
//   - Writer writes one log: steps, their output, notes. It bounds and cleans what
//     commands print (clean.go) and masks secrets (terminal.Mask).
//   - Follow reads a log from its beginning and waits for more until it is done.
//   - Search looks for a text in many logs (search.go).
//
// A log is a line of JSON per Event. It is data of the build, not a record that
// anything depends on: verdicts name it by digest.
package buildlog

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/headgate-cd/headgate/gitd/crash"
	"github.com/headgate-cd/headgate/gitd/terminal"
)

// Bounds of one log.
const (
	MaxBytes = 64 << 20 // of output as it is in the file; steps and notes are kept beyond it
	MaxLine  = 8 << 10  // bytes; a longer line is broken up
)

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

	reading   chan struct{} // holds one of each who reads now, of as many as may
	searching chan struct{} // the same of searches, which keep no reader waiting
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
		created: make(chan struct{}), reading: make(chan struct{}, max(1, runtime.GOMAXPROCS(0)/2)),
		searching: make(chan struct{}, max(1, runtime.GOMAXPROCS(0)/4))}, nil
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
	more  chan struct{} // closed and replaced at each flush
	ready []byte        // events that are not in the file yet; empty while nobody holds mu

	events   int         // in the file
	standing *unfinished // replaced, not altered

	read blocks // by those who follow
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

// write appends an event. The caller holds w.mu.
func (w *Writer) write(e Event) {
	w.add(e)
	w.flush()
}

// add makes an event ready for flush, and returns how many bytes it takes in the file.
// The caller holds w.mu.
func (w *Writer) add(e Event) (size int64) {
	if w.ended || w.err != nil {
		return 0
	}
	e.At = time.Since(w.began).Milliseconds()
	before := len(w.ready)
	ready, err := encode(w.ready, e)
	if err != nil {
		w.err = fmt.Errorf("write log: %w", err)
		return 0
	}
	w.ready = ready
	if e.Kind == Out || e.Kind == Note {
		w.lines++
	}
	w.events++
	return int64(len(w.ready) - before)
}

// flush writes what add has made ready, and wakes those who follow. The caller holds w.mu,
// and has done so since it was added.
func (w *Writer) flush() {
	if len(w.ready) == 0 {
		return
	}
	w.hash.Write(w.ready)
	if _, err := w.file.Write(w.ready); err != nil && w.err == nil {
		w.err = fmt.Errorf("write log: %w", err)
	}
	w.ready = w.ready[:0]
	w.standing = nil
	close(w.more)
	w.more = make(chan struct{})
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
	w.NoteLog(about, "", format, args...)
}

// NoteLog is NoteAbout for a line about what another log, by its digest, has more of.
func (w *Writer) NoteLog(about About, digest, format string, args ...any) {
	text := w.mask.Load().Apply(terminal.Log(fmt.Sprintf(format, args...)))
	w.mu.Lock()
	defer w.mu.Unlock()
	w.write(Event{Kind: Note, About: about, Log: digest, Text: text})
}

// output writes lines of a step. They reach the file together: with a call of the kernel and
// a wake for each line, whoever prints much would wait for that.
func (w *Writer) output(step int, lines []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, text := range lines {
		w.line(step, text)
	}
	w.flush()
}

// line adds a line of a step. The caller holds w.mu.
func (w *Writer) line(step int, text string) {
	if w.size >= w.dir.bound {
		if !w.cut {
			w.cut = true
			w.add(Event{Kind: Note, Step: step,
				Text: fmt.Sprintf("the log is cut here: the output is over %d MiB; the build goes on", w.dir.bound>>20)})
		}
		return
	}
	w.size += w.add(Event{Kind: Out, Step: step, Text: text}) // in the file: a million empty lines are not nothing
}

// Lines is how many lines the log has by now.
func (w *Writer) Lines() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.lines
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
