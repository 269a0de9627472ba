package host

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/headgate-cd/headgate/hooks/build"
)

// sandboxOf is a Sandbox with its directories and a script that does what is said.
func sandboxOf(t testing.TB, script string) build.Sandbox {
	t.Helper()
	dir := t.TempDir()
	s := build.Sandbox{ID: filepath.Base(dir) + strings.ReplaceAll(t.Name(), "/", "-"), Source: filepath.Join(dir, "src"),
		Control: filepath.Join(dir, "control"), Home: filepath.Join(dir, "home"), Temp: filepath.Join(dir, "temp")}
	for _, d := range []string{s.Source, s.Control, s.Home, s.Temp} {
		if err := os.Mkdir(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(s.Control, "script.sh"), []byte(script), 0o600); err != nil {
		t.Fatal(err)
	}
	return s
}

// The server's data is not seen even where the directory around it is.
func TestHiddenFolders(t *testing.T) {
	h := &Host{Hidden: []string{"/usr/share/doc", t.TempDir()}}
	n, err := h.Start(t.Context(), sandboxOf(t, "ls /usr/share/doc; ls -d /usr/share"))
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	var out strings.Builder
	exit, err := n.Run(t.Context(), build.Script{Shell: "sh", Path: build.ControlDir + "/script.sh"}, &out)
	if err != nil || exit != 0 || out.String() != "/usr/share\n" {
		t.Errorf("exit %d, %v:\n%s", exit, err, out.String())
	}
}

// The server's mask is not the build's: modes are the same everywhere.
func TestMaskIsNotTheServers(t *testing.T) {
	s := sandboxOf(t, "umask")
	defer syscall.Umask(syscall.Umask(0o077))
	n, err := (&Host{}).Start(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	var out strings.Builder
	if exit, err := n.Run(t.Context(), build.Script{Shell: "sh", Path: build.ControlDir + "/script.sh"},
		&out); err != nil || exit != 0 || out.String() != "0022\n" {
		t.Errorf("exit %d, %v: %q", exit, err, out.String())
	}
	if _, err := n.Run(t.Context(), build.Script{Shell: "nosuchsh", Path: build.ControlDir + "/script.sh"},
		&out); !errors.Is(err, build.ErrNoShell) {
		t.Errorf("a shell that is not there: %v", err)
	}
}

func TestWithoutBubblewrap(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	_, err := (&Host{}).Start(t.Context(), sandboxOf(t, ""))
	if err == nil || !strings.Contains(err.Error(), "apt-get install bubblewrap") {
		t.Errorf("%v", err)
	}
}

func TestStartEndsWithItsContext(t *testing.T) {
	// A bubblewrap that says it is there and then nothing more.
	dir := t.TempDir()
	slow, began := filepath.Join(dir, "bwrap"), filepath.Join(dir, "began")
	if err := os.WriteFile(slow, []byte("#!/bin/sh\n[ $1 != --help ] || exit 0\necho \"{\\\"child-pid\\\": $$}\" >&5\n: >"+
		began+"\nexec sleep 300\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() {
		defer cancel()
		for ctx.Err() == nil {
			if _, err := os.Stat(began); err == nil {
				return
			}
			time.Sleep(time.Millisecond)
		}
	}()
	if _, err := (&Host{Bwrap: slow}).Start(ctx, sandboxOf(t, "")); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
}

func TestLimitsThatWereMet(t *testing.T) {
	for version, files := range map[string]map[string]string{
		"v1": {"pids/b/pids.events": "max 3\n",
			"memory/b/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 1\n"},
		"v2": {"cgroup.controllers": "", "b/pids.events": "max 3\n",
			"b/memory.events": "low 0\nhigh 0\nmax 9\noom 1\noom_kill 1\n"},
		"no": {"pids/b/pids.events": "max 0\n", "memory/b/memory.oom_control": "oom_kill 0\n"},
	} {
		root := t.TempDir()
		for name, content := range files {
			p := filepath.Join(root, name)
			if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(p, []byte(content), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		g, err := newGroup(root, "b", Limits{Processes: 7, Memory: 5 << 20})
		if err != nil {
			t.Fatal(err)
		}
		met := strings.Split(g.limit(), ", ")
		slices.Sort(met)
		want := []string{"5 MiB of memory", "7 processes"}
		if version == "no" {
			want = []string{""}
		}
		if !slices.Equal(met, want) {
			t.Errorf("%s: %q", version, met)
		}
	}
	if (*group)(nil).limit() != "" {
		t.Error("no group has met a limit")
	}
}

// A build that is cancelled before bubblewrap was asked does not speak for others.
func TestSealsWhoeverAsks(t *testing.T) {
	knows := filepath.Join(t.TempDir(), "bwrap")
	if err := os.WriteFile(knows, []byte("#!/bin/sh\necho '    --disable-userns   Disable'\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if h := (&Host{}); !h.seals(ctx, knows) || !h.seals(t.Context(), "absent") {
		t.Error("the answer of the first was lost")
	}
	if (&Host{}).seals(t.Context(), "absent") {
		t.Error("what is not there can do it")
	}
}

// A refusal to make namespaces comes with what to do about it.
func TestRefusedByTheMachine(t *testing.T) {
	refuses := filepath.Join(t.TempDir(), "bwrap")
	if err := os.WriteFile(refuses, []byte("#!/bin/sh\necho 'bwrap: setting up uid map: Permission denied' >&2\nexit 1\n"),
		0o700); err != nil {
		t.Fatal(err)
	}
	_, err := (&Host{Bwrap: refuses}).Start(t.Context(), sandboxOf(t, ""))
	if err == nil || !strings.HasPrefix(err.Error(),
		"bubblewrap could not make a sandbox: bwrap: setting up uid map: Permission denied; ") {
		t.Errorf("%v", err)
	}
	for name, c := range map[string]struct{ said, path, value, want string }{
		"Ubuntu": {"bwrap: setting up uid map: Permission denied",
			"/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1", "apparmor_restrict_unprivileged_userns=0"},
		"its loopback": {"bwrap: loopback: Failed RTM_NEWADDR: Operation not permitted",
			"/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1", "run headgate as root"},
		"Debian before": {"bwrap: No permissions to create new namespace", "/proc/sys/kernel/unprivileged_userns_clone", "0",
			"sysctl -w kernel.unprivileged_userns_clone=1"},
		"turned off": {"bwrap: Creating new namespace failed", "/proc/sys/user/max_user_namespaces", "0",
			"sysctl -w user.max_user_namespaces"},
		"container": {"bwrap: Creating new namespace failed", "", "", "in a container"},
	} {
		got := advice(c.said, func(path string) string { return map[string]string{c.path: c.value}[path] })
		if !strings.Contains(got, c.want) {
			t.Errorf("%s: %q", name, got)
		}
	}
	if got := advice("bwrap: Can't find source path /x", func(string) string { return "1" }); got != "" {
		t.Errorf("advice on something else: %q", got)
	}
}

// What a build costs before and between its commands.
func BenchmarkStartAndFirstCommand(b *testing.B) {
	s := sandboxOf(b, "exit 0")
	for b.Loop() {
		n, err := (&Host{}).Start(b.Context(), s)
		if err != nil {
			b.Fatal(err)
		}
		if exit, err := n.Run(b.Context(), build.Script{Shell: "sh", Path: build.ControlDir + "/script.sh"},
			&strings.Builder{}); exit != 0 || err != nil {
			b.Fatal(exit, err)
		}
		b.StopTimer()
		if err := n.Close(); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
}

// BenchmarkCommand is what a command costs in processor time, here and inside, and how many
// times that of a bare sh -c, which the same process starts.
func BenchmarkCommand(b *testing.B) {
	began, _ := spent(b, 0)
	const bares = 300
	for range bares {
		if err := exec.Command("sh", "-c", "exit 0").Run(); err != nil {
			b.Fatal(err)
		}
	}
	ended, _ := spent(b, 0)
	bare := (ended - began) / bares

	s, err := (&Host{}).Start(b.Context(), sandboxOf(b, "exit 0"))
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	of := s.(*session).cmd.Process.Pid
	own, inside := spent(b, of)
	const commands = 300 // so that they can be counted in ticks
	for b.Loop() {
		for range commands {
			if exit, err := s.Run(b.Context(), build.Script{Shell: "sh", Path: build.ControlDir + "/script.sh"},
				&strings.Builder{}); exit != 0 || err != nil {
				b.Fatal(exit, err)
			}
		}
	}
	ownNow, insideNow := spent(b, of)
	each := (ownNow - own + insideNow - inside) / time.Duration(b.N*commands)
	b.ReportMetric(float64(bare.Microseconds()), "cpu-us/bare")
	b.ReportMetric(float64(each.Microseconds()), "cpu-us/command")
	b.ReportMetric(float64(each)/float64(bare), "x-bare")
}

// spent is the processor time of this process with the children that it has waited for, and
// that of another one with all its descendants.
func spent(b *testing.B, of int) (own, others time.Duration) {
	b.Helper()
	for _, who := range []int{syscall.RUSAGE_SELF, syscall.RUSAGE_CHILDREN} {
		var used syscall.Rusage
		if err := syscall.Getrusage(who, &used); err != nil {
			b.Fatal(err)
		}
		own += time.Duration(used.Utime.Nano() + used.Stime.Nano())
	}
	const tick = 10 * time.Millisecond // USER_HZ
	parents, ticks := map[int]int{}, map[int]int{}
	files, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			continue // it has ended
		}
		f := strings.Fields(string(data[strings.LastIndexByte(string(data), ')')+1:]))
		pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(file)))
		parents[pid], _ = strconv.Atoi(f[1])
		for _, field := range f[11:15] { // utime, stime, and those of children that were waited for
			n, _ := strconv.Atoi(field)
			ticks[pid] += n
		}
	}
	for pid, n := range ticks {
		for at := pid; of != 0 && at > 1; at = parents[at] {
			if at == of {
				others += time.Duration(n) * tick
				break
			}
		}
	}
	return own, others
}

// TestProbe: that builds cannot run is known before the first of them.
func TestProbe(t *testing.T) {
	if err := (&Host{}).Probe(t.Context()); err != nil {
		t.Errorf("on the machine that runs these tests: %v", err)
	}
	broken := filepath.Join(t.TempDir(), "bwrap")
	if err := os.WriteFile(broken, []byte("#!/bin/sh\necho 'No permissions to create new namespace' >&2; exit 1\n"),
		0o755); err != nil {
		t.Fatal(err)
	}
	if err := (&Host{Bwrap: broken}).Probe(t.Context()); err == nil ||
		!strings.Contains(err.Error(), "No permissions to create new namespace") {
		t.Errorf("%v", err)
	}
	t.Setenv("PATH", t.TempDir())
	if err := (&Host{}).Probe(t.Context()); err == nil || !strings.Contains(err.Error(), "apt-get install bubblewrap") {
		t.Errorf("%v", err)
	}
}
