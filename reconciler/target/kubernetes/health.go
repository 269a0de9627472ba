package kubernetes

import (
	"fmt"
	"slices"
)

// Health is what an object of a cluster is, of what it was declared to be.
type Health string

// The states of an object.
const (
	Current     Health = "current"     // it is what it was declared to be
	InProgress  Health = "in progress" // on the way there
	Failed      Health = "failed"      // its controller has given up
	Terminating Health = "terminating" // it is being deleted
)

// HealthOf judges an object by what its cluster says of it, and says why it is not Current. It follows the rules of
// kstatus, and knows Argo's Rollout and Flagger's Canary besides.
func HealthOf(object map[string]any) (Health, string) {
	if text(object, "metadata", "deletionTimestamp") != "" {
		return Terminating, "it is being deleted"
	}
	group, _ := groupVersion(text(object, "apiVersion"))
	judge, known := judges[group+"/"+text(object, "kind")]
	if behind, why := unobserved(object); behind {
		return InProgress, why
	}
	if known {
		return judge(object)
	}
	return general(object)
}

var judges = map[string]func(map[string]any) (Health, string){
	"apps/Deployment":                        deployment,
	"apps/StatefulSet":                       statefulSet,
	"apps/DaemonSet":                         daemonSet,
	"apps/ReplicaSet":                        replicaSet,
	"batch/Job":                              job,
	"batch/CronJob":                          always,
	"/Pod":                                   pod,
	"/Service":                               service,
	"/PersistentVolumeClaim":                 claim,
	"/ConfigMap":                             always,
	"/Secret":                                always,
	"/Namespace":                             namespace,
	"policy/PodDisruptionBudget":             budget,
	"autoscaling/HorizontalPodAutoscaler":    always,
	extensions + "/CustomResourceDefinition": definition,
	"argoproj.io/Rollout":                    phased([]string{"Healthy"}, "Degraded", "Error"),
	"flagger.app/Canary":                     phased([]string{"Succeeded", "Initialized"}, "Failed"),
}

// unobserved reports that a controller has not looked at the newest generation.
func unobserved(object map[string]any) (bool, string) {
	observed, told := number(object, "status", "observedGeneration")
	generation, _ := number(object, "metadata", "generation")
	if told && observed != generation {
		return true, fmt.Sprintf("its controller has seen generation %d of %d", observed, generation)
	}
	return false, ""
}

func always(map[string]any) (Health, string) { return Current, "" }

// number is an integer at a path.
func number(object map[string]any, keys ...string) (int64, bool) {
	switch v := at(object, keys...).(type) {
	case int64:
		return v, true
	case float64:
		return int64(v), true
	}
	return 0, false
}

func numberOr(object map[string]any, otherwise int64, keys ...string) int64 {
	if v, ok := number(object, keys...); ok {
		return v
	}
	return otherwise
}

// condition is one of an object's, by its type.
func condition(object map[string]any, kind string) (status, reason, message string) {
	list, _ := at(object, "status", "conditions").([]any)
	for _, c := range list {
		if c, ok := c.(map[string]any); ok && text(c, "type") == kind {
			return text(c, "status"), text(c, "reason"), text(c, "message")
		}
	}
	return "", "", ""
}

// said is what a condition says, for people.
func said(reason, message string) string {
	switch {
	case message == "":
		return reason
	case reason == "":
		return message
	}
	return reason + ": " + message
}

// general judges what nothing more is known of.
func general(object map[string]any) (Health, string) {
	if status, reason, message := condition(object, "Stalled"); status == "True" {
		return Failed, said(reason, message)
	}
	if status, reason, message := condition(object, "Reconciling"); status == "True" {
		return InProgress, said(reason, message)
	}
	if status, reason, message := condition(object, "Ready"); status == "False" || status == "Unknown" {
		return InProgress, said(reason, message)
	}
	return Current, ""
}

