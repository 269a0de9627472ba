package services

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/headgate-cd/headgate/gitd/engine"
	"github.com/headgate-cd/headgate/gitd/terminal"
	"github.com/headgate-cd/headgate/gitd/tty"
)

// Checks of an instance that was never healthy come quickly, so that a rollout
// waits for the instance and not for the clock.
const (
	firstCheck  = 10 * time.Millisecond
	slowestWait = time.Second
	secondLook  = 500 * time.Millisecond // after a first success: what fails at once has failed by then
)

// watch checks an instance until ctx ends, and says every result. How long a check may
// take is up to it. The pauses
// begin short and double until the first success, or are early where that is not 0, and
// are those that the service declares once it has passed often enough.
func watch(ctx context.Context, h Health, early time.Duration, check func(context.Context) error, result func(error)) {
	pause := cmp.Or(early, firstCheck)
	if h.Path == "" && h.Test == nil && !h.Connect {
		pause = h.StartPeriod
	}
	passes := 0 // in a row, until there were enough
	timer := time.NewTimer(pause)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		err := check(ctx)
		if ctx.Err() != nil {
			return
		}
		result(err)
		switch {
		case passes >= h.Passes && passes > 0:
			pause = h.Interval
		case err == nil:
			if passes++; passes >= h.Passes {
				pause = h.Interval
			} else {
				pause = min(h.Interval, secondLook)
			}
		default:
			passes = 0
			if pause = min(2*pause, h.Interval, slowestWait); early > 0 {
				pause = early
			}
		}
		timer.Reset(pause)
	}
}

func bounded(ctx context.Context, timeout time.Duration, check func(context.Context) error) error {
	ctx, cancel := context.WithTimeoutCause(ctx, timeout, fmt.Errorf("no answer within %s", timeout))
	defer cancel()
	err := check(ctx)
	if err != nil && errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return context.Cause(ctx)
	}
	return err
}

// connects checks that a port takes connections.
func connects(ctx context.Context, port int) error {
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", address(port))
	if err != nil {
		return fmt.Errorf("port %d ($PORT): %w", port, cause(err))
	}
	return conn.Close()
}

// answers checks that an HTTP GET gets a status from 200 to 399.
func answers(port int, path string) func(context.Context) error {
	return func(ctx context.Context) error {
		answered, err := request(ctx, "http://"+address(port)+path)
		if err != nil {
			return fmt.Errorf("GET %s on port %d ($PORT): %w", path, port, cause(err))
		}
		if answered != "" {
			return fmt.Errorf("GET %s %s", path, answered)
		}
		return nil
	}
}

// Answers checks that URL, if there is one, gets a status from 200 to 399.
func (h Health) Answers(ctx context.Context) error {
	if h.URL == "" {
		return nil
	}
	answered, err := request(ctx, h.URL)
	if err == nil && answered != "" {
		err = fmt.Errorf("GET %s %s", h.URL, answered)
	}
	return err
}

// request makes an HTTP GET; answered says what came when that was not a status from 200 to 399.
func request(ctx context.Context, address string) (answered string, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return "", err
	}
	req.Header.Set("User-Agent", "headgate-health")
	resp, err := asking.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	if resp.StatusCode >= 200 && resp.StatusCode <= 399 {
		return "", nil
	}
	// The reason is a help, not a need: a body that cannot be read is left out.
	body, _ := io.ReadAll(io.LimitReader(resp.Body, 200))
	line, _, _ := strings.Cut(strings.TrimSpace(string(body)), "\n")
	return fmt.Sprintf("answered %d: %s", resp.StatusCode, terminal.Plain(line)), nil
}

// errNotListening is the fault of a program that has a port of its own in mind.
var errNotListening = errors.New("connection refused: the program has to listen on 127.0.0.1:$PORT")

// cause takes the layers of the net packages off an error.
func cause(err error) error {
	var errno syscall.Errno
	if errors.As(err, &errno) {
		if errno == syscall.ECONNREFUSED {
			return errNotListening
		}
		return errno
	}
	var op *net.OpError
	if errors.As(err, &op) {
		return op.Err
	}
	return err
}

func address(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }

// runs checks that a command exits 0 where the instance runs, and sees the files and
// processes that it has made.
func runs(c command, w workload, mask *terminal.Mask) func(context.Context) error {
	return func(ctx context.Context) error {
		var out lastBytes
		code, err := w.exec(ctx, c, tty.Streams{Out: &out, Err: &out})
		if err != nil || code == 0 {
			return err
		}
		lines := strings.Split(strings.TrimSpace(string(out.tail)), "\n")
		text := "healthcheck " + outcomeOf(code)
		if last := mask.Apply(terminal.Plain(lines[len(lines)-1])); last != "" {
			text += ": " + last
		}
		return errors.New(text)
	}
}

// lastBytes keeps the end of what is written to it.
type lastBytes struct{ tail []byte }

func (l *lastBytes) Write(p []byte) (int, error) {
	l.tail = append(l.tail, p...)
	if over := len(l.tail) - 1000; over > 0 {
		l.tail = bytes.Clone(l.tail[over:])
	}
	return len(p), nil
}

// Of a HEALTHCHECK that does not say it.
const (
	imageInterval = 30 * time.Second
	imageTimeout  = 30 * time.Second
	imageRetries  = 3
)

// health is how instances are checked that run from an image: by its own HEALTHCHECK
// where the service declares nothing.
func (s *Service) health(from engine.Image) Health {
	h := s.Health
	if s.Container == nil || !s.Container.ImageHealth || from.Health == nil {
		return h
	}
	if h.Path == "" && h.Test == nil && !h.Connect && h.HealthyFor == aliveHealthyFor {
		h.Passes, h.HealthyFor = defaultPasses, 0 // there was no check to go by
	}
	h.Path, h.Connect, h.Test = "", false, nil
	for _, word := range from.Health.Test { // nobody meant variables of ours
		h.Test = append(h.Test, strings.ReplaceAll(word, "$", "$$"))
	}
	h.Interval = cmp.Or(from.Health.Interval, imageInterval)
	h.Timeout = cmp.Or(from.Health.Timeout, imageTimeout)
	h.Retries = cmp.Or(from.Health.Retries, imageRetries)
	h.StartPeriod = from.Health.StartPeriod
	return h
}
