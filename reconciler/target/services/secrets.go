package services

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/headgate-cd/headgate/gitd/crash"
	"github.com/headgate-cd/headgate/gitd/engine"
	"github.com/headgate-cd/headgate/gitd/repo"
	"github.com/headgate-cd/headgate/gitd/secret"
	"github.com/headgate-cd/headgate/gitd/terminal"
	"github.com/headgate-cd/headgate/reconciler/target"
	"github.com/headgate-cd/headgate/reconciler/target/services/rollout"
)

const (
	// secretsDir is where instances find secrets as files.
	secretsDir = "/run/secrets"
	// variablesFile is what a process reads the variables from that are secrets: the
	// arguments of processes can be read by everybody on the machine.
	variablesFile = "/run/sandbox/secrets"

	// maxKeptSecrets bounds secrets.age.
	maxKeptSecrets = 64 << 20
)

// Secrets are those that the files of an application's directory have instances be
// given, and with which images are fetched.
func Secrets(files target.Files) (all []target.SecretUse) {
	for _, s := range servicesIn(files) {
		for _, of := range s.Secrets {
			all = append(all, target.SecretUse{Name: of.Name, Unit: s.Name, File: of.at.file, Line: of.at.line})
		}
		if c := s.Container; c != nil && c.Login != "" {
			all = append(all, target.SecretUse{Name: c.Login, Unit: s.Name, File: c.loginAt.file, Line: c.loginAt.line})
		}
	}
	return all
}

// grants are the secrets of an application: what is set now, and the values that
// versions in use were made of. They are not changed once they are made.
type grants struct {
	current map[string]string                  // revisions, by name
	values  map[string]map[string]secret.Value // by name and revision
}

// keptSecrets is secrets.age, as it is encrypted.
type keptSecrets struct {
	Version int                          `json:"version"`
	Key     target.Key                   `json:"key"` // so that no file stands in for another's
	Current map[string]string            `json:"current"`
	Values  map[string]map[string][]byte `json:"values"`
}

// with are the same grants and those that were told: what is told counts when it is
// written down.
func (g *grants) with(told target.Secrets) *grants {
	more := &grants{current: map[string]string{}, values: map[string]map[string]secret.Value{}}
	if g != nil {
		maps.Copy(more.current, g.current)
		for name, of := range g.values {
			more.values[name] = maps.Clone(of)
		}
	}
	for name, s := range told {
		more.current[name] = s.Revision
		if more.values[name] == nil {
			more.values[name] = map[string]secret.Value{}
		}
		more.values[name][s.Revision] = s.Value
	}
	return more
}

// without are the grants without the values that nothing uses, and whether any went.
func (g *grants) without(used func(name, revision string) bool) (_ *grants, fewer bool) {
	if g == nil {
		return nil, false
	}
	less := &grants{current: g.current, values: map[string]map[string]secret.Value{}}
	for name, of := range g.values {
		for revision, v := range of {
			if g.current[name] != revision && !used(name, revision) {
				fewer = true
				continue
			}
			if less.values[name] == nil {
				less.values[name] = map[string]secret.Value{}
			}
			less.values[name][revision] = v
		}
	}
	return less, fewer
}

// set are the secrets that are set now.
func (g *grants) set() target.Secrets {
	if g == nil {
		return nil
	}
	all := target.Secrets{}
	for name, revision := range g.current {
		if v, ok := g.values[name][revision]; ok {
			all[name] = target.Secret{Revision: revision, Value: v}
		}
	}
	return all
}

// of are the revisions of the secrets that a service is to be given, as they are set
// now.
func (g *grants) of(s Service, repository string) (map[string]string, error) {
	revisions, set := map[string]string{}, g.set()
	missing := func(name string) error {
		id := secret.ID{Repository: repository, Name: strings.TrimPrefix(name, "/")}
		return &engine.Error{
			Reason: engine.Reason(target.ReasonSecretMissing),
			What: fmt.Sprintf(
				"service %s wants the secret %s, which is not set; set it: ssh <this server> secret set %s <value.txt",
				s.Name, name, id),
		}
	}
	for _, each := range s.Secrets {
		of, ok := set[each.Name]
		if !ok {
			return nil, missing(each.Name)
		}
		revisions[each.Name] = of.Revision
	}
	if c := s.Container; c != nil && c.Login != "" {
		if _, ok := set[c.Login]; !ok {
			return nil, missing(c.Login)
		}
	}
	return revisions, nil
}

