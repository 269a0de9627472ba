package receive

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/headgate-cd/headgate/gitd/access"
	"github.com/headgate-cd/headgate/gitd/headgateyaml"
	"github.com/headgate-cd/headgate/gitd/repo"
	"github.com/headgate-cd/headgate/gitd/show"
	"github.com/headgate-cd/headgate/gitd/yamlfile"
	"github.com/headgate-cd/headgate/hooks/check"
	"github.com/headgate-cd/headgate/hooks/gate"
	"github.com/headgate-cd/headgate/policies"
)

var hookProgram string

// patience is how long a test waits for what must come: long enough for a
// machine that has much else to do.
const lastResort = 5 * time.Minute

func TestMain(m *testing.M) {
	if len(os.Args) == 2 && os.Args[1] == "policy-worker" {
		policies.Work()
		return
	}
	dir, err := os.MkdirTemp("", "headgate-hook-")
	if err != nil {
		panic(err)
	}
	hookProgram = filepath.Join(dir, "headgate-hook")
	build := exec.Command("go", "build", "-o", hookProgram, "../../cmd/headgate-hook")
	build.Env = append(os.Environ(), "CGO_ENABLED=0") // as it is released, and as it may be compiled already
	if out, err := build.CombinedOutput(); err != nil {
		panic(fmt.Sprintf("%v: %s", err, out))
	}
	code := m.Run()
	pool.Close()
	os.RemoveAll(dir)
	if code == 0 {
		if err := goleak.Find(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

const serverYAML = `
users:
  ada: {name: Ada, email: [ada@example.com], keys: ["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHJlY2VpdmUtdGVzdC1rZXktMDAwMDAwMDAwMDAwMDAw"]}
  jun: {name: Jun}
  sam: {name: Sam, quota: 64 KiB}
groups:
  administrators: [ada]
repositories:
  hello: {read: [everyone], write: [ada]}
  loose: {gate: off}
  small: {gate: off, quota: 64 KiB}
`

// pool judges policies in processes of this test.
var pool = &policies.Pool{Program: []string{"/proc/self/exe", "policy-worker"}}

// harness is a Listener with what it needs around it.
type harness struct {
	t        *testing.T
	dir      string
	hooks    string
	listener *Listener
	store    *repo.Store
	r        *repo.Repository // hello, gated
	loose    *repo.Repository
	gate     *fakeGate
	envs     *fakeEnvironments
	stop     func()
	client   context.Context // of the pushes; nil: one that stays
	ascii    bool            // what pushers can be shown
	unpacked atomic.Int32    // how often a hook said that git has unpacked
}

func newHarness(t *testing.T) *harness {
	t.Helper()
	h := &harness{t: t, dir: t.TempDir()}
	h.hooks = filepath.Join(h.dir, "hooks")
	if err := InstallHooks(h.hooks, hookProgram); err != nil {
		t.Fatal(err)
	}
	signer, err := repo.OpenSigner(filepath.Join(h.dir, "key"), repo.Person{Name: "Headgate", Email: "headgate@test"})
	if err != nil {
		t.Fatal(err)
	}
	if h.store, _, err = repo.OpenStore(filepath.Join(h.dir, "repositories"), h.hooks, signer); err != nil {
		t.Fatal(err)
	}
	if h.r, err = h.store.Create(t.Context(), "hello"); err != nil {
		t.Fatal(err)
	}
	if h.loose, err = h.store.Create(t.Context(), "loose"); err != nil {
		t.Fatal(err)
	}
	config, err := access.Parse("server.yaml", []byte(serverYAML))
	if err != nil {
		t.Fatal(err)
	}
	h.gate = &fakeGate{store: h.store, events: make(chan struct{}, 100)}
	h.envs = &fakeEnvironments{}
	h.listener = &Listener{
		Dir: filepath.Join(h.dir, "run"), Store: h.store, Access: func() *access.Config { return config },
		Engine: func(r *repo.Repository, tip repo.Hash) (*policies.Engine, error) {
			files := map[string][]byte{}
			if tip != repo.Zero {
				tree, err := r.TreeOf(tip)
				if err != nil {
					return nil, err
				}
				if files, err = r.Files(tree, func(p string) bool { return strings.HasPrefix(p, "policies/") }); err != nil {
					return nil, err
				}
			}
			return policies.New(files)
		},
		Checker: &check.Checker{Policies: pool.Check, Targets: map[string]check.Target{"services": {
			Reads: []string{"compose.yaml"},
			Check: func(dir string, files map[string][]byte) (problems, warnings yamlfile.Problems) {
				switch data, ok := files["compose.yaml"]; {
				case !ok:
					problems = yamlfile.Problems{{File: dir + "/compose.yaml", What: "is not there"}}
				case bytes.Contains(data, []byte("broken")):
					problems = yamlfile.Problems{{File: dir + "/compose.yaml", Line: 1, What: "is broken"}}
				case bytes.Contains(data, []byte("odd")):
					warnings = yamlfile.Problems{{File: dir + "/compose.yaml", Line: 1, What: "is odd"}}
				}
				return problems, warnings
			},
			Addresses: func(dir string, files map[string][]byte) (all []check.Address) {
				if a, err := netip.ParseAddrPort(string(files["compose.yaml"])); err == nil {
					all = append(all, check.Address{AddrPort: a, File: dir + "/compose.yaml", Line: 1})
				}
				return all
			},
		}}},
		Gate: h.gate, Environments: h.envs, Server: func() show.Server { return exampleServer },
		Logs: &fakeLogs{},
	}
	h.start()
	t.Cleanup(func() {
		h.stop()
		h.store.Close()
	})
	return h
}

func (h *harness) start() {
	h.t.Helper()
	if err := h.listener.Open(); err != nil {
		h.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- h.listener.Run(ctx) }()
	h.stop = sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				h.t.Error(err)
			}
		case <-time.After(lastResort):
			h.t.Error("Run did not return")
		}
	})
}

