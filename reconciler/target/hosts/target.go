// Package hosts is the target `hosts`: it deploys revisions with an appspec.yml the
// way CodeDeploy does, and keeps what they have installed as it was.
//
// Target implements the contract of package target for one host, the machine that it
// runs on. What is declared is an appspec.yml in the application's directory; its
// paths are those of the release's artifact. One loop per application deploys what is
// declared (package deploy), then looks for drift on a schedule.
//
// Many hosts, and in what order they come, is package rollout, which is pure; package
// fleet drives it with the agents of other machines, each of which has a Target.
package hosts

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/headgate-cd/headgate/gitd/signal"
	"github.com/headgate-cd/headgate/gitd/yamlfile"
	"github.com/headgate-cd/headgate/reconciler/target"
	"github.com/headgate-cd/headgate/reconciler/target/hosts/appspec"
	"github.com/headgate-cd/headgate/reconciler/target/hosts/deploy"
)

// Reads are the files that Check wants of an application's directory.
var Reads = append([]string{FileName}, appspec.Names...)

// Target deploys declared applications on this machine. Create it with New, run it
// with Run; the other methods may be called at any time and by several goroutines.
type Target struct {
	// Unpack unpacks the artifact of a digest into dir, which exists and is empty. It
	// must verify the bytes against the digest.
	Unpack func(ctx context.Context, digest, dir string) error

	// Allowed reports whether a repository may deploy on this machine: its scripts run as
	// the user that this process is. nil: all may.
	Allowed func(repository string) bool

	Host *deploy.Host
	Name string // of this host
	Log  *slog.Logger

	// Keep is a directory in which it is written down what is declared, before anything is
	// done about it; for a host that must go on by itself. "": whoever declares it does so
	// again at each start.
	Keep string

	// DriftEvery is how often what is installed is looked at.
	DriftEvery time.Duration

	reports target.Topic
	printed signal.Topic // by key

	mu      sync.Mutex
	ctx     context.Context // of Run; nil before
	apps    map[target.Key]*app
	fences  map[target.Key]int // newest sequence of applications that were removed
	groups  groups
	running sync.WaitGroup
}

// New makes a target that keeps archives, logs and records in dir.
func New(dir string, unpack func(ctx context.Context, digest, dir string) error) *Target {
	name, err := os.Hostname()
	if err != nil {
		name = "localhost"
	}
	return &Target{
		Unpack:     unpack,
		Host:       &deploy.Host{Root: dir},
		Name:       name,
		Log:        slog.New(slog.DiscardHandler),
		DriftEvery: 30 * time.Second,
		apps:       map[target.Key]*app{},
		fences:     map[target.Key]int{},
		groups:     groups{file: filepath.Join(dir, "groups.json")},
	}
}

// Check says what is wrong with the files of an application's directory.
func Check(dir string, files map[string][]byte) (problems, warnings yamlfile.Problems) {
	_, problems, warnings = read(dir, files)
	return problems, warnings
}

func read(dir string, files map[string][]byte) (spec *appspec.Spec, problems, warnings yamlfile.Problems) {
	for _, name := range appspec.Names {
		data, ok := files[name]
		if !ok {
			continue
		}
		file := path.Join(dir, name)
		spec, warnings, err := appspec.Parse(file, data, appspec.Options{})
		if err != nil {
			problems, _ = yamlfile.ProblemsIn(err)
			return nil, problems, warnings
		}
		if spec.OS != appspec.Linux {
			problems = yamlfile.Problems{{File: file, Line: 1, What: "is for " + spec.OS + ", which no host here runs",
				Fix: "write os: linux"}}
		}
		_, more := health(dir, files)
		return spec, append(problems, more...), warnings
	}
	return nil, yamlfile.Problems{{
		File: path.Join(dir, appspec.Names[0]),
		What: "is not there",
		Fix:  "add it (its paths are those of the release's artifact), or name its directory with path: in headgate.yaml",
	}}, nil
}

