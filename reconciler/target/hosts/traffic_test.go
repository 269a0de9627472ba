package hosts

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/headgate-cd/headgate/reconciler/target"
)

// trafficVariable has the test's program be an agent's target that ends when it has done what
// it is told.
const trafficVariable = "HEADGATE_TEST_TRAFFIC"

// toldTraffic is what such a process is told: one after the other, or nothing but to go on.
type toldTraffic struct {
	Dir   string
	Steps []target.Declared
}

var halfKey = target.Key{Repository: "shop", Application: "shop", Environment: "production"}

func TestMain(m *testing.M) {
	if text := os.Getenv(trafficVariable); text != "" {
		if err := beTold(text); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// beTold is that process.
func beTold(text string) error {
	var told toldTraffic
	if err := json.Unmarshal([]byte(text), &told); err != nil {
		return err
	}
	h := New(filepath.Join(told.Dir, "hosts"), func(_ context.Context, digest, dir string) error {
		return os.WriteFile(filepath.Join(dir, "note.sh"), []byte("#!/bin/sh\necho '"+digest+"':$LIFECYCLE_EVENT >>"+
			told.Dir+"/ran\n"), 0o755)
	})
	h.Keep = filepath.Join(told.Dir, "kept")
	if err := h.Load(); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- h.Run(ctx) }()

	settled := func(o target.Observed) bool { return o.State == target.Healthy || o.State == target.Failed }
	o, err := target.Observed{}, error(nil)
	if len(told.Steps) == 0 {
		o, err = until(h, halfKey, settled)
	}
	for _, d := range told.Steps {
		if err != nil {
			break
		}
		h.Converge(d)
		o, err = until(h, halfKey, func(o target.Observed) bool {
			return settled(o) && o.Sequence == d.Sequence && o.Part == d.Part && o.Attempt == d.Attempt
		})
	}
	cancel()
	if err := errors.Join(err, <-ended); err != nil {
		return err
	}
	data, err := json.Marshal(o)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(told.Dir, "observed.json"), data, 0o600)
}

// process runs one; it may be killed at a crash point.
func (told toldTraffic) process(t *testing.T, env ...string) (o target.Observed, dead bool) {
	t.Helper()
	text, err := json.Marshal(told)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(append(os.Environ(), trafficVariable+"="+string(text)), env...)
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		if status, ok := exit.Sys().(syscall.WaitStatus); ok && status.Signal() == syscall.SIGKILL && status.Signaled() {
			return o, true
		}
	}
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	data, err := os.ReadFile(filepath.Join(told.Dir, "observed.json"))
	if err == nil {
		err = json.Unmarshal(data, &o)
	}
	if err != nil {
		t.Fatal(err)
	}
	return o, false
}

// part is what one host is told of a blue/green deployment.
func part(n int, p target.Part) target.Declared {
	spec := "version: 0.0\nos: linux\nhooks:\n"
	for _, event := range []string{"BeforeBlockTraffic", "AfterBlockTraffic", "ApplicationStart", "BeforeAllowTraffic",
		"AfterAllowTraffic"} {
		spec += "  " + event + ": [{location: note.sh}]\n"
	}
	return target.Declared{Key: halfKey, Commit: fmt.Sprint("commit", n), Sequence: n, Part: p, Release: release(n),
		Files: target.Files{"appspec.yml": []byte(spec)}}
}

