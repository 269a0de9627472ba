package build

import (
	"context"
	"errors"
	"io"
	"strings"
	"time"
)

// await waits for the services of the build. One that never is healthy fails it, and the
// log has what it printed.
func (r *runner) await(ctx context.Context) error {
	attended, ok := r.session.(Attended)
	if !ok || len(r.req.Services) == 0 {
		return nil
	}
	r.phaseNow, r.commandNow = "services", ""
	var names []string
	for _, s := range r.req.Services {
		names = append(names, s.Name)
		r.log.Note("service %s: image %s", s.Name, s.Image)
	}
	started := time.Now()
	err := attended.Await(ctx)
	var no *ServiceError
	if errors.As(err, &no) {
		r.printed(no)
		r.fail("services", "CLIENT_ERROR", "", 0, no.Error())
		return nil
	}
	if err == nil {
		r.log.Note("services are up after %s: %s", time.Since(started).Round(100*time.Millisecond), strings.Join(names, ", "))
	}
	return err
}

// fallen tells of a build that failed which services were gone by then.
func (r *runner) fallen(ctx context.Context) {
	attended, ok := r.session.(Attended)
	if !ok || len(r.req.Services) == 0 || r.result.Status != Failed {
		return
	}
	for _, s := range attended.Fallen(ctx) {
		r.printed(s)
	}
}

// printed shows what a service printed last, as a step of its own.
func (r *runner) printed(s *ServiceError) {
	n := r.log.Begin("services", s.Name)
	out := r.log.Output(n)
	for _, line := range s.Printed {
		_, _ = io.WriteString(out, line+"\n") // the log keeps its own error
	}
	out.Close()
	r.log.End(n, 1)
	r.log.Note("service %s %s", s.Name, s.What)
}
