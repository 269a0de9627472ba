// Package services is the target `services`: it keeps the supervised processes
// of an application in an environment converged to what the environment's
// branch declares, behind a built-in proxy, and says what it sees.
//
// Target implements the contract of package target and runs a loop per
// application; what is declared is a compose.yaml in the application's directory. Deciding is left to the pure package rollout, carrying requests to the
// package proxy. This package owns what touches the machine: unpacked releases,
// processes in their sandbox, health checks and logs.
//
// What runs outlives the program: each instance is on record from before it begins,
// and the next run of the program finds it again (record.go, adopt.go), with what
// was declared last.
//
// It leaves to others which release an environment should run, recording
// outcomes in Git, and rolling back.
package services

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/headgate-cd/headgate/gitd/access"
	"github.com/headgate-cd/headgate/gitd/repo"
	"github.com/headgate-cd/headgate/gitd/sandbox"
	"github.com/headgate-cd/headgate/gitd/secret"
	"github.com/headgate-cd/headgate/gitd/signal"
	"github.com/headgate-cd/headgate/gitd/yamlfile"
	"github.com/headgate-cd/headgate/reconciler/target"
	"github.com/headgate-cd/headgate/reconciler/target/logfile"
	"github.com/headgate-cd/headgate/reconciler/target/services/acme"
	"github.com/headgate-cd/headgate/reconciler/target/services/proxy"
	"github.com/headgate-cd/headgate/reconciler/target/unpacked"
)

// Target runs declared applications. Create it with New, run it with Run; the
// other methods may be called at any time and by several goroutines.
type Target struct {
	// Unpack unpacks the artifact of a digest into dir, which exists and is empty. It
	// must verify the bytes against the digest. It is called by several goroutines.
	Unpack func(ctx context.Context, digest, dir string) error

	Dir    string // for unpacked releases, and what is kept of applications: record.go
	LogDir string // for the output of instances: <repository>/<environment>/<application>/<instance>.log
	Log    *slog.Logger

	// Boot names this boot of the machine, in which processes have their numbers. Empty
	// is the kernel's own name.
	Boot string

	// Listen opens the TCP address of a service, and Unlisten is told when it is served
	// there no more: whoever hands listeners down may hold them while nobody accepts.
	// nil: they are this program's own.
	Listen   func(address string) (net.Listener, error)
	Unlisten func(address string)

	// Unconfined runs instances without bubblewrap even where it is installed. Then,
	// and where it is not, an instance sees what the server's user sees.
	Unconfined bool

	// CertificateDir has a directory for each repository, with pairs <name>.crt and
	// <name>.key that its services may be served with.
	CertificateDir string

	// TrustedProxies are those before this server whose X-Forwarded-* are passed on.
	TrustedProxies proxy.Trusted

	// Host is the name or address by which people reach this machine: where a service
	// that listens everywhere answers. "" is the loopback address.
	Host string

	// Held reports whether a port is declared somewhere, whether or not anybody listens
	// there just now. Such a one is given to nobody who asks for any. nil: none is.
	Held func(port int) bool

	// Archive writes an image of a release, by its digest, as `docker save` does. nil: there
	// are no such images.
	Archive func(ctx context.Context, digest string, w io.Writer) error

	// Engine is the address of the container engine. Empty finds it: DOCKER_HOST, or the
	// socket of Docker or Podman.
	Engine string

	clock func() time.Time // time.Now, but for tests; nil: time.Now

	starter    *starter
	containers *containers
	authority  *acme.Authority
	releases   *unpacked.Store
	transport  *http.Transport
	free       freePorts
	boot       string
	adopted    chan struct{} // closed when Run has taken over what was left
	left       chan struct{} // closed when Run does nothing any more about what it leaves
	leaving    sync.WaitGroup
	drained    atomic.Bool
	stopOnly   bool // nothing is started, whatever is declared
	found      int  // instances that an earlier run had left
	strays     strays
	scrapes    scrapes
	outputs    *outputWatch
	meter      *meter
	reports    target.Topic
	printed    signal.Topic // by printedTopic

	transport2 *http.Transport // for instances that speak HTTP/2

	secretsMu sync.Mutex // held while directories in memory come and go, too
	key       *secret.Key

	mu      sync.Mutex
	ctx     context.Context // of Run; nil before
	apps    map[target.Key]*app
	fences  map[target.Key]int // newest sequence of applications that were removed
	holders map[string]holder  // address listened on → who it is for
	ports   map[freePort]int   // the port it became
	address netip.Addr         // where services listen that name none
	running sync.WaitGroup
}

