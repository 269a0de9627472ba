package hosts

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/headgate-cd/headgate/reconciler/target"
	"github.com/headgate-cd/headgate/reconciler/target/targettest"
)

const good = `version: 0.0
os: linux
files:
  - source: app
    destination: DST
hooks:
  ApplicationStop: [{location: stop.sh}]
  ApplicationStart: [{location: start.sh}]
`

// revision is what an artifact of a digest unpacks to.
func revision(_ context.Context, digest, dir string) error {
	for name, text := range map[string]string{
		"app/version": digest,
		"app/conf":    "as it is",
		"start.sh":    "#!/bin/sh\nexit 0\n",
		"stop.sh":     "#!/bin/sh\nexit 0\n",
		"bad.sh":      "#!/bin/sh\necho it is broken >&2; exit 3\n",
	} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
			return err
		}
	}
	return nil
}

func release(n int) target.Release {
	return target.Release{Number: n, Commit: "abc", Artifacts: map[string]string{"main": fmt.Sprint("release ", n)}}
}

// TestContract holds the target to its contract. Each application of the suite has its
// own place, which its name chooses, since two groups may not share files.
func TestContract(t *testing.T) {
	targettest.Run(t, func(t *testing.T) targettest.Subject {
		dst := t.TempDir()
		files := func(text string) target.Files {
			return target.Files{"appspec.yml": []byte(strings.ReplaceAll(text, "DST", dst))}
		}
		own := strings.Replace(good, "  - source: app\n    destination: DST\n", "", 1)
		return targettest.Subject{
			Target: New(t.TempDir(), revision),
			Good:   files(own),
			Broken: files(own + "  ValidateService: [{location: bad.sh}]\n"),
			Bad: map[string]target.Files{
				"appspec.yml":      {"other.yml": nil},
				"appspec.yml:1:10": files("version: 1.0\nos: linux\n"),
				"appspec.yml:4:5":  files("version: 0.0\nos: linux\nfiles:\n  - source: a\n"),
				"appspec.yml:1":    files("version: 0.0\nos: windows\n"),
			},
			Release: release,
		}
	})
}

// running starts a target and ends it with the test.
func running(t *testing.T, h *Target) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- h.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// await waits until the target reports what is asked for.
func await(t *testing.T, h *Target, k target.Key, ok func(target.Observed) bool) target.Observed {
	t.Helper()
	o, err := until(h, k, ok)
	if err != nil {
		t.Fatal(err)
	}
	return o
}

func until(h *Target, k target.Key, ok func(target.Observed) bool) (target.Observed, error) {
	changed, end := h.Watch(k)
	defer end()
	late := time.After(2 * time.Minute)
	for {
		o := h.Observe(k)
		if ok(o) {
			return o, nil
		}
		select {
		case <-changed:
		case <-late:
			return o, fmt.Errorf("still %+v", o)
		}
	}
}

