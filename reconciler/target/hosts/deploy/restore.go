package deploy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/headgate-cd/headgate/gitd/crash"
	"github.com/headgate-cd/headgate/reconciler/target/hosts/appspec"
)

// fail ends a deployment that cannot succeed: as it is, if nothing was touched or that
// was asked for, else after the previous revision was put back.
func (d *deployment) fail(ctx context.Context, f *Failure) (Result, error) {
	d.journal.Failure = f
	if d.log != nil {
		text := f.What
		if f.Fix != "" {
			text += "; " + f.Fix
		}
		d.log.note("failed: " + text)
	}
	switch {
	case !d.journal.Touched:
		if d.journal.Done == 0 { // its revision was never used
			_ = os.RemoveAll(archiveIn(d.dir()))
		}
		return d.end(Result{Status: Failed, Restored: NotTouched})
	case d.request.KeepFailed:
		return d.end(Result{Status: Failed, Restored: Left})
	}
	// On a full disk the journal cannot be written, and putting files back is what makes
	// room. A file can be removed: without it, nobody goes on with what is new.
	if err := d.remove(d.goingFile()); err != nil {
		return Result{}, errors.Join(f, err)
	}
	if err := syncDir(d.dir()); err != nil {
		return Result{}, errors.Join(f, err)
	}
	d.journal.Restoring = true
	if err := d.save(); err != nil {
		d.log.warn(f.Event, "the journal cannot be written: "+err.Error())
	}
	crash.Point("deploy.restoring")
	return d.restore(ctx)
}

// step is one of putting the previous revision back.
type step struct {
	event appspec.Event // whose scripts run; "" for what Headgate does itself
	id    string        // deployment whose they are
	do    func(ctx context.Context) error
}

// steps put the previous revision back: what the new one started is stopped, what it
// put aside comes back, and the previous one goes through the events again that the new
// one had begun.
func (d *deployment) steps() (all []step) {
	j := d.journal
	if d.hasStarted(appspec.ApplicationStart, appspec.ValidateService, appspec.BeforeAllowTraffic, appspec.AllowTraffic,
		appspec.AfterAllowTraffic) && d.hasRevision() {
		all = append(all, step{event: appspec.ApplicationStop, id: j.ID})
	}
	all = append(all, step{do: func(context.Context) error { endMarked(d.identity()); return nil }})
	if j.Previous != "" && d.hasStarted(appspec.BeforeInstall) {
		all = append(all, step{event: appspec.BeforeInstall, id: j.Previous})
	}
	all = append(all, step{do: func(context.Context) error { return d.restoreFiles() }})
	if j.Previous == "" {
		return all
	}
	if d.hasRevision() {
		if d.hasStarted(appspec.BeforeInstall, appspec.Install) {
			all = append(all, step{event: appspec.AfterInstall, id: j.Previous})
		}
		if !onlyTraffic(j.Begun) {
			all = append(all, step{event: appspec.ApplicationStart, id: j.Previous},
				step{event: appspec.ValidateService, id: j.Previous})
		}
	}
	if d.hasStarted(appspec.BeforeBlockTraffic, appspec.BlockTraffic, appspec.AfterBlockTraffic) &&
		j.Kind != RollbackReplacement {
		all = append(all, step{event: appspec.BeforeAllowTraffic, id: j.Previous})
		if d.request.Traffic != nil {
			all = append(all, step{do: func(ctx context.Context) error { return d.request.Traffic(ctx, true) }})
		}
		all = append(all, step{event: appspec.AfterAllowTraffic, id: j.Previous})
	}
	return all
}

func onlyTraffic(started []appspec.Event) bool {
	return !slices.ContainsFunc(started,
		func(e appspec.Event) bool { return !strings.HasSuffix(string(e), "BlockTraffic") })
}

