package receive

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/headgate-cd/headgate/gitd/decision"
	"github.com/headgate-cd/headgate/hooks/gate"
)

// quickBuilder says green unless the tree has a file called red.
type quickBuilder struct {
	mu    sync.Mutex
	built int
	hold  chan struct{} // not nil: builds wait for it
}

func (b *quickBuilder) Build(ctx context.Context, j gate.Job) (gate.Result, error) {
	b.mu.Lock()
	b.built++
	hold := b.hold
	b.mu.Unlock()
	if hold != nil {
		select {
		case <-hold:
		case <-ctx.Done():
			return gate.Result{}, ctx.Err()
		}
	}
	if _, err := j.Repository.File(j.Tree, "red"); err == nil {
		return gate.Result{Reason: `build: "make test" exited 2`, Phase: "build", Command: "make test", Exit: 2}, nil
	}
	return gate.Result{Green: true}, nil
}

// withGate puts the real gate behind the house's listener.
func (h *harness) withGate() *quickBuilder {
	h.t.Helper()
	b := &quickBuilder{}
	g := gate.New(gate.Config{
		Store: h.store, Builder: b, Settings: gate.FileSettings, Workers: 2,
		Ask: func(ctx context.Context, q gate.Question) (gate.Answer, error) {
			return gate.Answer{Decision: "auto", Record: decision.Record{Query: "land", About: q.Candidate.String(),
				Answer: "auto", Digest: q.Candidate.String(), JSON: []byte("{}")}}, nil
		},
	})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- g.Run(ctx) }()
	h.t.Cleanup(func() {
		h.stop()
		cancel()
		if err := <-done; err != nil {
			h.t.Error(err)
		}
	})
	h.listener.Gate = g
	return b
}

func TestPushesThroughTheGate(t *testing.T) {
	h := newHarness(t)
	b := h.withGate()
	c := h.clone(h.r)
	c.commit("first", buildspec)
	h.push(c, "ada", "origin", "main").ok(t, "remote: change 1, revision 1: first", "success: 1 landed on main",
		"release 1, now going to staging: http://127.0.0.1:8000")
	first := c.head()
	if h.ref(h.r, "refs/heads/main") != first {
		t.Fatal("main is not at what was pushed")
	}

	// red
	c.commit("bad", map[string]string{"red": "1"})
	p := h.push(c, "ada", "origin", "main")
	p.refused(t, `error: 2 refused: build: "make test" exited 2`, "main stays at "+first.String()[:7], ", change 2)")
	if n := strings.Count(p.out, "exited 2"); n != 2 { // the refusal, and git's own line
		t.Errorf("told %d times:\n%s", n, p.out)
	}
	c.git("reset", "--quiet", "--hard", first.String())

	// two from the same base: the second lands as a merge, and its pusher pulls
	other := h.clone(h.r)
	other.git("pull", "--quiet", "origin", "main")
	c.commit("one", map[string]string{"one": "1"})
	other.commit("two", map[string]string{"two": "2"})
	h.push(c, "ada", "origin", "main").ok(t, "success: 3 landed")
	p = h.push(other, "ada", "origin", "HEAD:refs/for/main")
	p.ok(t, "success: 4 landed", "hint: main had moved, so a merge landed; git pull fast-forwards",
		"HEAD -> refs/landed/main")
	if n := strings.Count(p.out, "a merge landed"); n != 1 {
		t.Errorf("told %d times:\n%s", n, p.out)
	}
	other.git("pull", "--quiet", "--ff-only", "origin", "main")
	if h.ref(h.r, "refs/heads/main") != other.head() {
		t.Fatal("the pull is not at main")
	}

	// conflict
	c.commit("clash", map[string]string{"two": "3"})
	p = h.push(c, "ada", "origin", "HEAD:refs/for/main")
	p.refused(t, "error: 5 conflicts with 4", "hint: git pull --rebase origin main", "(conflict with 4 in 1 file)")

	// an identical tree is not built again
	built := b.built
	other.commit("red and back", map[string]string{"x": "1"})
	other.git("revert", "--no-edit", "HEAD")
	p = h.push(other, "ada", "origin", "main")
	p.ok(t, "identical tree, green since", "success: 6 landed")
	if b.built != built || strings.Contains(p.out, "queued at") {
		t.Errorf("%d builds more\n%s", b.built-built, p.out)
	}
	if out, err := h.r.Git(t.Context(), "fsck", "--strict"); err != nil {
		t.Fatalf("%v %s", err, out)
	}
}

func TestReattachThroughTheGate(t *testing.T) {
	h := newHarness(t)
	b := h.withGate()
	c := h.clone(h.r)
	c.commit("first", buildspec)
	h.push(c, "ada", "origin", "main").ok(t)
	b.mu.Lock()
	b.hold = make(chan struct{})
	b.mu.Unlock()
	second := c.commit("second", map[string]string{"f": "2"})
	h.push(c, "ada", "-o", "nowait", "origin", "main").ok(t, "main -> refs/changes/2/head")
	if h.ref(h.r, "refs/changes/2/head") != second {
		t.Fatal("refs/changes/2/head is not at what was pushed")
	}
	cmd, end := h.pushing(t.Context(), c, "ada", "origin", "main")
	defer end()
	out := &syncBuffer{}
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "attached", func() bool { return strings.Contains(out.String(), "building main + 2") })
	close(b.hold)
	pushed{out.String(), cmd.Wait()}.ok(t)
	pushed{out.String(), nil}.says(t, "attached again", "success: 2 landed")

	b.mu.Lock()
	b.hold = make(chan struct{})
	b.mu.Unlock()
	c.commit("third", map[string]string{"f": "3"})
	h.push(c, "ada", "-o", "nowait", "origin", "main").ok(t)
	h.push(c, "ada", "-o", "cancel=3", "origin", "main").ok(t, "success: change 3 was withdrawn")
	h.push(c, "ada", "-o", "cancel=3", "origin", "main").refused(t)
	close(b.hold)
}

// Pushers who race for the gated branch all land, one after the other.
func TestRaceThroughTheGate(t *testing.T) {
	h := newHarness(t)
	h.withGate()
	c := h.clone(h.r)
	c.commit("first", buildspec)
	h.push(c, "ada", "origin", "main").ok(t)
	var wg sync.WaitGroup
	for i := range 4 {
		mine := h.clone(h.r)
		mine.git("pull", "--quiet", "origin", "main")
		mine.commit(fmt.Sprint("racer ", i), map[string]string{fmt.Sprint("f", i): "x"})
		cmd, end := h.pushing(t.Context(), mine, "ada", "origin", "HEAD:refs/for/main")
		wg.Go(func() {
			defer end()
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("%s", out)
			}
		})
	}
	wg.Wait()
	tree, err := h.r.TreeOf(h.ref(h.r, "refs/heads/main"))
	if err != nil {
		t.Fatal(err)
	}
	entries, err := h.r.Tree(tree)
	if err != nil || len(entries) != 5 {
		t.Fatalf("%v, %v", entries, err)
	}
}
