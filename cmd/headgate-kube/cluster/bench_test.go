package cluster

import (
	"fmt"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/headgate-cd/headgate/cmd/headgate-kube/cluster/planetest"
	"github.com/headgate-cd/headgate/reconciler/target"
)

// counted counts the requests of one agent.
type counted struct {
	http.RoundTripper
	n *atomic.Int64
}

func (c counted) RoundTrip(r *http.Request) (*http.Response, error) {
	c.n.Add(1)
	return c.RoundTripper.RoundTrip(r)
}

// idleFor is how long an agent is looked at that has nothing to do.
const idleFor = time.Minute

// BenchmarkInSync has an agent start where many applications, of a Deployment and a ConfigMap each, are as declared: how
// long it is until it knows that of all, in how much memory; then what it asks the API server for without being asked
// anything, and when it has healed what somebody changes.
func BenchmarkInSync(b *testing.B) {
	for _, n := range []int{100, 1000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) { inSync(b, n) })
	}
}

func inSync(b *testing.B, n int) {
	p := planetest.Get(b)
	own, shop := p.Namespace(b, "agent"), p.Namespace(b, "shop")
	p.Controllers(b, shop)
	key := func(i int) target.Key {
		return target.Key{Repository: "hello", Application: fmt.Sprintf("app-%d", i), Environment: "staging"}
	}
	config := *p.Config
	config.QPS, config.Burst = 2000, 4000
	fast := &planetest.Plane{Config: &config}
	first := start(b, fast, own, shop)
	for i := range n {
		first.key = key(i)
		name := fmt.Sprintf("web-%d", i)
		first.Converge(first.declare(1, fmt.Sprintf(configMap, name, "one"),
			strings.Replace(deployment, "{name: web}", "{name: "+name+"}", 1)))
	}
	for i := range n {
		first.key = key(i)
		first.await("healthy", is(1, target.Healthy))
	}
	first.end()

	// As the program has it.
	var requests atomic.Int64
	config = *p.Config
	config.QPS, config.Burst = 50, 100
	config.Wrap(func(t http.RoundTripper) http.RoundTripper { return counted{t, &requests} })
	for b.Loop() {
		runtime.GC()
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		requests.Store(0)
		began := time.Now()
		s := start(b, &planetest.Plane{Config: &config}, own, shop)
		var all sync.WaitGroup
		for i := range n {
			one := *s
			one.key = key(i)
			all.Go(func() { one.await("healthy", is(1, target.Healthy)) })
		}
		all.Wait()
		b.ReportMetric(time.Since(began).Seconds(), "s/pass")
		b.ReportMetric(float64(requests.Load()), "requests/pass")
		runtime.GC()
		runtime.ReadMemStats(&after)
		b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/(1<<20), "MB")

		requests.Store(0)
		time.Sleep(idleFor)
		b.ReportMetric(float64(requests.Load())/idleFor.Minutes(), "requests/idle-minute")

		began = time.Now()
		s.change("v1/configmaps", "web-0", `{"data": {"says": "mine"}}`)
		for {
			says, _, _ := unstructured.NestedString(s.get("v1/configmaps", "web-0").Object, "data", "says")
			if says == "one" {
				break
			}
			time.Sleep(time.Millisecond)
		}
		b.ReportMetric(time.Since(began).Seconds(), "s/healed")
		s.end()
	}
}
