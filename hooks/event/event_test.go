package event

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/headgate-cd/headgate/gitd/access"
	"github.com/headgate-cd/headgate/gitd/repo"
	"github.com/headgate-cd/headgate/gitd/secret"
	"github.com/headgate-cd/headgate/hooks/change"
	"github.com/headgate-cd/headgate/hooks/delivery"
	"github.com/headgate-cd/headgate/hooks/forge"
	"github.com/headgate-cd/headgate/hooks/release"
	"github.com/headgate-cd/headgate/hooks/verdict"
)

// lastResort is how long a test waits for what must come.
const lastResort = 2 * time.Minute

const signingKey = "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="

var noon = time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC)

// harness is a data directory with a sender on it that can be stopped and
// started, and one endpoint that answers as the test says.
type harness struct {
	t      *testing.T
	dir    string
	store  *repo.Store
	hello  *repo.Repository
	secret *secret.Store
	config *access.Config
	sender *Sender
	stop   func()

	mu     sync.Mutex
	now    time.Time
	answer func(http.ResponseWriter, received)
	came   []received // every one, accepted or not
	news   chan struct{}
}

// received is what the endpoint was sent.
type received struct {
	ID, Type string
	Body     document
}

func newHarness(t *testing.T) *harness {
	t.Helper()
	h := &harness{t: t, dir: t.TempDir(), now: noon, news: make(chan struct{}, 1)}
	h.answer = func(w http.ResponseWriter, _ received) { w.WriteHeader(http.StatusAccepted) }

	signer, err := repo.OpenSigner(filepath.Join(h.dir, "key"), repo.Person{Name: "Headgate", Email: "headgate@test"})
	h.must(err)
	h.store, _, err = repo.OpenStore(filepath.Join(h.dir, "repositories"), filepath.Join(h.dir, "hooks"), signer)
	h.must(err)
	t.Cleanup(h.store.Close)
	h.hello, err = h.store.Create(t.Context(), "hello")
	h.must(err)
	h.secret, err = secret.Open(filepath.Join(h.dir, "secrets"), filepath.Join(h.dir, "secrets.key"))
	h.must(err)
	h.must(h.secret.Set(secret.ID{Name: "sign"}, secret.NewValue([]byte(signingKey)), "ada", noon))

	server := httptest.NewServer(http.HandlerFunc(h.receive))
	t.Cleanup(server.Close)
	h.configure("events:\n  ops: {url: \"" + server.URL + "/in?a=b\", secret: sign, allow: [127.0.0.0/8]}\n")
	t.Cleanup(func() {
		if h.stop != nil {
			h.stop()
		}
	})
	return h
}

func (h *harness) must(err error) {
	h.t.Helper()
	if err != nil {
		h.t.Fatal(err)
	}
}

func (h *harness) configure(events string) {
	h.t.Helper()
	c, err := access.Parse("server.yaml", []byte("users:\n  ada: {keys: [\"ssh-ed25519 "+
		"AAAAC3NzaC1lZDI1NTE5AAAAIJhYS4iyJq4qAvw9hO7WYUWrLkWrQ6DfwSv8vvn0M0oF\"]}\n"+
		"groups: {administrators: [ada]}\nrepositories: {hello: {}}\n"+events))
	h.must(err)
	h.config = c
}

// receive is the endpoint: it believes only what is signed.
func (h *harness) receive(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		h.t.Error(err)
	}
	h.mu.Lock()
	now := h.now
	h.mu.Unlock()
	if _, err := forge.Verify(forge.GitLab, []secret.Value{secret.NewValue([]byte(signingKey))}, r.Header, body,
		now); err != nil {
		h.t.Errorf("a delivery that is not signed: %v: %s", r.Header, body)
	}
	if r.Method != http.MethodPost || r.URL.RawQuery != "a=b" || r.Header.Get("Content-Type") != "application/json" {
		h.t.Errorf("%s %s, %s", r.Method, r.URL, r.Header.Get("Content-Type"))
	}

	d := received{ID: r.Header.Get("Webhook-Id")}
	if err := json.Unmarshal(body, &d.Body); err != nil {
		h.t.Error(err)
	}
	d.Type = string(d.Body.Context.Type)
	if d.Body.Context.ID != d.ID {
		h.t.Errorf("the event %s is delivered as %s", d.Body.Context.ID, d.ID)
	}

	h.mu.Lock()
	h.came = append(h.came, d)
	h.answer(w, d)
	h.mu.Unlock()
	select {
	case h.news <- struct{}{}:
	default:
	}
}

