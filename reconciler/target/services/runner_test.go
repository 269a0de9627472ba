package services

import (
	"bytes"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/headgate-cd/headgate/gitd/tty"
	"github.com/headgate-cd/headgate/reconciler/target"
	"github.com/headgate-cd/headgate/reconciler/target/unpacked"
)

// runsAs is a way in which instances run.
type runsAs struct {
	of   string                                        // what a service says about what it runs from
	open func(t *testing.T, dir, logs string) *harness // a target that keeps to these directories
}

// compose declares a service that runs a shell script.
func (r runsAs) compose(script string, more ...string) string {
	return "services:\n  job:\n" + r.of +
		fmt.Sprintf("    command: [/bin/sh, -c, %q]\n    %s\n", script, strings.Join(more, "\n    "))
}

// ready has an instance without a port say when it is ready. Its check may take as long as
// it does on a machine that has much else to do, as all may here that are not about time.
const ready = "healthcheck: {test: [CMD, test, -e, /tmp/ready], interval: 100ms, timeout: 5m, start_period: 10m}"

func TestProcessesAreRunners(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("bwrap"); err != nil {
		t.Fatal("bubblewrap is not installed: apt-get install bubblewrap")
	}
	testRunner(t, runsAs{open: func(t *testing.T, dir, logs string) *harness {
		return openIn(t, dir, logs, func(*Target) {})
	}})
}

// openIn runs a target that keeps to directories.
func openIn(t testing.TB, dir, logs string, prepare func(*Target)) *harness {
	t.Helper()
	h := &harness{t: t, env: fmt.Sprintf("in-%d-%x", os.Getpid(), crc32.ChecksumIEEE([]byte(dir)))}
	h.Target = New(dir, logs, unpackSelf)
	h.meter.every = 100 * time.Millisecond
	prepare(h.Target)
	h.run(func() {
		if err := unpacked.RemoveTree(dir); err != nil {
			t.Error(err)
		}
	})
	return h
}

// testRunner holds a runner to what both have to do.
func testRunner(t *testing.T, r runsAs) {
	open := func(t *testing.T) *harness {
		t.Parallel()
		return r.open(t, t.TempDir(), t.TempDir())
	}
	gone := func(t *testing.T, h *harness) {
		t.Helper()
		h.Remove(h.key(), h.seq+1)
		changed, end := h.Watch(h.key())
		defer end()
		for late := time.After(waitTimeout); h.Observe(h.key()).Commit != ""; {
			select {
			case <-changed:
			case <-late:
				t.Fatalf("it does not go away: %+v", h.Observe(h.key()))
			}
		}
	}
	t.Run("it prints, and ends badly", func(t *testing.T) {
		h := open(t)
		h.converge(4, r.compose("echo \"$$GREETING from $HEADGATE_RELEASE\"; echo oops >&2; exit 3",
			`environment: {GREETING: "hello $HEADGATE_INSTANCE"}`, `restart: "no"`))
		o := h.await(target.Failed)
		if len(o.Units) == 0 {
			t.Fatalf("%s", o.Message)
		}
		in := o.Units[0].Instances[0]
		if in.Phase != target.PhaseFailed || !strings.HasPrefix(in.LastExit, "exited 3") || in.Reason != "" {
			t.Errorf("it ended: %+v", in)
		}
		h.logged(t, "job-1", " hello job-1 from 4\n", " oops", "started job-1 of release 4", "job-1 exited 3")
	})

	t.Run("it is checked where it runs, and stopped by its signal", func(t *testing.T) {
		h := open(t)
		h.converge(1, r.compose("trap 'echo bye; exit 0' USR1; touch /tmp/ready; while :; do sleep 0.05; done",
			"stop_signal: SIGUSR1", "stop_grace_period: 10m", ready))
		o := h.await(target.Healthy)
		if in := o.Units[0].Instances[0]; in.PID == 0 || syscall.Kill(in.PID, 0) != nil {
			t.Errorf("it has no process: %+v", in)
		}
		gone(t, h)
		h.logged(t, "job-1", " bye\n", "job-1 exited 0")
	})

	t.Run("it takes too long, and has failed", func(t *testing.T) {
		h := open(t)
		h.converge(1, r.compose("trap 'exit 0' TERM; while :; do sleep 0.05; done",
			`restart: "no"`, "stop_grace_period: 10s", "x-headgate: {max_time: 3s}"))
		o := h.await(target.Failed)
		in := o.Units[0].Instances[0]
		if in.Phase != target.PhaseFailed || in.Reason != target.ReasonTimedOut ||
			!strings.HasPrefix(in.LastExit, "ran longer than 3s (x-headgate.max_time) and ") {
			t.Errorf("it ended: %+v", in)
		}
		h.logged(t, "job-1", "job-1 ran longer than 3s")
	})

	t.Run("it does not end, and is ended", func(t *testing.T) {
		h := open(t)
		h.converge(1, r.compose("trap '' TERM; touch /tmp/ready; while :; do sleep 0.05; done",
			"stop_grace_period: 100ms", ready))
		h.await(target.Healthy)
		gone(t, h)
		h.logged(t, "job-1", "job-1 was ended by SIGKILL")
	})

	t.Run("what its command leaves behind is reaped", func(t *testing.T) {
		h := open(t)
		h.converge(1, r.compose("for i in 1 2 3 4 5; do (sleep 0.1 &); done; touch /tmp/ready; exec sleep 100000",
			"init: true", "stop_grace_period: 100ms", ready))
		h.await(target.Healthy)
		eventually(t, "none of it is left", func() (string, bool) {
			var stats bytes.Buffer
			_, err := h.Exec(t.Context(), h.key(), target.Exec{
				Unit:    "job",
				By:      "ada",
				Command: []string{"sh", "-c", "cat /proc/[0-9]*/stat"},
				Streams: tty.Streams{Out: &stats, Err: io.Discard},
			})
			return fmt.Sprint(stats.String(), err), err == nil && strings.Contains(stats.String(), "(sleep) S") &&
				strings.Count(stats.String(), "(sleep)") == 1
		})
		gone(t, h)
	})

	t.Run("it is seen what it uses", func(t *testing.T) {
		h := open(t)
		// dd has read 64 MiB and waits for somebody to take them.
		h.converge(1, r.compose("dd if=/dev/zero bs=64M | { touch /tmp/ready; while :; do :; done; }",
			"stop_grace_period: 100ms", ready))
		changed, end := h.Watch(h.key())
		defer end()
		var u *target.Usage
		for late := time.After(waitTimeout); u == nil || u.CPU == 0 || u.Memory < 64<<20; {
			select {
			case <-changed:
			case <-late:
				t.Fatalf("of an instance that is busy and has 64 MiB is seen: %+v", u)
			}
			if o := h.Observe(h.key()); len(o.Units) > 0 && len(o.Units[0].Instances) > 0 {
				u = o.Units[0].Instances[0].Usage
			}
		}
		if u.CPU > float64(2*runtime.NumCPU()) || u.Memory > 256<<20 || u.MemoryLimit != 0 {
			t.Errorf("it uses %+v", u)
		}
		gone(t, h)
	})

	t.Run("it is given secrets", func(t *testing.T) {
		t.Parallel()
		testSecrets(t, r)
	})

	t.Run("people run commands in it", func(t *testing.T) {
		h := open(t)
		testExec(t, h, r)
		gone(t, h)
		h.logged(t, "job-1", "ada runs in job-1: sh -c cat", "what ada ran in job-1 exited 3")
	})

	t.Run("hooks run commands in it", func(t *testing.T) {
		h := open(t)
		testHooks(t, r, h)
		gone(t, h)
	})

	t.Run("it runs at times", func(t *testing.T) {
		t.Parallel()
		testRunsAtTimes(t, r, gone)
	})

	t.Run("it goes on without an agent, and is found again", func(t *testing.T) {
		t.Parallel()
		testFoundAgain(t, r)
	})
}

