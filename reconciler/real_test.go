package reconciler

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/headgate-cd/headgate/gitd/access"
	"github.com/headgate-cd/headgate/gitd/decision"
	"github.com/headgate-cd/headgate/gitd/repo"
	"github.com/headgate-cd/headgate/gitd/show"
	"github.com/headgate-cd/headgate/policies"
	"github.com/headgate-cd/headgate/reconciler/target"
	"github.com/headgate-cd/headgate/reconciler/target/services"
)

// beWeb makes the test binary the service that the real target runs.
const beWeb = "BE_WEB"

func web() error {
	says := os.Getenv(beWeb)
	if says == "broken" {
		return fmt.Errorf("cannot open the database")
	}
	return http.ListenAndServe("127.0.0.1:"+os.Getenv("PORT"),
		http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			fmt.Fprintf(w, "says %s", says)
		}))
}

// unpackSelf is an artifact store whose every artifact is the test binary: a copy,
// since a link more would change what the target watches in all that have one.
func unpackSelf(_ context.Context, _, dir string) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	from, err := os.Open(self)
	if err != nil {
		return err
	}
	defer from.Close()
	to, err := os.OpenFile(filepath.Join(dir, "server"), os.O_CREATE|os.O_WRONLY, 0o755)
	if err != nil {
		return err
	}
	_, err = io.Copy(to, from)
	return errors.Join(err, to.Close())
}

func composeOf(says string) string {
	return `services:
  web:
    command: ./server
    environment: {` + beWeb + `: "` + says + `"}
    ports: ["0:80"]
    x-headgate: {health: /}
    healthcheck: {interval: 200ms, timeout: 1m, start_period: 10m}
`
}

// TestWithRealProcesses is the whole way with the target that people get:
// healthy means that a process answers, and a release that does not work shows.
func TestWithRealProcesses(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	h.rc.Now = time.Now
	h.clock.now = time.Now()
	h.runServices(t)
	stop := h.start(t)
	defer stop()

	land := func(says string) {
		files := helloFiles(says)
		files["deploy/staging/compose.yaml"] = composeOf(says)
		files["deploy/production/compose.yaml"] = composeOf(says + " to all")
		tag := version1("ada", says)
		tag.Artifacts[0].Digest = "sha256:" + strings.Repeat(fmt.Sprintf("%02x", len(says)), 32)
		if _, err := h.land(t.Context(), tag, files); err != nil {
			t.Fatal(err)
		}
	}
	says := func(e show.Environment, want string) {
		t.Helper()
		resp, err := http.Get(e.URLs[0])
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if body, err := io.ReadAll(resp.Body); err != nil || string(body) != "says "+want {
			t.Fatalf("%s: %q, %v", e.Name, body, err)
		}
	}

	land("one")
	says(h.healthy(t, "staging", 1), "one")
	h.proposed(t, "production", 1)
	if done, err := h.rc.Approve(t.Context(), "hello", "production", actor("jun"), "", ""); err != nil ||
		done.Promoted == repo.Zero {
		t.Fatalf("approve: %+v, %v", done, err)
	}
	says(h.healthy(t, "production", 1), "one to all")

	// What does not start gives way by itself to what was good, and that stays until
	// somebody promotes forward. Production has seen none of it.
	land("broken")
	back := h.eventually(t, "staging", "back at release 1", func(e show.Environment) bool {
		return e.Release == 1 && e.State == show.Healthy && e.Held != nil
	})
	says(back, "one")
	if back.History[1].Release != 2 || back.History[1].Outcome != show.Failed || back.History[2].MayRollback {
		t.Fatalf("after the rollback: %+v", back)
	}
	if e, err := h.rc.Environment(t.Context(), access.Identity{}, "hello", "production"); err != nil ||
		e.Promotion != nil || e.Release != 1 {
		t.Fatalf("production: %+v, %v", e, err)
	}

	land("three!")
	h.proposed(t, "staging", 3)
	if _, err := h.rc.Approve(t.Context(), "hello", "staging", actor("jun"), "", ""); err != nil {
		t.Fatal(err)
	}
	says(h.healthy(t, "staging", 3), "three!")
	h.checkVerifies(t, 4, 1, 2)
}

// runServices gives the harness the target that people get, without a sandbox.
func (h *harness) runServices(t *testing.T) {
	t.Helper()
	work := t.TempDir()
	t.Cleanup(func() {
		if err := filepath.WalkDir(work, func(path string, d os.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				err = os.Chmod(path, 0o755) // unpacked releases are read-only
			}
			return err
		}); err != nil {
			t.Error(err)
		}
	})
	services := services.New(work, t.TempDir(), unpackSelf)
	services.Unconfined = true
	h.rc.Targets["services"] = services
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- services.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

// TestDriftIsReportedWherePolicySaysSo kills a process: policy has that reported,
// and later healed.
func TestDriftIsReportedWherePolicySaysSo(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	h.rc.Now = time.Now
	h.clock.now = time.Now()
	h.runServices(t)
	reporting, err := policies.New(map[string][]byte{"policies/drift.rego": []byte(`package headgate.converge

need contains {"rule": "hands-off", "msg": "somebody is looking at it"}
`)})
	if err != nil {
		t.Fatal(err)
	}
	var healing atomic.Bool
	h.rc.Engine = func(*repo.Repository, repo.Hash) (*policies.Engine, error) {
		if healing.Load() {
			return engine()
		}
		return reporting, nil
	}
	stop := h.start(t)
	defer stop()
	files := helloFiles("one")
	files["deploy/staging/compose.yaml"] = composeOf("one")
	tag := version1("ada", "one")
	tag.Artifacts[0].Digest = "sha256:" + strings.Repeat("01", 32)
	if _, err := h.land(t.Context(), tag, files); err != nil {
		t.Fatal(err)
	}
	h.healthy(t, "staging", 1)

	key := target.Key{Repository: "hello", Application: "hello", Environment: "staging"}
	was := h.rc.Targets["services"].Observe(key).Units[0].Instances[0]
	if err := syscall.Kill(was.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	drifted := h.eventually(t, "staging", "drifted", func(e show.Environment) bool { return e.State == show.Drift })
	if !drifted.Unhealed || !strings.Contains(drifted.Reason, "left as it is: policy has drift reported, not healed") {
		t.Fatalf("drift: %+v", drifted)
	}
	if err := h.settled(t); err != nil {
		t.Fatal(err)
	}
	if now := h.rc.Targets["services"].Observe(key).Units[0].Instances; len(now) != 1 ||
		now[0].Phase != target.PhaseWaiting {
		t.Fatalf("something was healed: %+v", now)
	}
	list, _, err := decision.List(t.Context(), h.hello, repo.Zero, 100)
	if err != nil || !slices.ContainsFunc(list,
		func(d decision.Saved) bool { return d.Query == "converge" && d.Answer == "manual" }) {
		t.Fatalf("no decision about drift among %+v, %v", list, err)
	}

	healing.Store(true)
	h.rc.Wake("hello")
	healed := h.healthy(t, "staging", 1)
	if healed.Unhealed || healed.Services[0].Instances[0].Restarts == 0 {
		t.Fatalf("healed: %+v", healed)
	}
}
