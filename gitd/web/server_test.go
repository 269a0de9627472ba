package web

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/headgate-cd/headgate/gitd/access"
	"github.com/headgate-cd/headgate/gitd/attempts"
	"github.com/headgate-cd/headgate/gitd/show"
)

// fill makes an address of a route's pattern, in the full backend.
func fill(pattern string) string {
	n := "411"
	if strings.Contains(pattern, "releases") {
		n = "186"
	}
	return strings.NewReplacer("{repo}", "checkout", "{n}", n, "{env}", "production", "{commit}", "77e03b1", "{revision}",
		"9f1c2ab", "{from}", "51aa0d3", "{to}", "9f1c2ab", "{id}", "d-5aa10e3", "{$}", "", "{asset}", "console.css").Replace(
		pattern)
}

func TestEveryAnswerCarriesTheHeaders(t *testing.T) {
	want := map[string]string{
		"Content-Security-Policy": "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
		"X-Content-Type-Options":  "nosniff", "Referrer-Policy": "no-referrer", "X-Frame-Options": "DENY",
	}
	b := signedIn(t, console(fullBackend()), "ada")
	paths := []string{"/missing", "/checkout/nothing", "/checkout/changes/9999", "//", "/a%2fb"}
	for _, rt := range routes() {
		if !rt.events && rt.plain != nil || rt.page != nil && !rt.events {
			paths = append(paths, fill(rt.pattern))
		}
	}
	for _, path := range paths {
		for _, a := range []answer{b.get(path), b.json(path), b.do(http.MethodPost, path, "a=b"),
			b.do(http.MethodDelete, path, "")} {
			for k, v := range want {
				if got := a.Header.Get(k); got != v {
					t.Errorf("%s %s: %s is %q, want %q", a.Request.Method, path, k, got, v)
				}
			}
			if a.Header.Get("Permissions-Policy") == "" {
				t.Errorf("%s: no Permissions-Policy", path)
			}
			if !strings.HasPrefix(path, "/assets/") && a.Header.Get("Cache-Control") != "no-store" {
				t.Errorf("%s: Cache-Control is %q", path, a.Header.Get("Cache-Control"))
			}
		}
	}
}

func TestNobodySeesNothing(t *testing.T) {
	for _, who := range []struct {
		name string
		b    *browser
	}{
		{"nobody", signedIn(t, console(fullBackend()), "")},
		{"a user who is gone", signedIn(t, console(fullBackend()), "removed")},
		{"a forged cookie", func() *browser {
			b := signedIn(t, console(fullBackend()), "")
			other := console(fullBackend())
			other.Key = []byte("ffffffffffffffffffffffffffffffff")
			b.cookie = cookieFor(other, "ada")
			return b
		}()},
		{"an old cookie", func() *browser {
			b := signedIn(t, console(fullBackend()), "")
			old := console(fullBackend())
			old.Now = func() time.Time { return noon.Add(-sessionLife) }
			b.cookie = cookieFor(old, "ada")
			return b
		}()},
		{"a cookie from the future", func() *browser {
			b := signedIn(t, console(fullBackend()), "")
			s := console(fullBackend())
			s.Now = func() time.Time { return noon.Add(time.Hour) }
			b.cookie = cookieFor(s, "ada")
			return b
		}()},
	} {
		t.Run(who.name, func(t *testing.T) {
			who.b.t = t
			for _, rt := range append(routes(), &route{pattern: "/checkout/nothing"}, &route{pattern: "/a/b/c/d/e"}) {
				path := fill(rt.pattern)
				page, facts := who.b.get(path), who.b.json(path)
				if rt.public {
					if rt.plain != nil && (page.StatusCode != 200 || strings.Contains(page.body, "checkout")) {
						t.Errorf("%s: %s %q", path, page.Status, page.body)
					}
					continue
				}
				switch {
				case rt.events:
					if page.StatusCode != 401 {
						t.Errorf("%s: %s, want 401", path, page.Status)
					}
				case page.StatusCode != 303 || !strings.HasPrefix(page.Header.Get("Location"), "/sign-in"):
					t.Errorf("%s: %s to %q, want 303 to /sign-in", path, page.Status, page.Header.Get("Location"))
				}
				if facts.StatusCode != 401 || !json.Valid([]byte(facts.body)) {
					t.Errorf("%s as JSON: %s %s, want 401", path, facts.Status, facts.body)
				}
				if a := who.b.do(http.MethodPost, path, "release=1&confirm=production"); a.StatusCode != 401 {
					t.Errorf("POST %s: %s, want 401", path, a.Status)
				}
				if strings.Contains(page.body+facts.body, "voucher") {
					t.Errorf("%s: shows facts", path)
				}
			}
		})
	}
}

func TestAnotherUserFindsNothing(t *testing.T) {
	b := signedIn(t, console(fullBackend()), "outsider")
	for _, rt := range routes() {
		if rt.page == nil || rt.events || !strings.Contains(rt.pattern, "{repo}") {
			continue
		}
		if a := b.get(fill(rt.pattern)); a.StatusCode != 404 || strings.Contains(a.body, "voucher") ||
			strings.Contains(a.body, "catalogue") {
			t.Errorf("%s: %s", rt.pattern, a.Status)
		}
	}
}

