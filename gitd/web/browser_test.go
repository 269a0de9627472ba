package web

import (
	"context"
	"fmt"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/chromedp"
)

// chromium is where Debian puts it.
const chromium = "/usr/bin/chromium"

// waitTimeout is how long a condition may take to come true before a test gives it
// up: far longer than on the slowest machine, for a condition that comes true
// costs none of it.
const waitTimeout = 5 * time.Minute

// tab is a page of a real browser that notes what its console says.
type tab struct {
	t   *testing.T
	ctx context.Context
	url string

	mu   sync.Mutex // guards said
	said []string
}

// shared is the browser of all tests, once one wants it, and what ends it.
var shared struct {
	once sync.Once
	ctx  context.Context
	err  error
	stop func()
}

func TestMain(m *testing.M) {
	code := m.Run()
	if shared.stop != nil {
		shared.stop()
	}
	os.Exit(code)
}

// launch returns the browser, which keeps nothing from one test to the next but
// what open forgets: origins differ by their ports.
func launch(t *testing.T) context.Context {
	t.Helper()
	shared.once.Do(func() { shared.ctx, shared.stop, shared.err = startChromium() })
	if shared.err != nil {
		t.Fatal(shared.err)
	}
	return shared.ctx
}

func startChromium() (_ context.Context, stop func(), err error) {
	if _, err := os.Stat(chromium); err != nil {
		return nil, nil, fmt.Errorf(
			"%w\nthe browser tests need Chromium: apt-get install -y --no-install-recommends chromium", err)
	}
	profile, err := os.MkdirTemp("", "headgate-chromium-")
	if err != nil {
		return nil, nil, err
	}
	opts := append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.WSURLReadTimeout(waitTimeout), chromedp.ExecPath(chromium), chromedp.NoSandbox, chromedp.DisableGPU,
		chromedp.UserDataDir(profile),
		chromedp.Flag("disable-quic", true), chromedp.Flag("no-first-run", true),
		chromedp.Flag("disable-background-networking", true),
		chromedp.Flag("disable-component-update", true), chromedp.Flag("disable-sync",
			true), chromedp.Flag("disable-dev-shm-usage", true))
	alloc, kill := chromedp.NewExecAllocator(context.Background(), opts...)
	ctx, cancel := chromedp.NewContext(alloc)
	stop = func() {
		cancel()
		kill()
		os.RemoveAll(profile)
	}
	if err := chromedp.Do(ctx, chromedp.Navigate("about:blank")); err != nil {
		stop()
		return nil, nil, fmt.Errorf("start chromium: %w", err)
	}
	return ctx, stop, nil
}

// open makes a tab on a console, signed in as user ("" for nobody).
func open(t *testing.T, browser context.Context, s *Server, user string) *tab {
	t.Helper()
	srv := httptest.NewUnstartedServer(s.Handler())
	srv.Start()
	ctx, cancel := chromedp.NewContext(browser)
	b := &tab{t: t, url: srv.URL}
	t.Cleanup(func() {
		cancel()
		srv.CloseClientConnections()
		srv.Close()
	})
	if err := chromedp.Do(ctx, chromedp.Navigate("about:blank")); err != nil {
		t.Fatal(err)
	}
	messages := chromedp.Console(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for m, err := range messages {
			if err != nil {
				return
			}
			b.mu.Lock()
			b.said = append(b.said, fmt.Sprintf("%s (%s %s)", m, m.Source, m.URL))
			b.mu.Unlock()
		}
	}()
	t.Cleanup(func() { cancel(); <-done })
	if _, err := chromedp.Call(ctx, network.ClearBrowserCookies, cdp.Empty{}); err != nil { // of other tabs: cookies know no ports
		t.Fatal(err)
	}
	if user != "" {
		c := cookieFor(s, user)
		if _, err := chromedp.Call(ctx, network.SetCookie,
			network.SetCookieParams{Name: c.Name, Value: c.Value, URL: srv.URL}); err != nil {
			t.Fatal(err)
		}
	}
	b.ctx = ctx
	return b
}

func (b *tab) do(actions ...chromedp.Action[chromedp.Void]) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, waitTimeout)
	defer cancel()
	if err := chromedp.Do(ctx, actions...); err != nil {
		b.t.Fatal(err)
	}
}

func (b *tab) console() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return strings.Join(b.said, "\n")
}

func eval[T any](b *tab, js string) T {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, waitTimeout)
	defer cancel()
	v, err := chromedp.Run(ctx, chromedp.Evaluate[T](js))
	if err != nil {
		b.t.Fatalf("evaluate %s: %v", js, err)
	}
	return v
}

// until waits for a condition of the page, across navigations.
func (b *tab) until(js string) {
	b.t.Helper()
	deadline := time.Now().Add(waitTimeout)
	for {
		ctx, cancel := context.WithTimeout(b.ctx, 5*time.Second) // a question that a navigation swallowed is asked again
		ok, err := chromedp.Run(ctx, chromedp.Evaluate[bool]("!!("+js+")"))
		cancel()
		if ok && err == nil {
			return
		}
		if time.Now().After(deadline) {
			b.t.Fatalf("never came true: %s (%v)\nconsole: %s", js, err, b.console())
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// scheme chooses light or dark, and asks for no motion.
func (b *tab) scheme(name string) {
	b.t.Helper()
	features := []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: name},
		{Name: "prefers-reduced-motion", Value: "reduce"}}
	if _, err := chromedp.Call(b.ctx, emulation.SetEmulatedMedia,
		emulation.SetEmulatedMediaParams{Features: features}); err != nil {
		b.t.Fatal(err)
	}
}

// TestShots takes pictures of every page for people to look at, into the
// folder HEADGATE_SHOTS names.
func TestShots(t *testing.T) {
	dir := os.Getenv("HEADGATE_SHOTS")
	if dir == "" {
		t.Skip("takes pictures only when HEADGATE_SHOTS names a folder")
	}
	only := os.Getenv("HEADGATE_SHOTS_OF")
	browser := launch(t)
	full := open(t, browser, console(fullBackend()), "ada")
	for _, path := range append(pagesOf, "/checkot", "/sign-in?code=ABCD-1234") {
		if only != "" && !strings.Contains(path, only) {
			continue
		}
		name := strings.NewReplacer("/", "_", "?", "-", "=", "-").Replace(strings.Trim(path, "/"))
		for _, scheme := range []string{"light", "dark"} {
			full.scheme(scheme)
			for _, width := range []int64{1400, 390} {
				height := int64(900)
				full.do(chromedp.EmulateViewport(width, height), chromedp.Navigate(full.url+path))
				png, err := chromedp.Run(full.ctx, chromedp.FullScreenshot(100))
				if err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("%s.%s.%d.png", name, scheme, width)), png,
					0o644); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	if said := full.console(); said != "" {
		t.Log(said)
	}
}
