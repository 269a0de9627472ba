package agent

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/headgate-cd/headgate/gitd/tty"
	"github.com/headgate-cd/headgate/reconciler/target"
)

// TestExec: a command of a person has its streams, its terminal and its end by the line.
func TestExec(t *testing.T) {
	l := newLine(t)
	l.run()
	l.Target.Converge(declared(1, 1))
	l.healthy(1)
	run := func(ctx context.Context, script string, with tty.Streams) (int, error) {
		e := target.Exec{Unit: "web", Command: []string{"sh", "-c", script}, By: "ada", Streams: with}
		return l.Target.Exec(ctx, hello, e)
	}

	long := strings.Repeat("0123456789abcdef", 3*maxFrame/16+1)
	var out, problems bytes.Buffer
	status, err := run(t.Context(), "cat; echo oops >&2; exit 3",
		tty.Streams{In: strings.NewReader(long), Out: &out, Err: &problems})
	if err != nil || status != 3 || out.String() != long || problems.String() != "oops\n" {
		t.Errorf("it ended %d, %v, printed %d of %d bytes, and %q", status, err, out.Len(), len(long), problems.String())
	}

	// A terminal has a size, and gets another.
	shown, printed := io.Pipe()
	resize := make(chan tty.Size)
	done := make(chan error, 1)
	go func() {
		status, err := run(t.Context(), `stty size; until test "$(stty size)" = "50 132"; do sleep 0.05; done; exit 4`,
			tty.Streams{Out: printed, Terminal: &tty.Terminal{
				Name:   "xterm",
				Size:   tty.Size{Columns: 80, Rows: 24},
				Resize: resize,
			}})
		if err == nil && status != 4 {
			err = fmt.Errorf("it ended %d", status)
		}
		printed.CloseWithError(err)
		done <- err
	}()
	text := make([]byte, 5)
	if _, err := io.ReadFull(shown, text); err != nil || string(text) != "24 80" {
		t.Fatalf("the terminal is %q, %v", text, err)
	}
	resize <- tty.Size{Columns: 132, Rows: 50}
	if _, err := io.Copy(io.Discard, shown); err != nil {
		t.Error(err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}

	// It ends with whoever wants it, and says why it is not run.
	taken := errors.New("the right was taken")
	ctx, take := context.WithCancelCause(t.Context())
	if _, err := run(ctx, "echo; sleep 4321",
		tty.Streams{Out: takes{take, taken}, Err: io.Discard}); !errors.Is(err, taken) {
		t.Errorf("it ended with %v", err)
	}
	_, err = l.Target.Exec(t.Context(), hello,
		target.Exec{Unit: "wob", Streams: tty.Streams{Out: io.Discard, Err: io.Discard}})
	var refused target.Refusal
	if !errors.As(err, &refused) || !strings.Contains(err.Error(), "there is web") {
		t.Errorf("another service: %v", err)
	}
}

// takes takes a right as soon as something is printed.
type takes struct {
	take context.CancelCauseFunc
	why  error
}

func (t takes) Write(p []byte) (int, error) {
	t.take(t.why)
	return len(p), nil
}

// TestHostileFrames: what is no frame ends the command and nothing else.
func TestHostileFrames(t *testing.T) {
	l := newLine(t)
	l.run()
	l.Target.Converge(declared(1, 1))
	l.healthy(1)
	huge := append([]byte{frameInput}, binary.BigEndian.AppendUint32(nil, maxFrame+1)...)
	for name, said := range map[string][]byte{
		"unknown":     {'?', 0, 0, 0, 0},
		"huge":        huge,
		"not a size":  {frameResize, 0, 0, 0, 1, '['},
		"half of one": {frameInput, 0, 0},
	} {
		conn, err := l.Target.Dial(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		body := `{"repository": "hello", "environment": "staging", "application": "hello", "unit": "web", "input": true, ` +
			`"terminal": "dumb", "command": ["sleep", "4321"], "by": "ada"}`
		fmt.Fprintf(
			conn, "POST %s HTTP/1.1\r\nHost: agent\r\nConnection: Upgrade\r\nUpgrade: %s\r\nContent-Length: %d\r\n\r\n%s",
			pathExec, execProtocol, len(body), body)
		if _, err := conn.Write(said); err != nil {
			t.Fatal(err)
		}
		if name == "half of one" {
			conn.(interface{ CloseWrite() error }).CloseWrite()
		}
		if _, err := io.ReadAll(conn); err != nil { // until the agent hangs up
			t.Errorf("%s: %v", name, err)
		}
		conn.Close()
	}
	var out bytes.Buffer
	status, err := l.Target.Exec(t.Context(), hello, target.Exec{Unit: "web", Command: []string{"echo", "still there"},
		Streams: tty.Streams{Out: &out, Err: &out}})
	if err != nil || status != 0 || out.String() != "still there\n" {
		t.Errorf("%d %v %q", status, err, out.String())
	}
}
