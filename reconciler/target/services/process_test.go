package services

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/headgate-cd/headgate/gitd/sandbox/sandboxtest"
)

// TestPortsAreGivenOnce asks for more ports than chance would keep apart: that
// the same one comes again among 2000 of 28,000 is as good as certain.
func TestPortsAreGivenOnce(t *testing.T) {
	var f freePorts
	given := map[int]bool{}
	for range 2000 {
		port, err := f.take(func(int) bool { return false })
		if err != nil {
			t.Fatal(err)
		}
		if given[port] {
			t.Fatalf("port %d was given twice", port)
		}
		given[port] = true
	}
	for port := range given {
		f.release(port)
	}
	if len(f.given) != 0 {
		t.Fatalf("%d ports are never free again", len(f.given))
	}
}

// TestEndedMeansGone: whoever waited for a process finds nothing left of its
// sandbox, however soon it was killed and whatever its command left running.
func TestEndedMeansGone(t *testing.T) {
	t.Parallel()
	bwrap, err := exec.LookPath("bwrap")
	if err != nil {
		t.Fatal("bubblewrap is not installed: apt-get install bubblewrap")
	}
	s := &starter{bwrap: bwrap}

	const times = 20
	hostile := sandboxtest.Command("./hostile", "$HEADGATE_ENVIRONMENT") + " >/tmp/said & until grep '" +
		sandboxtest.Ready + "' /tmp/said; do sleep 0.01; done; cat /tmp/said"
	for name, test := range map[string]struct {
		script string
		end    func(*process)
		times  int
	}{
		"killed at once": {"sleep 1000", (*process).kill, times},
		"bubblewrap killed": {"sleep 1000", func(p *process) {
			_ = p.child.Process.Kill()
			p.kill()
		}, times},
		"leaves a child":         {"sleep 1000 >&- 2>&- &", func(*process) {}, times},
		"stopped before it runs": {"sleep 1000", func(p *process) { p.stop(syscall.SIGTERM, time.Minute, nil) }, times},
		"hostile, and ends":      {hostile, func(*process) {}, 1},
		"hostile, and is stopped": {hostile + "; touch /tmp/ready; wait", func(p *process) {
			eventually(t, "tried everything", func() (string, bool) {
				_, err := os.Stat(fmt.Sprintf("/proc/%d/root/tmp/ready", p.started.First.PID))
				return "", err == nil
			})
			p.stop(syscall.SIGTERM, time.Millisecond, nil)
		}, 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for i := range test.times {
				mark := fmt.Sprintf("ended-%d-%s-%d", os.Getpid(), strings.ReplaceAll(name, " ", "-"), i)
				release, files := t.TempDir(), t.TempDir()
				if strings.HasPrefix(name, "hostile") {
					sandboxtest.Copy(t, release, "hostile")
				}
				c := command{
					argv:     []string{"/bin/sh", "-c", test.script},
					env:      []string{"PATH=/usr/bin:/bin", "HEADGATE_ENVIRONMENT=" + mark},
					release:  release,
					hostname: "web-1",
					output:   filepath.Join(files, "out"),
					status:   filepath.Join(files, "status"),
				}
				p, err := s.start(c, func(started) error { return nil })
				if err != nil {
					t.Fatal(err)
				}
				test.end(p)
				<-p.done
				if left := sandboxtest.Left(mark); len(left) > 0 {
					t.Fatalf("run %d: left over: %v", i, left)
				}
				text, err := os.ReadFile(c.output)
				if err != nil {
					t.Fatal(err)
				}
				said := string(text)
				if tried := strings.Contains(said, sandboxtest.Ready); tried != strings.HasPrefix(name, "hostile") {
					t.Errorf("tried everything: %v:\n%s", tried, said)
				}
				if strings.Contains(said, sandboxtest.TookOver) {
					t.Errorf("process 1 can be taken over:\n%s", said)
				}
			}
		})
	}
}
