// Package function is the target `function`: AWS Lambda's deployment model. What is
// declared is an appspec.yml, as CodeDeploy has it for Lambda, and beside it function.yaml.
//
// A release's artifact and what is declared of a function make a version of it; an
// alias goes from one version to the next, at once or by steps of weight (package
// rollout, which is pure), with hooks that have a say. The engine is this machine's own:
// it speaks Lambda's runtime API to processes in sandboxes (instance.go, pool.go), and
// Lambda's invoke API (invoke.go) and function URLs (url.go) to whoever calls.
//
// One loop per application (app.go) does what is declared. Where aliases are is written
// down before requests go there (state.go).
package function

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"net/netip"
	"os/exec"
	"path/filepath"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/config"
	"golang.org/x/sync/semaphore"

	"github.com/headgate-cd/headgate/gitd/sandbox"
	"github.com/headgate-cd/headgate/gitd/yamlfile"
	"github.com/headgate-cd/headgate/reconciler/target"
	"github.com/headgate-cd/headgate/reconciler/target/logfile"
	"github.com/headgate-cd/headgate/reconciler/target/unpacked"
)

// Target runs declared functions on this machine. Create it with New, run it with Run; the
// other methods may be called at any time and by several goroutines.
type Target struct {
	// Unpack unpacks the artifact of a digest into dir, which exists and is empty. It
	// must verify the bytes against the digest.
	Unpack func(ctx context.Context, digest, dir string) error

	Dir     string            // for what is kept
	LogDir  string            // for what instances print
	Records sandbox.Records   // of what runs
	Address func() netip.Addr // where function URLs are that name no address; nil: loopback
	Log     *slog.Logger

	// DriftEvery is how often it is looked at whether aliases are where they should be.
	DriftEvery time.Duration

	awsOptions []func(*config.LoadOptions) error // for tests

	bwrap       string // path of bubblewrap, "" without
	initTimeout time.Duration
	now         func() time.Time
	code        *unpacked.Store
	reports     target.Topic
	pending     *semaphore.Weighted // bytes of requests

	mu      sync.Mutex
	ctx     context.Context // of Run; nil before
	apps    map[target.Key]*app
	kept    map[target.Key]string // directory of what an earlier run has kept, until it is taken over
	codes   map[string]version    // by the name of what they run from
	fences  map[target.Key]int    // of what was removed before Run
	running sync.WaitGroup
}

// New makes a target that keeps what it needs in dir, and what instances print in logDir.
func New(dir, logDir string, unpack func(ctx context.Context, digest, dir string) error) *Target {
	return &Target{
		Unpack:      unpack,
		Dir:         dir,
		LogDir:      logDir,
		Log:         slog.New(slog.DiscardHandler),
		DriftEvery:  30 * time.Second,
		initTimeout: initTimeout,
		now:         time.Now,
		pending:     semaphore.NewWeighted(maxPending),
		apps:        map[target.Key]*app{},
		codes:       map[string]version{},
		fences:      map[target.Key]int{},
	}
}

// Check implements target.Target.
func (t *Target) Check(dir string, files target.Files) (problems, warnings yamlfile.Problems) {
	return Check(dir, files)
}

// Addresses implements target.Addresser.
func (t *Target) Addresses(files target.Files) []target.Address { return Addresses(files) }

// Run runs what is declared until ctx ends. Then nothing is taken any more, events that
// instances have are dealt with for a while, and all instances end.
func (t *Target) Run(ctx context.Context) error {
	t.mu.Lock()
	if t.ctx != nil {
		t.mu.Unlock()
		return errors.New("target function: Run was called twice")
	}
	t.bwrap, _ = exec.LookPath("bwrap") // what it is needed for says that it is not there
	t.code = &unpacked.Store{Dir: filepath.Join(t.Dir, "code"), Unpack: t.unpackCode}
	kept, err := t.readAll()
	if err == nil {
		err = t.code.Open(nil)
	}
	if err != nil {
		t.mu.Unlock()
		return fmt.Errorf("target function: %w", err)
	}
	t.kept, t.ctx = kept, ctx
	for k, sequence := range t.fences {
		if t.apps[k] == nil {
			a := newApp(t, k)
			a.remove(sequence)
			t.apps[k] = a
		}
	}
	for _, a := range t.apps {
		t.running.Go(a.run)
	}
	t.mu.Unlock()
	<-ctx.Done()
	target.AwaitHolder(&t.mu) // who begins another loop has begun it by now, or finds ctx done
	t.running.Wait()
	return nil
}

