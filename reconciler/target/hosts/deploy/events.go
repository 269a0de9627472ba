package deploy

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/headgate-cd/headgate/gitd/crash"
	"github.com/headgate-cd/headgate/reconciler/target/hosts/appspec"
)

// whose is the deployment whose scripts run at an event, "" for none. Until the
// revision is unpacked on a host of CodeDeploy's, that is the last successful install.
func (d *deployment) whose(e appspec.Event) string {
	switch e {
	case appspec.BeforeBlockTraffic, appspec.AfterBlockTraffic:
		if d.journal.Kind == RollbackReplacement {
			return d.journal.Recent
		}
		return d.journal.Previous
	case appspec.ApplicationStop:
		return d.journal.Previous
	}
	if !d.hasRevision() {
		return d.journal.Previous
	}
	return d.journal.ID
}

// scripts are those of an event, with the archive that they are in.
func (d *deployment) scripts(id string, e appspec.Event) (archive string, all []appspec.Script, err error) {
	if id == "" {
		return "", nil, nil
	}
	spec, err := d.specOf(id)
	if errors.Is(err, fs.ErrNotExist) && id != d.journal.ID {
		return "", nil, &Failure{
			Event: e,
			Code:  CodeMissing,
			What:  fmt.Sprintf("the revision of the deployment %s, whose scripts would run, is gone", id),
			Fix:   "deploy with --ignore-application-stop-failures",
		}
	}
	if err != nil {
		return "", nil, err
	}
	return archiveIn(d.deploymentDir(d.journal.Group, id)), spec.Hooks[e], nil
}

func (d *deployment) hasScripts(e appspec.Event) bool {
	if !slices.Contains(d.journal.Events, e) {
		return false
	}
	_, all, err := d.scripts(d.whose(e), e)
	return err == nil && len(all) > 0
}

// event does what belongs to one.
func (d *deployment) event(ctx context.Context, e appspec.Event) *Failure {
	if err := d.stopped(ctx); err != nil {
		return failure(e, err)
	}
	if d.journal.Script == 0 && !d.journal.Running {
		d.log.event(e)
	}
	switch e {
	case appspec.DownloadBundle:
		return d.downloaded()
	case appspec.Install:
		if err := d.install(ctx); err != nil {
			return failure(e, err)
		}
		return nil
	case appspec.BlockTraffic, appspec.AllowTraffic:
		return d.traffic(ctx, e)
	case appspec.Start, appspec.End:
		return nil
	}
	archive, all, err := d.scripts(d.whose(e), e)
	if err != nil {
		return failure(e, err)
	}
	if f := d.runAll(ctx, &d.journal.progress, e, archive, all); f != nil {
		return f
	}
	if e == appspec.ApplicationStart && d.request.Healthy != nil {
		return d.healthy(ctx)
	}
	return nil
}

// healthy waits for what was started to be well. It may be done again.
func (d *deployment) healthy(ctx context.Context) *Failure {
	d.mark(appspec.ApplicationStart)
	if err := d.save(); err != nil {
		return failure(appspec.ApplicationStart, err)
	}
	ctx, end := d.untilSuspended(ctx)
	defer end()
	if err := d.request.Healthy(ctx); err != nil {
		return failure(appspec.ApplicationStart, err)
	}
	return nil
}

// stopped is why nothing more is to be done; nil when there is no reason.
func (d *deployment) stopped(ctx context.Context) error {
	if d.suspended() {
		return ErrSuspended
	}
	if ctx.Err() != nil {
		return fmt.Errorf("stopped: %w", context.Cause(ctx))
	}
	return nil
}

// mark marks an event as one of which something was done.
func (d *deployment) mark(e appspec.Event) {
	d.journal.Touched = true
	if !d.hasStarted(e) {
		d.journal.Begun = append(d.journal.Begun, e)
	}
}

// traffic takes the host out of the traffic, or back. It may be done again.
func (d *deployment) traffic(ctx context.Context, e appspec.Event) *Failure {
	if d.request.Traffic == nil {
		return nil
	}
	d.mark(e)
	if err := d.save(); err != nil {
		return failure(e, err)
	}
	if err := d.request.Traffic(ctx, e == appspec.AllowTraffic); err != nil {
		return failure(e, err)
	}
	return nil
}