func TestSigningIn(t *testing.T) {
	s := console(fullBackend())
	b := signedIn(t, s, "")
	if a := b.get("/checkout/changes?state=refused"); a.Header.Get(
		"Location") != "/sign-in?to=%2Fcheckout%2Fchanges%3Fstate%3Drefused" {
		t.Errorf("sent to %q", a.Header.Get("Location"))
	}
	form := b.get("/sign-in?code=CODE-ada&to=%2Fcheckout%2Fqueue")
	if !strings.Contains(form.body, `value="CODE-ada"`) || !strings.Contains(form.body, `value="/checkout/queue"`) ||
		!strings.Contains(form.body, "ssh git.tarn.example login") {
		t.Errorf("the form does not hold the code, the way back, and the command:\n%s", form.body)
	}
	if a := b.do(http.MethodPost, "/sign-in", "code=wrong"); a.StatusCode != 403 ||
		!strings.Contains(a.body, "used already") || len(a.Cookies()) != 0 {
		t.Errorf("a wrong code: %s, %v", a.Status, a.Cookies())
	}
	in := b.do(http.MethodPost, "/sign-in", url.Values{"code": {" CODE-ada "}, "to": {"/checkout/queue"}}.Encode())
	if in.StatusCode != 303 || in.Header.Get("Location") != "/checkout/queue" || len(in.Cookies()) != 1 {
		t.Fatalf("signing in: %s to %q, %v", in.Status, in.Header.Get("Location"), in.Cookies())
	}
	c := in.Cookies()[0]
	if !c.HttpOnly || c.SameSite != http.SameSiteStrictMode || c.Path != "/" || c.MaxAge != 12*60*60 {
		t.Errorf("cookie: %v", c)
	}
	if a := b.do(http.MethodPost, "/sign-in", "code=CODE-ada"); a.StatusCode != 403 {
		t.Errorf("the same code again: %s", a.Status)
	}
	if a := b.do(http.MethodPost, "/sign-in", "code=CODE-removed"); a.StatusCode != 403 || len(a.Cookies()) != 0 {
		t.Errorf("a user who is gone: %s", a.Status)
	}
	b.cookie, b.token = c, tokenFor(s, c)
	if a := b.get("/checkout/queue"); a.StatusCode != 200 {
		t.Fatalf("after signing in: %s", a.Status)
	}
	if a := b.get("/sign-in?to=/checkout"); a.StatusCode != 303 || a.Header.Get("Location") != "/checkout" {
		t.Errorf("sign-in when signed in: %s", a.Status)
	}
	if a := b.get("/sign-out"); a.StatusCode != 405 {
		t.Errorf("GET changed something: sign-out answers %s", a.Status)
	}
	if a := b.do(http.MethodPost, "/sign-out", "x=y"); a.StatusCode != 303 || a.Cookies()[0].MaxAge != -1 {
		t.Errorf("signing out: %s %v", a.Status, a.Cookies())
	}
	if a := b.get("/checkout"); a.StatusCode != 303 {
		t.Errorf("the session lives on after signing out: %s", a.Status)
	}
}

func TestTheWayBackStaysHere(t *testing.T) {
	q := &request{site: console(emptyBackend()).Handler().(*site)}
	for to, want := range map[string]string{
		"/checkout": "/checkout", "/checkout/changes?all": "/checkout/changes?all", "": "/", "//evil.example": "/",
		"https://evil.example/": "/", `/\evil.example`: "/", "/%2fevil.example": "/",
		"javascript:alert(1)": "/", "/sign-out": "/", "/checkout/../..": "/", "/checkout/events": "/", "evil.example": "/",
		"/healthz": "/healthz", "/a/b/c/d": "/",
	} {
		if got := q.localAddress(to); got != want {
			t.Errorf("%q leads to %q, want %q", to, got, want)
		}
	}
}

// TestConsoleHasANameOfItsOwn: on loopback a session is opened under the console's
// own name alone, and is none under another, which services are reached by.
func TestConsoleHasANameOfItsOwn(t *testing.T) {
	h := emptyBackend()
	h.server.HTTP = "http://console.localhost:8080"
	handler := console(h).Handler()
	do := func(method, address, body string, cookies ...*http.Cookie) *http.Response {
		rec := httptest.NewRecorder()
		r := httptest.NewRequest(method, address, strings.NewReader(body))
		r.Header.Set("Accept", "text/html")
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		for _, c := range cookies {
			r.AddCookie(c)
		}
		handler.ServeHTTP(rec, r)
		return rec.Result()
	}
	for _, host := range []string{"127.0.0.1:8080", "localhost:8080", "[::1]:8080"} {
		for _, path := range []string{"/", "/sign-in?code=CODE-ada", "/checkout/changes/1"} {
			if a := do(http.MethodGet, "http://"+host+path, ""); a.StatusCode != 307 ||
				a.Header.Get("Location") != "http://console.localhost:8080"+path {
				t.Errorf("%s%s: %s to %q", host, path, a.Status, a.Header.Get("Location"))
			}
		}
		if a := do(http.MethodPost, "http://"+host+"/sign-in", "code=CODE-ada"); a.StatusCode != 403 ||
			len(a.Cookies()) != 0 {
			t.Errorf("a session at %s: %s %v", host, a.Status, a.Cookies())
		}
	}
	in := do(http.MethodPost, "http://console.localhost:8080/sign-in", "code=CODE-ada")
	if in.StatusCode != 303 || len(in.Cookies()) != 1 || in.Cookies()[0].Domain != "" {
		t.Fatalf("signing in: %s %v", in.Status, in.Cookies())
	}
	if a := do(http.MethodGet, "http://console.localhost:8080/", "", in.Cookies()...); a.StatusCode != 200 {
		t.Errorf("signed in: %s", a.Status)
	}
	if a := do(http.MethodGet, "http://127.0.0.1:8080/", "", in.Cookies()...); a.StatusCode != 307 {
		t.Errorf("the session counts under another name: %s", a.Status)
	}
}

func TestCookiesOverHTTPSAreBoundToTheHost(t *testing.T) {
	h := emptyBackend()
	h.server.HTTP = "https://git.tarn.example"
	rec := httptest.NewRecorder()
	r := httptest.NewRequest(http.MethodPost, "https://git.tarn.example/sign-in", strings.NewReader("code=CODE-ada"))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	console(h).Handler().ServeHTTP(rec, r)
	c := rec.Result().Cookies()
	if len(c) != 1 || !c[0].Secure || c[0].Name != "__Host-headgate-session" {
		t.Errorf("cookie: %v", c)
	}
}

