package forge

import (
	"cmp"
	"errors"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/headgate-cd/headgate/e2e/forges"
	"github.com/headgate-cd/headgate/gitd/repo"
	"github.com/headgate-cd/headgate/gitd/secret"
)

// forged is a stand-in with a repository in which main has one commit, and a clone
// of it.
type forged struct {
	*forges.Forge
	cloned
}

// cloned is a forge's repository and a clone of it: git and clone of a standIn, not its
// server.
type cloned struct{ *standIn }

func newForged(t *testing.T, kind Kind) forged {
	t.Helper()
	f, err := forges.New(string(kind), t.TempDir(), fetchToken)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(f.Close)
	return forged{f, newCloned(t, f.Place)}
}

func newCloned(t *testing.T, at forges.Place) cloned {
	t.Helper()
	s := &standIn{t: t, dir: at.Dir, url: at.URL, clone: t.TempDir() + "/clone"}
	s.git("", "clone", "-q", at.Push, s.clone)
	s.git(s.clone, "checkout", "-q", "-B", "main")
	s.commit("first")
	s.git(s.clone, "push", "-q", "origin", "HEAD:main")
	return cloned{s}
}

// push puts a new commit at a ref of the forge, on top of main.
func (f cloned) push(subject, ref string) repo.Hash {
	f.t.Helper()
	f.git(f.clone, "checkout", "-q", "main")
	f.commit(subject)
	f.git(f.clone, "push", "-q", "-f", "origin", "HEAD:"+ref)
	id := strings.TrimSpace(f.git(f.clone, "rev-parse", "HEAD"))
	f.git(f.clone, "reset", "-q", "--hard", "HEAD~1")
	h, _ := repo.ParseHash(id)
	return h
}

// TestAPI is the suite that all forges pass, with their stand-ins; and the Gitea or
// Forgejo that GITEA_BIN names, if it does.
func TestAPI(t *testing.T) {
	t.Parallel()
	for _, kind := range []Kind{GitHub, Gitea, GitLab} {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			f := newForged(t, kind)
			testAPI(t, kind, f.Forge, f.cloned)
		})
	}
	program := os.Getenv("GITEA_BIN")
	if program == "" {
		t.Log("GITEA_BIN names no Gitea or Forgejo: this suite ran against stand-ins alone")
		return
	}
	t.Run("real-gitea", func(t *testing.T) {
		t.Parallel()
		g, err := forges.OpenGitea(program, t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(g.Close)
		nothingPushed(t, Gitea, g.Place)
		testAPI(t, Gitea, g, newCloned(t, g.Place))
	})
}

// TestNothingPushedYet: a repository in which there is nothing is followed, too.
func TestNothingPushedYet(t *testing.T) {
	t.Parallel()
	for _, kind := range []Kind{GitHub, Gitea, GitLab} {
		f, err := forges.New(string(kind), t.TempDir(), fetchToken)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(f.Close)
		nothingPushed(t, kind, f.Place)
	}
}

func nothingPushed(t *testing.T, kind Kind, at forges.Place) {
	t.Helper()
	asked := func(token string) ([]Request, error) {
		api, err := openAPI(kind, at.URL, forges.Name, fixed{secret.NewValue([]byte(token))}, nil)
		if err != nil {
			t.Fatal(err)
		}
		return api.Requests(t.Context())
	}
	if list, err := asked(at.Token); err != nil || len(list) > 0 {
		t.Errorf("%s: %+v, %v", kind, list, err)
	}
	if _, err := asked("another"); err == nil {
		t.Errorf("%s: a wrong token reads it", kind)
	}
}

