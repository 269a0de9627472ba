package services

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/headgate-cd/headgate/gitd/sandbox"
	"github.com/headgate-cd/headgate/reconciler/target"
	"github.com/headgate-cd/headgate/reconciler/target/unpacked"
)

// abandoned is what a killed run of the program has left: two instances of web.
type abandoned struct {
	t         testing.TB
	confined  bool
	dir, logs string
	key       target.Key
	environ   []string
}

func abandon(t testing.TB, confined bool, compose string, more ...string) *abandoned {
	t.Helper()
	a := &abandoned{t: t, confined: confined, dir: t.TempDir(), logs: t.TempDir()}
	a.key = target.Key{
		Repository:  "hello",
		Application: "hello",
		Environment: fmt.Sprintf("left-%d-%d", os.Getpid(), harnesses.Add(1)),
	}
	t.Cleanup(func() {
		for _, process := range processesOf(a.key.Environment) {
			pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(process)))
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
		if err := unpacked.RemoveTree(a.dir); err != nil {
			t.Error(err)
		}
	})
	how := map[bool]string{true: "confined", false: "unconfined"}[confined]
	a.environ = []string{
		"BE_TARGET=" + how,
		"PATH=" + os.Getenv("PATH"),
		"WORK=" + a.dir,
		"LOGS=" + a.logs,
		"ENVIRONMENT=" + a.key.Environment,
		"COMPOSE=" + compose,
		"GORACE=atexit_sleep_ms=0",
	}
	a.environ = append(a.environ, more...)
	cmd := a.command()
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 100)
	if n, err := out.Read(buf); err != nil || string(buf[:n]) != "healthy\n" {
		t.Errorf("%q %v", buf[:n], err)
	}
	cmd.Process.Kill()
	cmd.Wait()
	return a
}

// command is another run of the program, as one of its own.
func (a *abandoned) command(more ...string) *exec.Cmd {
	a.t.Helper()
	self, err := os.Executable()
	if err != nil {
		a.t.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Env, cmd.Stderr = append(slices.Clone(a.environ), more...), os.Stderr
	return cmd
}

// next is the next run of the program, to which nothing has been told.
func (a *abandoned) next(prepare ...func(*Target)) *harness {
	a.t.Helper()
	h := &harness{t: a.t, env: a.key.Environment, seq: 1}
	h.Target = New(a.dir, a.logs, unpackSelf)
	h.Unconfined = !a.confined
	for _, f := range prepare {
		f(h.Target)
	}
	h.run(nil)
	return h
}

// records reads the records of the instances that were left.
func (a *abandoned) records() map[string]keptInstance {
	a.t.Helper()
	all := map[string]keptInstance{}
	files, err := filepath.Glob(filepath.Join(a.dir, "apps", "*", "*", "*", "instances", "*.json"))
	if err != nil {
		a.t.Fatal(err)
	}
	for _, f := range files {
		var k keptInstance
		if err := readRecord(f, &k); err != nil {
			a.t.Fatal(err)
		}
		all[f] = k
	}
	return all
}

// rewrite changes the records as a test wants them.
func (a *abandoned) rewrite(change func(*keptInstance)) {
	a.t.Helper()
	for f, k := range a.records() {
		change(&k)
		if err := writeRecord(f, k); err != nil {
			a.t.Fatal(err)
		}
	}
}

func pids(o target.Observed) (all []int) {
	for _, u := range o.Units {
		for _, in := range u.Instances {
			all = append(all, in.PID)
		}
	}
	slices.Sort(all)
	return all
}

// commands are the processes of the commands themselves.
func (a *abandoned) commands() (all []int) {
	a.t.Helper()
	for _, k := range a.records() {
		if pid, ok := child(k.First.PID); ok {
			all = append(all, pid)
		}
	}
	slices.Sort(all)
	return all
}

func eachWay(t *testing.T, f func(t *testing.T, confined bool)) {
	for name, confined := range map[string]bool{"confined": true, "unconfined": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f(t, confined)
		})
	}
}

