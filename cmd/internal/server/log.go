package server

import (
	"context"
	"fmt"
	"iter"
	"time"

	"github.com/headgate-cd/headgate/gitd/access"
	"github.com/headgate-cd/headgate/gitd/show"
	"github.com/headgate-cd/headgate/hooks/build/buildlog"
	"github.com/headgate-cd/headgate/hooks/gate"
)

// Log implements show.Backend.
func (s *Server) Log(ctx context.Context, a access.Identity, name string, number int,
	follow bool) iter.Seq2[show.LogEvent, error] {
	return s.followed(ctx, a, name, func(ctx context.Context) iter.Seq2[show.LogEvent, error] {
		return s.changeLog(ctx, a, name, number, follow)
	})
}

func (s *Server) changeLog(ctx context.Context, a access.Identity, name string, number int,
	follow bool) iter.Seq2[show.LogEvent, error] {
	return func(yield func(show.LogEvent, error) bool) {
		c, err := s.Change(ctx, a, name, number)
		if err == nil && follow && c.Build == nil && (c.State == show.Queued || c.State == show.Running) {
			c, err = s.untilBuilt(ctx, a, name, number)
		}
		if err == nil && (c.Build == nil || c.Build.Log == "") {
			err = &show.Error{
				Kind:  show.NotFound,
				What:  fmt.Sprintf("change %d has no log: %s", number, c.State),
				Where: nonEmpty(c.Reason),
			}
		}
		if err != nil {
			yield(show.LogEvent{}, err)
			return
		}
		for e, err := range s.logs.Events(ctx, c.Build.Log, follow) {
			if !yield(e, err) {
				return
			}
		}
		if follow {
			s.untilSettled(ctx, name, number, c.Build.ID)
		}
	}
}

// untilSettled waits until a change whose build has ended has come to its end
// too, or waits, or is built again: between a log's last line and that are the
// verdict, the policy and the landing.
func (s *Server) untilSettled(ctx context.Context, name string, number int, build string) {
	for p := range s.gate.Follow(ctx, name, number) {
		if p.Ends() || p.Waits || p.Kind == gate.Building && p.Log != build {
			return
		}
	}
}

// untilBuilt waits until a queued change has a build, or has come to its end.
func (s *Server) untilBuilt(ctx context.Context, a access.Identity, name string, number int) (show.Change, error) {
	for p := range s.gate.Follow(ctx, name, number) {
		if p.Log != "" || p.Ends() {
			break
		}
	}
	if err := ctx.Err(); err != nil {
		return show.Change{}, err
	}
	return s.Change(ctx, a, name, number)
}

// Logs gives commands, pages and pushes the events of build logs.
type Logs struct{ *buildlog.Dir }

// Follow implements receive.Logs.
func (l Logs) Follow(ctx context.Context, id string) iter.Seq2[show.LogEvent, error] {
	return l.Events(ctx, id, true)
}

// Events yields a log as buildlog.Dir.Follow does.
func (l Logs) Events(ctx context.Context, name string, wait bool) iter.Seq2[show.LogEvent, error] {
	return func(yield func(show.LogEvent, error) bool) {
		for e, err := range l.Dir.Follow(ctx, name, wait) {
			shown := show.LogEvent{
				Kind:    show.LogKind(e.Kind),
				Step:    e.Step,
				Line:    e.Line,
				At:      millis(e.At),
				Phase:   e.Phase,
				Command: e.Command,
				About:   show.NoteAbout(e.About),
				Log:     e.Log,
				Text:    e.Text,
				Exit:    e.Exit,
				Took:    millis(e.Took),
			}
			if !yield(shown, err) {
				return
			}
		}
	}
}

func millis(n int64) show.Duration { return show.Duration(time.Duration(n) * time.Millisecond) }
