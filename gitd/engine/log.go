package engine

import (
	"bytes"
	"context"
	"io"
	"time"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/headgate-cd/headgate/gitd/signal"
	"github.com/moby/moby/api/pkg/stdcopy"
	"github.com/moby/moby/client"
)

// maxLine bounds a line of a container's output; what is over is cut off.
const maxLine = 16 << 10

// Position is how far what a container prints was taken.
type Position struct {
	At    time.Time // when the last line was printed: with Podman, to the second
	Lines int       // how many were taken of those that were printed then
}

// Logs gives take what a container prints from a position on, line by line with its
// newline and the position after it. It returns when the container has ended and all was
// taken, when it is gone, or when ctx ends; and goes on when the engine was away meanwhile.
func (e *Engine) Logs(ctx context.Context, id string, from Position, take func(after Position, line []byte)) {
	last := from
	remember := func(at time.Time, line []byte) {
		switch {
		case at.Equal(last.At):
			last.Lines++
		case at.After(last.At):
			last = Position{At: at, Lines: 1}
		}
		take(last, line)
	}
	for ctx.Err() == nil {
		err := e.follow(ctx, id, last, remember)
		if cerrdefs.IsNotFound(err) {
			return
		}
		if _, running, lookErr := e.Inspect(ctx, id); err == nil && lookErr == nil && !running {
			return
		}
		if !signal.Sleep(ctx, awayPause) {
			return
		}
	}
}

func (e *Engine) follow(ctx context.Context, id string, from Position, take func(time.Time, []byte)) error {
	options := client.ContainerLogsOptions{ShowStdout: true, ShowStderr: true, Timestamps: true, Follow: true}
	if !from.At.IsZero() {
		options.Since = from.At.UTC().Format(time.RFC3339Nano)
	}
	printed, err := e.api.ContainerLogs(ctx, id, options)
	if err != nil {
		return err
	}
	defer printed.Close()
	taken := from.Lines
	untaken := func(at time.Time, line []byte) {
		switch {
		case at.Before(from.At):
		case at.Equal(from.At) && taken > 0:
			taken--
		default:
			take(at, line)
		}
	}
	out, errs := &lines{take: untaken}, &lines{take: untaken}
	_, err = stdcopy.StdCopy(out, errs, printed)
	out.end()
	errs.end()
	return err
}

// lines puts the lines of one stream together. Every write is a line, or a part of a
// long one, with its time before it.
type lines struct {
	take func(time.Time, []byte)
	at   time.Time
	part []byte
}

var _ io.Writer = (*lines)(nil)

func (l *lines) Write(p []byte) (int, error) {
	stamp, text, found := bytes.Cut(p, []byte{' '})
	at, err := time.Parse(time.RFC3339Nano, string(stamp))
	if !found || err != nil {
		text, at = p, l.at // an engine without times
	}
	l.at = at
	text, whole := bytes.CutSuffix(text, []byte{'\n'})
	l.part = append(l.part, text[:min(len(text), maxLine-min(len(l.part), maxLine))]...)
	if whole {
		l.end()
	}
	return len(p), nil
}

func (l *lines) end() {
	if l.at.IsZero() {
		return
	}
	if len(l.part) > 0 || !l.at.IsZero() {
		l.take(l.at, append(l.part, '\n'))
	}
	l.part, l.at = l.part[:0], time.Time{}
}
