package web

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"html"
	"io"
	"iter"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"reflect"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/chromedp"
	"go.uber.org/goleak"

	"github.com/headgate-cd/headgate/gitd/access"
	"github.com/headgate-cd/headgate/gitd/show"
)

// event is one event of a stream.
type event struct {
	name string
	data map[string]any
}

// listen opens a stream and hands out its events; the channel closes when the
// stream ends.
func (b *browser) listen(ctx context.Context, path string) <-chan event {
	b.t.Helper()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, b.url+path, nil)
	if err != nil {
		b.t.Fatal(err)
	}
	req.AddCookie(b.cookie)
	res, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		b.t.Fatal(err)
	}
	if res.StatusCode != 200 || !strings.HasPrefix(res.Header.Get("Content-Type"), "text/event-stream") {
		body, _ := io.ReadAll(res.Body)
		res.Body.Close()
		b.t.Fatalf("%s: %s %s", path, res.Status, body)
	}
	events := make(chan event)
	go func() {
		defer close(events)
		defer res.Body.Close()
		var e event
		lines := bufio.NewScanner(res.Body)
		lines.Buffer(nil, 1<<20)
		for lines.Scan() {
			switch line := lines.Text(); {
			case strings.HasPrefix(line, "event: "):
				e.name = line[7:]
			case strings.HasPrefix(line, "data: "):
				if err := json.Unmarshal([]byte(line[6:]), &e.data); err != nil {
					return
				}
			case line == "" && e.name != "":
				select {
				case events <- e:
				case <-ctx.Done():
					return
				}
				e = event{}
			}
		}
	}()
	return events
}

// await is the first event that is wanted.
func await(t *testing.T, events <-chan event, what string, wanted func(event) bool) event {
	t.Helper()
	late := time.After(waitTimeout)
	for {
		select {
		case e, ok := <-events:
			if !ok {
				t.Fatalf("the stream ended before %s", what)
			}
			if wanted(e) {
				return e
			}
		case <-late:
			t.Fatalf("never came: %s", what)
		}
	}
}

func named(name, id, has string) func(event) bool {
	return func(e event) bool {
		html, _ := e.data["html"].(string)
		got, _ := e.data["id"].(string)
		return e.name == name && (id == "" || got == id) && strings.Contains(html, has)
	}
}

// address is where the page says its stream is.
func (b *browser) address(path string) string {
	b.t.Helper()
	_, rest, ok := strings.Cut(b.get(path).body, `data-live="`)
	if !ok {
		b.t.Fatalf("%s is not live", path)
	}
	address, _, _ := strings.Cut(rest, `"`)
	return strings.ReplaceAll(address, "&amp;", "&")
}

func TestStreamSendsWhatChanged(t *testing.T) {
	h := fullBackend()
	b := signedIn(t, console(h), "ada")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	events := b.listen(ctx, b.address("/checkout"))
	first := await(t, events, "the title", func(e event) bool { return e.name == "page" || e.name == "part" })
	if first.name == "part" {
		t.Errorf("what the page has already was sent again: %v", first.data["id"])
	}
	h.change("checkout", func() {
		h.repos[1].Queue = h.repos[1].Queue[1:]
		h.repos[1].Release = 187
	})
	sent := map[string]string{}
	await(t, events, "the end of the redraw", func(e event) bool {
		if e.name == "part" {
			sent[e.data["id"].(string)] = e.data["html"].(string)
		}
		return e.name == "page" && len(sent) > 0 // time passing redraws too, and sends nothing
	})
	if !strings.Contains(sent["tabs"], ">6<span") {
		t.Errorf("the tabs still count %q", sent["tabs"])
	}
	if !strings.Contains(sent["repo-stages"], ">187</a>") || sent["repo-train"] == "" ||
		strings.Contains(sent["repo-train"], ">410<") || sent["repo-head"] != "" {
		t.Errorf("sent %v, want the stages with 187, the train without 410, and no head", sent)
	}
}

