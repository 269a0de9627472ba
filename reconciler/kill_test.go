package reconciler

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/headgate-cd/headgate/gitd/access"
	"github.com/headgate-cd/headgate/gitd/repo"
	"github.com/headgate-cd/headgate/gitd/show"
	"github.com/headgate-cd/headgate/reconciler/record"
	"github.com/headgate-cd/headgate/reconciler/target"
)

// storyDir makes the test binary a process that plays the story in that folder,
// to be killed at a crash point.
const storyDir = "HEADGATE_TEST_STORY"

func TestMain(m *testing.M) {
	if os.Getenv(beWeb) != "" {
		fmt.Fprintln(os.Stderr, web()) // it ends only with an error
		os.Exit(3)
	}
	dir := os.Getenv(storyDir)
	if dir == "" {
		os.Exit(m.Run())
	}
	if err := story(dir); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// story goes all the way: two releases to production, one that changes nothing,
// a rollback, a rejection, another name. Each step is left out when it has been done, so that a second
// process carries on where the first was killed.
func story(dir string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	h, err := openHarness(ctx, dir)
	if err != nil {
		return err
	}
	defer h.store.Close()
	h.target.obedient = true
	running, stop := context.WithCancel(ctx)
	defer stop()
	ended := make(chan error, 1)
	go func() { ended <- h.rc.Run(running) }()

	until := func(what string, ok func(staging, production show.Environment) bool) error {
		for {
			staging, err := h.rc.Environment(ctx, access.Identity{}, "hello", "staging")
			var production show.Environment
			if err == nil {
				production, err = h.rc.Environment(ctx, access.Identity{}, "hello", "production")
			}
			if err == nil && ok(staging, production) {
				return nil
			}
			select {
			case <-ctx.Done():
				return fmt.Errorf("not %s: %+v %+v %v", what, staging, production, err)
			case <-time.After(20 * time.Millisecond):
			}
		}
	}
	noted := func(e show.Environment, release int) bool {
		at, _ := repo.ParseHash(e.Declared)
		o, err := record.OutcomeOf(h.hello, at)
		return err == nil && e.Release >= release && e.State == show.Healthy && o.State == target.Healthy
	}
	landed := func(n int, says tagged, files map[string]string) error {
		refs, err := h.hello.Refs("refs/releases/")
		if err != nil || len(refs) >= n {
			return err
		}
		_, err = h.land(ctx, says, files)
		return err
	}
	toProduction := func(n int) error {
		err := until("ready for production", func(staging, production show.Environment) bool {
			return production.Release >= n || noted(staging, n) && production.Promotion != nil && production.Promotion.To == n
		})
		if err != nil {
			return err
		}
		if _, err := h.rc.Approve(ctx, "hello", "production", actor("jun"), "", ""); err != nil {
			var e *show.Error
			if !errors.As(err, &e) || e.Kind != show.NotFound {
				return err
			}
		}
		return until("in production", func(_, production show.Environment) bool { return noted(production, n) })
	}

	rejected := func() (bool, error) {
		all, err := record.Rejections(h.hello, "staging")
		return len(all) > 0, err
	}

	// What people let through and then fails is rolled back by itself.
	byItself := func(e show.Environment) bool {
		return len(e.History) > 0 && e.History[0].Rollback && e.History[0].By == record.Automatic
	}
	fails := []func() error{
		func() error { return landed(4, version1("ada", "broken"), helloFiles("broken")) },
		func() error {
			e, err := h.rc.Environment(ctx, access.Identity{}, "hello", "staging")
			if err != nil || byItself(e) || e.Release == 4 {
				return err
			}
			if err := until("proposed", func(staging, _ show.Environment) bool {
				return staging.Release == 4 || staging.Promotion != nil && staging.Promotion.To == 4
			}); err != nil {
				return err
			}
			_, err = h.rc.Approve(ctx, "hello", "staging", actor("jun"), "", "")
			return err
		},
		func() error {
			return until("rolled back by itself", func(staging, _ show.Environment) bool {
				return byItself(staging) && noted(staging, 1) && staging.Promotion != nil && staging.Promotion.To == 4
			})
		},
	}

	fails = append(fails, func() error {
		if _, _, err := h.rc.Pause(ctx, "hello", "staging", actor("jun"), "look"); err != nil {
			return err
		}
		_, err := h.rc.Continue(ctx, "hello", "staging", actor("jun"))
		return err
	})

	steps := []func() error{
		func() error { return landed(1, version1("ada", "one"), helloFiles("one")) },
		func() error { return toProduction(1) },
		func() error {
			return landed(2, version1("ada", "one"), map[string]string{"README": "read me\n"})
		},
		func() error {
			return until("release 2 everywhere", func(staging, production show.Environment) bool {
				return staging.Release >= 2 && production.Release >= 2 || len(staging.History) > 1
			})
		},
		func() error { return landed(3, version1("ada", "two"), helloFiles("two")) },
		func() error {
			e, err := h.rc.Environment(ctx, access.Identity{}, "hello", "staging")
			if err != nil || slices.ContainsFunc(e.History, func(c show.Deployed) bool { return c.Rollback }) {
				return err
			}
			if err := toProduction(3); err != nil {
				return err
			}
			_, err = h.rc.Rollback(ctx, "hello", "staging", 1, actor("jun"), "slow")
			var again *show.Error
			if errors.As(err, &again) && again.Kind == show.Denied && strings.Contains(again.What, "declared now") {
				return nil
			}
			return err
		},
		func() error {
			return until("rolled back", func(staging, production show.Environment) bool {
				return staging.Held != nil && noted(staging, 1) && noted(production, 3) && production.Promotion == nil
			})
		},
		func() error { // what was rolled back is proposed again, and rejected
			if done, err := rejected(); done || err != nil {
				return err
			}
			if err := until("proposed again", func(staging, _ show.Environment) bool {
				return staging.Promotion != nil && staging.Promotion.To == 3
			}); err != nil {
				return err
			}
			_, err := h.rc.Reject(ctx, "hello", "staging", actor("sam"), "", "slow")
			return err
		},
		func() error {
			// Release 2 was good, too, and it is the newest that nobody rejected.
			return until("rejected", func(staging, _ show.Environment) bool {
				return staging.Promotion != nil && staging.Promotion.To != 3 && len(staging.Rejected) == 1
			})
		},
	}
	steps = append(steps, fails...)
	if refs, err := h.hello.Refs("refs/releases/"); err != nil {
		return err
	} else if len(refs) > 4 {
		steps = nil // staging has another name by now
	}
	for _, step := range append(steps, func() error {
		renamed := strings.NewReplacer("staging: {", "stage: {was: staging, ", "after: staging",
			"after: stage").Replace(helloYAML)
		if err := landed(5, version1("ada", "two"), map[string]string{"headgate.yaml": renamed}); err != nil {
			return err
		}
		for {
			stage, err := h.rc.Environment(ctx, access.Identity{}, "hello", "stage")
			old := repo.Zero
			if err == nil {
				old, err = h.hello.Ref(record.ProposalRef("staging"))
			}
			if err == nil && old == repo.Zero && stage.Held != nil && noted(stage, 1) && stage.Promotion != nil &&
				stage.Promotion.To == 5 && len(stage.Rejected) == 1 {
				return nil
			}
			select {
			case <-ctx.Done():
				return fmt.Errorf("not renamed: %+v %v", stage, err)
			case <-time.After(20 * time.Millisecond):
			}
		}
	}) {
		if err := step(); err != nil {
			return err
		}
	}
	stop()
	return <-ended
}

// ending is the logical state that the story left: everything but times and ids.
func ending(t *testing.T, dir string) string {
	t.Helper()
	h, err := openHarness(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	defer h.store.Close()
	var s strings.Builder
	for _, env := range []string{"stage", "production"} {
		all, err := record.History(h.hello, "hello", env, 100)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range all {
			fmt.Fprintf(&s, "%s %d covers %d %s rollback %q by %s hold %t\n", env, d.Release, d.Covers(), d.Outcome.State,
				triggeredBy(d), users(d.Approvals), d.Held != nil)
		}
		look, err := h.rc.load(t.Context(), h.hello, env)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&s, "%s proposes %d\n", env, look.proposedRelease())
	}
	releases, err := taggedReleases(h.hello)
	if err != nil {
		t.Fatal(err)
	}
	v, err := record.Verify(t.Context(), h.hello, repo.Signers{h.store.Signer().PublicKey()}, releases)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(&s, "verified %d promotions, %d rollbacks, %d approvals\n", v.Promotions, v.Rollbacks, v.Approvals)
	for _, f := range v.Findings {
		t.Error(f)
	}
	if out, err := h.hello.Git(t.Context(), "fsck", "--strict", "--no-dangling"); err != nil {
		t.Errorf("fsck: %s %v", out, err)
	}
	return s.String()
}

// tell plays the story in a process of its own, killed at a point if one is given.
func tell(t *testing.T, dir, point string) (killed bool) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), storyDir+"="+dir, "HEADGATE_CRASH_AT="+point)
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		if ws, ok := exit.Sys().(syscall.WaitStatus); ok && ws.Signal() == syscall.SIGKILL {
			return true
		}
	}
	if err != nil {
		t.Fatalf("story killed at %q: %v\n%s", point, err, out)
	}
	return false
}