func deployment(object map[string]any) (Health, string) {
	if status, reason, message := condition(object, "Progressing"); status == "False" &&
		reason == "ProgressDeadlineExceeded" {
		return Failed, said(reason, message)
	}
	if status, _, message := condition(object, "ReplicaFailure"); status == "True" {
		return InProgress, message
	}
	if _, told := number(object, "status", "observedGeneration"); !told {
		return InProgress, "its controller has not seen it yet"
	}
	want := numberOr(object, 1, "spec", "replicas")
	updated, all := numberOr(object, 0, "status", "updatedReplicas"), numberOr(object, 0, "status", "replicas")
	ready, available := numberOr(object, 0, "status", "readyReplicas"), numberOr(object, 0, "status", "availableReplicas")
	switch {
	case updated < want:
		return InProgress, fmt.Sprintf("%d of %d replicas are of this version", updated, want)
	case all > updated:
		return InProgress, fmt.Sprintf("%d replicas of an earlier version are left", all-updated)
	case ready < want:
		return InProgress, fmt.Sprintf("%d of %d replicas are ready", ready, want)
	case available < want:
		return InProgress, fmt.Sprintf("%d of %d replicas are available", available, want)
	}
	if status, reason, message := condition(object, "Available"); status == "False" {
		return InProgress, said(reason, message)
	}
	return Current, ""
}

func statefulSet(object map[string]any) (Health, string) {
	if text(object, "spec", "updateStrategy", "type") == "OnDelete" {
		return Current, ""
	}
	if _, told := number(object, "status", "observedGeneration"); !told {
		return InProgress, "its controller has not seen it yet"
	}
	want := numberOr(object, 1, "spec", "replicas")
	all, ready := numberOr(object, 0, "status", "replicas"), numberOr(object, 0, "status", "readyReplicas")
	updated := numberOr(object, 0, "status", "updatedReplicas")
	partition := numberOr(object, 0, "spec", "updateStrategy", "rollingUpdate", "partition")
	switch {
	case all < want:
		return InProgress, fmt.Sprintf("%d of %d replicas are there", all, want)
	case ready < want:
		return InProgress, fmt.Sprintf("%d of %d replicas are ready", ready, want)
	case all > want:
		return InProgress, fmt.Sprintf("%d replicas too many are left", all-want)
	case updated < want-partition:
		return InProgress, fmt.Sprintf("%d of %d replicas are of this version", updated, want-partition)
	case partition == 0 && text(object, "status", "currentRevision") != text(object, "status", "updateRevision"):
		return InProgress, "replicas of an earlier version are left"
	}
	return Current, ""
}

func daemonSet(object map[string]any) (Health, string) {
	want, told := number(object, "status", "desiredNumberScheduled")
	if _, observed := number(object, "status", "observedGeneration"); !told || !observed {
		return InProgress, "its controller has not seen it yet"
	}
	updated, available := numberOr(object, 0, "status", "updatedNumberScheduled"), numberOr(object, 0, "status",
		"numberAvailable")
	current, ready := numberOr(object, 0, "status", "currentNumberScheduled"), numberOr(object, 0, "status", "numberReady")
	switch {
	case current < want:
		return InProgress, fmt.Sprintf("%d of %d nodes have it", current, want)
	case updated < want && text(object, "spec", "updateStrategy", "type") != "OnDelete":
		return InProgress, fmt.Sprintf("%d of %d nodes have this version", updated, want)
	case available < want:
		return InProgress, fmt.Sprintf("it is available on %d of %d nodes", available, want)
	case ready < want:
		return InProgress, fmt.Sprintf("it is ready on %d of %d nodes", ready, want)
	}
	return Current, ""
}

func replicaSet(object map[string]any) (Health, string) {
	if status, _, message := condition(object, "ReplicaFailure"); status == "True" {
		return InProgress, message
	}
	want := numberOr(object, 1, "spec", "replicas")
	all, ready := numberOr(object, 0, "status", "replicas"), numberOr(object, 0, "status", "readyReplicas")
	available := numberOr(object, 0, "status", "availableReplicas")
	if all != want || ready < want || available < want {
		return InProgress, fmt.Sprintf("%d of %d replicas are available", available, want)
	}
	return Current, ""
}

