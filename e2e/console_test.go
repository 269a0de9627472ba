package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
)

// browser is a person's: Debian's Chromium, with all that its console says.
type browser struct {
	t    *testing.T
	ctx  context.Context
	mu   sync.Mutex // guards said
	said []string
}

func openBrowser(t *testing.T) *browser {
	t.Helper()
	const chromium = "/usr/bin/chromium" // where Debian puts it
	if _, err := os.Stat(chromium); err != nil {
		t.Fatalf("%v\nthe story of the console needs Chromium: apt-get install -y --no-install-recommends chromium", err)
	}
	options := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath(chromium), chromedp.NoSandbox,
		chromedp.DisableGPU, chromedp.UserDataDir(t.TempDir()))
	for _, flag := range []string{"disable-quic", "disable-background-networking", "disable-component-update",
		"disable-sync", "disable-dev-shm-usage"} {
		options = append(options, chromedp.Flag(flag, true))
	}
	limited, stop := context.WithTimeout(context.Background(), 4*waitTimeout)
	t.Cleanup(stop)
	allocated, stop := chromedp.NewExecAllocator(limited, options...)
	t.Cleanup(stop)
	ctx, stop := chromedp.NewContext(allocated)
	b := &browser{t: t, ctx: ctx}
	if err := chromedp.Do(ctx, chromedp.Navigate("about:blank")); err != nil {
		t.Fatalf("start Chromium: %v", err)
	}
	messages, heard := chromedp.Console(ctx), make(chan struct{})
	go func() {
		defer close(heard)
		for m, err := range messages {
			if err != nil {
				return
			}
			b.mu.Lock()
			b.said = append(b.said, fmt.Sprintf("%s (%s)", m, m.URL))
			b.mu.Unlock()
		}
	}()
	t.Cleanup(func() { stop(); <-heard })
	return b
}

func (b *browser) do(actions ...chromedp.Action[chromedp.Void]) {
	b.t.Helper()
	if err := chromedp.Do(b.ctx, actions...); err != nil {
		b.t.Fatalf("%v\nconsole: %s", err, b.console())
	}
}

func (b *browser) console() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return strings.Join(b.said, "\n")
}

// sees waits until an expression of the page's script is true, across
// navigations.
func (b *browser) sees(js string) {
	b.t.Helper()
	for deadline := time.Now().Add(waitTimeout); ; time.Sleep(20 * time.Millisecond) {
		ctx, cancel := context.WithTimeout(b.ctx, 5*time.Second)
		ok, err := chromedp.Run(ctx, chromedp.Evaluate[bool]("!!("+js+")"))
		cancel()
		if ok && err == nil {
			return
		}
		if time.Now().After(deadline) {
			ctx, cancel := context.WithTimeout(b.ctx, 5*time.Second)
			defer cancel()
			text, _ := chromedp.Run(ctx, chromedp.Evaluate[string]("location.href + '\\n' + document.body.innerText"))
			b.t.Fatalf("never came true: %s (%v)\nconsole: %s\npage: %s", js, err, b.console(), text)
		}
	}
}

