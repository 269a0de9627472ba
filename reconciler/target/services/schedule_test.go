package services

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/headgate-cd/headgate/reconciler/target"
)

// missed has times of a service have passed that no agent saw: of one that runs on leap
// days, so that none comes while a test runs.
func missed(t *testing.T, dir, service string) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "apps", "*", "*", "*", "state.json"))
	if err != nil || len(files) != 1 {
		t.Fatalf("%v %v", files, err)
	}
	var s keptState
	if err := readRecord(files[0], &s); err != nil {
		t.Fatal(err)
	}
	s.Observed.Services[service].Schedule.Since = time.Date(2019, 1, 1, 0, 0, 0, 0, time.UTC)
	if err := writeRecord(files[0], s); err != nil {
		t.Fatal(err)
	}
}

// awaitRuns waits for what is known of the runs of the only service, newest first.
func (h *harness) awaitRuns(is func([]target.Run) bool) []target.Run {
	h.t.Helper()
	changed, end := h.Watch(h.key())
	defer end()
	deadline := time.After(waitTimeout)
	for {
		o := h.Observe(h.key())
		var runs []target.Run
		if len(o.Units) == 1 && o.Units[0].Schedule != nil {
			runs = o.Units[0].Schedule.Runs
		}
		if is(runs) {
			return runs
		}
		select {
		case <-changed:
		case <-deadline:
			h.t.Fatalf("not so after %s: %+v", waitTimeout, o)
		}
	}
}

func ended(n int) func([]target.Run) bool {
	return func(runs []target.Run) bool { return len(runs) == n && !runs[0].Ended.IsZero() }
}

// testRunsAtTimes holds what runs at times to that, however it runs.
func testRunsAtTimes(t *testing.T, r runsAs, gone func(*testing.T, *harness)) {
	dir, logs := t.TempDir(), t.TempDir()
	at := `x-headgate: {cron: "0 3 29 2 *", zone: Europe/Prague}`
	h := r.open(t, dir, logs)
	h.converge(1, r.compose("echo done; exit 3", at))
	u := h.await(target.Healthy).Units[0]
	if u.Schedule == nil || !u.Schedule.Next.After(time.Now()) || len(u.Schedule.Runs)+len(u.Instances) != 0 {
		t.Fatalf("%+v", u)
	}
	h.leave()

	// Years without an agent are made up for once.
	missed(t, dir, "job")
	h = r.open(t, dir, logs)
	h.seq = 1
	run := h.awaitRuns(ended(1))[0]
	if !run.Late || !run.Failed || run.Exit == nil || *run.Exit != 3 || run.Release != 1 || run.Message != "exited 3: done" {
		t.Errorf("%+v", run)
	}
	h.logged(t, "job-run", "! headgate: started job-run of release 1", " UTC, late\n", " done\n")

	// The next release has the times from its switch on, and no run is cut off by it.
	h.converge(2, r.compose("trap 'echo bye; exit 0' TERM; echo up; while :; do sleep 0.05; done", at,
		"stop_grace_period: 10m"))
	h.await(target.Healthy)
	h.leave()
	missed(t, dir, "job")
	h = r.open(t, dir, logs)
	h.seq = 2
	h.awaitRuns(func(runs []target.Run) bool { return len(runs) == 2 && runs[0].Ended.IsZero() && runs[0].Release == 2 })
	h.converge(3, r.compose("exit 0", at))
	if o := h.await(target.Healthy); len(o.Units[0].Instances) != 1 || o.Units[0].Instances[0].Release != 2 {
		t.Errorf("%+v", o.Units)
	}
	h.leave()

	// What goes on lets its next time pass.
	missed(t, dir, "job")
	h = r.open(t, dir, logs)
	h.seq = 3
	runs := h.awaitRuns(func(runs []target.Run) bool { return len(runs) == 3 })
	if runs[0].Skipped != 1 || runs[0].Failed || !runs[1].Ended.IsZero() {
		t.Errorf("%+v", runs)
	}
	eventually(t, "the log says so", func() (string, bool) {
		text := h.logged(t, "job-run")
		return text, strings.Contains(text, "is skipped: the one before goes on") && strings.Contains(text, "Z up")
	})
	gone(t, h)
	h.logged(t, "job-run", " bye\n", "job-run exited 0")
}

// TestKilledWhereARunBegins: a time begins once at most, wherever the agent is killed, and
// what came of it is known.
func TestKilledWhereARunBegins(t *testing.T) {
	t.Parallel()
	for point, want := range map[string]string{
		"services.before-run-kept":   "exited 0: done", // by the next agent
		"services.run-kept":          "ended while no agent watched it",
		"services.instance-recorded": "", // what waited to begin has ended, as "exited 1" or unseen
		"services.instance-started":  "exited 0: done",
	} {
		t.Run(point, func(t *testing.T) {
			t.Parallel()
			a := abandon(t, true, `services:
  job: {command: [/bin/sh, -c, echo done], x-headgate: {cron: "0 3 29 2 *"}}
`)
			missed(t, a.dir, "job")
			cmd := a.command("HEADGATE_CRASH_AT=" + point)
			if out, _ := cmd.Output(); cmd.ProcessState.ExitCode() != -1 {
				t.Fatalf("it was not killed: %s %s", cmd.ProcessState, out)
			}
			h := a.next()
			run := h.awaitRuns(ended(1))[0]
			if want != "" && run.Message != want {
				t.Errorf("%+v", run)
			}
			h.leave()
			h = a.next()
			h.awaitRuns(ended(1))
			h.await(target.Healthy)
			text, _ := h.InstanceLog(h.key(), "job-run", 100) // none where none began
			done := strings.Count(strings.Join(text, "\n"), "Z done")
			if want := strings.Count(want, "done"); done != want {
				t.Errorf("it ran %d times, not %d: %s", done, want, text)
			}
		})
	}
}