func job(object map[string]any) (Health, string) {
	if status, reason, message := condition(object, "Failed"); status == "True" {
		return Failed, said(reason, message)
	}
	if status, _, _ := condition(object, "Complete"); status == "True" {
		return Current, ""
	}
	if status, _, _ := condition(object, "Suspended"); status == "True" {
		return Current, "it is suspended"
	}
	if text(object, "status", "startTime") == "" {
		return InProgress, "it has not started"
	}
	return InProgress, fmt.Sprintf("it runs, with %d succeeded and %d failed", numberOr(object, 0, "status", "succeeded"),
		numberOr(object, 0, "status", "failed"))
}

func pod(object map[string]any) (Health, string) {
	switch phase := text(object, "status", "phase"); phase {
	case "Succeeded":
		return Current, ""
	case "Failed":
		return Failed, said(text(object, "status", "reason"), text(object, "status", "message"))
	case "Running":
		if status, reason, message := condition(object, "Ready"); status != "True" {
			if why := waitingContainer(object); why != "" {
				return InProgress, why
			}
			return InProgress, said(reason, message)
		}
		return Current, ""
	default:
		if status, reason, message := condition(object, "PodScheduled"); status == "False" {
			return InProgress, said(reason, message)
		}
		if why := waitingContainer(object); why != "" {
			return InProgress, why
		}
		return InProgress, "it has not started"
	}
}

// waitingContainer says what a Pod's container waits for.
func waitingContainer(object map[string]any) string {
	for _, list := range []string{"initContainerStatuses", "containerStatuses"} {
		all, _ := at(object, "status", list).([]any)
		for _, c := range all {
			c, _ := c.(map[string]any)
			if reason := text(c, "state", "waiting", "reason"); reason != "" {
				return text(c, "name") + ": " + said(reason, text(c, "state", "waiting", "message"))
			}
		}
	}
	return ""
}

func service(object map[string]any) (Health, string) {
	if text(object, "spec", "type") != "LoadBalancer" {
		return Current, ""
	}
	if given, _ := at(object, "status", "loadBalancer", "ingress").([]any); len(given) == 0 {
		return InProgress, "it has no address of a load balancer yet"
	}
	return Current, ""
}

func claim(object map[string]any) (Health, string) {
	switch phase := text(object, "status", "phase"); phase {
	case "Bound":
		return Current, ""
	case "Lost":
		return Failed, "its volume is lost"
	default:
		return InProgress, "it has no volume yet"
	}
}

func namespace(object map[string]any) (Health, string) {
	if text(object, "status", "phase") == "Terminating" {
		return Terminating, "it is being deleted"
	}
	return Current, ""
}

func budget(object map[string]any) (Health, string) {
	if status, reason, message := condition(object, "DisruptionAllowed"); status == "False" && reason == "SyncFailed" {
		return InProgress, said(reason, message)
	}
	return Current, ""
}

func definition(object map[string]any) (Health, string) {
	if status, reason, message := condition(object, "NamesAccepted"); status == "False" {
		return Failed, said(reason, message)
	}
	if status, reason, message := condition(object, "Established"); status != "True" {
		if status == "False" && reason != "Installing" {
			return Failed, said(reason, message)
		}
		return InProgress, "it is not established yet"
	}
	return Current, ""
}

// phased judges what tells in status.phase how far it is.
func phased(good []string, bad ...string) func(map[string]any) (Health, string) {
	return func(object map[string]any) (Health, string) {
		phase, message := text(object, "status", "phase"), text(object, "status", "message")
		switch {
		case slices.Contains(good, phase):
			return Current, ""
		case slices.Contains(bad, phase):
			return Failed, said(phase, message)
		case phase == "":
			return InProgress, "its controller has not seen it yet"
		}
		return InProgress, said(phase, message)
	}
}