// TestDrift: what is changed by hand is healed, or reported when that is the policy; a
// removed application leaves nothing.
func TestDrift(t *testing.T) {
	h, dst := New(t.TempDir(), revision), filepath.Join(t.TempDir(), "app")
	h.DriftEvery = time.Hour // the change itself wakes it
	running(t, h)
	k := target.Key{Repository: "shop", Application: "shop", Environment: "production"}
	d := target.Declared{
		Key:      k,
		Commit:   "c1",
		Sequence: 1,
		Files:    target.Files{"appspec.yml": []byte(strings.ReplaceAll(good, "DST", dst))},
		Release:  release(1),
	}
	h.Converge(d)
	healthy := func(o target.Observed) bool { return o.State == target.Healthy }
	await(t, h, k, healthy)

	conf := filepath.Join(dst, "conf")
	for what, change := range map[string]func() error{
		"was changed":                 func() error { return os.WriteFile(conf, []byte("by hand"), 0o755) },
		"is gone":                     func() error { return os.Remove(conf) },
		"has the mode 0600, not 0755": func() error { return os.Chmod(conf, 0o600) },
		"is not a file any more": func() error {
			if err := os.Symlink("/etc/hostname", conf+".new"); err != nil {
				return err
			}
			return os.Rename(conf+".new", conf)
		},
	} {
		reported := d
		reported.Drift = target.Report
		h.Converge(reported)
		if err := change(); err != nil {
			t.Fatal(err)
		}
		o := await(t, h, k, func(o target.Observed) bool { return o.State == target.Degraded && o.Unhealed })
		if want := "drift: " + conf + " " + what; o.Message != want {
			t.Errorf("says %q, want %q", o.Message, want)
		}
		h.Converge(d)
		await(t, h, k, healthy)
		info, err := os.Lstat(conf)
		data, rerr := os.ReadFile(conf)
		if err != nil || rerr != nil || info.Mode() != 0o755 || string(data) != "as it is" {
			t.Errorf("%s is healed to %q, %v (%v, %v)", what, data, info.Mode(), err, rerr)
		}
	}

	// A new revision that fails leaves the old one, which is looked after on.
	bad := d
	bad.Commit, bad.Sequence, bad.Release = "c2", 2, release(2)
	bad.Files = target.Files{"appspec.yml": []byte(strings.ReplaceAll(good+
		"  ValidateService: [{location: bad.sh}]\n", "DST", dst))}
	h.Converge(bad)
	o := await(t, h, k, func(o target.Observed) bool { return o.State == target.Failed })
	if !strings.Contains(o.Message, "script bad.sh failed with exit code 3") ||
		!strings.Contains(o.Message, "is put back") || o.Units[0].Release != 1 {
		t.Errorf("%+v", o)
	}
	if data, err := os.ReadFile(filepath.Join(dst, "version")); err != nil || string(data) != "release 1" {
		t.Errorf("%q, %v", data, err)
	}

	h.Remove(k, 3)
	await(t, h, k, func(o target.Observed) bool { return o.Commit == "" })
	if _, err := os.Lstat(dst); err == nil {
		t.Error("what was removed is still there")
	}
}

// TestDriftOnSchedule: what no watch tells of is seen all the same.
func TestDriftOnSchedule(t *testing.T) {
	h, dst := New(t.TempDir(), revision), filepath.Join(t.TempDir(), "app")
	k := target.Key{Repository: "shop", Application: "shop", Environment: "production"}
	d := target.Declared{
		Key:      k,
		Commit:   "c1",
		Sequence: 1,
		Files:    target.Files{"appspec.yml": []byte(strings.ReplaceAll(good, "DST", dst))},
		Release:  release(1),
		Drift:    target.Report,
	}
	t.Run("first", func(t *testing.T) {
		running(t, h)
		h.Converge(d)
		await(t, h, k, func(o target.Observed) bool { return o.State == target.Healthy })
	})
	if err := os.Remove(filepath.Join(dst, "conf")); err != nil { // while nobody looks
		t.Fatal(err)
	}
	h = New(h.Host.Root, revision)
	h.DriftEvery = 20 * time.Millisecond
	running(t, h)
	h.Converge(d)
	await(t, h, k, func(o target.Observed) bool {
		return o.State == target.Degraded && strings.Contains(o.Message, "conf is gone")
	})
}

// TestFallback: a host that had nothing gets what was good, when what is declared fails.
func TestFallback(t *testing.T) {
	dir, dst := t.TempDir(), filepath.Join(t.TempDir(), "app")
	k := target.Key{Repository: "shop", Application: "shop", Environment: "production"}
	files := func(text string) target.Files {
		return target.Files{"appspec.yml": []byte(strings.ReplaceAll(text, "DST", dst))}
	}
	was := &target.Declared{Key: k, Commit: "c4", Sequence: 4, Files: files(good), Release: release(4)}
	for n := range 2 { // and again after a restart
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			h := New(dir, revision)
			running(t, h)
			h.Converge(target.Declared{
				Key:      k,
				Commit:   "c5",
				Sequence: 5,
				Files:    files(good + "  ValidateService: [{location: bad.sh}]\n"),
				Release:  release(5),
				Fallback: was,
			})
			o := await(t, h, k, func(o target.Observed) bool {
				return o.State == target.Failed && strings.Contains(o.Message, "instead")
			})
			if o.Units[0].Release != 4 || !strings.Contains(o.Message, "release 4, which was good, is deployed instead") {
				t.Errorf("%+v", o)
			}
			if data, err := os.ReadFile(filepath.Join(dst, "version")); err != nil || string(data) != "release 4" {
				t.Errorf("%q, %v", data, err)
			}
		})
	}
}

