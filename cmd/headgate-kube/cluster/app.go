package cluster

import (
	"context"
	"errors"
	"reflect"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/headgate-cd/headgate/gitd/crash"
	"github.com/headgate-cd/headgate/reconciler/target"
	"github.com/headgate-cd/headgate/reconciler/target/kubernetes"
)

// app is one application in one environment. Its goroutine acts; what it found is read by others under mu.
type app struct {
	t     *Target
	named atomic.Pointer[target.Key]
	wake  chan struct{}

	mu       sync.Mutex
	declared *target.Declared // nil: it is to be removed
	dropped  bool             // another goes on with it
	sequence int              // newest that was told
	seen     target.Observed

	// The goroutine's own:
	about    *target.Declared // what the rest is about; nil: nothing yet
	all      []*applied
	settings kubernetes.Settings
	next     int       // of all, which is to be applied
	applied  bool      // all of it has been
	pruned   bool      // nothing of what there was before is left
	reached  bool      // it has been healthy
	since    time.Time // it is tried
	failures int       // in a row
	healed   int       // in a row
	healedAt time.Time
	unheard  int // looks in a row at what the watches had not heard of
}

func newApp(t *Target, k target.Key) *app {
	a := &app{t: t, wake: make(chan struct{}, 1), sequence: -1}
	a.named.Store(&k)
	return a
}

func (a *app) key() target.Key { return *a.named.Load() }

func (a *app) nudge() {
	select {
	case a.wake <- struct{}{}:
	default:
	}
}

func (a *app) rename(k target.Key) {
	a.mu.Lock()
	a.named.Store(&k)
	a.mu.Unlock()
}

// drop has its loop end and leave all as it is.
func (a *app) drop() {
	a.mu.Lock()
	a.dropped = true
	a.mu.Unlock()
	a.nudge()
}

func (a *app) newest() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.sequence
}

func (a *app) declare(d *target.Declared) {
	a.mu.Lock()
	if d.Sequence >= a.sequence {
		if a.declared == nil || a.declared.Sequence != d.Sequence || a.declared.Commit != d.Commit {
			a.seen = target.Observed{
				Key:      d.Key,
				Commit:   d.Commit,
				Sequence: d.Sequence,
				State:    target.Converging,
				Since:    time.Now(),
				Message:  "just declared",
				Units:    a.seen.Units,
			}
		}
		a.declared, a.sequence = d, d.Sequence
	}
	a.mu.Unlock()
	a.nudge()
	a.t.reports.Notify(d.Key)
}

// remove has it be removed, unless something newer was told.
func (a *app) remove(sequence int) {
	a.mu.Lock()
	if sequence >= a.sequence {
		a.declared, a.sequence = nil, sequence
		a.seen.Key = a.key()
		a.seen.State, a.seen.Message, a.seen.RollBack = target.Converging, "being removed", false
	}
	a.mu.Unlock()
	a.nudge()
	a.t.reports.Notify(a.key())
}

func (a *app) isRemoved() (sequence int, ok bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.sequence, a.declared == nil
}

func (a *app) observe() target.Observed {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.seen
}

// Pauses.
const (
	firstPause = 200 * time.Millisecond
	maxPause   = time.Minute
	healPause  = time.Second     // before what was healed a moment ago is healed again, each time twice as long
	steady     = 2 * time.Minute // after which what was healed counts as such
	lagging    = 2 * time.Second // after which what is not heard of is asked for
)

func pause(failures int) time.Duration { return min(firstPause<<min(failures, 10), maxPause) }

// run acts until the target ends, or all of it was removed.
func (a *app) run() {
	ctx := a.t.ctx
	for ctx.Err() == nil {
		a.mu.Lock()
		d, dropped, sequence := a.declared, a.dropped, a.sequence
		a.mu.Unlock()
		var again time.Duration
		switch {
		case dropped:
			return
		case d == nil:
			gone, err := a.takeAway(ctx, sequence)
			if err == nil && gone && a.t.removed(a) {
				return
			}
			a.failures++
			if again = pause(a.failures); err != nil {
				a.tell(func(o *target.Observed) { o.Message = "being removed: " + err.Error() })
				a.t.Log.Warn("cannot remove what is declared no more", "app", a.key().String(), "err", err)
			}
		default:
			again = a.step(ctx, d)
		}
		var timer <-chan time.Time
		if again > 0 {
			timer = time.After(again)
		}
		select {
		case <-ctx.Done():
		case <-a.wake:
		case <-timer:
		}
	}
}

