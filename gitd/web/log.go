package web

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"iter"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/headgate-cd/headgate/gitd/access"
	"github.com/headgate-cd/headgate/gitd/show"
	"github.com/headgate-cd/headgate/gitd/terminal"
)

// Bounds of a log on a page. The raw log has everything.
const (
	logLines    = 1000  // kept of the whole log
	logLinesMax = 20000 // sent when asked for more
	stepLines   = 100   // sent of a folded step, its last
	liveLines   = 250   // sent of the running step
	linesAround = 25    // sent before and after a line that is looked for
	maxMatches  = 500   // lines that a search marks
)

// buildLog is a build's log as the change page shows it: steps with their
// last lines.
type buildLog struct {
	Build   *show.Build
	Other   bool // it is not the newest of the change
	Took    time.Duration
	Steps   []*logStep
	Lines   int    // of the whole log
	Before  int    // lines not sent
	MoreURL string // sends more of them
	more    bool   // more was asked for
	line    int    // that was asked for
	Find    string // what is searched for
	Found   int    // lines that have it
	First   int    // the first of them
	RawURL  string
	Live    bool
	events  int // how many events this shows: a stream goes on after them
}

// logStep is one command of the buildspec.
type logStep struct {
	N      int
	Title  string // phase: command
	Mark   mark
	Began  time.Duration
	Took   time.Duration
	Ended  bool
	Exit   int
	Lines  []logLine
	First  int  // number of its first line
	Last   int  // and of its last
	Before int  // lines of this step that are not sent, before those that are
	After  int  // and after them
	Open   bool // unfolded
	Live   bool // lines may still come
	// X and W place the strip on the time axis all steps share, in percent.
	X, W int
}

// logLine is one line, or a note of the server in its place.
type logLine struct {
	N     int
	At    show.Duration
	Text  string
	Note  bool
	Part  bool // it is not ended yet
	Bad   bool // the failure shows here
	Hit   bool // it has what is searched for
	Gap   int  // lines before it that are not sent
	place int  // its number, where it has none of its own
}

// beforeSteps is the title of what a build says before its first command.
const beforeSteps = "before the first command"

// otherLog is the log of another build of c than its newest that is asked for, "" for none.
func (q *request) otherLog(c *show.Change) string {
	log := q.r.URL.Query().Get("build")
	if c.Build != nil && (show.IsLog(c.Build.Log, log) || show.IsLog(c.Build.ID, log)) {
		return ""
	}
	return cut(log, 200)
}

// buildLog reads the log of c's newest build, or of another that is asked for; nil if there
// is none.
func (q *request) buildLog(c *show.Change) (*buildLog, error) {
	build, events, query := c.Build, q.Backend.Log, ""
	if other := q.otherLog(c); other != "" {
		build, query = &show.Build{ID: other, Log: other, State: show.Unknown}, "build="+url.QueryEscape(other)
		events = func(ctx context.Context, who access.Identity, repo string, n int, _ bool) iter.Seq2[show.LogEvent, error] {
			return q.Backend.BuildLog(ctx, who, repo, n, other)
		}
	}
	if build == nil || build.Log == "" {
		return nil, nil
	}
	keep := logLines
	more := q.r.URL.Query().Has("more")
	if more {
		keep = logLinesMax
	}
	l := &buildLog{
		more:   more,
		Build:  build,
		Other:  build != c.Build,
		RawURL: strings.TrimSuffix(changeHref(*c)+"/log.txt?"+query, "?"),
		Live:   build.State == show.Running,
	}
	ring := &ring{keep: keep}
	l.line, _ = strconv.Atoi(q.r.URL.Query().Get("line")) // what is no number asks for no line
	l.Find = cut(strings.TrimSpace(q.r.URL.Query().Get("find")), 200)
	for e, err := range events(q.r.Context(), q.actor, c.Repository, c.Number, false) {
		if err != nil {
			return nil, fmt.Errorf("read the log of build %s: %w", build.ID, err)
		}
		l.events++
		l.add(e, ring)
	}
	l.settle(ring, q.now)
	if !more {
		l.MoreURL = changeHref(*c) + "?" + strings.TrimPrefix(query+"&more#log", "&")
	}
	return l, nil
}

// ring keeps the last lines of a log, each with the step it belongs to, and
// those before them that are looked for.
type ring struct {
	keep  int
	lines []stepLine
	next  int        // the oldest line, once the ring is full
	early []stepLine // older than all of lines
}

// all is every line that is kept, in order.
func (r *ring) all() []stepLine {
	return slices.Concat(r.early, r.lines[r.next:], r.lines[:r.next])
}

type stepLine struct {
	step   int  // index into Steps, -1 before the first
	wanted bool // it stays when newer ones come
	logLine
}

func (r *ring) add(l stepLine) {
	if len(r.lines) < r.keep {
		r.lines = append(r.lines, l)
		return
	}
	if old := r.lines[r.next]; old.wanted {
		r.early = append(r.early, old)
	}
	r.lines[r.next] = l
	r.next = (r.next + 1) % r.keep
}

