// Package e2e tells stories against the built programs, with real git, real
// ssh, real processes and a real browser. It imports nothing of Headgate: what
// it knows is what a user can see.
//
// A story is a testscript file in testdata, run against a server of its own
// (its own data folder, ports chosen by the kernel). Commands beyond
// testscript's own are in world_test.go.
package e2e

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// The folders with the programs under test, built once: bin with the race
// detector; plain without, for the kill story, which starts a server many times
// and waits for nothing but processes.
var bin, plain string

func TestMain(m *testing.M) {
	flag.Parse()
	// Stories mostly wait for processes: run more of them than there are cores.
	if err := flag.Set("test.parallel", "4"); err != nil {
		panic(err) // the testing package has that flag
	}
	dir, err := os.MkdirTemp("", "headgate-e2e-")
	if err == nil {
		bin, plain = filepath.Join(dir, "race"), filepath.Join(dir, "plain")
		err = errors.Join(build("1", "-race", "-o", bin+"/"), build("0", "-o", plain+"/"))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "e2e: build the programs:", err)
		os.Exit(1)
	}
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

func build(cgo string, args ...string) error {
	cmd := exec.Command("go", append(append([]string{"build", "-trimpath"}, args...), "../cmd/headgate", "../cmd/headgate-hook")...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED="+cgo)
	cmd.Stderr = os.Stderr
	return cmd.Run()
}

func TestStories(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(env *testscript.Env) error {
			w, err := newWorld(env.WorkDir)
			if err != nil {
				return err
			}
			env.Values[worldKey{}] = w
			env.Vars = append(env.Vars, w.env()...)
			env.Defer(func() {
				w.stop(true)
				if left := w.leftovers(); len(left) > 0 {
					env.T().Log("processes left over:\n" + strings.Join(left, "\n"))
					env.T().FailNow()
				}
			})
			return nil
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"server":     serverCmd,
			"user":       userCmd,
			"as":         asCmd,
			"letgo":      letgoCmd,
			"hg":         hgCmd,
			"eventually": eventuallyCmd,
			"sample":     sampleCmd,
			"jsonget":    jsonCmd,
			"dump":       dumpCmd,
		},
	})
}

// patience is how long a story waits for something that must come.
const patience = 60 * time.Second

// within runs a program with a deadline and returns its output.
func within(d time.Duration, dir string, env []string, name string, args ...string) (stdout, stderr string, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir, cmd.Env = dir, env
	var out, errs strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &errs
	cmd.WaitDelay = time.Second
	err = cmd.Run()
	return out.String(), errs.String(), err
}

// leftovers lists processes that mention the world's folder.
func (w *world) leftovers() []string {
	deadline := time.Now().Add(10 * time.Second)
	for {
		left := w.processes()
		if len(left) == 0 || time.Now().After(deadline) {
			return left
		}
		time.Sleep(50 * time.Millisecond) // a killed child is reaped by its parent's end, which no event tells us of
	}
}

func (w *world) processes() []string {
	var left []string
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, d := range dirs {
		cmdline, err := os.ReadFile(filepath.Join(d, "cmdline"))
		if err != nil {
			continue
		}
		cwd, _ := os.Readlink(filepath.Join(d, "cwd"))
		line := strings.ReplaceAll(string(cmdline), "\x00", " ")
		if d != fmt.Sprintf("/proc/%d", os.Getpid()) && (strings.Contains(line, w.dir) || strings.HasPrefix(cwd, w.dir)) {
			left = append(left, filepath.Base(d)+" "+line)
		}
	}
	return left
}
