package schedule

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-git/go-git/v5/plumbing/filemode"
	"go.uber.org/goleak"

	"github.com/headgate-cd/headgate/gitd/repo"
	"github.com/headgate-cd/headgate/gitd/show"
	"github.com/headgate-cd/headgate/hooks/gate"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// lastResort is how long a test waits for what must come.
const lastResort = 5 * time.Minute

// clock is a clock that a test holds.
type clock struct {
	mu    sync.Mutex
	now   time.Time
	waits []wait
}

type wait struct {
	until time.Time
	c     chan time.Time
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) At(t time.Time) <-chan time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	w := wait{t, make(chan time.Time, 1)}
	if !t.After(c.now) {
		w.c <- c.now
	} else {
		c.waits = append(c.waits, w)
	}
	return w.c
}

func (c *clock) set(t time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = t
	c.waits = slices.DeleteFunc(c.waits, func(w wait) bool {
		if w.until.After(t) {
			return false
		}
		w.c <- t
		return true
	})
}

// jump sets the clock back, of which timers learn nothing: those end that run.
func (c *clock) jump(t time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = t
	for _, w := range c.waits {
		w.c <- t
	}
	c.waits = nil
}

// builder stands for the pool and the sandbox.
type builder struct {
	mu    sync.Mutex
	jobs  []gate.Job
	held  chan struct{} // builds wait for it to be closed, if there is one
	fails []error       // what the next builds cannot be run for
	red   bool
}

func (b *builder) build(ctx context.Context, j gate.Job, started func()) (gate.Result, error) {
	b.mu.Lock()
	b.jobs = append(b.jobs, j)
	held, red := b.held, b.red
	var err error
	if len(b.fails) > 0 {
		err, b.fails = b.fails[0], b.fails[1:]
	}
	b.mu.Unlock()
	started()
	if err != nil {
		return gate.Result{}, err
	}
	if held != nil {
		select {
		case <-held:
		case <-ctx.Done():
			return gate.Result{}, ctx.Err()
		}
	}
	if red {
		return gate.Result{Reason: `build: "make soak" exited 2`, Phase: "build", Command: "make soak", Exit: 2, LogLine: 9,
			LogDigest: "sha256:0"}, nil
	}
	return gate.Result{Green: true, LogDigest: "sha256:1"}, nil
}

func (b *builder) ran() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.jobs)
}

// harness is a data directory with a scheduler on it that can be stopped and started.
type harness struct {
	t     *testing.T
	dir   string
	clock *clock
	build *builder
	store *repo.Store
	r     *repo.Repository
	s     *Scheduler
	stop  func()
}

func at(t *testing.T, s string) time.Time {
	t.Helper()
	v, err := time.Parse(time.RFC3339, s)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func newHarness(t *testing.T) *harness {
	t.Helper()
	w := &harness{t: t, dir: t.TempDir(), clock: &clock{now: at(t, "2026-11-28T12:00:00Z")}, build: &builder{}}
	w.start()
	t.Cleanup(func() { w.stop() })
	return w
}

func (w *harness) start() {
	w.t.Helper()
	signer, err := repo.OpenSigner(filepath.Join(w.dir, "key"), repo.Person{Name: "Headgate", Email: "headgate@test"})
	if err != nil {
		w.t.Fatal(err)
	}
	if w.store, _, err = repo.OpenStore(filepath.Join(w.dir, "repositories"), filepath.Join(w.dir, "hooks"),
		signer); err != nil {
		w.t.Fatal(err)
	}
	if w.r, err = w.store.Create(w.t.Context(), "hello"); err != nil {
		w.t.Fatal(err)
	}
	var logged bytes.Buffer
	w.s = New(Config{
		Store:  w.store,
		Branch: func(string) string { return "main" },
		Build:  w.build.build,
		Retry:  time.Second,
		Log:    slog.New(slog.NewTextHandler(&logged, nil)),
		Now:    w.clock.Now,
		At:     w.clock.At,
	})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- w.s.Run(ctx) }()
	w.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			w.t.Errorf("Run: %v", err)
		}
		w.store.Close()
		if w.t.Failed() {
			w.t.Logf("the server's log:\n%s", logged.String())
		}
	})
}