func (t *Target) unpackCode(ctx context.Context, digest, dir string) error {
	t.mu.Lock()
	v, ok := t.codes[digest]
	t.mu.Unlock()
	if !ok {
		return fmt.Errorf("nobody said what %s is", digest)
	}
	return t.lay(ctx, v, dir)
}

// takeKept takes over the directory that an earlier run has kept of an application, or of
// what it was called before.
func (t *Target) takeKept(k target.Key, was []string) (dir string, found bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	names := append([]string{k.Environment}, was...)
	for _, name := range names {
		old := k
		old.Environment = name
		if dir, ok := t.kept[old]; ok {
			delete(t.kept, old)
			return dir, true
		}
	}
	return "", false
}

// Converge implements target.Target.
func (t *Target) Converge(d target.Declared) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if a := t.apps[d.Key]; a != nil {
		a.declare(&d)
		return
	}
	for _, name := range d.Was {
		old := d.Key
		old.Environment = name
		if a := t.apps[old]; a != nil && a.rename(d.Key) {
			delete(t.apps, old)
			t.apps[d.Key] = a
			a.declare(&d)
			t.reports.Notify(old)
			return
		}
	}
	if last, ok := t.fences[d.Key]; ok && d.Sequence < last {
		return
	}
	a := newApp(t, d.Key)
	a.declare(&d)
	t.apps[d.Key] = a
	if t.ctx != nil && t.ctx.Err() == nil {
		t.running.Go(a.run)
	}
}

// Remove implements target.Target: the doors are closed, instances end, and what was kept
// goes but the fence.
func (t *Target) Remove(k target.Key, sequence int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	a := t.apps[k]
	switch {
	case a != nil:
		a.remove(sequence)
	case t.ctx == nil:
		t.fences[k] = max(t.fences[k], sequence)
	default:
		t.fences[k] = max(t.fences[k], sequence)
		a := newApp(t, k)
		a.remove(sequence)
		t.apps[k] = a
		if t.ctx.Err() == nil {
			t.running.Go(a.run)
		}
	}
}

// removed forgets an application all of which is gone, unless it is declared again.
func (t *Target) removed(a *app) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	key, sequence, is := a.removal()
	if !is {
		return false
	}
	delete(t.apps, key)
	t.kept[key] = a.dir
	t.fences[key] = max(t.fences[key], sequence)
	t.reports.Notify(key)
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
		o.State, o.Message, o.RollBack = target.Unknown, "the server is starting or stopping", false
	}
	return o
}

// Watch implements target.Target.
func (t *Target) Watch(k target.Key) (changed <-chan struct{}, end func()) { return t.reports.Watch(k) }

// Logs implements target.Logger.
func (t *Target) Logs(ctx context.Context, k target.Key, q target.LogQuery) iter.Seq2[target.LogLine, error] {
	return func(yield func(target.LogLine, error) bool) {
		t.mu.Lock()
		a := t.apps[k]
		t.mu.Unlock()
		if a == nil {
			return
		}
		printed, stop := a.printed.Watch(printing) // before looking, to miss nothing
		defer stop()
		dir, _ := a.logs.Load().(string)
		if dir == "" {
			return // it has not been looked at yet, and nothing runs
		}
		target.Follow(ctx, q.Follow, printed, yield, logfile.NewReader(dir, q).More)
	}
}

// printing is the topic of what an application's instances print.
const printing = "printing"
