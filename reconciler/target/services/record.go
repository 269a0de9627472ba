package services

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/headgate-cd/headgate/gitd/crash"
	"github.com/headgate-cd/headgate/gitd/repo"
	"github.com/headgate-cd/headgate/reconciler/target"
	"github.com/headgate-cd/headgate/reconciler/target/services/rollout"
)

// What a target keeps of an application, in apps/<repository>/<environment>/<application>
// below its directory:
//
//	declared.json              what was declared last, and the fence: synced, for ever
//	secrets.age                the secrets that its instances are given, encrypted: synced
//	state.json                 where its rollout is
//	instances/<instance>.json  what runs as an instance, from before it begins to its end
//	instances/<instance>.out, .pos, .status  what it prints, how far that was read, how it ended
//
// Only the first two are synced, and state.json where a run at a time begins, which is
// not to begin again. The rest is about processes, and after a loss of
// power there are none: it is written to another file and renamed, which a kill
// leaves whole.

// recordVersion is the version of these files. What is added to them leaves it as it
// is; what an older program must not read raises it.
const recordVersion = 1

// containerVersion is the version of the record of a container, which a program that
// knows none would take for something that has ended.
const containerVersion = 2

// keptDeclared is declared.json.
type keptDeclared struct {
	Version  int              `json:"version"`
	Fence    int              `json:"fence"`
	Removed  bool             `json:"removed,omitempty"`
	Declared *target.Declared `json:"declared,omitempty"` // nil when it is removed
}

// keptState is state.json.
type keptState struct {
	Version  int              `json:"version"`
	Boot     string           `json:"boot"`
	Commit   string           `json:"commit"` // of the environment, that was accepted last
	Observed rollout.Observed `json:"observed"`
	Ports    map[string]int   `json:"ports,omitempty"`  // what free ports became
	Images   map[string]image `json:"images,omitempty"` // what images were resolved to, by version
	Rotated  string           `json:"rotated,omitempty"`
	At       rollout.Moment   `json:"at,omitzero"` // by whose wall clock its times are
}

// keptInstance is the record of an instance.
type keptInstance struct {
	Version  int           `json:"version"`
	Boot     string        `json:"boot"`
	Key      target.Key    `json:"key"`
	ID       string        `json:"id"`
	Commit   string        `json:"commit"` // of the environment
	What     string        `json:"what"`   // the version that it is an instance of
	Of       version       `json:"of"`
	Argv     []string      `json:"argv"`
	Port     int           `json:"port"`
	Restarts int           `json:"restarts"`
	Began    time.Time     `json:"began"`
	Up       time.Duration `json:"up,omitzero"`     // at Began
	Image    *image        `json:"image,omitempty"` // of a container
	started
}

// age is how long ago the instance began. Only of what an older program has recorded the
// wall's clock is asked.
func (k *keptInstance) age(now rollout.Moment) time.Duration {
	if k.Up > 0 {
		return now.Up - k.Up
	}
	return max(0, now.Wall.Sub(k.Began))
}

// appDir is where the files of an application are; ok is false for names that are
// not elements of a path.
func (t *Target) appDir(k target.Key) (dir string, ok bool) {
	for _, name := range []string{k.Repository, k.Environment, k.Application} {
		if !plainName().MatchString(name) {
			return "", false
		}
	}
	return filepath.Join(t.Dir, "apps", k.Repository, k.Environment, k.Application), true
}

// errNewer is that a file was written by a program whose files this one cannot read.
var errNewer = errors.New(
	"was written by a newer headgate: start that one, or stop it with `headgate agent stop` before you go back")

// readRecord reads a file into v. The error matches fs.ErrNotExist or errNewer, or
// says what is damaged.
func readRecord(path string, v any) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	var form struct {
		Version int `json:"version"`
	}
	if err := json.Unmarshal(data, &form); err != nil {
		return fmt.Errorf("%s is damaged: %w", path, err)
	}
	switch {
	case form.Version > containerVersion:
		return fmt.Errorf("%s %w", path, errNewer)
	case form.Version < 1:
		return fmt.Errorf("%s is damaged: it has no version", path)
	}
	if err := json.Unmarshal(data, v); err != nil {
		return fmt.Errorf("%s is damaged: %w", path, err)
	}
	return nil
}

// writeRecord writes a file whole: it is the old one or the new one, also after a power
// cut. Which of them does not matter then, for nothing runs that it could be about.
func writeRecord(path string, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	half := path + ".half"
	f, err := os.OpenFile(half, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return errors.Join(err, os.Remove(half))
	}
	return os.Rename(half, path)
}

// keepDeclared writes down what is declared, before anything is done about it.
func (a *app) keepDeclared(k keptDeclared) error {
	dir, ok := a.owner.appDir(a.home)
	if !ok {
		return nil // it cannot be carried out either, which is said elsewhere
	}
	k.Version = recordVersion
	data, err := json.Marshal(k)
	if err != nil {
		return err
	}
	if err := repo.MakeDir(dir, 0o700); err != nil {
		return fmt.Errorf("keep what is declared: %w", err)
	}
	crash.Point("services.before-declared-kept")
	if err := repo.WriteFile(filepath.Join(dir, "declared.json"), data, 0o600); err != nil {
		return fmt.Errorf("keep what is declared: %w", err)
	}
	crash.Point("services.declared-kept")
	return nil
}

