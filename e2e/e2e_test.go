// Package e2e tells stories against the built programs, with real git, real
// ssh, real processes and a real browser. It imports nothing of Headgate: what
// it knows is what a user can see.
//
// A story is a testscript file in testdata, run against a server of its own
// (its own data directory, ports chosen by the kernel). Commands beyond
// testscript's own are in harness_test.go.
package e2e

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// programs is where the programs under test are built, each way once.
var programs string

// raced is the directory with a server that looks out for data races; plain, for
// the kill story, which starts a server many times, and for stories in which one
// thing happens after the other, with one that does not. The
// hook program, of which a push starts three, is as it is released in both.
var (
	raced = sync.OnceValues(func() (string, error) { return build("raced", "CGO_ENABLED=1", "-race") })
	plain = sync.OnceValues(func() (string, error) { return build("plain", "CGO_ENABLED=0") })
)

func build(name, env string, args ...string) (string, error) {
	dir := filepath.Join(programs, name)
	for _, program := range []struct {
		name, env string
		args      []string
	}{
		{"headgate", env, args},
		{"headgate-hook", "CGO_ENABLED=0", nil},
	} {
		cmd := exec.Command("go", append(append([]string{"build", "-ldflags", "-s -w", "-o", dir + "/"}, program.args...),
			"../cmd/"+program.name)...)
		cmd.Env = append(os.Environ(), program.env)
		if out, err := cmd.CombinedOutput(); err != nil {
			return "", fmt.Errorf("build the programs: %w\n%s", err, out)
		}
	}
	return dir, nil
}

func TestMain(m *testing.M) {
	flag.Parse()
	// Stories mostly wait for processes: run more of them than there are cores.
	if err := flag.Set("test.parallel", "4"); err != nil {
		panic(err) // the testing package has that flag
	}
	var err error
	if programs, err = os.MkdirTemp("", "headgate-e2e-"); err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		os.Exit(1)
	}
	code := m.Run()
	os.RemoveAll(programs)
	os.Exit(code)
}

func TestStories(t *testing.T) {
	t.Parallel()
	tellStories(t, "testdata")
}

// tellStories runs the stories of a directory, with variables in their environment.
func tellStories(t *testing.T, dir string, vars ...string) {
	testscript.Run(t, testscript.Params{
		Dir:                 dir,
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(env *testscript.Env) error {
			programs, err := programsOf(filepath.Join(dir, strings.TrimPrefix(filepath.Base(env.WorkDir), "script-")+".txtar"))
			if err != nil {
				return err
			}
			if slices.Contains(vars, "FORGE_KIND=github") {
				programs = raced // forge, gate and people act at the same time; once is enough
			}
			h, err := newHarness(env.WorkDir, programs)
			if err != nil {
				return err
			}
			env.Values[harnessKey{}] = h
			env.Vars = append(append(env.Vars, h.env()...), vars...)
			env.Defer(func() {
				failed := false
				h.finish(func(format string, args ...any) {
					env.T().Log(fmt.Sprintf(format, args...))
					failed = true
				})
				if failed {
					env.T().FailNow()
				}
			})
			return nil
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"server":      serverCmd,
			"agent":       agentCmd,
			"user":        userCmd,
			"as":          asCmd,
			"forge":       forgeCmd,
			"hook":        hookCmd,
			"at-forge":    atForgeCmd,
			"forge-shows": forgeShowsCmd,
			"receiver":    receiverCmd,
			"letgo":       letgoCmd,
			"hg":          hgCmd,
			"page":        pageCmd,
			"eventually":  eventuallyCmd,
			"sample":      sampleCmd,
			"jsonget":     jsonCmd,
			"dump":        dumpCmd,
		},
	})
}

// beside is a line of a story that starts something and goes on.
var beside = regexp.MustCompile(`(?m)^[^#\n].* &\w*&?$`)

// programsOf looks out for races in stories in which people act at the same time, as
// the tests beside this one do; in others it would find what the packages' own
// tests do, at three times the price.
func programsOf(path string) (func() (string, error), error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	if beside.Match(text) {
		return raced, nil
	}
	return plain, nil
}

// waitTimeout is how long a story waits for something that must come.
const waitTimeout = 3 * time.Minute

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

// processes lists what runs and mentions the harness's directory: the server, what it
// started, and what was started to talk to it. The directory of another story may
// begin with the same letters.
func (h *harness) processes() []string {
	var left []string
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, d := range dirs {
		cmdline, err := os.ReadFile(filepath.Join(d, "cmdline"))
		if err != nil {
			continue
		}
		cwd, _ := os.Readlink(filepath.Join(d, "cwd"))
		line := strings.ReplaceAll(string(cmdline), "\x00", " ")
		if d != fmt.Sprintf("/proc/%d", os.Getpid()) &&
			(strings.Contains(line, h.dir+"/") || cwd == h.dir || strings.HasPrefix(cwd, h.dir+"/")) {
			left = append(left, filepath.Base(d)+" "+line)
		}
	}
	return left
}
