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
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/headgate-cd/headgate/gitd/crash"
	"github.com/headgate-cd/headgate/gitd/yamlfile"
	"github.com/headgate-cd/headgate/reconciler/target/hosts/appspec"
)

// prepare unpacks the revision and checks all that can be checked, before anything
// of the host is touched. It may be done again.
func (d *deployment) prepare(ctx context.Context) *Failure {
	if !d.hasRevision() {
		return nil
	}
	plan, f := d.check(ctx)
	if f != nil {
		return f
	}
	if !d.journal.Saved {
		if err := d.saveBefore(plan); err != nil {
			return failure("", fmt.Errorf("save what is replaced: %w", err))
		}
	}
	return nil
}

// Check does what a deployment would do first: it unpacks the revision beside the
// others, checks all that can be checked, and removes it again. It returns why a
// deployment would fail, nil if nothing is known that speaks against it.
func (h *Host) Check(ctx context.Context, r Request) (*Failure, error) {
	if err := r.validate(); err != nil {
		return nil, err
	}
	unlock, err := h.lock(r.Group)
	if err != nil {
		return nil, err
	}
	defer unlock()
	j := &journal{ID: r.ID, Group: r.Group, Kind: r.Kind, Events: r.events()}
	if j.Previous, err = h.pointed(r.Group, lastSuccessful); err != nil {
		return nil, err
	}
	if j.Cleanup, err = h.cleanup(r.Group); err != nil {
		return nil, err
	}
	d := &deployment{Host: h, request: r, journal: j, log: &scriptLog{progress: r.Progress}}
	if err := os.MkdirAll(filepath.Dir(d.dir()), 0o755); err != nil {
		return nil, err
	}
	if err := os.Mkdir(d.dir(), 0o755); err != nil {
		return nil, err
	}
	defer os.RemoveAll(d.dir())
	_, f := d.check(ctx)
	return f, nil
}

// check unpacks the revision and finds what would fail.
func (d *deployment) check(ctx context.Context) (*plan, *Failure) {
	if f := d.unpack(ctx); f != nil {
		return nil, f
	}
	spec, f := d.readSpec()
	if f != nil {
		return nil, f
	}
	if err := d.writeJSON(filepath.Join(d.dir(), "appspec.json"), spec); err != nil {
		return nil, failure("", err)
	}
	if spec.OS != appspec.Linux {
		return nil, &Failure{What: "the revision is for " + spec.OS + ", and this host runs linux",
			Fix: "write os: linux in " + spec.File}
	}
	plan, err := d.plan(spec)
	if err != nil {
		return nil, failure("", err)
	}
	for _, w := range plan.warnings {
		d.log.warn("", w)
	}
	problems := plan.problems
	for _, event := range d.journal.Events {
		if d.whose(event) != d.journal.ID {
			continue
		}
		for _, s := range spec.Hooks[event] {
			problems = append(problems, prepared(archiveIn(d.dir()), event, s)...)
		}
	}
	// What a script that runs before Install may yet mend is looked at again then.
	mayMend := d.hasScripts(appspec.BeforeInstall) || d.hasScripts(appspec.ApplicationStop)
	var certain []problem
	for _, p := range problems {
		if p.curable && mayMend {
			d.log.warn("", p.What+"; a script may mend that before Install")
		} else {
			certain = append(certain, p)
		}
	}
	if f := first(certain); f != nil {
		f.Event = ""
		return nil, f
	}
	return plan, d.space(plan)
}

// first makes one failure of problems: the first, and how many more there are.
func first(all []problem) *Failure {
	if len(all) == 0 {
		return nil
	}
	f := all[0].Failure
	for _, p := range all[1:min(len(all), 10)] {
		f.What += "\n" + p.What
	}
	if len(all) > 10 {
		f.What += fmt.Sprintf("\nand %d more", len(all)-10)
	}
	return &f
}

func (d *deployment) plan(spec *appspec.Spec) (*plan, error) {
	others, err := d.owners(d.journal.Group)
	if err != nil {
		return nil, err
	}
	behavior := cmp.Or(spec.FileExists, d.request.FileExists, appspec.Disallow)
	return planInstall(spec, archiveIn(d.dir()), behavior, d.journal.Cleanup, others)
}