// value is what a secret of a version is, or the member of it that is asked for.
func (g *grants) value(s Secret, revision string) ([]byte, error) {
	var v secret.Value
	known := false
	if g != nil {
		v, known = g.values[s.Name][revision]
	}
	if !known {
		return nil, &engine.Error{
			Reason: engine.Reason(target.ReasonSecretMissing),
			What:   fmt.Sprintf("the secret %s is not there as it was; set it again", s.Name),
		}
	}
	data := v.Reveal()
	invalid := func(what string) error {
		return &engine.Error{Reason: engine.Reason(target.ReasonSecretInvalid),
			What: fmt.Sprintf("the secret %s %s; set another value", s.Name, what)}
	}
	if s.JSON != "" {
		var object map[string]json.RawMessage
		if json.Unmarshal(data, &object) != nil {
			return nil, invalid("is not a JSON object, and " + strconv.Quote(s.JSON) + " is asked of it")
		}
		member, ok := object[s.JSON]
		if !ok {
			return nil, invalid("has no member " + strconv.Quote(s.JSON))
		}
		data = member
		var text string
		if json.Unmarshal(member, &text) == nil {
			data = []byte(text)
		}
	}
	if s.Variable != "" && slices.Contains(data, 0) {
		return nil, invalid("has a zero byte, which no variable can")
	}
	return data, nil
}

// login is how the registry of a service's image is entered, by what is set now.
func (g *grants) login(c *Container) (engine.Login, error) {
	if c.Login == "" {
		return engine.Login{}, nil
	}
	data, err := g.value(Secret{Name: c.Login}, g.set()[c.Login].Revision)
	if err != nil {
		return engine.Login{}, err
	}
	login, ok := engine.ParseLogin(data)
	if !ok {
		return engine.Login{}, &engine.Error{
			Reason: engine.Reason(target.ReasonSecretInvalid),
			What: fmt.Sprintf(
				`the secret %s is no login of a registry; set one like user:password, or {"username": …, "password": …}`, c.Login),
		}
	}
	return login, nil
}

// secretKey is what secrets are kept by on this machine.
func (t *Target) secretKey() (*secret.Key, error) {
	t.secretsMu.Lock()
	defer t.secretsMu.Unlock()
	if t.key != nil {
		return t.key, nil
	}
	if err := repo.MakeDir(t.Dir, 0o700); err != nil {
		return nil, err
	}
	file := filepath.Join(t.Dir, "secrets.key")
	key, err := secret.OpenKey(file)
	if err != nil && !errors.Is(err, fs.ErrPermission) {
		t.setAside(file, err)
		key, err = secret.OpenKey(file)
	}
	t.key = key
	return key, err
}

func secretsFile(dir string) string { return filepath.Join(dir, "secrets.age") }

// readSecrets reads what is kept of an application's secrets. What cannot be read is as if
// it were not there, until the server tells it again.
func (t *Target) readSecrets(k target.Key, dir string) *grants {
	file := secretsFile(dir)
	sealed, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	var text []byte
	if err == nil {
		var key *secret.Key
		if key, err = t.secretKey(); err == nil {
			text, err = key.Open(sealed, maxKeptSecrets)
		}
	}
	var kept keptSecrets
	if err == nil {
		err = json.Unmarshal(text, &kept)
	}
	if err == nil && (kept.Version != recordVersion || kept.Key != k) {
		err = errors.New("it is about something else")
	}
	if err != nil {
		t.setAside(file, err)
		return nil
	}
	g := &grants{current: kept.Current, values: map[string]map[string]secret.Value{}}
	for name, of := range kept.Values {
		g.values[name] = map[string]secret.Value{}
		for revision, v := range of {
			g.values[name][revision] = secret.NewValue(v)
		}
	}
	return g
}

