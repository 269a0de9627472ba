package gate

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/filemode"
	"go.uber.org/goleak"

	"github.com/headgate-cd/headgate/gitd/access"
	"github.com/headgate-cd/headgate/gitd/decision"
	"github.com/headgate-cd/headgate/gitd/repo"
	"github.com/headgate-cd/headgate/hooks/change"
	"github.com/headgate-cd/headgate/hooks/verdict"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience is how long a test waits for what must come: long enough for a
// machine that has much else to do.
const lastResort = 5 * time.Minute

// harness is a data directory with a gate on it that can be stopped and started.
type harness struct {
	t      testing.TB
	dir    string
	store  *repo.Store
	r      *repo.Repository
	gate   *Gate
	config Config
	stop   func()
	build  *fakeBuilder
	policy *fakePolicy
	logged *lockedBuffer
}

var ada = access.Identity{User: "ada", Via: "push"}
var jun = access.Identity{User: "jun", Via: "push"}

func showActor(name string) access.Identity { return access.Identity{User: name, Via: "push"} }

func newHarness(t testing.TB, options ...func(*Config)) *harness {
	t.Helper()
	w := &harness{t: t, dir: t.TempDir(), build: newFakeBuilder(), policy: &fakePolicy{answer: auto},
		logged: new(lockedBuffer)}
	w.config = Config{
		Builder: w.build, Settings: FileSettings, Ask: w.policy.ask, Workers: 2, Retry: 20 * time.Millisecond,
		Log: slog.New(slog.NewTextHandler(w.logged, nil)),
	}
	for _, o := range options {
		o(&w.config)
	}
	w.start()
	t.Cleanup(func() {
		w.stop()
		if t.Failed() {
			t.Logf("the server's log:\n%s", w.logged.String())
		}
	})
	return w
}

// start opens the data directory, as a new process would, and runs a gate on it.
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
	w.config.Store = w.store
	w.gate = New(w.config)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- w.gate.Run(ctx) }()
	w.stop = sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				w.t.Errorf("Run: %v", err)
			}
		case <-time.After(lastResort):
			w.t.Error("Run does not return")
		}
		w.store.Close()
	})
}

// commit makes a commit that only git's client would make: unsigned.
func (w *harness) commit(message string, files map[string]string, parents ...repo.Hash) repo.Hash {
	w.t.Helper()
	base := repo.Zero
	var err error
	if len(parents) > 0 {
		if base, err = w.r.TreeOf(parents[0]); err != nil {
			w.t.Fatal(err)
		}
	}
	edits := map[string]repo.Edit{}
	for path, content := range files {
		if content == "" {
			edits[path] = repo.Edit{Remove: true}
			continue
		}
		b := repo.Blob([]byte(content))
		if err := w.r.Write(b); err != nil {
			w.t.Fatal(err)
		}
		edits[path] = repo.Edit{Mode: filemode.Regular, Hash: b.Hash()}
	}
	tree, err := w.r.TreeWith(base, edits)
	if err != nil {
		w.t.Fatal(err)
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, "tree %s\n", tree)
	for _, p := range parents {
		fmt.Fprintf(&b, "parent %s\n", p)
	}
	fmt.Fprintf(
		&b, "author Ada <ada@example.com> 1764000000 +0000\ncommitter Ada <ada@example.com> 1764000000 +0000\n\n%s\n", message)
	o := repo.Object{Kind: plumbing.CommitObject, Content: b.Bytes()}
	if err := w.r.Write(o); err != nil {
		w.t.Fatal(err)
	}
	return o.Hash()
}

const buildspec = "version: 0.2\nphases:\n  build:\n    commands: [\"true\"]\n"

// files are a tree that can be built.
func files(extra ...string) map[string]string {
	m := map[string]string{"buildspec.yml": buildspec}
	for i := 0; i+1 < len(extra); i += 2 {
		m[extra[i]] = extra[i+1]
	}
	return m
}

func (w *harness) propose(by access.Identity, commit repo.Hash, options ...string) Accepted {
	w.t.Helper()
	a, err := w.gate.Propose(w.t.Context(), Proposal{
		Repository: "hello", Branch: "main", Commit: commit, By: by, Key: "SHA256:test", Options: options,
	})
	if err != nil {
		w.t.Fatalf("propose: %v", err)
	}
	return a
}

// end follows a change to its end.
func (w *harness) end(number int) Progress {
	w.t.Helper()
	ps := w.follow(number)
	if len(ps) == 0 {
		w.t.Fatalf("change %d: nothing to follow", number)
	}
	return ps[len(ps)-1]
}

func (w *harness) follow(number int) (ps []Progress) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), lastResort)
	defer cancel()
	for p := range w.gate.Follow(ctx, "hello", number) {
		ps = append(ps, p)
	}
	if ctx.Err() != nil {
		w.t.Fatalf("change %d does not end; it went through %v", number, kinds(ps))
	}
	return ps
}

func kinds(ps []Progress) (ks []Kind) {
	for _, p := range ps {
		ks = append(ks, p.Kind)
	}
	return ks
}

// until waits for a condition.
func (w *harness) until(what string, ok func() bool) {
	w.t.Helper()
	for deadline := time.Now().Add(lastResort); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			w.t.Fatalf("waited in vain until %s", what)
		}
	}
}