// run starts the sender; its stop waits for it.
func (h *harness) run() {
	h.t.Helper()
	h.sender = &Sender{
		Dir:     filepath.Join(h.dir, "events"),
		Store:   h.store,
		Access:  func() *access.Config { return h.config },
		Secrets: h.secret,
		Source:  "https://headgate.example",
		Log:     slog.New(slog.NewTextHandler(h.t.Output(), nil)),
		Now: func() time.Time {
			h.mu.Lock()
			defer h.mu.Unlock()
			return h.now
		},
	}
	ctx, cancel := contextOf(h.t)
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := h.sender.Run(ctx); err != nil {
			h.t.Error(err)
		}
	}()
	h.stop = sync.OnceFunc(func() { cancel(); <-done })
}

// started waits until the feed has its place.
func (h *harness) started() {
	h.t.Helper()
	for deadline := time.Now().Add(lastResort); ; time.Sleep(time.Millisecond) {
		if _, err := h.sender.Status("ops"); err == nil && exists(h.sender.feed.path("hello")) {
			return
		}
		if time.Now().After(deadline) {
			h.t.Fatal("the feed has no place")
		}
	}
}

// until waits for what came to be as the test wants it.
func (h *harness) until(what string, ok func([]received) bool) []received {
	h.t.Helper()
	deadline := time.After(lastResort)
	for {
		h.mu.Lock()
		came := slices.Clone(h.came)
		h.mu.Unlock()
		if ok(came) {
			return came
		}
		select {
		case <-h.news:
		case <-deadline:
			h.t.Fatalf("%s: %v", what, types(came))
		}
	}
}

// settled waits until the outbox says so of every event.
func (h *harness) settled(want delivery.Outcome, n int) {
	h.t.Helper()
	for deadline := time.Now().Add(lastResort); ; time.Sleep(time.Millisecond) {
		entries, err := h.sender.Deliveries("ops", 100)
		h.must(err)
		count := 0
		for _, e := range entries {
			if e.Outcome == want {
				count++
			}
		}
		if count == n {
			return
		}
		if time.Now().After(deadline) {
			h.t.Fatalf("%d of %v, not %d: %v", count, want, n, entries)
		}
	}
}

func (h *harness) pass(d time.Duration) {
	h.mu.Lock()
	h.now = h.now.Add(d)
	h.mu.Unlock()
}

func (h *harness) respond(answer func(http.ResponseWriter, received)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.answer = answer
}

func types(came []received) (all []string) {
	for _, d := range came {
		name := strings.TrimPrefix(strings.TrimPrefix(d.Type, "dev.cdevents."), "dev.cdeventsx.headgate-")
		all = append(all, strings.Join(strings.Split(name, ".")[:2], "."))
	}
	return all
}

// push opens a change.
func (h *harness) push(subject string) change.Change {
	h.t.Helper()
	commit, err := h.hello.WriteCommit(repo.NewCommit{At: noon, Message: subject})
	h.must(err)
	c, err := change.Of(h.hello).Open(h.t.Context(),
		change.Push{Branch: "main", Commit: commit, By: "ada", Key: "SHA256:abc", At: noon})
	h.must(err)
	return c
}

func (h *harness) note(c change.Change, e change.Event) change.Change {
	h.t.Helper()
	e.At, e.Subject = noon, string(e.Kind)
	c, err := change.Of(h.hello).Append(h.t.Context(), c, e)
	h.must(err)
	return c
}