func TestSignInAttemptsAreLimited(t *testing.T) {
	s := console(emptyBackend())
	now := noon
	s.Now = func() time.Time { return now }
	b := signedIn(t, s, "")
	for range attempts.Each {
		if a := b.do(http.MethodPost, "/sign-in", "code=guess"); a.StatusCode != 403 {
			t.Fatalf("a guess: %s", a.Status)
		}
	}
	a := b.do(http.MethodPost, "/sign-in", "code=CODE-ada")
	if a.StatusCode != 429 || a.Header.Get("Retry-After") == "" {
		t.Fatalf("one guess too many: %s", a.Status)
	}
	now = now.Add(time.Minute)
	if a := b.do(http.MethodPost, "/sign-in", "code=CODE-ada"); a.StatusCode != 303 {
		t.Errorf("a minute later: %s (the code must not have been used up)", a.Status)
	}
}

func TestActsComeFromOurOwnPages(t *testing.T) {
	h := fullBackend()
	s := console(h)
	b := signedIn(t, s, "ada")
	acts := map[string]string{"/checkout/promote/production": "tree=" + commit("6f0a1e2"),
		"/checkout/env/production": "release=182&confirm=production", "/catalogue/forge": "connection=hub&act=test", "/sign-out": "x=y", "/sign-in": "code=CODE-mirek"}
	for path, form := range acts {
		for _, foreign := range [][]string{
			{"Sec-Fetch-Site", "cross-site"}, {"Sec-Fetch-Site", "same-site"}, {"Origin", "https://evil.example"},
			{"Origin", "null"}, {"Origin", b.url + ".evil.example"},
		} {
			if a := b.do(http.MethodPost, path, form, foreign...); a.StatusCode != 403 || len(a.Cookies()) != 0 {
				t.Errorf("POST %s with %v: %s", path, foreign, a.Status)
			}
		}
		if a := b.do(http.MethodPost, path, strings.Repeat("x", maxBody+1), "Sec-Fetch-Site",
			"same-origin"); a.StatusCode != 400 {
			t.Errorf("POST %s of more than %d bytes: %s", path, maxBody, a.Status)
		}
		if a := b.do(http.MethodPost, path, form, "Content-Type", "text/plain"); a.StatusCode != 400 {
			t.Errorf("POST %s as text/plain: %s", path, a.Status)
		}
	}
	for _, path := range []string{"/checkout/promote/production?tree=x",
		"/checkout/env/production?release=182&confirm=production&rollback=182", "/checkout/env/production?_method=POST"} {
		b.get(path)
		b.get(path, "X-HTTP-Method-Override", "POST")
	}
	if did := h.did(); len(did) != 0 {
		t.Fatalf("was done all the same: %v", did)
	}
	same := []string{"Sec-Fetch-Site", "same-origin", "Origin", b.url}
	a := b.do(http.MethodPost, "/checkout/promote/production", "reason=templates+good&tree="+commit("6f0a1e2"), same...)
	if a.StatusCode != 303 || a.Header.Get("Location") != "/checkout/promote/production" {
		t.Fatalf("approve: %s to %q\n%s", a.Status, a.Header.Get("Location"), a.body)
	}
	req, _ := http.NewRequest(http.MethodGet, b.url+"/checkout/promote/production", nil)
	req.RemoteAddr = "127.0.0.1:1"
	req.AddCookie(b.cookie)
	req.AddCookie(a.Cookies()[0])
	rec := httptest.NewRecorder()
	s.Handler().ServeHTTP(rec, req)
	if got := rec.Body.String(); !strings.Contains(got, "Done: approved 183 -&gt; 186") ||
		!strings.Contains(got, "; now waits for soak") || !strings.Contains(got, "you have approved it already") {
		t.Errorf("the page does not say what was done:\n%s", got)
	}
	want := []string{`approve checkout production ` + commit("6f0a1e2") + ` "templates good" as ada via console`}
	if did := h.did(); !reflect.DeepEqual(did, want) {
		t.Errorf("did %v, want %v", did, want)
	}
	for form, want := range map[string]string{
		"act=reject&reason=too+slow&tree=" + commit("6f0a1e2"): `reject checkout production ` +
			commit("6f0a1e2") + ` "too slow"`,
		"act=choose&release=184": "choose checkout production 184",
	} {
		if a := b.do(http.MethodPost, "/checkout/promote/production", form, same...); a.StatusCode != 303 {
			t.Fatalf("%s: %s\n%s", form, a.Status, a.body)
		}
		if did := h.did(); len(did) == 0 || !strings.HasPrefix(did[len(did)-1], want) {
			t.Fatalf("%s did %v", form, did)
		}
	}
	for form, want := range map[string]int{"act=throw": 400, "act=choose&release=x": 400} {
		if a := b.do(http.MethodPost, "/checkout/promote/production", form, same...); a.StatusCode != want {
			t.Fatalf("%s: %s", form, a.Status)
		}
	}
}