func TestNewsIsCoalesced(t *testing.T) {
	h := fullBackend()
	b := signedIn(t, console(h), "ada")
	events := b.listen(t.Context(), b.address("/checkout"))
	await(t, events, "the title", func(e event) bool { return e.name == "page" })
	began, last, redraws := time.Now(), 0, 0
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := range 1000 {
			h.change("checkout", func() { h.repos[1].Description = fmt.Sprintf("news %d.", i) })
			time.Sleep(time.Millisecond) // the pace of the news, not a wait
		}
	}()
	for last != 999 {
		e := await(t, events, "the last news", func(e event) bool { return e.name == "part" && e.data["id"] == "repo-head" })
		_, text, _ := strings.Cut(e.data["html"].(string), "news ")
		n, err := strconv.Atoi(text[:strings.Index(text, ".")])
		if err != nil || n < last {
			t.Fatalf("news %d after %d, %v", n, last, err)
		}
		last, redraws = n, redraws+1
	}
	<-done
	if most := int(time.Since(began)/redrawAtMost) + 1; redraws > most {
		t.Errorf("%d redraws in %v, want at most %d", redraws, time.Since(began), most)
	}
}

func TestStreamOfAFreshServerTurns(t *testing.T) {
	h := emptyBackend()
	b := signedIn(t, console(h), "ada")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	events := b.listen(ctx, b.address("/"))
	await(t, events, "the title", func(e event) bool { return e.name == "page" })
	h.change("hello", func() {
		h.repos = append(h.repos, show.Repository{Name: "hello", Gated: true, Branch: "main", State: show.Empty})
	})
	await(t, events, "the call to read the page again", func(e event) bool { return e.name == "turn" })
}

func TestStreamFollowsTheLog(t *testing.T) {
	h := fullBackend()
	b := signedIn(t, console(h), "ada")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	events := b.listen(ctx, b.address("/checkout/changes/410"))
	await(t, events, "the title", func(e event) bool { return e.name == "page" })
	h.say("checkout", 410, show.LogEvent{Kind: "out", Step: 2, Line: 23, Text: "\x1b[31mnewest <b>"})
	line := await(t, events, "the new line", func(e event) bool { return e.name == "line" })
	if html := line.data["html"].(string); line.data["id"] != "s2-lines" ||
		!strings.Contains(html, `<span class="c-r">newest &lt;b&gt;</span>`) || strings.Contains(html, "package") {
		t.Errorf("the new line is %v", line.data)
	}
	h.say("checkout", 410, show.LogEvent{Kind: "end", Step: 2, Took: show.Duration(3 * time.Minute)},
		show.LogEvent{Kind: "step", Step: 3, Phase: "post_build", Command: "./report.sh"}, show.LogEvent{Kind: "out", Step: 3,
			Line: 24, Text: "written"})
	if e := await(t, events, "the end of step 2",
		named("part", "s2-head", "3:00")); !strings.Contains(e.data["html"].(string), "build: go test ./...") {
		t.Errorf("the ended step lost its title: %v", e.data)
	}
	await(t, events, "the fold of step 2", func(e event) bool { return e.name == "fold" && e.data["id"] == "s2" })
	await(t, events, "step 3", named("line", "steps", `id="s3"`))
	await(t, events, "its line", named("line", "s3-lines", "written"))
	h.say("checkout", 410, show.LogEvent{Kind: "end", Step: 3}, show.LogEvent{Kind: "done"})
	h.change("checkout", func() {
		for i := range h.changes["checkout"] {
			if c := &h.changes["checkout"][i]; c.Number == 410 {
				build := *c.Build
				build.State, build.Finished = show.Green, noon
				c.State, c.Build, c.Candidate, c.EndedAt = show.Landed, &build, commit("abc4100"), noon
			}
		}
	})
	await(t, events, "the verdict", named("part", "change-verdict", "Landed as abc4100"))
	await(t, events, "the whole log, at rest", func(e event) bool {
		return named("part", "change-log", "written")(e) && !strings.Contains(e.data["html"].(string), "livebar")
	})
	await(t, events, "what is said aloud",
		func(e event) bool { return e.name == "page" && e.data["say"] == "change 410: landed" })
}

