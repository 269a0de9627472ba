package forge

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"log"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/http/cgi"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/headgate-cd/headgate/gitd/access"
	"github.com/headgate-cd/headgate/gitd/repo"
	"github.com/headgate-cd/headgate/gitd/secret"
	"github.com/headgate-cd/headgate/hooks/delivery"
)

const (
	hookSecret = "sign-with-this"
	fetchToken = "fetch-with-this"
)

// standIn is a forge that keeps a real repository behind git's own smart HTTP, for
// who has the token.
type standIn struct {
	t     *testing.T
	url   string
	dir   string // bare
	clone string
	down  atomic.Bool   // answers 503
	slow  atomic.Bool   // does not answer who asks for webhooks
	hooks chan struct{} // takes notice of them then
	v2    atomic.Int64
	calls atomic.Int64
}

func newStandIn(t *testing.T) *standIn {
	t.Helper()
	root := t.TempDir()
	git, err := exec.LookPath("git")
	if err != nil {
		t.Fatal(err)
	}
	f := &standIn{t: t, dir: filepath.Join(root, "owner", "name.git"), clone: filepath.Join(root, "clone"),
		hooks: make(chan struct{})}
	backend := &cgi.Handler{Path: git, Args: []string{"http-backend"}, Env: []string{
		"GIT_PROJECT_ROOT=" + root, "GIT_HTTP_EXPORT_ALL=1", "GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL=/dev/null",
	}}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		f.calls.Add(1)
		if f.down.Load() {
			http.Error(w, "maintenance", http.StatusServiceUnavailable)
			return
		}
		if f.slow.Load() && strings.HasSuffix(r.URL.Path, "/hooks") {
			f.hooks <- struct{}{}
			<-r.Context().Done()
			return
		}
		if _, password, _ := r.BasicAuth(); password != fetchToken {
			w.Header().Set("WWW-Authenticate", `Basic realm="forge"`)
			http.Error(w, "who are you?", http.StatusUnauthorized)
			return
		}
		if r.Header.Get("Git-Protocol") == "version=2" {
			f.v2.Add(1)
		}
		backend.ServeHTTP(w, r)
	}))
	t.Cleanup(s.Close)
	f.url = s.URL + "/owner/name.git"
	f.git("", "init", "-q", "--bare", "-b", "main", f.dir)
	f.git("", "clone", "-q", f.dir, f.clone)
	f.commit("first")
	f.git(f.clone, "push", "-q", "origin", "HEAD:main")
	return f
}

func (f *standIn) git(dir string, args ...string) string {
	f.t.Helper()
	cmd := exec.Command("git", args...)
	cmd.Dir = dir
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=/nonexistent", "GIT_CONFIG_NOSYSTEM=1",
		"GIT_CONFIG_GLOBAL=/dev/null",
		"GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@b", "GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@b"}
	out, err := cmd.CombinedOutput()
	if err != nil {
		f.t.Fatalf("git %v: %v\n%s", args, err, out)
	}
	return string(out)
}

func (f *standIn) commit(subject string) {
	f.t.Helper()
	f.git(f.clone, "commit", "-q", "--allow-empty", "-m", subject)
}

// refs is what a mirror must have.
func (f *standIn) refs() string {
	var b strings.Builder
	for line := range strings.Lines(f.git(f.dir, "for-each-ref", "--format=%(refname) %(objectname)")) {
		if mirrored(strings.Fields(line)[0]) {
			b.WriteString(line)
		}
	}
	return b.String()
}

type hubTest struct {
	*standIn
	hub    *Hub
	server *httptest.Server
	mirror *repo.Repository
	log    *lockedBuffer
}

func newHubTest(t *testing.T) *hubTest {
	t.Helper()
	f := newStandIn(t)
	dir := t.TempDir()
	signer, err := repo.OpenSigner(filepath.Join(dir, "key"), repo.Person{Name: "Headgate", Email: "headgate@example.com"})
	if err != nil {
		t.Fatal(err)
	}
	store, _, err := repo.OpenStore(filepath.Join(dir, "repositories"), filepath.Join(dir, "hooks"), signer)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(store.Close)
	mirror, err := store.Create(t.Context(), "hello")
	if err != nil {
		t.Fatal(err)
	}
	secrets, err := secret.Open(filepath.Join(dir, "secrets"), filepath.Join(dir, "secret-key"))
	if err != nil {
		t.Fatal(err)
	}
	for name, value := range map[string]string{"hook": hookSecret, "token": fetchToken} {
		if err := secrets.Set(secret.ID{Name: name}, secret.NewValue([]byte(value)), "ada", time.Now()); err != nil {
			t.Fatal(err)
		}
	}
	logged := &lockedBuffer{}
	h := &hubTest{standIn: f, mirror: mirror, log: logged, hub: &Hub{
		Dir:     filepath.Join(dir, "inbox"),
		Store:   store,
		Access:  connected(t, f.url),
		Secrets: secrets,
		Log:     slog.New(slog.NewTextHandler(logged, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}}
	h.server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.SetPathValue("connection", strings.TrimPrefix(r.URL.Path, "/webhooks/"))
		h.hub.ServeHTTP(w, r)
	}))
	t.Cleanup(h.server.Close)
	return h
}

