// Package fleet is the target `hosts` of a server: it deploys to many machines, each by the
// agent that is there, in the order and as many at once as package rollout allows.
//
//   - What is declared says by its hosts.yaml which hosts are meant, by their tags, and how
//     many may be deployed to at once. Without that file it is for the server's own machine
//     (Target.Here).
//   - Each agent deploys by itself what it is told (package hosts), writes that down first,
//     and keeps it; all that is decided here is whose turn it is.
//   - How far a deployment has come is seen from the hosts, and kept nowhere: a server that
//     starts in the middle of one goes on where the hosts are.
//
// Clusters are a fleet of their own, each by the agent that is in it: then Target.File is another
// file, there is no machine of the server's, and what a cluster has is shown as units.
//
// A host that is away is waited for only when the others cannot go on without it, and gets
// what is declared when it is back; so does one that is new. One that is drained goes on with
// what it has, and is not counted.
package fleet

import (
	"context"
	"errors"
	"iter"
	"log/slog"
	"slices"
	"sync"

	"github.com/headgate-cd/headgate/gitd/yamlfile"
	"github.com/headgate-cd/headgate/reconciler/target"
	"github.com/headgate-cd/headgate/reconciler/target/hosts"
)

// Agent is how a host is spoken to: the target of its machine.
type Agent interface {
	Converge(d target.Declared)
	Remove(k target.Key, sequence int)
	Observe(k target.Key) target.Observed
	Watch(k target.Key) (changed <-chan struct{}, end func())
	target.Logger

	// Live reports whether it is heard. What Observe says is of no worth else.
	Live() bool
	// TakesParts reports whether it knows parts of a deployment. One that does not, would
	// take any for all of it.
	TakesParts() bool
}

// Host is a machine that can be deployed to.
type Host struct {
	Name    string
	Tags    map[string]string
	Agent   Agent
	Drained bool // nothing new is deployed to it, and it is not counted
}

// zoneTag is the tag that says in which zone a host is.
const zoneTag = "zone"

// Target is the fleet. Its fields are set before its first use.
type Target struct {
	// Here is the server's own machine; nil: it is no place to deploy to.
	Here *hosts.Target
	// File says which hosts are meant; its zero value is hosts.yaml.
	File File
	// Hosts are those that a repository may deploy to, by name. Changed is called when they
	// are others, or one is heard again or not any more.
	Hosts func(repository string) []Host
	Log   *slog.Logger

	reports target.Topic

	mu      sync.Mutex
	ctx     context.Context // of Run; nil before
	apps    map[target.Key]*app
	fences  map[target.Key]int // of applications that were removed
	here    map[target.Key]bool
	running sync.WaitGroup
}

func (t *Target) init() {
	if t.apps == nil {
		t.apps, t.fences, t.here = map[target.Key]*app{}, map[target.Key]int{}, map[target.Key]bool{}
	}
}

// Check implements target.Target.
func (t *Target) Check(dir string, files target.Files) (problems, warnings yamlfile.Problems) {
	if t.Here == nil {
		return t.File.Check(dir, files), nil
	}
	return Check(dir, files)
}

// Run implements target.Target. What is installed goes on after it.
func (t *Target) Run(ctx context.Context) error {
	t.mu.Lock()
	t.init()
	if t.ctx != nil {
		t.mu.Unlock()
		return errors.New("target hosts: Run was called twice")
	}
	t.ctx = ctx
	for _, a := range t.apps {
		t.running.Go(a.run)
	}
	t.mu.Unlock()
	var err error
	if t.Here != nil {
		err = t.Here.Run(ctx)
	} else {
		<-ctx.Done()
	}
	target.AwaitHolder(&t.mu) // who begins another loop has begun it by now, or finds ctx done
	t.running.Wait()
	return err
}

// Converge implements target.Target.
func (t *Target) Converge(d target.Declared) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.init()
	if last, ok := t.fences[d.Key]; ok && d.Sequence < last {
		return
	}
	if t.Here != nil && t.File.here(d.Files) {
		if a := t.apps[d.Key]; a != nil && !a.remove(d.Sequence) {
			return // it is older
		}
		t.here[d.Key] = true
		t.Here.Converge(d)
		return
	}
	if t.here[d.Key] {
		t.Here.Remove(d.Key, d.Sequence)
		delete(t.here, d.Key)
	}
	for _, name := range d.Was {
		was := target.Key{Repository: d.Repository, Application: d.Application, Environment: name}
		if a := t.apps[was]; a != nil && t.apps[d.Key] == nil {
			delete(t.apps, was)
			t.apps[d.Key] = a
			a.rename(d.Key)
			t.reports.Notify(was)
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

// Remove implements target.Target.
func (t *Target) Remove(k target.Key, sequence int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.init()
	if t.here[k] {
		t.Here.Remove(k, sequence)
	}
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
	sequence, ok := a.isRemoved()
	if !ok {
		return false
	}
	k := a.key()
	delete(t.apps, k)
	t.fences[k] = max(t.fences[k], sequence)
	t.reports.Notify(k)
	return true
}

// Observe implements target.Target.
func (t *Target) Observe(k target.Key) target.Observed {
	t.mu.Lock()
	t.init()
	a, here := t.apps[k], t.here[k]
	live := t.ctx != nil && t.ctx.Err() == nil
	t.mu.Unlock()
	switch {
	case here:
		return t.Here.Observe(k)
	case a == nil:
		return target.Observed{}
	}
	o := a.observe()
	if !live {
		o.State, o.Message = target.Unknown, "the server is starting or stopping"
	}
	return o
}

// Watch implements target.Target.
func (t *Target) Watch(k target.Key) (changed <-chan struct{}, end func()) {
	ours, endOurs := t.reports.Watch(k)
	if t.Here == nil {
		return ours, endOurs
	}
	heres, endHeres := t.Here.Watch(k)
	both := make(chan struct{}, 1)
	var all sync.WaitGroup
	for _, from := range []<-chan struct{}{ours, heres} {
		all.Go(func() {
			for range from {
				select {
				case both <- struct{}{}:
				default:
				}
			}
		})
	}
	return both, sync.OnceFunc(func() {
		endOurs()
		endHeres()
		all.Wait()
		close(both)
	})
}

// Steps implements target.Stepper.
func (t *Target) Steps(k target.Key) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case t.File.Parts:
		return errors.New("an agent tries by itself what has failed in its cluster")
	case t.apps[k] == nil:
		return errors.New("it has no " + t.File.name() + ", and one host")
	}
	return nil
}

// Changed has all be looked at again: hosts are others, or are heard.
func (t *Target) Changed() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, a := range t.apps {
		a.nudge()
	}
}

// Wants reports whether what is declared has a host need an artifact.
func (t *Target) Wants(host, artifact string) bool {
	t.mu.Lock()
	var all []*app
	for _, a := range t.apps {
		all = append(all, a)
	}
	t.mu.Unlock()
	return slices.ContainsFunc(all, func(a *app) bool { return a.wants(host, artifact) })
}

// Logs implements target.Logger.
func (t *Target) Logs(ctx context.Context, k target.Key, q target.LogQuery) iter.Seq2[target.LogLine, error] {
	t.mu.Lock()
	t.init()
	a := t.apps[k]
	t.mu.Unlock()
	switch {
	case a != nil:
		return a.logs(ctx, q)
	case t.Here == nil:
		return func(func(target.LogLine, error) bool) {}
	}
	return t.Here.Logs(ctx, k, q)
}
