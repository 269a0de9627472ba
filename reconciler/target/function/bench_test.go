package function

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"
)

// BenchmarkWarm is an invocation of an instance that is warm, beside the same handler asked
// over HTTP without Lambda's APIs: the difference is what they cost.
func BenchmarkWarm(b *testing.B) {
	plain := httptest.NewServer(
		http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `{"text":"ann"}`) }))
	defer plain.Close()
	h := newHarness(b)
	h.declare(1, 1, files("functions: {hello: {timeout: 5m}}\n"))
	h.healthy(1)
	invoked := h.app().invokeURL() + "/2015-03-31/functions/hello:live/invocations"
	median := func(url string) time.Duration {
		var took []time.Duration
		for range 2000 {
			began := time.Now()
			if resp, said := h.post(url, `{"Text": "ann"}`); !strings.Contains(said, `"text":"ann"`) {
				b.Fatalf("%s: %s", resp.Status, said)
			}
			took = append(took, time.Since(began))
		}
		slices.Sort(took)
		return took[len(took)/2]
	}
	for b.Loop() {
		over := median(plain.URL)
		warm := median(invoked)
		b.ReportMetric(float64(warm.Microseconds())/1000, "ms-warm-p50")
		b.ReportMetric(float64((warm-over).Microseconds())/1000, "ms-over-http-p50")
	}
}

// BenchmarkCanary is 10,000 invocations through a canary of 10 percent: how many it gets.
func BenchmarkCanary(b *testing.B) {
	h := newHarness(b)
	settings := "deployment: {strategy: canary, percent: 10, interval: 1h}\nfunctions: {hello: {timeout: 5m}}\n"
	h.declare(1, 1, files(settings))
	h.healthy(1)
	h.declare(2, 2, files(settings))
	h.weight(10)
	for b.Loop() {
		second := 0
		for range 10_000 {
			if resp, _ := h.invoke("hello:live", `{}`); resp.Header.Get("X-Amz-Executed-Version") == "2" {
				second++
			}
		}
		b.ReportMetric(float64(second)/100, "%-canary")
	}
}

// BenchmarkCold is the first invocation of a version, from the start of its process, beside
// the start of the same program.
func BenchmarkCold(b *testing.B) {
	h := newHarness(b)
	h.declare(1, 1, files("functions: {hello: {timeout: 5m}}\n"))
	h.healthy(1)
	f := h.app().view.Load().functions["hello"]
	var cold, program []time.Duration
	for b.Loop() {
		for range 20 {
			f.mu.Lock()
			p := f.pools[1]
			f.mu.Unlock()
			p.reap(0)
			for len(p.instances(1)) > 0 {
				time.Sleep(time.Millisecond)
			}
			began := time.Now()
			if resp, said := h.invoke("hello:live", `{}`); resp.StatusCode != 200 {
				b.Fatal(said)
			}
			cold = append(cold, time.Since(began))

			began = time.Now()
			cmd := exec.Command(os.Args[0], "-test.run", "^$")
			if err := cmd.Run(); err != nil {
				b.Fatal(err)
			}
			program = append(program, time.Since(began))
		}
	}
	slices.Sort(cold)
	slices.Sort(program)
	b.ReportMetric(float64(cold[len(cold)/2].Microseconds())/1000, "ms-cold-p50")
	b.ReportMetric(float64((cold[len(cold)/2]-program[len(program)/2]).Microseconds())/1000, "ms-over-start-p50")
}
