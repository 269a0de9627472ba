package reconciler

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-git/go-git/v5/plumbing/filemode"
	"golang.org/x/crypto/ssh"

	"github.com/headgate-cd/headgate/gitd/access"
	"github.com/headgate-cd/headgate/gitd/repo"
	"github.com/headgate-cd/headgate/gitd/show"
	"github.com/headgate-cd/headgate/gitd/yamlfile"
	"github.com/headgate-cd/headgate/policies"
	"github.com/headgate-cd/headgate/reconciler/record"
	"github.com/headgate-cd/headgate/reconciler/target"
	"github.com/headgate-cd/headgate/reconciler/target/services"
)

const mainRef = "refs/heads/main"

// harness is a real store with the repository hello, a target whose reports the
// test decides, and a reconciler between them.
type harness struct {
	store  *repo.Store
	hello  *repo.Repository
	target *fakeTarget
	rc     *Reconciler
	clock  *fakeClock
	config atomic.Pointer[access.Config]
}

// fakeClock is a clock that stands until the test moves it.
type fakeClock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *fakeClock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

// add moves the clock on.
func (c *fakeClock) add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

const serverYAML = `users:
  ada: {name: Ada Lovelace, email: [ada@example.com], keys: [%q]}
  jun: {name: Jun, email: [jun@example.com], keys: [%q]}
  sam: {name: Sam, email: [sam@example.com], keys: [%q]}
  eve: {name: Eve, keys: [%q]}
groups:
  administrators: [ada]
  release: [ada, jun]
repositories:
  hello: {write: [ada, jun, sam]}
`

// openHarness opens the harness in dir, making what is not there yet.
func openHarness(ctx context.Context, dir string) (*harness, error) {
	signer, err := repo.OpenSigner(filepath.Join(dir, "key"), repo.Person{Name: "Headgate", Email: "headgate@test"})
	if err != nil {
		return nil, err
	}
	h := &harness{target: newFakeTarget(), clock: &fakeClock{now: time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)}}
	if h.store, _, err = repo.OpenStore(filepath.Join(dir, "repositories"), filepath.Join(dir, "hooks"),
		signer); err != nil {
		return nil, err
	}
	if h.hello, err = h.store.Create(ctx, "hello"); err != nil {
		return nil, err
	}
	if err := h.setAccess(serverYAML); err != nil {
		return nil, err
	}
	h.target.now = h.clock.Now
	h.rc = &Reconciler{
		Store: h.store, Targets: map[string]target.Target{"services": h.target}, Now: h.clock.Now, Login: "-p 2222 127.0.0.1",
		Access:   h.config.Load,
		Releases: taggedReleases,
		Branch:   func(string) string { return mainRef },
		Log:      slog.New(slog.DiscardHandler),
		Engine:   func(*repo.Repository, repo.Hash) (*policies.Engine, error) { return engine() },
	}
	return h, nil
}

// setAccess puts a server.yaml in force; each %q in it is a user's key.
func (h *harness) setAccess(text string) error {
	var keys []any
	for i := range strings.Count(text, "%q") {
		seed := make([]byte, ed25519.SeedSize)
		seed[0] = byte(i)
		public, err := ssh.NewPublicKey(ed25519.NewKeyFromSeed(seed).Public())
		if err != nil {
			return err
		}
		keys = append(keys, strings.TrimSpace(string(ssh.MarshalAuthorizedKey(public))))
	}
	config, err := access.Parse("server.yaml", fmt.Appendf(nil, text, keys...))
	if err != nil {
		return err
	}
	h.config.Store(config)
	return nil
}