// connected is a configuration with the one connection of a test, to a forge at an address.
func connected(t *testing.T, url string) func() *access.Config {
	t.Helper()
	config, err := access.Parse("server.yaml", []byte(`users: {ada: {keys: [ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIIAaU4pYEWGd/yv4FbWBRCersPHrGngbEzqibRLlmbNX]}}
groups: {administrators: [ada]}
repositories: {hello: {}}
connections: {hub: {forge: github, repository: owner/name, url: "`+url+`", mirror: hello, secrets: [hook], token: token}}
`))
	if err != nil {
		t.Fatal(err)
	}
	return func() *access.Config { return config }
}

func (h *hubTest) run() (stop func()) {
	ctx, cancel := context.WithCancel(h.t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := h.hub.Run(ctx); err != nil {
			h.t.Error(err)
		}
	}()
	return func() { cancel(); <-done }
}

// hook posts a signed webhook about a push.
func (h *hubTest) hook(id string) int {
	h.t.Helper()
	return h.hookBy(id, hookSecret)
}

// hookBy is hook, signed with a secret.
func (h *hubTest) hookBy(id, secret string) int {
	h.t.Helper()
	body := []byte(`{"ref":"refs/heads/main","repository":{"full_name":"owner/name"}}`)
	m := hmac.New(sha256.New, []byte(secret))
	m.Write(body)
	req, err := http.NewRequest(http.MethodPost, h.server.URL+"/webhooks/hub", bytes.NewReader(body))
	if err != nil {
		h.t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("X-GitHub-Event", "push")
	req.Header.Set("X-GitHub-Delivery", id)
	req.Header.Set("X-Hub-Signature-256", "sha256="+hex.EncodeToString(m.Sum(nil)))
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		h.t.Fatal(err)
	}
	resp.Body.Close()
	return resp.StatusCode
}

func (h *hubTest) eventually(what string, is func() bool) {
	h.t.Helper()
	for deadline := time.Now().Add(2 * time.Minute); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if is() {
			return
		}
	}
	h.t.Fatalf("never: %s\nforge:\n%smirror:\n%s%s", what, h.refs(), h.mirrorRefs(), h.log)
}

func (h *hubTest) mirrorRefs() string {
	refs, err := h.mirror.Refs("refs/")
	if err != nil {
		h.t.Fatal(err)
	}
	var b strings.Builder
	for _, r := range refs {
		fmt.Fprintf(&b, "%s %s\n", r.Name, r.Hash)
	}
	return b.String()
}

func (h *hubTest) inStep() {
	h.t.Helper()
	h.eventually("the mirror is where the forge is", func() bool { return h.mirrorRefs() == h.refs() })
}

func (h *hubTest) status() Status {
	s, err := h.hub.Status("hub")
	if err != nil {
		h.t.Fatal(err)
	}
	return s
}