func (w *harness) restart() {
	w.t.Helper()
	w.stop()
	w.start()
}

// land moves a branch to a commit with these files more.
func (w *harness) land(branch string, files map[string]string) repo.Hash {
	w.t.Helper()
	ref := "refs/heads/" + branch
	tip, err := w.r.Ref(ref)
	if err != nil {
		w.t.Fatal(err)
	}
	tree, parents := repo.Zero, []repo.Hash(nil)
	if tip != repo.Zero {
		if tree, err = w.r.TreeOf(tip); err != nil {
			w.t.Fatal(err)
		}
		parents = append(parents, tip)
	}
	edits := map[string]repo.Edit{}
	for name, content := range files {
		b := repo.Blob([]byte(content))
		if err := w.r.Write(b); err != nil {
			w.t.Fatal(err)
		}
		edits[name] = repo.Edit{Mode: filemode.Regular, Hash: b.Hash()}
	}
	if tree, err = w.r.TreeWith(tree, edits); err != nil {
		w.t.Fatal(err)
	}
	commit, err := w.r.WriteCommit(repo.NewCommit{Tree: tree, Parents: parents, At: w.clock.Now(), Message: "Land"})
	if err != nil {
		w.t.Fatal(err)
	}
	if err := w.r.Move(w.t.Context(), ref, tip, commit); err != nil {
		w.t.Fatal(err)
	}
	return commit
}

func (w *harness) declare(schedules string) repo.Hash {
	w.t.Helper()
	return w.land("main", map[string]string{"headgate.yaml": "schedules:\n" + schedules})
}

// story is what is on record of a schedule, an event a word.
func (w *harness) story(name string) string {
	w.t.Helper()
	h, err := w.r.Ref(Ref(name))
	if err != nil {
		w.t.Fatal(err)
	}
	var events []string
	for h != repo.Zero {
		c, err := w.r.Commit(h)
		if err != nil {
			w.t.Fatal(err)
		}
		e := repo.TrailerValue(c.Message, "Event")
		if at := repo.TrailerValue(c.Message, "At"); at != "" {
			e += " " + at
		}
		if state := repo.TrailerValue(c.Message, "State"); state != "" {
			e += " " + state
		}
		events = append(events, e)
		if h = repo.Zero; len(c.ParentHashes) > 0 {
			h = c.ParentHashes[0]
		}
	}
	slices.Reverse(events)
	return strings.Join(events, ", ")
}

// until waits until a schedule's story is as wanted.
func (w *harness) until(name, want string) {
	w.t.Helper()
	changed, stop := w.s.Watch("hello")
	defer stop()
	for deadline := time.After(lastResort); ; {
		got := w.story(name)
		if got == want {
			return
		}
		select {
		case <-changed:
		case <-deadline:
			w.t.Fatalf("the story is\n%s\nwant\n%s", got, want)
		}
	}
}

// quiet waits until the loop has looked at all there is and waits again.
func (w *harness) quiet() {
	w.t.Helper()
	l, err := w.s.loop("hello")
	if err != nil {
		w.t.Fatal(err)
	}
	for range 2 { // what it was just doing; then a whole round
		looked := make(chan struct{})
		l.mailbox.Post(func(context.Context) error { close(looked); return nil })
		<-looked
	}
}

const daily = "- {name: nightly, cron: '0 3 * * *'}\n"