// newHouse is openHarness for a test, with the reconciler running.
func newHarness(t *testing.T) *harness {
	t.Helper()
	h, err := openHarness(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(h.store.Close)
	return h
}

// start runs the reconciler until the test ends or stop is called.
func (h *harness) start(t *testing.T) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	ended := make(chan error, 1)
	go func() { ended <- h.rc.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(stop)
	return stop
}

// engine is the default policy.
var engine = sync.OnceValues(func() (*policies.Engine, error) { return policies.New(nil) })

// tagged is what a release's tag says, in this test.
type tagged struct {
	By, Subject, Author string
	Artifacts           []record.Artifact
	Unverified          string
}

// taggedReleases reads refs/releases/*.
func taggedReleases(r *repo.Repository) ([]record.Release, error) {
	refs, err := r.Refs("refs/releases/")
	if err != nil {
		return nil, err
	}
	var all []record.Release
	for _, ref := range refs {
		t, err := r.Tag(ref.Hash)
		if err != nil {
			return nil, err
		}
		n, err := strconv.Atoi(strings.TrimPrefix(ref.Name, "refs/releases/"))
		if err != nil {
			return nil, err
		}
		var says tagged
		text, _, _ := strings.Cut(t.Message, "\n")
		if err := json.Unmarshal([]byte(text), &says); err != nil {
			return nil, err
		}
		rel := record.Release{Number: n, Commit: t.Target, Change: n, By: says.By, Subject: says.Subject, At: t.Tagger.When,
			Artifacts: says.Artifacts, Verify: func() error { return nil }}
		if says.Unverified != "" {
			rel.Verify = func() error { return errors.New(says.Unverified) }
		}
		all = append(all, rel)
	}
	return all, nil
}

// land puts a commit with these files on main and releases it. It returns the
// release's number.
func (h *harness) land(ctx context.Context, says tagged, files map[string]string) (int, error) {
	return h.landIn(ctx, h.hello, says, files)
}

// landIn is land in any repository.
func (h *harness) landIn(ctx context.Context, r *repo.Repository, says tagged, files map[string]string) (int, error) {
	tip, err := r.Ref(mainRef)
	if err != nil {
		return 0, err
	}
	base := repo.Zero
	if tip != repo.Zero {
		if base, err = r.TreeOf(tip); err != nil {
			return 0, err
		}
	}
	edits := map[string]repo.Edit{}
	for path, content := range files {
		b := repo.Blob([]byte(content))
		if err := r.Write(b); err != nil {
			return 0, err
		}
		edits[path] = repo.Edit{Mode: filemode.Regular, Hash: b.Hash()}
	}
	tree, err := r.TreeWith(base, edits)
	if err != nil {
		return 0, err
	}
	author := repo.Person{Name: says.By, Email: says.By + "@example.com"}
	if says.Author != "" {
		author = repo.Person{Name: says.Author, Email: says.Author + "@example.com"}
	}
	commit, err := r.WriteCommit(repo.NewCommit{Tree: tree, Parents: record.Parents(tip), Author: author,
		At: h.clock.Now(), Message: says.Subject})
	if err != nil {
		return 0, err
	}
	refs, err := r.Refs("refs/releases/")
	if err != nil {
		return 0, err
	}
	n := len(refs) + 1
	text, err := json.Marshal(says)
	if err != nil {
		return 0, err
	}
	tag, err := r.WriteTag(strconv.Itoa(n), commit, h.clock.Now(), string(text))
	if err != nil {
		return 0, err
	}
	if err := r.Move(ctx, mainRef, tip, commit); err != nil {
		return 0, err
	}
	return n, r.Move(ctx, "refs/releases/"+strconv.Itoa(n), repo.Zero, tag)
}

// release lands a version of hello by a user: artifacts and compose files differ
// with the version.
func (h *harness) release(t *testing.T, by, version string) int {
	t.Helper()
	n, err := h.land(t.Context(), version1(by, version), helloFiles(version))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func version1(by, version string) tagged {
	return tagged{By: by, Subject: "Say " + version,
		Artifacts: []record.Artifact{{Name: "hello", Digest: "sha256:" + strings.Repeat("a", 60) + version, Size: 10}}}
}

const helloYAML = `environments:
  staging: {target: services, path: deploy/staging}
  production: {target: services, path: deploy/production, after: staging, approvals: 1}
`

func helloFiles(version string) map[string]string {
	return map[string]string{
		"headgate.yaml":               helloYAML,
		"main.go":                     "package main // " + version + "\n",
		"deploy/staging/compose.yaml": "services: {web: {command: hello " + version + "}}\n",
		"deploy/production/compose.yaml": "services: {web: {command: hello " + version +
			", deploy: {replicas: 2}}}\n",
		"deploy/production/old-" + version + ".conf": version + "\n",
	}
}

// fakeTarget is a target without processes: it remembers what it was given and
// reports what the test says, or healthy at once.
type fakeTarget struct {
	now func() time.Time

	mu       sync.Mutex
	obedient bool // reports healthy whatever it is given
	given    map[string][]target.Declared
	reports  map[string]target.Observed
	removed  []string // environments, in the order of Remove
	topic    target.Topic
}

func newFakeTarget() *fakeTarget {
	return &fakeTarget{given: map[string][]target.Declared{}, reports: map[string]target.Observed{}}
}

func (f *fakeTarget) Converge(d target.Declared) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, was := range d.Was {
		if f.given[d.Environment] == nil && f.given[was] != nil {
			f.given[d.Environment], f.reports[d.Environment] = f.given[was], f.reports[was]
			delete(f.given, was)
			delete(f.reports, was)
		}
	}
	f.given[d.Environment] = append(f.given[d.Environment], d)
	if n := len(f.given[d.Environment]); n > 1 && f.given[d.Environment][n-2].Sequence > d.Sequence {
		return // fenced
	}
	state := target.Converging
	if f.obedient {
		state = target.Healthy
	}
	if f.obedient && strings.Contains(string(d.Files["compose.yaml"]), "broken") {
		f.set(d, target.Failed, "given up")
		o := f.reports[d.Environment]
		o.RollBack = true
		f.reports[d.Environment] = o
		return
	}
	f.set(d, state, "")
}

func (f *fakeTarget) set(d target.Declared, state target.State, message string) {
	phase := target.PhaseHealthy
	if state == target.Failed {
		phase = target.PhaseFailed
	}
	f.reports[d.Environment] = target.Observed{
		Key:      d.Key,
		Commit:   d.Commit,
		Sequence: d.Sequence,
		State:    state,
		Since:    f.now(),
		Message:  message,
		Units: []target.Unit{{
			Name:    "web",
			State:   state,
			URL:     "http://127.0.0.1:1",
			Release: d.Release.Number,
			Instances: []target.Instance{{
				ID:      "web-1",
				Release: d.Release.Number,
				Phase:   phase,
				Serving: state != target.Failed,
				Since:   f.now(),
			}},
		}},
	}
	f.topic.Notify(d.Key)
}

// report makes the target report a state of what it was last given.
func (f *fakeTarget) report(environment string, state target.State, message string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if given := f.given[environment]; len(given) > 0 {
		f.set(given[len(given)-1], state, message)
	}
}

// giveUp makes the target report that the deployment of what it was last given has
// failed for good.
func (f *fakeTarget) giveUp(environment, message string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	given := f.given[environment]
	d := given[len(given)-1]
	f.set(d, target.Failed, message)
	o := f.reports[environment]
	o.RollBack = true
	f.reports[environment] = o
	f.topic.Notify(d.Key)
}

func (f *fakeTarget) last(environment string) target.Declared {
	f.mu.Lock()
	defer f.mu.Unlock()
	if given := f.given[environment]; len(given) > 0 {
		return given[len(given)-1]
	}
	return target.Declared{}
}

func (f *fakeTarget) Check(string, target.Files) (problems, warnings yamlfile.Problems) {
	return nil, nil
}

func (f *fakeTarget) Addresses(files target.Files) []target.Address { return services.Addresses(files) }

func (f *fakeTarget) Run(context.Context) error { return nil }

func (f *fakeTarget) Remove(k target.Key, _ int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.removed = append(f.removed, k.Environment)
	delete(f.reports, k.Environment)
	delete(f.given, k.Environment)
}

func (f *fakeTarget) Observe(k target.Key) target.Observed {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.reports[k.Environment]
}

func (f *fakeTarget) Watch(k target.Key) (<-chan struct{}, func()) { return f.topic.Watch(k) }

// patience is how long a test waits for what must come: long enough for a
// machine that has much else to do.
const lastResort = 5 * time.Minute

// eventually waits until an environment is as ok says.
func (h *harness) eventually(t *testing.T, environment, what string, ok func(show.Environment) bool) show.Environment {
	t.Helper()
	return h.eventuallyIn(t, "hello", environment, what, ok)
}

// eventuallyIn is eventually in any repository.
func (h *harness) eventuallyIn(t *testing.T, repository, environment, what string,
	ok func(show.Environment) bool) show.Environment {
	t.Helper()
	deadline := time.Now().Add(lastResort)
	for {
		e, err := h.rc.Environment(t.Context(), access.Identity{}, repository, environment)
		if err == nil && ok(e) {
			return e
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: not %s within %s: %+v, %v", environment, what, lastResort, e, err)
		}
		time.Sleep(25 * time.Millisecond) // so that looking leaves the machine to what is waited for
	}
}

// healthy waits until the environment is noted to be healthy with a release.
func (h *harness) healthy(t *testing.T, environment string, release int) show.Environment {
	t.Helper()
	return h.eventually(t, environment, fmt.Sprintf("healthy with release %d", release), func(e show.Environment) bool {
		if e.Release != release || e.State != show.Healthy || e.Declared == "" {
			return false
		}
		at, _ := repo.ParseHash(e.Declared)
		o, err := record.OutcomeOf(h.hello, at)
		return err == nil && o.State == target.Healthy
	})
}

func (h *harness) proposed(t *testing.T, environment string, release int) show.Promotion {
	t.Helper()
	h.eventually(t, environment, fmt.Sprintf("proposing release %d", release), func(e show.Environment) bool {
		return e.Promotion != nil && e.Promotion.To == release
	})
	p, err := h.rc.Promotion(t.Context(), access.Identity{User: "jun"}, "hello", environment)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func actor(name string) access.Identity { return access.Identity{User: name, Via: "ssh"} }
