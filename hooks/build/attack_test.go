package build_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/headgate-cd/headgate/gitd/sandbox/sandboxtest"
	"github.com/headgate-cd/headgate/hooks/build"
	"github.com/headgate-cd/headgate/hooks/build/host"
)

// TestMain lets the test binary be a hostile build, too.
func TestMain(m *testing.M) {
	sandboxtest.Main()
	os.Exit(m.Run())
}

// steps is a buildspec whose build phase runs these commands.
func steps(commands ...string) string {
	var b strings.Builder
	b.WriteString("version: 0.2\nphases:\n  build:\n    commands:\n")
	for _, c := range commands {
		b.WriteString("      - |\n")
		for line := range strings.Lines(c) {
			b.WriteString("        " + strings.TrimRight(line, "\n") + "\n")
		}
	}
	return b.String()
}

// Whatever a build puts in place of the files through which it is told what to
// run, the server neither follows nor waits for it.
func TestB3ControlFilesLeadNowhere(t *testing.T) {
	victim := filepath.Join(t.TempDir(), "victim")
	if err := os.WriteFile(victim, []byte("untouched"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, trick := range map[string]string{
		"link":      "rm -f $D/script.sh; ln -s " + victim + " $D/script.sh",
		"fifo":      "rm -f $D/script.sh; mkfifo $D/script.sh",
		"directory": "rm -f $D/script.sh; mkdir $D/script.sh",
		"gone":      "rm -rf $D/*",
		"remount":   "mount -o remount,rw,bind $D; rm -f $D/script.sh; ln -s " + victim + " $D/script.sh",
	} {
		t.Run(name, func(t *testing.T) {
			b := prepare(t, map[string]string{"buildspec.yml": steps("D=/codebuild/output/tmp; { "+trick+"; } 2>/dev/null; true",
				"echo 'on we go'")})
			b.req.Timeout = 5 * time.Minute // none needs it
			b.run(t.Context()).wants(build.Succeeded, "\non we go\n")
			if got, err := os.ReadFile(victim); err != nil || string(got) != "untouched" {
				t.Fatalf("a file outside of the sandbox now holds %q (%v)", got, err)
			}
		})
	}
}

// Exit statuses come over a descriptor that a build can neither inherit nor reach.
func TestB7ExitStatusCannotBeForged(t *testing.T) {
	spec(t, steps(`for p in /proc/[0-9]*; do for f in $p/fd/*; do
  case $(readlink $f) in pipe:*) (echo 0 >$f) 2>/dev/null & esac
done; done
wait
for i in 3 4 5 6 7 8 9 10; do (eval "echo 0 >&$i") 2>/dev/null; done
exit 5`)).wants(build.Failed, "exit status 5")
	spec(t, steps(`(: <>/proc/1/mem) 2>/dev/null && echo 'memory is open'; true`)).wants(build.Succeeded,
		"!memory is open")
}

// Inside there is no privilege left with which the sandbox could be undone.
func TestB3SandboxCannotBeUndone(t *testing.T) {
	b := spec(t, steps(
		`grep ^CapEff /proc/self/status`,
		`for d in / /usr /proc /proc/sys /etc/ssl; do mount -o remount,rw,bind $d 2>/dev/null && echo "remounted $d"; done; true`,
		`umount /proc/sys 2>/dev/null && echo "bared /proc/sys"; true`,
		`touch /usr/headgate-was-here 2>/dev/null; true`,
		`(: >>/proc/sys/kernel/core_pattern) 2>/dev/null && echo "core_pattern is open"; true`,
		`find /proc -maxdepth 4 -type f -not -path '/proc/[0-9]*' -writable 2>/dev/null >files; while read -r f; do (echo >>"$f") 2>/dev/null && echo "writable: $f"; done <files; true`,
		`id -un; getent hosts localhost >/dev/null && echo 'localhost has an address'`,
		`ls /etc/ssl/private 2>/dev/null && echo "saw private keys"; true`,
		`(: >>/proc/sysrq-trigger) 2>/dev/null && echo "sysrq is open"; true`,
		`ls /proc/1/root/work /sys/fs/cgroup 2>/dev/null | grep . && echo "saw the machine"; true`,
		`perl -e 'use Socket; socket(my $s, PF_INET, SOCK_RAW, 1) and print "raw socket\n"'; true`,
		`mknod $HOME/mem c 1 1 2>/dev/null && cat $HOME/mem >/dev/null 2>&1 && echo "read memory"; true`,
	))
	privileges := "CapEff:\t0000000000000000"
	if os.Geteuid() == 0 { // over files and users of the build's own machine
		privileges = "CapEff:\t00000000000405fb"
	}
	b.wants(build.Succeeded, privileges, "\nroot\n", "localhost has an address", "!saw private keys", "!remounted /",
		"!remounted /usr", "!remounted /proc", "!remounted /proc/sys", "!remounted /etc/ssl",
		"!bared /proc/sys", "!core_pattern is open", "!sysrq is open", "!saw the machine", "!raw socket", "!read memory")
	if strings.Contains(b.log, "\nwritable: ") {
		t.Errorf("kernel files are writable:\n%s", b.log)
	}
	if os.Remove("/usr/headgate-was-here") == nil {
		t.Error("a build wrote to the machine's /usr")
	}
}

// A process that makes a user namespace is privileged in it. With that, one of
// root's could mount the cgroups and lift its limits.
func TestB3NoNamespacesInside(t *testing.T) {
	if help, err := exec.Command("bwrap", "--help").Output(); err != nil ||
		!strings.Contains(string(help), "--disable-userns") {
		spec(t, steps("true")).wants(build.Succeeded, "bubblewrap is older than 0.8")
		return
	}
	const newUser, newMounts = 0x10000000, 0x20000
	spec(t, steps(fmt.Sprintf(`perl -e 'syscall(%d, %d) == 0 and print "a namespace\n"'; true`, unix.SYS_UNSHARE,
		newUser|newMounts),
		`unshare -U true 2>/dev/null && echo "a namespace"; true`)).wants(build.Succeeded, "!a namespace")
}

// The session's keyring is inherited through all namespaces; what is in it is not
// the build's to read.
func TestB3NoKeysOfTheServer(t *testing.T) {
	runtime.LockOSThread() // a session's keyring is a thread's
	defer runtime.UnlockOSThread()
	id, err := unix.AddKey("user", fmt.Sprintf("headgate-test-%d", os.Getpid()), []byte("of the server"),
		unix.KEY_SPEC_SESSION_KEYRING)
	if err != nil {
		t.Logf("there are no keyrings here: %v", err)
		return
	}
	defer unix.KeyctlInt(unix.KEYCTL_UNLINK, id, unix.KEY_SPEC_SESSION_KEYRING, 0, 0)
	spec(
		t, steps(
			fmt.Sprintf(
				`perl -e '$b = "\0" x 100; $n = syscall(%d, %d, %d, $b, 100); print "read ", $n, " ", substr($b, 0, 13), "\n"'`, unix.SYS_KEYCTL, unix.KEYCTL_READ, id))).
		wants(build.Succeeded, "read -1 ", "!read 13 of the server")
}

// What keeps the sandbox from being made is the server's failure: no verdict.
func TestSetUpTroubleIsNoVerdict(t *testing.T) {
	dir := t.TempDir()
	for _, d := range []string{"control", "home", "temp"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	n, err := (&host.Host{}).Start(t.Context(), build.Sandbox{ID: "trouble", Source: filepath.Join(dir, "absent"),
		Control: filepath.Join(dir, "control"), Home: filepath.Join(dir, "home"), Temp: filepath.Join(dir, "temp")})
	if err == nil {
		n.Close()
		t.Fatal("a sandbox without a source")
	}
	if !strings.Contains(err.Error(), "absent") {
		t.Errorf("%v does not say what is missing", err)
	}
}

// bash has variables that cannot be set; they must not get in the way of saving
// and restoring the others.
func TestB07BashOptionsDoNotCross(t *testing.T) {
	b := spec(
		t, "version: 0.2\nenv: {shell: bash}\nphases: {build: {commands: ['set -e; set -o pipefail; readonly R=1; X=2', 'false; echo on [$X]', 'false | true']}}")
	b.wants(build.Succeeded, "\non [2]\n")
	if strings.Contains(b.log, "readonly variable") {
		t.Errorf("noise:\n%s", b.log)
	}
}

// An artifact's name is what the buildspec says, whatever a process that stayed
// behind prints meanwhile.
func TestB46NameIsNotWhatAnOrphanPrints(t *testing.T) {
	b := spec(
		t, "version: 0.2\nphases: {build: {commands: ['V=7; yes noise & true']}}\nartifacts: {files: buildspec.yml, name: 'app-$V'}")
	b.wants(build.Succeeded)
	if len(b.result.Artifacts) != 1 || b.result.Artifacts[0].Name != "app-7" {
		t.Errorf("%+v", b.result.Artifacts)
	}
}

func TestB46NameWithQuotes(t *testing.T) {
	b := spec(
		t, "version: 0.2\nphases: {build: {commands: ['V=7']}}\nartifacts: {files: buildspec.yml, name: 'app-$(printf \"%s\" \"$V\")-$V'}")
	b.wants(build.Succeeded)
	if len(b.result.Artifacts) != 1 || b.result.Artifacts[0].Name != "app-7-7" {
		t.Errorf("%+v", b.result.Artifacts)
	}
}

// No process of the sandbox is left when Run returns, however it ends and whatever
// a build does to stay, and the server holds no descriptor more than before.
func TestB5NothingOutlivesTheBuild(t *testing.T) {
	fds := func() int { e, _ := os.ReadDir("/proc/self/fd"); return len(e) }
	prepare(t, map[string]string{"buildspec.yml": steps("true")}).run(t.Context())
	before := fds()
	for i, test := range []struct {
		end    string
		status build.Status
	}{
		{"true", build.Succeeded},
		{"exit 3", build.Failed},
		{"kill -9 1; kill -STOP 1; kill -9 $$", build.Failed},
		{"sleep 1000", build.TimedOut},
		{"touch cancel; sleep 1000", build.Stopped},
	} {
		t.Run(test.end, func(t *testing.T) {
			mark := fmt.Sprintf("headgate-mark-%d-%d", os.Getpid(), i)
			b := prepare(t, map[string]string{"buildspec.yml": steps(
				sandboxtest.Command("./hostile", mark)+" >said 2>&1 &\nuntil grep '"+sandboxtest.Ready+
					"' said; do sleep 0.01; done; cat said",
				"for i in 1 2 3; do setsid nohup sh -c 'sleep 300; : "+mark+"' >/dev/null 2>&1 & done",
				"trap '' TERM INT HUP; "+test.end)})
			sandboxtest.Copy(t, b.req.Source, "hostile")
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			switch test.status {
			case build.TimedOut:
				b.req.Timeout = 20 * time.Second // in which a loaded machine comes to the end
			case build.Stopped:
				go func() {
					for ctx.Err() == nil {
						if _, err := os.Stat(filepath.Join(b.req.Source, "cancel")); err == nil {
							cancel()
						}
						time.Sleep(time.Millisecond)
					}
				}()
			}
			b.run(ctx).wants(test.status, sandboxtest.Ready, "!"+sandboxtest.TookOver)
			if left := sandboxtest.Left(mark); len(left) > 0 {
				t.Errorf("still there: %q", left)
			}
		})
	}
	// Whoever reads the last output closes it in a moment of its own; what leaks stays.
	after := fds()
	for late := time.Now().Add(time.Minute); after > before && time.Now().Before(late); after = fds() {
		time.Sleep(10 * time.Millisecond)
	}
	if after > before {
		t.Errorf("%d descriptors before, %d after", before, after)
	}
}

// shellless is a sandbox that lacks the shell a buildspec asks for.
type shellless struct {
	stuck
	source string
}

func (shellless) Start(_ context.Context, s build.Sandbox) (build.Session, error) {
	return shellless{source: s.Source}, nil
}

func (s shellless) Files(context.Context, string) (string, error) { return s.source, nil }

func (shellless) Run(context.Context, build.Script, io.Writer) (int, error) {
	return 0, build.ErrNoShell
}
func (shellless) Close() error { return nil }

func TestB10NoShell(t *testing.T) {
	b := prepare(
		t, map[string]string{"buildspec.yml": "version: 0.2\nenv: {shell: bash}\nphases: {build: {commands: [make]}}"})
	b.executor = shellless{}
	b.run(t.Context()).wants(build.Failed,
		"there is no bash on this machine; install it, or choose another with env.shell", "exit status 127")
}

// stuck is a sandbox whose commands run until they are stopped and that cannot be
// ended.
type stuck struct{}

func (stuck) Start(context.Context, build.Sandbox) (build.Session, error) { return stuck{}, nil }

func (stuck) Run(ctx context.Context, _ build.Script, _ io.Writer) (int, error) {
	<-ctx.Done()
	return 0, ctx.Err()
}

func (stuck) Put(context.Context, string, []byte) error     { return nil }
func (stuck) Files(context.Context, string) (string, error) { return "", nil }

func (stuck) Notes() []string { return nil }
func (stuck) Limit() string   { return "" }
func (stuck) Close() error    { return errors.New("processes are left") }

// What cannot be ended is not passed over because the time is over too.
func TestB5WhatCannotBeEndedIsTold(t *testing.T) {
	b := prepare(t, map[string]string{"buildspec.yml": steps("sleep 100")})
	b.req.Timeout = time.Millisecond
	w, err := b.logs.Create("stuck", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Discard()
	if r, err := build.Run(t.Context(), b.req, stuck{}, w, b.store); err == nil ||
		!strings.Contains(err.Error(), "processes are left") {
		t.Errorf("%+v, %v", r, err)
	}
}