func TestRunsWhenDue(t *testing.T) {
	w := newHarness(t)
	tip := w.declare(daily)
	w.until("nightly", "declared")
	w.clock.set(at(t, "2026-11-29T02:59:59Z"))
	w.quiet()
	if got := w.story("nightly"); got != "declared" {
		t.Fatalf("before it is due: %s", got)
	}
	w.clock.set(at(t, "2026-11-29T03:00:00Z"))
	w.until("nightly", "declared, due 2026-11-29T03:00:00Z, ended green")

	j := w.build.jobs[0]
	if tree, _ := w.r.TreeOf(tip); j.Candidate != tip || j.Tree != tree || j.Buildspec != "buildspec.yml" ||
		j.By != "schedule/nightly" || j.Network {
		t.Errorf("%+v", j)
	}
	// The history is signed, and holds what was built.
	h, _ := w.r.Ref(Ref("nightly"))
	signers := repo.Signers{w.store.Signer().PublicKey()}
	for h != repo.Zero {
		kind, raw, err := w.r.Raw(h)
		if err != nil || signers.VerifyObject(kind, raw) != nil {
			t.Fatalf("%s is not signed by the server: %v", h, err)
		}
		c, err := w.r.Commit(h)
		if err != nil {
			t.Fatal(err)
		}
		if repo.TrailerValue(c.Message, "Event") == "due" && !slices.Contains(c.ParentHashes, tip) {
			t.Errorf("nothing keeps what is built: %v", c.ParentHashes)
		}
		if h = repo.Zero; len(c.ParentHashes) > 0 {
			h = c.ParentHashes[0]
		}
	}
	// No verdict came of it.
	if refs, err := w.r.Refs("refs/notes/"); err != nil || len(refs) > 0 {
		t.Errorf("%v %v", refs, err)
	}
	list, err := w.s.List("hello")
	if err != nil || len(list) != 1 || !list[0].Next.Equal(at(t, "2026-11-30T03:00:00Z")) || list[0].On != "main" {
		t.Errorf("%+v %v", list, err)
	}
}

// What was missed while the server was down runs once when it is back.
func TestMissedRunsOnce(t *testing.T) {
	w := newHarness(t)
	w.declare(daily)
	w.until("nightly", "declared")
	w.stop()
	w.clock.set(at(t, "2026-12-03T10:00:00Z"))
	w.start()
	const once = "declared, due 2026-12-03T03:00:00Z, ended green"
	w.until("nightly", once)
	w.restart()
	w.quiet()
	if got := w.story("nightly"); got != once || w.build.ran() != 1 {
		t.Fatalf("%s after %d builds", got, w.build.ran())
	}
	st, err := w.s.Status("hello", "nightly")
	if err != nil || !st.Builds[0].Late {
		t.Errorf("%+v %v", st, err)
	}
}

// What the server's end cut off is run again, for the same time and commit, and
// not put on record twice.
func TestCutOffRunsAgain(t *testing.T) {
	w := newHarness(t)
	w.declare(daily)
	w.until("nightly", "declared")
	w.build.held = make(chan struct{})
	w.clock.set(at(t, "2026-11-29T03:00:00Z"))
	w.until("nightly", "declared, due 2026-11-29T03:00:00Z")
	w.quiet()
	w.stop()
	w.build.held = nil
	w.clock.set(at(t, "2026-11-29T05:00:00Z"))
	w.start()
	w.until("nightly", "declared, due 2026-11-29T03:00:00Z, ended green")
	if w.build.ran() != 2 || w.build.jobs[0].Candidate != w.build.jobs[1].Candidate ||
		w.build.jobs[0].Log == w.build.jobs[1].Log {
		t.Errorf("%+v", w.build.jobs)
	}
}

// While a run is going on no other begins; what came due meanwhile runs after it,
// once.
func TestNoTwoAtOnce(t *testing.T) {
	w := newHarness(t)
	w.declare("- {name: often, cron: '* * * * *'}\n")
	w.until("often", "declared")
	held := make(chan struct{})
	w.build.held = held
	w.clock.set(at(t, "2026-11-28T12:01:00Z"))
	w.until("often", "declared, due 2026-11-28T12:01:00Z")
	w.clock.set(at(t, "2026-11-28T12:04:30Z"))
	w.quiet()
	if _, err := w.s.Start(t.Context(), "hello", "often", "ada"); !isDenied(err) {
		t.Errorf("a second run by hand: %v", err)
	}
	close(held)
	w.until("often", "declared, due 2026-11-28T12:01:00Z, ended green, due 2026-11-28T12:04:00Z, ended green")
}