// TestEvents: what happens is told once each, in its order, and what happened
// before anybody asked is not.
func TestEvents(t *testing.T) {
	h := newHarness(t)
	h.push("long ago")
	h.run()
	h.started()

	c := h.push("Say hello")
	tree, err := h.hello.TreeWith(repo.Zero, nil)
	h.must(err)
	c = h.note(c, change.Event{Kind: change.Tested,
		Facts: change.Facts{Tree: tree, Verdict: "v", Log: "l", Candidate: c.Head().Commit}})
	c = h.note(c, change.Event{Kind: change.Landed, Facts: change.Facts{New: c.Head().Commit}})
	made, err := release.Of(h.hello).Make(t.Context(), release.Landing{
		Branch:  "main",
		Commit:  c.Head().Commit,
		Subject: "Say hello",
		Changes: []int{c.Number},
		By:      "ada",
		At:      noon,
		Verdict: verdict.Verdict{Key: "v", Artifacts: []verdict.Artifact{{Name: "app", Digest: "sha256:aa", Size: 3}}},
	})
	h.must(err)
	red := h.push("Break it")
	h.note(red, change.Event{Kind: change.Refused,
		Facts: change.Facts{Cause: change.BuildFailed, Reason: "the build failed", Tree: tree}})

	want := []string{
		"artifact.published", "build.finished", "build.finished", "change.created", "change.created",
		"change.merged", "change.refused", "release.created",
	}
	came := h.until("all events", func(came []received) bool { return len(came) >= len(want) })
	h.settled(delivery.Delivered, len(want))
	got := types(came)
	order := func(a, b string) bool { return slices.Index(got, a) < slices.Index(got, b) }
	if !order("change.created", "build.finished") || !order("build.finished", "change.merged") ||
		!order("change.merged", "release.created") {
		t.Errorf("the order is %v", got)
	}
	slices.Sort(got)
	if !slices.Equal(got, want) {
		t.Errorf("told of %v, want %v", got, want)
	}
	for _, d := range came {
		data := d.Body.Data
		if d.Body.Context.Source != "https://headgate.example" || d.Body.Context.SpecVersion != "0.5.1" ||
			data.Repository != "hello" ||
			!strings.HasPrefix(data.URL, "https://headgate.example/hello/") {
			t.Errorf("%+v", d.Body)
		}
		if d.Type == string(ReleaseCreated) &&
			(d.ID != made.Tag.String() || data.Release != 1 || data.Artifacts[0].Digest != "sha256:aa") {
			t.Errorf("a release is told of as %+v", d.Body)
		}
	}

	// Stopped in between, it goes on where it was; a place that was not written
	// down before a kill makes nothing be told twice.
	h.stop()
	place := h.sender.feed.path("hello")
	before := readFile(t, place)
	h.push("while it was down")
	h.run()
	h.until("one more", func(came []received) bool { return len(came) > len(want) })
	h.settled(delivery.Delivered, len(want)+1)
	h.stop()
	writeFile(t, place, before)
	h.run()
	h.push("the last")
	h.until("the last", func(came []received) bool { return len(came) > len(want)+1 })
	h.settled(delivery.Delivered, len(want)+2)
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.came) != len(want)+2 {
		t.Errorf("%d deliveries of %d events", len(h.came), len(want)+2)
	}
	ids := map[string]bool{}
	for _, d := range h.came {
		ids[d.ID] = true
	}
	if len(ids) != len(h.came) {
		t.Errorf("%d ids of %d deliveries", len(ids), len(h.came))
	}
}

// TestOutboxThatCannotBeOpened: what happens while the outbox of the only endpoint cannot be
// opened is told of once it can.
func TestOutboxThatCannotBeOpened(t *testing.T) {
	h := newHarness(t)
	h.run()
	h.started()
	h.stop()
	outbox := filepath.Join(h.dir, "events", "outbox", "ops")
	h.must(os.Rename(outbox, outbox+".aside"))
	h.must(os.WriteFile(outbox, nil, 0o600))
	h.push("Say hello")
	h.run()
	h.stop() // it has looked once
	h.must(os.Remove(outbox))
	h.must(os.Rename(outbox+".aside", outbox))
	h.run()
	h.until("what happened meanwhile",
		func(came []received) bool { return slices.Equal(types(came), []string{"change.created"}) })
}