func testAPI(t *testing.T, kind Kind, people forges.People, clone cloned) {
	at := people.Where()
	api, err := openAPI(kind, at.URL, forges.Name, fixed{secret.NewValue([]byte(at.Token))}, &answers{})
	if err != nil {
		t.Fatal(err)
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}

	// Requests, more than one page of them, of branches and of a fork.
	heads := map[int]repo.Hash{}
	for i, branch := range []string{"one", "two", "three", "four"} {
		heads[i+1] = clone.push(branch, "refs/heads/"+branch)
		_, err := people.Propose("ann", branch, false)
		must(err)
	}
	heads[5] = clone.push("theirs", "refs/forks/theirs")
	_, err = people.Propose("eve", "theirs", true)
	must(err)
	list, err := api.Requests(t.Context())
	must(err)
	if len(list) != 5 {
		t.Fatalf("%d requests: %+v", len(list), list)
	}
	for i, r := range list {
		n, author := i+1, "ann"
		if n == 5 {
			author = "eve"
		}
		if r.Number != n || r.Head != heads[n] || r.State != Open || r.Target != "main" || r.Author.Login != author ||
			r.Fork != (n == 5) {
			t.Errorf("request %d: %+v", n, r)
		}
		one, err := api.Request(t.Context(), n)
		must(err)
		if one != r {
			t.Errorf("request %d alone: %+v", n, one)
		}
	}
	standIn, isOne := people.(*forges.Forge)
	if again, err := api.Requests(t.Context()); err != nil || !slices.Equal(again, list) {
		t.Errorf("asked again: %+v, %v", again, err)
	}
	if isOne && kind != Gitea && standIn.Unchanged() < 2 { // pages
		t.Errorf("%d answers were as before", standIn.Unchanged())
	}
	if _, err := api.Request(t.Context(), 99); !errors.Is(err, ErrNotFound) {
		t.Errorf("a request that is not there: %v", err)
	}

	// A request of ours: once, given other words, closed, and found by its branch.
	clone.push("proposed", "refs/heads/promote/x")
	clone.push("declared", "refs/heads/env/x")
	if _, err := api.Newest(t.Context(), "promote/x", "env/x"); !errors.Is(err, ErrNotFound) {
		t.Errorf("a request that is not there: %v", err)
	}
	ours, err := api.Open(t.Context(), "promote/x", "env/x", "Promote", "words")
	must(err)
	if _, err := api.Open(t.Context(), "promote/x", "env/x", "Promote", "words"); err == nil {
		t.Error("the same request was opened twice")
	}
	must(api.Edit(t.Context(), ours, "Promote it", "other words"))
	is, err := people.Request(ours)
	must(err)
	if is.Title != "Promote it" || is.Body != "other words" || is.State != "open" {
		t.Errorf("%+v", is)
	}
	must(api.Close(t.Context(), ours, repo.Zero))
	if found, err := api.Newest(t.Context(), "promote/x", "env/x"); err != nil || found.Number != ours ||
		found.State != Closed {
		t.Errorf("%+v, %v", found, err)
	}
	next, err := api.Open(t.Context(), "promote/x", "env/x", "Promote", "words")
	must(err)
	must(people.Merge("kim", next, false))
	if merged, err := api.Request(t.Context(), next); err != nil || merged.State != Merged ||
		merged.Merger.Login != "kim" || merged.Merger.ID == 0 || merged.Branch != "promote/x" {
		t.Errorf("%+v, %v", merged, err)
	}

	// The webhook for an address: made once, with another secret the second time.
	if err := api.PingHook(t.Context(), "http://127.0.0.1:1/here"); !errors.Is(err, ErrNotFound) {
		t.Errorf("a webhook that is not there: %v", err)
	}
	for _, address := range []string{"http://127.0.0.1:1/a", "http://127.0.0.1:1/b", "http://127.0.0.1:1/c",
		"http://127.0.0.1:1/here"} {
		must(api.SetHook(t.Context(), address, "first"))
	}
	must(api.SetHook(t.Context(), "http://127.0.0.1:1/here", "second"))
	if all := people.Hooks(); len(all) != 4 || isOne && (all["http://127.0.0.1:1/here"] != "second" ||
		all["http://127.0.0.1:1/a"] != "first") {
		t.Errorf("%v", all)
	}
	must(api.PingHook(t.Context(), "http://127.0.0.1:1/here"))
	for _, address := range []string{"http://127.0.0.1:1/b", "http://127.0.0.1:1/here", "http://127.0.0.1:1/other"} {
		want := map[string]HookState{"http://127.0.0.1:1/b": HookOff, "http://127.0.0.1:1/here": HookOn}[address]
		if want == HookOff {
			must(people.SwitchOff(address))
		}
		if state, err := api.Hook(t.Context(), address); err != nil || state != cmp.Or(want, HookNone) {
			t.Errorf("%s is %s, %v", address, state, err)
		}
	}
	must(api.SetHook(t.Context(), "http://127.0.0.1:1/b", "first"))
	if state, err := api.Hook(t.Context(), "http://127.0.0.1:1/b"); err != nil || state == HookOff && kind != GitLab {
		t.Errorf("made again it is %s, %v", state, err)
	}

	// A check, again the same, and another; and other words for what it says.
	for _, c := range []Check{
		{State: CheckPending, Text: "queued"}, {State: CheckPending, Text: "queued"},
		{State: CheckSuccess, Text: strings.Repeat("é", 300)}, {State: CheckFailure, Text: "red"},
		{State: CheckSuccess, Text: "green"}, {State: CheckSuccess, Text: "landed"}, {State: CheckFailure, Text: "no"},
		{State: CheckFailure, Text: "red"},
	} {
		c.URL = "http://x/1"
		must(api.Publish(t.Context(), heads[1], c))
		if all := people.Statuses(heads[1].String()); all[len(all)-1].Description != c.Text && len(c.Text) < 140 {
			t.Errorf("it says %+v, not %+v", all[len(all)-1], c)
		}
	}
	said := people.Statuses(heads[1].String())
	if len(said) < 3 || said[0].Context != "headgate" || said[0].State != "pending" ||
		said[len(said)-1].Description != "red" ||
		!strings.HasPrefix(said[len(said)-1].State, "fail") {
		t.Errorf("statuses %+v", said)
	}

	// Comments, more than one page of them, ours edited.
	for i := range 5 {
		_, err = people.Say("ann", 1, strings.Repeat("x", i+1))
		must(err)
	}
	id, err := api.Write(t.Context(), 1, 0, "ours")
	must(err)
	if again, err := api.Write(t.Context(), 1, id, "ours, edited"); err != nil || again != id {
		t.Errorf("edited %d as %d: %v", id, again, err)
	}
	_, err = people.Say("ann", 2, "elsewhere")
	must(err)
	comments, err := api.Comments(t.Context(), 1, time.Time{})
	must(err)
	if len(comments) != 6 || comments[0].Text != "x" || comments[0].Author.Login != "ann" || comments[5].ID != id ||
		comments[5].Text != "ours, edited" {
		t.Errorf("comments %+v", comments)
	}
	if none, err := api.Comments(t.Context(), 1, time.Now().Add(time.Hour)); err != nil || len(none) != 0 {
		t.Errorf("comments of the future: %+v, %v", none, err)
	}

	// Permission is what it is at the moment of asking.
	ann, other := comments[0].Author, Person{Login: "zoe", ID: 3}
	for level, want := range map[string]bool{"write": true, "admin": true, "read": false, "": false} {
		must(people.Permit("ann", level))
		if may, err := api.MayWrite(t.Context(), ann); may != want || err != nil {
			t.Errorf("ann as %q: %v, %v", level, may, err)
		}
	}
	if may, err := api.MayWrite(t.Context(), other); may || err != nil {
		t.Errorf("another user: %v, %v", may, err)
	}

	// A head that has landed closes its request, as one that is merged.
	clone.git(clone.clone, "push", "-q", "origin", heads[2].String()+":refs/heads/main")
	must(api.Close(t.Context(), 2, heads[2]))
	must(api.Close(t.Context(), 2, heads[2]))
	if r, err := api.Request(t.Context(), 2); err != nil || r.State != Merged {
		t.Errorf("landed: %+v, %v", r, err)
	}
	must(api.Close(t.Context(), 3, heads[4])) // which the forge does not find in main
	if r, err := api.Request(t.Context(), 3); err != nil || r.State != Closed {
		t.Errorf("closed: %+v, %v", r, err)
	}

	// The token is in no error, and a wrong one is not taken.
	wrong, err := openAPI(kind, at.URL, forges.Name, fixed{secret.NewValue([]byte("not-the-token"))}, nil)
	must(err)
	if _, err := wrong.Requests(t.Context()); err == nil || strings.Contains(err.Error(), "not-the-token") {
		t.Errorf("a wrong token: %v", err)
	}

	if !isOne {
		return // it is busy when it is
	}
	// A forge that is busy says until when; other trouble is an error, too.
	var busy *BusyError
	standIn.Break(forges.Fault{Status: 429, RetryAfter: "7"})
	if _, err := api.Requests(t.Context()); !errors.As(err, &busy) || busy.After != 7*time.Second {
		t.Errorf("429: %v", err)
	}
	standIn.Break(forges.Fault{Status: 403, RetryAfter: "9"})
	if err := api.Publish(t.Context(), heads[1], Check{State: CheckPending}); !errors.As(err, &busy) ||
		busy.After != 9*time.Second {
		t.Errorf("403 with Retry-After: %v", err)
	}
	standIn.Break(forges.Fault{Status: 502})
	if _, err := api.Request(t.Context(), 1); err == nil || errors.As(err, new(*BusyError)) ||
		errors.Is(err, ErrNotFound) {
		t.Errorf("502: %v", err)
	}
}