func TestStreamGoesOnWhereTheReaderIs(t *testing.T) {
	h := fullBackend()
	b := signedIn(t, console(h), "ada")
	address := b.address("/checkout/changes/410")
	h.say("checkout", 410, show.LogEvent{Kind: "out", Step: 2, Line: 23, Text: "between page and stream"})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	events := b.listen(ctx, address)
	e := await(t, events, "the line between", func(e event) bool { return e.name == "line" })
	if html := e.data["html"].(string); !strings.Contains(html, "between page and stream") ||
		strings.Count(html, `class="ln`) != 1 {
		t.Errorf("sent %s", html)
	}
}

func TestABurstIsCut(t *testing.T) {
	l := &follower{}
	l.take(show.LogEvent{Kind: "step", Step: 1})
	for i := range 100_000 {
		l.take(show.LogEvent{Kind: "out", Step: 1, Line: i + 1})
	}
	l.take(show.LogEvent{Kind: "end", Step: 1})
	if len(l.pending) > 4*burstLines || l.pending[0].Kind != "step" || l.pending[len(l.pending)-1].Kind != "end" ||
		l.skipped+len(l.pending) != 100_002 {
		t.Errorf("kept %d, skipped %d", len(l.pending), l.skipped)
	}
}

func TestStreamsEnd(t *testing.T) {
	before := goleak.IgnoreCurrent()
	defer func() {
		for deadline := time.Now().Add(waitTimeout); goleak.Find(before) != nil && time.Now().Before(deadline); { // which waits a little itself
		}
		goleak.VerifyNone(t, before)
	}()
	defer http.DefaultTransport.(*http.Transport).CloseIdleConnections()
	h := fullBackend()
	s := console(h)
	stop, down := context.WithCancel(context.Background())
	defer down()
	srv := httptest.NewUnstartedServer(s.Handler())
	srv.Config.BaseContext = func(net.Listener) context.Context { return stop }
	srv.Start()
	defer srv.Close()
	b := &browser{t: t, url: srv.URL, cookie: cookieFor(s, "ada")}
	left, leave := context.WithCancel(t.Context())
	gone := b.listen(left, "/checkout/changes/410/events")
	stays := b.listen(t.Context(), "/checkout/changes/410/events")
	await(t, gone, "the title", func(e event) bool { return e.name == "page" })
	await(t, stays, "the title", func(e event) bool { return e.name == "page" })
	leave()
	for range gone {
	}
	down() // the server stops
	for range stays {
	}
	h.watched(t, 0)
}