// freePort is an address with port 0, of one application.
type freePort struct {
	of     target.Key
	listen string
}

// holder is a service that an address is listened on for.
type holder struct {
	of      target.Key
	service string
}

// New makes a target that keeps what it unpacks and knows in dir and what instances
// print in logDir.
func New(dir, logDir string, unpack func(ctx context.Context, digest, dir string) error) *Target {
	return &Target{
		Unpack:    unpack,
		Dir:       dir,
		LogDir:    logDir,
		Log:       slog.New(slog.DiscardHandler),
		transport: proxy.Transport(),

		transport2: proxy.HTTP2Transport(),
		authority:  &acme.Authority{Dir: filepath.Join(dir, "acme")},
		meter:      &meter{every: usageEvery, of: map[*instance]*metered{}},
		adopted:    make(chan struct{}),
		left:       make(chan struct{}),
		apps:       map[target.Key]*app{},
		fences:     map[target.Key]int{},
		holders:    map[string]holder{},
		ports:      map[freePort]int{},
		address:    access.Loopback,
		scrapes:    scrapes{moved: make(chan struct{}, 1)},
	}
}

// SetHost says by what name the machine is reached.
func (t *Target) SetHost(host string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.Host = host
}

func (t *Target) serviceAddress() netip.Addr {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.address
}

// SetAddress says where services listen that name no address. Those that do move.
func (t *Target) SetAddress(address netip.Addr) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.address == address {
		return
	}
	t.address = address
	for _, a := range t.apps {
		a.post(a.again)
	}
}

// ErrLeave is the cause of the end of Run's context with which what runs is left as it
// is, for the next run of the program.
var ErrLeave = errors.New("what runs goes on")

