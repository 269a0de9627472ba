package bench

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/headgate-cd/headgate/e2e/forges"
)

// What comes at once.
const (
	manyDeliveries = 10_000
	comeWithin     = 20 * time.Second
	senders        = 64
)

// followed is a forge that a server follows, with when it was called.
type followed struct {
	*harness
	forge  *forges.Forge
	secret string // of its webhook
	client *http.Client
	clone  *clone

	mu    sync.Mutex
	calls []called
}

type called struct {
	at   time.Time
	what string
}

func (w *harness) follow(b *testing.B) *followed {
	b.Helper()
	const token = "fetch-with-this"
	forge, err := forges.New("github", path(w.dir, "forge"), token)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(forge.Close)
	f := &followed{
		harness: w,
		forge:   forge,
		client:  &http.Client{Timeout: waitTimeout, Transport: &http.Transport{MaxIdleConnsPerHost: senders}},
	}
	at, err := url.Parse(forge.URL)
	if err != nil {
		b.Fatal(err)
	}
	proxy := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: at.Scheme, Host: at.Host})
	front := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		f.mu.Lock()
		f.calls = append(f.calls, called{time.Now(), r.Method + " " + r.URL.Path})
		f.mu.Unlock()
		proxy.ServeHTTP(rw, r)
	}))
	b.Cleanup(front.Close)

	f.clone = w.clone(b, "there", forge.Push)
	f.clone.git(b, "push", "-q", "origin", "HEAD:main")
	connect := exec.Command(
		"ssh",
		w.login(w.SSH, "forge", "connect", "github", forges.Name, "--name", "hub", "--mirror", "copy",
			"--url", front.URL+"/"+forges.Name+".git", "--token")...)
	connect.Env, connect.Stdin = w.env(), strings.NewReader(token)
	if out, err := connect.CombinedOutput(); err != nil {
		b.Fatalf("forge connect: %v\n%s", err, out)
	}
	for _, secret := range forge.Hooks() {
		f.secret = secret
	}
	return f
}

// first is when a call that contains a text came first, after a time.
func (f *followed) first(b *testing.B, what string, after time.Time) (at time.Time) {
	b.Helper()
	f.until(b, nil, "the question "+what, func() bool {
		f.mu.Lock()
		defer f.mu.Unlock()
		for _, c := range f.calls {
			if c.at.After(after) && strings.Contains(c.what, what) {
				at = c.at
				return true
			}
		}
		return false
	})
	return at
}

// payload is about as long as one of GitHub.
var payload = fmt.Appendf(nil, `{"ref": "refs/heads/main", "repository": {"full_name": %q}, "more": %q}`, forges.Name,
	strings.Repeat("x", 6000))

// post posts a webhook of a push.
func (f *followed) post(id string) (status int, retryAfter string, err error) {
	m := hmac.New(sha256.New, []byte(f.secret))
	m.Write(payload)
	r, err := http.NewRequest(
		http.MethodPost,
		strings.Replace(f.HTTP, "console.localhost:", "127.0.0.1:", 1)+"/webhooks/hub",
		bytes.NewReader(payload),
	)
	if err != nil {
		return 0, "", err
	}
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("X-GitHub-Event", "push")
	r.Header.Set("X-GitHub-Delivery", id)
	r.Header.Set("X-Hub-Signature-256", "sha256="+hex.EncodeToString(m.Sum(nil)))
	resp, err := f.client.Do(r)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body)
	return resp.StatusCode, resp.Header.Get("Retry-After"), err
}

// kept is how many deliveries the server has.
func (f *followed) kept(b *testing.B) int {
	b.Helper()
	var shown struct {
		Kept int `json:"kept"`
	}
	text := f.run(b, f.dir, "ssh", f.login(f.SSH, "forge", "show", "hub", "--json")...)
	if err := json.Unmarshal([]byte(text), &shown); err != nil {
		b.Fatalf("forge show: %v\n%s", err, text)
	}
	return shown.Kept
}

