package planetest

import (
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic/dynamicinformer"
	"k8s.io/client-go/tools/cache"
)

// Resources that controllers look after.
var (
	Deployments = schema.GroupVersionResource{Group: "apps", Version: "v1", Resource: "deployments"}
	Jobs        = schema.GroupVersionResource{Group: "batch", Version: "v1", Resource: "jobs"}
)

// Controllers do in a namespace, until the test ends, what a cluster's would: each Deployment is available as soon as it
// was seen, each Job completes, and what is deleted with all that it owns is gone. Where an image's name has "broken" in
// it, they fail as they would once their time is over; a Job with "held" in it goes on until the test says otherwise.
func (p *Plane) Controllers(t testing.TB, namespace string) {
	t.Helper()
	client := p.Client(t)
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	t.Cleanup(func() {
		cancel()
		running.Wait()
	})
	for gvr, judge := range map[schema.GroupVersionResource]func(*unstructured.Unstructured) map[string]any{
		Deployments: deploymentStatus,
		Jobs:        jobStatus,
	} {
		seen := func(o any) {
			u, ok := o.(*unstructured.Unstructured)
			if !ok {
				return
			}
			if u.GetDeletionTimestamp() != nil && len(u.GetFinalizers()) > 0 {
				_, _ = client.Resource(gvr).Namespace(namespace).Patch(ctx, u.GetName(), types.MergePatchType,
					[]byte(`{"metadata": {"finalizers": null}}`), metav1.PatchOptions{}) // or it is gone
				return
			}
			status := judge(u)
			if status == nil {
				return
			}
			u = u.DeepCopy()
			u.Object["status"] = status
			// What has changed meanwhile is seen again.
			_, _ = client.Resource(gvr).Namespace(namespace).UpdateStatus(ctx, u, metav1.UpdateOptions{})
		}
		informer := dynamicinformer.NewFilteredDynamicInformer(client, gvr, namespace, 0, cache.Indexers{}, nil).Informer()
		if _, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
			AddFunc:    seen,
			UpdateFunc: func(_, o any) { seen(o) },
		}); err != nil {
			t.Fatal(err)
		}
		running.Go(func() { informer.RunWithContext(ctx) })
	}
}

// has reports whether an image of an object's Pods is called so.
func has(u *unstructured.Unstructured, name string) bool {
	containers, _, _ := unstructured.NestedSlice(u.Object, "spec", "template", "spec", "containers")
	for _, c := range containers {
		if image, _, _ := unstructured.NestedString(c.(map[string]any), "image"); strings.Contains(image, name) {
			return true
		}
	}
	return false
}

// deploymentStatus is what its controller says of a Deployment; nil when it has said so.
func deploymentStatus(u *unstructured.Unstructured) map[string]any {
	generation := u.GetGeneration()
	if observed, _, _ := unstructured.NestedInt64(u.Object, "status", "observedGeneration"); observed == generation {
		return nil
	}
	replicas, _, _ := unstructured.NestedInt64(u.Object, "spec", "replicas")
	progressing := map[string]any{"type": "Progressing", "status": "True", "reason": "NewReplicaSetAvailable"}
	ready := replicas
	if has(u, "broken") {
		ready = 0
		progressing["status"], progressing["reason"] = "False", "ProgressDeadlineExceeded"
		progressing["message"] = "no Pod of it became ready"
	}
	return map[string]any{
		"observedGeneration": generation,
		"replicas":           replicas,
		"updatedReplicas":    replicas,
		"readyReplicas":      ready,
		"availableReplicas":  ready,
		"conditions":         []any{progressing},
	}
}

// jobStatus is what its controller says of a Job; nil when it has said so.
func jobStatus(u *unstructured.Unstructured) map[string]any {
	if conditions, _, _ := unstructured.NestedSlice(u.Object, "status", "conditions"); len(conditions) > 0 ||
		has(u, "held") {
		return nil
	}
	return JobStatus(has(u, "broken"))
}

// JobStatus is the status of a Job that is over.
func JobStatus(failed bool) map[string]any {
	now := time.Now().UTC().Format(time.RFC3339)
	condition := func(kind, reason string) any {
		return map[string]any{"type": kind, "status": "True", "reason": reason, "lastTransitionTime": now}
	}
	if failed {
		return map[string]any{
			"startTime": now,
			"failed":    int64(1),
			"conditions": []any{condition("FailureTarget", "BackoffLimitExceeded"),
				condition("Failed", "BackoffLimitExceeded")},
		}
	}
	return map[string]any{
		"startTime":      now,
		"completionTime": now,
		"succeeded":      int64(1),
		"conditions":     []any{condition("SuccessCriteriaMet", "CompletionsReached"), condition("Complete", "CompletionsReached")},
	}
}
