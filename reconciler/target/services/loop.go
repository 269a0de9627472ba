package services

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/headgate-cd/headgate/reconciler/target/services/rollout"
)

// post has the loop run f.
func (a *app) post(f func()) { a.inbox.Post(f) }

// steadyDelay is how long the loop waits for further events that nobody waits for. It is
// short beside the age from which a check says nothing any more.
const steadyDelay = time.Second

// steadily has the loop run f before whatever it runs next, and soon: hundreds of
// instances that go on being healthy are looked at together. What f changes is nothing that
// anything has to be done about.
func (a *app) steadily(f func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.steady = append(a.steady, f); len(a.steady) == 1 {
		time.AfterFunc(steadyDelay, a.inbox.Wake)
	}
}

// quietly is steadily, at once.
func (a *app) quietly(f func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.steady = append(a.steady, f)
	a.inbox.Wake()
}

// takeSteady is what steadily and quietly have posted.
func (a *app) takeSteady() []func() {
	a.mu.Lock()
	defer a.mu.Unlock()
	all := a.steady
	a.steady = nil
	return all
}

// markSteady notes of each instance whether nobody waits for another good check of it: all
// is healthy, and so is it, and there is nothing left that a check could prove.
func (a *app) markSteady(healthy bool) {
	for _, f := range a.observed.Services {
		for _, i := range f.Instances {
			if in := a.instances[i.ID]; in != nil {
				in.steady.Store(healthy && f.Settled(i))
			}
		}
	}
}

// due reports whether there is more to do than to note that all goes on as it was.
func (a *app) due() bool {
	a.mu.Lock()
	told := a.pending != nil || a.remove
	a.mu.Unlock()
	return told || !a.inbox.Empty() || a.owner.Drained() != a.drained || !a.owner.now().Before(a.wake)
}

// idle notes that all goes on as it was. It costs little, whatever runs.
func (a *app) idle(timer *time.Timer) {
	for _, f := range a.takeSteady() {
		f()
	}
	a.checkDrift()
	a.mu.Lock()
	for name, f := range a.observed.Services {
		said := a.published.facts.Services[name]
		for i, in := range f.Instances {
			if said != nil && i < len(said.Instances) && said.Instances[i].ID == in.ID {
				said.Instances[i].Checked = in.Checked
			}
		}
	}
	a.mu.Unlock()
	a.sleep(timer)
}

// sleep has the timer wake the loop when it is due, or is to look at the directories.
func (a *app) sleep(timer *time.Timer) {
	next := a.wake
	if !a.inspecting && a.inspect.Before(next) {
		next = a.inspect
	}
	timer.Reset(max(time.Millisecond, next.Sub(a.owner.now())))
}

// lookAgain is how often all is looked at although nothing has happened.
const lookAgain = 10 * time.Second

// run converges until the application is removed or the target's context ends,
// and then until all of it has ended, unless it is to be left.
func (a *app) run() {
	ctx := a.owner.ctx
	timer := time.NewTimer(0)
	defer timer.Stop()
	stepped := sync.OnceFunc(func() { close(a.stepped) })
	defer stepped()
	defer close(a.ended)
	for {
		select {
		case <-ctx.Done():
			if errors.Is(context.Cause(ctx), ErrLeave) {
				a.leave()
			} else {
				a.shutdown()
			}
			return
		case <-a.inbox.C():
		case <-timer.C:
		}
		if !a.due() {
			a.idle(timer)
			continue
		}
		gone := a.step(timer)
		stepped()
		if gone {
			a.wait.Wait()
			return
		}
	}
}

// step takes up what was told and what happened, and acts on it. It says whether
// the application is gone.
func (a *app) step(timer *time.Timer) (gone bool) {
	a.mu.Lock()
	pending, remove, fence := a.pending, a.remove, a.fence
	a.mu.Unlock()
	steady := a.takeSteady()
	a.checkClock()
	var wake time.Time
	switch err := a.keep(pending, remove, fence); {
	case err != nil:
		a.unkept = err.Error()
		wake = a.owner.now().Add(keepAgain)
		pending = nil
	case pending != nil:
		a.accept(pending)
	case remove:
		a.plan = rollout.Declared{Commit: a.commit, Sequence: a.sequence}
		a.declared, a.fault, a.planned = nil, "", true
	}
	for _, f := range append(steady, a.inbox.Drain()...) {
		f()
	}
	plan := a.wanted()
	for range 4 {
		if !a.planned || a.owner.stopOnly {
			break // what was found goes on running until somebody says what should
		}
		now := a.owner.now()
		var actions []rollout.Action
		var next time.Time
		if actions, next = rollout.Plan(plan, &a.observed, now); wake.IsZero() || !next.IsZero() && next.Before(wake) {
			wake = next
		}
		if len(actions) == 0 {
			break
		}
		for _, act := range actions {
			a.observed.Did(act, now)
			a.act(act)
		}
	}
	a.settle()
	a.configure()
	a.certify()
	a.checkDrift()
	a.prune()
	a.pruneSecrets()
	_ = a.keepState(false) // it has said so
	a.publish(pending)
	if remove && len(a.observed.Services) == 0 && a.end() {
		return true
	}
	a.wake = wakeAt(a.owner.now(), wake)
	a.sleep(timer)
	return false
}

// wanted is what should run: nothing where the machine is drained.
func (a *app) wanted() rollout.Declared {
	drained := a.owner.Drained()
	if a.drained && !drained && a.declared != nil {
		a.observed.Declare(a.plan)
	}
	if a.drained = drained; drained {
		return rollout.Declared{Commit: a.commit, Sequence: a.sequence}
	}
	return a.plan
}

// leave stops looking after what runs, which goes on running, and lets the requests
// in flight finish.
func (a *app) leave() {
	var drain time.Duration
	for _, f := range a.observed.Services {
		for _, t := range f.Versions {
			drain = max(drain, t.Drain)
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), drain)
	defer cancel()
	var closing sync.WaitGroup
	for _, l := range a.listeners {
		closing.Go(func() { l.Close(ctx) })
	}
	for _, in := range a.instances {
		in.leave()
	}
	for _, in := range a.instances {
		<-in.gone
	}
	_ = a.keepState(false) // it has said so
	a.onLeft()
	closing.Wait()
	a.wait.Wait()
}

// shutdown ends everything at once: no new requests, those in flight finish
// within their drain time, instances stop within their grace time.
func (a *app) shutdown() {
	var drain time.Duration
	for _, f := range a.observed.Services {
		for _, t := range f.Versions {
			drain = max(drain, t.Drain)
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), drain)
	var closing sync.WaitGroup
	for _, l := range a.listeners {
		a.owner.unlisten(l.Listener)
		closing.Go(func() { l.Close(ctx) })
	}
	closing.Wait()
	for _, pool := range a.pools {
		pool.Set(nil)
	}
	for id, in := range a.instances {
		for _, pool := range a.pools {
			closing.Go(func() { pool.Drain(ctx, id) })
		}
		in.stop()
	}
	closing.Wait()
	cancel()
	a.wait.Wait()
	a.observed.Ended(a.owner.now())
	_ = a.keepState(false) // it has said so
}