// keepSecrets writes down the secrets of the application, synced.
func (a *app) keepSecrets(g *grants) error {
	dir, ok := a.owner.appDir(a.home)
	if !ok {
		return nil // nothing can be carried out, which is said elsewhere
	}
	if g == nil || len(g.values) == 0 {
		if err := repo.RemoveFile(secretsFile(dir)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("forget secrets: %w", err)
		}
		return nil
	}
	kept := keptSecrets{Version: recordVersion, Key: a.home, Current: g.current, Values: map[string]map[string][]byte{}}
	for name, of := range g.values {
		kept.Values[name] = map[string][]byte{}
		for revision, v := range of {
			kept.Values[name][revision] = v.Reveal()
		}
	}
	text, err := json.Marshal(kept)
	if err != nil {
		return fmt.Errorf("keep secrets: %w", err)
	}
	key, err := a.owner.secretKey()
	if err != nil {
		return fmt.Errorf("keep secrets: %w", err)
	}
	sealed, err := key.Seal(text)
	if err == nil {
		err = repo.MakeDir(dir, 0o700)
	}
	if err == nil {
		err = repo.WriteFile(secretsFile(dir), sealed, 0o600)
	}
	if err != nil {
		return fmt.Errorf("keep secrets: %w", err)
	}
	crash.Point("services.secrets-kept")
	return nil
}

// pruneSecrets forgets values that nothing was made of, and that are not set any more.
func (a *app) pruneSecrets() {
	g := a.grants.Load()
	less, fewer := g.without(func(name, revision string) bool {
		for _, v := range a.versions {
			if v.Secrets[name] == revision {
				return true
			}
		}
		return false
	})
	if !fewer {
		return
	}
	if err := a.keepSecrets(less); err != nil {
		a.owner.Log.Warn("cannot forget what a secret was", "env", a.key().Environment, "app",
			a.key().Application, "err", err)
		return // the next step tries again
	}
	a.grants.Store(less)
}

// rotationOf names secrets by their revisions.
func rotationOf(s target.Secrets) string {
	text, err := json.Marshal(s.Revisions())
	if err != nil {
		panic(err) // names and revisions always marshal
	}
	return fmt.Sprintf("%x", sha256.Sum256(text))[:12]
}

// rotation is whether a declaration that was reached once differs from what serves by
// what secrets are, alone. What served is what there is to go back to, and nothing in Git
// is the reason when it fails.
func (a *app) rotation(plan *rollout.Declared, versions map[string]*version) bool {
	if !a.observed.Arrived(plan.Commit) {
		return false
	}
	rotates := false
	for i, s := range plan.Services {
		f := a.observed.Services[s.Name]
		if f == nil || f.Serving == s.Version {
			continue
		}
		serves := a.versions[f.Serving]
		if serves == nil {
			continue
		}
		was, is := *serves, *versions[s.Version]
		if maps.Equal(was.Secrets, is.Secrets) {
			continue
		}
		was.Secrets, is.Secrets = nil, nil
		if a.owner.idOf(&was) != a.owner.idOf(&is) {
			continue
		}
		back := s
		back.Version, back.Fallback = f.Serving, nil
		plan.Services[i].Fallback = &back
		rotates = true
	}
	return rotates
}

// settle forgets what there was to go back to once other secrets have proven good.
func (a *app) settle() {
	if a.rotated == "" || a.rotated != a.plan.Commit {
		return
	}
	if state, _ := rollout.Status(a.plan, &a.observed, a.owner.now()); state != target.Healthy {
		return
	}
	for i := range a.plan.Services {
		a.plan.Services[i].Fallback = nil
	}
}

// sourced is a command line of a process that has the variables which are secrets.
func (s Service) sourced(argv []string) []string {
	if s.Container != nil || !slices.ContainsFunc(s.Secrets, func(of Secret) bool { return of.Variable != "" }) {
		return argv
	}
	return append([]string{"/bin/sh", "-c", ". " + variablesFile + ` && exec "$@"`, "sh"}, argv...)
}

// giveSecrets has an instance find its secrets, in files in memory that last as long as
// it does.
func (in *instance) giveSecrets(c *command) error {
	v := in.version
	if len(v.Service.Secrets) == 0 {
		return nil
	}
	if v.Service.Container == nil && in.app.owner.starter.bwrap == "" {
		return hopeless{errors.New("secrets are given to processes in a sandbox only; install bubblewrap")}
	}
	dir, err := in.app.makeMemory(in.id)
	if err != nil {
		return err
	}
	g := in.app.grants.Load()
	var variables strings.Builder
	bind := func(name, at string, data []byte, mode os.FileMode, uid, gid int) error {
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, data, 0o600); err != nil {
			return err
		}
		if uid != 0 || gid != 0 {
			if err := os.Chown(file, uid, gid); err != nil {
				return err
			}
		}
		c.binds = append(c.binds, engine.Bind{Source: file, Target: at})
		return os.Chmod(file, mode)
	}
	for i, s := range v.Service.Secrets {
		data, err := g.value(s, v.Secrets[s.Name])
		if err != nil {
			return hopeless{err}
		}
		switch {
		case s.File != "":
			mode := os.FileMode(s.Mode)
			if mode == 0 {
				mode = 0o444
			}
			if err := bind(strconv.Itoa(i), s.File, data, mode, s.UID, s.GID); err != nil {
				return fmt.Errorf("give it the secret %s: %w", s.Name, err)
			}
		case v.Service.Container != nil:
			c.container.Env = append(c.container.Env, s.Variable+"="+string(data))
		default:
			fmt.Fprintf(&variables, "export %s='%s'\n", s.Variable, strings.ReplaceAll(string(data), "'", `'\''`))
		}
	}
	if variables.Len() > 0 {
		if err := bind("variables", variablesFile, []byte(variables.String()), 0o400, 0, 0); err != nil {
			return fmt.Errorf("give it its secrets: %w", err)
		}
	}
	c.container.Binds = append(c.container.Binds, c.binds...)
	return nil
}