// Run takes over what an earlier run has left, and converges what is declared until
// ctx ends. Then it stops listening, lets requests in flight finish within their
// service's drain time, stops every instance, and returns. When the cause is
// ErrLeave, instances and addresses are left as they are. It can be called once.
func (t *Target) Run(ctx context.Context) (err error) {
	t.authority.Log = t.Log
	t.releases = &unpacked.Store{Dir: filepath.Join(t.Dir, "releases"), Unpack: t.Unpack}
	if t.boot = t.Boot; t.boot == "" {
		if t.boot, err = sandbox.BootID(); err != nil {
			return fmt.Errorf("target services: %w", err)
		}
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
	if bwrap != "" {
		if t.starter.seal, err = sandbox.Seal(ctx, bwrap); err != nil {
			t.Log.Warn("instances can make user namespaces", "err", err, "fix", "install bubblewrap 0.8 or later")
		}
	}
	t.containers = &containers{owner: t, host: t.Engine}
	t.outputs = newOutputWatch()
	// Health checks start processes until the last instance has stopped.
	stopping, stopped := context.WithCancel(context.WithoutCancel(ctx))
	var helpers sync.WaitGroup
	helpers.Go(func() { t.starter.serve(stopping) })
	helpers.Go(t.outputs.run)
	helpers.Go(func() { t.meter.run(stopping) })
	helpers.Go(func() { t.serveMetrics(stopping) })
	defer func() {
		stopped()
		t.outputs.close()
		helpers.Wait()
		t.containers.close()
		t.transport.CloseIdleConnections()
		t.transport2.CloseIdleConnections()
	}()

	found, err := t.begin(ctx)
	if err != nil {
		return fmt.Errorf("target services: %w", err)
	}
	for _, a := range found {
		select {
		case <-a.stepped:
		case <-ctx.Done():
		}
	}
	// What is on record is known by now. Another run of the program, to which this one
	// leaves all, makes containers that this one knows nothing of.
	var strays sync.WaitGroup
	strays.Go(func() { t.lookForStrays(ctx) })
	close(t.adopted)
	<-ctx.Done()
	target.AwaitHolder(&t.mu) // who begins another loop has begun it by now, or finds ctx done
	t.leaving.Wait()
	strays.Wait()
	close(t.left)
	t.running.Wait()
	return nil
}

// Left is closed when Run, which is to leave what runs, does nothing about it any more:
// another may take it over, while requests in flight are answered.
func (t *Target) Left() <-chan struct{} { return t.left }

// Readable says whether what earlier runs have kept can be read by this program, before
// anything is done.
func (t *Target) Readable() error {
	_, err := t.readKept()
	return err
}

func (t *Target) drainedFile() string { return filepath.Join(t.Dir, "drained") }

// Drained reports whether the machine is drained.
func (t *Target) Drained() bool { return t.drained.Load() }

// Drain ends everything that runs, once its requests are answered, and starts nothing
// any more, also after the next start of the program; or it takes all of that back.
func (t *Target) Drain(on bool) error {
	var err error
	if on {
		err = repo.WriteFile(t.drainedFile(), nil, 0o600)
	} else if err = repo.RemoveFile(t.drainedFile()); errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	if err != nil {
		return fmt.Errorf("drain the machine: %w", err)
	}
	t.drained.Store(on)
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, a := range t.apps {
		a.inbox.Wake()
	}
	return nil
}

// Trust believes other proxies about where requests came from, where it begins to
// listen from now on.
func (t *Target) Trust(proxies proxy.Trusted) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.TrustedProxies = proxies
}

// begin takes over what was left, and starts the loops of all that is declared.
func (t *Target) begin(ctx context.Context) ([]*app, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.ctx != nil {
		return nil, errors.New("Run was called twice")
	}
	if err := t.adopt(); err != nil {
		return nil, err
	}
	_, err := os.Stat(t.drainedFile())
	t.drained.Store(err == nil)
	t.ctx = ctx
	for _, a := range t.apps {
		t.goRun(a)
	}
	return slices.Collect(maps.Values(t.apps)), nil
}

// goRun starts the loop of an application, for one who holds t.mu.
func (t *Target) goRun(a *app) {
	t.leaving.Add(1)
	a.onLeft = sync.OnceFunc(t.leaving.Done)
	t.running.Go(func() {
		defer a.onLeft()
		a.run()
	})
}

// Begun is closed when Run has taken over what an earlier run has left, so that the
// answers of Keys, Fence and Observe are about that too.
func (t *Target) Begun() <-chan struct{} { return t.adopted }

// StopAll stops what earlier runs have left, instead of Run, and says how many
// instances that were. Nothing that is declared is started.
func (t *Target) StopAll(ctx context.Context) (n int, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	t.stopOnly = true
	done := make(chan error, 1)
	go func() { done <- t.Run(ctx) }()
	select {
	case err := <-done:
		return 0, err
	case <-t.Begun():
	}
	n = t.found
	cancel()
	return n, <-done
}

// Check implements target.Target.
func (t *Target) Check(dir string, files target.Files) (problems, warnings yamlfile.Problems) {
	return Check(dir, files)
}

// Converge implements target.Target.
func (t *Target) Converge(d target.Declared) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if last, ok := t.fences[d.Key]; ok && d.Sequence < last {
		return
	}
	a := t.apps[d.Key]
	for _, was := range d.Was {
		if a != nil {
			break
		}
		a = t.rename(target.Key{Repository: d.Repository, Application: d.Application, Environment: was}, d.Key)
	}
	if a != nil {
		a.declare(&d)
		return
	}
	a = newApp(t, d.Key)
	a.declare(&d)
	t.apps[d.Key] = a
	if t.ctx != nil && t.ctx.Err() == nil {
		t.goRun(a)
	}
}

