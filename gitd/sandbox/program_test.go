package sandbox

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

func TestRunnable(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "program")
	if err := WriteProgram(path, []byte("#!/bin/sh\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	w, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	r, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if !written(r) {
		t.Fatal("open for writing, and not known")
	}
	if err := exec.Command(path).Run(); err == nil {
		t.Fatal("what is open for writing can be run here")
	}
	done := make(chan struct{})
	go func() { Runnable(r); close(done) }()
	select {
	case <-done:
		t.Fatal("it is open for writing")
	case <-time.After(20 * time.Millisecond):
	}
	w.Close()
	<-done
	if err := exec.Command(path).Run(); err != nil {
		t.Fatal(err)
	}
}

// TestProgramsRunWhileOthersStart: what is written is run at once, in a process that starts
// others all the while.
func TestProgramsRunWhileOthersStart(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			for n := range 25 {
				path := filepath.Join(dir, fmt.Sprintf("%d-%d", i, n))
				if err := WriteProgram(path, []byte("#!/bin/sh\n"), 0o755); err != nil {
					t.Error(err)
					return
				}
				if err := exec.Command(path).Run(); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	all.Wait()
}