// TestStreamsOutliveTheServersTimeouts uses a server with timeouts far shorter
// than a stream.
func TestStreamsOutliveTheServersTimeouts(t *testing.T) {
	t.Parallel()
	h := fullBackend()
	s := console(h)
	srv := httptest.NewUnstartedServer(s.Handler())
	const timeout = 3 * time.Second // in which a loaded machine reads a request
	srv.Config.ReadTimeout, srv.Config.WriteTimeout = timeout, timeout
	srv.Start()
	t.Cleanup(srv.Close)
	b := &browser{t: t, url: srv.URL, cookie: cookieFor(s, "ada")}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	events := b.listen(ctx, "/checkout/events")
	for began := time.Now(); time.Since(began) < timeout+timeout/2; {
		h.change("checkout", func() { h.repos[1].Description += "." })
		await(t, events, "the news", func(e event) bool { return e.name == "part" && e.data["id"] == "repo-head" })
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, b.url+"/checkout/changes/410/log.txt", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.AddCookie(b.cookie)
	res, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	lines := bufio.NewScanner(res.Body)
	for lines.Scan() && !strings.Contains(lines.Text(), "attempt 1 of 2") {
	}
	for began := time.Now(); time.Since(began) < timeout+timeout/2; {
		h.say("checkout", 410, show.LogEvent{Kind: "out", Step: 2, Text: "still"})
		if !lines.Scan() || !strings.HasSuffix(lines.Text(), "still") {
			t.Fatalf("the log ended after %v: %v", time.Since(began), lines.Err())
		}
		time.Sleep(10 * time.Millisecond) // the pace of the log, not a wait
	}
}

func TestStreamEndsWithItsUser(t *testing.T) {
	h := fullBackend()
	s := console(h)
	var gone atomic.Bool
	s.Actor = func(_ context.Context, name string) (access.Identity, bool) {
		return access.Identity{User: name}, !gone.Load()
	}
	b := signedIn(t, s, "ada")
	events := b.listen(t.Context(), "/checkout/events")
	await(t, events, "the title", func(e event) bool { return e.name == "page" })
	gone.Store(true)
	h.change("checkout", func() { h.repos[1].Description = "secret since" })
	for e := range events {
		if html, _ := e.data["html"].(string); strings.Contains(html, "secret") {
			t.Error("a user who is gone was told news")
		}
	}
}

func TestTheRawLogGrows(t *testing.T) {
	h := fullBackend()
	b := signedIn(t, console(h), "ada")
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, b.url+"/checkout/changes/410/log.txt", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.AddCookie(b.cookie)
	res, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	lines := bufio.NewScanner(res.Body)
	read := func(want string) {
		t.Helper()
		for lines.Scan() {
			if strings.Contains(lines.Text(), want) {
				return
			}
		}
		t.Fatalf("the log ended before %q", want)
	}
	read("$ build: go test ./...")
	read("gateway answers 502, attempt 1 of 2")
	h.say("checkout", 410, show.LogEvent{Kind: "out", Step: 2, Line: 23, Text: "while you read"})
	read("while you read")
	h.say("checkout", 410, show.LogEvent{Kind: "end", Step: 2, Exit: 3, Took: show.Duration(time.Minute)},
		show.LogEvent{Kind: "done"})
	read("exit status 3 after 1:00")
	if lines.Scan() {
		t.Errorf("more after the end: %q", lines.Text())
	}
	a := b.do(http.MethodGet, "/checkout/changes/409/log.txt", "", "Accept", "application/json")
	for line := range strings.Lines(a.body) {
		var e show.LogEvent
		if err := json.Unmarshal([]byte(line), &struct{ Kind *show.LogKind }{&e.Kind}); err != nil || e.Kind == "" {
			t.Errorf("no event: %s", line)
		}
	}
}

// TestStreamIsNarrowedAsItsPage: what a page is narrowed to its stream is too, or the
// first event would put back what was filtered out.
func TestStreamIsNarrowedAsItsPage(t *testing.T) {
	b := signedIn(t, console(fullBackend()), "ada")
	for _, path := range []string{"/checkout/changes?author=jun&after=300", "/checkout/releases?author=jun&path=a%2Fb"} {
		page := b.get(path).body
		_, live, _ := strings.Cut(page, ` data-live="`)
		live, _, _ = strings.Cut(live, `"`)
		u, err := url.Parse(html.UnescapeString(live))
		if err != nil {
			t.Fatal(err)
		}
		_, narrowed, _ := strings.Cut(path, "?")
		want, _ := url.ParseQuery(narrowed)
		got := u.Query()
		if got.Del("have"); !strings.HasSuffix(u.Path, "/events") || !reflect.DeepEqual(got, want) {
			t.Errorf("%s has the stream %s", path, live)
		}
	}
}

// TestLiveInABrowser reads along with the pages' own script.
func TestLiveInABrowser(t *testing.T) {
	browser := launch(t)
	h := fullBackend()
	b := open(t, browser, console(h), "ada")
	b.do(chromedp.EmulateViewport(1400, 900), chromedp.Navigate(b.url+"/checkout/changes/410"))
	b.until(`document.querySelector("#s2-lines .ln:last-child").textContent.includes("attempt 1 of 2")`)
	h.say("checkout", 410, show.LogEvent{Kind: "out", Step: 2, Line: 23, Text: "retry_test.go:47: gateway answers 200"})
	b.until(`document.querySelector("#L23")?.textContent.includes("gateway answers 200")`)
	h.say("checkout", 410, show.LogEvent{Kind: "end", Step: 2},
		show.LogEvent{Kind: "step", Step: 3, Phase: "post_build", Command: "./report.sh"})
	b.until(`!document.querySelector("#s2").open && document.querySelector("#s3").open`)
	h.change("checkout", func() {
		for i := range h.changes["checkout"] {
			if c := &h.changes["checkout"][i]; c.Number == 410 {
				build := *c.Build
				build.State, build.Finished = show.Green, noon
				c.State, c.Build, c.Candidate, c.EndedAt = show.Landed, &build, commit("abc4100"), noon
			}
		}
	})
	b.until(`document.querySelector("#change-verdict h2").textContent === "Landed as abc4100 on main"`)
	b.until(`!document.querySelector(".livebar") && !document.querySelector("details[open]")`)
	b.until(
		`document.title.startsWith("Landed: 410") && document.querySelector("p[aria-live]").textContent === "change 410: landed"`)

	b.do(chromedp.Navigate(b.url+"/checkout/promote/production"), chromedp.Focus("#why"),
		chromedp.SendKeys("#why", "templates good"))
	h.change("checkout", func() {
		p := h.promos["checkout/production"]
		p.Summary = "waits for 1 approval"
		h.promos["checkout/production"] = p
	})
	b.until(
		`document.querySelector("#promo-head").textContent.includes("Waits for 1 approval") && !document.querySelector("#promo-head").textContent.includes("soak")`)
	if got := eval[string](b, `document.querySelector("#why").value`); got != "templates good" {
		t.Errorf("what was typed is %q after an update", got)
	}
	b.do(chromedp.Click("#decide button"))
	b.until(`document.querySelector(".done")?.textContent.includes("approved 183 -> 186")`)
	if did := h.did(); len(did) != 1 || !strings.Contains(did[0], `"templates good" as ada via console`) {
		t.Errorf("did %v", did)
	}
	if said := b.console(); said != "" {
		t.Errorf("console: %s", said)
	}
}

// TestLiveLeavesWhatIsInUseInABrowser: a part that holds the focus is replaced
// once the focus has left it, with the newest there is.
func TestLiveLeavesWhatIsInUseInABrowser(t *testing.T) {
	h := fullBackend()
	b := open(t, launch(t), console(h), "ada")
	b.do(chromedp.Navigate(b.url + "/checkout"))
	h.watched(t, 1)
	eval[bool](b, `(window.used = document.querySelector("#repo-train a.more")).focus() === undefined`)
	for n := range 2 {
		h.change("checkout", func() {
			h.repos[1].Queue = h.repos[1].Queue[1:]
			h.repos[1].Release = 187 + n
		})
		b.until(fmt.Sprintf(`document.querySelector("#repo-stages").textContent.includes("%d")`, 187+n))
	}
	if !eval[bool](
		b, `document.activeElement === window.used && document.querySelector("#repo-train").textContent.includes("7 changes ahead")`) {
		t.Error("the part in use was replaced")
	}
	eval[bool](b, `window.used.blur() === undefined`)
	b.until(`!window.used.isConnected && document.querySelector("#repo-train").textContent.includes("5 changes ahead")`)
}

// TestLiveAfterARestartInABrowser: the page says that it has lost the server,
// and goes on by itself once there is one again.
func TestLiveAfterARestartInABrowser(t *testing.T) {
	h := fullBackend()
	s := console(h)
	front := &restarts{}
	front.up(s.Handler())
	srv := httptest.NewServer(front)
	b := open(t, launch(t), s, "ada") // for the cookie, which knows no ports
	t.Cleanup(func() {
		srv.CloseClientConnections()
		srv.Close()
	})
	b.do(chromedp.Navigate(srv.URL + "/checkout"))
	h.watched(t, 1)
	front.down()
	srv.CloseClientConnections()
	b.until(`document.querySelector(".lost:not([hidden])")?.textContent.startsWith("Live updates are interrupted")`)
	h.change("checkout", func() { h.repos[1].Description = "Changed while nobody watched" })
	front.up(console(h).Handler()) // another process, with the same key
	b.until(
		`document.querySelector(".lost").hidden && document.querySelector("#repo-head").textContent.includes("Changed while nobody watched")`)
}

// restarts is a server that can be away.
type restarts struct{ handler atomic.Pointer[http.Handler] }

func (f *restarts) up(h http.Handler) { f.handler.Store(&h) }
func (f *restarts) down()             { f.handler.Store(nil) }

func (f *restarts) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := f.handler.Load()
	if h == nil {
		panic(http.ErrAbortHandler) // closes the connection without an answer
	}
	(*h).ServeHTTP(w, r)
}

