package services

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/headgate-cd/headgate/reconciler/target"
)

// TestKilledInARollout: wherever the agent is killed while one release follows another, the
// next one comes to the same end, by what is on disk alone, and nothing runs twice.
func TestKilledInARollout(t *testing.T) {
	t.Parallel()
	for _, point := range []string{
		"services.declared-kept",
		"services.instance-recorded", "services.instance-recorded:2",
		"services.instance-started", "services.instance-started:2",
		"services.before-switch", "services.switched",
		"services.instance-drained", "services.instance-drained:2",
		"services.instance-ended", "services.instance-forgotten", "services.instance-forgotten:2",
	} {
		t.Run(point, func(t *testing.T) {
			t.Parallel()
			a := abandon(t, true, web)
			before := a.commands()
			cmd := a.command("RELEASE=2", "HEADGATE_CRASH_AT="+point)
			if out, _ := cmd.Output(); cmd.ProcessState.ExitCode() != -1 {
				t.Fatalf("it was not killed: %s %s", cmd.ProcessState, out)
			}
			h := a.next()
			h.seq = 2
			var o target.Observed
			eventually(t, "there are two instances, of release 2", func() (string, bool) {
				o = h.Observe(a.key)
				if o.State != target.Healthy || o.Sequence != 2 || len(o.Units[0].Instances) != 2 {
					return fmt.Sprintf("%+v", o), false
				}
				old := func(in target.Instance) bool { return in.Release != 2 || !in.Serving }
				return fmt.Sprintf("%+v", o), !slices.ContainsFunc(o.Units[0].Instances, old)
			})
			h.get("/", "release 2")
			for _, pid := range pids(o) {
				if slices.Contains(before, pid) {
					t.Errorf("process %d was of release 1", pid)
				}
			}
			// Of each instance one process runs, and nothing that is on no record: its shell is the
			// sandbox's, and the command its child.
			if running := a.commands(); !slices.Equal(running, pids(o)) {
				t.Errorf("there run %v, and %v is said", running, pids(o))
			}
			h.end()
		})
	}
}

// TestKilledInADrain: what drains when the agent is killed is not kept by the next one, which
// has none of the requests that were in flight.
func TestKilledInADrain(t *testing.T) {
	t.Parallel()
	one := strings.Replace(web, "replicas: 2", "replicas: 1", 1) + "    stop_grace_period: 100ms\n"
	a := abandon(t, true, one)
	var state keptState
	read := func() {
		t.Helper()
		dir := filepath.Join(a.dir, "apps", "hello", a.key.Environment, "hello")
		if err := readRecord(filepath.Join(dir, "state.json"), &state); err != nil {
			t.Fatal(err)
		}
	}
	read()
	if len(state.Ports) != 1 {
		t.Fatalf("its addresses are %v", state.Ports)
	}
	var url string
	for _, port := range state.Ports {
		url = "http://" + address(port)
	}
	cmd := a.command("NEXT=2")
	told, err := cmd.StdinPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "a request is in flight", func() (string, bool) {
		resp, err := http.Get(url + "/slow")
		if err != nil {
			return err.Error(), false
		}
		t.Cleanup(func() { resp.Body.Close() })
		n, err := resp.Body.Read(make([]byte, 10))
		return fmt.Sprint(err), n > 0
	})
	if _, err := told.Write([]byte("\n")); err != nil {
		t.Fatal(err)
	}
	eventually(t, "release 1 drains", func() (string, bool) {
		read()
		_, in := state.Observed.Find("web-1")
		return fmt.Sprintf("%+v", in), in != nil && in.Phase == target.PhaseDraining
	})
	_ = cmd.Process.Kill()
	_ = cmd.Wait() // it was killed

	h := a.next()
	h.seq = 2
	eventually(t, "release 1 is gone", func() (string, bool) {
		o := h.Observe(a.key)
		return fmt.Sprintf("%+v", o), o.State == target.Healthy && len(o.Units[0].Instances) == 1 &&
			o.Units[0].Instances[0].ID == "web-2"
	})
	h.get("/", "release 2")
	h.end()
}

// TestKilledInACheck: an instance goes on whose check was under way when the agent was
// killed; the check ends with the agent, and the next one makes its own.
func TestKilledInACheck(t *testing.T) {
	t.Parallel()
	a := abandon(t, true, `services:
  job:
    command: [/bin/sh, -c, "while :; do sleep 0.05; done"]
    stop_grace_period: 100ms
    healthcheck:
      test: [CMD-SHELL, "test ! -e /tmp/hold || { touch /tmp/held; until test ! -e /tmp/hold; do sleep 0.05; done; }"]
      interval: 100ms
      timeout: 5m
      start_period: 10m
`)
	before := a.commands()
	if len(before) != 1 {
		t.Fatalf("there run %v", before)
	}
	in := func(name string) string { return filepath.Join("/proc", fmt.Sprint(before[0]), "root/tmp", name) }
	if err := os.WriteFile(in("hold"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	cmd := a.command()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a check is under way", func() (string, bool) {
		_, err := os.Stat(in("held"))
		return fmt.Sprint(err), err == nil
	})
	checks := func() (n int) {
		for _, process := range processesOf(a.key.Environment) {
			line, _ := os.ReadFile(filepath.Join(filepath.Dir(process), "cmdline")) // of what has ended nothing
			if strings.Contains(string(line), "/tmp/held") {
				n++
			}
		}
		return n
	}
	if checks() == 0 {
		t.Error("a check that is under way is no process")
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait() // it was killed
	eventually(t, "the check has ended", func() (string, bool) {
		n := checks()
		return fmt.Sprint(n), n == 0
	})
	if err := syscall.Kill(before[0], 0); err != nil {
		t.Errorf("the instance: %v", err)
	}
	h := a.next()
	eventually(t, "it is found", func() (string, bool) {
		o := h.Observe(a.key)
		return fmt.Sprintf("%+v", o), len(pids(o)) == 1
	})
	if o := h.Observe(a.key); o.State == target.Healthy {
		t.Errorf("it is healthy before it was checked: %+v", o)
	}
	if err := os.Remove(in("hold")); err != nil {
		t.Fatal(err)
	}
	if o := h.await(target.Healthy); !slices.Equal(pids(o), before) {
		t.Errorf("there runs %v, and %v did", pids(o), before)
	}
	h.end()
}
