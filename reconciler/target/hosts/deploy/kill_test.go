package deploy

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/headgate-cd/headgate/reconciler/target/hosts/appspec"
)

// killed is what a process of TestKill is told: what to deploy where.
type killed struct {
	Root, Dst string
	ID        string
	Version   int
	FailAt    appspec.Event
	Sequence  int
}

const killedVariable = "HEADGATE_TEST_DEPLOY"

// TestMain deploys instead of testing when TestKill has started the program to be
// killed.
func TestMain(m *testing.M) {
	var k killed
	told := os.Getenv(killedVariable)
	if told == "" {
		os.Exit(m.Run())
	}
	if err := json.Unmarshal([]byte(told), &k); err != nil {
		panic(err)
	}
	h := &Host{Root: k.Root}
	result, err := h.Run(context.Background(), Request{
		ID:       k.ID,
		Group:    "group",
		Sequence: k.Sequence,
		Unpack: func(_ context.Context, dir string) error {
			return os.CopyFS(dir, os.DirFS(filepath.Join(filepath.Dir(k.Dst), fmt.Sprintf("version-%d%s", k.Version, k.FailAt))))
		},
		Traffic: func(context.Context, bool) error { return nil },
	}, nil)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	_ = json.NewEncoder(os.Stdout).Encode(result)
}