// takeAway deletes all objects, and reports whether they are gone. The fence stays.
func (a *app) takeAway(ctx context.Context, sequence int) (gone bool, err error) {
	k := a.key()
	a.about, a.all = nil, nil
	inv, err := a.claim(ctx, k, sequence, nil, nil)
	if fenced := new(fencedError); errors.As(err, &fenced) {
		return true, nil // somebody else has what is newer
	}
	if err != nil {
		return false, err
	}
	left, err := a.prune(ctx, inv, []string{idOf(k)}, nil)
	if fenced := new(fencedError); errors.As(err, &fenced) {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	if len(left) == len(inv.Objects) {
		return len(left) == 0, nil
	}
	inv.Objects = left
	return len(left) == 0, a.t.writeInventory(ctx, inv)
}

// step acts, looks and reports. It says after how long to look again although nothing happens; 0: not before.
func (a *app) step(ctx context.Context, d *target.Declared) time.Duration {
	if a.about == nil || a.about.Sequence != d.Sequence || a.about.Commit != d.Commit || a.about.Drift != d.Drift {
		again := a.about != nil && a.about.Sequence == d.Sequence && a.about.Commit == d.Commit
		a.all, a.next, a.applied, a.pruned = nil, 0, false, false
		if !again {
			a.reached, a.since, a.failures, a.healed = false, time.Now(), 0, 0
		}
	}
	a.about = d
	if d.Paused && !a.applied {
		a.report(d, target.Observed{State: target.Converging, Message: "paused"})
		return 0
	}
	if !a.applied || !a.pruned {
		if err := a.act(ctx, d); err != nil {
			return a.failed(ctx, d, err)
		}
	}
	a.failures = 0
	return a.look(ctx, d)
}

// act applies and prunes.
func (a *app) act(ctx context.Context, d *target.Declared) (err error) {
	k := d.Key // it may have another name by now, which comes with another d
	if a.all == nil {
		if a.all, a.settings, err = a.prepare(k, d); err != nil {
			a.all = nil
			return err
		}
	}
	entries := entriesOf(a.all)
	inv, err := a.claim(ctx, k, d.Sequence, d, entries)
	if err != nil {
		return err
	}
	if err := a.endEarlier(ctx, d, inv); err != nil {
		return err
	}
	if err := a.applyAll(ctx, k, d, inv); err != nil {
		return err
	}
	a.applied = true
	left, err := a.prune(ctx, inv, owners(k, d), a.all)
	if err != nil {
		return err
	}
	a.pruned = len(left) == 0
	if objects := append(entries, left...); len(objects) != len(inv.Objects) {
		inv.Objects = objects
		if err := a.t.writeInventory(ctx, inv); err != nil {
			a.pruned = false
			return err
		}
	}
	crash.Point("kube.settled")
	return nil
}

// failed reports that acting has failed, and says when to try again.
func (a *app) failed(ctx context.Context, d *target.Declared, err error) time.Duration {
	if ctx.Err() != nil {
		return 0
	}
	if w := new(waitingError); errors.As(err, &w) {
		return a.waits(d, w)
	}
	a.failures++
	o := target.Observed{State: target.Converging, Message: err.Error()}
	if a.reached {
		o.State = target.Degraded
	}
	if p := (permanentError{}); errors.As(err, &p) {
		if o.Unhealed = a.reached; !a.reached {
			o.State, o.RollBack = target.Failed, true
		}
	}
	fenced := new(fencedError)
	if errors.As(err, &fenced) {
		o.State, o.RollBack, o.Unhealed = target.Failed, false, false
	}
	if apierrors.IsUnauthorized(err) {
		o.State, o.Message = target.Unknown, "the cluster does not let its agent in any more: "+err.Error()
	}
	if o.State != target.Failed && !a.reached && a.settings.Timeout > 0 && time.Since(a.since) > a.settings.Timeout {
		o.State, o.RollBack = target.Failed, true
	}
	a.t.Log.Warn("cannot apply what is declared", "app", d.Key.String(), "commit", d.Commit, "err", err)
	a.report(d, o)
	return pause(a.failures)
}

// look says what is there, and has what drifted be healed.
func (a *app) look(ctx context.Context, d *target.Declared) time.Duration {
	o := target.Observed{State: target.Healthy}
	var waits, broken, drift []string
	var again time.Duration
	soon := func(after time.Duration) {
		if again == 0 || after < again {
			again = after
		}
	}
	workloads := 0
	for _, one := range a.all {
		if one.hook == kubernetes.NoHook && kubernetes.StageOf(one.Group, one.Kind) == kubernetes.Rest {
			workloads++
		}
	}
	unheard := 0
	for _, one := range a.all {
		if one.hook != kubernetes.NoHook {
			continue
		}
		live, heard, err := a.live(ctx, one)
		if err != nil {
			return a.failed(ctx, d, err)
		}
		if !heard {
			unheard++
		}
		health, why := kubernetes.InProgress, ""
		switch {
		case live == nil:
			why = "it was deleted"
			drift = append(drift, one.String()+": it was deleted")
		default:
			health, why = kubernetes.HealthOf(live.Object)
			if health == kubernetes.Terminating {
				soon(pause(5))
			}
			if fence, err := strconv.Atoi(live.GetAnnotations()[sequenceAnnotation]); err == nil && fence > d.Sequence {
				return a.failed(ctx, d, &fencedError{fence})
			}
			differs, err := a.t.drifted(ctx, one, live)
			if err != nil {
				return a.failed(ctx, d, err)
			}
			if differs != "" {
				drift = append(drift, differs)
			}
		}
		switch health {
		case kubernetes.Current:
		case kubernetes.Failed:
			broken = append(broken, one.String()+": "+why)
		default:
			waits = append(waits, one.String()+": "+why)
		}
		if workloads == 0 || kubernetes.StageOf(one.Group, one.Kind) == kubernetes.Rest || health != kubernetes.Current {
			o.Units = append(o.Units, a.unitOf(d, one, live, health, why))
		}
	}
	if a.unheard++; unheard == 0 {
		a.unheard = 0
	} else {
		soon(max(lagging, pause(a.unheard)))
	}
	wasReached := a.reached
	switch {
	case len(drift) > 0:
		o.State, o.Message = target.Degraded, strings.Join(drift, "; ")
		if !wasReached {
			o.State = target.Converging
		}
		if d.Drift == target.Report {
			o.Unhealed = o.State == target.Degraded
			break
		}
		// A field that somebody else writes again and again is not fought for without a pause.
		if time.Since(a.healedAt) > steady {
			a.healed = 0
		}
		if wait := time.Until(a.healedAt.Add(min(healPause<<min(a.healed, 10), maxPause))); a.healed > 0 && wait > 0 {
			soon(wait)
			break
		}
		a.healed++
		a.healedAt = time.Now()
		a.t.Log.Info("what drifted is healed", "app", d.Key.String(), "what", o.Message)
		a.next, a.applied = 0, false
		soon(time.Millisecond)
	case len(broken) > 0 && !wasReached:
		o.State, o.RollBack = target.Failed, true
		o.Message = strings.Join(append(broken, waits...), "; ")
	case len(waits)+len(broken) > 0 && wasReached:
		o.State, o.Message = target.Degraded, strings.Join(append(broken, waits...), "; ")
	case len(waits) > 0:
		o.State, o.Message = target.Converging, strings.Join(waits, "; ")
		left := time.Until(a.since.Add(a.settings.Timeout))
		if left <= 0 {
			o.State, o.RollBack = target.Failed, true
			o.Message = a.late(o.Message)
		} else {
			soon(left)
		}
	default:
		if err := a.afterwards(ctx, d); err != nil {
			return a.failed(ctx, d, err)
		}
		a.reached = true
	}
	if !a.pruned {
		soon(pause(5)) // something is being deleted
	}
	a.report(d, o)
	return again
}

// unitOf is an object, for people: called as kubectl calls it, with its namespace where that is another than most.
func (a *app) unitOf(d *target.Declared, o *applied, live *unstructured.Unstructured, health kubernetes.Health,
	why string) target.Unit {
	u := target.Unit{Name: strings.ToLower(o.Kind) + "/" + o.Name, Release: d.Release.Number}
	if o.Namespace != "" && o.Namespace != a.settings.Namespace {
		u.Name = o.Namespace + "/" + u.Name
	}
	in := target.Instance{ID: u.Name, Release: d.Release.Number, Message: why}
	if live != nil {
		in.Since = live.GetCreationTimestamp().UTC()
	}
	switch health {
	case kubernetes.Current:
		u.State, in.Phase, in.Serving, in.Message = target.Healthy, target.PhaseHealthy, true, ""
	case kubernetes.Failed:
		u.State, in.Phase = target.Failed, target.PhaseFailed
	case kubernetes.Terminating:
		u.State, in.Phase = target.Converging, target.PhaseStopping
	default:
		u.State, in.Phase = target.Converging, target.PhaseStarting
	}
	u.Instances = []target.Instance{in}
	return u
}

// tell changes what is seen while it is being removed.
func (a *app) tell(change func(o *target.Observed)) {
	a.mu.Lock()
	if a.declared != nil {
		a.mu.Unlock()
		return
	}
	before := a.seen
	change(&a.seen)
	same := reflect.DeepEqual(before, a.seen)
	k := a.key()
	a.mu.Unlock()
	if !same {
		a.t.reports.Notify(k)
	}
}

// report tells what is seen, unless something else is declared by now.
func (a *app) report(d *target.Declared, o target.Observed) {
	a.mu.Lock()
	if a.declared != d {
		a.mu.Unlock()
		return
	}
	o.Key, o.Commit, o.Sequence = d.Key, d.Commit, d.Sequence
	if o.Units == nil {
		o.Units = a.seen.Units
	}
	o.Since = a.seen.Since
	if o.State != a.seen.State || o.Commit != a.seen.Commit || o.Since.IsZero() {
		o.Since = time.Now()
	}
	same := reflect.DeepEqual(o, a.seen)
	a.seen = o
	a.mu.Unlock()
	if !same {
		a.t.reports.Notify(d.Key)
	}
}
