package cluster

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	quantity "k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"

	"github.com/headgate-cd/headgate/gitd/crash"
	"github.com/headgate-cd/headgate/reconciler/target"
	"github.com/headgate-cd/headgate/reconciler/target/kubernetes"
)

// manager is by which name Headgate has fields of objects.
const manager = "headgate"

// What an object says of whose it is.
const (
	ownerLabel         = "headgate.dev/owner"    // idOf its application
	sequenceAnnotation = "headgate.dev/sequence" // place in the environment's line that it was applied of
)

// permanentError is one that does not pass by itself.
type permanentError struct{ error }

func (e permanentError) Unwrap() error { return e.error }

func permanent(format string, args ...any) error { return permanentError{fmt.Errorf(format, args...)} }

// fencedError is that something newer has been acted on.
type fencedError struct{ sequence int }

func (e *fencedError) Error() string {
	return fmt.Sprintf("the cluster has what is newer in this environment (place %d), and takes nothing older", e.sequence)
}

// resource is where objects of a kind are to be had.
type resource struct {
	schema.GroupVersionResource
	namespaced bool
}

// applied is an object that is declared.
type applied struct {
	entry
	hook kubernetes.Hook
	want *unstructured.Unstructured
	got  *unstructured.Unstructured // as the cluster answered the last time; nil: it has not been applied
	at   time.Time                  // when it did

	checked string // the version that a dry run had nothing against
}

// discoverEvery bounds how often the cluster is asked which kinds it has.
const discoverEvery = 10 * time.Second

// resourceOf finds where objects of a kind are to be had; own are the kinds that the application defines itself.
func (t *Target) resourceOf(gvk schema.GroupVersionKind, own map[schema.GroupKind]resource) (resource, error) {
	m, err := t.Mapper.RESTMapping(gvk.GroupKind(), gvk.Version)
	if r, ok := own[gvk.GroupKind()]; ok && (err != nil || m == nil) {
		r.Version = gvk.Version
		return r, nil
	}
	if meta.IsNoMatchError(err) {
		t.mapping.Lock()
		if time.Since(t.asked) > discoverEvery {
			t.Mapper.Reset()
			t.asked = time.Now()
		}
		t.mapping.Unlock()
		m, err = t.Mapper.RESTMapping(gvk.GroupKind(), gvk.Version)
	}
	if meta.IsNoMatchError(err) {
		return resource{}, permanent(
			"the cluster has no kind %s of %s; declare its CustomResourceDefinition, or have whoever runs the cluster install it", gvk.Kind, gvk.GroupVersion())
	}
	if err != nil {
		return resource{}, fmt.Errorf("ask the cluster for its kinds: %w", err)
	}
	return resource{m.Resource, m.Scope.Name() == meta.RESTScopeNameNamespace}, nil
}

// prepare makes what is declared into what is applied, in order.
func (a *app) prepare(k target.Key, d *target.Declared) ([]*applied, kubernetes.Settings, error) {
	objects, settings, err := render(d, a.t.Registry)
	if err != nil {
		return nil, settings, permanentError{err}
	}
	own := defined(objects)
	var all []*applied
	seen := map[entry]bool{}
	for _, o := range objects {
		gvk := o.GroupVersionKind()
		r, err := a.t.resourceOf(gvk, own)
		if err != nil {
			return nil, settings, fmt.Errorf("%s %s: %w", gvk.Kind, o.GetName(), err)
		}
		switch {
		case r.namespaced && o.GetNamespace() == "":
			o.SetNamespace(settings.Namespace)
		case !r.namespaced && !kubernetes.MayDeclare(gvk.Group, gvk.Kind):
			return nil, settings, permanent("%s %s is an object of the whole cluster, which an application may not declare",
				gvk.Kind, o.GetName())
		case !r.namespaced:
			o.SetNamespace("")
		}
		if o.GetNamespace() == a.t.Namespace {
			return nil, settings, permanent("%s %s would be in the namespace %s, which is the agent's own", gvk.Kind,
				o.GetName(), a.t.Namespace)
		}
		labels, annotations := o.GetLabels(), o.GetAnnotations()
		o.SetLabels(with(labels, ownerLabel, idOf(k)))
		o.SetAnnotations(with(annotations, sequenceAnnotation, strconv.Itoa(d.Sequence)))
		hook := kubernetes.HookOf(annotations)
		if hook != kubernetes.NoHook {
			o.SetName(kubernetes.HookName(o.GetName(), d.Sequence))
		}
		e := entry{
			Group:     r.Group,
			Version:   gvk.Version,
			Resource:  r.Resource,
			Kind:      gvk.Kind,
			Namespace: o.GetNamespace(),
			Name:      o.GetName(),
			Hook:      hook != kubernetes.NoHook,
		}
		one := e
		one.Version = ""
		if seen[one] {
			return nil, settings, permanent("%s is declared twice", e)
		}
		seen[one] = true
		all = append(all, &applied{entry: e, hook: hook, want: o})
	}
	return all, settings, nil
}

