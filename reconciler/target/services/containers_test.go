package services

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/headgate-cd/headgate/reconciler/target"
	"github.com/headgate-cd/headgate/reconciler/target/services/engine/enginetest"
	"github.com/headgate-cd/headgate/reconciler/target/targettest"
)

// page is a service of two containers that says which release it is of.
const page = `services:
  web:
    image: headgate.test/busybox:1
    command:
      - /bin/sh
      - -c
      - |
        trap 'exit 0' TERM
        mkdir -p /tmp/www
        echo release $HEADGATE_RELEASE of $HEADGATE_INSTANCE > /tmp/www/index.html
        httpd -f -p $PORT -h /tmp/www & wait
    ports: ["0:8080"]
    x-headgate: {health: /, drain: 10m, passes: 1}
    healthcheck: {interval: 200ms, start_period: 10m}
    deploy: {replicas: 2}
`

// TestContainers holds containers to what processes are held to, with a real engine.
func TestContainers(t *testing.T) {
	enginetest.Run(t, func(t *testing.T, d *enginetest.Daemon) {
		t.Cleanup(http.DefaultClient.CloseIdleConnections)
		open := func(t *testing.T, dir, logs string) *harness {
			return openIn(t, dir, logs, func(s *Target) { s.Engine = d.Host })
		}
		t.Run("runner", func(t *testing.T) {
			t.Parallel()
			testRunner(t, runsAs{of: "    image: " + enginetest.Image + "\n", open: open})
		})
		t.Run("contract", func(t *testing.T) {
			t.Parallel()
			testContainersContract(t, d)
		})
		for _, c := range []struct {
			name string
			test func(t *testing.T, d *enginetest.Daemon, h *harness)
		}{
			{"replaced without a failed request, and found again", testContainersReplaced},
			{"an image that cannot be had", testImageMissing},
		} {
			t.Run(c.name, func(t *testing.T) {
				t.Parallel()
				c.test(t, d, open(t, t.TempDir(), t.TempDir()))
			})
		}
	})
}

func testContainersContract(t *testing.T, d *enginetest.Daemon) {
	compose := func(text string) target.Files { return target.Files{composeFile: []byte(text)} }
	good := strings.Replace(page, "replicas: 2", "replicas: 1", 1)
	targettest.RunParallel(t, func(t *testing.T) targettest.Subject {
		s := New(t.TempDir(), t.TempDir(), unpackSelf)
		s.Engine = d.Host
		return targettest.Subject{
			Target: s,
			Good:   compose(good),
			Broken: compose(strings.Replace(good, "trap 'exit 0' TERM", "exit 1", 1)),
			Bad:    map[string]target.Files{"compose.yaml:3": compose("services:\n  web:\n    image: Not An Image\n")},
			Release: func(n int) target.Release {
				return target.Release{Number: n, Commit: "abc", Artifacts: map[string]string{"main": digest(n)}}
			},
		}
	})
}

// loaded asks for a page again and again until stop is called, which says how often it
// was answered.
func loaded(t *testing.T, url string) (stop func() (answered int)) {
	ctx, cancel := context.WithCancel(context.Background())
	var answered atomic.Int64
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			status, body, err := get(url)
			if err != nil || status != http.StatusOK || !strings.HasPrefix(body, "release ") {
				t.Errorf("a request failed: %d %q %v", status, body, err)
			}
			answered.Add(1)
		}
	}()
	return func() int {
		cancel()
		<-done
		return int(answered.Load())
	}
}

func instances(o target.Observed) (all []string) {
	for _, u := range o.Units {
		for _, in := range u.Instances {
			all = append(all, fmt.Sprintf("%s %d", in.ID, in.PID))
		}
	}
	slices.Sort(all)
	return all
}

func testContainersReplaced(t *testing.T, d *enginetest.Daemon, h *harness) {
	h.converge(1, page)
	first := h.await(target.Healthy)
	h.get("/", "release 1 of web-")
	stop := loaded(t, first.Units[0].URL)
	h.converge(2, page)
	second := h.await(target.Healthy)
	eventually(t, "release 1 is gone", func() (string, bool) {
		second = h.Observe(h.key())
		return fmt.Sprintf("%+v", second), len(second.Units[0].Instances) == 2
	})
	h.get("/", "release 2 of web-")
	if n := stop(); n == 0 {
		t.Error("nothing was asked meanwhile")
	}
	second = h.await(target.Healthy)
	h.leave()
	h2 := openIn(t, h.Dir, h.LogDir, func(s *Target) { s.Engine = d.Host })
	h2.seq = h.seq
	if again := h2.await(target.Healthy); !slices.Equal(instances(second), instances(again)) {
		t.Errorf("there was %v, and there is %v", instances(second), instances(again))
	}
	h2.get("/", "release 2 of web-")
}

func testImageMissing(t *testing.T, d *enginetest.Daemon, h *harness) {
	h.converge(1, page)
	h.await(target.Healthy)
	h.converge(2, strings.Replace(page, "image: headgate.test/busybox:1", "image: 127.0.0.1:1/no/such:1", 1))
	o := h.await(target.Failed)
	if o.Reason != target.ReasonRegistryUnavailable || !strings.Contains(o.Message, "the registry of image 127.0.0.1:1/no/such:1 does not give it") {
		t.Errorf("%s: %s", o.Reason, o.Message)
	}
	h.get("/", "release 1 of web-")
}