// TestKilledAgentLosesNothing: what ran goes on, and the next run of the program
// finds it again by what is on disk alone, with its address, its output, and what
// has to be done about it.
func TestKilledAgentLosesNothing(t *testing.T) {
	t.Parallel()
	eachWay(t, func(t *testing.T, confined bool) {
		a := abandon(t, confined, web)
		before := a.commands()
		if len(before) != 2 {
			t.Fatalf("%d instances were left", len(before))
		}
		h := a.next()
		o := h.await(target.Healthy)
		if after := pids(o); !slices.Equal(before, after) {
			t.Errorf("%v ran, and now %v", before, after)
		}
		for _, in := range o.Units[0].Instances {
			if in.Restarts != 0 || !in.Serving || in.Release != 1 {
				t.Errorf("%+v", in)
			}
		}
		h.get("/", "release 1")

		// The same told again changes nothing.
		h.Converge(declared(a.key, 1, 1, web))
		if after := pids(h.await(target.Healthy)); !slices.Equal(before, after) {
			t.Errorf("%v ran, and now %v", before, after)
		}
		// How one ends is known although it never was a child.
		if err := syscall.Kill(before[0], syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		h.await(target.Degraded)
		o = h.await(target.Healthy)
		restarted := 0
		for _, in := range o.Units[0].Instances {
			if restarted += in.Restarts; in.Restarts > 0 && !strings.HasPrefix(in.LastExit, "was ended by SIGKILL") {
				t.Errorf("%+v", in)
			}
		}
		if restarted != 1 {
			t.Errorf("%d were restarted", restarted)
		}
		h.converge(2, web)
		h.await(target.Healthy)
		h.get("/", "release 2")
		h.end()
		if left := a.records(); len(left) > 0 {
			t.Errorf("records are left: %v", left)
		}
	})
}

// TestAdoptedIsUnknownUntilChecked: what was found again keeps its traffic at once,
// and is healthy by a check of this run only.
func TestAdoptedIsUnknownUntilChecked(t *testing.T) {
	t.Parallel()
	a := abandon(t, false, web)
	for _, pid := range a.commands() {
		if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
	}
	h := a.next()
	var o target.Observed
	eventually(t, "both are served by", func() (string, bool) {
		o = h.Observe(a.key)
		return fmt.Sprintf("%+v", o), len(o.Units) == 1 && o.Units[0].URL != ""
	})
	if o.State != target.Unknown || !strings.Contains(o.Message, "was found again and not checked yet") {
		t.Errorf("%s %q", o.State, o.Message)
	}
	for _, in := range o.Units[0].Instances {
		if !in.Serving {
			t.Errorf("%+v", in)
		}
	}
	for _, pid := range a.commands() {
		if err := syscall.Kill(pid, syscall.SIGCONT); err != nil {
			t.Fatal(err)
		}
	}
	h.await(target.Healthy)
	h.end()
}

// TestOutputGoesOn: what is printed while nobody reads it is in the log, once.
func TestOutputGoesOn(t *testing.T) {
	t.Parallel()
	a := abandon(t, true, `services:
  web:
    command: ["sh", "-c", "n=0; while :; do n=$$((n+1)); echo line $$n; sleep 0.01; done"]
    healthcheck: {start_period: 100ms}
    x-headgate: {healthy_for: 0s}
`)
	out := filepath.Join(a.dir, "apps", "hello", a.key.Environment, "hello", "instances", "web-1.out")
	size := func() int64 {
		info, err := os.Stat(out)
		if err != nil {
			t.Fatal(err)
		}
		return info.Size()
	}
	was := size()
	eventually(t, "it prints to nobody", func() (string, bool) { return "", size() > was+100 })
	h := a.next()
	h.await(target.Healthy)
	var last string
	eventually(t, "what comes now is read", func() (string, bool) {
		lines, err := h.InstanceLog(a.key, "web-1", 1)
		if err != nil {
			t.Fatal(err)
		}
		last = lines[0]
		return last, !strings.Contains(last, "headgate:")
	})
	lines, err := h.InstanceLog(a.key, "web-1", 100000)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, line := range lines {
		var number int
		if _, text, _ := strings.Cut(line, " "); strings.HasPrefix(text, "line ") {
			fmt.Sscanf(text, "line %d", &number)
			if n++; number != n {
				t.Fatalf("line %d comes where %d should", number, n)
			}
		}
	}
	if n == 0 {
		t.Errorf("nothing was read: %q", lines)
	}
	h.end()
}

// TestForeignProcessIsLeftAlone: another process has the number that is on record.
func TestForeignProcessIsLeftAlone(t *testing.T) {
	t.Parallel()
	eachWay(t, func(t *testing.T, confined bool) {
		a := abandon(t, confined, web)
		foreign := exec.Command("sleep", "1000")
		foreign.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
		if err := foreign.Start(); err != nil {
			t.Fatal(err)
		}
		defer func() { foreign.Process.Kill(); foreign.Wait() }()
		for _, k := range a.records() {
			syscall.Kill(k.First.PID, syscall.SIGKILL)
		}
		if confined {
			census(t, a.key.Environment) // without a sandbox the commands go on, and are ended by the next run
		}
		a.rewrite(func(k *keptInstance) { k.First.PID, k.Monitor.PID = foreign.Process.Pid, foreign.Process.Pid })
		h := a.next()
		o := h.await(target.Healthy)
		if slices.Contains(pids(o), foreign.Process.Pid) {
			t.Error("a foreign process counts as an instance")
		}
		h.end()
		if err := foreign.Process.Signal(syscall.Signal(0)); err != nil {
			t.Errorf("the foreign process was ended: %v", err)
		}
	})
}

// TestReboot: after a start of the machine the records are dead, whoever has their
// numbers, and what was declared last is started without anybody telling.
func TestReboot(t *testing.T) {
	t.Parallel()
	a := abandon(t, true, web)
	processes := a.commands()
	h := a.next(func(t *Target) { t.Boot = "another boot" })
	o := h.await(target.Healthy)
	for _, pid := range pids(o) {
		if slices.Contains(processes, pid) {
			t.Errorf("%d is of another boot", pid)
		}
	}
	if len(pids(o)) != 2 {
		t.Errorf("%+v", o)
	}
	h.end()
}

// TestStoppedComesBack: an agent that was stopped has stopped everything, and starts
// it again when it is started, without a mishap on its account.
func TestStoppedComesBack(t *testing.T) {
	t.Parallel()
	h := open(t, false)
	h.converge(1, web)
	o := h.await(target.Healthy)
	url := o.Units[0].URL
	h.stop()
	census(t, h.env)
	again := &harness{t: t, env: h.env, seq: h.seq}
	again.Target = New(h.Dir, h.LogDir, unpackSelf)
	again.Unconfined = true
	again.run(nil)
	o = again.await(target.Healthy)
	if o.Units[0].URL != url {
		t.Errorf("it was at %s and is at %s", url, o.Units[0].URL)
	}
	for _, in := range o.Units[0].Instances {
		if in.Restarts != 0 || in.LastExit != "" {
			t.Errorf("%+v", in)
		}
	}
	again.end()
}

// TestFenceOnDisk: what was acted on, or removed, stays the newest for every later
// run, whoever tells.
func TestFenceOnDisk(t *testing.T) {
	t.Parallel()
	h := open(t, false)
	h.seq = 6
	h.converge(2, web) // 7
	h.await(target.Healthy)
	h.stop()
	second := &harness{t: t, env: h.env, seq: 7}
	second.Target = New(h.Dir, h.LogDir, unpackSelf)
	second.Unconfined = true
	second.Converge(second.declared(5, 1, web))
	second.run(nil)
	second.Converge(second.declared(6, 1, web))
	if o := second.await(target.Healthy); o.Units[0].Release != 2 {
		t.Errorf("%+v", o)
	}
	second.Remove(second.key(), 9)
	eventually(t, "it is gone", func() (string, bool) {
		o := second.Observe(second.key())
		return fmt.Sprint(o), o.Commit == ""
	})
	second.stop()
	third := &harness{t: t, env: h.env, seq: 10}
	third.Target = New(h.Dir, h.LogDir, unpackSelf)
	third.Unconfined = true
	third.run(nil)
	third.Converge(third.declared(8, 1, web))
	eventually(t, "what is older than the removal is ignored", func() (string, bool) {
		o := third.Observe(third.key())
		return fmt.Sprint(o), o.Commit == ""
	})
	third.Converge(third.declared(10, 1, web))
	third.await(target.Healthy)
	third.end()
}

// TestDamagedRecords: what says nothing is put aside, what runs without a record is
// ended, and all of it is as declared again.
func TestDamagedRecords(t *testing.T) {
	t.Parallel()
	for name, content := range map[string]string{"torn": `{"version":1,"boot":"`, "empty": "", "of nothing": "{}"} {
		t.Run(name, func(t *testing.T) {
			a := abandon(t, true, web)
			processes := a.commands()
			for f := range a.records() {
				if err := os.WriteFile(f, []byte(content), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			state := filepath.Join(a.dir, "apps", "hello", a.key.Environment, "hello", "state.json")
			if err := os.WriteFile(state, []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
			h := a.next()
			o := h.await(target.Healthy)
			for _, pid := range pids(o) {
				if slices.Contains(processes, pid) {
					t.Errorf("%d had no record", pid)
				}
			}
			if n := len(processesOf(a.key.Environment)); n > 4 { // a shell above each may have it too
				t.Errorf("%d processes run", n)
			}
			h.end()
		})
	}
}

// TestNewerRecordsAreNotTouched: who goes back to an older program is told so, and
// nothing that runs is ended by one that does not understand it.
// TestStraysAreReported: where drift is only reported, what runs without a record is told of
// and goes on, and ends once drift is to be healed.
func TestStraysAreReported(t *testing.T) {
	t.Parallel()
	eachWay(t, func(t *testing.T, confined bool) {
		a := abandon(t, confined, web, "DRIFT=report")
		processes := map[int]bool{}
		for f, k := range a.records() {
			processes[k.First.PID] = true
			if err := os.Remove(f); err != nil {
				t.Fatal(err)
			}
		}
		h := a.next()
		changed, end := h.Watch(h.key())
		defer end()
		told := func(what string, is func([]target.Stray) bool) {
			t.Helper()
			for late := time.After(waitTimeout); ; {
				o := h.Observe(h.key())
				if is(o.Strays) {
					return
				}
				select {
				case <-changed:
				case <-late:
					t.Fatalf("%s: not so: %+v", what, o)
				}
			}
		}
		told("all that runs is told of", func(all []target.Stray) bool { // with what started it
			left := maps.Clone(processes)
			for _, s := range all {
				delete(left, s.PID)
				if s.Unit != "web" || s.Container != "" {
					t.Errorf("%+v", s)
				}
			}
			return len(left) == 0
		})
		h.Converge(h.declared(1, 1, web))
		told("all of it has ended", func(all []target.Stray) bool { return len(all) == 0 })
		h.await(target.Healthy)
		h.end()
	})
}

func TestNewerRecordsAreNotTouched(t *testing.T) {
	t.Parallel()
	a := abandon(t, false, web)
	processes := a.commands()
	a.rewrite(func(k *keptInstance) { k.Version = containerVersion + 1 })
	h := New(a.dir, a.logs, unpackSelf)
	err := h.Run(t.Context())
	if !errors.Is(err, errNewer) {
		t.Errorf("%v", err)
	}
	for _, pid := range processes {
		if syscall.Kill(pid, 0) != nil {
			t.Errorf("%d was ended", pid)
		}
	}
}

// TestNothingRunsWithoutARecord: where the record cannot be written, the command is
// not begun, and that is what the state says; the next try succeeds.
func TestNothingRunsWithoutARecord(t *testing.T) {
	t.Parallel()
	h := open(t, true)
	dir, _ := h.appDir(h.key())
	block := filepath.Join(dir, "instances", "web-1.json.half", "full") // as a disk that is full would
	if err := os.MkdirAll(block, 0o700); err != nil {
		t.Fatal(err)
	}
	h.converge(1, strings.Replace(web, "replicas: 2", "replicas: 1", 1))
	eventually(t, "it cannot start", func() (string, bool) {
		o := h.Observe(h.key())
		return o.Message, strings.Contains(o.Message, "could not start: ")
	})
	if left := processesOf(h.env); len(left) > 0 {
		t.Errorf("%v run without a record", left)
	}
	if err := os.RemoveAll(filepath.Dir(block)); err != nil {
		t.Fatal(err)
	}
	h.await(target.Healthy)
	h.end()
}

// TestNothingIsDoneThatIsNotWrittenDown: what is declared is acted upon once it is on
// disk, and what runs goes on until then.
func TestNothingIsDoneThatIsNotWrittenDown(t *testing.T) {
	t.Parallel()
	h := open(t, false)
	h.converge(1, web)
	h.await(target.Healthy)
	dir, _ := h.appDir(h.key())
	if err := os.Remove(filepath.Join(dir, "declared.json")); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(dir, "declared.json", "full"), 0o700); err != nil {
		t.Fatal(err)
	}
	h.converge(2, web)
	if o := h.await(target.Failed); !strings.Contains(o.Message, "could not be written down") {
		t.Errorf("%q", o.Message)
	}
	h.get("/", "release 1")
	if err := os.RemoveAll(filepath.Join(dir, "declared.json")); err != nil {
		t.Fatal(err)
	}
	h.await(target.Healthy)
	h.get("/", "release 2")
	h.end()
}

// TestClockSetBack: the time that is on record is later than now.
func TestClockSetBack(t *testing.T) {
	t.Parallel()
	a := abandon(t, false, web)
	state := filepath.Join(a.dir, "apps", "hello", a.key.Environment, "hello", "state.json")
	var s keptState
	if err := readRecord(state, &s); err != nil {
		t.Fatal(err)
	}
	ahead := time.Now().Add(24 * time.Hour)
	for _, in := range s.Observed.Services["web"].Instances {
		in.Since, in.Started, in.Healthy, in.NotBefore = ahead, ahead, ahead, ahead
	}
	data, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(state, data, 0o600); err != nil {
		t.Fatal(err)
	}
	before := a.commands()
	h := a.next()
	if after := pids(h.await(target.Healthy)); !slices.Equal(before, after) {
		t.Errorf("%v ran, and now %v", before, after)
	}
	h.end()
}

// TestLeave: a run of the program that leaves hands everything to the next.
func TestLeave(t *testing.T) {
	t.Parallel()
	h := open(t, true)
	h.converge(1, web)
	before := pids(h.await(target.Healthy))
	h.leave()
	next := &harness{t: t, env: h.env, seq: h.seq}
	next.Target = New(h.Dir, h.LogDir, unpackSelf)
	next.run(nil)
	if after := pids(next.await(target.Healthy)); !slices.Equal(before, after) {
		t.Errorf("%v ran, and now %v", before, after)
	}
	next.get("/", "release 1")
	next.end()
}

// TestRecordNamesTheProcess: a record says what runs, and the command cannot get at
// what notes its end.
func TestRecordNamesTheProcess(t *testing.T) {
	t.Parallel()
	a := abandon(t, true, web)
	for _, k := range a.records() {
		if boot, err := sandbox.BootID(); err != nil || k.Boot != boot || !k.Confined || k.Port == 0 || len(k.Argv) == 0 {
			t.Errorf("%+v, %v", k, err)
		}
		pid, ok := child(k.First.PID)
		if !ok {
			t.Fatalf("%+v has no command", k)
		}
		fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
		if err != nil {
			t.Fatal(err)
		}
		for _, fd := range fds {
			to, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/%s", pid, fd.Name()))
			if err == nil && (strings.HasSuffix(to, ".status") || strings.HasSuffix(to, ".json")) {
				t.Errorf("the command holds %s", to)
			}
		}
	}
}