// TestConsole is the way of somebody who only has a browser open: signed in by
// ssh, they read a build along while it runs, see it land and reach staging, and
// approve it for production, without loading a page again for news.
func TestConsole(t *testing.T) {
	t.Parallel()
	h := served(t, raced)
	if err := h.addUser("jun", "release"); err != nil {
		t.Fatal(err)
	}
	must := func(dir, name string, args ...string) string {
		t.Helper()
		out, errs, err := within(waitTimeout, dir, h.env(), name, args...)
		if err != nil {
			t.Fatalf("%s %v: %v\n%s%s\n%s", name, args, err, out, errs, h.tail())
		}
		return out
	}
	ssh := func(user string, words ...string) string {
		t.Helper()
		return must(h.dir, "ssh", append(append(h.sshArgs(user), "127.0.0.1"), words...)...)
	}
	ssh("ada", "repo", "create", "hello")
	work := filepath.Join(h.dir, "hello")
	if err := h.sample(work, "hello"); err != nil {
		t.Fatal(err)
	}
	buildspec := "version: 0.2\nphases:\n  build:\n    commands:\n      - echo before; " + h.held() +
		" || true; sh test.sh\nartifacts:\n  files: [serve.pl, words.txt]\n"
	if err := os.WriteFile(filepath.Join(work, "buildspec.yml"), []byte(buildspec), 0o644); err != nil {
		t.Fatal(err)
	}
	must(work, "git", "commit", "-qam", "Say hello when told to")
	must(work, "git", "push", "-q", "-o", "nowait", "origin", "main")

	// A link to the change leads through the sign-in and back to it.
	b := openBrowser(t)
	b.do(chromedp.EmulateViewport(1280, 900), chromedp.Navigate(h.HTTP+"/hello/changes/1"))
	b.sees(`location.pathname === "/sign-in" && document.activeElement.id === "code"`)
	var login struct{ Code string }
	if err := json.Unmarshal([]byte(ssh("jun", "login", "--json")), &login); err != nil {
		t.Fatal(err)
	}
	b.do(chromedp.SendKeys("#code", login.Code), chromedp.Click("button.do.main"))
	b.sees(`location.pathname === "/hello/changes/1"`)

	// The log grows in the open page, and the answer comes into it.
	b.sees(`document.querySelector("#change-log").innerText.includes("before")`)
	b.sees(`(window.sameFromHere = true) && !document.querySelector("#change-log").innerText.includes("testing")`)
	if err := h.letGo(); err != nil {
		t.Fatal(err)
	}
	b.sees(`document.querySelector("#change-log").textContent.includes("testing")`)
	b.sees(`document.querySelector("#change-verdict h2").textContent.startsWith("Landed as")`)
	b.sees(`document.title.startsWith("Landed: 1") && window.sameFromHere`)

	// Production's page says that it waits; from there to the promotion.
	b.do(chromedp.Navigate(h.console() + "/hello/env/production"))
	b.sees(`document.querySelector("main a[href='/hello/promote/production']")`)
	b.do(chromedp.Click("main a[href='/hello/promote/production']"))
	b.sees(`document.querySelector("h1").textContent.includes("Promote release 1 to production")`)
	b.sees(
		`document.querySelector("#promo-diff").innerText.includes("compose.yaml") && document.querySelector("#promo-gate li.open")`)
	b.do(chromedp.SendKeys("#why", "seen in staging"), chromedp.Click("#decide button"))
	b.sees(`document.querySelector(".done")?.textContent.includes("approved")`)
	b.do(chromedp.Navigate(h.console() + "/hello/env/production"))
	b.sees(`/^healthy/i.test(document.querySelector("#env-sides .st.green")?.innerText)`)

	// What the page shows is what is there, and Git says who and why.
	var production struct {
		State string
		URLs  []string
	}
	if err := json.Unmarshal([]byte(ssh("jun", "env", "show", "hello", "production", "--json")), &production); err != nil {
		t.Fatal(err)
	}
	if production.State != "healthy" || len(production.URLs) != 1 {
		t.Fatalf("production is %+v", production)
	}
	if answer, err := get(production.URLs[0]); err != nil || !strings.Contains(answer, "in production, release 1") {
		t.Errorf("production answers %q (%v)", answer, err)
	}
	must(work, "git", "fetch", "-q", "origin")
	if message := must(work, "git", "log", "-1", "--format=%B", "origin/env/production"); !strings.Contains(message,
		"Approved-by: jun") || !strings.Contains(message, "seen in staging") {
		t.Errorf("the promotion says\n%s", message)
	}

	// What else listens on this machine is sent nothing of the session, by whichever
	// name it is called: cookies know no ports.
	var mu sync.Mutex
	calls, sent := 0, ""
	app := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		calls++
		sent += strings.Join(r.Header["Cookie"], "; ")
	}))
	defer app.Close()
	b.do(chromedp.Navigate(app.URL), chromedp.Navigate(strings.Replace(app.URL, "127.0.0.1", "localhost", 1)))
	mu.Lock()
	if calls < 2 || sent != "" {
		t.Errorf("an application was called %d times, and sent %q", calls, sent)
	}
	mu.Unlock()

	// Every page holds on a phone, and the browser has nothing to complain of.
	b.do(chromedp.EmulateViewport(360, 740))
	for _, page := range []string{"/", "/hello", "/hello/queue", "/hello/changes/1", "/hello/env", "/hello/env/production",
		"/hello/releases/1"} {
		b.do(chromedp.Navigate(h.console() + page))
		b.sees(fmt.Sprintf("location.pathname === %q && performance.getEntriesByType('navigation')[0].responseStatus === 200",
			page))
		if wide, err := chromedp.Run(b.ctx, chromedp.Evaluate[int]("document.documentElement.scrollWidth")); err != nil ||
			wide > 360 {
			t.Errorf("%s is %d wide on a phone of 360 (%v)", page, wide, err)
		}
	}
	if said := b.console(); said != "" {
		t.Errorf("the browser's console: %s", said)
	}
}
