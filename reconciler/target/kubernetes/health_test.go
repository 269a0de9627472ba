package kubernetes

import (
	"strings"
	"testing"

	"go.yaml.in/yaml/v4"
)

func TestHealthOf(t *testing.T) {
	for _, c := range []struct {
		name, object string
		want         Health
		why          string // a part of it
	}{
		{"deleted", "{apiVersion: v1, kind: ConfigMap, metadata: {deletionTimestamp: \"2026-01-01T00:00:00Z\"}}",
			Terminating, "deleted"},
		{"a ConfigMap", "{apiVersion: v1, kind: ConfigMap}", Current, ""},
		{"not seen", "{apiVersion: apps/v1, kind: Deployment, metadata: {generation: 1}}", InProgress, "not seen"},
		{"seen too early", "{apiVersion: apps/v1, kind: Deployment, metadata: {generation: 2}, status: {observedGeneration: 1, replicas: 1, updatedReplicas: 1, readyReplicas: 1, availableReplicas: 1}}", InProgress, "generation 1 of 2"},
		{"deployed", "{apiVersion: apps/v1, kind: Deployment, metadata: {generation: 1}, status: {observedGeneration: 1, replicas: 1, updatedReplicas: 1, readyReplicas: 1, availableReplicas: 1}}", Current, ""},
		{"scaled to nothing", "{apiVersion: apps/v1, kind: Deployment, metadata: {generation: 1}, spec: {replicas: 0}, status: {observedGeneration: 1}}", Current, ""},
		{"updated in part", "{apiVersion: apps/v1, kind: Deployment, spec: {replicas: 3}, status: {observedGeneration: 0, replicas: 3, updatedReplicas: 2}}", InProgress, "2 of 3 replicas are of this version"},
		{"old ones left", "{apiVersion: apps/v1, kind: Deployment, status: {observedGeneration: 0, replicas: 2, updatedReplicas: 1}}", InProgress, "1 replicas of an earlier"},
		{"not ready", "{apiVersion: apps/v1, kind: Deployment, status: {observedGeneration: 0, replicas: 1, updatedReplicas: 1}}", InProgress, "0 of 1 replicas are ready"},
		{"not available", "{apiVersion: apps/v1, kind: Deployment, status: {observedGeneration: 0, replicas: 1, updatedReplicas: 1, readyReplicas: 1}}", InProgress, "0 of 1 replicas are available"},
		{"given up", "{apiVersion: apps/v1, kind: Deployment, status: {observedGeneration: 0, conditions: [{type: Progressing, status: \"False\", reason: ProgressDeadlineExceeded, message: late}]}}", Failed, "ProgressDeadlineExceeded: late"},
		{"over quota", "{apiVersion: apps/v1, kind: Deployment, status: {observedGeneration: 0, conditions: [{type: ReplicaFailure, status: \"True\", message: exceeded quota}]}}", InProgress, "exceeded quota"},
		{"a set", "{apiVersion: apps/v1, kind: StatefulSet, spec: {replicas: 2}, status: {observedGeneration: 0, replicas: 2, readyReplicas: 2, updatedReplicas: 2, currentRevision: a, updateRevision: a}}", Current, ""},
		{"a set by hand", "{apiVersion: apps/v1, kind: StatefulSet, spec: {updateStrategy: {type: OnDelete}}}", Current, ""},
		{"a set in part", "{apiVersion: apps/v1, kind: StatefulSet, spec: {replicas: 3, updateStrategy: {rollingUpdate: {partition: 2}}}, status: {observedGeneration: 0, replicas: 3, readyReplicas: 3, updatedReplicas: 1, currentRevision: a, updateRevision: b}}", Current, ""},
		{"a set on the way", "{apiVersion: apps/v1, kind: StatefulSet, status: {observedGeneration: 0, replicas: 1, readyReplicas: 1, updatedReplicas: 1, currentRevision: a, updateRevision: b}}", InProgress, "earlier"},
		{"a set too small", "{apiVersion: apps/v1, kind: StatefulSet, spec: {replicas: 2}, status: {observedGeneration: 0, replicas: 1}}", InProgress, "1 of 2 replicas are there"},
		{"on all nodes", "{apiVersion: apps/v1, kind: DaemonSet, status: {observedGeneration: 0, desiredNumberScheduled: 2, currentNumberScheduled: 2, updatedNumberScheduled: 2, numberAvailable: 2, numberReady: 2}}", Current, ""},
		{"on no node", "{apiVersion: apps/v1, kind: DaemonSet, status: {observedGeneration: 0, desiredNumberScheduled: 0}}",
			Current, ""},
		{"on one node", "{apiVersion: apps/v1, kind: DaemonSet, status: {observedGeneration: 0, desiredNumberScheduled: 2, currentNumberScheduled: 1}}", InProgress, "1 of 2 nodes"},
		{"replicas", "{apiVersion: apps/v1, kind: ReplicaSet, status: {replicas: 1}}", InProgress, "0 of 1"},
		{"done", "{apiVersion: batch/v1, kind: Job, status: {conditions: [{type: Complete, status: \"True\"}]}}", Current,
			""},
		{"failed", "{apiVersion: batch/v1, kind: Job, status: {conditions: [{type: Failed, status: \"True\", reason: BackoffLimitExceeded}]}}", Failed, "BackoffLimitExceeded"},
		{"running", "{apiVersion: batch/v1, kind: Job, status: {startTime: \"2026-01-01T00:00:00Z\", failed: 1}}",
			InProgress, "1 failed"},
		{"a Pod", "{apiVersion: v1, kind: Pod, status: {phase: Running, conditions: [{type: Ready, status: \"True\"}]}}",
			Current, ""},
		{"no image", "{apiVersion: v1, kind: Pod, status: {phase: Pending, containerStatuses: [{name: web, state: {waiting: {reason: ImagePullBackOff}}}]}}", InProgress, "web: ImagePullBackOff"},
		{"no node", "{apiVersion: v1, kind: Pod, status: {phase: Pending, conditions: [{type: PodScheduled, status: \"False\", reason: Unschedulable, message: no nodes}]}}", InProgress, "Unschedulable: no nodes"},
		{"crashing", "{apiVersion: v1, kind: Pod, status: {phase: Running, containerStatuses: [{name: web, state: {waiting: {reason: CrashLoopBackOff}}}]}}", InProgress, "web: CrashLoopBackOff"},
		{"a Pod that failed", "{apiVersion: v1, kind: Pod, status: {phase: Failed, reason: Evicted}}", Failed, "Evicted"},
		{"a service", "{apiVersion: v1, kind: Service, spec: {type: ClusterIP}}", Current, ""},
		{"no load balancer", "{apiVersion: v1, kind: Service, spec: {type: LoadBalancer}}", InProgress, "load balancer"},
		{"a load balancer", "{apiVersion: v1, kind: Service, spec: {type: LoadBalancer}, status: {loadBalancer: {ingress: [{ip: 1.2.3.4}]}}}", Current, ""},
		{"a claim", "{apiVersion: v1, kind: PersistentVolumeClaim, status: {phase: Pending}}", InProgress, "no volume"},
		{"a lost claim", "{apiVersion: v1, kind: PersistentVolumeClaim, status: {phase: Lost}}", Failed, "lost"},
		{"a namespace that goes", "{apiVersion: v1, kind: Namespace, status: {phase: Terminating}}", Terminating, ""},
		{"a definition", "{apiVersion: apiextensions.k8s.io/v1, kind: CustomResourceDefinition, status: {conditions: [{type: NamesAccepted, status: \"True\"}, {type: Established, status: \"True\"}]}}", Current, ""},
		{"a new definition", "{apiVersion: apiextensions.k8s.io/v1, kind: CustomResourceDefinition}", InProgress,
			"established"},
		{"a definition whose name is taken",
			"{apiVersion: apiextensions.k8s.io/v1, kind: CustomResourceDefinition, status: {conditions: [{type: NamesAccepted, status: \"False\", reason: ListKindConflict}]}}", Failed, "ListKindConflict"},
		{"something else", "{apiVersion: example.org/v1, kind: Thing}", Current, ""},
		{"something that is not ready",
			"{apiVersion: example.org/v1, kind: Thing, status: {conditions: [{type: Ready, status: \"False\", message: soon}]}}",
			InProgress, "soon"},
		{"something that is stuck", "{apiVersion: example.org/v1, kind: Thing, status: {conditions: [{type: Stalled, status: \"True\", reason: Never}]}}", Failed, "Never"},
		{"Argo", "{apiVersion: argoproj.io/v1alpha1, kind: Rollout, status: {phase: Progressing, message: more}}",
			InProgress, "more"},
		{"Argo, healthy", "{apiVersion: argoproj.io/v1alpha1, kind: Rollout, status: {phase: Healthy}}", Current, ""},
		{"Argo, degraded", "{apiVersion: argoproj.io/v1alpha1, kind: Rollout, status: {phase: Degraded, message: aborted}}",
			Failed, "Degraded: aborted"},
		{"Flagger", "{apiVersion: flagger.app/v1beta1, kind: Canary, status: {phase: Failed}}", Failed, "Failed"},
		{"Flagger, done", "{apiVersion: flagger.app/v1beta1, kind: Canary, status: {phase: Succeeded}}", Current, ""},
		{"of other types", "{apiVersion: apps/v1, kind: Deployment, metadata: [], spec: x, status: {observedGeneration: x, conditions: {a: b}}}", InProgress, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			var object map[string]any
			if err := yaml.Unmarshal([]byte(c.object), &object); err != nil {
				t.Fatal(err)
			}
			got, why := HealthOf(whole(object).(map[string]any))
			if got != c.want || !strings.Contains(why, c.why) || got != Current && why == "" {
				t.Errorf("%s, %q; not %s, %q", got, why, c.want, c.why)
			}
		})
	}
}

// whole has numbers as a client of Kubernetes has them.
func whole(v any) any {
	switch v := v.(type) {
	case map[string]any:
		for k := range v {
			v[k] = whole(v[k])
		}
	case []any:
		for i := range v {
			v[i] = whole(v[i])
		}
	case int:
		return int64(v)
	}
	return v
}