func with(m map[string]string, key, value string) map[string]string {
	m = maps.Clone(m)
	if m == nil {
		m = map[string]string{}
	}
	m[key] = value
	return m
}

func (t *Target) client(e entry) dynamic.ResourceInterface {
	if e.Namespace == "" {
		return t.Client.Resource(e.gvr())
	}
	return t.Client.Resource(e.gvr()).Namespace(e.Namespace)
}

// owners are the applications whose objects are this one's: its own, under all names that it had.
func owners(k target.Key, d *target.Declared) []string {
	all := []string{idOf(k)}
	if d != nil {
		for _, name := range d.Was {
			all = append(all, idOf(target.Key{Repository: k.Repository, Application: k.Application, Environment: name}))
		}
	}
	return all
}

// mayChange says why an object is not to be touched by an application at a place in its line.
func mayChange(live *unstructured.Unstructured, owners []string, sequence int) error {
	if owner := live.GetLabels()[ownerLabel]; owner != "" && !slices.Contains(owners, owner) {
		return permanent("it is of another application (%s); give it another name, or take it out there first", owner)
	}
	if at, err := strconv.Atoi(live.GetAnnotations()[sequenceAnnotation]); err == nil && at > sequence &&
		live.GetLabels()[ownerLabel] == owners[0] {
		return &fencedError{at}
	}
	return nil
}

// tries are how often an object is applied that changes meanwhile.
const tries = 10

// apply has an object be what is declared, unless it is another's, or newer.
func (t *Target) apply(ctx context.Context, o *applied, owners []string, sequence int, force bool) error {
	for try := 1; ; try++ {
		live, err := t.client(o.entry).Get(ctx, o.Name, metav1.GetOptions{})
		want := o.want.DeepCopy()
		switch {
		case apierrors.IsNotFound(err):
		case err != nil:
			return err
		case live.GetDeletionTimestamp() != nil:
			return errors.New("it is being deleted, and is made anew when it is gone")
		default:
			if err := mayChange(live, owners, sequence); err != nil {
				return err
			}
			// What was looked at is what is changed.
			want.SetResourceVersion(live.GetResourceVersion())
		}
		got, err := t.patch(ctx, o.entry, want, force, false)
		if err == nil {
			o.got, o.at, o.checked = got, time.Now(), got.GetResourceVersion()
			return nil
		}
		if apierrors.IsConflict(err) && conflicts(err) == "" && try < tries {
			continue
		}
		return err
	}
}

func (t *Target) patch(ctx context.Context, e entry, want *unstructured.Unstructured,
	force, dry bool) (*unstructured.Unstructured, error) {
	data, err := json.Marshal(want)
	if err != nil {
		return nil, err
	}
	options := metav1.PatchOptions{FieldManager: manager, Force: &force}
	if dry {
		options.DryRun = []string{metav1.DryRunAll}
	}
	return t.client(e).Patch(ctx, e.Name, types.ApplyPatchType, data, options)
}

// conflicts are the fields that others have, for people; "" when that is not what an error is about.
func conflicts(err error) string {
	var status apierrors.APIStatus
	if !errors.As(err, &status) || status.Status().Details == nil {
		return ""
	}
	var all []string
	for _, c := range status.Status().Details.Causes {
		if c.Type == metav1.CauseTypeFieldManagerConflict {
			all = append(all, c.Field+" ("+c.Message+")")
		}
	}
	return strings.Join(all, ", ")
}

