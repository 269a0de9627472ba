package function

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/headgate-cd/headgate/gitd/crash"
	"github.com/headgate-cd/headgate/gitd/repo"
	"github.com/headgate-cd/headgate/reconciler/target"
	"github.com/headgate-cd/headgate/reconciler/target/function/rollout"
	"github.com/headgate-cd/headgate/reconciler/target/hosts/bundle"
	"github.com/headgate-cd/headgate/reconciler/target/unpacked"
)

// stateVersion is the version of the file. What is added leaves it as it is; what an older
// program must not read raises it.
const stateVersion = 1

// state is what is kept of an application, in apps/<directory>/state.json. It is written
// and synced before anything it says is done: the move of an alias is that file's change
// of name.
type state struct {
	Version int `json:"version"`
	target.Key

	Fence   int    `json:"fence"` // newest sequence that was told
	Removed bool   `json:"removed,omitempty"`
	Commit  string `json:"commit,omitempty"` // of the environment, that was accepted last

	Functions  map[string][]version     `json:"functions,omitempty"` // oldest first
	Aliases    map[string]rollout.Alias `json:"aliases,omitempty"`   // by "function:alias"
	Deployment *rollout.Progress        `json:"deployment,omitempty"`
	Remote     *remoteAlias             `json:"remote,omitempty"` // nil: it is on this machine
	Port       int                      `json:"port,omitempty"`   // of the invoke API, when any will do
}

// maxVersions is how many versions of a function are kept besides those that an alias is
// at: what is older is published anew, under another number.
const maxVersions = 100

// publish finds the version of a function's code and configuration, or makes it: the same
// published again is the same version, as at Lambda.
func (s *state) publish(name string, v version, now time.Time) (number int, isNew bool) {
	all := s.Functions[name]
	last := 0
	for i := range all {
		last = max(last, all[i].Number)
		if all[i].Digest == v.Digest && reflect.DeepEqual(all[i].Config, v.Config) {
			all[i].Release = v.Release
			return all[i].Number, false
		}
	}
	v.Number, v.Made = last+1, now
	if s.Functions == nil {
		s.Functions = map[string][]version{}
	}
	s.Functions[name] = append(all, v)
	s.forget(name)
	return v.Number, true
}

// forget leaves out the oldest versions of a function over the bound.
func (s *state) forget(name string) {
	needed := map[int]bool{}
	for key, at := range s.Aliases {
		if of, _, _ := strings.Cut(key, ":"); of == name {
			needed[at.Version], needed[at.Canary] = true, true
		}
	}
	all := s.Functions[name]
	over := len(all) - maxVersions
	s.Functions[name] = slices.DeleteFunc(all, func(v version) bool {
		if over <= 0 || needed[v.Number] {
			return false
		}
		over--
		return true
	})
}

func (s *state) version(name string, number int) (version, bool) {
	for _, v := range s.Functions[name] {
		if v.Number == number {
			return v, true
		}
	}
	return version{}, false
}

// save writes the state down whole, before anything it says is done.
func (a *app) save() error {
	a.state.Version = stateVersion
	data, err := json.MarshalIndent(a.state, "", "  ")
	if err != nil {
		return err
	}
	if err := repo.MakeDir(a.dir, 0o700); err != nil {
		return fmt.Errorf("write down where aliases are: %w", err)
	}
	crash.Point("function.before-state-kept")
	if err := repo.WriteFile(filepath.Join(a.dir, "state.json"), data, 0o600); err != nil {
		return fmt.Errorf("write down where aliases are: %w", err)
	}
	crash.Point("function.state-kept")
	return nil
}

// readState reads what is kept in a directory.
func readState(dir string) (s state, err error) {
	s.Aliases = map[string]rollout.Alias{}
	file := filepath.Join(dir, "state.json")
	data, err := os.ReadFile(file)
	if err != nil {
		return s, err
	}
	if err := json.Unmarshal(data, &s); err != nil {
		return s, fmt.Errorf("%s is damaged: %w", file, err)
	}
	if s.Version > stateVersion {
		return s, fmt.Errorf("%s was written by a newer headgate: start that one", file)
	}
	if s.Aliases == nil { // "aliases": null
		s.Aliases = map[string]rollout.Alias{}
	}
	return s, nil
}

// readAll finds what earlier runs have kept. A damaged file stops the start: without it an
// alias would begin anew at the first version that is declared, and without its hooks.
func (t *Target) readAll() (map[target.Key]string, error) {
	dirs, err := filepath.Glob(filepath.Join(t.Dir, "apps", "*"))
	if err != nil {
		return nil, err
	}
	all := map[target.Key]string{}
	for _, dir := range dirs {
		s, err := readState(dir)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			continue // it was made a moment before a kill
		case err != nil:
			return nil, err
		}
		if other, taken := all[s.Key]; taken {
			return nil, fmt.Errorf("%s and %s are both about %s; remove the one that is older", dir, other, s.Key)
		}
		all[s.Key] = dir
	}
	return all, nil
}

// newDirectory is one for an application that has none. An application keeps it when its
// environment gets another name.
func (t *Target) newDirectory(k target.Key) string {
	sum := sha256.Sum256([]byte(k.Repository + "\x00" + k.Environment + "\x00" + k.Application + "\x00" +
		time.Now().String()))
	return filepath.Join(t.Dir, "apps", hex.EncodeToString(sum[:8]))
}

// code names what a version runs from, in the store of what is unpacked: a part of an
// artifact.
func (v version) code() string {
	sum := sha256.Sum256([]byte(v.Digest + "\x00" + v.Config.Code))
	return "sha256:" + hex.EncodeToString(sum[:])
}

// lay unpacks the code of a version into dir: all of the artifact, a directory of it, or
// what a zip file in it holds.
func (t *Target) lay(ctx context.Context, v version, dir string) error {
	if v.Config.Code == "" {
		return t.Unpack(ctx, v.Digest, dir)
	}
	whole, err := os.MkdirTemp(filepath.Dir(dir), ".artifact-")
	if err != nil {
		return err
	}
	defer unpacked.RemoveTree(whole) // what is left is removed at the next start
	if err := t.Unpack(ctx, v.Digest, whole); err != nil {
		return err
	}
	from, err := filepath.EvalSymlinks(filepath.Join(whole, v.Config.Code))
	if err != nil || !strings.HasPrefix(from, whole+string(filepath.Separator)) {
		return &missingCode{fmt.Sprintf("the artifact has no %s; say with code: in %s where the function is",
			v.Config.Code, settingsFile)}
	}
	form, err := bundle.TypeOf(from)
	if err != nil {
		return &missingCode{fmt.Sprintf("%s of the artifact is neither a directory nor a zip file", v.Config.Code)}
	}
	if err := bundle.Unpack(ctx, from, form, dir); err != nil {
		return &missingCode{fmt.Sprintf("%s of the artifact cannot be unpacked: %v", v.Config.Code, err)}
	}
	return nil
}

// missingCode is that an artifact does not hold a function, which trying again does not
// change.
type missingCode struct{ why string }

func (e *missingCode) Error() string { return e.why }