func isDenied(err error) bool {
	var e *show.Error
	return errors.As(err, &e) && e.Kind == show.Denied
}

// TestClockSetBack: a clock that was a month ahead and is set right holds up nothing, and
// one that was a little fast has nothing run twice.
func TestClockSetBack(t *testing.T) {
	w := newHarness(t)
	w.declare(daily)
	w.until("nightly", "declared")
	w.clock.set(at(t, "2026-12-29T03:00:00Z")) // a month ahead
	ahead := "declared, due 2026-12-29T03:00:00Z, ended green"
	w.until("nightly", ahead)
	w.quiet() // it waits for the next time
	w.clock.jump(at(t, "2026-11-28T12:01:00Z"))
	w.until("nightly", ahead+", declared")
	st, err := w.s.Status("hello", "nightly")
	if want := at(t, "2026-11-29T03:00:00Z"); err != nil || !st.Next.Equal(want) {
		t.Errorf("it is due at %s, %v, and not at %s", st.Next, err, want)
	}
	w.clock.set(at(t, "2026-11-29T03:00:00Z"))
	once := ahead + ", declared, due 2026-11-29T03:00:00Z, ended green"
	w.until("nightly", once)

	w.quiet()
	w.clock.jump(at(t, "2026-11-29T02:30:00Z")) // half an hour
	w.quiet()
	w.clock.set(at(t, "2026-11-29T03:00:00Z"))
	w.quiet()
	if got := w.story("nightly"); got != once {
		t.Errorf("the story is\n%s\nwant\n%s", got, once)
	}
}

func TestByHand(t *testing.T) {
	w := newHarness(t)
	w.declare(daily)
	b, err := w.s.Start(t.Context(), "hello", "nightly", "ada") // though the loop may not have seen it yet
	if err != nil || b.Number != 1 || b.By != "ada" {
		t.Fatalf("%+v %v", b, err)
	}
	w.until("nightly", "declared, due 2026-11-28T12:00:00Z, ended green")
	if by := w.build.jobs[0].By; by != "ada" {
		t.Errorf("by %s", by)
	}
	// It is due when it was.
	w.clock.set(at(t, "2026-11-29T03:00:00Z"))
	w.until("nightly", "declared, due 2026-11-28T12:00:00Z, ended green, due 2026-11-29T03:00:00Z, ended green")
	_, err = w.s.Start(t.Context(), "hello", "nightyl", "ada")
	var e *show.Error
	if !errors.As(err, &e) || e.Kind != show.NotFound || e.Hint != `did you mean "nightly"?` {
		t.Errorf("%v", err)
	}
}

// TestOnAnotherBranch: a schedule is declared where releases come from, and builds the tip of
// the branch that it names.
func TestOnAnotherBranch(t *testing.T) {
	w := newHarness(t)
	next := w.land("next", map[string]string{"f": "next"})
	w.declare("- {name: nightly, cron: '0 3 * * *', on: next}\n")
	w.until("nightly", "declared")
	w.quiet()
	w.clock.set(at(t, "2026-11-29T03:00:00Z"))
	w.until("nightly", "declared, due 2026-11-29T03:00:00Z, ended green")
	if j := w.build.jobs[0]; j.Candidate != next {
		t.Errorf("%+v", j)
	}
}

