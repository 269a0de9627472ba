package web

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/headgate-cd/headgate/gitd/show"
	"github.com/headgate-cd/headgate/gitd/terminal"
)

// follower reads the log of the build that a live page shows, in a goroutine
// of its own, and hands its events to the stream, which writes them a few
// times a second. The stream's goroutine owns everything but the fields under
// mu.
type follower struct {
	wait   *sync.WaitGroup // the stream ends only after its followers
	build  string
	cancel context.CancelFunc
	notify chan struct{}  // something is pending; nil while nothing is followed
	step   int            // where lines go
	titles map[int]string // of the steps that the page has

	mu      sync.Mutex // guards the rest
	pending []show.LogEvent
	skipped int // lines that were dropped because they came too fast
}

// follow follows the log that p shows while its build runs, and stops
// following any other.
func (l *follower) follow(ctx context.Context, q *request, p *page, s *sender) {
	running := p.Log != nil && p.Log.State == show.Running && s.have.Log != nil
	if running && l.cancel != nil && l.build == p.Log.Build {
		return
	}
	if l.cancel != nil {
		l.cancel()
		l.cancel, l.notify = nil, nil
	}
	if !running {
		return
	}
	number, ok := q.number()
	if !ok {
		return
	}
	ctx, l.cancel = context.WithCancel(ctx)
	l.build, l.notify, l.step = p.Log.Build, make(chan struct{}, 1), 0
	l.titles = map[int]string{}
	l.mu.Lock()
	l.pending, l.skipped = nil, 0
	l.mu.Unlock()
	notify, skip, actor, repo := l.notify, s.have.Log.Events, q.actor, q.arg("repo")
	l.wait.Go(func() {
		stepped := false
		for e, err := range q.Backend.Log(ctx, actor, repo, number, true) {
			if err != nil {
				if ctx.Err() == nil {
					q.Log.Warn("lost a log that was being followed", "repo", repo, "change", number, "err", err)
				}
				return
			}
			if skip > 0 && e.Kind != show.LogPart { // the page has it, but which step lines go to must be known
				skip--
				if e.Kind != "step" && (e.Kind != "out" && e.Kind != "note" || stepped) {
					continue
				}
				stepped = stepped || e.Kind == "step"
				e = show.LogEvent{Kind: "seen", Step: e.Step, Phase: e.Phase, Command: e.Command}
			}
			if ctx.Err() != nil {
				return
			}
			l.take(e)
			select {
			case notify <- struct{}{}:
			default:
			}
		}
	})
}

// take keeps an event for the next flush; of lines only the newest.
func (l *follower) take(e show.LogEvent) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.pending = append(l.pending, e)
	if len(l.pending) < 4*burstLines {
		return
	}
	lines := 0
	for _, k := range l.pending {
		if k.Kind == "out" {
			lines++
		}
	}
	kept := l.pending[:0]
	for _, k := range l.pending {
		if k.Kind == "out" {
			if lines > burstLines {
				lines--
				l.skipped++
				continue
			}
		}
		kept = append(kept, k)
	}
	l.pending = kept
}

// flush sends what has come since the last time.
func (l *follower) flush(q *request, s *sender) error {
	l.mu.Lock()
	events, skipped := l.pending, l.skipped
	l.pending, l.skipped = nil, 0
	l.mu.Unlock()
	if s.have.Log == nil || s.have.Log.Build != l.build {
		return nil // the page shows another build by now
	}
	var html bytes.Buffer
	lines := func() error {
		if html.Len() == 0 {
			return nil
		}
		text := string(terminal.Page(html.Bytes()))
		html.Reset()
		return s.send("line", lineEvent{ID: fmt.Sprintf("s%d-lines", l.step), HTML: text})
	}
	if skipped > 0 {
		s.have.Log.Events += skipped
		fmt.Fprintf(&html, `<div class="cut">%s came too fast to show here; the raw log has them</div>`,
			show.Plural(skipped, "line"))
	}
	for i, e := range events {
		if e.Kind == show.LogPart && i < len(events)-1 {
			continue // it is ended by now, or there is more of it
		}
		if e.Kind == "seen" {
			l.step, l.titles[e.Step] = e.Step, stepTitle(e)
			continue
		}
		if e.Kind != show.LogPart {
			s.have.Log.Events++
		}
		switch e.Kind {
		case "out", "note", show.LogPart:
			if _, ok := l.titles[l.step]; !ok {
				if err := l.open(q, s, l.step, beforeSteps); err != nil {
					return err
				}
			}
			if err := q.pages.ExecuteTemplate(&html, "log-line",
				logLine{N: e.Line, At: e.At, Text: e.Text, Note: e.Kind == "note", Part: e.Kind == show.LogPart}); err != nil {
				return fmt.Errorf("render a log line: %w", err)
			}
		case "step":
			if err := lines(); err != nil {
				return err
			}
			if err := l.open(q, s, e.Step, stepTitle(e)); err != nil {
				return err
			}
		case "end":
			if err := lines(); err != nil {
				return err
			}
			step := &logStep{N: e.Step, Title: l.titles[e.Step], Mark: endMark(e.Exit), Took: time.Duration(e.Took),
				Ended: true, Exit: e.Exit}
			text, err := q.fragment("step-head", step)
			if err != nil {
				return err
			}
			if err := s.send("part", partEvent{ID: fmt.Sprintf("s%d-head", e.Step), HTML: text}); err != nil {
				return err
			}
			if e.Exit == 0 {
				if err := s.send("fold", foldEvent{ID: fmt.Sprintf("s%d", e.Step)}); err != nil {
					return err
				}
			}
		}
	}
	return lines()
}

// open adds a step to the page, unfolded.
func (l *follower) open(q *request, s *sender, n int, title string) error {
	l.step, l.titles[n] = n, title
	text, err := q.fragment("log-step",
		map[string]any{"S": &logStep{N: n, Title: title, Mark: markOf(show.Running), Open: true, Live: true}, "More": ""})
	if err != nil {
		return err
	}
	return s.send("line", lineEvent{ID: "steps", HTML: text})
}

// fragment renders one template on its own.
func (q *request) fragment(name string, data any) (string, error) {
	var b bytes.Buffer
	if err := q.pages.ExecuteTemplate(&b, name, data); err != nil {
		return "", fmt.Errorf("render %s: %w", name, err)
	}
	return strings.TrimSpace(string(terminal.Page(b.Bytes()))), nil
}