// add takes in one event.
func (l *buildLog) add(e show.LogEvent, r *ring) {
	at := time.Duration(e.At)
	l.Took = max(l.Took, at)
	switch e.Kind {
	case "step":
		l.Steps = append(l.Steps, &logStep{N: e.Step, Title: stepTitle(e), Began: at, Mark: markOf(show.Running)})
	case "end":
		for _, s := range l.Steps {
			if s.N == e.Step && !s.Ended {
				s.Ended, s.Exit, s.Took, s.Mark = true, e.Exit, time.Duration(e.Took), endMark(e.Exit)
				if s.Took == 0 {
					s.Took = at - s.Began
				}
			}
		}
	case "out", "note":
		if e.Line > 0 {
			l.Lines = max(l.Lines, e.Line)
		} else {
			l.Lines++
		}
		if len(l.Steps) == 0 {
			l.Steps = append(l.Steps, &logStep{N: e.Step, Title: beforeSteps, Began: at, Mark: mark{"said", "queued", ""}})
		}
		line := stepLine{step: len(l.Steps) - 1, logLine: logLine{N: e.Line, At: e.At, Text: e.Text, Note: e.Kind == "note"}}
		l.want(&line)
		s := l.Steps[line.step]
		if s.First == 0 {
			s.First = l.Lines
		}
		s.Last = l.Lines
		if line.N == 0 {
			line.place = l.Lines
		}
		r.add(line)
	}
}

// want says whether a line is looked for, or stands around one that is.
func (l *buildLog) want(line *stepLine) {
	line.Bad = line.N > 0 && line.N == l.Build.LogLine && l.Build.State == show.Failed
	if l.Find != "" && l.Found < maxMatches &&
		strings.Contains(strings.ToLower(terminal.Plain(line.Text)), strings.ToLower(l.Find)) {
		line.Hit = true
		if l.Found++; l.First == 0 {
			l.First = line.N
		}
	}
	near := func(n int) bool { return n > 0 && line.N >= n-linesAround && line.N <= n+linesAround }
	line.wanted = line.Hit || near(l.line) || l.Build.State == show.Failed && near(l.Build.LogLine)
}

// settle gives the kept lines to their steps, once all events are in.
func (l *buildLog) settle(r *ring, now time.Time) {
	if l.Live && !l.Build.Started.IsZero() {
		l.Took = max(l.Took, now.Sub(l.Build.Started))
	}
	for _, k := range r.all() {
		l.Steps[k.step].Lines = append(l.Steps[k.step].Lines, k.logLine)
	}
	whole := max(l.Took, time.Millisecond)
	if !l.Build.Finished.IsZero() && !l.Build.Started.IsZero() {
		l.Took = l.Build.Finished.Sub(l.Build.Started)
		whole = max(whole, l.Took)
	}
	failing := false
	for i, s := range l.Steps {
		last := i == len(l.Steps)-1
		if !s.Ended {
			end := whole
			if !last {
				end = l.Steps[i+1].Began
			}
			s.Took = max(end-s.Began, 0)
			switch {
			case l.Live && last:
				s.Live, s.Open = true, true
			case s.Title == beforeSteps && !last: // no command, so it has no verdict
			case l.Build.State == show.Failed:
				s.Mark = mark{"cancelled", "stopped", ""}
			case l.Build.State == show.Green:
				s.Mark = markOf(show.Green)
			}
		}
		if s.Ended && s.Exit != 0 && !failing {
			failing, s.Open = true, true
		}
		if slices.ContainsFunc(s.Lines, func(k logLine) bool { return k.Hit || l.line > 0 && k.N == l.line }) {
			s.Open = true
		}
		s.X = min(int(100*s.Began/whole), 99)
		s.W = min(max(int(100*s.Took/whole), 1), 100-s.X)
	}
	if l.Build.State == show.Failed && !failing && len(l.Steps) > 0 {
		l.Steps[len(l.Steps)-1].Open = true // it ended before any command did
	}
	for _, s := range l.Steps {
		if !l.more {
			s.trim(l.line)
		}
		s.count()
		l.Before += s.Before + s.After
		for _, k := range s.Lines {
			l.Before += k.Gap
		}
	}
}

// trim leaves of a step what is worth reading at first: what stands around the
// failure and whatever is looked for, or the end.
func (s *logStep) trim(line int) {
	keep := make([]bool, len(s.Lines))
	marks := false
	around := func(i, n int) {
		marks = true
		for j := max(i-n, 0); j < min(i+n+1, len(keep)); j++ {
			keep[j] = true
		}
	}
	for i, k := range s.Lines {
		switch {
		case k.Bad, line > 0 && k.N == line:
			around(i, linesAround)
		case k.Hit:
			around(i, 2)
		}
	}
	end := stepLines
	switch {
	case s.Live:
		end = liveLines
	case marks:
		end = 0
	}
	for i := max(len(keep)-end, 0); i < len(keep); i++ {
		keep[i] = true
	}

	kept := s.Lines[:0:0]
	for i, k := range s.Lines {
		if keep[i] {
			kept = append(kept, k)
		}
	}
	s.Lines = kept
}

