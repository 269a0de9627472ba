package cluster

import (
	"context"
	"fmt"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/headgate-cd/headgate/gitd/crash"
	"github.com/headgate-cd/headgate/reconciler/target"
	"github.com/headgate-cd/headgate/reconciler/target/kubernetes"
)

// waitingError is that nothing is wrong, and a Job has to come to its end first.
type waitingError struct {
	hook *applied
	live *unstructured.Unstructured
	why  string
}

func (e *waitingError) Error() string { return fmt.Sprintf("waits for %s: %s", e.hook.entry, e.why) }

// waits reports that a Job is waited for. It is heard of by a watch; that one is late is no reason to miss it.
func (a *app) waits(d *target.Declared, w *waitingError) time.Duration {
	a.failures = 0
	o := target.Observed{
		State:   target.Converging,
		Message: w.Error(),
		Units:   []target.Unit{a.unitOf(d, w.hook, w.live, kubernetes.InProgress, w.why)},
	}
	again := lagging
	if left := time.Until(a.since.Add(a.settings.Timeout)); left <= 0 {
		o.State, o.RollBack = target.Failed, true
		o.Message = a.late(o.Message)
	} else {
		again = min(again, left)
	}
	a.report(d, o)
	return again
}

// late says that something has taken too long.
func (a *app) late(what string) string {
	return fmt.Sprintf("it has not become healthy in %s: %s", a.settings.Timeout, what)
}

// runHook has a hook's Job run, once at a place in the environment's line, until it has succeeded.
func (a *app) runHook(ctx context.Context, d *target.Declared, inv *inventory, o *applied) error {
	if slices.Contains(inv.Done, o.Name) {
		return nil
	}
	live, _, err := a.live(ctx, o)
	if err != nil {
		return err
	}
	if live == nil {
		if err := a.t.apply(ctx, o, owners(d.Key, d), d.Sequence, true); err != nil {
			return explain(o.entry, err)
		}
		crash.Point("kube.hook-started")
		live = o.got
	}
	switch health, why := kubernetes.HookHealth(live.Object); health {
	case kubernetes.Current:
		inv.Done = append(inv.Done, o.Name)
		if err := a.t.writeInventory(ctx, inv); err != nil {
			return err
		}
		crash.Point("kube.hook-done")
		return nil
	case kubernetes.Failed:
		return permanent("%s: %s", o.entry, why)
	default:
		return &waitingError{o, live, why}
	}
}

// afterwards runs the hooks that come when all is healthy.
func (a *app) afterwards(ctx context.Context, d *target.Declared) error {
	if a.reached || a.next == len(a.all) {
		return nil
	}
	inv, err := a.claim(ctx, d.Key, d.Sequence, d, entriesOf(a.all))
	if err != nil {
		return err
	}
	for ; a.next < len(a.all); a.next++ {
		if err := a.runHook(ctx, d, inv, a.all[a.next]); err != nil {
			return err
		}
	}
	return nil
}

// endEarlier ends the Jobs of hooks of earlier places before another one begins: no two migrations at a time.
func (a *app) endEarlier(ctx context.Context, d *target.Declared, inv *inventory) error {
	if !slices.ContainsFunc(a.all, func(o *applied) bool { return o.hook != kubernetes.NoHook }) {
		return nil
	}
	earlier := *inv
	earlier.Objects = slices.DeleteFunc(slices.Clone(inv.Objects), func(e entry) bool { return !e.Hook })
	left, err := a.prune(ctx, &earlier, owners(d.Key, d), a.all)
	if err != nil || len(left) == 0 {
		return err
	}
	return &waitingError{&applied{entry: left[0]}, nil, "it is of an earlier promotion, and is ended first"}
}

func entriesOf(all []*applied) (entries []entry) {
	for _, o := range all {
		entries = append(entries, o.entry)
	}
	return entries
}