// runAll runs scripts of an event in turn, each once: one that was begun and whose
// end nobody saw has failed.
func (d *deployment) runAll(ctx context.Context, p *progress, e appspec.Event, archive string,
	all []appspec.Script) *Failure {
	for p.Script < len(all) {
		s := all[p.Script]
		r := &run{
			archive:  archive,
			event:    e,
			script:   s,
			env:      d.env(e),
			identity: fmt.Sprintf("%s/%s/%d", d.identity(), e, p.Script),
			log:      d.log,
			grace:    cmp.Or(d.Grace, 5*time.Second),
		}
		if p.Running {
			ended := endMarked(r.identity)
			f := r.failed(CodeInterrupted, "", "",
				"failed after a restart: whoever ran it was ended meanwhile (%d of its processes were ended)", ended)
			d.log.warn(e, f.What)
			p.Running, p.Script = false, p.Script+1
			return f
		}
		if err := d.stopped(ctx); err != nil {
			return failure(e, err)
		}
		p.Running = true
		d.mark(e)
		if err := d.save(); err != nil && !d.journal.Restoring { // the previous revision is to run, whatever happens
			p.Running = false
			return failure(e, err)
		}
		crash.Point("deploy.script-begun")
		f := d.do(ctx, r)
		if d.suspended() && f != nil {
			return f // it goes on as one that was interrupted
		}
		crash.Point("deploy.script-ended")
		p.Running, p.Script = false, p.Script+1
		d.log.tell(Progress{Kind: ScriptEnded, Event: e, Script: s.Location, Failure: f}, "")
		if err := d.save(); err != nil && f == nil && !d.journal.Restoring {
			return failure(e, err)
		}
		if f != nil {
			return f
		}
	}
	return nil
}

// do runs a script until it ends, ctx does, or the process is to.
func (d *deployment) do(ctx context.Context, r *run) *Failure {
	ctx, end := d.untilSuspended(ctx)
	defer end()
	return r.do(ctx)
}

// untilSuspended is a context that ends also when the process is to.
func (d *deployment) untilSuspended(ctx context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	if d.suspend == nil {
		return ctx, func() { cancel(nil) }
	}
	done := make(chan struct{})
	go func() { // ends with what the context is for
		select {
		case <-d.suspend:
			cancel(ErrSuspended)
		case <-done:
		}
	}()
	return ctx, func() {
		close(done)
		cancel(nil)
	}
}

// env is what scripts are told.
func (d *deployment) env(e appspec.Event) []string {
	r := &d.request
	env := []string{
		"LIFECYCLE_EVENT=" + string(e),
		"DEPLOYMENT_ID=" + r.ID,
		"APPLICATION_NAME=" + cmp.Or(r.Application, r.Group),
		"DEPLOYMENT_GROUP_NAME=" + cmp.Or(r.GroupName, r.Group),
		"DEPLOYMENT_GROUP_ID=" + r.Group,
	}
	for _, k := range slices.Sorted(maps.Keys(r.Env)) {
		env = append(env, k+"="+r.Env[k])
	}
	return env
}

// maxLogsOnly is how many logs are kept of deployments whose revision is gone.
const maxLogsOnly = 20

// kept is a deployment of which something is kept.
type kept struct {
	id string
	at time.Time
}

func oldest(a, b kept) int { return cmp.Or(a.at.Compare(b.at), cmp.Compare(a.id, b.id)) }

// pruneLogs removes the oldest logs of deployments that have no revision: those that failed
// before they began, and those that only started something again.
func (d *deployment) pruneLogs() error {
	group := d.journal.Group
	entries, err := os.ReadDir(filepath.Join(d.Root, group))
	if err != nil {
		return err
	}
	var logs []kept
	for _, e := range entries {
		if e.Name() == d.journal.ID || exists(archiveIn(d.deploymentDir(group, e.Name()))) {
			continue
		}
		if info, err := e.Info(); err == nil {
			logs = append(logs, kept{e.Name(), info.ModTime()})
		}
	}
	slices.SortFunc(logs, oldest)
	for _, l := range logs[:max(0, len(logs)-maxLogsOnly)] {
		if err := os.RemoveAll(d.deploymentDir(group, l.id)); err != nil {
			return err
		}
	}
	return nil
}

// downloaded makes the revision the most recent one, and removes the oldest archives
// over the bound; never the last successful one, nor the last verified.
func (d *deployment) downloaded() *Failure {
	group := d.journal.Group
	if err := d.point(group, mostRecent, d.journal.ID); err != nil {
		return failure(appspec.DownloadBundle, err)
	}
	crash.Point("deploy.most-recent")
	_, verified, err := d.Installed(group)
	if err != nil {
		return failure(appspec.DownloadBundle, err)
	}
	entries, err := os.ReadDir(filepath.Join(d.Root, group))
	if err != nil {
		return failure(appspec.DownloadBundle, err)
	}
	var old []kept
	count := 0
	for _, e := range entries {
		info, err := os.Stat(archiveIn(d.deploymentDir(group, e.Name())))
		if err != nil {
			continue
		}
		count++
		if id := e.Name(); id != d.journal.ID && id != d.journal.Previous && id != verified {
			old = append(old, kept{id, info.ModTime()})
		}
	}
	slices.SortFunc(old, oldest)
	if err := d.pruneLogs(); err != nil {
		return failure(appspec.DownloadBundle, err)
	}
	for over := count - cmp.Or(d.MaxRevisions, DefaultRevisions); over > 0 && len(old) > 0; over-- {
		if err := d.allow("remove", d.deploymentDir(group, old[0].id)); err != nil {
			return failure(appspec.DownloadBundle, err)
		}
		if err := os.RemoveAll(d.deploymentDir(group, old[0].id)); err != nil {
			return failure(appspec.DownloadBundle, err)
		}
		old = old[1:]
	}
	return nil
}