// mask replaces the values of the instance's secrets in what it prints.
func (in *instance) mask() *terminal.Mask {
	var values []string
	for _, s := range in.version.Service.Secrets {
		if data, err := in.app.grants.Load().value(s, in.version.Secrets[s.Name]); err == nil {
			values = append(values, string(data))
		}
	}
	return terminal.NewMask(values)
}

// memories are directories in which there may be a file system in memory.
var memories = []string{"/run", "/dev/shm"}

func inMemory(dir string) bool {
	var s unix.Statfs_t
	return unix.Statfs(dir, &s) == nil && (s.Type == unix.TMPFS_MAGIC || s.Type == unix.RAMFS_MAGIC)
}

// memoryName is the directory of the agent in one of memories.
func (t *Target) memoryName() string { return "headgate-" + t.agentName() }

// memoryOf names the directory of an instance's secrets in that of the agent.
func (a *app) memoryOf(instance string) string {
	return strings.Join([]string{a.home.Repository, a.home.Environment, a.home.Application, instance}, ":")
}

// makeMemory makes a directory for the secrets of an instance, of which no disk knows.
func (a *app) makeMemory(instance string) (string, error) {
	t := a.owner
	t.secretsMu.Lock()
	defer t.secretsMu.Unlock()
	err := errors.New("neither " + strings.Join(memories, " nor ") +
		" is a file system in memory that the agent may write to")
	for _, memory := range memories {
		top := filepath.Join(memory, t.memoryName())
		if !inMemory(memory) {
			continue
		}
		if e := os.Mkdir(top, 0o700); e != nil && !errors.Is(e, fs.ErrExist) {
			err = e
			continue
		}
		info, e := os.Lstat(top)
		if e != nil {
			err = e
			continue
		}
		if stat, ok := info.Sys().(*syscall.Stat_t); !ok || !info.IsDir() || info.Mode().Perm() != 0o700 ||
			int(stat.Uid) != os.Geteuid() {
			err = fmt.Errorf("%s is somebody else's; remove it", top)
			continue
		}
		dir := filepath.Join(top, a.memoryOf(instance))
		if e := errors.Join(os.RemoveAll(dir), os.Mkdir(dir, 0o700)); e != nil {
			err = e
			continue
		}
		return dir, nil
	}
	return "", fmt.Errorf("secrets cannot be given to an instance: %w", err)
}

// forgetMemory removes the directory of an instance's secrets, and that of the agent
// with the last.
func (a *app) forgetMemory(instance string) {
	t := a.owner
	t.secretsMu.Lock()
	defer t.secretsMu.Unlock()
	for _, memory := range memories {
		top := filepath.Join(memory, t.memoryName())
		if err := os.RemoveAll(filepath.Join(top, a.memoryOf(instance))); err != nil {
			t.Log.Warn("cannot remove the secrets of an instance that has ended", "instance", instance, "err", err)
		}
		_ = os.Remove(top) // which fails while there are others
	}
}

// endMemories removes what is in memory of instances that nobody knows.
func (t *Target) endMemories(known func(name string) bool) {
	for _, memory := range memories {
		top := filepath.Join(memory, t.memoryName())
		entries, err := os.ReadDir(top)
		if err != nil {
			continue // there is none
		}
		for _, e := range entries {
			if !known(e.Name()) {
				_ = os.RemoveAll(path.Join(top, e.Name())) // the next start tries again
			}
		}
		_ = os.Remove(top) // which fails while there are others
	}
}