// Check implements target.Target.
func (t *Target) Check(dir string, files target.Files) (problems, warnings yamlfile.Problems) {
	return Check(dir, files)
}

// Run deploys what is declared until ctx ends. A script that runs then is ended; what
// was installed goes on.
func (t *Target) Run(ctx context.Context) error {
	if err := os.MkdirAll(t.Host.Root, 0o755); err != nil {
		return fmt.Errorf("target hosts: %w", err)
	}
	t.mu.Lock()
	if t.ctx != nil {
		t.mu.Unlock()
		return errors.New("target hosts: Run was called twice")
	}
	t.ctx = ctx
	for _, a := range t.apps {
		t.running.Go(a.run)
	}
	t.mu.Unlock()
	<-ctx.Done()
	target.AwaitHolder(&t.mu) // who begins another loop has begun it by now, or finds ctx done
	t.running.Wait()
	return nil
}

// Converge implements target.Target.
func (t *Target) Converge(d target.Declared) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if last, ok := t.fences[d.Key]; ok && d.Sequence < last {
		return
	}
	for _, was := range d.Was {
		if t.apps[d.Key] == nil {
			t.rename(target.Key{Repository: d.Repository, Application: d.Application, Environment: was}, d.Key)
		}
	}
	if a := t.apps[d.Key]; a != nil {
		a.declare(&d)
		return
	}
	a := newApp(t, d.Key)
	a.declare(&d)
	t.apps[d.Key] = a
	if t.ctx != nil && t.ctx.Err() == nil {
		t.running.Go(a.run)
	}
}

// rename gives what is installed under a name another one; its group keeps its id. It
// is called with t.mu held.
func (t *Target) rename(was, is target.Key) {
	a := t.apps[was]
	if a == nil {
		return
	}
	delete(t.apps, was)
	t.apps[is] = a
	a.named.Store(&is)
	t.reports.Notify(was)
}

// Remove implements target.Target: the installed revision is stopped and its files go.
func (t *Target) Remove(k target.Key, sequence int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if a := t.apps[k]; a != nil {
		a.remove(sequence)
		return
	}
	t.fences[k] = max(t.fences[k], sequence)
}

// removed forgets an application all of which is gone, unless it is declared again.
func (t *Target) removed(a *app) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !a.isRemoved() {
		return false
	}
	k := a.key()
	delete(t.apps, k)
	t.fences[k] = max(t.fences[k], a.removal())
	t.reports.Notify(k)
	return true
}

// Observe implements target.Target.
func (t *Target) Observe(k target.Key) target.Observed {
	t.mu.Lock()
	a := t.apps[k]
	live := t.ctx != nil && t.ctx.Err() == nil
	t.mu.Unlock()
	if a == nil {
		return target.Observed{}
	}
	o := a.observe()
	if !live {
		o.State, o.Message = target.Unknown, "the server is starting or stopping"
	}
	return o
}

// Watch implements target.Target.
func (t *Target) Watch(k target.Key) (changed <-chan struct{}, end func()) { return t.reports.Watch(k) }

// artifactOf is the digest of the artifact that is the revision: the release's only
// one, or the one named like the application.
func artifactOf(d *target.Declared) (string, error) {
	names := slices.Sorted(maps.Keys(d.Release.Artifacts))
	if digest, ok := d.Release.Artifacts[d.Application]; ok {
		return digest, nil
	}
	if len(names) == 1 {
		return d.Release.Artifacts[names[0]], nil
	}
	if len(names) == 0 {
		return "", fmt.Errorf("release %d has no artifact to deploy; let the buildspec name files under artifacts",
			d.Release.Number)
	}
	return "", fmt.Errorf(
		"release %d has the artifacts %s, and none is named %s like the application; rename one in the buildspec",
		d.Release.Number, strings.Join(names, ", "), d.Application)
}

func shortCommit(commit string) string { return cmp.Or(commit[:min(12, len(commit))], "none") }
