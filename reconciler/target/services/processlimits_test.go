package services

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/headgate-cd/headgate/gitd/engine"
	"github.com/headgate-cd/headgate/gitd/sandbox"
	"github.com/headgate-cd/headgate/reconciler/target"
)

// needCgroups leaves a test out where no cgroup can be written.
func needCgroups(t *testing.T) {
	t.Helper()
	dirs, err := sandbox.NewCgroup(sandbox.CgroupRoot, "headgate-test-"+filepath.Base(t.TempDir())+fmt.Sprint(os.Getpid()),
		sandbox.Limits{Memory: 64 << 20, Processes: 9, CPU: 1})
	if err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal(err)
		}
		t.Skipf("SKIPPED: cgroups cannot be written here: %v", err)
	}
	if err := sandbox.EndCgroups(dirs); err != nil {
		t.Error(err)
	}
}

// cgroupsOf are the cgroups of an agent that there are.
func cgroupsOf(h *harness) []string {
	one, _ := filepath.Glob(filepath.Join(sandbox.CgroupRoot, h.cgroups()+"*"))
	more, _ := filepath.Glob(filepath.Join(sandbox.CgroupRoot, "*", h.cgroups()+"*"))
	return slices.Concat(one, more)
}

// TestLimitsOfProcesses: an instance gets no more memory, processes and processor time than
// is declared, all that it starts included, and its cgroup goes with it, also when the agent
// that made it was killed.
func TestLimitsOfProcesses(t *testing.T) {
	t.Parallel()
	needCgroups(t)
	eachWay(t, func(t *testing.T, confined bool) {
		a := abandon(t, confined, `services:
  job:
    command: [/bin/sh, -c, "while :; do sleep 0.05; done"]
    stop_grace_period: 100ms
    healthcheck: {start_period: 10m, interval: 200ms, timeout: 1m, test: [CMD, "true"]}
    pids_limit: 20
    deploy: {resources: {limits: {memory: 64M, cpus: "0.5"}}}
`)
		var dirs []string
		for _, k := range a.records() {
			dirs = append(dirs, k.Cgroups...)
			for _, dir := range k.Cgroups {
				in, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
				if err != nil || !slices.Contains(strings.Fields(string(in)), fmt.Sprint(k.First.PID)) {
					t.Errorf("%s holds %s, %v, and not %d", dir, in, err, k.First.PID)
				}
			}
		}
		set := map[string]string{}
		for _, dir := range dirs {
			for _, file := range []string{"memory.max", "memory.limit_in_bytes", "pids.max", "cpu.max", "cpu.cfs_quota_us"} {
				if data, err := os.ReadFile(filepath.Join(dir, file)); err == nil {
					set[file] = strings.TrimSpace(string(data))
				}
			}
		}
		memory, cpu := set["memory.max"]+set["memory.limit_in_bytes"], set["cpu.max"]+set["cpu.cfs_quota_us"]
		if memory != "67108864" || set["pids.max"] != "21" || cpu != "50000" && cpu != "50000 100000" {
			t.Errorf("its limits are %v", set)
		}

		// A cgroup that is on no record is of nothing that runs.
		h := New(a.dir, a.logs, unpackSelf)
		stray, err := sandbox.NewCgroup(sandbox.CgroupRoot, h.newCgroup(), sandbox.Limits{Processes: 9})
		if err != nil {
			t.Fatal(err)
		}
		next := a.next()
		o := next.await(target.Healthy)
		if len(pids(o)) != 1 {
			t.Errorf("%+v", o)
		}
		for _, dir := range stray {
			if _, err := os.Stat(dir); err == nil {
				t.Errorf("%s is left", dir)
			}
		}
		next.end()
		if left := cgroupsOf(next); len(left) > 0 {
			t.Errorf("%v are left", left)
		}
	})
}

// TestOutOfMemory: a process that goes over its limit is ended, and that is what is said.
func TestOutOfMemory(t *testing.T) {
	t.Parallel()
	needCgroups(t)
	eachWay(t, func(t *testing.T, confined bool) {
		h := open(t, confined)
		h.converge(1, `services:
  job:
    command: [/usr/bin/tail, /dev/zero]
    restart: "no"
    mem_limit: 16m
`)
		h.await(target.Failed)
		o := h.Observe(h.key())
		in := o.Units[0].Instances[0]
		if in.Reason != target.Reason(engine.ReasonOutOfMemory) ||
			!strings.HasPrefix(in.LastExit, "needed more than its memory limit and was ended") {
			t.Errorf("%+v", in)
		}
		h.end()
		if left := cgroupsOf(h); len(left) > 0 {
			t.Errorf("%v are left", left)
		}
	})
}

// TestNoMoreProcesses: what an instance forks beyond its limit is not, and so is what is run
// beside it.
func TestNoMoreProcesses(t *testing.T) {
	t.Parallel()
	needCgroups(t)
	eachWay(t, func(t *testing.T, confined bool) {
		h := open(t, confined)
		h.converge(1, `services:
  job:
    command: [/bin/sh, -c, "for i in 1 2 3 4 5 6 7 8 9; do sleep 1000 & done; wait"]
    restart: "no"
    pids_limit: 5
`)
		h.await(target.Failed)
		lines, err := h.InstanceLog(h.key(), "job-1", 100)
		if text := strings.Join(lines, "\n"); err != nil || !strings.Contains(strings.ToLower(text), "fork") {
			t.Errorf("%v %s", err, text)
		}
		h.end()
	})
}

// TestLimitsAreRead: of a process they are said as of a container, and what is no limit of a
// process is refused.
func TestLimitsAreRead(t *testing.T) {
	t.Parallel()
	want := Limits{Memory: 64 << 20, CPUs: 0.5, PIDs: 20}
	for _, text := range []string{
		"mem_limit: 64m, cpus: 0.5, pids_limit: 20",
		"deploy: {resources: {limits: {memory: 64M, cpus: '0.5', pids: 20}}}",
		"pids_limit: 20, deploy: {resources: {limits: {memory: 64M, cpus: '0.5'}}}",
	} {
		c, _, err := Read("", composed("services: {job: {command: x, "+text+"}}\n"))
		if err != nil || c.Services[0].Limits != want {
			t.Errorf("%s: %+v, %v", text, c, err)
		}
	}
	for _, text := range []string{"mem_reservation: 64m", "cpu_shares: 10", "ulimits: {nofile: 9}",
		"deploy: {resources: {reservations: {memory: 64M}}}"} {
		if _, _, err := Read("", composed("services: {job: {command: x, "+text+"}}\n")); err == nil ||
			!strings.Contains(err.Error(), "what a process may use at most") {
			t.Errorf("%s: %v", text, err)
		}
	}
	without, _, err := Read("", composed("services: {job: {command: x}}\n"))
	if err != nil {
		t.Fatal(err)
	}
	a, b := &version{Service: without.Services[0]}, &version{Service: without.Services[0]}
	b.Service.Limits = want
	if a.id(0) == b.id(0) {
		t.Error("another limit is no other version")
	}
}
