package forge

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/headgate-cd/headgate/gitd/secret"
	"github.com/headgate-cd/headgate/hooks/delivery"
)

type receiverTest struct {
	url     string
	inbox   *delivery.Log
	arrived atomic.Int64
	log     *lockedBuffer
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func openInbox(t *testing.T, dir string) *delivery.Log {
	t.Helper()
	l, err := delivery.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
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

// newReceiver serves connections "hub" (GitHub, owner/name), "lab" and "tea".
func newReceiver(t *testing.T, bodyTimeout time.Duration) *receiverTest {
	t.Helper()
	rt := &receiverTest{inbox: openInbox(t, filepath.Join(t.TempDir(), "inbox")), log: &lockedBuffer{}}
	kinds := map[string]Kind{"hub": GitHub, "lab": GitLab, "tea": Gitea}
	r := &Receiver{
		Connection: func(name string) (Connection, bool) {
			k, ok := kinds[name]
			return Connection{Name: name, Kind: k, Repository: "owner/name",
				Secrets: []secret.Value{secret.NewValue([]byte("new")), secret.NewValue([]byte("old"))}}, ok
		},
		Inbox:   func(string) (*delivery.Log, error) { return rt.inbox, nil },
		Arrived: func(string) { rt.arrived.Add(1) },
		Log:     slog.New(slog.NewTextHandler(rt.log, nil)),

		BodyTimeout: bodyTimeout,
	}
	mux := http.NewServeMux()
	mux.Handle("/webhooks/{connection}", r)
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	rt.url = server.URL + "/webhooks/"
	return rt
}

const pushBody = `{"ref": "refs/heads/main", "repository": {"full_name": "Owner/Name"}}`

// post sends body to a connection; headers are "Name: value".
func (rt *receiverTest) post(t *testing.T, connection, body string, headers ...string) (int, answer) {
	t.Helper()
	req, err := http.NewRequest(http.MethodPost, rt.url+connection, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		req.Header.Set(name, value)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	var a answer
	if err := json.NewDecoder(res.Body).Decode(&a); err != nil {
		t.Fatalf("the answer is no JSON: %v", err)
	}
	if (res.StatusCode == 429 || res.StatusCode == 503) && res.Header.Get("Retry-After") == "" {
		t.Errorf("%d without Retry-After", res.StatusCode)
	}
	return res.StatusCode, a
}

func signed(secret, body string) string {
	return "X-Hub-Signature-256: sha256=" + hex.EncodeToString(sum([]byte(secret), []byte(body)))
}

func TestReceiver(t *testing.T) {
	t.Parallel()
	rt := newReceiver(t, 5*time.Minute)
	elsewhere := `{"repository": {"full_name": "owner/other"}}`
	for _, tt := range []struct {
		name, connection, body string
		headers                []string
		want                   int
	}{
		{"signed", "hub", pushBody, []string{signed("new", pushBody), "X-GitHub-Delivery: 1", "X-GitHub-Event: push"}, 202},
		{"again", "hub", pushBody, []string{signed("new", pushBody), "X-GitHub-Delivery: 1", "X-GitHub-Event: push"}, 200},
		{"with the older secret", "hub", pushBody, []string{signed("old", pushBody), "X-GitHub-Delivery: 2"}, 202},
		{"unsigned", "hub", pushBody, nil, 401},
		{"with another secret", "hub", pushBody, []string{signed("hunter2", pushBody)}, 401},
		{"of no interest", "hub", `{"action":"created"}`,
			[]string{signed("new", `{"action":"created"}`), "X-GitHub-Event: star", "X-GitHub-Delivery: 3"}, 202},
		{"of an event that nobody knows", "hub", `{}`,
			[]string{signed("new", `{}`), "X-GitHub-Event: brand_new", "X-GitHub-Delivery: 4"}, 202},
		{"of another repository", "hub", elsewhere, []string{signed("new", elsewhere)}, 403},
		{"no JSON", "hub", `ref=main`, []string{signed("new", `ref=main`)}, 400},
		{"a form", "hub", pushBody, []string{signed("new", pushBody), "Content-Type: application/x-www-form-urlencoded"},
			415},
		{"compressed", "hub", pushBody, []string{signed("new", pushBody), "Content-Encoding: gzip"}, 415},
		{"no connection", "nowhere", pushBody, []string{signed("new", pushBody)}, 404},
		{"a long name", strings.Repeat("x", 5000), pushBody, nil, 404},
		{"GitLab", "lab", `{"project":{"path_with_namespace":"owner/name"}}`, []string{"X-Gitlab-Token: new"}, 202},
		{"GitLab, wrong token", "lab", `{}`, []string{"X-Gitlab-Token: hunter2"}, 401},
		{"Gitea signed as GitHub", "tea", pushBody, []string{signed("new", pushBody)}, 401},
	} {
		code, a := rt.post(t, tt.connection, tt.body, tt.headers...)
		if code != tt.want || a.Message == "" {
			t.Errorf("%s: %d %+v, want %d", tt.name, code, a, tt.want)
		}
		if (code == 200 || code == 202) != (a.Event != "") {
			t.Errorf("%s: %d with event %q", tt.name, code, a.Event)
		}
	}
	if got := rt.arrived.Load(); got != 5 {
		t.Errorf("%d arrivals, want 5", got)
	}
	if s := rt.inbox.Stats(); s.Kept != 5 {
		t.Errorf("the inbox keeps %d, want 5", s.Kept)
	}
	if log := rt.log.String(); strings.Contains(log, "hunter2") {
		t.Errorf("the log tells what was presented:\n%s", log)
	}
	res, err := http.Get(rt.url + "hub")
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	if res.StatusCode != 405 || res.Header.Get("Allow") != "POST" {
		t.Errorf("GET: %d, Allow %q", res.StatusCode, res.Header.Get("Allow"))
	}
}

func TestReceiverBodyTooBig(t *testing.T) {
	t.Parallel()
	rt := newReceiver(t, 5*time.Minute)
	for _, chunked := range []bool{false, true} {
		var body io.Reader = io.LimitReader(zeros{}, MaxBody+1)
		req, err := http.NewRequest(http.MethodPost, rt.url+"hub", body)
		if err != nil {
			t.Fatal(err)
		}
		if !chunked {
			req.ContentLength = MaxBody + 1
		}
		req.Header.Set("Content-Type", "application/json")
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			continue // the connection was closed while it was still being sent: right too
		}
		res.Body.Close()
		if res.StatusCode != http.StatusRequestEntityTooLarge {
			t.Errorf("chunked %v: %d, want 413", chunked, res.StatusCode)
		}
	}
	if s := rt.inbox.Stats(); s.Kept != 0 {
		t.Errorf("the inbox keeps %d", s.Kept)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// A sender that never ends is cut off, and does not take the others' place.
func TestReceiverSlowSender(t *testing.T) {
	t.Parallel()
	rt := newReceiver(t, 10*time.Second) // in which a loaded machine reads a good request
	address := strings.TrimSuffix(strings.TrimPrefix(rt.url, "http://"), "/webhooks/")
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(
		conn, "POST /webhooks/hub HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n{")
	if code, _ := rt.post(t, "hub", pushBody, signed("new", pushBody)); code != 202 {
		t.Errorf("beside a slow sender: %d", code)
	}
	conn.SetReadDeadline(time.Now().Add(time.Minute))
	answered, err := io.ReadAll(conn)
	if err != nil || !strings.Contains(string(answered), " 408 ") {
		t.Errorf("a slow sender reads %q, %v; want 408", answered, err)
	}
}

func TestReceiverRate(t *testing.T) {
	t.Parallel()
	inbox := openInbox(t, t.TempDir())
	now := time.Unix(1_790_000_000, 0)
	r := &Receiver{
		Connection: func(name string) (Connection, bool) {
			return Connection{Name: name, Kind: GitLab, Repository: "o/n",
				Secrets: []secret.Value{secret.NewValue([]byte("s"))}}, true
		},
		Inbox:   func(string) (*delivery.Log, error) { return inbox, nil },
		Arrived: func(string) {},
		Log:     slog.New(slog.DiscardHandler),
		Now:     func() time.Time { return now }, // stands still: only the burst is allowed
	}
	post := func(n int, token string) map[int]int {
		codes := map[int]int{}
		for range n {
			req := httptest.NewRequest(http.MethodPost, "/webhooks/lab", strings.NewReader("{}"))
			req.SetPathValue("connection", "lab")
			req.Header.Set("Content-Type", "application/json")
			req.Header.Set("X-Gitlab-Token", token)
			w := httptest.NewRecorder()
			r.ServeHTTP(w, req)
			codes[w.Code]++
			if w.Code == http.StatusTooManyRequests && w.Header().Get("Retry-After") == "" {
				t.Error("429 without Retry-After")
			}
		}
		return codes
	}
	const wrong = burst - takenAtOnce - 5
	if codes := post(wrong, "wrong"); codes[401] != wrong {
		t.Errorf("answers %v, want %d 401", codes, wrong)
	}
	// Who cannot sign has taken nobody's place.
	if codes := post(takenAtOnce+5, "s"); codes[200]+codes[202] != takenAtOnce || codes[429] != 5 {
		t.Errorf("answers %v, want %d of 2xx and 5 429", codes, takenAtOnce)
	}
	if codes := post(10, "wrong"); codes[429] != 10 {
		t.Errorf("answers %v, want 10 429", codes)
	}

	// What could not be taken is not read.
	now = now.Add(5 * time.Second)
	if codes := post(takenASecond*5, "s"); codes[200]+codes[202] != takenASecond*5 {
		t.Errorf("answers %v, want %d of 2xx", codes, takenASecond*5)
	}
	unread := strings.NewReader("{}")
	req := httptest.NewRequest(http.MethodPost, "/webhooks/lab", unread)
	req.SetPathValue("connection", "lab")
	req.Header.Set("Content-Type", "application/json")
	w := httptest.NewRecorder()
	if r.ServeHTTP(w, req); w.Code != http.StatusTooManyRequests || unread.Len() != 2 {
		t.Errorf("%d, and %d bytes are unread", w.Code, unread.Len())
	}
}

// What is being read at once is bounded, over all senders, and given back.
func TestReceiverBytesInFlight(t *testing.T) {
	t.Parallel()
	inbox := openInbox(t, t.TempDir())
	r := &Receiver{
		Connection: func(name string) (Connection, bool) {
			return Connection{Name: name, Kind: GitLab, Repository: "o/n",
				Secrets: []secret.Value{secret.NewValue([]byte("s"))}}, true
		},
		Inbox:   func(string) (*delivery.Log, error) { return inbox, nil },
		Arrived: func(string) {},
		Log:     slog.New(slog.DiscardHandler),
	}
	r.once.Do(func() { r.inFlight = semaphore.NewWeighted(2000) })
	post := func(size int) *httptest.ResponseRecorder {
		body := `{"x": "` + strings.Repeat("x", size) + `"}`
		req := httptest.NewRequest(http.MethodPost, "/webhooks/lab", strings.NewReader(body))
		req.SetPathValue("connection", "lab")
		req.Header.Set("Content-Type", "application/json")
		req.Header.Set("X-Gitlab-Token", "s")
		w := httptest.NewRecorder()
		r.ServeHTTP(w, req)
		return w
	}
	for range 3 {
		if w := post(1500); w.Code/100 != 2 {
			t.Errorf("one that has room: %d %s", w.Code, w.Body)
		}
		if w := post(3000); w.Code != http.StatusTooManyRequests || w.Header().Get("Retry-After") == "" {
			t.Errorf("one that has none: %d %s", w.Code, w.Body)
		}
	}
}
