package e2e

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestDemo is what a newcomer does: start the demo, read it, approve, change a
// line and push, stop it, and start it again. Somebody without an SSH key gets one.
func TestDemo(t *testing.T) {
	t.Parallel()
	h, err := newHarness(t.TempDir(), raced)
	if err != nil {
		t.Fatal(err)
	}
	port, err := freePorts(3) // the console's, and the sample's services'
	if err != nil {
		t.Fatal(err)
	}
	h.HTTP = fmt.Sprintf("http://127.0.0.1:%d", port)
	// Another program has staging's port at first, and lets go of it once the demo has said so.
	other, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port+1))
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	demo := func() (said string, stop func()) {
		t.Helper()
		cmd := exec.Command(filepath.Join(h.bin, "headgate"), "demo", "--data", h.data(), "--ssh", "127.0.0.1:0", "--http",
			fmt.Sprintf("127.0.0.1:%d", port), "--admin", "newcomer")
		cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + filepath.Join(h.dir, "home")}
		cmd.Dir = h.dir
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		var errs strings.Builder
		cmd.Stderr = &errs
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			cmd.Process.Kill()
			h.abandon()
		})
		watchdog := time.AfterFunc(2*waitTimeout, func() { cmd.Process.Kill() })
		defer watchdog.Stop()
		lines := bufio.NewScanner(out)
		for lines.Scan() {
			said += lines.Text() + "\n"
			if strings.HasPrefix(lines.Text(), "ready") {
				break
			}
			if strings.Contains(lines.Text(), "is taken by") {
				other.Close()
			}
		}
		drained := make(chan struct{})
		go func() { // the pipe must not fill
			defer close(drained)
			for lines.Scan() {
			}
		}()
		return said, func() {
			t.Helper()
			if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
				t.Fatal(err)
			}
			<-drained
			if err := cmd.Wait(); err != nil {
				t.Errorf("the demo ended with %v\n%s", err, errs.String())
			}
		}
	}
	said, stop := demo()
	for _, want := range []string{
		"you have no SSH key, so one was made", "remote: success: 1 landed on main", "main is at", "release 1",
		fmt.Sprintf("port 127.0.0.1:%d of service hello of hello in staging is taken by ", port+1),
		fmt.Sprintf("staging runs release 1: http://127.0.0.1:%d", port+1), "Hello from Headgate",
		"production waits for your approval of release 1",
		"approve production", "git push origin origin/promote/production:env/production", "/hello/promote/production",
		"by push:     ssh -i ", "by HTTP:     ssh -i ", "by webhook:  ssh -i ", "\nready",
	} {
		if !strings.Contains(said, want) {
			t.Fatalf("the demo did not say %q; it said\n%s", want, said)
		}
	}

	// The very commands it printed, with the key it made.
	var approve, clone string
	for line := range strings.Lines(said) {
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, "ssh ") && strings.HasSuffix(line, "approve production") {
			approve = line
		}
		if strings.HasPrefix(line, "git clone ") {
			clone, _, _ = strings.Cut(line, " &&")
		}
	}
	easy := "-o BatchMode=yes -o StrictHostKeyChecking=accept-new -o UserKnownHostsFile=" +
		filepath.Join(h.dir, "known_hosts") + " "
	shell := func(script string) string {
		t.Helper()
		env := append(h.env(), "GIT_SSH_COMMAND=ssh "+easy+"-i "+filepath.Join(h.data(), "keys", "you"))
		stdout, stderr, err := within(waitTimeout, h.dir, env, "sh", "-ec", script)
		if err != nil {
			t.Fatalf("%s: %v\n%s%s", script, err, stdout, stderr)
		}
		return stdout + stderr
	}
	shell(strings.Replace(approve, "ssh ", "ssh "+easy, 1))
	answers := func(port int, want string) {
		t.Helper()
		var last string
		for deadline := time.Now().Add(waitTimeout); time.Now().Before(deadline); time.Sleep(30 * time.Millisecond) {
			if last, _ = get(fmt.Sprintf("http://127.0.0.1:%d/", port)); strings.Contains(last, want) {
				return
			}
		}
		t.Fatalf("port %d answers %q, not %q", port, last, want)
	}
	answers(port+2, "this is production, release 1")
	shell(
		clone + " clone && cd clone && sed -i 's/Hello from Headgate/Hello from a newcomer/' lib/Greeting.pm && git commit -qam 'Say who' && git push origin main")
	answers(port+1, "Hello from a newcomer\nthis is staging, release 2")

	// A change that breaks the test is refused, and main stays.
	refused := shell(
		"cd clone && sed -i 's/200 OK/500 Oops/' lib/Greeting.pm && git commit -qam 'Break it' && ! git push origin main; git ls-remote origin refs/heads/main; git rev-parse HEAD~1")
	for _, want := range []string{`error: 3 refused: build: "prove -v t/" exited 1`,
		"log: " + h.console() + "/hello/changes/3"} {
		if !strings.Contains(refused, want) {
			t.Errorf("the push did not say %q:\n%s", want, refused)
		}
	}
	if ids := regexp.MustCompile(`(?m)^[0-9a-f]{40}`).FindAllString(refused, -1); len(ids) != 2 || ids[0] != ids[1] {
		t.Errorf("main did not stay: %v", ids)
	}

	// The next day it goes on with what there is; what runs has gone on meanwhile.
	stop()
	answers(port+2, "this is production, release 1")
	said, stop = demo()
	for _, want := range []string{"the repository hello is there already", "release 2", "Hello from a newcomer",
		"production runs release 1", "production waits for your approval of release 2", "\nready"} {
		if !strings.Contains(said, want) {
			t.Errorf("the demo, started again, did not say %q; it said\n%s", want, said)
		}
	}
	stop()
	if err := h.stopAgent(); err != nil {
		t.Error(err)
	}
	if left := h.processes(); len(left) > 0 {
		t.Errorf("processes left over:\n%s", strings.Join(left, "\n"))
	}
}