// land proposes and follows to the landing.
func (w *harness) land(by access.Identity, commit repo.Hash, options ...string) Progress {
	w.t.Helper()
	a := w.propose(by, commit, options...)
	p := w.end(a.Change)
	if p.Kind != Landed {
		w.t.Fatalf("change %d: %s: %s %v", a.Change, p.Kind, p.Reason, p.Details)
	}
	return p
}

func (w *harness) main() repo.Hash {
	w.t.Helper()
	h, err := w.r.Ref("refs/heads/main")
	if err != nil {
		w.t.Fatal(err)
	}
	return h
}

func (w *harness) story(number int) change.Change {
	w.t.Helper()
	s, err := change.Of(w.r).Read(number)
	if err != nil {
		w.t.Fatal(err)
	}
	return s
}

func events(s change.Change) string {
	var words []string
	for _, e := range s.Events {
		words = append(words, string(e.Kind))
	}
	return strings.Join(words, " ")
}

func (w *harness) git(args ...string) string {
	w.t.Helper()
	cmd := exec.Command("git", append([]string{"--git-dir=" + w.r.Dir()}, args...)...)
	cmd.Env = append(os.Environ(), "GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL=/dev/null")
	out, err := cmd.CombinedOutput()
	if err != nil {
		w.t.Fatalf("git %v: %v\n%s", args, err, out)
	}
	return string(out)
}

// unable is an error with a text for people.
type unable struct{}

func (unable) Error() string     { return "/path/of/the/server: no bubblewrap" }
func (unable) ForPeople() string { return "bubblewrap is not installed" }

// fakeBuilder says what it is told to, by what the tree's file "test" holds:
// green unless it says "red" or "broken".
type fakeBuilder struct {
	mu      sync.Mutex
	jobs    []Job
	keys    map[string]int  // runs to the end, by tree
	hold    chan struct{}   // not nil: builds wait for it
	flip    map[string]bool // trees that turn from red to green at the second run
	trouble error           // not nil: what every build meets
	running int
	most    int
}

// suffer makes every build end with an error of the server; nil: no more.
func (b *fakeBuilder) suffer(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.trouble = err
}

func newFakeBuilder() *fakeBuilder {
	return &fakeBuilder{keys: map[string]int{}, flip: map[string]bool{}}
}

func (b *fakeBuilder) Build(ctx context.Context, j Job) (Result, error) {
	b.mu.Lock()
	b.jobs = append(b.jobs, j)
	b.running++
	b.most = max(b.most, b.running)
	hold := b.hold
	b.mu.Unlock()
	defer func() {
		b.mu.Lock()
		b.running--
		b.mu.Unlock()
	}()
	if hold != nil {
		select {
		case <-hold:
		case <-ctx.Done():
			return Result{}, ctx.Err()
		}
	}
	content, err := j.Repository.File(j.Tree, "test")
	if err != nil && !errors.Is(err, repo.ErrNoFile) {
		return Result{}, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	switch said := string(content); {
	case b.trouble != nil:
		return Result{}, b.trouble
	case strings.Contains(said, "panic"):
		panic("as told")
	case strings.Contains(said, "unable"):
		return Result{}, fmt.Errorf("build: %w", unable{})
	case strings.Contains(said, "broken"):
		return Result{}, errors.New("no sandbox")
	case strings.Contains(said, "red") && (!strings.Contains(said, "flaky") || b.keys[j.Tree.String()] == 0):
		b.keys[j.Tree.String()]++
		return Result{Phase: "build", Command: "go test ./...", Exit: 1, LogLine: 7}, nil
	}
	b.keys[j.Tree.String()]++
	return Result{Green: true, LogDigest: "sha256:00"}, nil
}

func (b *fakeBuilder) runs() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.jobs)
}

// holdBuilds makes builds wait, and returns what lets them go.
func (b *fakeBuilder) holdBuilds() (release func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	hold := make(chan struct{})
	b.hold = hold
	return sync.OnceFunc(func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.hold = nil
		close(hold)
	})
}

var auto = Answer{Decision: "auto"}

type fakePolicy struct {
	mu     sync.Mutex
	answer Answer
	err    error
	asked  []Question
	soon   time.Duration // until what its first answer waits for; 0 has it say answer at once
}

func (p *fakePolicy) ask(_ context.Context, q Question) (Answer, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.asked = append(p.asked, q)
	a := p.answer
	if p.soon > 0 && len(p.asked) == 1 {
		a = Answer{Decision: "manual", Reasons: []string{"soon"}, NotBefore: time.Now().Add(p.soon)}
	}
	a.Record = decision.Record{
		Query: "land", About: fmt.Sprintf("change %d", q.Change.Number), Answer: a.Decision,
		Digest: fmt.Sprintf("sha256:%s-%d", q.Candidate, len(p.asked)), JSON: []byte("{}"),
	}
	return a, p.err
}

func (p *fakePolicy) say(a Answer, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.answer, p.err = a, err
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

var _ io.Writer = (*lockedBuffer)(nil)

// verdict notes one, as a build would.
func (w *harness) verdict(in verdict.Inputs, result verdict.Result) {
	w.t.Helper()
	v := verdict.Verdict{Result: result, Key: in.Key(), Buildspec: in.Buildspec, Blob: in.Blob.String(), Image: in.Image,
		Finished: time.Now()}
	if err := verdict.Note(w.t.Context(), w.r, in.Tree, v); err != nil {
		w.t.Fatal(err)
	}
}
