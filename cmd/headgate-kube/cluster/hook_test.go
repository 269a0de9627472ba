package cluster

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/headgate-cd/headgate/cmd/headgate-kube/cluster/planetest"
	"github.com/headgate-cd/headgate/reconciler/target"
)

const hookJob = `apiVersion: batch/v1
kind: Job
metadata: {name: %s, annotations: {headgate.dev/hook: %s}}
spec:
  backoffLimit: 0
  template:
    spec: {restartPolicy: Never, containers: [{name: it, image: "example.org/%s"}]}
`

// over has a Job come to its end.
func (s *subject) over(name string) {
	s.Helper()
	status, err := json.Marshal(map[string]any{"status": planetest.JobStatus(false)})
	if err != nil {
		s.Fatal(err)
	}
	s.change("batch/v1/jobs", name, string(status), "status")
}

// waiting is that a Job is waited for.
func waiting(sequence int, job string) func(o target.Observed) bool {
	return func(o target.Observed) bool {
		return is(sequence, target.Converging)(o) && strings.Contains(o.Message, "waits for Job ") &&
			strings.Contains(o.Message, "/"+job+": ")
	}
}

// TestHooks: Jobs run before and after what they belong to, each once at a place, whoever is killed and whatever becomes
// of them; one that fails is the end of it.
func TestHooks(t *testing.T) {
	s := fresh(t)
	s.plane.Controllers(t, s.shop)
	s.Converge(s.declare(1, deployment, fmt.Sprintf(configMap, "needed", "x"), fmt.Sprintf(hookJob, "migrate", "before", "held"),
		fmt.Sprintf(hookJob, "smoke", "after", "held")))
	s.await("its hook", waiting(1, "migrate-1"))
	if s.there("apps/v1/deployments", "web") || !s.there("v1/configmaps", "needed") {
		t.Error("it is applied before its hook has succeeded, or what the hook needs is not")
	}

	// Killed while it runs, another process waits for the same Job.
	s.end()
	s = start(t, s.plane, s.own, s.shop)
	s.await("its hook, by another process", waiting(1, "migrate-1"))
	s.over("migrate-1")
	o := s.await("its last hook", waiting(1, "smoke-1"))
	if !s.there("apps/v1/deployments", "web") || len(o.Units) != 1 || o.Units[0].Name != "job/smoke-1" {
		t.Errorf("%+v", o.Units)
	}
	s.over("smoke-1")
	s.await("healthy", is(1, target.Healthy))

	// What has run is not run again: neither when it is gone, nor to heal, nor by another process.
	for _, name := range []string{"migrate-1", "smoke-1"} {
		if err := s.Client.Resource(planetest.Jobs).Namespace(s.shop).Delete(t.Context(), name,
			metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	s.end()
	s = start(t, s.plane, s.own, s.shop)
	s.await("healthy by another process", is(1, target.Healthy))
	before := s.get("apps/v1/deployments", "web").GetGeneration()
	s.change("apps/v1/deployments", "web", `{"spec": {"replicas": 5}}`)
	s.await("healed", func(o target.Observed) bool {
		return is(1, target.Healthy)(o) && s.get("apps/v1/deployments", "web").GetGeneration() > before+1
	})
	if s.there("batch/v1/jobs", "migrate-1") || s.there("batch/v1/jobs", "smoke-1") {
		t.Error("a hook has run twice")
	}

	// A newer promotion ends what runs for an older one before its own begins.
	s.Converge(s.declare(2, deployment, fmt.Sprintf(hookJob, "migrate", "before", "held")))
	s.await("its hook", waiting(2, "migrate-2"))
	s.Converge(s.declare(3, strings.Replace(deployment, "replicas: 2", "replicas: 3", 1),
		fmt.Sprintf(hookJob, "migrate", "before", "broken")))
	o = s.await("failed", is(3, target.Failed))
	if !o.RollBack || !strings.Contains(o.Message, "migrate-3") || !strings.Contains(o.Message, "BackoffLimitExceeded") {
		t.Errorf("%+v", o)
	}
	if s.there("batch/v1/jobs", "migrate-2") {
		t.Error("two of them run at a time")
	}
	if n := s.get("apps/v1/deployments", "web"); n.GetAnnotations()[sequenceAnnotation] != "1" {
		t.Error("it is applied although its hook has failed")
	}
}
