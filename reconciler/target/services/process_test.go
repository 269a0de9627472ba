package services

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// TestPortsAreGivenOnce asks for more ports than chance would keep apart: that
// the same one comes again among 2000 of 28,000 is as good as certain.
func TestPortsAreGivenOnce(t *testing.T) {
	var f freePorts
	given := map[int]bool{}
	for range 2000 {
		port, err := f.take()
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
	bwrap, err := exec.LookPath("bwrap")
	if err != nil {
		t.Fatal("bubblewrap is not installed: apt-get install bubblewrap")
	}
	s := &starter{bwrap: bwrap, work: make(chan func())}
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { s.run(ctx) })
	defer running.Wait()
	defer cancel()

	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()

	const times = 20
	for name, test := range map[string]struct {
		script string
		end    func(*process)
	}{
		"killed at once":         {"sleep 1000", (*process).kill},
		"bubblewrap killed":      {"sleep 1000", func(p *process) { _ = p.cmd.Process.Kill() }},
		"leaves a child":         {"sleep 1000 >&- 2>&- &", func(*process) {}},
		"stopped before it runs": {"sleep 1000", func(p *process) { p.stop(syscall.SIGTERM, time.Minute) }},
	} {
		t.Run(name, func(t *testing.T) {
			for i := range times {
				mark := fmt.Sprintf("ended-%d-%s-%d", os.Getpid(), strings.ReplaceAll(name, " ", "-"), i)
				p, err := s.start(ctx, command{
					argv:     []string{"/bin/sh", "-c", test.script},
					env:      []string{"PATH=/usr/bin:/bin", "HEADGATE_ENVIRONMENT=" + mark},
					release:  t.TempDir(),
					hostname: "web-1",
					output:   null,
				})
				if err != nil {
					t.Fatal(err)
				}
				test.end(p)
				<-p.done
				if left := processesOf(mark); len(left) > 0 {
					t.Fatalf("run %d: left over: %v", i, left)
				}
			}
		})
	}
}