// TestForgeActs: a connection is tested, and a webhook processed again, of the repository
// whose page it is on and of no other.
func TestForgeActs(t *testing.T) {
	h := fullBackend()
	b := signedIn(t, console(h), "ada")
	same := []string{"Sec-Fetch-Site", "same-origin", "Origin", b.url}
	for _, c := range []struct {
		path, form string
		status     int
		did        string
	}{
		{"/catalogue/forge", "connection=hub&act=test", 303, "test hub 0 as ada via console"},
		{"/catalogue/forge", "connection=hub&act=replay&delivery=3", 303, "replay hub 3 as ada via console"},
		{"/headgate/forge", "connection=lab&act=test", 303, "test lab 0 as ada via console"},
		{"/catalogue/forge", "connection=lab&act=test", 404, ""},
		{"/checkout/forge", "connection=hub&act=test", 404, ""},
		{"/catalogue/forge", "connection=hub&act=replay&delivery=x", 400, ""},
		{"/catalogue/forge", "connection=hub&act=throw", 400, ""},
	} {
		before := len(h.did())
		a := b.do(http.MethodPost, c.path, c.form, same...)
		did := h.did()[before:]
		if a.StatusCode != c.status || (c.did == "") != (len(did) == 0) || c.did != "" && did[0] != c.did {
			t.Errorf("%s %s: %s, did %v", c.path, c.form, a.Status, did)
		}
	}
	if a := signedIn(t, console(h), "mirek").get("/catalogue/forge"); strings.Contains(a.body, "Replay") ||
		strings.Contains(a.body, "Test both") {
		t.Error("whoever may not act is shown buttons")
	}
	if a := b.get("/checkout/forge"); a.StatusCode != 404 ||
		!strings.Contains(a.body, "othing connects checkout to a forge") {
		t.Errorf("a repository without a forge: %s", a.Status)
	}
}

// TestASessionIsNoUseToOthers: an application on another port of the console's
// host is sent the cookie. It can neither replay it from where it runs nor, with
// another session of its own, send a form in its name.
func TestASessionIsNoUseToOthers(t *testing.T) {
	s := console(fullBackend())
	cookie := cookieFor(s, "ada") // opened from 127.0.0.1
	get := func(remote string) int {
		req := httptest.NewRequest(http.MethodGet, "/checkout", nil)
		req.RemoteAddr = remote
		req.AddCookie(cookie)
		rec := httptest.NewRecorder()
		s.Handler().ServeHTTP(rec, req)
		return rec.Code
	}
	for remote, want := range map[string]int{
		"127.0.0.1:2": 200, "[::1]:2": 200, "127.3.0.1:9": 200, "192.0.2.7:1": 303, "[2001:db8::1]:1": 303, "": 303,
	} {
		if got := get(remote); got != want {
			t.Errorf("from %q: %d, want %d", remote, got, want)
		}
	}

	h := fullBackend()
	s = console(h)
	b := signedIn(t, s, "ada")
	for _, token := range []string{"", "x", tokenFor(s, cookieFor(s, "ada")), tokenFor(s, cookieFor(s, "mirek"))} {
		b.token = ""
		a := b.do(http.MethodPost, "/checkout/promote/production", "tree="+commit("6f0a1e2")+"&token="+token,
			"Sec-Fetch-Site", "same-origin")
		if a.StatusCode != http.StatusForbidden || !strings.Contains(a.body, "not from a page of your session") {
			t.Errorf("with the token %q: %s", token, a.Status)
		}
	}
	if did := h.did(); len(did) != 0 {
		t.Errorf("was done all the same: %v", did)
	}
}

// TestActsAfterTheSessionIsOver says that nothing was done, and the way back.
func TestActsAfterTheSessionIsOver(t *testing.T) {
	h := fullBackend()
	s := console(h)
	b := signedIn(t, s, "ada")
	s.Now = func() time.Time { return noon.Add(sessionLife + time.Minute) }
	b = &browser{t: t, url: signedIn(t, s, "").url, cookie: b.cookie}
	a := b.do(http.MethodPost, "/checkout/promote/production", "reason=late&tree="+commit("6f0a1e2"),
		"Sec-Fetch-Site", "same-origin")
	if a.StatusCode != 401 || !strings.Contains(a.body, "nothing was done") ||
		!strings.Contains(a.body, `href="/sign-in?to=%2Fcheckout%2Fpromote%2Fproduction"`) {
		t.Errorf("%s\n%s", a.Status, a.body)
	}
	if did := h.did(); len(did) != 0 {
		t.Errorf("was done all the same: %v", did)
	}
}

func TestApprovalBindsToWhatWasSeen(t *testing.T) {
	h := fullBackend()
	b := signedIn(t, console(h), "ada")
	if page := b.get("/checkout/promote/production"); !strings.Contains(page.body,
		`name="tree" value="`+commit("6f0a1e2")+`"`) {
		t.Error("the form does not carry the tree")
	}
	a := b.do(http.MethodPost, "/checkout/promote/production", "tree="+commit("older")+"&reason=why+not")
	if a.StatusCode != 409 || !strings.Contains(a.body, "The proposal has changed since you read it; read it again") ||
		!strings.Contains(a.body, "why not</textarea>") {
		t.Errorf("approving what was changed meanwhile: %s\n%s", a.Status, a.body)
	}
	if did := h.did(); len(did) != 0 {
		t.Errorf("did %v", did)
	}
	mirek := signedIn(t, console(h), "mirek")
	if page := mirek.get("/checkout/promote/production"); strings.Contains(page.body, "Approve 186") ||
		!strings.Contains(page.body, "nobody approves their own change") {
		t.Error("who may not approve is shown a button, or not why")
	}
	if a := mirek.do(http.MethodPost, "/checkout/promote/production", "", "Accept",
		"application/json"); a.StatusCode != 403 {
		t.Errorf("approving one's own change: %s", a.Status)
	}
}