var twice = flag.Bool("twice", false, "kill the story also when it passes a point for the second time")

// TestKilledAtEveryPoint kills the story at every crash point of this package
// and expects the state that the story reaches without a kill.
func TestKilledAtEveryPoint(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("plays the story many times")
	}
	var points []string
	sources, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	form := regexp.MustCompile(`crash\.Point\("([^"]+)"\)`)
	for _, file := range sources {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		for _, m := range form.FindAllStringSubmatch(string(text), -1) {
			points = append(points, m[1])
		}
	}
	if len(points) < 16 {
		t.Fatalf("only %d crash points: %v", len(points), points)
	}
	calm := t.TempDir()
	if tell(t, calm, "") {
		t.Fatal("killed without a point")
	}
	want := ending(t, calm)
	times := []string{":1"}
	if *twice {
		times = append(times, ":2")
	}
	for _, point := range points {
		for _, nth := range times {
			t.Run(point+nth, func(t *testing.T) {
				t.Parallel()
				dir := t.TempDir()
				killed := tell(t, dir, point+nth)
				if !killed && nth == ":1" {
					t.Fatal("the story does not pass this point")
				}
				if killed {
					tell(t, dir, "")
				}
				if got := ending(t, dir); got != want {
					t.Errorf("without a kill:\n%s\nwith it:\n%s", want, got)
				}
			})
		}
	}
}

// triggeredBy is who rolled back, if it is a rollback.
func triggeredBy(c record.Commit) string {
	if c.Rollback == nil {
		return ""
	}
	return c.Rollback.By
}