func TestHubMirrors(t *testing.T) {
	t.Parallel()
	h := newHubTest(t)
	stop := h.run()
	h.inStep() // by the poll at the start

	for i, change := range []func(){
		func() { h.commit("second"); h.git(h.clone, "push", "-q", "origin", "HEAD:main", "HEAD:side") },
		func() { h.git(h.clone, "push", "-q", "origin", "HEAD:refs/heads/deep/er", "HEAD:refs/tags/v1") },
		func() { h.git(h.clone, "tag", "-a", "v2", "-m", "two"); h.git(h.clone, "push", "-q", "origin", "v2") },
		func() { // forced
			h.git(h.clone, "commit", "-q", "--amend", "--allow-empty", "-m", "other")
			h.git(h.clone, "push", "-q", "-f", "origin", "HEAD:main")
		},
		func() { // a name makes room for one below it
			h.git(h.clone, "push", "-q", "origin", ":side")
			h.git(h.clone, "push", "-q", "origin", "HEAD:refs/heads/side/by/side", ":refs/tags/v1")
		},
		func() { // what is the server's stays out
			h.git(h.clone, "push", "-q", "origin", "HEAD:refs/heads/env/production", "HEAD:refs/heads/promote/x",
				"HEAD:refs/notes/verdicts")
			h.git(h.clone, "push", "-q", "origin", "HEAD:refs/heads/last")
			h.git(h.dir, "symbolic-ref", "HEAD", "refs/heads/last")
		},
	} {
		change()
		if status := h.hook(fmt.Sprint("id", i)); status != http.StatusAccepted {
			t.Fatalf("webhook %d: %d", i, status)
		}
		h.inStep()
	}
	h.eventually("the default branch follows",
		func() bool { head, err := h.mirror.Head(); return err == nil && head == "refs/heads/last" })
	h.eventually("all are applied", func() bool { return h.status().Pending == 0 })
	if s := h.status(); s.Left != 2 || s.Failing != "" || s.Recovered != 0 {
		t.Errorf("status %+v", s)
	}
	if h.v2.Load() == 0 {
		t.Error("nothing was asked by protocol v2")
	}
	if status := h.hook("id0"); status != http.StatusOK {
		t.Errorf("the same delivery again: %d", status)
	}

	// A forge that lists nothing does not empty the mirror.
	before := h.mirrorRefs()
	for line := range strings.Lines(h.git(h.dir, "for-each-ref", "--format=%(refname)")) {
		h.git(h.dir, "update-ref", "-d", strings.TrimSpace(line))
	}
	h.hook("empty")
	h.eventually("it says so", func() bool { return strings.Contains(h.status().Failing, "no branch at all") })
	if h.mirrorRefs() != before {
		t.Error("the mirror was emptied")
	}
	stop()
	for _, value := range []string{hookSecret, fetchToken} {
		if strings.Contains(h.log.String(), value) {
			t.Errorf("the log holds a secret:\n%s", h.log)
		}
	}
}

// TestSlowAPIHoldsNoMirrorUp: a forge that does not say how the webhook is keeps nobody
// from following its branches.
func TestSlowAPIHoldsNoMirrorUp(t *testing.T) {
	t.Parallel()
	h := newHubTest(t)
	h.slow.Store(true)
	h.hub.Webhook = func(connection string) string { return "http://headgate.example/webhooks/" + connection }
	stop := h.run()
	<-h.hooks
	h.commit("second")
	h.git(h.clone, "push", "-q", "origin", "HEAD:main")
	if status := h.hook("id"); status != http.StatusAccepted {
		t.Fatalf("webhook: %d", status)
	}
	h.inStep()
	stop() // which ends the question, too
}

// The forge is away while webhooks come, and the server goes meanwhile: they stay
// pending, say why, and are applied once.
func TestHubForgeAway(t *testing.T) {
	t.Parallel()
	h := newHubTest(t)
	stop := h.run()
	h.inStep()
	h.down.Store(true)
	h.commit("second")
	h.git(h.clone, "push", "-q", "origin", "HEAD:main")
	for i := range 20 {
		if status := h.hook(fmt.Sprint(i)); status != http.StatusAccepted {
			t.Fatalf("webhook %d: %d", i, status)
		}
	}
	h.eventually("it fails", func() bool { return h.status().Failing != "" })
	h.eventually("each says why", func() bool {
		list, err := h.hub.Deliveries("hub", 100)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range list {
			if d.Outcome != delivery.Pending || !strings.Contains(d.Detail, "503") {
				return false
			}
		}
		return len(list) == 20
	})
	stop()

	h.down.Store(false)
	h.hub = &Hub{Dir: h.hub.Dir, Store: h.hub.Store, Access: h.hub.Access, Secrets: h.hub.Secrets, Log: h.hub.Log}
	defer h.run()()
	h.inStep()
	h.eventually("all are applied", func() bool {
		list, err := h.hub.Deliveries("hub", 100)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range list {
			if d.Outcome != delivery.Applied {
				return false
			}
		}
		return len(list) == 20
	})
	if err := h.hub.Replay("hub", 3); err != nil {
		t.Fatal(err)
	}
	h.eventually("it is applied again", func() bool {
		return h.status().Pending == 0 && strings.Contains(h.log.String(), "mirrored")
	})
}

