package forge

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-github/v60/github"

	"github.com/headgate-cd/headgate/e2e/forges"
	"github.com/headgate-cd/headgate/gitd/access"
	"github.com/headgate-cd/headgate/gitd/secret"
)

// appKeys are the key of an App, and another one.
var appKeys = sync.OnceValue(func() (keys [2]*rsa.PrivateKey) {
	for i := range keys {
		var err error
		if keys[i], err = rsa.GenerateKey(rand.Reader, 2048); err != nil {
			panic(err)
		}
	}
	return keys
})

func pemOf(key *rsa.PrivateKey) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)}))
}

// clock is one that a test moves.
type clock struct{ now atomic.Pointer[time.Time] }

func newClock() *clock {
	c := &clock{}
	at := time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC)
	c.now.Store(&at)
	return c
}

func (c *clock) Now() time.Time { return *c.now.Load() }

func (c *clock) advance(d time.Duration) {
	at := c.Now().Add(d)
	c.now.Store(&at)
}

// appTest is a hub with a connection that shows a GitHub App, and the stand-in where it
// is installed, each with a clock.
type appTest struct {
	*hubTest
	forged
	app          forges.App
	ours, theirs *clock
}

const appID, appInstallation = 4711, 99

// allPermissions are what doc/forges.md has an App be given.
var allPermissions = map[string]string{
	"metadata": "read", "contents": "write", "pull_requests": "write", "statuses": "write", "repository_hooks": "write",
	"workflows": "write", "deployments": "write", "actions": "read", "administration": "write", "issues": "write",
}

func newAppTest(t *testing.T, more string) *appTest {
	t.Helper()
	a := &appTest{hubTest: newHubTest(t), forged: newForged(t, GitHub), ours: newClock(), theirs: newClock()}
	a.app = forges.App{
		ID:           appID,
		Installation: appInstallation,
		Key:          &appKeys()[0].PublicKey,
		Permissions:  allPermissions,
		Now:          a.theirs.Now,
	}
	a.Install(a.app)
	a.setKey(pemOf(appKeys()[0]))
	a.hub.apps.now = a.ours.Now
	a.hub.Webhook = func(string) string { return a.server.URL + "/webhooks/hub" }
	a.configure(more)
	return a
}

func (a *appTest) setKey(value string) {
	a.hubTest.t.Helper()
	a.must(a.hub.Secrets.Set(secret.ID{Name: "app-key"}, secret.NewValue([]byte(value)), "ada", time.Now()))
}

// configure has the connection say more, behind its App.
func (a *appTest) configure(more string) {
	a.hubTest.t.Helper()
	config, err := access.Parse("server.yaml", fmt.Appendf(nil, `users: {ada: {keys: [%s]}}
groups: {administrators: [ada]}
repositories: {hello: {}, pub: {}}
connections:
  hub: {forge: github, repository: owner/name, url: %q, mirror: hello, secrets: [hook], app: {id: %d, key: app-key%s
`, "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIIAaU4pYEWGd/yv4FbWBRCersPHrGngbEzqibRLlmbNX", a.URL, appID,
		cmp.Or(more, "}, requests: true}")))
	if err != nil {
		a.hubTest.t.Fatal(err)
	}
	a.hub.Access = func() *access.Config { return config }
}

// use fetches and asks the API, as a connection at work does.
func (a *appTest) use() error {
	w, err := a.hub.worker("hub")
	if err != nil {
		return err
	}
	if _, err := w.sync(a.hubTest.t.Context()); err != nil {
		return err
	}
	api, err := a.api()
	if err == nil {
		_, err = api.Requests(a.hubTest.t.Context())
	}
	return err
}

func (a *appTest) api() (API, error) {
	w, err := a.hub.worker("hub")
	if err != nil {
		return nil, err
	}
	m, _, err := w.remote()
	if err != nil {
		return nil, err
	}
	return openAPI(m.kind, a.URL, forges.Name, m.credential, nil)
}

func (a *appTest) must(err error) {
	a.hubTest.t.Helper()
	if err != nil {
		a.hubTest.t.Fatal(err)
	}
}

// given wants so many tokens to have been given, none ended.
func (a *appTest) given(n int, when string) {
	a.hubTest.t.Helper()
	if all := a.Given(); len(all) != n {
		a.hubTest.t.Fatalf("%s: %d tokens were given, not %d: %v", when, len(all), n, all)
	}
}