// What can be said to a deployment is offered while it means something, to those who may.
func TestDeploymentIsSteered(t *testing.T) {
	h := fullBackend()
	b := signedIn(t, console(h), "ada")
	offered := func() (all []string) {
		for _, m := range regexp.MustCompile(`name="act" value="([a-z]+)">`).FindAllStringSubmatch(
			b.get("/checkout/env/production").body, -1) {
			all = append(all, m[1])
		}
		return all
	}
	state := func(of, unit show.State, more func(e *show.Environment)) {
		h.change("checkout", func() {
			r := &h.repos[slices.IndexFunc(h.repos, func(r show.Repository) bool { return r.Name == "checkout" })]
			e := &r.Environments[slices.IndexFunc(r.Environments,
				func(e show.Environment) bool { return e.Name == "production" })]
			e.State, e.Services[0].State, e.Services[0].Instances = of, unit, e.Services[0].Instances[:1]
			more(e)
		})
	}
	stepwise := func(e *show.Environment) { e.Stepwise = true }
	for _, c := range []struct {
		of, unit show.State
		more     func(*show.Environment)
		want     []string
	}{
		{show.Healthy, show.Healthy, func(*show.Environment) {}, nil},
		{show.Converging, show.Healthy, func(*show.Environment) {}, []string{"pause"}},
		{show.Converging, show.Converging, stepwise, []string{"pause", "stop", "skip"}},
		{show.Converging, show.Converging, func(e *show.Environment) { e.Skipped = []string{"web"} },
			[]string{"pause", "stop", "retry"}},
		{show.Failed, show.Failed, func(e *show.Environment) { e.Skipped = nil }, []string{"retry", "retry", "skip"}},
		{show.Converging, show.Converging, func(e *show.Environment) { e.Paused = &show.HoldNote{By: "jun", At: noon} },
			[]string{"continue", "stop", "skip"}},
		{show.Converging, show.Converging, func(e *show.Environment) { e.MayRollback = false }, nil},
	} {
		state(c.of, c.unit, c.more)
		if got := offered(); !slices.Equal(got, c.want) {
			t.Errorf("%s, host %s: %q are offered, want %q", c.of, c.unit, got, c.want)
		}
	}
	for _, form := range []string{"act=stop&reason=slow", "act=retry", "act=retry&host=web", "act=skip&host=web"} {
		if a := b.do(http.MethodPost, "/checkout/env/production", form); a.StatusCode != 303 {
			t.Errorf("%s: %s", form, a.Status)
		}
	}
	if a := b.do(http.MethodPost, "/checkout/env/production", "act=destroy"); a.StatusCode != 400 {
		t.Errorf("another act: %s", a.Status)
	}
	if did, want := h.did(), []string{"stop checkout production slow as ada", "retry checkout production  as ada",
		"retry checkout production web as ada", "skip checkout production web as ada"}; !slices.Equal(did, want) {
		t.Errorf("did %q, want %q", did, want)
	}
}

func TestRollbackAsksForTheName(t *testing.T) {
	h := fullBackend()
	b := signedIn(t, console(h), "ada")
	ask := b.get("/checkout/env/production?rollback=182")
	if !strings.Contains(ask.body, "Roll production back to release 182?") ||
		!strings.Contains(ask.body, "Type <code>production</code>") {
		t.Error("the page does not ask")
	}
	if a := b.do(http.MethodPost, "/checkout/env/production",
		"release=182&confirm=prod&reason=5xx"); a.StatusCode != 422 || !strings.Contains(
		a.body, "Type production; nothing was done.") || !strings.Contains(a.body, "5xx</textarea>") {
		t.Errorf("without the name: %s\n%s", a.Status, a.body)
	}
	for _, form := range []string{"confirm=production", "release=0&confirm=production", "release=x&confirm=production"} {
		if a := b.do(http.MethodPost, "/checkout/env/production", form); a.StatusCode != 400 {
			t.Errorf("%s: %s", form, a.Status)
		}
	}
	if a := b.do(http.MethodPost, "/checkout/env/production",
		"release=182&confirm=production&reason=5xx"); a.StatusCode != 303 || a.Header.Get(
		"Location") != "/checkout/env/production" {
		t.Errorf("roll back: %s to %q", a.Status, a.Header.Get("Location"))
	}
	if did, want := h.did(), []string{`rollback checkout production 182 "5xx" as ada via console`}; !reflect.DeepEqual(did,
		want) {
		t.Errorf("did %v, want %v", did, want)
	}
	for n, why := range map[int]string{181: "never healthy", 183: "declared now",
		99: "choose one that the history offers"} {
		if a := b.get(fmt.Sprintf("/checkout/env/production?rollback=%d", n)); a.StatusCode != 409 ||
			!strings.Contains(a.body, why) {
			t.Errorf("asking to roll back to %d: %s, want 409 with %q", n, a.Status, why)
		}
	}
	body := b.get("/checkout/env/production").body
	for _, n := range []int{182, 180} {
		if !strings.Contains(body, fmt.Sprintf(">Roll back to %d</a>", n)) {
			t.Errorf("release %d was healthy and is not offered", n)
		}
	}
	if strings.Contains(body, "Roll back to 181") || !strings.Contains(body, "never healthy") {
		t.Error("release 181, which failed, is offered or has no reason")
	}
}

// TestJSONSaysTheSame compares the JSON of each page with what the backend says.
func TestJSONSaysTheSame(t *testing.T) {
	h := fullBackend()
	b := signedIn(t, console(h), "ada")
	ctx, a := t.Context(), access.Identity{User: "ada"}
	repo, _ := h.Repository(ctx, a, "checkout")
	env, _ := h.Environment(ctx, a, "checkout", "production")
	promotion, _ := h.Promotion(ctx, a, "checkout", "production")
	change, _ := h.Change(ctx, a, "checkout", 411)
	refused, _ := h.Changes(ctx, a, "checkout", show.ChangeFilter{State: show.Refused})
	history, _ := h.Deployments(ctx, a, "checkout", "production", show.DeploymentFilter{})
	releases, _ := h.Releases(ctx, a, "checkout", show.ReleaseFilter{})
	release, _ := h.Release(ctx, a, "checkout", 186)
	for path, facts := range map[string]any{
		"/":                                homeFacts{h.server, h.repos},
		"/checkout":                        repo,
		"/checkout/queue":                  queueFacts{"checkout", "main", repo.Queue},
		"/checkout/changes?state=refused":  refused,
		"/checkout/env/production/history": history,
		"/checkout/changes/411":            change,
		"/checkout/env":                    environmentsFacts{repo.Environments},
		"/checkout/env/production":         env,
		"/checkout/promote/production":     promotion,
		"/checkout/releases":               releases,
		"/checkout/releases/186":           release,
	} {
		got := b.json(path)
		if got.StatusCode != 200 || got.Header.Get("Content-Type") != "application/json" {
			t.Errorf("%s: %s %s", path, got.Status, got.Header.Get("Content-Type"))
		}
		want, err := json.Marshal(facts)
		if err != nil {
			t.Fatal(err)
		}
		var x, y any
		if err := json.Unmarshal([]byte(got.body), &x); err != nil {
			t.Errorf("%s: %v", path, err)
		}
		if err := json.Unmarshal(want, &y); err != nil {
			t.Fatal(err)
		}
		if path == "/" { // the page orders by landing, the facts are the same
			byName(x)
			byName(y)
		}
		if !reflect.DeepEqual(x, y) {
			t.Errorf("%s: %s\nwant %s", path, got.body, want)
		}
	}
}

