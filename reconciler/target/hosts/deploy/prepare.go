package deploy

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

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