// keepState writes down where the rollout is, if that is another place; durably where
// that matters after a power cut, too.
func (a *app) keepState(durably bool) error {
	dir, ok := a.owner.appDir(a.home)
	if !ok {
		return nil
	}
	s := keptState{
		Version:  recordVersion,
		Boot:     a.owner.boot,
		Commit:   a.commit,
		Observed: *a.observed.Clone(),
		Ports:    a.owner.portsOf(a.key()),
		Images:   a.images.keep(),
		Rotated:  a.rotated,
		At:       a.clockAt,
	}
	for _, f := range s.Observed.Services {
		for _, in := range f.Instances {
			// What checks say from moment to moment is asked anew.
			in.Checked, in.Fails, in.Message = time.Time{}, 0, ""
			if t := f.Versions[in.Version]; t != nil {
				in.Passes = min(in.Passes, t.Check.Passes)
			}
		}
	}
	data, err := json.Marshal(s)
	if err != nil || string(data) == a.keptState {
		return err
	}
	path := filepath.Join(dir, "state.json")
	if durably {
		err = repo.WriteFile(path, data, 0o600)
	} else {
		err = writeRecord(path, json.RawMessage(data))
	}
	if err != nil {
		// The rollout goes on; an agent that is started meanwhile begins further back.
		a.owner.Log.Warn("cannot write down where a rollout is", "env", a.key().Environment, "app",
			a.key().Application, "err", err)
		return err
	}
	a.keptState = string(data)
	return nil
}

// files are those of an instance.
func (a *app) file(instance, suffix string) string {
	dir, _ := a.owner.appDir(a.home) // no instance is started without one
	return filepath.Join(dir, "instances", instance+suffix)
}

// record writes down what runs as an instance, before it begins.
func (in *instance) record(c command, s started) error {
	k := keptInstance{
		Version:  recordVersion,
		Boot:     in.app.owner.boot,
		Key:      in.app.home,
		ID:       in.id,
		Commit:   in.commit,
		What:     in.what,
		Of:       *in.version,
		Argv:     c.argv,
		Port:     c.port,
		Restarts: in.restarts,
		Began:    in.app.owner.now(),
		Up:       up(),
		started:  s,
	}
	if s.Container != "" {
		k.Version, k.Image, k.Argv = containerVersion, &c.image, c.container.Command
	}
	return writeRecord(in.app.file(in.id, ".json"), k)
}

// forget removes the files of an instance that has ended, the record last.
func (a *app) forget(instance string) {
	for _, suffix := range []string{".out", ".pos", ".status", ".files", ".json"} {
		if err := os.RemoveAll(a.file(instance, suffix)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			a.owner.Log.Warn("cannot remove the record of an instance that has ended", "instance", instance, "err", err)
		}
	}
	a.forgetMemory(instance)
}

// Damaged says which of the files that runs have kept cannot be read, one a line, and
// changes nothing. nil: none.
func (t *Target) Damaged() error {
	files, err := filepath.Glob(filepath.Join(t.Dir, "apps", "*", "*", "*", "*.json"))
	if err != nil {
		return err
	}
	instances, err := filepath.Glob(filepath.Join(t.Dir, "apps", "*", "*", "*", "instances", "*.json"))
	if err != nil {
		return err
	}
	var errs []error
	for _, file := range append(files, instances...) {
		var any json.RawMessage
		if err := readRecord(file, &any); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// kept is all that an earlier run has kept of an application.
type kept struct {
	key       target.Key
	declared  *keptDeclared // nil: nothing that can be read
	secrets   *grants       // nil: none that can be read
	state     keptState
	instances []keptInstance
}

// readKept reads what earlier runs have kept. What is damaged is put aside and told
// of; what is newer than this program is an error.
func (t *Target) readKept() ([]kept, error) {
	dirs, err := filepath.Glob(filepath.Join(t.Dir, "apps", "*", "*", "*"))
	if err != nil {
		return nil, err
	}
	var all []kept
	for _, dir := range dirs {
		parts := strings.Split(filepath.ToSlash(dir), "/")
		n := len(parts)
		k := kept{key: target.Key{Repository: parts[n-3], Environment: parts[n-2], Application: parts[n-1]}}
		if d, ok := t.appDir(k.key); !ok || d != filepath.Clean(dir) {
			continue // nothing of ours
		}
		var d keptDeclared
		switch there, err := t.read(filepath.Join(dir, "declared.json"), &d); {
		case err != nil:
			return nil, err
		case there:
			k.declared = &d
		}
		k.secrets = t.readSecrets(k.key, dir)
		if d.Declared != nil {
			d.Declared.Secrets = k.secrets.set()
		}
		if _, err := t.read(filepath.Join(dir, "state.json"), &k.state); err != nil {
			return nil, err
		}
		files, err := filepath.Glob(filepath.Join(dir, "instances", "*.json"))
		if err != nil {
			return nil, err
		}
		for _, file := range files {
			var in keptInstance
			there, err := t.read(file, &in)
			switch {
			case err != nil:
				return nil, err
			case there && (in.Key != k.key || in.ID+".json" != filepath.Base(file)):
				t.setAside(file, errors.New("it is about another instance"))
			case there:
				k.instances = append(k.instances, in)
			}
		}
		all = append(all, k)
	}
	return all, nil
}

// read reads a file, if it is there and whole.
func (t *Target) read(path string, v any) (there bool, err error) {
	switch err := readRecord(path, v); {
	case err == nil:
		return true, nil
	case errors.Is(err, errNewer):
		return false, err
	case errors.Is(err, fs.ErrNotExist):
	default:
		t.setAside(path, err)
	}
	return false, nil
}

// setAside gives a file that says nothing another name, for people to look at.
func (t *Target) setAside(path string, why error) {
	t.Log.Error("put a damaged record aside", "file", path, "err", why)
	_ = os.Rename(path, path+".damaged") // else it is put aside the next time
}
