package sandbox_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/headgate-cd/headgate/gitd/sandbox"
	"github.com/headgate-cd/headgate/gitd/sandbox/sandboxtest"
)

func TestMain(m *testing.M) {
	sandboxtest.Main()
	os.Exit(m.Run())
}

// started is a sandbox in which the hostile program has tried everything.
type started struct {
	*sandbox.Sandbox
	cmd    *exec.Cmd
	said   string
	mark   string
	record string
}

// start starts the hostile program in a sandbox; own says whether process 1 is
// the one that Init makes, or bubblewrap's.
func start(t *testing.T, records sandbox.Records, own bool) started {
	t.Helper()
	dir := t.TempDir()
	sandboxtest.Copy(t, dir, "hostile")
	s := started{mark: fmt.Sprintf("hostile-%d-%s", os.Getpid(),
		filepath.Base(t.TempDir())+strings.ReplaceAll(t.Name(), "/", "-"))}
	args := []string{
		"--unshare-all", "--new-session", "--cap-drop", "ALL", "--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc",
		"--ro-bind", dir, dir, // which may be in /dev/shm
		"--tmpfs", "/run", "--info-fd", "3",
	}
	if own {
		args = append(append(args, sandbox.Init(4, "/run/sh")...), sandbox.WithParent, "--", "/run/sh")
	} else {
		args = append(args, sandbox.WithParent, "--", "/bin/sh")
	}
	s.cmd = exec.Command("bwrap", append(args, "-c", sandboxtest.Command(dir+"/hostile", s.mark)+"; exit 1")...)
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	out, err := s.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	s.cmd.Stderr = os.Stderr
	info, told, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer info.Close()
	shell, err := sandbox.OpenShell()
	if err != nil {
		t.Fatal(err)
	}
	defer shell.Close()
	s.cmd.ExtraFiles = []*os.File{told, shell}
	if s.Sandbox, err = records.New("a test"); err != nil {
		t.Fatal(err)
	}
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	told.Close()
	if _, err := s.Started(info, s.cmd.Process.Pid); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	for lines.Scan() && lines.Text() != sandboxtest.Ready {
		s.said += lines.Text() + "\n"
	}
	if len(sandboxtest.Left(s.mark)) < 3 {
		t.Fatalf("the hostile program does not work:\n%s", s.said)
	}
	if files, _ := filepath.Glob(filepath.Join(records.Dir, "*", "*.json")); records.Dir != "" && len(files) > 0 {
		s.record = files[len(files)-1]
	}
	return s
}

