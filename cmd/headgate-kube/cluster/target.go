// Package cluster is the target `kubernetes`, in or beside a cluster: it has objects be what is declared, by server-side
// apply, and keeps them so.
//
//   - render.go makes objects of what is declared; what they mean is package kubernetes of the main module.
//   - inventory.go is what is written down in the cluster before anything is done: what is declared, by which fence, and
//     which objects there may be.
//   - apply.go applies, prunes, and judges what is there; watch.go hears of what changes.
//   - app.go is the loop of one application.
//
// Each object carries whose it is and from which place in its environment's line: two agents on one environment do not
// undo each other's work, the newer wins.
package cluster

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/client-go/dynamic"

	"github.com/headgate-cd/headgate/gitd/yamlfile"
	"github.com/headgate-cd/headgate/reconciler/target"
	"github.com/headgate-cd/headgate/reconciler/target/kubernetes"
)

// Target has a cluster be what is declared. Its fields are set before its first use.
type Target struct {
	Client    dynamic.Interface
	Mapper    meta.ResettableRESTMapper
	Ping      func(ctx context.Context) error // asks the cluster for anything
	Namespace string                          // the agent's own, where inventories are
	Registry  string                          // host of the server's registry, as nodes reach it
	Log       *slog.Logger

	reports target.Topic

	mu      sync.Mutex
	ctx     context.Context // of Run; nil before
	apps    map[target.Key]*app
	fences  map[target.Key]int
	loaded  map[target.Key]*inventory // by Load, of applications that have not acted yet
	heard   bool                      // the cluster has answered lately
	watches map[watchKey]*watch
	running sync.WaitGroup
	mapping sync.Mutex // Mapper is reset by one at a time
	asked   time.Time  // when it was reset last
}

func (t *Target) init() {
	if t.apps == nil {
		t.apps, t.fences, t.watches = map[target.Key]*app{}, map[target.Key]int{}, map[watchKey]*watch{}
		t.loaded = map[target.Key]*inventory{}
	}
}

// fenceOf is called with t.mu held.
func (t *Target) fenceOf(k target.Key) int {
	fence, ok := t.fences[k]
	if !ok {
		return -1
	}
	return fence
}

// Check implements target.Target.
func (t *Target) Check(dir string, files target.Files) (problems, warnings yamlfile.Problems) {
	return kubernetes.Check(dir, files)
}

// pingEvery is how often the cluster is asked whether it is there.
const pingEvery = 20 * time.Second

// Run implements target.Target. What was applied goes on after it.
func (t *Target) Run(ctx context.Context) error {
	t.mu.Lock()
	t.init()
	if t.ctx != nil {
		t.mu.Unlock()
		return errors.New("target kubernetes: Run was called twice")
	}
	t.ctx, t.heard = ctx, true
	for _, a := range t.apps {
		t.running.Go(a.run)
	}
	t.mu.Unlock()
	tick := time.NewTicker(pingEvery)
	defer tick.Stop()
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-tick.C:
			asking, cancel := context.WithTimeout(ctx, pingEvery)
			t.answered(t.Ping(asking) == nil)
			cancel()
		}
	}
	target.AwaitHolder(&t.mu) // whoever begins another loop has begun it by now, or finds ctx done
	t.running.Wait()
	return nil
}

// answered notes whether the cluster answers.
func (t *Target) answered(answers bool) {
	t.mu.Lock()
	was := t.heard
	t.heard = answers
	var all []*app
	if was != answers {
		for _, a := range t.apps {
			all = append(all, a)
		}
	}
	t.mu.Unlock()
	for _, a := range all {
		a.nudge()
		t.reports.Notify(a.key())
	}
}

// Converge implements target.Target.
func (t *Target) Converge(d target.Declared) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.init()
	if d.Sequence < t.fenceOf(d.Key) {
		return
	}
	for _, name := range d.Was {
		was := target.Key{Repository: d.Repository, Application: d.Application, Environment: name}
		a := t.apps[was]
		if a == nil {
			continue
		}
		delete(t.apps, was)
		if t.apps[d.Key] == nil {
			t.apps[d.Key] = a
			a.rename(d.Key)
		} else {
			a.drop()
		}
		t.reports.Notify(was)
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
	if sequence < t.fenceOf(k) {
		return
	}
	a := t.apps[k]
	if a == nil {
		// Another process may have applied it, and the inventory says what.
		a = newApp(t, k)
		t.apps[k] = a
		if t.ctx != nil && t.ctx.Err() == nil {
			t.running.Go(a.run)
		}
	}
	a.remove(sequence)
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
	if t.apps[k] == a {
		delete(t.apps, k)
	}
	t.fences[k] = max(t.fenceOf(k), sequence)
	t.reports.Notify(k)
	return true
}

// Observe implements target.Target.
func (t *Target) Observe(k target.Key) target.Observed {
	t.mu.Lock()
	t.init()
	a, heard := t.apps[k], t.heard
	live := t.ctx != nil && t.ctx.Err() == nil
	t.mu.Unlock()
	if a == nil {
		return target.Observed{}
	}
	o := a.observe()
	switch {
	case !live:
		o.State, o.Message = target.Unknown, "the agent of the cluster is starting or stopping"
	case !heard:
		o.State, o.Message = target.Unknown, "the cluster does not answer its agent; what runs there goes on"
	}
	if o.State == target.Unknown {
		o.RollBack, o.Unhealed = false, false
	}
	return o
}

// Watch implements target.Target.
func (t *Target) Watch(k target.Key) (changed <-chan struct{}, end func()) { return t.reports.Watch(k) }

// Keys implements agent.Engine.
func (t *Target) Keys() (all []target.Key) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for k := range t.apps {
		all = append(all, k)
	}
	return all
}

// Fence implements agent.Engine.
func (t *Target) Fence(k target.Key) int {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.init()
	fence := t.fenceOf(k)
	if a := t.apps[k]; a != nil {
		fence = max(fence, a.newest())
	}
	return fence
}

// Logs implements target.Logger: what Pods print is not read yet.
func (t *Target) Logs(_ context.Context, k target.Key, _ target.LogQuery) iter.Seq2[target.LogLine, error] {
	return func(yield func(target.LogLine, error) bool) {
		yield(target.LogLine{}, fmt.Errorf(
			"the agent of a cluster does not read what Pods of %s print\nhint: use kubectl logs", k))
	}
}
