package deploy

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/headgate-cd/headgate/gitd/crash"
	"github.com/headgate-cd/headgate/reconciler/target/hosts/appspec"
)

// Install replaces nothing before all that is new lies beside its place, with its
// permissions, on the same file system; then names change. What was there is kept
// until the deployment has ended.

// was is what there was at a path before the deployment.
type was struct {
	Path string `json:"path"`
	Kind string `json:"kind"` // "", "file", "link" or "dir"; "" is nothing
	Kept int    `json:"kept"` // name of its copy

	Mode uint32 `json:"mode"`
	UID  int    `json:"uid"`
	GID  int    `json:"gid"`

	// Of the file when it had been saved: whether it is still that one.
	Inode  uint64           `json:"inode"`
	Change syscall.Timespec `json:"change"`
}

func (d *deployment) beforeDir() string  { return filepath.Join(d.dir(), "before") }
func (d *deployment) beforeFile() string { return filepath.Join(d.dir(), "before.json") }
func (d *deployment) planFile() string   { return filepath.Join(d.dir(), "install.json") }

// saveBefore keeps what Install and the scripts before it may replace or remove.
func (d *deployment) saveBefore(p *plan) error {
	if err := os.RemoveAll(d.beforeDir()); err != nil {
		return err
	}
	if err := d.mkdir(d.beforeDir(), 0o700); err != nil {
		return err
	}
	// A script could write into a file that is there. Where none comes before Install, which
	// replaces files and writes into none, a second name for the file will do.
	link := !d.hasScripts(appspec.BeforeInstall) && !d.hasScripts(appspec.ApplicationStop) &&
		!d.hasScripts(appspec.BeforeBlockTraffic)
	var paths []string
	paths = append(paths, d.journal.Cleanup...)
	paths = append(paths, p.Dirs...)
	paths = append(paths, p.Kept...)
	for _, put := range p.Puts {
		paths = append(paths, put.To)
	}
	slices.Sort(paths) // parents first
	var all []was
	for i, path := range slices.Compact(paths) {
		w, err := d.saveOne(path, i, link)
		if err != nil {
			return err
		}
		all = append(all, w)
	}
	copies := make([]string, len(all))
	for i, w := range all {
		copies[i] = filepath.Join(d.beforeDir(), strconv.Itoa(w.Kept))
	}
	if err := settle(copies); err != nil {
		return err
	}
	if err := d.writeJSON(d.beforeFile(), all); err != nil {
		return err
	}
	if err := syncDir(d.beforeDir()); err != nil {
		return err
	}
	d.journal.Saved = true
	if err := d.save(); err != nil {
		return err
	}
	crash.Point("deploy.saved")
	return nil
}

func (d *deployment) saveOne(path string, n int, link bool) (was, error) {
	w := was{Path: path, Kept: n}
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
		return w, nil
	}
	if err != nil {
		return w, err
	}
	st := info.Sys().(*syscall.Stat_t)
	w.Mode, w.UID, w.GID = st.Mode&0o7777, int(st.Uid), int(st.Gid)
	switch {
	case info.IsDir():
		w.Kind = "dir"
		return w, nil
	case info.Mode()&fs.ModeSymlink != 0:
		w.Kind = "link"
	case info.Mode().IsRegular():
		w.Kind = "file"
	default:
		return w, fmt.Errorf("%s is neither a file, a link nor a directory", path)
	}
	to := filepath.Join(d.beforeDir(), strconv.Itoa(n))
	linked := false
	if link && w.Kind == "file" {
		if err := d.allow("link", to); err != nil {
			return w, err
		}
		linked = os.Link(path, to) == nil // else it is on another file system
	}
	if !linked {
		if err := d.copy(path, to); err != nil {
			return w, err
		}
	}
	var now unix.Stat_t
	if err := unix.Lstat(path, &now); err != nil {
		return w, err
	}
	w.Inode, w.Change = now.Ino, syscall.Timespec(now.Ctim)
	return w, nil
}

// untouched reports whether at the path there is still what was saved.
func (w was) untouched() bool {
	var now unix.Stat_t
	return unix.Lstat(w.Path, &now) == nil && now.Ino == w.Inode && syscall.Timespec(now.Ctim) == w.Change
}