// TestRetries: an endpoint that does not answer is left alone for a while, one
// event that it refuses holds up no other, and after a day an event is parked,
// from where it can be replayed.
func TestRetries(t *testing.T) {
	h := newHarness(t)
	h.respond(func(w http.ResponseWriter, _ received) {
		w.Header().Set("Retry-After", "600")
		w.WriteHeader(http.StatusServiceUnavailable)
	})
	h.run()
	h.started()
	c := h.push("first")
	h.until("a try", func(came []received) bool { return len(came) == 1 })
	h.push("second")

	status := h.failing()
	if wait := status.RetryAt.Sub(noon); !strings.Contains(status.Failing, "503") || wait < 10*time.Minute ||
		wait > longestRetry {
		t.Errorf("%+v", status)
	}
	h.mu.Lock()
	if len(h.came) != 1 {
		t.Errorf("it was tried %d times, and asked for ten minutes", len(h.came))
	}
	h.mu.Unlock()

	// One event is refused, the other is not held up.
	refuse := c.Events[0].Commit.String()
	h.respond(func(w http.ResponseWriter, d received) {
		if d.ID == refuse {
			w.WriteHeader(http.StatusUnprocessableEntity)
		}
	})
	h.pass(11 * time.Minute)
	h.sender.Wake()
	h.settled(delivery.Delivered, 1)
	h.settled(delivery.Pending, 1)

	h.pass(25 * time.Hour)
	h.sender.Wake()
	h.settled(delivery.Parked, 1)
	status, err := h.sender.Status("ops")
	h.must(err)
	if status.Parked != 1 || status.Pending != 0 {
		t.Errorf("%+v", status)
	}

	h.respond(func(http.ResponseWriter, received) {})
	if n, err := h.sender.Replay("ops"); n != 1 || err != nil {
		t.Errorf("replayed %d, %v", n, err)
	}
	h.settled(delivery.Delivered, 2)
	if n, err := h.sender.Replay("ops"); n != 0 || err != nil {
		t.Errorf("replayed %d more, %v", n, err)
	}
}

func (h *harness) failing() Status {
	h.t.Helper()
	for deadline := time.Now().Add(lastResort); ; time.Sleep(time.Millisecond) {
		status, err := h.sender.Status("ops")
		h.must(err)
		if status.Failing != "" {
			return status
		}
		if time.Now().After(deadline) {
			h.t.Fatal("it does not fail")
		}
	}
}

// TestAnswers: what each answer means.
func TestAnswers(t *testing.T) {
	t.Parallel()
	for status, want := range map[int]class{
		200: accepted, 204: accepted, 301: unavailable, 308: unavailable, 400: refused, 401: unavailable, 404: unavailable,
		410: gone, 413: refused, 422: refused, 429: unavailable, 500: unavailable, 503: unavailable,
	} {
		header := http.Header{"Retry-After": {"7"}}
		a := read(&http.Response{StatusCode: status, Header: header}, noon)
		if a.class != want || a.after != 7*time.Second || (a.reason() == "") != (want == accepted) {
			t.Errorf("%d is %d, asks for %s: %q", status, a.class, a.after, a.reason())
		}
	}
	header := http.Header{"Retry-After": {noon.Add(time.Minute).Format(http.TimeFormat)}}
	if a := read(&http.Response{StatusCode: 429, Header: header}, noon); a.after != time.Minute {
		t.Errorf("asked for %s", a.after)
	}
	header.Set("Retry-After", "99999999999")
	if a := read(&http.Response{StatusCode: 429, Header: header}, noon); (try{}).next(noon,
		a).at.Sub(noon) > longestRetry {
		t.Errorf("asked for %s", a.after)
	}
}

// FuzzAnswer: whatever an endpoint answers, it is tried again by and by, and not for ever in
// between.
func FuzzAnswer(f *testing.F) {
	for _, after := range []string{"", "0", "-1", "7", "99999999999999999999", "Sat, 28 Nov 9999 12:02:00 GMT", "1e9"} {
		f.Add(503, after)
	}
	f.Fuzz(func(t *testing.T, status int, after string) {
		a := read(&http.Response{StatusCode: status, Header: http.Header{"Retry-After": {after}}}, noon)
		if next := (try{}).next(noon, a).at.Sub(noon); next < shortestRetry || next > longestRetry+longestRetry/10+1 {
			t.Errorf("%d, %q: tried again after %s", status, after, next)
		}
		if (a.class == accepted) != (status/100 == 2) {
			t.Errorf("%d is %d", status, a.class)
		}
	})
}

