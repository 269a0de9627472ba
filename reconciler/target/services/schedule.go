package services

import (
	"context"
	"fmt"
	"time"

	"github.com/headgate-cd/headgate/gitd/crash"
	"github.com/headgate-cd/headgate/gitd/engine"
	"github.com/headgate-cd/headgate/reconciler/target"
	"github.com/headgate-cd/headgate/reconciler/target/services/rollout"
)

// begin starts a run that is due, once it is written down that it began: an agent that is
// killed does not begin it again.
func (a *app) begin(act rollout.Action) {
	failed := func(how string) {
		a.observed.Saw(rollout.Exited{ID: act.Instance, Code: -1, How: how}, a.owner.now())
	}
	crash.Point("services.before-run-kept")
	if err := a.keepState(true); err != nil {
		failed("could not start: that it does could not be written down: " + err.Error())
		return
	}
	crash.Point("services.run-kept")
	v := a.versions[act.Version]
	if v == nil { // a fault of ours: what is planned is what is known
		failed("could not start: what it is to run is not known")
		return
	}
	in := a.instanceOf(act.Instance, act.Version, v)
	in.due = dueAt(act.At)
	if act.Late {
		in.due += ", late"
	}
	a.watchOver(in)
}

func dueAt(at time.Time) string { return at.UTC().Format("2006-01-02 15:04 UTC") }

// skip says in the log of the run that goes on that the next one does not begin.
func (a *app) skip(act rollout.Action) {
	a.owner.Log.Warn("a run is skipped, the one before goes on", "env", a.key().Environment, "app", a.key().Application,
		"service", act.Service, "due", act.At)
	note := fmt.Sprintf("the run for %s is skipped: the one before goes on", dueAt(act.At))
	switch in := a.instances[act.Instance]; {
	case in == nil:
	case in.running != nil:
		in.running.log.Note("%s", note)
	default:
		in.notes = append(in.notes, note)
	}
}

// prepare has what instances of a version run from be there.
func (a *app) prepare(act rollout.Action) {
	e := rollout.Prepared{Service: act.Service, Version: act.Version}
	v := a.versions[act.Version]
	if v == nil { // as in begin
		e.Err = "what it is to run is not known"
		a.post(func() { a.observed.Saw(e, a.owner.now()) })
		return
	}
	in := a.instanceOf(rollout.RunOf(act.Service), act.Version, v) // which never runs
	a.wait.Go(func() {
		ctx, cancel := context.WithCancel(a.owner.ctx)
		defer cancel()
		_, release, err := a.owner.runner(v).prepare(ctx, in)
		if err == nil {
			release()
		} else {
			end := in.notStarted(err)
			e.Err, e.Reason, e.Hopeless = err.Error(), target.Reason(engine.ReasonOf(err)), end.Hopeless
		}
		a.post(func() { a.observed.Saw(e, a.owner.now()) })
	})
}

// scheduleOf is what there is to say about the times of a service, nil when it has none.
func scheduleOf(f *rollout.ServiceState, now time.Time) *target.Schedule {
	s := f.Schedule
	if s == nil {
		return nil
	}
	shown := &target.Schedule{Cron: s.Cron, Zone: s.Zone, Next: s.Next(now)}
	for i := len(s.Runs) - 1; i >= 0; i-- {
		r := s.Runs[i]
		one := target.Run{
			At:      r.At,
			Late:    r.Late,
			Skipped: r.Skipped,
			Release: r.Release,
			Began:   r.Began,
			Ended:   r.Ended,
			Failed:  !r.Ended.IsZero() && !r.Well && r.Skipped == 0,
			Message: r.How,
		}
		if r.Exit >= 0 && !r.Ended.IsZero() {
			one.Exit = &r.Exit
		}
		shown.Runs = append(shown.Runs, one)
	}
	return shown
}

// startedNote is what an instance's log begins with.
func (in *instance) startedNote(port int) string {
	note := fmt.Sprintf("started %s of release %d%s", in.id, in.version.Release.Number, onPort(port))
	if in.due != "" {
		return note + " for " + in.due
	}
	return fmt.Sprintf("%s (restart %d)", note, in.restarts)
}