// promoting is a Backend in which an approval is the last: the proposal is gone
// before whoever approved has read the answer.
type promoting struct{ *backend }

func (p promoting) Approve(ctx context.Context, a access.Identity, repo, env, tree, reason string) (show.Done, error) {
	done, err := p.backend.Approve(ctx, a, repo, env, tree, reason)
	p.change(repo, func() { delete(p.promos, repo+"/"+env) })
	for p.watching() > 0 && ctx.Err() == nil { // until the page has heard of that, or does not listen any more
		time.Sleep(time.Millisecond)
	}
	return done, err
}

// TestLastApprovalInABrowser: news that end a page do not stand in the way of the
// answer to its own form.
func TestLastApprovalInABrowser(t *testing.T) {
	h := fullBackend()
	s := console(h)
	s.Backend = promoting{h}
	b := open(t, launch(t), s, "ada")
	b.do(chromedp.Navigate(b.url + "/checkout/promote/production"))
	h.watched(t, 1)
	b.do(chromedp.Click("#decide button"))
	b.until(
		`location.pathname === "/checkout/env/production" && document.querySelector(".done")?.textContent.includes("approved 183 -> 186")`)
	if said := b.console(); said != "" {
		t.Errorf("console: %s", said)
	}
}

// TestSignInInABrowser goes the way of a person: a page, the code, the page.
func TestSignInInABrowser(t *testing.T) {
	h := fullBackend()
	b := open(t, launch(t), console(h), "")
	b.do(chromedp.Navigate(b.url + "/checkout/releases"))
	b.until(`document.activeElement.id === "code"`)
	b.do(chromedp.SendKeys("#code", "CODE-ada"), chromedp.Click("button.do.main"))
	b.until(`location.pathname === "/checkout/releases" && document.querySelector("h1").textContent === "Releases"`)
	h.watched(t, 1) // a stream that asks only after the session has ended is refused
	b.do(chromedp.Click(".who button"))
	b.until(`location.pathname === "/sign-in"`)
	if said := b.console(); said != "" {
		t.Errorf("console: %s", said)
	}
}

