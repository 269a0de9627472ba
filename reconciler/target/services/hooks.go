package services

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/headgate-cd/headgate/gitd/terminal"
	"github.com/headgate-cd/headgate/gitd/tty"
	"github.com/headgate-cd/headgate/reconciler/target"
	"github.com/headgate-cd/headgate/reconciler/target/services/rollout"
)

// hookCommands checks in which services the commands of hooks are to run: instances of the
// release are needed for them.
func (p *parser) hookCommands(c *Compose) {
	var running []string
	for _, s := range c.Services {
		if s.Cron == "" && s.Replicas > 0 {
			running = append(running, s.Name)
		}
	}
	for _, h := range c.Deployment.Hooks {
		call := c.Deployment.Calls[h.Name]
		if call.Command == nil {
			continue
		}
		if call.Service == "" && len(running) == 1 {
			call.Service = running[0]
			c.Deployment.Calls[h.Name] = call
		}
		switch {
		case call.Service == "":
			p.problem(call.at, "add service: with one of "+list(running), "hook %s does not say in which service it runs", h.Name)
		case !slices.Contains(running, call.Service):
			p.problem(call.at, "name one of "+list(running), "hook %s runs in service %q, which has no instances", h.Name,
				call.Service)
		case h.Stage == rollout.ReconcileService || h.Stage == rollout.PreScaleUp:
			p.problem(call.at, "use post-scale-up or a later stage, or a task that others wait for (depends_on)",
				"hook %s runs where no instance of the release does yet", h.Name)
		}
	}
}

// runHook runs the command of a hook in an instance of what is declared. One without an
// answer, as when the instance or this program ends, is run again.
func (a *app) runHook(act rollout.Action, call HookCall) {
	e := rollout.Hooked{Name: act.Name, Result: rollout.InProgress, Again: hookRetry}
	in := a.hookInstance(call.Service)
	if in == nil {
		e.Message = fmt.Sprintf("no instance of service %s of the release is healthy", call.Service)
		a.observed.Saw(e, a.owner.now())
		return
	}
	r, timeout := *in.running, defaultHookTimeout
	for _, h := range a.plan.Deployment.Hooks {
		if h.Name == act.Name {
			timeout = h.Timeout
		}
	}
	a.askWithin(timeout, func(ctx context.Context) rollout.Event {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		go func() {
			select {
			case <-r.workload.over():
				cancel()
			case <-ctx.Done():
			}
		}()
		c := r.command
		argv, err := interpolateAll(call.Command, c.vars)
		if err != nil {
			return rollout.Hooked{Name: act.Name, Result: rollout.Failed, Message: err.Error()}
		}
		c.argv = in.version.Service.sourced(argv)
		r.log.Note("hook %s runs in %s: %s", act.Name, in.id, r.log.Readable(strings.Join(argv, " ")))
		var out lastBytes
		code, err := r.workload.exec(ctx, c, tty.Streams{Out: &out, Err: &out})
		if err != nil {
			e.Message = "it did not come to its end: " + err.Error()
			r.log.Note("hook %s in %s has ended: %s", act.Name, in.id, err)
			return e
		}
		lines := strings.Split(strings.TrimSpace(string(out.tail)), "\n")
		said := in.mask().Apply(terminal.Plain(lines[len(lines)-1]))
		r.log.Note("hook %s in %s %s", act.Name, in.id, strings.TrimSuffix(outcomeOf(code)+": "+said, ": "))
		if code != 0 {
			return rollout.Hooked{
				Name:    act.Name,
				Result:  rollout.Failed,
				Message: strings.TrimSuffix(outcomeOf(code)+": "+said, ": "),
			}
		}
		return rollout.Hooked{Name: act.Name, Result: rollout.Succeeded, Message: cmp.Or(said, outcomeOf(code))}
	})
}

// hookInstance is a healthy instance of the declared version of a service, nil for none.
func (a *app) hookInstance(service string) *instance {
	f := a.observed.Services[service]
	if f == nil {
		return nil
	}
	for _, s := range a.plan.Services {
		if s.Name != service {
			continue
		}
		for _, i := range f.Instances {
			in := a.instances[i.ID]
			if i.Version == s.Version && i.Phase == target.PhaseHealthy && !i.Retired && in != nil && in.running != nil {
				return in
			}
		}
	}
	return nil
}