// rename gives what runs under a name another one, nil when there is nothing. Its
// instances go on; one that is started after that is told the new name. Its files stay
// where they are, and an agent that finds them again is told the new name again. It is
// called with t.mu held.
func (t *Target) rename(was, is target.Key) *app {
	a := t.apps[was]
	if a == nil {
		return nil
	}
	delete(t.apps, was)
	t.apps[is] = a
	a.named.Store(&is)
	for at, h := range t.holders {
		if h.of == was {
			t.holders[at] = holder{is, h.service}
		}
	}
	for free, port := range t.ports {
		if free.of == was {
			delete(t.ports, free)
			t.ports[freePort{is, free.listen}] = port
		}
	}
	t.reports.Notify(is)
	return a
}

// home is the name under which the files of an application are.
func (t *Target) home(k target.Key) target.Key {
	t.mu.Lock()
	defer t.mu.Unlock()
	if a := t.apps[k]; a != nil {
		return a.home
	}
	return k
}

// Remove implements target.Target: it drains and stops.
func (t *Target) Remove(k target.Key, sequence int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	a := t.apps[k]
	if last, ok := t.fences[k]; a == nil && ok && sequence <= last {
		return // it is gone
	}
	if a == nil { // it is nothing but a fence, to be written down
		a = newApp(t, k)
		t.apps[k] = a
		if t.ctx != nil && t.ctx.Err() == nil {
			t.goRun(a)
		}
	}
	a.removeUpTo(sequence)
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
	o := a.observe(t.now())
	if !live {
		o.State, o.Message = target.Unknown, "the agent is starting or stopping"
	}
	return o
}

// Watch implements target.Target.
func (t *Target) Watch(k target.Key) (changed <-chan struct{}, end func()) { return t.reports.Watch(k) }

// Keys are the applications of which something is known.
func (t *Target) Keys() []target.Key {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Collect(maps.Keys(t.apps))
}

// Fence is the newest sequence that was told for an application; what is older is
// ignored. It is -1 where nothing was.
func (t *Target) Fence(k target.Key) int {
	t.mu.Lock()
	defer t.mu.Unlock()
	if a := t.apps[k]; a != nil {
		a.mu.Lock()
		defer a.mu.Unlock()
		return a.fence
	}
	if fence, ok := t.fences[k]; ok {
		return fence
	}
	return -1
}

// Running is how many instances have a process.
func (t *Target) Running() (n int) {
	for _, k := range t.Keys() {
		for _, u := range t.Observe(k).Units {
			for _, in := range u.Instances {
				if in.PID > 0 {
					n++
				}
			}
		}
	}
	return n
}

// logPath is the file that takes the output of an instance.
func (t *Target) logPath(k target.Key, instance string) string {
	return filepath.Join(t.LogDir, k.Repository, k.Environment, k.Application, instance+".log")
}

// InstanceLog is the end of an instance's output, each line with its time. The
// output of instances that are gone is kept for a while. The error matches
// fs.ErrNotExist when there is none.
func (t *Target) InstanceLog(k target.Key, instance string, lines int) ([]string, error) {
	for _, name := range []string{k.Repository, k.Environment, k.Application, instance} {
		if !plainName().MatchString(name) {
			return nil, fmt.Errorf("log of instance %q: %w", instance, fs.ErrNotExist)
		}
	}
	all, err := logfile.Tail(t.logPath(t.home(k), instance), lines)
	if err != nil {
		return nil, fmt.Errorf("log of instance %s of %s: %w", instance, k, err)
	}
	return all, nil
}

// plainName is a name that is one element of a path.
var plainName = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$`) })