// TestLinksFromElsewhereInABrowser follows a link from another site, with which
// browsers do not send a strict cookie.
func TestLinksFromElsewhereInABrowser(t *testing.T) {
	b := open(t, launch(t), console(fullBackend()), "ada")
	chat := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		fmt.Fprintf(w, `<link rel="icon" href="data:,"><a href="%s/checkout/changes/411">look</a>`, b.url)
	}))
	defer chat.Close()
	// From the page's own task: the answer must not wait for the other site's process.
	const follow = `setTimeout(() => document.querySelector("a").click()) > 0`
	b.do(chromedp.Navigate(strings.Replace(chat.URL, "127.0.0.1", "localhost", 1)))
	eval[bool](b, follow)
	b.until(
		`location.pathname === "/checkout/changes/411" && document.querySelector("h1").textContent.includes("Drop the legacy voucher table")`)
	// Away from the page before its cookie goes: its stream would ask without one.
	b.do(chromedp.Navigate(strings.Replace(chat.URL, "127.0.0.1", "localhost", 1)))
	if _, err := chromedp.Call(b.ctx, network.ClearBrowserCookies, cdp.Empty{}); err != nil {
		t.Fatal(err)
	}
	eval[bool](b, follow)
	b.until(`location.pathname === "/sign-in" && document.querySelector("[name=to]").value === "/checkout/changes/411"`)
	if said := b.console(); said != "" {
		t.Errorf("console: %s", said)
	}
}