// stagedPlan is what install.json holds.
type stagedPlan struct {
	Dirs   []string       `json:"dirs"`
	Puts   []put          `json:"puts"`
	Drops  []string       `json:"drops"`
	Kept   []string       `json:"kept"`
	Grants map[string]int `json:"grants"` // path → index of the appspec.yml's permissions
	Stages []string       `json:"stages"` // directories that files are staged in
	In     []int          `json:"in"`     // for each of Puts, which of them
}

func (d *deployment) stagedPlan() (p stagedPlan, err error) {
	_, err = d.readJSON(d.planFile(), &p)
	return p, err
}

// stages are the directories that files were staged in.
func (d *deployment) stages() []string {
	p, err := d.stagedPlan()
	if err != nil {
		return nil
	}
	return p.Stages
}

// install does the event of that name, or goes on with it.
func (d *deployment) install(ctx context.Context) error {
	spec, err := d.specOf(d.journal.ID)
	if err != nil {
		return err
	}
	if d.journal.Installation == notInstalling {
		if err := d.planStaging(spec); err != nil {
			return err
		}
	}
	p, err := d.stagedPlan()
	if err != nil {
		return err
	}
	if d.journal.Installation == staging {
		if err := d.stage(ctx, spec, p); err != nil {
			return err
		}
		d.journal.Installation = committing
		if err := d.save(); err != nil {
			return err
		}
		crash.Point("deploy.staged")
	}
	if d.journal.Installation == committing {
		return d.commit(spec, p)
	}
	return nil
}

// planStaging looks once more at what is there, now that scripts have run, and says
// what will be done.
func (d *deployment) planStaging(spec *appspec.Spec) error {
	plan, err := d.plan(spec)
	if err != nil {
		return err
	}
	if f := first(plan.problems); f != nil {
		return f
	}
	p := stagedPlan{Dirs: plan.Dirs, Puts: plan.Puts, Drops: plan.Drops, Kept: plan.Kept, Grants: map[string]int{}}
	for path, grant := range plan.Grants {
		p.Grants[path] = slices.IndexFunc(spec.Permissions,
			func(other appspec.Permission) bool { return other.At == grant.At })
	}
	byDevice := map[uint64]int{}
	for _, put := range p.Puts {
		dir := filepath.Dir(put.To)
		for !isDir(dir) {
			dir = filepath.Dir(dir)
		}
		var st unix.Stat_t
		if err := unix.Stat(dir, &st); err != nil {
			return &fs.PathError{Op: "stat", Path: dir, Err: err}
		}
		at, ok := byDevice[st.Dev]
		if !ok {
			at = len(p.Stages)
			byDevice[st.Dev] = at
			p.Stages = append(p.Stages, filepath.Join(dir, ".headgate-"+d.journal.Group+"-"+d.journal.ID))
		}
		p.In = append(p.In, at)
	}
	if err := d.writeJSON(d.planFile(), p); err != nil {
		return err
	}
	d.journal.Installation = staging
	d.mark(appspec.Install)
	if err := d.save(); err != nil {
		return err
	}
	crash.Point("deploy.planned")
	return nil
}

func (p stagedPlan) staged(i int) string { return filepath.Join(p.Stages[p.In[i]], strconv.Itoa(i)) }

// stage writes what is new. It may be done again.
func (d *deployment) stage(ctx context.Context, spec *appspec.Spec, p stagedPlan) error {
	for _, dir := range p.Stages {
		if err := os.RemoveAll(dir); err != nil {
			return err
		}
		if err := d.mkdir(dir, 0o700); err != nil {
			return err
		}
	}
	for i, put := range p.Puts {
		if err := d.stopped(ctx); err != nil {
			return err
		}
		if err := d.copy(put.From, p.staged(i)); err != nil {
			return fmt.Errorf("copy to %s: %w", put.To, err)
		}
		if grant, ok := p.Grants[put.To]; ok {
			if err := d.apply(p.staged(i), &spec.Permissions[grant]); err != nil {
				return fmt.Errorf("permissions of %s: %w", put.To, err)
			}
		}
	}
	copies := make([]string, len(p.Puts))
	for i := range p.Puts {
		copies[i] = p.staged(i)
	}
	if err := settle(copies); err != nil {
		return err
	}
	for _, dir := range p.Stages {
		if err := syncDir(dir); err != nil {
			return err
		}
	}
	return nil
}