// TestKilledInTraffic: an agent that is killed while a host is let into the traffic, or taken
// out of it, goes on by itself, and ends with what was declared: no script runs twice, and one
// that was at it then fails, so that somebody says retry. What is declared instead begins with
// a host that is out of the traffic.
func TestKilledInTraffic(t *testing.T) {
	serves := func(o target.Observed) (release int, serving bool) {
		for _, u := range o.Units {
			for _, in := range u.Instances {
				release, serving = in.Release, in.Serving
			}
		}
		return release, serving
	}
	install, allow, block := part(1, target.Replacement), part(1, target.Allowed), part(2, target.Blocked)
	for _, test := range []struct {
		before []target.Declared
		step   target.Declared
		events string // of its scripts
	}{
		{[]target.Declared{install}, allow, "AllowTraffic"},
		{[]target.Declared{install, allow}, block, "BlockTraffic"},
	} {
		for _, point := range []string{"hosts.declared-kept", "hosts.traffic-moving", "deploy.begun", "deploy.script-begun",
			"deploy.script-ended", "deploy.script-begun:2", "deploy.event-done:2", "deploy.result-written", "deploy.ended",
			"hosts.traffic-moved", "hosts.traffic-kept"} {
			for _, instead := range []bool{false, true} {
				if instead && point != "hosts.traffic-moving" && point != "deploy.script-begun:2" && point != "hosts.traffic-moved" {
					continue
				}
				t.Run(fmt.Sprintf("%s/%s/%t", test.step.Part, point, instead), func(t *testing.T) {
					t.Parallel()
					dir := t.TempDir()
					toldTraffic{dir, test.before}.process(t)
					if _, dead := (toldTraffic{dir, []target.Declared{test.step}}).process(t, "HEADGATE_CRASH_AT="+point); !dead {
						t.Fatal("it was not killed")
					}
					if instead {
						o, _ := toldTraffic{dir, []target.Declared{part(3, target.Replacement)}}.process(t)
						if n, serving := serves(o); o.State != target.Healthy || n != 3 || serving {
							t.Errorf("%+v", o)
						}
						all := words(t, filepath.Join(dir, "ran"))
						out, in := strings.LastIndex(all, ":AfterBlockTraffic"), strings.Index(all, "release 3:ApplicationStart")
						if out < 0 || in < out {
							t.Errorf("it ran %s", all)
						}
						return
					}
					next := toldTraffic{Dir: dir}
					if point == "hosts.declared-kept" { // of what was kept before, if that comes first: the server tells it again
						next.Steps = []target.Declared{test.step}
					}
					o, _ := next.process(t)
					again := strings.HasPrefix(point, "deploy.script-")
					if again {
						if o.State != target.Failed || !strings.Contains(o.Message, "failed after a restart") {
							t.Errorf("%+v", o)
						}
						retried := test.step
						retried.Attempt = 1
						o, _ = toldTraffic{dir, []target.Declared{retried}}.process(t)
					}
					if n, serving := serves(o); o.State != target.Healthy || n != 1 || serving != (test.step.Part == target.Allowed) {
						t.Errorf("%+v", o)
					}
					all := words(t, filepath.Join(dir, "ran"))
					for _, event := range []string{":Before" + test.events, ":After" + test.events} {
						if n := strings.Count(all, event); n < 1 || n > 1 && !again {
							t.Errorf("it ran %s", all)
						}
					}
				})
			}
		}
	}
}

// TestKilledAsDeployed: a host whose agent is killed before it has noted what was deployed
// there deploys nothing twice, and knows whether it gets traffic.
func TestKilledAsDeployed(t *testing.T) {
	for of, serving := range map[target.Part]bool{target.InPlace: true, target.Replacement: false} {
		dir := t.TempDir()
		if _, dead := (toldTraffic{dir, []target.Declared{part(1, of)}}).process(t, "HEADGATE_CRASH_AT=hosts.deployed"); !dead {
			t.Fatal("it was not killed")
		}
		o, _ := toldTraffic{Dir: dir}.process(t)
		if len(o.Units) != 1 || len(o.Units[0].Instances) != 1 || o.State != target.Healthy ||
			o.Units[0].Instances[0].Release != 1 || o.Units[0].Instances[0].Serving != serving {
			t.Errorf("%s: %+v", of, o)
		}
		if all := words(t, filepath.Join(dir, "ran")); strings.Count(all, "release 1:ApplicationStart") != 1 {
			t.Errorf("%s: it ran %s", of, all)
		}
	}
}

// TestReplacementServed: a host that serves what was installed in place, also by an agent that
// noted nothing of traffic, is out of the traffic before it is installed on, and in it again once
// there are no halves.
func TestReplacementServed(t *testing.T) {
	for _, noted := range []bool{true, false} {
		dir := t.TempDir()
		h := New(dir, scripts(map[string]string{"note.sh": "echo $LIFECYCLE_EVENT >>" + dir + "/ran"}))
		running(t, h)
		converge := func(d target.Declared) {
			t.Helper()
			h.Converge(d)
			await(t, h, halfKey, func(o target.Observed) bool {
				return o.State == target.Healthy && o.Sequence == d.Sequence && o.Part == d.Part
			})
		}
		forget := func() {
			if files, err := filepath.Glob(filepath.Join(dir, "traffic", "*")); err != nil || len(files) != 1 {
				t.Fatal(files, err)
			} else if err := os.Remove(files[0]); err != nil {
				t.Fatal(err)
			}
		}
		converge(part(1, target.InPlace))
		if !noted {
			forget()
		}
		converge(part(2, target.Replacement))
		if !noted {
			forget()
		}
		converge(part(3, target.InPlace))
		converge(part(4, target.Blocked))
		const block, allow = "BeforeBlockTraffic AfterBlockTraffic ", "BeforeAllowTraffic AfterAllowTraffic "
		want := "ApplicationStart " + block + "ApplicationStart "
		if noted { // else it is taken for one that serves
			want = want + "ApplicationStart " + allow + block
		} else {
			want = want + "ApplicationStart " + block
		}
		if got := words(t, filepath.Join(dir, "ran")) + " "; got != want {
			t.Errorf("noted %t: it ran %s, want %s", noted, got, want)
		}
	}
}
