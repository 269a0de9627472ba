package services

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	moby "github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"

	"github.com/headgate-cd/headgate/gitd/engine/enginetest"
	"github.com/headgate-cd/headgate/reconciler/target"
)

// small are so many services, of so many instances each, of which hundreds have place
// on one machine.
func small(services, replicas int) string {
	var compose strings.Builder
	compose.WriteString("services:\n")
	for i := range services {
		fmt.Fprintf(&compose, `  web%d:
    command: sh -c 'exec busybox httpd -f -p 127.0.0.1:$$PORT -h /etc'
    ports: ["0:80"]
    x-headgate: {health: /hosts}
    healthcheck: {interval: 30s, timeout: 1m, start_period: 10m, start_interval: 1s}
    deploy: {replicas: %d}
`, i, replicas)
	}
	return compose.String()
}

// BenchmarkReplace replaces 20 instances, a few at a time, under 2,000 requests a
// second. Goal: none fails.
func BenchmarkReplace(b *testing.B) {
	const perSecond, connections = 2000, 32
	replicas := strings.Replace(web, "replicas: 2", "replicas: 20", 1) +
		"\nx-headgate: {deployment: {strategy: rolling, minimum_healthy: 100, maximum: 120}}\n"
	h := open(b, true)
	h.converge(1, replicas)
	url := h.await(target.Healthy).Units[0].URL
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: connections}, Timeout: time.Minute}

	var sent, failed atomic.Int64
	ctx, stop := context.WithCancel(context.Background())
	var asking sync.WaitGroup
	began := time.Now()
	for range connections {
		asking.Go(func() {
			for ctx.Err() == nil {
				// Nobody asks earlier than their turn; on a slow machine all ask later.
				due := began.Add(time.Duration(sent.Add(1)) * time.Second / perSecond)
				time.Sleep(time.Until(due))
				resp, err := client.Get(url)
				if err != nil {
					failed.Add(1)
					continue
				}
				if resp.StatusCode != http.StatusOK {
					failed.Add(1)
				}
				resp.Body.Close()
			}
		})
	}
	for b.Loop() {
		h.converge(h.seq+1, strings.Replace(replicas, "hello", "bye", 1))
		o := h.await(target.Healthy)
		eventually(b, "all instances are new", func() (string, bool) {
			o = h.Observe(h.key())
			return fmt.Sprint(o.Units), len(o.Units[0].Instances) == 20 &&
				!slices.ContainsFunc(o.Units[0].Instances, func(in target.Instance) bool { return in.Release != h.seq })
		})
	}
	stop()
	asking.Wait()
	took := time.Since(began)
	client.CloseIdleConnections()
	h.end()
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(float64(sent.Load())/took.Seconds(), "requests/s")
	b.ReportMetric(float64(failed.Load()), "failed,goal-0")
	if failed.Load() > 0 {
		b.Errorf("%d of %d requests failed", failed.Load(), sent.Load())
	}
}

// BenchmarkAdopt is the start of another process, after a kill, until it has taken over
// the 100 instances that went on running. Goal: 1 s.
func BenchmarkAdopt(b *testing.B) {
	const instances = 100
	for b.Loop() {
		a := abandon(b, true, small(1, instances))
		began := time.Now()
		h := a.next()
		eventually(b, "all are taken over", func() (string, bool) {
			n := len(pids(h.Observe(a.key)))
			return strconv.Itoa(n), n == instances
		})
		took := time.Since(began)
		h.end()
		b.ReportMetric(0, "ns/op")
		b.ReportMetric(took.Seconds()*1000, "ms,goal-1000")
	}
}

// BenchmarkIdle is what a process costs that keeps 500 healthy instances, while
// nothing happens but their health checks. Goals: 2 % of a processor, 100 MB.
func BenchmarkIdle(b *testing.B) {
	const settled, watched = 65 * time.Second, 30 * time.Second // every instance is checked twice, and once
	self, err := os.Executable()
	if err != nil {
		b.Fatal(err)
	}
	dir, logs := b.TempDir(), b.TempDir()
	environment := fmt.Sprintf("idle-%d", os.Getpid())
	cmd := exec.Command(self)
	cmd.Env = []string{
		"BE_TARGET=confined",
		"PATH=" + os.Getenv("PATH"),
		"WORK=" + dir,
		"LOGS=" + logs,
		"ENVIRONMENT=" + environment,
		"COMPOSE=" + small(5, 100),
	}
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // it was killed
		for _, process := range processesOf(environment) {
			pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(process)))
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	})
	said := make([]byte, 1000)
	if n, err := out.Read(said); err != nil || string(said[:n]) != "healthy\n" {
		b.Fatalf("%q %v", said[:n], err)
	}
	time.Sleep(settled) // until nothing of the start is left
	for b.Loop() {
		before := processorTime(b, cmd.Process.Pid)
		time.Sleep(watched)
		share := (processorTime(b, cmd.Process.Pid) - before).Seconds() / watched.Seconds()
		b.ReportMetric(0, "ns/op")
		b.ReportMetric(100*share, "%-of-a-core,goal-2")
		b.ReportMetric(residentMB(b, cmd.Process.Pid), "MB,goal-100")
	}
}