// What is not declared any more is not due; when it comes back, nothing was missed.
func TestRemovedAndBack(t *testing.T) {
	w := newHarness(t)
	w.declare(daily)
	w.until("nightly", "declared")
	w.build.held = make(chan struct{})
	w.clock.set(at(t, "2026-11-29T03:00:00Z"))
	w.until("nightly", "declared, due 2026-11-29T03:00:00Z")
	w.declare("- {name: other, cron: '@yearly'}\n")
	const gone = "declared, due 2026-11-29T03:00:00Z, ended stopped, removed"
	w.until("nightly", gone)
	w.build.mu.Lock()
	w.build.held = nil
	w.build.mu.Unlock()
	w.clock.set(at(t, "2026-12-05T12:00:00Z"))
	w.quiet()
	w.declare(daily)
	w.until("nightly", gone+", declared")
	w.quiet()
	w.clock.set(at(t, "2026-12-06T03:00:00Z"))
	w.until("nightly", gone+", declared, due 2026-12-06T03:00:00Z, ended green")
}

// TestEndings: what has ended is told to who knows how far they have read, each once; who has
// read nothing is told of the last day.
func TestEndings(t *testing.T) {
	w := newHarness(t)
	w.declare(daily)
	w.until("nightly", "declared")
	story := "declared"
	run := func(due string, red bool) repo.Hash {
		t.Helper()
		w.build.mu.Lock()
		w.build.red = red
		w.build.mu.Unlock()
		w.quiet()
		w.clock.set(at(t, due))
		how := "green"
		if red {
			how = "failed"
		}
		story += ", due " + due + ", ended " + how
		w.until("nightly", story)
		tip, err := w.r.Ref(Ref("nightly"))
		if err != nil {
			t.Fatal(err)
		}
		return tip
	}
	told := func(after, upTo repo.Hash) string {
		t.Helper()
		list, err := Endings(w.r, "nightly", after, upTo, w.clock.Now())
		if err != nil {
			t.Fatal(err)
		}
		var b strings.Builder
		for _, e := range list {
			fmt.Fprintf(&b, "%d %s %s;", e.Build.Number, e.Build.State, e.Build.Reason)
			if c, err := w.r.Commit(e.Commit); err != nil || repo.TrailerValue(c.Message, "Event") != "ended" {
				t.Errorf("%s is no end of a build: %v", e.Commit, err)
			}
		}
		return b.String()
	}
	first := run("2026-11-29T03:00:00Z", false)
	second := run("2026-11-30T03:00:00Z", true)
	third := run("2026-12-01T03:00:00Z", false)
	const two, three = `2 failed build: "make soak" exited 2;`, "3 green ;"
	for _, c := range []struct {
		after, upTo repo.Hash
		want        string
	}{
		{first, third, two + three},
		{second, third, three},
		{third, third, ""},
		{first, second, two},
		{repo.Zero, third, two + three}, // the first is two days old
	} {
		if got := told(c.after, c.upTo); got != c.want {
			t.Errorf("after %s up to %s: %q, not %q", c.after, c.upTo, got, c.want)
		}
	}
}

// Another expression counts from when it landed.
func TestDeclaredOtherwise(t *testing.T) {
	w := newHarness(t)
	w.declare(daily)
	w.until("nightly", "declared")
	w.declare("- {name: nightly, cron: '0 5 * * *'}\n") // which was this morning
	w.until("nightly", "declared, declared")
	w.quiet()
	w.clock.set(at(t, "2026-11-29T04:59:00Z"))
	w.quiet()
	w.clock.set(at(t, "2026-11-29T05:00:00Z"))
	w.until("nightly", "declared, declared, due 2026-11-29T05:00:00Z, ended green")
}

