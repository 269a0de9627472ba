package hosts

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/headgate-cd/headgate/reconciler/target"
)

// keptTarget starts a target that goes on by itself, and returns what ends it.
func keptTarget(t *testing.T, dir string) (h *Target, end func()) {
	t.Helper()
	h = New(filepath.Join(dir, "hosts"), revision)
	h.Keep = filepath.Join(dir, "kept")
	if err := h.Load(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- h.Run(ctx) }()
	return h, func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

func declaredAs(dir string, sequence int, app string) target.Declared {
	return target.Declared{
		Key:      target.Key{Repository: "shop", Application: app, Environment: "production"},
		Commit:   "commit",
		Sequence: sequence,
		Files:    target.Files{"appspec.yml": []byte(strings.ReplaceAll(good, "DST", filepath.Join(dir, "srv", app)))},
		Release:  release(sequence),
	}
}

// A host that nobody declares anything to goes on with what was declared last: it heals
// that, and takes nothing older, for ever.
func TestKeptIsGoneOnWith(t *testing.T) {
	dir := t.TempDir()
	h, end := keptTarget(t, dir)
	d, other := declaredAs(dir, 5, "shop"), declaredAs(dir, 3, "other")
	h.Converge(d)
	h.Converge(other)
	healthy := func(o target.Observed) bool { return o.State == target.Healthy }
	await(t, h, d.Key, healthy)
	await(t, h, other.Key, healthy)
	h.Remove(other.Key, 4)
	await(t, h, other.Key, func(o target.Observed) bool { return o.Commit == "" })
	end()

	conf := filepath.Join(dir, "srv", "shop", "conf")
	if err := os.WriteFile(conf, []byte("changed by hand"), 0o755); err != nil {
		t.Fatal(err)
	}
	h, end = keptTarget(t, dir)
	o := await(t, h, d.Key, func(o target.Observed) bool {
		data, err := os.ReadFile(conf)
		return err == nil && string(data) == "as it is" && o.State == target.Healthy
	})
	if o.Sequence != 5 || len(h.Keys()) != 1 {
		t.Errorf("%+v, keys %v", o, h.Keys())
	}
	for k, want := range map[target.Key]int{d.Key: 5, other.Key: 4, {}: -1} {
		if got := h.Fence(k); got != want {
			t.Errorf("the fence of %s is %d, not %d", k, got, want)
		}
	}
	older := declaredAs(dir, 4, "shop")
	older.Commit = "older"
	h.Converge(older)
	h.Remove(d.Key, 4)
	h.Converge(declaredAs(dir, 3, "other"))
	if o := h.Observe(d.Key); o.Commit != "commit" || o.State != target.Healthy {
		t.Errorf("something older had an effect: %+v", o)
	}
	if o := h.Observe(other.Key); o.Commit != "" {
		t.Errorf("something older than its removal is there: %+v", o)
	}
	end()
}

// Nothing is done that could not be written down first.
func TestNothingUnkeptIsDone(t *testing.T) {
	dir := t.TempDir()
	h, end := keptTarget(t, dir)
	defer end()
	if err := os.WriteFile(h.Keep, nil, 0o600); err != nil { // where the directory would be
		t.Fatal(err)
	}
	d := declaredAs(dir, 1, "shop")
	h.Converge(d)
	await(t, h, d.Key, func(o target.Observed) bool { return strings.Contains(o.Message, "note what is declared") })
	if _, err := os.Stat(filepath.Join(dir, "srv")); err == nil {
		t.Error("it was deployed all the same")
	}
}

func TestKeptThatCannotBeRead(t *testing.T) {
	for _, text := range []string{"", "{", `{"version":2}`, `{"version":1,"key":{"repository":"other"},"fence":3}`} {
		dir := t.TempDir()
		h := New(dir, revision)
		h.Keep = filepath.Join(dir, "kept")
		d := declaredAs(dir, 1, "shop")
		if err := h.keep(d.Key, 1, &d); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(h.keptFile(d.Key), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := h.Load(); err == nil || !strings.Contains(err.Error(), h.keptFile(d.Key)) {
			t.Errorf("%q: %v", text, err)
		}
	}
}