// TestLogs: what scripts print can be read, and followed while a deployment runs.
func TestLogs(t *testing.T) {
	h := New(t.TempDir(), revision)
	running(t, h)
	k := target.Key{Repository: "shop", Application: "shop", Environment: "production"}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	followed := make(chan target.LogLine, 1000)
	go func() {
		defer close(followed)
		for l, err := range h.Logs(ctx, k, target.LogQuery{Follow: true}) {
			if err != nil {
				return
			}
			followed <- l
		}
	}()
	text := "version: 0.0\nos: linux\nhooks:\n  ValidateService: [{location: bad.sh}]\n"
	h.Converge(target.Declared{Key: k, Commit: "c1", Sequence: 1, Files: target.Files{"appspec.yml": []byte(text)},
		Release: release(1)})
	for l := range followed {
		if l.Text == "it is broken" {
			if l.Own || l.Unit != h.Name || l.Instance != "d-1-c1" || l.At.IsZero() {
				t.Errorf("%+v", l)
			}
			break
		}
	}
	await(t, h, k, func(o target.Observed) bool { return o.State == target.Failed })
	var all []string
	for l, err := range h.Logs(ctx, k, target.LogQuery{Lines: 4}) {
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, l.Text)
	}
	if len(all) != 4 || !strings.Contains(strings.Join(all, "\n"), "failed: script bad.sh failed with exit code 3") {
		t.Errorf("%q", all)
	}
	for l := range h.Logs(ctx, k, target.LogQuery{Unit: "another"}) {
		t.Errorf("of another host: %+v", l)
	}
}

// TestRestart: another process of the same host goes on, and does nothing twice.
func TestRestart(t *testing.T) {
	dir, dst := t.TempDir(), filepath.Join(t.TempDir(), "app")
	k := target.Key{Repository: "shop", Application: "shop", Environment: "production"}
	d := target.Declared{
		Key:      k,
		Commit:   "c1",
		Sequence: 4,
		Files:    target.Files{"appspec.yml": []byte(strings.ReplaceAll(good, "DST", dst))},
		Release:  release(1),
	}
	since := time.Time{}
	for n := range 2 {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			h := New(dir, revision)
			running(t, h)
			h.Converge(d)
			o := await(t, h, k, func(o target.Observed) bool { return o.State == target.Healthy })
			at := o.Units[0].Instances[0].Since
			if n > 0 && !at.Equal(since) {
				t.Errorf("it was deployed again at %s", at)
			}
			since = at
		})
	}
	h := New(dir, revision)
	running(t, h)
	d.Sequence, d.Commit = 3, "older"
	h.Converge(d)
	await(t, h, k, func(o target.Observed) bool {
		return o.State == target.Failed && strings.Contains(o.Message, "a newer commit")
	})
}

func TestNotAllowed(t *testing.T) {
	h := New(t.TempDir(), revision)
	h.Allowed = func(repository string) bool { return repository == "shop" }
	running(t, h)
	k := target.Key{Repository: "other", Application: "other", Environment: "production"}
	h.Converge(target.Declared{Key: k, Commit: "c", Sequence: 1,
		Files: target.Files{"appspec.yml": []byte("version: 0.0\nos: linux\n")}, Release: release(1)})
	o := await(t, h, k, func(o target.Observed) bool { return o.State == target.Failed })
	if !strings.Contains(o.Message, "start the server with --deploy-here other") {
		t.Error(o.Message)
	}
}