// TestHubForgeUnproven: who answers at a forge's address with a certificate that nobody vouches
// for is asked nothing, and the webhook waits.
func TestHubForgeUnproven(t *testing.T) {
	t.Parallel()
	h := newHubTest(t)
	var asked atomic.Int64
	impostor := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked.Add(1) }))
	impostor.Config.ErrorLog = log.New(io.Discard, "", 0)
	impostor.StartTLS()
	t.Cleanup(impostor.Close)
	h.hub.Access = connected(t, impostor.URL)
	defer h.run()()
	if status := h.hook("1"); status != http.StatusAccepted {
		t.Fatalf("the webhook: %d", status)
	}
	h.eventually("it says why", func() bool {
		list, err := h.hub.Deliveries("hub", 100)
		if err != nil {
			t.Fatal(err)
		}
		return len(list) == 1 && list[0].Outcome == delivery.Pending && strings.Contains(list[0].Detail, "certificate") &&
			strings.Contains(h.status().Failing, "certificate")
	})
	if n := asked.Load(); n > 0 {
		t.Errorf("%d requests came through", n)
	}
	if refs, err := h.mirror.Refs("refs/heads/"); err != nil || len(refs) > 0 {
		t.Errorf("mirrored: %v, %v", refs, err)
	}
}

// TestRotatedSecrets: a webhook's secret is replaced and none is lost: at first the old one and
// the new one sign, and which of them did is known when they have other places, and after a
// restart; the old one, once it is taken away, signs nothing any more.
func TestRotatedSecrets(t *testing.T) {
	t.Parallel()
	h := newHubTest(t)
	if err := h.hub.Secrets.Set(secret.ID{Name: "hook-2"}, secret.NewValue([]byte("the-next-one")), "ada",
		time.Now()); err != nil {
		t.Fatal(err)
	}
	signed := func(list string) {
		t.Helper()
		config, err := access.Parse("server.yaml", []byte(
			`users: {ada: {keys: [ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIIAaU4pYEWGd/yv4FbWBRCersPHrGngbEzqibRLlmbNX]}}
groups: {administrators: [ada]}
repositories: {hello: {}}
connections: {hub: {forge: github, repository: owner/name, url: "`+h.url+`", mirror: hello, secrets: [`+list+`], token: token}}
`))
		if err != nil {
			t.Fatal(err)
		}
		h.hub = &Hub{Dir: h.hub.Dir, Store: h.hub.Store, Access: func() *access.Config { return config },
			Secrets: h.hub.Secrets, Log: h.hub.Log}
	}
	post := func(id, by string, want int) {
		t.Helper()
		if status := h.hookBy(id, by); status != want {
			t.Errorf("%s: %d, want %d", id, status, want)
		}
	}
	signed("hook")
	post("1", hookSecret, http.StatusAccepted)
	signed("hook-2, hook")
	post("2", hookSecret, http.StatusAccepted)
	post("3", "the-next-one", http.StatusAccepted)
	signed("hook-2")
	post("4", hookSecret, http.StatusUnauthorized)
	post("5", "the-next-one", http.StatusAccepted)
	list, err := h.hub.Deliveries("hub", 10)
	if err != nil {
		t.Fatal(err)
	}
	var by []string
	for _, d := range slices.Backward(list) {
		by = append(by, d.ID+" "+d.SecretName)
	}
	if want := []string{"1 hook", "2 hook", "3 hook-2", "5 hook-2"}; !slices.Equal(by, want) {
		t.Errorf("%q, not %q", by, want)
	}
}

// However webhooks are dropped, doubled and shuffled, the end is the same.
func TestHubAnyOrder(t *testing.T) {
	t.Parallel()
	h := newHubTest(t)
	defer h.run()()
	h.inStep()
	seed := rand.Uint64()
	random := rand.New(rand.NewPCG(seed, 1))
	var ids []string
	for i := range 12 {
		switch random.IntN(4) {
		case 0:
			h.git(h.clone, "commit", "-q", "--amend", "--allow-empty", "-m", fmt.Sprint("amended ", i))
			h.git(h.clone, "push", "-q", "-f", "origin", "HEAD:main")
		case 1:
			h.git(h.clone, "push", "-q", "-f", "origin", fmt.Sprintf("HEAD:refs/heads/b%d", random.IntN(3)))
		case 2:
			h.git(h.clone, "push", "-q", "-f", "origin", fmt.Sprintf("HEAD:refs/tags/t%d", random.IntN(3)))
		default:
			h.commit(fmt.Sprint(i))
			h.git(h.clone, "push", "-q", "-f", "origin", "HEAD:main")
		}
		if random.IntN(3) > 0 { // else it is dropped
			ids = append(ids, fmt.Sprint(i), fmt.Sprint(i))
		}
		random.Shuffle(len(ids), func(a, b int) { ids[a], ids[b] = ids[b], ids[a] })
		if n := len(ids); n > 0 && random.IntN(2) == 0 {
			h.hook(ids[n-1])
			ids = ids[:n-1]
		}
	}
	for _, id := range ids {
		h.hook(id)
	}
	h.hub.Retry() // what the poll does, for those that were dropped
	h.inStep()
	h.eventually("nothing is pending", func() bool { return h.status().Pending == 0 })
	if t.Failed() {
		t.Logf("seed %d", seed)
	}
}