// receivePack writes the program that stands for the front door: it runs receive-pack
// with the environment of a push.
func (h *harness) receivePack(env []string) string {
	var script strings.Builder
	script.WriteString("#!/bin/sh\nexec env -i")
	for _, kv := range repo.Env(h.hooks, env...) {
		script.WriteString(" '" + strings.ReplaceAll(kv, "'", `'\''`) + "'")
	}
	script.WriteString(" git receive-pack \"$@\"\n")
	f, err := os.CreateTemp(h.dir, "door-")
	if err != nil {
		h.t.Fatal(err)
	}
	_, err = f.WriteString(script.String())
	if err = errors.Join(err, f.Chmod(0o755), f.Close()); err != nil {
		h.t.Fatal(err)
	}
	return f.Name()
}

// pushed is what a push came to.
type pushed struct {
	out string // both outputs
	err error
}

// push runs git push in a clone as a user.
func (h *harness) push(c *clone, user string, args ...string) pushed {
	h.t.Helper()
	cmd, end := h.pushing(context.Background(), c, user, args...)
	defer end()
	out, err := cmd.CombinedOutput()
	return pushed{string(out), err}
}

func (h *harness) pushing(ctx context.Context, c *clone, user string, args ...string) (*exec.Cmd, func()) {
	client := h.client
	if client == nil {
		client = context.Background()
	}
	env, end := h.listener.Begin(client, access.Identity{User: user, Via: "ssh"}, "SHA256:key-of-"+user, c.r.Name(), h.ascii,
		func() { h.unpacked.Add(1) })
	return c.command(ctx, append([]string{"push", "--receive-pack=" + h.receivePack(env)}, args...)...), end
}

func (p pushed) ok(t *testing.T, contains ...string) {
	t.Helper()
	if p.err != nil {
		t.Fatalf("the push failed: %v\n%s", p.err, p.out)
	}
	p.says(t, contains...)
}

func (p pushed) refused(t *testing.T, contains ...string) {
	t.Helper()
	if p.err == nil {
		t.Fatalf("the push was not refused:\n%s", p.out)
	}
	p.says(t, contains...)
}

func (p pushed) says(t *testing.T, contains ...string) {
	t.Helper()
	whole := wrapped.ReplaceAllString(p.out, " ")
	for _, want := range contains {
		if !strings.Contains(p.out, want) && !strings.Contains(whole, want) {
			t.Errorf("%q is not said in:\n%s", want, p.out)
		}
	}
}

// wrapped is where a line of the server goes on in the next.
var wrapped = regexp.MustCompile(` *\nremote: +`)

// clone is somebody's work tree with the repository as origin.
type clone struct {
	t   *testing.T
	dir string
	r   *repo.Repository
}

func (h *harness) clone(r *repo.Repository) *clone {
	h.t.Helper()
	c := &clone{t: h.t, dir: h.t.TempDir(), r: r}
	c.git("init", "--quiet", "--initial-branch=main")
	c.git("remote", "add", "origin", r.Dir())
	return c
}

func (c *clone) command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "git", append([]string{"-C", c.dir}, args...)...)
	cmd.Env = []string{"PATH=" + repo.Path, "HOME=" + c.dir, "GIT_CONFIG_NOSYSTEM=1", "GIT_TERMINAL_PROMPT=0", "LC_ALL=C",
		"GIT_AUTHOR_NAME=Ada", "GIT_AUTHOR_EMAIL=ada@example.com", "GIT_COMMITTER_NAME=Ada", "GIT_COMMITTER_EMAIL=ada@example.com"}
	return cmd
}