func TestArtifactOf(t *testing.T) {
	for want, names := range map[string][]string{
		"of main":                          {"main"},
		"of shop":                          {"main", "shop"},
		"has the artifacts a, b, and none": {"a", "b"},
		"release 3 has no artifact":        {},
	} {
		d := target.Declared{Key: target.Key{Application: "shop"},
			Release: target.Release{Number: 3, Artifacts: map[string]string{}}}
		for _, n := range names {
			d.Release.Artifacts[n] = "of " + n
		}
		digest, err := artifactOf(&d)
		if got := digest + fmt.Sprint(err); !strings.Contains(got, want) {
			t.Errorf("of %q: %s, want %q", names, got, want)
		}
	}
}

// TestRenamedIsFoundAgain: another process finds what was installed under a name that
// the environment had before, deploys nothing, and once it is removed nothing is left.
func TestRenamedIsFoundAgain(t *testing.T) {
	h, dst := New(t.TempDir(), revision), filepath.Join(t.TempDir(), "app")
	declared := func(environment string, sequence int, was ...string) target.Declared {
		return target.Declared{
			Key:      target.Key{Repository: "shop", Application: "shop", Environment: environment},
			Commit:   fmt.Sprint("c", sequence),
			Sequence: sequence,
			Files:    target.Files{"appspec.yml": []byte(strings.ReplaceAll(good, "DST", dst))},
			Release:  release(1),
			Was:      was,
		}
	}
	var first target.Observed
	for _, d := range []target.Declared{
		declared("stage", 1),
		declared("staging", 2, "stage"),
		declared("staging", 2, "stage"),
		declared("stage", 3, "staging", "stage"),
		declared("last", 4, "stage", "staging", "st"),
		declared("last", 4, "stage", "staging", "st"),
	} {
		t.Run(d.Environment, func(t *testing.T) {
			h = New(h.Host.Root, revision)
			running(t, h)
			h.Converge(d)
			o := await(t, h, d.Key, func(o target.Observed) bool { return o.State == target.Healthy })
			if first.Units == nil {
				first = o
			}
			if got, want := o.Units[0].Instances[0].ID, first.Units[0].Instances[0].ID; got != want {
				t.Errorf("what runs is %s, and was %s", got, want)
			}
		})
	}

	h = New(h.Host.Root, revision)
	running(t, h)
	last := declared("last", 4, "stage", "staging", "st")
	h.Converge(last)
	h.Remove(last.Key, 5)
	await(t, h, last.Key, func(o target.Observed) bool { return o.Commit == "" })
	if _, err := os.Stat(dst); err == nil {
		t.Error("what was removed is still there")
	}
	if id, err := h.groups.of(declared("stage", 6).Key); err != nil || id != groupID(declared("stage", 6).Key) ||
		len(h.groups.kept) > 0 {
		t.Errorf("a new one would be in %s of %v, %v", id, h.groups.kept, err)
	}
}

// TestDriftPolicyWhileDeploying: what to do about drift becomes another while a deployment
// begins, and again while it runs. It is deployed all the same, and told to be.
func TestDriftPolicyWhileDeploying(t *testing.T) {
	var d target.Declared
	var h *Target
	again := func(policy target.Drift) {
		d.Drift = policy
		h.Converge(d)
	}
	h = New(t.TempDir(), func(ctx context.Context, digest, dir string) error {
		again(target.Heal)
		return revision(ctx, digest, dir)
	})
	asked := false
	h.Allowed = func(string) bool {
		if !asked {
			asked = true
			again(target.Report)
		}
		return true
	}
	d = target.Declared{
		Key:      target.Key{Repository: "shop", Application: "shop", Environment: "production"},
		Commit:   "c1",
		Sequence: 1,
		Files:    target.Files{"appspec.yml": []byte(strings.ReplaceAll(good, "DST", filepath.Join(t.TempDir(), "app")))},
		Release:  release(1),
	}
	h.Converge(d)
	running(t, h)
	await(t, h, d.Key, func(o target.Observed) bool { return o.State == target.Healthy })
}