// explain makes of an error what people are told, and whether it passes by itself.
func explain(e entry, err error) error {
	if fenced := new(fencedError); errors.As(err, &fenced) {
		return fenced
	}
	if c := conflicts(err); c != "" {
		return permanent(
			"%s: others have its fields %s; the policy converge says that drift is only reported, so they keep them", e, c)
	}
	if apierrors.HasStatusCause(err, "NamespaceTerminating") {
		return fmt.Errorf("%s: its namespace is being deleted", e)
	}
	if apierrors.IsNotFound(err) {
		var status apierrors.APIStatus
		if errors.As(err, &status) && status.Status().Details != nil && status.Status().Details.Kind == "namespaces" {
			return permanent("%s: there is no namespace %s; declare it, or have whoever runs the cluster make it",
				e, e.Namespace)
		}
		return fmt.Errorf("%s: %w", e, err) // of a kind that was just defined
	}
	for _, is := range []func(error) bool{
		apierrors.IsInvalid, apierrors.IsBadRequest, apierrors.IsForbidden,
		apierrors.IsMethodNotSupported, apierrors.IsRequestEntityTooLargeError, apierrors.IsUnsupportedMediaType,
	} {
		if is(err) {
			return permanentError{fmt.Errorf("%s: %w", e, err)}
		}
	}
	return fmt.Errorf("%s: %w", e, err)
}

// definitionPause is between two looks at a CustomResourceDefinition that is not established yet.
const definitionPause = 100 * time.Millisecond

// applyAll applies all in order, from where it had to wait. What others need has to be there before they are applied;
// hooks that come after all are for look.
func (a *app) applyAll(ctx context.Context, k target.Key, d *target.Declared, inv *inventory) error {
	ctx, cancel := context.WithTimeout(ctx, a.settings.Timeout)
	defer cancel()
	own := owners(k, d)
	for ; a.next < len(a.all); a.next++ {
		o := a.all[a.next]
		if o.hook == kubernetes.HookAfter {
			break
		}
		if o.hook == kubernetes.HookBefore {
			if err := a.runHook(ctx, d, inv, o); err != nil {
				return err
			}
			continue
		}
		if !inv.known || !a.inSync(ctx, d, o) {
			if err := a.t.apply(ctx, o, own, d.Sequence, d.Drift == target.Heal); err != nil {
				return explain(o.entry, err)
			}
			crash.Point("kube.applied")
		}
		if kubernetes.StageOf(o.Group, o.Kind) != kubernetes.Definitions {
			continue
		}
		if next := a.next + 1; next < len(a.all) &&
			kubernetes.StageOf(a.all[next].Group, a.all[next].Kind) == kubernetes.Definitions {
			continue
		}
		for _, def := range a.all[:a.next+1] {
			if err := a.established(ctx, def); err != nil {
				return err
			}
		}
		a.t.mapping.Lock()
		a.t.Mapper.Reset()
		a.t.mapping.Unlock()
	}
	return nil
}

// established waits until objects of a kind can be made.
func (a *app) established(ctx context.Context, o *applied) error {
	if kubernetes.StageOf(o.Group, o.Kind) != kubernetes.Definitions {
		return nil
	}
	for {
		live, err := a.t.client(o.entry).Get(ctx, o.Name, metav1.GetOptions{})
		if err != nil {
			return explain(o.entry, err)
		}
		health, why := kubernetes.HealthOf(live.Object)
		switch health {
		case kubernetes.Current:
			return nil
		case kubernetes.Failed:
			return permanent("%s: %s", o.entry, why)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: %s", o.entry, why)
		case <-time.After(definitionPause):
		}
	}
}