func TestFailures(t *testing.T) {
	w := newHarness(t)
	w.build.red = true
	w.declare(
		"- {name: red, cron: '@yearly'}\n- {name: nowhere, cron: '@yearly', on: next}\n- {name: broken, cron: '@yearly'}\n")
	for _, name := range []string{"red", "nowhere"} {
		if _, err := w.s.Start(t.Context(), "hello", name, "ada"); err != nil {
			t.Fatal(err)
		}
		w.until(name, "declared, due 2026-11-28T12:00:00Z, ended failed")
	}
	st, err := w.s.Status("hello", "red")
	if b := st.Builds[0]; err != nil || b.Reason != `build: "make soak" exited 2` || b.Command != "make soak" ||
		b.Exit != 2 || b.LogLine != 9 || b.Log != "sha256:0" {
		t.Errorf("%+v %v", b, err)
	}
	if st, err = w.s.Status("hello", "nowhere"); err != nil || st.Builds[0].Reason != "there is no branch next" {
		t.Errorf("%+v %v", st, err)
	}

	// A server that cannot build tries three times, and then says so.
	for range maxTries {
		w.build.fails = append(w.build.fails, errors.New("no space left"))
	}
	ran := w.build.ran()
	if _, err := w.s.Start(t.Context(), "hello", "broken", "ada"); err != nil {
		t.Fatal(err)
	}
	for n := 1; n <= maxTries; n++ {
		for deadline := time.Now().Add(lastResort); w.build.ran() < ran+n; time.Sleep(time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("tried %d times", w.build.ran()-ran)
			}
			w.clock.set(w.clock.Now().Add(time.Second))
		}
	}
	w.until("broken", "declared, due "+w.dueOf("broken")+", ended failed")
	if st, err = w.s.Status("hello", "broken"); err != nil || !strings.HasPrefix(st.Builds[0].Reason,
		"the build could not run: the server's log says why under hello-schedule-broken-1-") {
		t.Errorf("%+v %v", st, err)
	}
}

func (w *harness) dueOf(name string) string {
	st, err := w.s.Status("hello", name)
	if err != nil {
		w.t.Fatal(err)
	}
	return st.Builds[0].At.UTC().Format(time.RFC3339)
}

// A history that is longer than what is read of it goes on with its numbers.
func TestLongHistory(t *testing.T) {
	w := newHarness(t)
	w.declare("- {name: often, cron: '* * * * *'}\n")
	w.until("often", "declared")
	want := "declared"
	for i := range kept + 3 {
		now := at(t, "2026-11-28T12:01:00Z").Add(time.Duration(i) * time.Minute)
		w.clock.set(now)
		want += fmt.Sprintf(", due %s, ended green", now.Format(time.RFC3339))
		w.until("often", want)
	}
	w.restart()
	w.quiet()
	st, err := w.s.Status("hello", "often")
	if err != nil || len(st.Builds) != kept || st.Builds[0].Number != kept+3 || st.Builds[kept-1].Number != 4 {
		t.Fatalf("%d builds, %v", len(st.Builds), err)
	}
	if b, err := w.s.Start(t.Context(), "hello", "often", "ada"); err != nil || b.Number != kept+4 {
		t.Errorf("%+v %v", b, err)
	}
}

// FuzzApply: whatever a history says, no build of it is there twice or has another number than
// its own, and there are no more than are kept.
func FuzzApply(f *testing.F) {
	f.Add("Event: declared\nCron: 0 3 * * *\n\nEvent: due\nRun: 1\nAt: 2026-11-29T03:00:00Z\n\nEvent: ended\nRun: 1\nState: green")
	f.Add("Event: due\nRun: -7\n\nEvent: due\nRun: 99999999999999999999\n\nEvent: ended\nRun: x")
	f.Fuzz(func(t *testing.T, text string) {
		var h History
		for commit := range strings.SplitSeq(text, "\n\n") {
			var trailers []repo.Trailer
			for line := range strings.Lines(commit) {
				key, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ": ")
				trailers = append(trailers, repo.Trailer{Key: key, Value: value})
			}
			h.apply(time.Unix(0, 0), trailers)
		}
		seen := map[int]bool{}
		for _, b := range h.Builds {
			if seen[b.Number] || b.Number < 0 {
				t.Errorf("%d is there twice, or below zero: %q", b.Number, text)
			}
			seen[b.Number] = true
		}
		if len(h.Builds) > kept {
			t.Errorf("%d builds are kept", len(h.Builds))
		}
	})
}