// commit changes the host: what is obsolete goes, directories are made, and staged
// files take their places. Each step may be done again. The record for the next
// cleanup is there before, so that nothing can stay that it does not know.
func (d *deployment) commit(spec *appspec.Spec, p stagedPlan) error {
	record := append(slices.Clone(d.journal.Cleanup), p.Dirs...)
	for _, put := range p.Puts {
		record = append(record, put.To)
	}
	slices.Sort(record)
	if err := d.writeCleanup(d.journal.Group, slices.Compact(record)); err != nil {
		return err
	}
	crash.Point("deploy.recorded")
	placed := map[string]bool{} // before the process that did it was killed
	for i, put := range p.Puts {
		placed[put.To] = !exists(p.staged(i))
	}
	var stay []string
	for _, path := range p.Drops {
		if placed[path] {
			continue
		}
		gone, err := d.drop(path)
		if err != nil {
			return err
		}
		if !gone {
			stay = append(stay, path)
		}
	}
	crash.Point("deploy.dropped")
	for _, dir := range p.Dirs {
		if err := d.mkdir(dir, 0o755); err != nil && !isDir(dir) {
			return err
		}
	}
	for i, put := range p.Puts {
		if err := d.placeFile(p.staged(i), put.To); err != nil {
			return err
		}
		crash.Point("deploy.file-placed")
	}
	for _, dir := range append(slices.Clone(p.Dirs), p.Kept...) {
		if grant, ok := p.Grants[dir]; ok {
			if err := d.apply(dir, &spec.Permissions[grant]); err != nil {
				return fmt.Errorf("permissions of %s: %w", dir, err)
			}
		}
	}
	changed := append(slices.Clone(p.Dirs), p.Drops...)
	for _, put := range p.Puts {
		changed = append(changed, put.To)
	}
	if err := syncDirs(changed); err != nil {
		return err
	}
	crash.Point("deploy.placed")
	// Parents first: directories that stayed because of what is in them, too.
	record = append(append(stay, p.Kept...), p.Dirs...)
	slices.Sort(record)
	record = slices.Compact(record)
	for _, put := range p.Puts {
		record = append(record, put.To)
	}
	if err := d.writeCleanup(d.journal.Group, record); err != nil {
		return err
	}
	if err := d.point(d.journal.Group, lastSuccessful, d.journal.ID); err != nil {
		return err
	}
	crash.Point("deploy.installed")
	d.journal.Installation = installed
	return d.save()
}

// drop removes what a previous install made: a directory only when it is empty. It
// reports whether it is gone.
func (h *Host) drop(path string) (bool, error) {
	if isDir(path) {
		if err := h.allow("remove", path); err != nil {
			return false, err
		}
		err := os.Remove(path)
		return err == nil || errors.Is(err, fs.ErrNotExist), nil
	}
	return true, h.remove(path)
}

// placeFile moves a staged file to its place, if that has not happened yet.
func (d *deployment) placeFile(staged, to string) error {
	if !exists(staged) {
		return nil
	}
	err := d.rename(staged, to)
	if errors.Is(err, syscall.EXDEV) { // a mount of the same device
		err = d.replace(staged, to)
	}
	return err
}

// replace puts a copy in the place of what is there, at once.
func (d *deployment) replace(from, to string) error {
	temp := filepath.Join(filepath.Dir(to), ".headgate-"+d.journal.ID+"-placing")
	if err := os.Remove(temp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := d.allow("link", temp); err != nil {
		return err
	}
	if os.Link(from, temp) != nil {
		if err := errors.Join(d.copy(from, temp), settle([]string{temp})); err != nil {
			return err
		}
	}
	if err := d.rename(temp, to); err != nil {
		return errors.Join(err, os.Remove(temp))
	}
	_ = os.Remove(temp) // rename does nothing when both are one file
	return nil
}
