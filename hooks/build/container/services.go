package container

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/headgate-cd/headgate/gitd/engine"
	"github.com/headgate-cd/headgate/gitd/signal"
	"github.com/headgate-cd/headgate/gitd/terminal"
	"github.com/headgate-cd/headgate/gitd/tty"
	"github.com/headgate-cd/headgate/hooks/build"
)

// service is a container beside that of the build: in its network, where all names of
// services lead to the loopback, and among its processes, with which it is ended whole.
type service struct {
	build.Service
	id     string
	image  engine.Image
	failed error // why the engine did not start it; nil: it did
}

// serve starts a service. Its first process is not ready yet.
func (n *session) serve(ctx context.Context, x *Executor, b build.Sandbox, of build.Service) error {
	image, err := x.image(ctx, n.engine, of.Image, b.Logins)
	if err != nil {
		return unable(err)
	}
	spec := engine.Spec{
		Image:      image.ID,
		Labels:     x.labels(b.ID),
		Entrypoint: of.Entrypoint,
		Command:    of.Command,
		Beside:     n.id,
		Memory:     n.limits.Memory,
		PIDs:       int64(n.limits.Processes),
		NanoCPUs:   int64(n.limits.CPU * 1e9),
		CapDrop:    []string{"ALL"},
		CapAdd:     capabilities,
		NoNewPrivs: true,
	}
	for _, name := range slices.Sorted(maps.Keys(of.Environment)) {
		spec.Env = append(spec.Env, name+"="+of.Environment[name])
	}
	if podman, err := n.engine.Podman(ctx); err != nil {
		return unable(err)
	} else if podman { // it shares no names with the network, and takes none
		names, err := n.hostsFile(b)
		if err != nil {
			return err
		}
		spec.Binds = append(spec.Binds, engine.Bind{Source: names, Target: "/etc/hosts"})
	}
	s := &service{Service: of, image: image}
	if s.id, err = n.engine.Create(ctx, spec); err != nil {
		return unable(err)
	}
	n.services = append(n.services, s)
	err = n.engine.Start(ctx, s.id)
	if engine.ReasonOf(err) == engine.ReasonRefused { // its program is not there, most likely
		s.failed = err
		return nil // Await says so
	}
	if err != nil {
		return unable(err)
	}
	// What its image declares as volumes is nowhere that the engine counts.
	volumes, err := n.engine.VolumeDirs(ctx, s.id)
	n.disk.Add(volumes...)
	return unable(err)
}

// hostsFile is a file of this machine that says what names of services lead to.
func (n *session) hostsFile(b build.Sandbox) (string, error) {
	text := "127.0.0.1 localhost\n::1 localhost\n"
	for _, of := range b.Services {
		text += "127.0.0.1 " + of.Name + "\n"
	}
	name := filepath.Join(b.Control, hostsFile)
	return name, os.WriteFile(name, []byte(text), 0o644)
}

// Await implements build.Attended.
func (n *session) Await(ctx context.Context) error {
	for _, s := range n.services {
		if s.failed != nil {
			return &build.ServiceError{Name: s.Name, What: fmt.Sprintf("does not start: %v", s.failed)}
		}
	}
	group, ctx := errgroup.WithContext(ctx)
	for _, s := range n.services {
		group.Go(func() error { return n.healthy(ctx, s) })
	}
	return group.Wait()
}