// unpack puts the revision into the archive, whole or not at all.
func (d *deployment) unpack(ctx context.Context) *Failure {
	archive := archiveIn(d.dir())
	if exists(archive) {
		return nil
	}
	if d.request.Unpack == nil {
		return &Failure{What: "the revision is gone: nobody says where it comes from"}
	}
	temp := archive + ".unpacking"
	if err := os.RemoveAll(temp); err != nil {
		return failure("", err)
	}
	if err := d.mkdir(temp, 0o755); err != nil {
		return failure("", err)
	}
	if err := d.request.Unpack(ctx, temp); err != nil {
		_ = os.RemoveAll(temp)
		return failure("", fmt.Errorf("unpack the revision: %w", err))
	}
	top, err := strip(temp)
	if err != nil {
		return failure("", err)
	}
	crash.Point("deploy.unpacked")
	if err := d.rename(top, archive); err != nil {
		return failure("", err)
	}
	if top != temp {
		_ = os.Remove(temp) // which is empty then
	}
	if err := syncDir(d.dir()); err != nil {
		return failure("", err)
	}
	crash.Point("deploy.archived")
	return nil
}

// strip is the directory to take for the revision: a single one at the top, if it holds
// something that is called appspec, as archives of repositories do.
func strip(dir string) (string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 || !entries[0].IsDir() {
		return dir, err
	}
	top := filepath.Join(dir, entries[0].Name())
	below, err := os.ReadDir(top)
	if slices.ContainsFunc(below, func(e fs.DirEntry) bool { return strings.Contains(e.Name(), "appspec") }) {
		return top, err
	}
	return dir, err
}

// readSpec reads the appspec.yml: the one declared elsewhere, the one of the name
// that was asked for, or one of the usual names.
func (d *deployment) readSpec() (*appspec.Spec, *Failure) {
	if d.request.Declared != nil {
		return d.request.Declared, nil
	}
	archive, err := os.OpenRoot(archiveIn(d.dir()))
	if err != nil {
		return nil, failure("", err)
	}
	defer archive.Close()
	names := appspec.Names
	if d.request.Spec != "" {
		names = append([]string{d.request.Spec}, names...)
	}
	for _, name := range names {
		data, err := readSmall(archive, name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, failure("", err)
		}
		if d.request.Spec != "" && name != d.request.Spec {
			d.log.warn("", fmt.Sprintf("the revision has no %s; %s is taken", d.request.Spec, name))
		}
		options := appspec.Options{Strict: d.request.Strict}
		if d.request.Events != nil {
			options.Events = append(slices.Clone(d.request.Events), appspec.Scriptable...)
		}
		spec, warnings, err := appspec.Parse(name, data, options)
		for _, w := range warnings {
			d.log.warn("", w.Error())
		}
		if problems, ok := yamlfile.ProblemsIn(err); ok {
			f := &Failure{What: problems[0].Place() + ": " + problems[0].What, Fix: problems[0].Fix}
			for _, p := range problems[1:] {
				f.What += "\n" + p.Place() + ": " + p.What
			}
			return nil, f
		}
		return spec, failureOrNil(err)
	}
	return nil, &Failure{
		What: "the revision has no " + strings.Join(names, ", "),
		Fix:  "put appspec.yml at the top of the revision, or name it with --appspec",
	}
}

func failureOrNil(err error) *Failure {
	if err == nil {
		return nil
	}
	return failure("", err)
}

// readSmall reads a file that is bounded, and no link that leads elsewhere.
func readSmall(root *os.Root, name string) ([]byte, error) {
	info, err := root.Stat(name)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Size() > yamlfile.MaxBytes {
		return nil, fmt.Errorf("%s is not a file of at most %d bytes", name, yamlfile.MaxBytes)
	}
	return root.ReadFile(name)
}

// space checks that what is written will find room, as far as that can be known.
func (d *deployment) space(p *plan) *Failure {
	need, at := map[uint64]int64{}, map[uint64]string{}
	want := func(dir string, bytes int64) {
		for !isDir(dir) {
			dir = filepath.Dir(dir)
		}
		var st unix.Stat_t
		if unix.Stat(dir, &st) == nil {
			need[st.Dev] += bytes
			at[st.Dev] = dir
		}
	}
	for _, put := range p.Puts {
		if info, err := os.Lstat(put.From); err == nil {
			want(filepath.Dir(put.To), info.Size())
		}
		if info, err := os.Lstat(put.To); err == nil && info.Mode().IsRegular() {
			want(d.Root, info.Size())
		}
	}
	for device, bytes := range need {
		var fs unix.Statfs_t
		if unix.Statfs(at[device], &fs) != nil {
			continue
		}
		if free := int64(fs.Bavail) * int64(fs.Bsize); free < bytes {
			return &Failure{
				What: fmt.Sprintf("the file system of %s has %d MiB free, and %d MiB are needed", at[device],
					free>>20, bytes>>20+1),
				Fix: "make room; old revisions are below " + filepath.Join(d.Root, d.journal.Group),
			}
		}
	}
	return nil
}

func isDir(name string) bool {
	info, err := os.Lstat(name)
	return err == nil && info.IsDir()
}

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
