// Package services is the target `services`: it keeps the supervised processes
// of an application in an environment converged to what the environment's
// branch declares, behind a built-in proxy, and says what it sees.
//
// The main types are Declared (what should be: a compose.yaml and a release),
// Observed (what is) and Target, which runs a loop per application between the
// two. Deciding is left to the pure package rollout, carrying requests to the
// package proxy. This package owns what touches the machine: unpacked releases,
// processes in their sandbox, health checks and logs.
//
// It leaves to others which release an environment should run, recording
// outcomes in Git, and rolling back: it is level-triggered, remembers nothing
// across a restart of the server, and every process it started ends with it.
package services

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"os/exec"
	"path/filepath"
	"regexp"
	"sync"
	"time"

	"github.com/headgate-cd/headgate/reconciler/target/services/proxy"
)

// Target runs declared applications. Create it with New, run it with Run; the
// other methods may be called at any time and by several goroutines.
type Target struct {
	// Unpack unpacks the artifact of a digest into dir, which exists and is empty. It
	// must verify the bytes against the digest. It is called by several goroutines.
	Unpack func(ctx context.Context, digest, dir string) error

	WorkDir string // for unpacked releases; a cache, emptied at the start
	LogDir  string // for the output of instances: <environment>/<application>/<instance>.log
	Log     *slog.Logger

	// Unconfined runs instances without bubblewrap even where it is installed. Then,
	// and where it is not, an instance sees what the server's user sees.
	Unconfined bool

	starter   *starter
	releases  *unpackedReleases
	transport *http.Transport
	free      freePorts

	mu       sync.Mutex
	ctx      context.Context // of Run; nil before
	apps     map[key]*app
	fences   map[key]int            // newest sequence of applications that were removed
	watchers map[chan struct{}]bool // told of changes
	holders  map[string]string      // address listened on → who it is for
	ports    map[string]int         // address with port 0 → the port it became
	running  sync.WaitGroup
}

type key struct{ environment, application string }

func (k key) String() string { return k.environment + "/" + k.application }

// New makes a target that keeps what it unpacks in workDir and what instances
// print in logDir.
func New(workDir, logDir string, unpack func(ctx context.Context, digest, dir string) error) *Target {
	return &Target{
		Unpack: unpack, WorkDir: workDir, LogDir: logDir, Log: slog.New(slog.DiscardHandler),
		transport: proxy.Transport(),
		apps:      map[key]*app{}, fences: map[key]int{}, watchers: map[chan struct{}]bool{},
		holders: map[string]string{}, ports: map[string]int{},
	}
}

// Run converges what is declared until ctx ends. Then it stops listening, lets
// requests in flight finish within their service's drain time, stops every
// instance, and returns. It can be called once.
func (t *Target) Run(ctx context.Context) error {
	t.releases = &unpackedReleases{dir: filepath.Join(t.WorkDir, "releases"), unpack: t.Unpack}
	if err := t.releases.empty(); err != nil {
		return fmt.Errorf("target services: empty %s: %w", t.releases.dir, err)
	}
	bwrap := ""
	if !t.Unconfined {
		// Where it is not installed instances run without.
		bwrap, _ = exec.LookPath("bwrap")
	}
	if bwrap == "" {
		t.Log.Warn("instances run without a sandbox", "fix", "install bubblewrap")
	}
	t.starter = &starter{bwrap: bwrap, work: make(chan func())}
	// Health checks start processes until the last instance has stopped.
	stopping, stopped := context.WithCancel(context.WithoutCancel(ctx))
	var starter sync.WaitGroup
	starter.Go(func() { t.starter.run(stopping) })

	t.mu.Lock()
	if t.ctx != nil {
		t.mu.Unlock()
		stopped()
		return errors.New("target services: Run was called twice")
	}
	t.ctx = ctx
	for _, a := range t.apps {
		t.running.Go(a.run)
	}
	t.mu.Unlock()

	<-ctx.Done()
	t.running.Wait()
	stopped()
	starter.Wait()
	t.transport.CloseIdleConnections()
	return nil
}

// Converge tells what is declared now. It returns at once. The newest Sequence
// wins: what is older than the last one told is ignored, and so is the same one again.
func (t *Target) Converge(d Declared) {
	k := key{d.Environment, d.Application}
	t.mu.Lock()
	defer t.mu.Unlock()
	if last, ok := t.fences[k]; ok && d.Sequence < last {
		return
	}
	a := t.apps[k]
	if a != nil {
		a.declare(&d)
		return
	}
	a = newApp(t, k)
	a.declare(&d)
	t.apps[k] = a
	if t.ctx != nil && t.ctx.Err() == nil {
		t.running.Go(a.run)
	}
}

// Remove drains and stops an application. It returns at once; when all of it has
// ended, Observe knows nothing of it any more.
func (t *Target) Remove(environment, application string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if a := t.apps[key{environment, application}]; a != nil {
		a.declare(nil)
	}
}

// Observe says what an application is now; false when nothing is known of it.
func (t *Target) Observe(environment, application string) (Observed, bool) {
	t.mu.Lock()
	a := t.apps[key{environment, application}]
	live := t.ctx != nil && t.ctx.Err() == nil
	t.mu.Unlock()
	if a == nil {
		return Observed{}, false
	}
	o := a.observe(time.Now())
	if !live {
		o.State, o.Message = Unknown, "the server is starting or stopping"
	}
	return o, true
}

// Watch returns a channel that gets a value when something in any observed state
// has changed since the last value was taken, and a function that ends that.
func (t *Target) Watch() (changed <-chan struct{}, end func()) {
	ch := make(chan struct{}, 1)
	t.mu.Lock()
	defer t.mu.Unlock()
	t.watchers[ch] = true
	return ch, func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		delete(t.watchers, ch)
	}
}

func (t *Target) notify() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for ch := range t.watchers {
		select {
		case ch <- struct{}{}:
		default: // it has not taken the last one yet
		}
	}
}

// InstanceLog is the end of an instance's output, each line with its time. The
// output of instances that are gone is kept for a while. The error matches
// fs.ErrNotExist when there is none.
func (t *Target) InstanceLog(environment, application, instance string, lines int) ([]string, error) {
	for _, name := range []string{environment, application, instance} {
		if !plainName.MatchString(name) {
			return nil, fmt.Errorf("log of instance %q: %w", instance, fs.ErrNotExist)
		}
	}
	all, err := tail(filepath.Join(t.LogDir, environment, application, instance+".log"), lines)
	if err != nil {
		return nil, fmt.Errorf("log of instance %s in %s/%s: %w", instance, environment, application, err)
	}
	return all, nil
}

// plainName is a name that is one element of a path.
var plainName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$`)