// TestALinkToAPromotionStays: it leads to what came of it, however it ended.
func TestALinkToAPromotionStays(t *testing.T) {
	h := fullBackend()
	for i := range h.repos {
		for j := range h.repos[i].Environments {
			for k := range h.repos[i].Environments[j].History {
				d := &h.repos[i].Environments[j].History[k]
				d.Tree = commit(fmt.Sprintf("7e%02d%s", k, h.repos[i].Environments[j].Name[:1]))
			}
		}
	}
	b := signedIn(t, console(h), "ada")
	for path, want := range map[string]string{
		"/checkout/promote/production?tree=6f0a1e2":  "200 Your decision",
		"/checkout/promote/production?tree=7e01p000": "303 /checkout/env/production/" + commit("77e03b1"),
		"/checkout/promote/staging":                  "200 Promoted last",
		"/checkout/promote/staging?tree=7e00s000":    "303 /checkout/env/staging/" + commit("81b20aa"),
		"/checkout/promote/staging?tree=abcdefabc":   "200 was never promoted",
	} {
		a := b.get(path)
		status, what, _ := strings.Cut(want, " ")
		if fmt.Sprint(a.StatusCode) != status || !strings.Contains(a.body+a.Header.Get("Location"), what) {
			t.Errorf("%s: %s %s, want %s\n%s", path, a.Status, a.Header.Get("Location"), want, a.body)
		}
	}
}

// TestChangesAreWithdrawnAndRetried by button, and refused with a reason.
func TestChangesAreWithdrawnAndRetried(t *testing.T) {
	h := fullBackend()
	s := console(h)
	b := signedIn(t, s, "ada")
	for _, c := range []struct{ path, form, want string }{
		{"/checkout/changes/410", "act=withdraw", "303 /checkout/changes/410"},
		{"/checkout/changes/411", "act=retry", "303 /checkout/changes"},
		{"/checkout/changes/411", "act=other", "400 "},
		{"/checkout/changes/9999", "act=retry", "404 "},
	} {
		a := b.do(http.MethodPost, c.path, c.form, "Sec-Fetch-Site", "same-origin")
		if got := fmt.Sprintf("%d %s", a.StatusCode, a.Header.Get("Location")); got != c.want {
			t.Errorf("%s %s: %s, want %s", c.path, c.form, got, c.want)
		}
	}
	if a := signedIn(t, s, "mirek").do(http.MethodPost, "/checkout/changes/410", "act=withdraw"); a.StatusCode != 403 ||
		!strings.Contains(a.body, "not yours") {
		t.Errorf("another user's change: %s", a.Status)
	}
	want := []string{"withdraw checkout 410 as ada via console", "retry checkout 411 as ada via console"}
	if did := h.did(); !reflect.DeepEqual(did, want) {
		t.Errorf("did %v, want %v", did, want)
	}
	if a := b.get("/checkout/changes/409"); strings.Contains(a.body, `name="act"`) {
		t.Error("a landed change can be acted on")
	}
}

// The log of an earlier build has an address, as text too, and is not taken for the newest.
func TestLogOfAnEarlierBuild(t *testing.T) {
	b := signedIn(t, console(fullBackend()), "ada")
	a := b.get("/checkout/changes/411?build=e47110000000&line=1")
	for _, want := range []string{`id="L1"`, "legacy_code of an earlier build", "another build of this change",
		`/checkout/changes/411/log.txt?build=e47110000000"`, `name="build" value="e47110000000"`} {
		if !strings.Contains(a.body, want) {
			t.Errorf("the page lacks %s", want)
		}
	}
	for _, not := range []string{`id="L1086"`, "/events?"} {
		if strings.Contains(a.body, not) {
			t.Errorf("the page has %s", not)
		}
	}
	if a := b.get("/checkout/changes/411/log.txt?build=e47110000000"); !strings.Contains(a.body, "| legacy_code of an earlier") {
		t.Errorf("as text: %s\n%s", a.Status, a.body)
	}
	for _, path := range []string{"/checkout/changes/411?build=0123456789ab", "/checkout/changes/411/log.txt?build=x",
		"/checkout/changes/409?build=e47110000000"} {
		if a := b.get(path); a.StatusCode != 404 {
			t.Errorf("%s: %s", path, a.Status)
		}
	}
	if a := b.get("/search?q=tax"); !strings.Contains(a.body, `href="/checkout/changes/411?build=e47110000000&amp;line=88#L88"`) ||
		!strings.Contains(a.body, "3 in 2 builds") || !strings.Contains(a.body, "/checkout/schedules/nightly/7/log.txt") {
		t.Errorf("a search links no lines:\n%s", a.body)
	}
}