// TestEndpointsInside: no address inside is spoken to, by number, by name or by
// redirect, unless it is allowed.
func TestEndpointsInside(t *testing.T) {
	t.Parallel()
	for address, want := range map[string]bool{
		"127.0.0.1": true, "127.8.8.8": true, "10.1.2.3": true, "172.16.0.1": true, "192.168.1.1": true,
		"169.254.169.254": true,
		"0.0.0.0":         true, "100.100.100.200": true, "224.0.0.1": true, "255.255.255.255": true, "198.18.0.1": true,
		"::1": true, "::": true, "fe80::1": true, "fd00:ec2::254": true, "ff02::1": true, "::ffff:127.0.0.1": true,
		"64:ff9b::7f00:1": true, "2002:a9fe:a9fe::1": true, "::127.0.0.1": true,
		"8.8.8.8": false, "172.32.0.1": false, "2606:4700::1111": false, "64:ff9b::808:808": false, "2002:808:808::1": false,
	} {
		if got := inside(netip.MustParseAddr(address)); got != want {
			t.Errorf("%s is inside: %v", address, got)
		}
	}

	reached := false
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if reached = true; r.URL.Path == "/redirect" {
			http.Redirect(w, r, "/", http.StatusTemporaryRedirect)
		}
	}))
	defer server.Close()
	send := func(url string, allow ...netip.Prefix) answer {
		client, closeIdle := newClient(access.EventEndpoint{Allow: allow})
		defer closeIdle()
		reached = false
		return post(t.Context(), client, url, []byte(signingKey), "id", noon, nil)
	}
	named := strings.Replace(server.URL, "127.0.0.1", "localhost", 1)
	for _, url := range []string{server.URL, named} {
		if a := send(url); a.class != unavailable || !strings.Contains(a.reason(), "inside") || reached ||
			strings.Contains(a.reason(), "http://") {
			t.Errorf("%s: %q, reached: %v", url, a, reached)
		}
	}
	loopback := []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")}
	if a := send(named, loopback...); a.class != accepted || !reached {
		t.Errorf("%q, reached: %v", a, reached)
	}
	if a := send(server.URL+"/redirect", loopback...); a.class != unavailable ||
		!strings.Contains(a.reason(), "redirect") {
		t.Errorf("a redirect: %q", a)
	}
}

// TestSigningKeys: a key that can be guessed signs nothing.
func TestSigningKeys(t *testing.T) {
	t.Parallel()
	for value, ok := range map[string]bool{
		signingKey: true, signingKey + "\n": true, "whsec_c2hvcnQ=": false, "whsec_%": false, "": false,
		strings.Repeat("k", 23): false, strings.Repeat("k", 24): true,
	} {
		if _, err := keyOf(secret.NewValue([]byte(value))); (err == nil) != ok {
			t.Errorf("%q: %v", value, err)
		}
	}
}

// TestTest: a test tells what the endpoint answered, and why it did not.
func TestTest(t *testing.T) {
	h := newHarness(t)
	h.run()
	h.started()
	if got, err := h.sender.Test(t.Context(), "ops", "ada"); got != "202 Accepted" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
	h.must(h.secret.Remove(secret.ID{Name: "sign"}))
	if _, err := h.sender.Test(t.Context(), "ops", "ada"); err == nil ||
		!strings.Contains(err.Error(), "secret set sign") {
		t.Errorf("without its secret: %v", err)
	}
}

func contextOf(t *testing.T) (context.Context, context.CancelFunc) {
	return context.WithCancel(context.WithoutCancel(t.Context()))
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

func readFile(t *testing.T, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func writeFile(t *testing.T, path string, data []byte) {
	t.Helper()
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}