// healthy waits until a service is.
func (n *session) healthy(ctx context.Context, s *service) error {
	check := s.Health
	if check.Test == nil && s.image.Health != nil {
		check.Test = s.image.Health.Test
		check.StartPeriod = max(check.StartPeriod, s.image.Health.StartPeriod)
	}
	if check.Test == nil || check.None {
		return nil
	}
	// A check that began as the service ended may hear of nothing any more.
	serves, end := context.WithCancel(ctx)
	var watching sync.WaitGroup
	watching.Go(func() {
		if _, err := n.engine.Wait(serves, s.id); err == nil {
			end()
		}
	})
	defer watching.Wait()
	defer end()

	began := time.Now()
	for failed := 0; ; {
		said, err := n.test(serves, s, check.Test, check.Timeout)
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if _, running, lookErr := n.engine.Inspect(ctx, s.id); lookErr != nil {
			return unable(lookErr)
		} else if !running {
			return n.fallen(ctx, s)
		}
		if time.Since(began) >= check.StartPeriod {
			failed++
		}
		if failed >= check.Retries {
			// It is ended, so that all that it has printed is there to be read.
			if _, err := n.engine.Signal(ctx, s.id, "SIGKILL"); err != nil {
				return unable(err)
			}
			no := n.fallen(ctx, s)
			no.What = fmt.Sprintf("was not healthy after %d checks: %v%s", failed, err, said)
			return no
		}
		if !signal.Sleep(serves, check.Interval) && ctx.Err() != nil {
			return context.Cause(ctx)
		}
	}
}

// test runs a check of a service once. The text is what it printed last.
func (n *session) test(ctx context.Context, s *service, argv []string, timeout time.Duration) (string, error) {
	late := fmt.Errorf("its check took longer than %s", timeout)
	ctx, cancel := context.WithTimeoutCause(ctx, timeout, late)
	defer cancel()
	var said tail
	exit, err := n.engine.Exec(ctx, s.id, engine.Command{Argv: argv, Streams: tty.Streams{Out: &said, Err: &said}})
	switch {
	case ctx.Err() != nil:
		err = context.Cause(ctx)
	case err == nil && exit != 0:
		err = fmt.Errorf("its check exited %d", exit)
	}
	return said.String(), err
}

// tail keeps the end of what is written to it.
type tail []byte

func (t *tail) Write(p []byte) (int, error) {
	*t = append(*t, p...)
	if over := len(*t) - 1000; over > 0 {
		*t = bytes.Clone((*t)[over:])
	}
	return len(p), nil
}

// String is the last line, after a colon.
func (t *tail) String() string {
	text := strings.TrimSpace(string(*t))
	if text == "" {
		return ""
	}
	return ": " + terminal.Plain(text[strings.LastIndexByte(text, '\n')+1:])
}

// Fallen implements build.Attended.
func (n *session) Fallen(ctx context.Context) (all []*build.ServiceError) {
	for _, s := range n.services {
		if s.failed != nil {
			continue // there is nothing that it printed
		}
		if _, running, err := n.engine.Inspect(ctx, s.id); err == nil && !running {
			all = append(all, n.fallen(ctx, s))
		}
	}
	return all
}

// killedCode is the status of a program that the kernel has ended.
const killedCode = 128 + 9

// maxPrinted bounds how many lines are shown of what a service has printed.
const maxPrinted = 100

// fallen is how a service ended that runs no more, and what it printed last.
func (n *session) fallen(ctx context.Context, s *service) *build.ServiceError {
	no := &build.ServiceError{Name: s.Name, What: "ended"}
	end, err := n.engine.Wait(ctx, s.id)
	switch {
	case err != nil:
		return no // the build is being ended
	case end.Reason == engine.ReasonOutOfMemory:
		no.What = fmt.Sprintf("was ended: it went over its limit of %d MiB of memory", n.limits.Memory>>20)
	case end.Reason == "" && end.Code == killedCode && n.limits.Memory > 0:
		// Podman begins to listen for that a little after the program has begun.
		no.What = fmt.Sprintf("exited with %d, most likely over its limit of %d MiB of memory", end.Code, n.limits.Memory>>20)
	case end.Code >= 0:
		no.What = fmt.Sprintf("exited with %d", end.Code)
	}
	n.engine.Logs(ctx, s.id, engine.Position{}, func(_ engine.Position, line []byte) {
		no.Printed = append(no.Printed, strings.TrimRight(string(line), "\r\n"))
		if over := len(no.Printed) - maxPrinted; over > 0 {
			no.Printed = slices.Delete(no.Printed, 0, over)
		}
	})
	return no
}

var _ build.Attended = (*session)(nil)