// count says where lines are left out.
func (s *logStep) count() {
	next := s.First
	for i := range s.Lines {
		k := &s.Lines[i]
		at := k.N
		if at == 0 {
			at = k.place
		}
		if gap := at - next; i == 0 {
			s.Before = max(gap, 0)
		} else {
			k.Gap = max(gap, 0)
		}
		next = at + 1
	}
	switch left := max(s.Last-next+1, 0); {
	case s.First == 0:
	case len(s.Lines) == 0:
		s.Before = left
	default:
		s.After = left
	}
}

func stepTitle(e show.LogEvent) string {
	if e.Phase == "" {
		return e.Command
	}
	return e.Phase + ": " + e.Command
}

func endMark(exit int) mark {
	if exit == 0 {
		return markOf(show.Green)
	}
	return markOf(show.Failed)
}

// logText is the raw log, which grows under the reader's eyes while the build
// runs: what curl shows is what the page shows. Asked for JSON it is the
// events, one a line.
func logText(q *request) error {
	r, err := q.repository()
	if err != nil {
		return err
	}
	c, err := q.change(r)
	if err != nil {
		return err
	}
	if other := q.otherLog(&c); other != "" {
		return q.streamLog(false, func(ctx context.Context) iter.Seq2[show.LogEvent, error] {
			return q.Backend.BuildLog(ctx, q.actor, r.Name, c.Number, other)
		})
	}
	if c.Build == nil || c.Build.Log == "" {
		return &nearby{err: notFound(fmt.Sprintf("change %d has no build, so there is no log", c.Number), ""),
			nearest: []link{{Text: fmt.Sprintf("change %d", c.Number), Href: changeHref(c)}}}
	}
	follow := c.Build.State == show.Running || c.Build.State == show.Queued
	return q.streamLog(follow, func(ctx context.Context) iter.Seq2[show.LogEvent, error] {
		return q.Backend.Log(ctx, q.actor, r.Name, c.Number, follow)
	})
}

// streamLog answers with a log as text or lines of JSON; as it grows, with follow.
func (q *request) streamLog(follow bool, events func(context.Context) iter.Seq2[show.LogEvent, error]) error {
	asJSON := q.wantsJSON()
	h := q.w.Header()
	h.Set("Content-Type", "text/plain; charset=utf-8")
	if asJSON {
		h.Set("Content-Type", "application/x-ndjson")
	}
	if q.r.Method == http.MethodHead {
		return nil
	}
	ctx, cancel := context.WithCancel(q.r.Context())
	defer cancel()
	rc := http.NewResponseController(q.w)
	out := bufio.NewWriterSize(q.w, 32<<10)
	var unfinished show.Unfinished
	for e, err := range events(ctx) {
		if err != nil {
			if out.Buffered() == 0 {
				return err // nothing is sent yet, unless outcome knows better
			}
			_, _ = fmt.Fprintf(out, "\nheadgate: the log ends here: %s\n", terminal.Plain(err.Error()))
			_ = out.Flush()
			return err
		}
		done := false
		if !asJSON {
			var err error
			if done, err = unfinished.Write(out, e, outPrefix(e), terminal.Plain); err != nil {
				return gone(err)
			}
		}
		if !done {
			if err := writeEvent(out, e, asJSON); err != nil {
				return gone(err)
			}
		}
		if !follow {
			continue
		}
		_ = rc.SetWriteDeadline(time.Now().Add(writeTimeout)) // not all connections have one; then the server's own holds
		if err := out.Flush(); err != nil {
			return gone(err)
		}
		if err := rc.Flush(); err != nil {
			return gone(err)
		}
	}
	return gone(out.Flush())
}

// outPrefix comes before what a command has printed: no such line can be taken for
// one of Headgate's own.
func outPrefix(e show.LogEvent) string { return fmt.Sprintf("%8s  | ", since(e.At)) }

// writeEvent writes one event of a log as text, or as a line of JSON.
func writeEvent(w io.Writer, e show.LogEvent, asJSON bool) error {
	if asJSON {
		return json.NewEncoder(w).Encode(e)
	}
	var err error
	switch e.Kind {
	case "step":
		_, err = fmt.Fprintf(w, "%8s  $ %s\n", since(e.At), terminal.Plain(strings.TrimPrefix(stepTitle(e), ": ")))
	case "out":
		_, err = fmt.Fprintf(w, "%s%s\n", outPrefix(e), terminal.Plain(e.Text))
	case "note":
		_, err = fmt.Fprintf(w, "%8s  headgate: %s\n", since(e.At), terminal.Plain(e.Text))
	case "end":
		if e.Exit != 0 {
			_, err = fmt.Fprintf(w, "%8s  exit status %d after %s\n", since(e.At), e.Exit, show.Elapsed(time.Duration(e.Took)))
		}
	}
	return err
}