// TestLinesOfALongLogAreFound: by number and by text, wherever they are.
func TestLinesOfALongLogAreFound(t *testing.T) {
	b := signedIn(t, console(fullBackend()), "ada")
	for _, c := range []struct {
		query     string
		has, hasn []string
	}{
		{"", []string{`id="L1086"`, "1,059 lines before these"}, []string{`id="L40"`}},
		{"?line=40", []string{`id="L40"`, `id="L15"`, `id="L65"`, `id="L1086"`, "lines between these"},
			[]string{`id="L14"`, `id="L66"`}},
		{"?find=Package77x", []string{"No line has “Package77x”"}, nil},
		{"?find=PACKAGE77 ", []string{`hit" id="L78"`, `<a href="#L78">`, `id="L1086"`}, []string{`id="L80"`}},
		{"?find=legacy_code", []string{`<a href="#L1082">2 lines</a> have`, `hit" id="L1082"`, `hit" id="L1088"`}, nil},
		{"?line=-3", []string{`id="L1086"`}, nil},
		{"?line=99999999999999999999", []string{`id="L1086"`}, nil},
	} {
		a := b.get("/checkout/changes/411" + strings.ReplaceAll(c.query, " ", "%20"))
		if a.StatusCode != 200 {
			t.Errorf("%s: %s", c.query, a.Status)
		}
		for _, want := range c.has {
			if !strings.Contains(a.body, want) {
				t.Errorf("%q lacks %s", c.query, want)
			}
		}
		for _, not := range c.hasn {
			if strings.Contains(a.body, not) {
				t.Errorf("%q has %s", c.query, not)
			}
		}
	}
}

func byName(home any) {
	slices.SortFunc(home.(map[string]any)["repositories"].([]any), func(a, b any) int {
		return strings.Compare(a.(map[string]any)["repository"].(string), b.(map[string]any)["repository"].(string))
	})
}

func TestProblems(t *testing.T) {
	h := fullBackend()
	b := signedIn(t, console(h), "ada")
	for path, want := range map[string]string{
		"/chekout":                      `<a href="/checkout">checkout</a>`,
		"/checkout/que":                 `<a href="/checkout/queue">checkout/queue</a>`,
		"/checkout/environment":         `<a href="/checkout/env">checkout/env</a>`,
		"/checkout/env/prodution":       `<a href="/checkout/env/production">production</a>`,
		"/checkout/promote/stagin":      `<a href="/checkout/env/staging">staging</a>`,
		"/checkout/changes/9999":        `<a href="/checkout/changes/417">change 417, the newest</a>`,
		"/checkout/changes/0411":        `<a href="/checkout/changes">all changes of checkout</a>`,
		"/checkout/changes/x":           `<a href="/checkout/changes">all changes of checkout</a>`,
		"/checkout/releases/900":        `<a href="/checkout/releases/186">release 186, the newest</a>`,
		"/checkout/changes/406/log.txt": `<a href="/checkout/changes/406">change 406</a>`,
	} {
		a := b.get(path)
		if a.StatusCode != 404 || !strings.Contains(a.body, want) {
			t.Errorf("%s: %s, want 404 with %s\n%s", path, a.Status, want, a.body)
		}
		if j := b.json(path); j.StatusCode != 404 || !strings.Contains(j.body, `"nearest"`) {
			t.Errorf("%s as JSON: %s %s", path, j.Status, j.body)
		}
	}
	if a := b.get("/checkout/releases/186/sbom.json"); a.StatusCode != 200 || !strings.Contains(a.body, "CycloneDX") ||
		a.Header.Get("Content-Type") != "application/vnd.cyclonedx+json; version=1.6" {
		t.Errorf("a bill of materials: %s %v %s", a.Status, a.Header, a.body)
	}
	if a := b.get("/checkout/releases/183/sbom.json"); a.StatusCode != 404 {
		t.Errorf("one that is not there: %s", a.Status)
	}
	if a := b.get("/checkout/releases/186/provenance.json"); a.StatusCode != 200 ||
		a.body != `{"payloadType":"application/vnd.in-toto+json"}`+"\n" ||
		a.Header.Get("Content-Type") != "application/vnd.dsse.envelope.v1+json" {
		t.Errorf("a provenance: %s %v %s", a.Status, a.Header, a.body)
	}
	if a := b.get("/checkout/releases/183/provenance.json"); a.StatusCode != 404 {
		t.Errorf("one that cannot be read: %s", a.Status)
	}
	if a := b.do(http.MethodDelete, "/checkout/env/production", ""); a.StatusCode != 405 ||
		a.Header.Get("Allow") != "GET, HEAD, POST" {
		t.Errorf("DELETE: %s, Allow %q", a.Status, a.Header.Get("Allow"))
	}
	if a := b.do(http.MethodPost, "/checkout", "a=b"); a.StatusCode != 405 {
		t.Errorf("POST to a page without an act: %s", a.Status)
	}
	if a := b.get("/checkout/changes?state=sideways"); a.StatusCode != 400 {
		t.Errorf("an unknown filter: %s", a.Status)
	}
	if a := b.get("/checkout/queue/"); a.StatusCode != 308 || a.Header.Get("Location") != "/checkout/queue" {
		t.Errorf("a slash too many: %s to %q", a.Status, a.Header.Get("Location"))
	}
	for _, path := range []string{"//checkout", "/checkout//queue", "/checkout/./queue", "/checkout/../checkout",
		"/checkout%2fqueue", "/checkout;x/queue", "/checkout/..;/queue", "/%2e%2e/checkout", `/checkout%5cqueue`, "/checkout/queue%00", "/checkout/%71ueue%25"} {
		if a := b.get(path); a.StatusCode != 404 {
			t.Errorf("%s: %s, want 404", path, a.Status)
		}
	}
}