// testFoundAgain: what runs goes on without an agent, and the next one has its whole log.
func testFoundAgain(t *testing.T, r runsAs) {
	dir, logs := t.TempDir(), t.TempDir()
	h := r.open(t, dir, logs)
	h.converge(1, r.compose("touch /tmp/ready; i=0; while :; do i=$$((i+1)); echo line $$i; sleep 0.02; done",
		"stop_grace_period: 100ms", ready))
	before := h.await(target.Healthy)
	h.leave()

	h2 := r.open(t, dir, logs)
	h2.seq = h.seq
	after := h2.await(target.Healthy)
	if !slices.Equal(pids(before), pids(after)) || len(pids(after)) != 1 {
		t.Errorf("it was found as %v and had been %v", pids(after), pids(before))
	}
	text := h2.logged(t, "job-1", "found job-1 of release 1")
	want := 1
	for line := range strings.Lines(text) {
		if _, n, ok := strings.Cut(line, " line "); ok {
			if n = strings.TrimSpace(n); n != fmt.Sprint(want) {
				t.Fatalf("after line %d came line %s:\n%s", want-1, n, text)
			}
			want++
		}
	}
	h2.leave()

	// It ends while nobody looks.
	pid := pids(after)[0]
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it has ended", func() (string, bool) { return "", syscall.Kill(pid, 0) != nil })
	h3 := r.open(t, dir, logs)
	h3.seq = h.seq
	eventually(t, "how it ended is known", func() (string, bool) {
		o := h3.Observe(h3.key())
		for _, u := range o.Units {
			for _, in := range u.Instances {
				return in.LastExit, strings.HasPrefix(in.LastExit, "was ended by SIGKILL")
			}
		}
		return fmt.Sprintf("%+v", o), false
	})
	h3.await(target.Healthy)
}

// logged is the log of an instance, which holds what is wanted.
func (h *harness) logged(t *testing.T, instance string, wants ...string) string {
	t.Helper()
	lines, err := h.InstanceLog(h.key(), instance, 1000)
	if err != nil {
		t.Fatal(err)
	}
	text := strings.Join(lines, "\n")
	for _, want := range wants {
		if !strings.Contains(text, want) {
			t.Errorf("the log does not hold %q:\n%s", want, text)
		}
	}
	return text
}
