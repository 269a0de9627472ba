package main

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/headgate-cd/headgate/cmd/headgate-kube/cluster/planetest"
)

// BenchmarkApplied measures from a push that has landed to its object in the cluster, of many pushes one after another.
func BenchmarkApplied(b *testing.B) {
	const pushes = 20
	planetest.Get(b)
	s := serve(b, programs(b))
	c := install(b, s, "--name", "production", "--tag", "cluster=production", "--namespace", "bench", "--image",
		"registry.example.org/headgate-kube:1")
	c.start()
	s.shows("agent list", "now, since")
	s.repository("bench")
	file := func(says string) map[string]string {
		return map[string]string{"deploy/config.yaml": configMap("config", says, "")}
	}
	files := file("first")
	files["buildspec.yml"] = "version: 0.2\nphases: {build: {commands: [\"true\"]}}\n"
	files["headgate.yaml"] = "environments: {production: {target: kubernetes, path: deploy}}\n"
	files["deploy/kubernetes.yaml"] = "tags: {cluster: production}\nnamespace: bench\n"
	s.release("bench", "First", files)
	applied := func(says string) {
		s.await(says+" is applied", func() bool {
			u := c.get("v1/configmaps", "bench", "config")
			if u == nil {
				return false
			}
			has, _, _ := unstructured.NestedString(u.Object, "data", "says")
			return has == says
		})
	}
	applied("first")
	for b.Loop() {
		var took []time.Duration
		for i := range pushes {
			says := fmt.Sprintf("push-%d", i)
			s.release("bench", says, file(says))
			landed := time.Now()
			applied(says)
			took = append(took, time.Since(landed))
		}
		slices.Sort(took)
		b.ReportMetric(took[len(took)/2].Seconds(), "s/p50")
		b.ReportMetric(took[len(took)*95/100].Seconds(), "s/p95")
	}
}
