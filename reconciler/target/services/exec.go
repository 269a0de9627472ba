package services

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/headgate-cd/headgate/reconciler/target"
	"github.com/headgate-cd/headgate/reconciler/target/logfile"
	"github.com/headgate-cd/headgate/reconciler/target/services/rollout"
)

// running is an instance as others than its run may use it.
type running struct {
	workload workload
	command  command
	log      *logfile.File
}

// Exec implements target.Execer.
func (t *Target) Exec(ctx context.Context, k target.Key, e target.Exec) (status int, err error) {
	t.mu.Lock()
	a := t.apps[k]
	t.mu.Unlock()
	if a == nil {
		return 0, target.Refusal(fmt.Sprintf("nothing of %s runs on this machine", k))
	}
	type answer struct {
		in      *instance
		running running
		err     error
	}
	found := make(chan answer, 1)
	a.post(func() {
		in, err := a.enterable(e.Unit, e.Instance)
		if err != nil {
			found <- answer{err: err}
			return
		}
		found <- answer{in, *in.running, nil}
	})
	var of answer
	select {
	case of = <-found:
	case <-a.ended:
		return 0, target.Refusal(fmt.Sprintf("nothing of %s runs on this machine", k))
	case <-ctx.Done():
		return 0, context.Cause(ctx)
	}
	if of.err != nil {
		return 0, of.err
	}
	return of.in.enter(ctx, of.running, e)
}

// enterable is the instance of a service in which a command is to run: the one that is
// named, else one that is fit for it.
func (a *app) enterable(service, id string) (*instance, error) {
	f := a.observed.Services[service]
	if f == nil {
		names := a.observed.Names()
		if len(names) == 0 {
			return nil, target.Refusal(fmt.Sprintf("nothing of %s runs", a.key()))
		}
		return nil, target.Refusal(fmt.Sprintf("there is no service %q in %s; there is %s", service, a.key().Environment,
			strings.Join(names, ", ")))
	}
	rank := func(i rollout.Instance) int {
		switch {
		case a.instances[i.ID] == nil || a.instances[i.ID].running == nil:
			return -1 // it has no process
		case id != "" && i.ID != id:
			return -1
		case i.Phase == target.PhaseHealthy && i.Served:
			return 3
		case i.Phase == target.PhaseHealthy:
			return 2
		case i.Phase.Leaving() && id == "":
			return -1
		}
		return 1
	}
	best, at := -1, ""
	var states []string
	for _, i := range f.Instances {
		states = append(states, i.ID+" is "+string(i.Phase))
		if r := rank(*i); r > best {
			best, at = r, i.ID
		}
	}
	switch {
	case best >= 0:
		return a.instances[at], nil
	case id != "" && !slices.ContainsFunc(f.Instances, func(i *rollout.Instance) bool { return i.ID == id }):
		return nil, target.Refusal(fmt.Sprintf("service %s has no instance %q: %s", service, id,
			strings.Join(states, ", ")))
	case len(states) == 0:
		return nil, target.Refusal(fmt.Sprintf("no instance of service %s runs", service))
	}
	return nil, target.Refusal(fmt.Sprintf("no instance of service %s runs: %s", service, strings.Join(states, ", ")))
}

// someShell is what runs when a person names no command.
const someShell = "if command -v bash >/dev/null 2>&1; then exec bash; fi; exec sh"

// enter runs a command of a person where the instance runs.
func (in *instance) enter(ctx context.Context, r running, e target.Exec) (status int, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() {
		select {
		case <-r.workload.over():
			cancel(target.Refusal(in.id + " has ended, and the command with it"))
		case <-in.left:
			cancel(target.Refusal("the agent of the machine hands over to another one, and the command has ended; run it again"))
		case <-ctx.Done():
		}
	}()
	c := r.command
	argv := e.Command
	if len(argv) == 0 {
		argv = []string{"/bin/sh", "-c", someShell}
	}
	c.argv = in.version.Service.sourced(argv)
	if e.Terminal != nil && in.version.Service.Container == nil {
		c.env = append(slices.Clone(c.env), "TERM="+e.Terminal.Name)
	}
	what := strings.Join(e.Command, " ")
	if what == "" {
		what = "a shell"
	}
	r.log.Note("%s runs in %s: %s", e.By, in.id, r.log.Readable(what))
	status, err = r.workload.exec(ctx, c, e.Streams)
	if err != nil {
		r.log.Note("what %s ran in %s has ended: %s", e.By, in.id, err)
		return 0, err
	}
	r.log.Note("what %s ran in %s %s", e.By, in.id, outcomeOf(status))
	return status, nil
}