func (c *clone) git(args ...string) string {
	c.t.Helper()
	out, err := c.command(context.Background(), args...).CombinedOutput()
	if err != nil {
		c.t.Fatalf("git %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out))
}

// pipe runs git with an input and returns what it prints.
func (c *clone) pipe(input string, args ...string) string {
	c.t.Helper()
	cmd := c.command(context.Background(), args...)
	cmd.Stdin = strings.NewReader(input)
	out, err := cmd.CombinedOutput()
	if err != nil {
		c.t.Fatalf("git %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out))
}

// commit writes files and commits them; it returns the commit.
func (c *clone) commit(subject string, files map[string]string) repo.Hash {
	c.t.Helper()
	for name, content := range files {
		path := filepath.Join(c.dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			c.t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			c.t.Fatal(err)
		}
	}
	c.git("add", "-A")
	c.git("commit", "--quiet", "--allow-empty", "-m", subject)
	return c.head()
}

func (c *clone) head() repo.Hash {
	c.t.Helper()
	h, ok := repo.ParseHash(c.git("rev-parse", "HEAD"))
	if !ok {
		c.t.Fatal("no HEAD")
	}
	return h
}

var buildspec = map[string]string{"buildspec.yml": "version: 0.2\nphases:\n  build:\n    commands: [\"true\"]\n"}

// landed gives the gated repository a first landing and returns the clone that made it.
func (h *harness) landed() *clone {
	h.t.Helper()
	c := h.clone(h.r)
	c.commit("first", buildspec)
	h.push(c, "ada", "origin", "main").ok(h.t)
	return c
}

func (h *harness) ref(r *repo.Repository, name string) repo.Hash {
	h.t.Helper()
	hash, err := r.Ref(name)
	if err != nil {
		h.t.Fatal(err)
	}
	return hash
}

// objects counts the repository's objects, those of decisions left out.
func (h *harness) has(r *repo.Repository, commit repo.Hash) bool {
	h.t.Helper()
	_, err := r.Git(context.Background(), "cat-file", "-e", commit.String())
	return err == nil
}

func (h *harness) decisions(r *repo.Repository) int {
	h.t.Helper()
	if h.ref(r, "refs/decisions/log") == repo.Zero {
		return 0
	}
	out, err := r.Git(context.Background(), "rev-list", "--count", "refs/decisions/log")
	if err != nil {
		h.t.Fatal(err)
	}
	n := 0
	fmt.Sscan(string(out), &n)
	return n
}

// fakeGate lands every proposal at once, unless script says otherwise.
type fakeGate struct {
	store  *repo.Store
	script func(g *fakeGate, p gate.Proposal, change int) iter.Seq[gate.Progress]
	events chan struct{} // one for each proposal

	mu        sync.Mutex
	proposals []gate.Proposal
	withdrawn []int
	paused    *show.Pause
	following int
}

func (g *fakeGate) Propose(ctx context.Context, p gate.Proposal) (gate.Accepted, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if r, err := g.store.Repository(p.Repository); err != nil {
		return gate.Accepted{}, err
	} else if _, err := r.Commit(p.Commit); err != nil {
		return gate.Accepted{}, err // still in quarantine?
	}
	for i, old := range g.proposals {
		if old.Commit == p.Commit && old.Branch == p.Branch {
			g.events <- struct{}{}
			return gate.Accepted{Change: i + 1, Revision: 1, Attached: true, PushedAt: time.Now().Add(-130 * time.Second)}, nil
		}
	}
	g.proposals = append(g.proposals, p)
	g.events <- struct{}{}
	return gate.Accepted{Change: len(g.proposals), Revision: 1, PushedAt: time.Now()}, nil
}

func (g *fakeGate) Estimate(string, int) show.Estimate { return show.Estimate{} }

func (g *fakeGate) Follow(ctx context.Context, repository string, change int) iter.Seq[gate.Progress] {
	g.mu.Lock()
	p, script := g.proposals[change-1], g.script
	g.following++
	g.mu.Unlock()
	if script == nil {
		script = landsAtOnce
	}
	return script(g, p, change)
}

func (g *fakeGate) Withdraw(ctx context.Context, repository string, change int, by access.Identity) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if change > len(g.proposals) {
		return &show.Error{Kind: show.NotFound, What: fmt.Sprintf("there is no change %d", change),
			Hint: "list them: change list hello"}
	}
	g.withdrawn = append(g.withdrawn, change)
	return nil
}

func (g *fakeGate) Pause(_ context.Context, _, branch string, by access.Identity,
	reason string) (p show.Pause, already bool, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if already = g.paused != nil; !already {
		g.paused = &show.Pause{Branch: branch, By: by.User, Via: string(by.Via), Reason: reason,
			At: time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)}
	}
	return *g.paused, already, nil
}

func (g *fakeGate) Resume(_ context.Context, _, branch string, _ access.Identity,
	_ string) (ended *show.Pause, of string, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	ended, g.paused = g.paused, nil
	return ended, branch, nil
}

func landsAtOnce(g *fakeGate, p gate.Proposal, change int) iter.Seq[gate.Progress] {
	return func(yield func(gate.Progress) bool) {
		r, err := g.store.Repository(p.Repository)
		if err != nil {
			panic(err)
		}
		ref := "refs/heads/" + p.Branch
		old, err := r.Ref(ref)
		if err == nil {
			err = r.Move(context.Background(), ref, old, p.Commit)
		}
		if err != nil {
			yield(gate.Progress{Kind: gate.Refused, At: time.Now(), Reason: err.Error()})
			return
		}
		yield(gate.Progress{Kind: gate.Landed, At: time.Now(), Landed: p.Commit, Old: old, FastForward: true,
			Took: time.Second, Tree: p.Commit})
	}
}

// says plays events.
func says(events ...gate.Progress) func(*fakeGate, gate.Proposal, int) iter.Seq[gate.Progress] {
	return func(*fakeGate, gate.Proposal, int) iter.Seq[gate.Progress] {
		return func(yield func(gate.Progress) bool) {
			for _, e := range events {
				if !yield(e) {
					return
				}
			}
		}
	}
}

// fakeLogs has a log only when it is asked for the second time, as a build that
// has just been started.
type fakeLogs struct{ request atomic.Int32 }

var _ Gate = (*gate.Gate)(nil)

func (f *fakeLogs) Follow(ctx context.Context, id string) iter.Seq2[show.LogEvent, error] {
	return func(yield func(show.LogEvent, error) bool) {
		if f.request.Add(1) == 1 {
			yield(show.LogEvent{}, errors.New("no such log"))
			return
		}
		for _, e := range []show.LogEvent{
			{Kind: "step", Step: 1, Phase: "build", Command: "make test"},
			{Kind: "out", Step: 1, Line: 1, Text: "\x1b[32mok\x1b[0m all \a of " + id},
			{Kind: "end", Step: 1, Took: show.Duration(9 * time.Second)},
			{Kind: "done"},
		} {
			if !yield(e, nil) {
				return
			}
		}
	}
}

type fakeEnvironments struct {
	mu    sync.Mutex
	by    []access.Identity
	waits bool
	err   error
	move  func(commit repo.Hash) repo.Hash
	open  []repo.Hash // the promotion and what it replaced
	named []string    // environments to which something is promoted
}

func (e *fakeEnvironments) Proposed(ctx context.Context, repository, environment string,
	commit repo.Hash) (bool, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return environment == "production" && slices.Contains(e.open, commit), nil
}

func (e *fakeEnvironments) Holder(_ string, a netip.AddrPort, to access.Identity) (string, error) {
	if a.Port() != 8000 {
		return "", nil
	}
	return "live of another repository, as " + to.User + " may know", nil
}

func (e *fakeEnvironments) Against(_ string,
	file *headgateyaml.File) (leaving []string, renamed []headgateyaml.Environment, problems yamlfile.Problems, err error) {
	for _, name := range e.named {
		if now, ok := file.RenamedTo(name); ok {
			renamed = append(renamed, now)
		} else if _, ok := file.Environment(name); !ok {
			leaving = append(leaving, name)
		}
	}
	return leaving, renamed, nil, nil
}

func (e *fakeEnvironments) Next(context.Context, string, int) ([]show.Next, error) {
	return []show.Next{{Environment: "staging", Going: true, URLs: []string{"http://127.0.0.1:8000"}}}, nil
}

func (e *fakeEnvironments) ApprovePush(ctx context.Context, repository, environment string, by access.Identity,
	commit repo.Hash, _ string) (repo.Hash, []string, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.err != nil {
		return repo.Zero, nil, e.err
	}
	e.by = append(e.by, by)
	if e.waits {
		return repo.Zero, []string{"approved 183 -> 186 for production, as " + by.User, "now waits for soak until 15:00 UTC"},
			nil
	}
	return e.move(commit), []string{"approved for " + environment}, nil
}

func (e *fakeEnvironments) RejectPush(_ context.Context, _, environment string, by access.Identity, commit repo.Hash,
	reason string) ([]string, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.err != nil {
		return nil, e.err
	}
	e.by = append(e.by, by)
	return []string{"rejected release 186 for " + environment + ", as " + by.User + ": " + reason}, nil
}

type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// eventually waits for a condition.
func eventually(t *testing.T, what string, met func() bool) {
	t.Helper()
	for deadline := time.Now().Add(lastResort); !met(); {
		if time.Now().After(deadline) {
			t.Fatalf("never came: %s", what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}