// BenchmarkDrift is how long it takes until it is seen that an instance was killed, and that
// a file of the release was edited. Goal: 5 s.
func BenchmarkDrift(b *testing.B) {
	const times = 8
	h := open(b, true)
	one := strings.Replace(web, "replicas: 2", "replicas: 1", 1)
	h.converge(1, one)
	o := h.await(target.Healthy)
	var killed, edited []time.Duration
	for range times {
		before := o.Units[0].Instances[0]
		took := seen(h, func(in target.Instance) bool { return in.PID != before.PID || in.Restarts > before.Restarts }, func() {
			if err := syscall.Kill(before.PID, syscall.SIGKILL); err != nil {
				b.Fatal(err)
			}
		})
		killed, o = append(killed, took), h.await(target.Healthy)

		file := filepath.Join(h.releases.Directory(digest(1)), "digest")
		before = o.Units[0].Instances[0]
		took = seen(h, func(in target.Instance) bool { return in.ID != before.ID }, func() {
			if err := errors.Join(os.Chmod(file, 0o644), os.WriteFile(file, []byte("edited"), 0o644)); err != nil {
				b.Fatal(err)
			}
		})
		edited = append(edited, took)
		eventually(b, "there is one instance, of the release as it was", func() (string, bool) {
			o = h.Observe(h.key())
			return fmt.Sprintf("%+v", o), o.State == target.Healthy && len(o.Units[0].Instances) == 1
		})
	}
	h.end()
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(slowest(killed), "ms-killed,goal-5000")
	b.ReportMetric(slowest(edited), "ms-edited,goal-5000")
}

// BenchmarkContainerDrift is how long it takes until it is seen that somebody has removed a
// container, and has made one more. Goal: 5 s.
func BenchmarkContainerDrift(b *testing.B) {
	enginetest.Benchmark(b, func(b *testing.B, d *enginetest.Daemon) {
		const times = 5
		dir := b.TempDir()
		h := openIn(b, dir, b.TempDir(), func(s *Target) { s.Engine = d.Host })
		one := strings.Replace(page, "replicas: 2", "replicas: 1", 1)
		h.converge(1, one)
		o := h.await(target.Healthy)
		var removed, extra []time.Duration
		for range times {
			names := containersOf(b, d, h.env)
			found, err := d.API.ContainerInspect(b.Context(), names[0], client.ContainerInspectOptions{})
			if err != nil {
				b.Fatal(err)
			}
			before := o.Units[0].Instances[0]
			again := func(in target.Instance) bool { return in.Restarts > before.Restarts }
			removed = append(removed, seen(h, again, func() {
				if _, err := d.API.ContainerRemove(b.Context(), names[0], client.ContainerRemoveOptions{Force: true}); err != nil {
					b.Fatal(err)
				}
			}))
			o = h.await(target.Healthy)

			made, err := d.API.ContainerCreate(b.Context(), client.ContainerCreateOptions{
				Name:   "extra-" + h.env,
				Config: &moby.Config{Image: enginetest.Image, Cmd: []string{"sleep", "1000"}, Labels: found.Container.Config.Labels},
			})
			if err == nil {
				_, err = d.API.ContainerStart(b.Context(), made.ID, client.ContainerStartOptions{})
			}
			if err != nil {
				b.Fatal(err)
			}
			began := time.Now()
			eventually(b, "the extra container is gone", func() (string, bool) {
				all := containersOf(b, d, h.env)
				return fmt.Sprint(all), len(all) == 1
			})
			extra = append(extra, time.Since(began))
		}
		h.end()
		b.ReportMetric(0, "ns/op")
		b.ReportMetric(slowest(removed), "ms-removed,goal-5000")
		b.ReportMetric(slowest(extra), "ms-extra-and-ended,goal-5000")
	})
}

// seen is how long it takes from when something is done until an instance is reported that
// is not as it was.
func seen(h *harness, differs func(target.Instance) bool, do func()) time.Duration {
	h.t.Helper()
	changed, end := h.Watch(h.key())
	defer end()
	began := time.Now()
	do()
	for late := time.After(waitTimeout); ; {
		o := h.Observe(h.key())
		if o.State != target.Healthy || slices.ContainsFunc(o.Units[0].Instances, differs) {
			return time.Since(began)
		}
		select {
		case <-changed:
		case <-late:
			h.t.Fatalf("it is not seen: %+v", o)
		}
	}
}

func slowest(all []time.Duration) (ms float64) { return slices.Max(all).Seconds() * 1000 }

// processorTime is what a process itself has taken.
func processorTime(b *testing.B, pid int) time.Duration {
	b.Helper()
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		b.Fatal(err)
	}
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	user, _ := strconv.Atoi(fields[11]) // the kernel wrote it
	system, _ := strconv.Atoi(fields[12])
	return time.Duration(user+system) * time.Second / 100
}

func residentMB(b *testing.B, pid int) float64 {
	b.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		b.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(status), "VmRSS:")
	kb, err := strconv.ParseFloat(strings.Fields(rest)[0], 64)
	if err != nil {
		b.Fatal(err)
	}
	return kb / 1000
}