func TestFaultsAreOurOwnAndHaveAnID(t *testing.T) {
	var journal strings.Builder
	h := fullBackend()
	s := console(h)
	s.Log = logTo(&journal)
	b := signedIn(t, s, "ada")
	h.broken = errors.New("disk /secret/place is on fire")
	a := b.get("/checkout")
	j := b.json("/checkout")
	if a.StatusCode != 500 || strings.Contains(a.body+j.body, "secret") {
		t.Fatalf("%s\n%s", a.Status, a.body)
	}
	var p problem
	if err := json.Unmarshal([]byte(j.body), &p); err != nil || p.ID == "" ||
		!strings.Contains(journal.String(), "id="+p.ID) || !strings.Contains(journal.String(), "on fire") {
		t.Errorf("%v: the id %q does not find the line in %s", err, p.ID, journal.String())
	}
	for kind, status := range map[show.Kind]int{show.Forbidden: 403, show.Again: 503, show.Waiting: 409} {
		h.broken = &show.Error{Kind: kind, What: "it is so", Where: []string{"server.yaml:3: said so"},
			Hint: "group release may"}
		a := b.get("/checkout")
		if a.StatusCode != status || !strings.Contains(a.body, "It is so") ||
			!strings.Contains(a.body, "group release may") || !strings.Contains(a.body, "server.yaml:3") {
			t.Errorf("%s: %s\n%s", kind, a.Status, a.body)
		}
		if status == 503 && a.Header.Get("Retry-After") == "" {
			t.Error("503 does not say when to come again")
		}
	}
	h.broken = nil
	s.Backend = panics{h}
	a = signedIn(t, s, "ada").get("/checkout")
	if a.StatusCode != 500 || strings.Contains(a.body, "goroutine") {
		t.Errorf("a panic: %s", a.Status)
	}
}

// panics is a Backend that breaks when a repository is asked for.
type panics struct{ *backend }

func (panics) Repository(context.Context, access.Identity, string) (show.Repository, error) {
	panic("broken invariant")
}

func logTo(w io.Writer) *slog.Logger { return slog.New(slog.NewTextHandler(w, nil)) }

func TestPlainAddresses(t *testing.T) {
	b := signedIn(t, console(fullBackend()), "")
	if a := b.get("/healthz"); a.body != "ok\n" {
		t.Errorf("healthz: %q", a.body)
	}
	if a := b.get("/allowed-signers"); !strings.HasPrefix(a.body, "headgate ssh-ed25519") {
		t.Errorf("allowed-signers: %q", a.body)
	}
	a := b.get("/assets/console.css")
	if a.Header.Get("Content-Type") != "text/css; charset=utf-8" || a.Header.Get("Cache-Control") != "no-cache" {
		t.Errorf("console.css: %v", a.Header)
	}
	if again := b.get("/assets/console.css", "If-None-Match", a.Header.Get("ETag")); again.StatusCode != 304 {
		t.Errorf("console.css again: %s", again.Status)
	}
	if kept := b.get("/assets/console.css?v=" +
		strings.Trim(a.Header.Get("ETag"), `"`)); !strings.Contains(kept.Header.Get("Cache-Control"), "immutable") {
		t.Errorf("console.css by its hash: %v", kept.Header)
	}
	if a := b.get("/assets/../web.go"); a.StatusCode == 200 {
		t.Error("assets leave their folder")
	}
}

// TestNoRepositoryHidesAnAddress: what the console answers beside repositories
// is a name that no repository may have.
func TestNoRepositoryHidesAnAddress(t *testing.T) {
	for _, rt := range routes() {
		first, _, _ := strings.Cut(strings.TrimPrefix(rt.pattern, "/"), "/")
		if first == "{repo}" || first == "{$}" {
			continue
		}
		if !slices.Contains(access.Reserved(), first) {
			t.Errorf("%s: a repository may be called %s", rt.pattern, first)
		}
	}
}

// TestMountedBesideOthers: the console takes what nobody else takes.
func TestMountedBesideOthers(t *testing.T) {
	says := func(what string) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, what) })
	}
	mux := http.NewServeMux()
	mux.Handle("/", console(fullBackend()).Handler())
	mux.Handle("/webhooks/{forge}", says("webhooks"))
	mux.Handle("/metrics", says("metrics"))
	mux.Handle("/{repo}/info/refs", says("refs"))

	for _, c := range []struct{ method, path, want string }{
		{"POST", "/webhooks/github", "webhooks"},
		{"GET", "/metrics", "metrics"},
		{"GET", "/checkout/info/refs", "refs"},
		{"GET", "/sign-in", "Sign in with your SSH key"},
	} {
		rec := httptest.NewRecorder()
		mux.ServeHTTP(rec, httptest.NewRequest(c.method, c.path, nil))
		if !strings.Contains(rec.Body.String(), c.want) {
			t.Errorf("%s %s: %d %s", c.method, c.path, rec.Code, rec.Body)
		}
	}
}

// A series of coverage is drawn from its lowest to its highest, and what hardly differs is
// drawn as that.
func TestCoverageLine(t *testing.T) {
	series := func(percents ...float64) show.CoverageSeries {
		s := show.CoverageSeries{Report: "unit", Branch: "main"}
		for i, p := range percents {
			s.Points = append(s.Points, show.CoveragePoint{Change: i + 1, Percent: p})
		}
		return s
	}
	for want, s := range map[string]show.CoverageSeries{
		"M1.0 20.0L48.0 2.0L95.0 11.0": series(60, 80, 70),
		"M1.0 20.0L95.0 18.2":          series(60, 60.1),
		"M1.0 20.0":                    series(42),
		"M1.0 2.0L95.0 20.0":           series(100, 0),
	} {
		if l := coverageLineOf("hello", s); l.Path != want {
			t.Errorf("%v: %s, want %s", s.Points, l.Path, want)
		}
	}
	l := coverageLineOf("hello", series(60, 80, 70))
	if l.Since != "-10.0" || l.Low != "60.0%" || l.High != "80.0%" || l.Href != "/hello/changes/3" ||
		l.Said != "coverage of unit: 70.0% of lines covered in the newest build, 60.0 to 80.0 in the last 3, +10.0 since the first of them" {
		t.Errorf("%+v", l)
	}
}