// prune deletes what there was and is declared no more. What is not gone yet is left in the inventory.
func (a *app) prune(ctx context.Context, inv *inventory, own []string, declared []*applied) (left []entry, err error) {
	var old []entry
	for _, e := range inv.Objects {
		if !slices.ContainsFunc(declared, func(o *applied) bool { return o.same(e) }) {
			old = append(old, e)
		}
	}
	slices.SortStableFunc(old, func(x, y entry) int {
		return cmp.Compare(kubernetes.StageOf(y.Group, y.Kind), kubernetes.StageOf(x.Group, x.Kind))
	})
	for _, e := range old {
		live, err := a.t.client(e).Get(ctx, e.Name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) || meta.IsNoMatchError(err) {
			continue // it is gone, or its kind is
		}
		if err != nil {
			return nil, fmt.Errorf("prune %s: %w", e, err)
		}
		if !slices.Contains(own, live.GetLabels()[ownerLabel]) {
			continue // it is another's by now
		}
		if err := mayChange(live, own, inv.Sequence); err != nil {
			return nil, err
		}
		if !kubernetes.Pruned(e.Group, e.Kind, live.GetAnnotations()) {
			a.t.Log.Info("an object stays that is declared no more", "app", inv.Key.String(), "object", e.String())
			continue
		}
		left = append(left, e)
		if live.GetDeletionTimestamp() != nil {
			continue
		}
		uid, version := live.GetUID(), live.GetResourceVersion()
		propagation := metav1.DeletePropagationBackground
		if e.Hook {
			propagation = metav1.DeletePropagationForeground // when it is gone, so are its Pods
		}
		err = a.t.client(e).Delete(ctx, e.Name, metav1.DeleteOptions{
			Preconditions:     &metav1.Preconditions{UID: &uid, ResourceVersion: &version},
			PropagationPolicy: &propagation,
		})
		if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) { // it has changed: it is looked at again
			return nil, fmt.Errorf("prune %s: %w", e, err)
		}
		a.t.Log.Info("an object is pruned", "app", inv.Key.String(), "object", e.String())
		crash.Point("kube.pruned")
	}
	return left, nil
}

// differences are the fields that an object does not have as they are declared, for people.
func differences(want, live any, path string, secret bool) (all []string) {
	switch want := want.(type) {
	case map[string]any:
		have, ok := live.(map[string]any)
		if !ok {
			return []string{path + " is not as declared"}
		}
		for _, key := range slices.Sorted(maps.Keys(want)) {
			all = append(all, differences(want[key], have[key], strings.TrimPrefix(path+"."+key, "."), secret)...)
		}
		return all
	case []any:
		have, ok := live.([]any)
		if !ok || len(have) != len(want) {
			return []string{path + " is not as declared"}
		}
		for i := range want {
			all = append(all, differences(want[i], have[i], path+"["+strconv.Itoa(i)+"]", secret)...)
		}
		return all
	}
	if reflect.DeepEqual(want, live) || strings.Contains(path, ".resources.") && sameQuantity(want, live) {
		return nil
	}
	if secret || live == nil {
		return []string{path + " is not as declared"}
	}
	return []string{fmt.Sprintf("%s is %.40s, and not %.40s", path, fmt.Sprint(live), fmt.Sprint(want))}
}

// sameQuantity reports whether two are the same amount: the cluster writes 1000m as 1. That it is no drift is known
// without asking.
func sameQuantity(x, y any) bool {
	a, err1 := quantity.ParseQuantity(fmt.Sprint(x))
	b, err2 := quantity.ParseQuantity(fmt.Sprint(y))
	return err1 == nil && err2 == nil && a.Cmp(b) == 0
}

// drifted says what of an object is not as declared, and that somebody has changed. A field may be written otherwise than
// the cluster has it, so what differs is only asked about: the cluster says whether applying would change anything.
func (t *Target) drifted(ctx context.Context, o *applied, live *unstructured.Unstructured) (string, error) {
	if o.checked == live.GetResourceVersion() {
		return "", nil
	}
	differ := differences(o.want.Object, live.Object, "", o.Group == "" && o.Kind == "Secret")
	if len(differ) > 0 {
		would, err := t.patch(ctx, o.entry, o.want, true, true)
		if err != nil {
			return "", explain(o.entry, err)
		}
		if !reflect.DeepEqual(compared(would), compared(live)) {
			return fmt.Sprintf("%s: %s", o.entry, strings.Join(differ[:min(len(differ), 5)], ", ")), nil
		}
	}
	o.checked = live.GetResourceVersion()
	return "", nil
}

// compared is what of an object counts as what it is.
func compared(u *unstructured.Unstructured) map[string]any {
	u = u.DeepCopy()
	u.SetManagedFields(nil)
	u.SetResourceVersion("")
	u.SetGeneration(0)
	delete(u.Object, "status")
	return u.Object
}