// TestAppTokens: one token serves git and the API until a few minutes before its end; one
// that is refused is replaced once, and everything goes on.
func TestAppTokens(t *testing.T) {
	t.Parallel()
	a := newAppTest(t, "")
	for range 3 {
		a.must(a.use())
	}
	a.given(1, "used thrice")
	both := func(d time.Duration) {
		a.ours.advance(d)
		a.theirs.advance(d)
	}
	both(54 * time.Minute)
	a.must(a.use())
	a.given(1, "after 54 minutes")

	// A forge that gives no other now is no reason not to use what is good still.
	both(2 * time.Minute)
	a.Break(forges.Fault{Status: 502, Only: "access_tokens"}, forges.Fault{Status: 502, Only: "access_tokens"})
	a.must(a.use())
	a.given(1, "while GitHub gives none")
	a.must(a.use())
	a.given(2, "after 56 minutes")

	// One that somebody has revoked: for git, for a question and for what has a body.
	a.Revoke()
	a.must(a.use())
	a.given(1, "revoked before a fetch")
	head := a.push("one", "refs/heads/one")
	_, err := a.Propose("ann", "one", false)
	a.must(err)
	api, err := a.api()
	a.must(err)
	a.Revoke()
	a.must(api.Publish(t.Context(), head, Check{State: CheckPending, Text: "queued"}))
	if all := a.Statuses(head.String()); len(all) != 1 || all[0].Description != "queued" {
		t.Fatalf("%+v", all)
	}
	a.Revoke()
	if list, err := api.Requests(t.Context()); err != nil || len(list) != 1 {
		t.Fatalf("%+v, %v", list, err)
	}
	a.given(1, "revoked before a question")

	// The stand-in refuses one that has ended.
	for token := range a.Given() {
		late, err := openAPI(GitHub, a.URL, forges.Name, fixed{secret.NewValue([]byte(token))}, nil)
		a.must(err)
		if _, err := late.Requests(t.Context()); err != nil {
			t.Fatal(err)
		}
		both(61 * time.Minute)
		if _, err := late.Requests(t.Context()); err == nil || !strings.Contains(err.Error(), "401") {
			t.Fatalf("an ended token: %v", err)
		}
	}
	a.must(a.use())

	// Many at once ask once.
	a.Revoke()
	w, err := a.hub.worker("hub")
	a.must(err)
	m, _, err := w.remote()
	a.must(err)
	m.credential.(*installation).forget()
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() {
			if _, err := m.credential.token(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	a.given(1, "asked for by 20")
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	m.credential.(*installation).turn <- struct{}{} // somebody is asking
	if _, err := m.credential.token(gone); !errors.Is(err, context.Canceled) {
		t.Errorf("who has gone waits: %v", err)
	}
	if log := a.log.String(); strings.Contains(log, "ghs_") || strings.Contains(log, "PRIVATE KEY") {
		t.Errorf("the log holds a secret:\n%s", log)
	}
}

// TestAppRights: a token is for the one repository and what the connection does there.
func TestAppRights(t *testing.T) {
	t.Parallel()
	full := map[string]string{"metadata": "read", "contents": "write", "workflows": "write", "pull_requests": "write",
		"statuses": "write", "deployments": "write", "actions": "read", "repository_hooks": "write"}
	for more, want := range map[string]map[string]string{
		"}}":                 {"metadata": "read", "contents": "read", "pull_requests": "read", "repository_hooks": "write"},
		"}, requests: true}": full,
		", installation: 99}, requests: true, deployments: true}": full,
	} {
		a := newAppTest(t, more)
		a.must(a.use())
		a.given(1, more)
		for _, got := range a.Given() {
			if !maps.Equal(got, want) {
				t.Errorf("%s: %v", more, got)
			}
		}
	}

	// What is of use and was not given is done without.
	a := newAppTest(t, "")
	a.app.Permissions = map[string]string{"metadata": "read", "contents": "write", "pull_requests": "write",
		"statuses": "write", "repository_hooks": "read"}
	a.Install(a.app)
	a.must(a.use())
	for _, got := range a.Given() {
		if !maps.Equal(got, a.app.Permissions) {
			t.Errorf("%v", got)
		}
	}
}

// TestAppPushes: what lands is pushed by an App, and so is a publication.
func TestAppPushes(t *testing.T) {
	t.Parallel()
	a := newAppTest(t, "")
	a.must(a.use())
	w, err := a.hub.worker("hub")
	a.must(err)
	m, r, err := w.remote()
	a.must(err)
	main, err := r.Ref("refs/heads/main")
	a.must(err)
	a.Revoke()
	a.must(m.push(t.Context(), r, "landed", [20]byte{}, main))
	if at := strings.TrimSpace(a.forged.git(a.forged.dir, "rev-parse", "landed")); at != main.String() {
		t.Errorf("it is at %s", at)
	}

	a.publish(fmt.Sprintf("{forge: github, repository: hello, url: %q, app: {id: %d, key: app-key}, branches: [main]}",
		a.URL, appID))
	a.Revoke()
	at := a.here("refs/heads/main", "more", main)
	stop := a.run()
	defer stop()
	a.eventually("it is published", func() bool {
		return strings.TrimSpace(a.forged.git(a.forged.dir, "rev-parse", "main")) == at.String()
	})
	for _, got := range a.Given() {
		if want := map[string]string{"metadata": "read", "contents": "write", "workflows": "write"}; !maps.Equal(got, want) {
			t.Errorf("%v", got)
		}
	}
}

// TestAppProblems: an App that gets no token says what to do, and goes on once it is done.
func TestAppProblems(t *testing.T) {
	t.Parallel()
	a := newAppTest(t, "")
	without := func(name string) func() {
		return func() {
			a.app.Permissions = maps.Clone(allPermissions)
			delete(a.app.Permissions, name)
		}
	}
	for _, tt := range []struct {
		name    string
		do      func()
		problem AppProblem
		says    string
	}{
		{"no key", func() { a.setKey("s3cret") }, AppKeyBad, "secret set app-key <app.pem"},
		{"another's key", func() { a.setKey(pemOf(appKeys()[1])) }, AppRefused, "could not be decoded"},
		{"another's id", func() { a.app.ID++ }, AppRefused, "compare the App ID"},
		{"not installed", func() { a.app.Elsewhere = true }, AppAbsent, "install it there"},
		{"suspended", func() { a.app.Suspended = true }, AppSuspended, "is suspended"},
		{"no statuses", without("statuses"), AppPermission, "give it Commit statuses: read and write in"},
		{"no contents", without("contents"), AppPermission, "give it Contents: read and write in"},
		{"reads only", func() {
			without("pull_requests")()
			a.app.Permissions["pull_requests"] = "read"
		}, AppPermission, "Pull requests: read and write"},
		{"a clock behind", func() { a.theirs.advance(9*time.Minute + time.Second) }, AppRefused, "clock is right"},
		{"a clock before", func() { a.ours.advance(2 * time.Minute) }, AppRefused, "clock is right"},
		{"another installation", func() { a.configure(", installation: 98}, requests: true}") }, AppAbsent, "as 98"},
	} {
		before, ours, theirs := a.app, *a.ours.now.Load(), *a.theirs.now.Load()
		tt.do()
		a.Install(a.app)
		proof, err := a.hub.Test(t.Context(), "hub")
		var problem *AppError
		if !errors.As(err, &problem) || problem.Problem != tt.problem || !strings.Contains(err.Error(), tt.says) ||
			strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%s: %+v, %v", tt.name, proof, err)
		}
		a.app = before
		a.Install(a.app)
		a.ours.now.Store(&ours)
		a.theirs.now.Store(&theirs)
		a.setKey(pemOf(appKeys()[0]))
		a.configure("")
		if err := a.use(); err != nil {
			t.Errorf("after %s: %v", tt.name, err)
		}
	}

	// Clocks that differ a little do no harm.
	for _, skew := range []time.Duration{8 * time.Minute, -8*time.Minute - 50*time.Second} {
		a.theirs.advance(skew)
		if _, err := a.hub.Test(t.Context(), "hub"); err != nil {
			t.Errorf("%s: %v", skew, err)
		}
	}

	// Until the key is set it says which.
	a.must(a.hub.Secrets.Remove(secret.ID{Name: "app-key"}))
	if _, err := a.hub.Test(t.Context(), "hub"); err == nil || !strings.Contains(err.Error(), "app-key") {
		t.Errorf("%v", err)
	}
}

// TestAppAnswers: what GitHub says to an App is a problem of somebody's only if they can
// do something about it; all else is tried again, and says what GitHub said.
func TestAppAnswers(t *testing.T) {
	t.Parallel()
	i := &installation{appUse: appUse{app: access.App{ID: appID, Key: "app-key"}, owner: "owner", name: "name"}}
	for _, tt := range []struct {
		status int
		says   string
		want   AppProblem // empty: it is tried again
	}{
		{401, "A JSON web token could not be decoded", AppRefused},
		{403, "This installation has been suspended", AppSuspended},
		{403, "the organization has an IP allow list enabled", ""},
		{404, "Not Found", AppAbsent},
		{422, "There is at least one repository that does not exist or is not accessible", AppAbsent},
		{422, "The permissions requested are not granted to this installation.", ""},
		{502, "Server Error", ""},
	} {
		asked, err := http.NewRequest(http.MethodPost, "https://api.github.com/app", http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		said := i.said(&github.ErrorResponse{
			Response: &http.Response{StatusCode: tt.status, Request: asked},
			Message:  tt.says,
		})
		var problem *AppError
		if errors.As(said, &problem) != (tt.want != "") || problem != nil && problem.Problem != tt.want ||
			problem == nil && !strings.Contains(said.Error(), tt.says) {
			t.Errorf("%d %s: %v", tt.status, tt.says, said)
		}
	}
}

// TestAppProof: a test of the connection proves git, the API and the webhook by the App.
func TestAppProof(t *testing.T) {
	t.Parallel()
	a := newAppTest(t, "")
	address := a.hub.Webhook("hub")
	api, err := a.api()
	a.must(err)
	a.must(api.SetHook(t.Context(), address, hookSecret))
	proof, err := a.hub.Test(t.Context(), "hub")
	if err != nil || proof.Refs != 1 || proof.API != nil || proof.Hook != nil || !proof.Arrived {
		t.Errorf("%+v, %v", proof, err)
	}
	a.given(2, "what it may do now was asked")
}

func TestRepositoryAt(t *testing.T) {
	t.Parallel()
	for address, want := range map[string]string{
		"https://github.com/owner/name.git":       "owner/name",
		"https://git.example.com/owner/name/":     "owner/name",
		"https://example.com/deep/owner/name.git": "owner/name",
	} {
		if got := repositoryAt(address); got != want {
			t.Errorf("%s: %s", address, got)
		}
	}
}