// TestWithoutScript approves with script switched off.
func TestTimesAreTheViewersInABrowser(t *testing.T) {
	b := open(t, launch(t), console(fullBackend()), "ada")
	if _, err := chromedp.Call(b.ctx, emulation.SetTimezoneOverride,
		emulation.SetTimezoneOverrideParams{TimezoneID: "Asia/Kolkata"}); err != nil {
		t.Fatal(err)
	}
	b.do(chromedp.Navigate(b.url + "/checkout/changes/411"))
	b.until(`document.querySelector("#change-head time").textContent.endsWith("19:29 GMT+5:30")`)
	if title := eval[string](
		b, `document.querySelector("#change-head time").title`); title != "Tue 24 Nov 2026 13:59:12 UTC" {
		t.Errorf("on hover: %s", title)
	}
	b.do(chromedp.Navigate(b.url + "/checkout/changes/411#L40"))
	b.until(`document.getElementById("L40") && document.getElementById("L40").closest("details").open`)
}

func TestWithoutScriptInABrowser(t *testing.T) {
	h := fullBackend()
	b := open(t, launch(t), console(h), "ada")
	if _, err := chromedp.Call(b.ctx, emulation.SetScriptExecutionDisabled,
		emulation.SetScriptExecutionDisabledParams{Value: true}); err != nil {
		t.Fatal(err)
	}
	b.do(chromedp.Navigate(b.url+"/checkout/promote/production"), chromedp.SendKeys("#why", "by hand"),
		chromedp.Click("#decide button"))
	b.do(chromedp.WaitVisible(".done"))
	if did := h.did(); len(did) != 1 || !strings.Contains(did[0], `"by hand"`) {
		t.Errorf("did %v", did)
	}
	b.do(chromedp.Navigate(b.url+"/checkout/env/production"), chromedp.Click(".do.stop"), chromedp.WaitVisible("#confirm"),
		chromedp.SendKeys("#confirm", "production"), chromedp.Click("#ask .do.stop"), chromedp.WaitVisible(".done"))
	if did := h.did(); len(did) != 2 || !strings.HasPrefix(did[1], "rollback checkout production 182") {
		t.Errorf("did %v", did)
	}
}

func TestALogThatCannotBeRead(t *testing.T) {
	var journal strings.Builder
	s := console(fullBackend())
	s.Backend, s.Log = torn{fullBackend()}, logTo(&journal)
	a := signedIn(t, s, "ada").get("/checkout/changes/411")
	if a.StatusCode != 200 || !strings.Contains(a.body, "Refused: 1 command failed") ||
		!strings.Contains(a.body, "The log could not be read.") || strings.Contains(a.body, "input/output") {
		t.Errorf("%s: the verdict must stand without its log\n%s", a.Status, a.body)
	}
	_, id, _ := strings.Cut(a.body, "by the id <code>")
	id, _, _ = strings.Cut(id, "<")
	if id == "" || !strings.Contains(journal.String(), "id="+id) || !strings.Contains(journal.String(), "input/output") {
		t.Errorf("id %q is not in %s", id, journal.String())
	}
}

// torn is a Backend whose logs break off.
type torn struct{ *backend }

func (torn) Log(context.Context, access.Identity, string, int, bool) iter.Seq2[show.LogEvent, error] {
	return func(yield func(show.LogEvent, error) bool) {
		yield(show.LogEvent{}, errors.New("read: input/output error"))
	}
}