// restore goes through the steps, or on with them. What fails in one is told and does
// not stop the others: more of the previous revision is better than less.
func (d *deployment) restore(ctx context.Context) (Result, error) {
	ctx = context.WithoutCancel(ctx) // whoever stops a deployment wants the previous revision
	d.log.restoring = true
	j := d.journal
	all := d.steps()
	for j.Restore.Done < len(all) {
		s := all[j.Restore.Done]
		err := d.step(ctx, s)
		if d.suspended() && err != nil {
			return Result{}, ErrSuspended
		}
		if err != nil {
			f := failure(s.event, err)
			j.Troubles = append(j.Troubles, f.Error())
			d.log.warn(s.event, "while the previous revision is put back: "+f.What)
			if j.Restore.Script < d.count(s) { // the scripts after it, too
				continue
			}
		}
		j.Restore.Done, j.Restore.Script, j.Restore.Running = j.Restore.Done+1, 0, false
		if err := d.save(); err != nil {
			d.log.warn(s.event, "the journal cannot be written: "+err.Error())
		}
		crash.Point("deploy.step-restored")
	}
	r := Result{Status: Failed, Restored: PutBack}
	switch {
	case len(j.Troubles) > 0:
		r.Restored = NotRestored
	case j.Previous == "":
		r.Restored = Emptied
	}
	if len(j.Troubles) > 0 {
		j.Failure.What += "\nand the previous revision could not be put back whole: " + strings.Join(j.Troubles, "\n")
	}
	return d.end(r)
}

func (d *deployment) count(s step) int {
	if s.do != nil {
		return 0
	}
	_, all, _ := d.scripts(s.id, s.event)
	return len(all)
}

func (d *deployment) step(ctx context.Context, s step) error {
	if s.do != nil {
		return s.do(ctx)
	}
	archive, all, err := d.scripts(s.id, s.event)
	if err != nil || len(all) == 0 {
		return err
	}
	if d.journal.Restore.Script == 0 && !d.journal.Restore.Running {
		d.log.event(s.event)
	}
	if f := d.runAll(ctx, &d.journal.Restore, s.event, archive, all); f != nil {
		return f
	}
	return nil
}

// restoreFiles puts back what was there before the deployment, and takes away what it
// installed. It may be done again.
func (d *deployment) restoreFiles() error {
	j := d.journal
	if !j.Saved {
		return nil
	}
	data, err := os.ReadFile(d.beforeFile())
	if err != nil {
		return err
	}
	var before []was
	if err := json.Unmarshal(data, &before); err != nil {
		return err
	}
	p, err := d.stagedPlan()
	if err != nil {
		return err
	}
	for _, dir := range p.Stages {
		if err := os.RemoveAll(dir); err != nil {
			return err
		}
	}
	if j.Installation == committing || j.Installation == installed {
		if err := d.takeAway(before, p); err != nil {
			return err
		}
	}
	for _, w := range before {
		if err := d.putBack(w); err != nil {
			return fmt.Errorf("put back %s: %w", w.Path, err)
		}
	}
	paths := make([]string, len(before))
	for i, w := range before {
		paths[i] = w.Path
	}
	if err := syncDirs(paths); err != nil {
		return err
	}
	crash.Point("deploy.put-back")
	return errors.Join(
		d.writeCleanup(j.Group, j.Cleanup),
		d.point(j.Group, lastSuccessful, j.Previous),
	)
}

// takeAway removes what was installed where nothing was, children first.
func (d *deployment) takeAway(before []was, p stagedPlan) error {
	ours := map[string]bool{}
	for _, dir := range p.Dirs {
		ours[dir] = true
	}
	for _, put := range p.Puts {
		ours[put.To] = true
	}
	for _, w := range slices.Backward(before) {
		if !ours[w.Path] {
			continue
		}
		now, err := os.Lstat(w.Path)
		if err != nil {
			continue
		}
		// A directory that came where a file was goes, too, if it can.
		if w.Kind == "" || now.IsDir() != (w.Kind == "dir") {
			if _, err := d.drop(w.Path); err != nil {
				return err
			}
		}
	}
	return nil
}

// putBack makes a path what it was.
func (d *deployment) putBack(w was) error {
	switch w.Kind {
	case "":
		return nil
	case "dir":
		info, err := os.Lstat(w.Path)
		if errors.Is(err, fs.ErrNotExist) {
			if err = os.MkdirAll(w.Path, 0o755); err == nil {
				info, err = os.Lstat(w.Path)
			}
		}
		if err != nil {
			return err
		}
		st := info.Sys().(*syscall.Stat_t)
		if err := own(w.Path, w.UID, w.GID); err != nil {
			return err
		}
		if st.Mode&0o7777 == w.Mode && int(st.Uid) == w.UID && int(st.Gid) == w.GID {
			return nil
		}
		return syscall.Chmod(w.Path, w.Mode)
	}
	if w.untouched() {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(w.Path), 0o755); err != nil {
		return err
	}
	kept := filepath.Join(d.beforeDir(), strconv.Itoa(w.Kept))
	err := d.replace(kept, w.Path)
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) { // the new one gives its room
		if err = d.remove(w.Path); err == nil {
			err = d.replace(kept, w.Path)
		}
	}
	return err
}
