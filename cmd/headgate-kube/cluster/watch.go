package cluster

import (
	"context"
	"strconv"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic/dynamicinformer"
	"k8s.io/client-go/tools/cache"

	"github.com/headgate-cd/headgate/reconciler/target"
)

// watchKey is what one watch of the cluster hears of: in one namespace, since an agent may be let into some only.
type watchKey struct {
	schema.GroupVersionResource
	namespace string
}

// watch hears of the objects of one resource that are Headgate's.
type watch struct {
	informer cache.SharedIndexInformer

	mu   sync.Mutex
	gone map[string]string // resource versions of objects that were deleted, by key; of those that are not there again
}

// watchOf is the watch that hears of an object, which begins now at the latest. It is nil when the target has ended.
func (t *Target) watchOf(e entry) *watch {
	t.mu.Lock()
	defer t.mu.Unlock()
	k := watchKey{e.gvr(), e.Namespace}
	if w := t.watches[k]; w != nil {
		return w
	}
	if t.ctx == nil || t.ctx.Err() != nil {
		return nil
	}
	w := &watch{gone: map[string]string{}}
	w.informer = dynamicinformer.NewFilteredDynamicInformer(t.Client, k.GroupVersionResource, k.namespace, 0,
		cache.Indexers{},
		func(o *metav1.ListOptions) { o.LabelSelector = ownerLabel }).Informer()
	ctx := t.ctx
	_ = w.informer.SetWatchErrorHandlerWithContext(func(context.Context, *cache.Reflector, error) {}) // Ping says whether it answers
	_, _ = w.informer.AddEventHandler(cache.ResourceEventHandlerFuncs{                                // it has not started, let alone stopped
		AddFunc: func(o any) {
			w.there(o)
			t.changed(o)
		},
		UpdateFunc: func(before, o any) {
			if version(before) == version(o) {
				return
			}
			w.there(o)
			t.changed(before)
			t.changed(o)
		},
		DeleteFunc: func(o any) {
			if last, ok := o.(cache.DeletedFinalStateUnknown); ok {
				o = last.Obj
			}
			w.notThere(o)
			t.changed(o)
		},
	})
	t.watches[k] = w
	t.running.Go(func() { w.informer.RunWithContext(ctx) })
	t.running.Go(func() {
		if cache.WaitForCacheSync(ctx.Done(), w.informer.HasSynced) {
			t.nudgeAll()
		}
	})
	return w
}

func version(o any) string {
	if u, ok := o.(*unstructured.Unstructured); ok {
		return u.GetResourceVersion()
	}
	return ""
}

func keyOf(namespace, name string) string {
	if namespace == "" {
		return name
	}
	return namespace + "/" + name
}

func (w *watch) there(o any) {
	if u, ok := o.(*unstructured.Unstructured); ok {
		w.mu.Lock()
		delete(w.gone, keyOf(u.GetNamespace(), u.GetName()))
		w.mu.Unlock()
	}
}

func (w *watch) notThere(o any) {
	if u, ok := o.(*unstructured.Unstructured); ok {
		w.mu.Lock()
		w.gone[keyOf(u.GetNamespace(), u.GetName())] = u.GetResourceVersion()
		w.mu.Unlock()
	}
}

// get finds what was heard of an object last; nil: nothing, or that it is gone.
func (w *watch) get(e entry) *unstructured.Unstructured {
	if w == nil || !w.informer.HasSynced() {
		return nil
	}
	o, there, err := w.informer.GetStore().GetByKey(keyOf(e.Namespace, e.Name))
	if err != nil || !there {
		return nil
	}
	u, _ := o.(*unstructured.Unstructured)
	return u
}

// left reports whether it was heard that an object is gone, since it was as the cluster had answered.
func (w *watch) left(e entry, got *unstructured.Unstructured) bool {
	if w == nil {
		return false
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	version := w.gone[keyOf(e.Namespace, e.Name)]
	return version != "" && !newer(got, version)
}

// changed wakes the application that an object is of.
func (t *Target) changed(o any) {
	u, ok := o.(*unstructured.Unstructured)
	if !ok {
		return
	}
	owner := u.GetLabels()[ownerLabel]
	t.mu.Lock()
	defer t.mu.Unlock()
	for k, a := range t.apps {
		if idOf(k) == owner {
			a.nudge()
		}
	}
}

func (t *Target) nudgeAll() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, a := range t.apps {
		a.nudge()
	}
}

// live is an object as it is in the cluster, nil when it is not there, and whether the watch has heard of it so.
func (a *app) live(ctx context.Context, o *applied) (_ *unstructured.Unstructured, heard bool, err error) {
	said := a.t.watchOf(o.entry).get(o.entry)
	switch {
	case said != nil && !newer(o.got, said.GetResourceVersion()):
		return said, true, nil
	case o.got != nil && time.Since(o.at) < lagging && !a.t.watchOf(o.entry).left(o.entry, o.got):
		return o.got, false, nil
	}
	// A watch hears of what bears the label; whether it is there at all is for the cluster to say.
	got, err := a.t.client(o.entry).Get(ctx, o.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil, true, nil
	}
	if err != nil {
		return nil, false, explain(o.entry, err)
	}
	return got, false, nil
}

// syncTimeout bounds how long what a watch knows is waited for before the cluster is asked instead.
const syncTimeout = 10 * time.Second

// inSync reports whether an object is as it was applied at this place before, by what a watch knows. An agent that starts
// need not ask for each object then, nor apply it.
func (a *app) inSync(ctx context.Context, d *target.Declared, o *applied) bool {
	w := a.t.watchOf(o.entry)
	if w == nil {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, syncTimeout)
	defer cancel()
	if !w.informer.HasSynced() && !cache.WaitForCacheSync(ctx.Done(), w.informer.HasSynced) {
		return false
	}
	live := w.get(o.entry)
	if live == nil || newer(o.got, live.GetResourceVersion()) || live.GetDeletionTimestamp() != nil ||
		live.GetLabels()[ownerLabel] != idOf(d.Key) ||
		live.GetAnnotations()[sequenceAnnotation] != strconv.Itoa(d.Sequence) {
		return false
	}
	differs, err := a.t.drifted(ctx, o, live)
	return err == nil && differs == ""
}

// newer reports whether what the cluster answered is newer than a version that was heard of.
func newer(got *unstructured.Unstructured, version string) bool {
	if got == nil {
		return false
	}
	x, err1 := strconv.ParseUint(got.GetResourceVersion(), 10, 64)
	y, err2 := strconv.ParseUint(version, 10, 64)
	return err1 == nil && err2 == nil && x > y
}