// deployIn deploys in a process of its own, which a crash point may kill.
func (h *harness) deployIn(k killed, env ...string) (r Result, dead bool) {
	h.Helper()
	told, err := json.Marshal(k)
	if err != nil {
		h.Fatal(err)
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(append(os.Environ(), killedVariable+"="+string(told)), env...)
	out, err := cmd.Output()
	if err != nil {
		exit, ok := err.(*exec.ExitError)
		if status, isWait := exit.Sys().(syscall.WaitStatus); ok && isWait && status.Signaled() &&
			status.Signal() == syscall.SIGKILL {
			return r, true
		}
		h.Fatalf("%v: %s", err, exit.Stderr)
	}
	if err := json.Unmarshal(out, &r); err != nil {
		h.Fatalf("%v: %s", err, out)
	}
	return r, false
}

// TestKill kills the deployer at each of its crash points, in a deployment that would
// succeed and in one that fails and puts the previous revision back. Started again,
// with the same deployment or with a newer one, it ends with one revision whole and
// running; and no script has run twice.
func TestKill(t *testing.T) {
	var points []string
	sources, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range sources {
		data, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile(`crash\.Point\("([^"]+)"\)`).FindAllSubmatch(data, -1) {
			points = append(points, string(m[1]))
		}
	}
	prepare := func(t *testing.T, failAt appspec.Event) (*harness, killed) {
		h := newHarness(t)
		top := filepath.Dir(h.dst)
		h.lay(filepath.Join(top, "version-1"), version(1, ""))
		h.lay(filepath.Join(top, "version-2"+string(failAt)), version(2, failAt))
		h.lay(filepath.Join(top, "version-3"), version(3, ""))
		h.deploy(version(1, ""))
		return h, killed{Root: h.host.Root, Dst: h.dst, ID: "d-2", Version: 2, FailAt: failAt, Sequence: 2}
	}
	passedOnce := map[string]bool{}
	for _, failAt := range []appspec.Event{"", appspec.ValidateService} {
		h, k := prepare(t, failAt)
		log := filepath.Join(t.TempDir(), "points")
		whole := map[string]string{"d-1": h.whole()}
		r, _ := h.deployIn(k, "HEADGATE_CRASH_LOG="+log)
		whole[r.Installed] = h.whole()
		data, err := os.ReadFile(log)
		if err != nil {
			t.Fatal(err)
		}
		passed := strings.Fields(string(data))
		if ran, all := strings.Join(h.lines("ran"), " "), appspec.Scriptable; failAt == "" {
			for _, event := range all { // what is killed below is each of them
				if !strings.Contains(ran, string(event)) {
					t.Errorf("no script of %s runs", event)
				}
			}
		}
		count := map[string]int{}
		for _, p := range passed {
			count[p]++
			passedOnce[p] = true
			n := count[p]
			// Scripts and files come many times; some of each will do: one of Install's
			// beginning, one of the middle, and where a newer deployment comes instead.
			newer := n == 2 && failAt != ""
			// The script of each event is killed in its middle: what has begun is not begun again.
			each := p == "deploy.script-begun" && failAt == ""
			if n != 1 && n != 9 && !newer && !each {
				continue
			}
			at := fmt.Sprintf("%s:%d", p, n)
			t.Run(fmt.Sprintf("%s/%s", failAt, at), func(t *testing.T) {
				t.Parallel()
				h, k := prepare(t, failAt)
				if _, dead := h.deployIn(k, "HEADGATE_CRASH_AT="+at); !dead {
					t.Fatal("it was not killed")
				}
				if newer {
					k.ID, k.Version, k.FailAt, k.Sequence = "d-3", 3, "", 3
				}
				r, _ := h.deployIn(k)
				h.ended(r, whole, newer)
				if newer {
					k.ID, k.Sequence = "d-2", 2
					if out, err := rerun(k); err == nil || !strings.Contains(out, ErrFenced.Error()) {
						t.Errorf("the older one goes on: %s, %v", out, err)
					}
				}
			})
		}
	}
	for _, p := range points {
		if !passedOnce[p] {
			t.Errorf("nothing passes %s", p)
		}
	}
}

func rerun(k killed) (string, error) {
	told, err := json.Marshal(k)
	if err != nil {
		return "", err
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), killedVariable+"="+string(told))
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// ended checks what a deployment that was killed and went on has left.
func (h *harness) ended(r Result, whole map[string]string, newer bool) {
	h.Helper()
	switch {
	case newer:
		if r.Status != Succeeded || r.Installed != "d-3" {
			h.Errorf("the newer one: %+v %v", r, r.Failure)
		}
		h.has(files{"app/both": "version 3", "app/v1": "", "app/v2": ""})
	case r.Status == Succeeded && r.Installed != "d-2", r.Status == Failed && r.Installed != "d-1",
		r.Restored == NotRestored && !strings.Contains(r.Failure.What, "failed after a restart"):
		h.Errorf("%+v %v", r, r.Failure)
	case h.whole() != whole[r.Installed]:
		h.Errorf("%s is installed, and there is\n%s\nnot\n%s", r.Installed, h.whole(), whole[r.Installed])
	}
	ran := h.lines("ran")
	for i, line := range ran {
		if slices.Contains(ran[:i], line) {
			h.Errorf("ran twice: %q", line)
		}
	}
	// What runs is what is installed: nothing was stopped after it had been started.
	running := ""
	for _, line := range ran {
		words := strings.Fields(line)
		switch appspec.Event(words[1]) {
		case appspec.ApplicationStart:
			running = words[0]
		case appspec.ApplicationStop:
			running = ""
		}
	}
	want := map[string]string{"d-1": "v1", "d-2": "v2", "d-3": "v3"}[r.Installed]
	// A start of which nobody knows whether it was done is not done again, but told.
	if running != want && r.Restored != NotRestored {
		h.Errorf("%s runs, and %s is installed: %+v\n%s", running, r.Installed, r, strings.Join(ran, "\n"))
	}
	if left := marked(h.host.Root); len(left) > 0 {
		h.Errorf("left running: %v", left)
	}
	entries, _ := filepath.Glob(filepath.Join(h.dst, "*", ".headgate*"))
	more, _ := filepath.Glob(filepath.Join(h.dst, ".headgate*"))
	before, _ := filepath.Glob(filepath.Join(h.host.Root, "group", "*", "before*"))
	if all := slices.Concat(entries, more, before); len(all) > 0 {
		h.Errorf("left over: %q", all)
	}
}
