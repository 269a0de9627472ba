package function

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/headgate-cd/headgate/reconciler/target"
	"github.com/headgate-cd/headgate/reconciler/target/unpacked"
)

//go:embed testdata/bootstrap
var smallBootstrap []byte

// journeyVariable makes the test binary go through a journey: "<directory>:<report of the
// second deployment's last hook>".
const journeyVariable = "HEADGATE_TEST_FUNCTION_JOURNEY"

// journey has a first version go live and a second one follow by a canary with hooks, and
// says where the alias is in the end. It can be killed anywhere and begun again.
func journey(where string) int {
	dir, report, _ := strings.Cut(where, ":")
	f := New(dir, filepath.Join(dir, "logs"), func(_ context.Context, _, to string) error {
		return os.WriteFile(filepath.Join(to, "bootstrap"), smallBootstrap, 0o755)
	})
	f.Records.Dir = filepath.Join(dir, "sandboxes")
	if _, err := f.Records.EndAll(); err != nil { // as the server does
		fmt.Println(err)
		return 1
	}
	k := target.Key{Repository: "shop", Application: "shop", Environment: "production"}
	declared := func(sequence int, files target.Files) target.Declared {
		return target.Declared{
			Key:      k,
			Commit:   fmt.Sprintf("commit-%d", sequence),
			Sequence: sequence,
			Files:    files,
			Release:  release(sequence),
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- f.Run(ctx) }()
	await := func(sequence int) target.State {
		changed, end := f.Watch(k)
		defer end()
		for {
			o := f.Observe(k)
			if o.Sequence == sequence && (o.State == target.Healthy || o.State == target.Failed) {
				return o.State
			}
			<-changed
		}
	}
	second := hooked(2, "Succeeded", report)
	second[settingsFile] = append([]byte("deployment: {strategy: linear, percent: 40, interval: 20ms}\n"),
		second[settingsFile]...)

	// A server that is started again declares what is declared last, and nothing older.
	if _, err := os.Stat(filepath.Join(dir, "second")); err != nil {
		f.Converge(declared(1, files("")))
		await(1)
		if err := os.WriteFile(filepath.Join(dir, "second"), nil, 0o600); err != nil {
			fmt.Println(err)
			return 1
		}
	}
	f.Converge(declared(2, second))
	state := await(2)
	f.mu.Lock()
	a := f.apps[k]
	f.mu.Unlock()
	kept, err := readState(a.dir)
	if err != nil {
		fmt.Println(err)
		return 1
	}
	a.alias.mu.Lock()
	fmt.Printf("%s at %s, kept at %s, %d versions\n", state, a.alias.alias, kept.Aliases["hello:live"],
		len(kept.Functions["hello"]))
	a.alias.mu.Unlock()
	cancel()
	if err := <-done; err != nil {
		fmt.Println(err)
		return 1
	}
	return 0
}

// TestKill: whatever state the target has just written down, or is about to, when it is
// killed, another run ends with the alias at one version: the new one if its hooks succeed,
// else the old one.
func TestKill(t *testing.T) {
	t.Parallel()
	for report, want := range map[string]string{
		"Succeeded": "healthy at version 2, kept at version 2, 2 versions\n",
		"Failed":    "failed at version 1, kept at version 1, 2 versions\n",
	} {
		t.Run(report, func(t *testing.T) {
			t.Parallel()
			killed := 0
			for nth := 1; ; nth++ {
				// With hooks that succeed every point is tried, before a write and after it in
				// turn; with one that fails only those that differ.
				point := []string{"function.before-state-kept", "function.state-kept"}[nth%2]
				if report == "Failed" && nth < 8 {
					continue
				}
				dir, err := os.MkdirTemp("", "function-kill-")
				if err != nil {
					t.Fatal(err)
				}
				run := func(crash string) (string, bool) {
					ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
					defer cancel()
					cmd := exec.CommandContext(ctx, os.Args[0])
					cmd.Env = append(os.Environ(), journeyVariable+"="+dir+":"+report, "HEADGATE_CRASH_AT="+crash)
					out, err := cmd.Output()
					var exit *exec.ExitError
					if errors.As(err, &exit) && ctx.Err() == nil {
						if ws, _ := exit.Sys().(syscall.WaitStatus); ws.Signal() == syscall.SIGKILL {
							return "", true
						}
					}
					if err != nil {
						t.Fatalf("%s:%d: %v\n%s", point, nth, err, out)
					}
					return string(out), false
				}
				said, wasKilled := run(fmt.Sprintf("%s:%d", point, nth))
				if wasKilled {
					killed++
					said, _ = run("")
				}
				if said != want {
					t.Errorf("killed at %s:%d: %s", point, nth, said)
				}
				if err := unpacked.RemoveTree(dir); err != nil {
					t.Error(err)
				}
				if !wasKilled {
					break
				}
			}
			if killed < 2 {
				t.Errorf("it was killed only %d times", killed)
			}
		})
	}
}