// BenchmarkWebhooks: ten thousand deliveries in twenty seconds, and what a push to the gate
// takes meanwhile; every one that was taken is there after a kill. Then how soon a hint is
// followed, and a verdict told of.
func BenchmarkWebhooks(b *testing.B) {
	w := newHarness(b)
	w.serve(b, buildspec("true"))
	ours := w.headgate(b, "ours")
	f := w.follow(b)
	commits := 0
	push := func() time.Duration {
		commits++
		ours.commit(b, commits)
		return ours.push(b, "HEAD:main").took
	}
	for range warm {
		push()
	}

	// Half of the quiet pushes come afterwards: the more there is in a repository, the longer
	// they take.
	pushes := newSamples(2)
	quiet := min(20, *runs)
	for range quiet / 2 {
		pushes.add(0, push())
	}
	var mu sync.Mutex
	answers := sample{}
	statuses := map[int]int{}
	wrong := 0
	var sending sync.WaitGroup
	next := make(chan int)
	for range senders {
		sending.Go(func() {
			for i := range next {
				began := time.Now()
				status, after, err := f.post(fmt.Sprint("many-", i))
				took := time.Since(began)
				mu.Lock()
				answers = append(answers, took)
				statuses[status]++
				if err != nil || status/100 != 2 && (status != http.StatusTooManyRequests || after == "") {
					wrong++
				}
				mu.Unlock()
			}
		})
	}
	began := time.Now()
	sending.Go(func() {
		for i := range manyDeliveries {
			time.Sleep(time.Until(began.Add(comeWithin * time.Duration(i) / manyDeliveries)))
			next <- i
		}
		close(next)
	})
	for time.Since(began) < comeWithin {
		pushes.add(1, push())
	}
	sending.Wait()
	took := time.Since(began)
	if err := syscall.Kill(w.server, syscall.SIGKILL); err != nil {
		b.Fatal(err)
	}
	w.stop()
	w.launch(b)
	kept, taken := f.kept(b), statuses[http.StatusAccepted]
	for range warm {
		push()
	}
	for range quiet / 2 {
		pushes.add(0, push())
	}

	hints := sample{}
	for i := range max(10, min(20, *runs)) {
		f.clone.commit(b, i)
		f.clone.git(b, "push", "-q", "origin", "HEAD:refs/heads/side")
		at := time.Now()
		if status, _, err := f.post(fmt.Sprint("hint-", i)); err != nil || status != http.StatusAccepted {
			b.Fatalf("a hint: %d, %v", status, err)
		}
		hints = append(hints, f.first(b, "/info/refs", at).Sub(at))
		f.until(b, nil, "the mirror", func() bool {
			return strings.Contains(
				w.run(b, w.dir, "git", "ls-remote", "ssh://"+w.SSH+"/copy", "refs/heads/side"),
				f.tip(b),
			)
		})
	}

	told := sample{}
	for i := range min(5, *runs) {
		f.clone.commit(b, 1000+i)
		f.clone.git(b, "push", "-q", "origin", "HEAD:main")
		tip := f.tip(b)
		if status, _, err := f.post(fmt.Sprint("tip-", i)); err != nil || status != http.StatusAccepted {
			b.Fatalf("a hint: %d, %v", status, err)
		}
		f.until(b, nil, "the status", func() bool {
			all := f.forge.Statuses(tip)
			return len(all) > 0 && all[len(all)-1].State == "success"
		})
		f.mu.Lock()
		var at time.Time
		for _, c := range f.calls {
			if strings.HasSuffix(c.what, "/statuses/"+tip) {
				at = c.at // the last of them
			}
		}
		f.mu.Unlock()
		told = append(told, at.Sub(w.logged(b, "built a tip that came from the forge")))
	}

	t := newTable(fmt.Sprintf("%d webhooks in %s", manyDeliveries, comeWithin))
	t.row("an answer", answers)
	t.row("push to the gate, quiet", pushes.of(0))
	t.row("push to the gate, meanwhile", pushes.of(1))
	ratio := float64(pushes.of(1).p(50)) / float64(pushes.of(0).p(50))
	t.ratio("meanwhile / quiet", ratio, 1.2)
	t.goal("from a webhook to the forge being asked", hints, 95, 50*time.Millisecond)
	t.goal("from a verdict to its status at the forge", told, 95, time.Second)
	t.print()
	fmt.Printf(
		"  answered in %.1f s: %v; %d were neither taken nor told when to come again (goal: none): %s\n",
		took.Seconds(),
		statuses,
		wrong,
		met(wrong == 0),
	)
	fmt.Printf("  taken: %d, there after a kill: %d (goal: all): %s\n", taken, kept, met(kept >= taken))
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(ratio, "push-x")
	b.ReportMetric(ms(hints.p(95)), "hint-p95-ms")
	b.ReportMetric(ms(told.p(95)), "status-p95-ms")
}

// tip is the commit that the clone of the forge is at.
func (f *followed) tip(b *testing.B) string {
	b.Helper()
	return strings.TrimSpace(f.run(b, f.clone.dir, "git", "rev-parse", "HEAD"))
}
