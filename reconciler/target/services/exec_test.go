package services

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"sync"
	"testing"

	"github.com/headgate-cd/headgate/gitd/tty"
	"github.com/headgate-cd/headgate/reconciler/target"
)

// screen is what a command has printed so far.
type screen struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (s *screen) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.Write(p)
}

func (s *screen) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.String()
}

// await waits until the screen shows what is wanted, and fails when the command has ended
// before: it says then how.
func (s *screen) await(t *testing.T, want string, ended <-chan error) {
	t.Helper()
	eventually(t, "the screen shows "+want, func() (string, bool) {
		select {
		case err := <-ended:
			t.Fatalf("the command ended, %v, and the screen, which was to show %q, shows:\n%s", err, want, s)
		default:
		}
		return s.String(), strings.Contains(s.String(), want)
	})
}

// testExec runs commands of people in instances, which end afterwards.
func testExec(t *testing.T, h *harness, r runsAs) {
	h.converge(1, r.compose("touch /tmp/ready; while :; do sleep 0.05; done", "stop_grace_period: 100ms",
		`environment: {GREETING: hello}`, ready))
	h.await(target.Healthy)
	run := func(ctx context.Context, e target.Exec) (int, error) {
		e.Unit, e.By = "job", "ada"
		return h.Exec(ctx, h.key(), e)
	}
	shell := func(script string) []string { return []string{"sh", "-c", script} }

	// Its streams are kept apart, and its exit code comes back.
	var out, problems bytes.Buffer
	status, err := run(t.Context(), target.Exec{
		Command: shell("cat; echo $GREETING from $HEADGATE_INSTANCE; echo oops >&2; exit 3"),
		Streams: tty.Streams{In: strings.NewReader("typed\n"), Out: &out, Err: &problems},
	})
	if err != nil || status != 3 || out.String() != "typed\nhello from job-1\n" || problems.String() != "oops\n" {
		t.Errorf("it ended %d, %v, and printed %q and %q", status, err, out.String(), problems.String())
	}

	// It does not wait for input that nobody reads.
	never, writer := io.Pipe()
	defer writer.Close()
	if status, err := run(t.Context(), target.Exec{Command: []string{"true"},
		Streams: tty.Streams{In: never, Out: io.Discard, Err: io.Discard}}); err != nil || status != 0 {
		t.Errorf("it ended %d, %v", status, err)
	}

	// On a terminal, which changes its size; no command is a shell.
	var shown screen
	typed, keyboard := io.Pipe()
	defer keyboard.Close()
	resize := make(chan tty.Size)
	done := make(chan error, 1)
	ended := -1
	go func() {
		var err error
		ended, err = run(t.Context(), target.Exec{Streams: tty.Streams{
			In:  typed,
			Out: &shown,
			Terminal: &tty.Terminal{
				Name:   "vt100",
				Size:   tty.Size{Columns: 91, Rows: 33},
				Resize: resize,
			},
		}})
		done <- err
	}()
	say := func(line string) {
		if _, err := io.WriteString(keyboard, line+"\n"); err != nil {
			t.Error(err)
		}
	}
	say(`until test "$(stty size)" = "33 91"; do sleep 0.05; done; echo "$TERM is" there`)
	shown.await(t, "vt100 is there", done)
	resize <- tty.Size{Columns: 132, Rows: 50}
	say(`until test "$(stty size)" = "50 132"; do sleep 0.05; done; echo now "wide"`)
	shown.await(t, "now wide", done)
	say("exit 7")
	if err := <-done; err != nil || ended != 7 {
		t.Errorf("the shell ended %d, %v:\n%s", ended, err, shown.String())
	}

	// It ends with the right to run it, and what it has started with it.
	taken := errors.New("the right was taken")
	ctx, take := context.WithCancelCause(t.Context())
	var busy screen
	go func() {
		_, err := run(ctx, target.Exec{
			Command: shell("set -m; sleep 4321 & echo begun; sleep 4321"),
			Streams: tty.Streams{Out: &busy, Terminal: &tty.Terminal{Name: "dumb"}},
		})
		done <- err
	}()
	busy.await(t, "begun", done)
	take(taken)
	if err := <-done; !errors.Is(err, taken) {
		t.Errorf("it ended with %v", err)
	}
	eventually(t, "what it started has ended", func() (string, bool) {
		var all bytes.Buffer
		_, err := run(t.Context(), target.Exec{Command: shell("cat /proc/[0-9]*/cmdline | tr '\\0' ' '"),
			Streams: tty.Streams{Out: &all, Err: io.Discard}})
		return all.String(), err == nil && !strings.Contains(all.String(), "sleep 4321")
	})

	// It is refused where nothing can be entered.
	for want, e := range map[string]target.Exec{
		`there is no service "jab" in`:         {Unit: "jab"},
		`service job has no instance "job-9":`: {Unit: "job", Instance: "job-9"},
	} {
		_, err := h.Exec(t.Context(), h.key(), e)
		var refused target.Refusal
		if !errors.As(err, &refused) || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v, want %s", e, err, want)
		}
	}

	// It ends with the instance.
	var last screen
	go func() {
		_, err := run(t.Context(), target.Exec{Command: shell("echo begun; sleep 4321"),
			Streams: tty.Streams{Out: &last, Err: io.Discard}})
		done <- err
	}()
	last.await(t, "begun", done)
	h.Remove(h.key(), h.seq+1)
	<-done
}