// What a poll finds and no webhook tells of counts as lost; what one tells of
// after all does not.
func TestWorkerCountsLost(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "lost.json")
	never, err := openLost(path)
	if err != nil {
		t.Fatal(err)
	}
	w := &worker{hub: &Hub{Log: slog.New(slog.DiscardHandler)}, lost: never, interval: shortestPoll}
	now := time.Unix(1_790_000_000, 0)
	changed := []Move{{Ref: "refs/heads/main", Old: repo.Hash{1}, New: repo.Hash{2}}}

	w.synced([]Move{{Ref: "refs/heads/main", New: repo.Hash{1}}}, false, now) // the first fill
	w.countLost(now.Add(time.Hour), false)
	if w.lost.read().Count != 0 {
		t.Fatal("the first fill counts as lost")
	}
	w.synced(changed, false, now)
	w.countLost(now.Add(time.Second), true) // its webhook was on its way
	w.countLost(now.Add(time.Hour), false)
	if w.lost.read().Count != 0 {
		t.Fatal("a webhook that came a little later counts as lost")
	}
	w.synced(changed, false, now)
	w.countLost(now.Add(webhookGrace-1), false)
	if w.lost.read().Count != 0 {
		t.Fatal("counted too early")
	}
	w.countLost(now.Add(webhookGrace), false)
	w.countLost(now.Add(2*webhookGrace), false)
	if w.lost.read().Count != 1 {
		t.Fatalf("recovered %d, want 1", w.lost.read().Count)
	}

	// The same of requests: told of in time, or not; and it is known after a restart.
	q := &requests{w: w, found: map[int]time.Time{7: now, 8: now, 9: now.Add(time.Second)}}
	q.countLost(now.Add(time.Second), map[int][]int64{7: {1}})
	q.countLost(now.Add(webhookGrace), nil)
	if len(q.found) != 1 || q.found[9].IsZero() {
		t.Errorf("found %v", q.found)
	}
	if never, err = openLost(path); err != nil || never.kept.Count != 2 || !never.kept.Last.Equal(now.Add(webhookGrace)) {
		t.Errorf("kept %+v, %v", never.kept, err)
	}

	for i, want := range []time.Duration{10, 20, 40, 60, 60} {
		if d := w.synced(nil, false, now); d != want*time.Minute {
			t.Errorf("quiet poll %d: next in %v, want %v min", i, d, int64(want))
		}
	}
	if d := w.synced(changed, true, now); d != shortestPoll {
		t.Errorf("after a change: next in %v", d)
	}
}

func TestParseListing(t *testing.T) {
	t.Parallel()
	id := strings.Repeat("ab", 20)
	l, err := parseListing([]byte("ref: refs/heads/main\tHEAD\n" + id + "\tHEAD\n" + id + "\trefs/heads/main\n" + id +
		"\trefs/tags/v1\n" +
		id + "\trefs/tags/v1^{}\n" + id + "\trefs/heads/env/production\n" + id + "\trefs/heads/a\"b\n" + id +
		"\trefs/changes/1/log\n"))
	if err != nil || l.head != "refs/heads/main" || len(l.refs) != 2 || l.left != 3 {
		t.Errorf("%+v, %v", l, err)
	}
	for _, bad := range []string{"x", "zz\trefs/heads/main\n", strings.Repeat("ab", 32) + "\trefs/heads/main\n"} {
		if _, err := parseListing([]byte(bad)); err == nil {
			t.Errorf("took %q", bad)
		}
	}
}

// FuzzParseListing: whatever a forge lists, no ref comes of it that is not mirrored.
func FuzzParseListing(f *testing.F) {
	id := strings.Repeat("ab", 20)
	for _, seed := range []string{"", "ref: refs/heads/main\tHEAD\n" + id + "\tHEAD\n" + id + "\trefs/heads/main\n",
		id + "\trefs/tags/v1^{}\n",
		id + "\trefs/heads/env/x\n", id + "\trefs/heads/a\tb\n", "ref: x\n", id + " refs/heads/main"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, out []byte) {
		l, err := parseListing(out)
		if err != nil {
			return
		}
		for name, hash := range l.refs {
			if !mirrored(name) || hash == repo.Zero && !strings.Contains(string(out), hash.String()) ||
				strings.ContainsAny(name, "\t\n ") {
				t.Errorf("%q at %s", name, hash)
			}
		}
	})
}