// Bubblewrap's process 1 does what anybody inside wants it to. Ours does not, and
// with it everything ends, whether bubblewrap is killed or the sandbox closed.
func TestInitCannotBeTakenOver(t *testing.T) {
	s := start(t, sandbox.Records{}, false)
	if !strings.Contains(s.said, sandboxtest.TookOver) {
		t.Errorf("bubblewrap's own cannot be taken over, then why not use it?\n%s", s.said)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	s.cmd.Wait()

	for name, end := range map[string]func(started){
		"closed":            func(s started) {},
		"bubblewrap killed": func(s started) { _ = s.cmd.Process.Kill() },
	} {
		t.Run(name, func(t *testing.T) {
			s := start(t, sandbox.Records{}, true)
			if strings.Contains(s.said, sandboxtest.TookOver) {
				t.Errorf("process 1 can be taken over:\n%s", s.said)
			}
			end(s)
			if name != "closed" {
				for deadline := time.Now().Add(time.Minute); s.Alive() && time.Now().Before(deadline); {
					time.Sleep(time.Millisecond)
				}
				if left := sandboxtest.Left(s.mark); len(left) > 0 {
					t.Errorf("left over: %v", left)
				}
			}
			if err := s.Close(); err != nil {
				t.Error(err)
			}
			s.cmd.Wait() // bubblewrap itself, outside, ends a moment after what is inside
			if left := sandboxtest.Left(s.mark); len(left) > 0 {
				t.Errorf("left over: %v", left)
			}
		})
	}
}

// What is recorded is ended by whoever comes later, and nothing else.
func TestEndAll(t *testing.T) {
	records := sandbox.Records{Dir: t.TempDir()}
	s := start(t, records, true)
	later := func(wanted int) {
		t.Helper()
		if n, err := records.EndAll(); err != nil || n != wanted {
			t.Errorf("ended %d, %v, and not %d", n, err, wanted)
		}
	}

	// The number of a process that was started at another time is another's.
	data, err := os.ReadFile(s.record)
	if err != nil {
		t.Fatal(err)
	}
	var r map[string]any
	if err := json.Unmarshal(data, &r); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"first", "bubblewrap"} {
		p := r[name].(map[string]any)
		p["start"] = p["start"].(string) + "0"
	}
	other, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(s.record, other, 0o600); err != nil {
		t.Fatal(err)
	}
	later(0)
	if !s.Alive() {
		t.Fatal("another's process was ended")
	}

	// So is one of another boot.
	boot := filepath.Join(records.Dir, "another-boot")
	if err := os.Mkdir(boot, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(boot, "1.json"), data, 0o600); err != nil {
		t.Fatal(err)
	}
	later(0)
	if !s.Alive() {
		t.Fatal("the process of another boot was ended")
	}

	if err := os.WriteFile(s.record, data, 0o600); err != nil {
		t.Fatal(err)
	}
	later(1)
	if left := sandboxtest.Left(s.mark); len(left) > 0 {
		t.Errorf("left over: %v", left)
	}
	later(0)
	s.cmd.Wait()
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

// What is in a sandbox's cgroup is ended, although it was never in its namespace.
func TestCgroupIsEnded(t *testing.T) {
	root := ""
	for _, dir := range []string{"/sys/fs/cgroup/freezer", "/sys/fs/cgroup/pids", "/sys/fs/cgroup"} {
		if _, err := os.Stat(filepath.Join(dir, "cgroup.procs")); err == nil && root == "" {
			root = dir
		}
	}
	group := filepath.Join(root, fmt.Sprintf("headgate-test-%d", os.Getpid()))
	if err := os.Mkdir(group, 0o755); root == "" || err != nil {
		if os.Getenv("CI") != "" {
			t.Fatalf("no cgroups can be made here: %v", err)
		}
		t.Skipf("SKIPPED: no cgroups can be made here: %v", err)
	}
	defer os.Remove(group)
	mark := filepath.Base(group) + "-stray"
	stray := exec.Command("sh", "-c",
		"echo $$ >"+group+"/cgroup.procs; trap '' TERM; while :; do setsid sleep 1000 "+mark+" & sleep 0.05; done")
	stray.Args[0] = mark
	if err := stray.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { stray.Wait(); close(ended) }()
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		if data, _ := os.ReadFile(group + "/cgroup.procs"); strings.Count(string(data), "\n") > 2 {
			break
		}
	}
	records := sandbox.Records{Dir: t.TempDir()}
	if _, err := records.New("a test", group); err != nil {
		t.Fatal(err)
	}
	if n, err := records.EndAll(); err != nil || n != 1 {
		t.Errorf("ended %d, %v", n, err)
	}
	<-ended
	if left := sandboxtest.Left(mark); len(left) > 0 {
		t.Errorf("left over: %v", left)
	}
	if _, err := os.Stat(group); err == nil {
		t.Error("the cgroup is left")
	}
}

// TestCutOffWhileStarting: a bubblewrap that is killed while it makes the sandbox
// leaves a child that waits for it for ever, and that no record names. Whoever closes
// the sandbox ends it, and the next start of the server.
func TestCutOffWhileStarting(t *testing.T) {
	for name, end := range map[string]func(*testing.T, sandbox.Records, *sandbox.Sandbox){
		"closed": func(t *testing.T, _ sandbox.Records, s *sandbox.Sandbox) {
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		},
		"next start": func(t *testing.T, records sandbox.Records, _ *sandbox.Sandbox) {
			if n, err := records.EndAll(); n != 1 || err != nil {
				t.Errorf("ended %d, %v", n, err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			records := sandbox.Records{Dir: t.TempDir()}
			s, err := records.New("a test")
			if err != nil {
				t.Fatal(err)
			}
			never, blocks, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			defer never.Close()
			defer blocks.Close()
			cmd := exec.Command("bwrap", "--unshare-user", "--unshare-pid", "--die-with-parent", "--userns-block-fd", "3",
				"--info-fd", "4", "--ro-bind", "/", "/", "--", "true")
			info, told, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			defer info.Close()
			cmd.ExtraFiles = []*os.File{never, told}
			cmd.Env = append(os.Environ(), s.Mark())
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			told.Close()
			var child struct {
				PID int `json:"child-pid"`
			}
			if err := json.NewDecoder(info).Decode(&child); err != nil {
				t.Fatal(err)
			}
			_ = cmd.Process.Kill()
			_ = cmd.Wait() // it was killed
			if err := syscall.Kill(child.PID, 0); err != nil {
				t.Fatalf("bubblewrap leaves nothing behind: %v", err)
			}
			end(t, records, s)
			if text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", child.PID)); err == nil && len(text) > 0 {
				t.Errorf("%d is still there: %q", child.PID, text)
			}
			if left, _ := filepath.Glob(filepath.Join(records.Dir, "*", "*.json")); len(left) > 0 {
				t.Errorf("recorded are %v", left)
			}
		})
	}
}
