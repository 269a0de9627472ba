package kubernetes

import (
	"fmt"
	"strconv"
	"strings"
)

// Hook is when a Job runs that is no part of what runs, but has to succeed for it: once a promotion.
type Hook string

// The hooks, by the value of HookAnnotation.
const (
	NoHook     Hook = ""
	HookBefore Hook = "before" // when what workloads need is there, and before they are applied
	HookAfter  Hook = "after"  // when all is healthy
)

// HookAnnotation makes a Job a hook.
const HookAnnotation = "headgate.dev/hook"

// HookOf is the hook that an object is.
func HookOf(annotations map[string]string) Hook { return Hook(annotations[HookAnnotation]) }

// maxJobName is what the names of a Job's Pods leave of room.
const maxJobName = 63

// HookName is what a hook's Job is called at a place in its environment's line: a Job that has run cannot run again.
func HookName(name string, sequence int) string {
	suffix := "-" + strconv.Itoa(sequence)
	return strings.TrimRight(name[:min(len(name), maxJobName-len(suffix))], "-.") + suffix
}

// HookHealth judges a hook's Job: Current is that it has succeeded.
func HookHealth(object map[string]any) (Health, string) {
	health, why := HealthOf(object)
	if status, _, _ := condition(object, "Complete"); health == Current && status != "True" {
		return InProgress, why
	}
	return health, why
}

// judgeHook says what is wrong with what an object says of being a hook.
func (o Object) judgeHook(problem func(what, fix string, keys ...string)) {
	v, ok := mapAt(o.Content, "metadata", "annotations")[HookAnnotation]
	if !ok {
		return
	}
	id := o.ID()
	switch {
	case v != string(HookBefore) && v != string(HookAfter):
		problem(fmt.Sprintf("%s is %q", HookAnnotation, fmt.Sprint(v)), "write before, or after", "metadata", "annotations",
			HookAnnotation)
	case id.Group != "batch" || id.Kind != "Job":
		problem(fmt.Sprintf("a %s cannot be a hook", id.Kind), "make it a Job of batch/v1, or remove "+HookAnnotation, "metadata",
			"annotations", HookAnnotation)
	case at(o.Content, "spec", "ttlSecondsAfterFinished") != nil:
		problem("a hook's Job must not go by itself, since that it has run is seen from it",
			"remove it: the next promotion removes the Job", "spec", "ttlSecondsAfterFinished")
	}
}