func TestBusy(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC)
	for _, c := range []struct {
		status int
		header map[string]string
		want   time.Duration // 0: it is not busy
	}{
		{200, map[string]string{"Retry-After": "5"}, 0},
		{403, nil, 0},
		{403, map[string]string{"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "1795867290"}, 90 * time.Second},
		{403, map[string]string{"X-RateLimit-Remaining": "0"}, time.Minute},
		{429, nil, time.Minute},
		{429, map[string]string{"Retry-After": "0"}, time.Second},
		{429, map[string]string{"Retry-After": "-3"}, time.Second},
		{429, map[string]string{"Retry-After": "99999999999"}, maxBusy},
		{503, map[string]string{"Retry-After": "Sat, 28 Nov 2026 12:02:00 GMT"}, 2 * time.Minute},
		{503, nil, 0},
	} {
		r := &http.Response{StatusCode: c.status, Header: http.Header{}}
		for k, v := range c.header {
			r.Header.Set(k, v)
		}
		busy := busyOf(r, now)
		if (busy != nil) != (c.want > 0) || busy != nil && busy.After != c.want {
			t.Errorf("%d %v: %+v, want %v", c.status, c.header, busy, c.want)
		}
	}
}

func TestAPIBase(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		kind     Kind
		url, is  string
		repoName string
	}{
		{GitHub, "https://github.com/owner/name.git", "https://api.github.com/", "owner/name"},
		{GitHub, "https://git.example.com/owner/name", "https://git.example.com/api/v3/", "owner/name"},
		{Gitea, "https://example.com/git/owner/name.git", "https://example.com/git/api/v1/", "owner/name"},
		{GitLab, "https://gitlab.com/a/b/c.git", "https://gitlab.com/api/v4/", "a/b/c"},
		{GitLab, "https://gitlab.com/other.git", "", "a/b/c"},
	} {
		got, err := apiBase(c.kind, c.url, c.repoName)
		if (err != nil) != (c.is == "") || err == nil && got.String() != c.is {
			t.Errorf("%s: %v, %v", c.url, got, err)
		}
	}
}

// FuzzRetryAfter: whatever a busy forge says, it is asked again, in the end.
func FuzzRetryAfter(f *testing.F) {
	for _, seed := range []string{"", "0", "7", "-3", "99999999999999999999", "Sat, 28 Nov 2026 12:02:00 GMT",
		"Sat, 28 Nov 9999 12:02:00 GMT", "1e9"} {
		f.Add(429, seed, seed)
	}
	now := time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC)
	f.Fuzz(func(t *testing.T, status int, after, reset string) {
		r := &http.Response{StatusCode: status, Header: http.Header{"Retry-After": {after}, "X-Ratelimit-Reset": {reset}}}
		busy := busyOf(r, now)
		if status == 429 && busy == nil || busy != nil && (busy.After < time.Second || busy.After > maxBusy) {
			t.Errorf("%d, %q, %q: %+v", status, after, reset, busy)
		}
	})
}
