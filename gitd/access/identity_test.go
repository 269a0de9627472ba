package access_test

import (
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/headgate-cd/headgate/gitd/access"
)

// TestScopes: what a scope leaves of the rights of ada, who administers and may
// write hello, and of jun, who may read the vault and write hello.
func TestScopes(t *testing.T) {
	c, err := access.Parse("server.yaml", withKeys(t, example))
	if err != nil {
		t.Fatal(err)
	}
	type rights struct{ read, write, administer bool }
	in := func(d time.Duration) time.Time { return time.Now().Add(d) }
	for name, r := range map[string]struct {
		user, repository string
		scope            access.Scope
		want             rights
	}{
		"none":         {"ada", "hello", access.Scope{}, rights{true, true, true}},
		"none, of jun": {"jun", "hello", access.Scope{}, rights{true, true, false}},
		"read":         {"ada", "hello", access.Scope{Highest: access.Read}, rights{true, false, false}},
		"write":        {"ada", "hello", access.Scope{Highest: access.Write}, rights{true, true, false}},
		"administer":   {"ada", "hello", access.Scope{Highest: access.Administer}, rights{true, true, true}},
		"adds nothing": {"jun", "vault", access.Scope{Repositories: []string{"vault"}, Highest: access.Administer},
			rights{read: true}},
		"this one": {"jun", "hello", access.Scope{Repositories: []string{"vault", "hello"}},
			rights{true, true, false}},
		"another":        {"jun", "hello", access.Scope{Repositories: []string{"vault"}}, rights{}},
		"no repository":  {"ada", "hello", access.Scope{Repositories: []string{}}, rights{}},
		"not the server": {"ada", access.Own, access.Scope{Repositories: []string{"hello"}}, rights{}},
		"not expired":    {"ada", "hello", access.Scope{Until: in(time.Hour)}, rights{true, true, true}},
		"the server":     {"ada", access.Own, access.Scope{}, rights{true, true, true}},
		"to write all":   {"ada", access.Own, access.Scope{Highest: access.Write}, rights{read: true}},
		"to write it": {"ada", access.Own, access.Scope{Repositories: []string{access.Own}, Highest: access.Write},
			rights{true, true, false}},
		"expired":          {"ada", "hello", access.Scope{Until: in(-time.Millisecond)}, rights{}},
		"expired long ago": {"ada", "hello", access.Scope{Highest: access.Read, Until: in(-time.Hour)}, rights{}},
		"of nobody":        {"", "open", access.Scope{Repositories: []string{"open"}, Highest: access.Administer}, rights{}},
		"of a former user": {"gone", "open", access.Scope{Repositories: []string{"open"}}, rights{}},
	} {
		who := access.Identity{User: r.user, Via: "token", Scope: r.scope}
		got := rights{c.May(who, access.Read, r.repository), c.May(who, access.Write, r.repository),
			c.May(who, access.Administer, r.repository)}
		if got != r.want {
			t.Errorf("%s: %+v, want %+v", name, got, r.want)
		}
		s := c.Standing(who, r.repository)
		if (rights{s.MayRead, s.MayWrite, s.Admin}) != r.want ||
			slices.Contains(s.Groups, access.Administrators) != r.want.administer {
			t.Errorf("%s: policies are told %+v", name, s)
		}
	}
}

// TestScopeNeverAdds: whatever a scope says, it leaves nobody more than the user
// has, and a narrower scope no more than a wider one.
func TestScopeNeverAdds(t *testing.T) {
	c, err := access.Parse("server.yaml", withKeys(t, example))
	if err != nil {
		t.Fatal(err)
	}
	users := []string{"ada", "jun", "robot", "gone", "everyone", "administrators", ""}
	repositories := []string{"hello", "vault", "open", access.Own, "missing", ""}
	rapid.Check(t, func(t *rapid.T) {
		who := access.Identity{User: rapid.SampledFrom(users).Draw(t, "user"), Via: access.ViaSSH}
		scoped, narrower := who, who
		scoped.Scope = access.Scope{
			Repositories: rapid.SliceOf(rapid.SampledFrom(repositories)).Draw(t, "repositories"),
			Highest:      access.Right(rapid.IntRange(0, 5).Draw(t, "highest")),
		}
		if rapid.Bool().Draw(t, "all repositories") {
			scoped.Scope.Repositories = nil
		}
		if rapid.Bool().Draw(t, "expires") {
			scoped.Scope.Until = time.Now().Add(time.Duration(rapid.IntRange(-1, 1).Draw(t, "hours")) * time.Hour)
		}
		narrower.Scope = scoped.Scope
		narrower.Scope.Highest = access.Read

		repository := rapid.SampledFrom(repositories).Draw(t, "repository")
		right := access.Right(rapid.IntRange(-1, 5).Draw(t, "right"))
		may := c.May(scoped, right, repository)
		if may && !c.May(who, right, repository) {
			t.Errorf("%+v may %s %s, and the user may not", scoped, right, repository)
		}
		if c.May(narrower, right, repository) && !may {
			t.Errorf("%+v may %s %s, and with %+v not", narrower, right, repository, scoped.Scope)
		}
		full, s := c.Standing(who, repository), c.Standing(scoped, repository)
		if s.Admin && !full.Admin || s.MayRead && !full.MayRead || s.MayWrite && !full.MayWrite {
			t.Errorf("policies are told %+v of %+v, and %+v of the user", s, scoped, full)
		}
		for _, g := range s.Groups {
			if !slices.Contains(full.Groups, g) {
				t.Errorf("%+v is in %s, and the user is not", scoped, g)
			}
		}
	})
}

// TestApprovingTakesMoreThanWriting: a token that was made to push says no yes.
func TestApprovingTakesMoreThanWriting(t *testing.T) {
	c, err := access.Parse("server.yaml", withKeys(t, example+"  shown: {read: [], write: [ada], public: true}\n"))
	if err != nil {
		t.Fatal(err)
	}
	for name, r := range map[string]struct {
		who        access.Identity
		repository string
		want       bool
	}{
		"a key":             {access.Identity{User: "ada", Via: access.ViaSSH}, "hello", true},
		"a session":         {access.Identity{User: "jun", Via: access.ViaConsole}, "hello", true},
		"who may only read": {access.Identity{User: "jun", Via: access.ViaSSH}, "vault", true},
		"a token to read": {access.Identity{User: "ada", Via: access.ViaToken,
			Scope: access.Scope{Highest: access.Read}}, "hello", false},
		"a token to write": {access.Identity{User: "ada", Via: access.ViaToken,
			Scope: access.Scope{Highest: access.Write}}, "hello", false},
		"a token to approve": {access.Identity{User: "ada", Via: access.ViaToken,
			Scope: access.Scope{Highest: access.Approve}}, "hello", true},
		"one for another repository": {access.Identity{User: "ada",
			Scope: access.Scope{Repositories: []string{"vault"}, Highest: access.Approve}}, "hello", false},
		"without a name": {access.Anonymous(), "shown", false},
		"nobody":         {access.Identity{}, "shown", false},
		"a former user":  {access.Recorded("gone"), "shown", false},
	} {
		if got := c.May(r.who, access.Approve, r.repository); got != r.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

// TestPublic: everybody reads what is public, within their scope; nobody gets more.
func TestPublic(t *testing.T) {
	c, err := access.Parse("server.yaml", withKeys(t, example+"  shown: {read: [], write: [ada], public: true}\n"))
	if err != nil {
		t.Fatal(err)
	}
	for name, r := range map[string]struct {
		who        access.Identity
		right      access.Right
		repository string
		want       bool
	}{
		"without a name":           {access.Anonymous(), access.Read, "shown", true},
		"without a name, to write": {access.Anonymous(), access.Write, "shown", false},
		"what is not public":       {access.Anonymous(), access.Read, "open", false},
		"the server":               {access.Anonymous(), access.Read, access.Own, false},
		"a user":                   {access.Recorded("jun"), access.Read, "shown", true},
		"a user, to write":         {access.Recorded("jun"), access.Write, "shown", false},
		"a former user":            {access.Recorded("gone"), access.Read, "shown", false},
		"a token for another": {access.Identity{User: "jun", Scope: access.Scope{Repositories: []string{"open"}}},
			access.Read, "shown", false},
		"nobody": {access.Identity{}, access.Read, "shown", false},
	} {
		if got := c.May(r.who, r.right, r.repository); got != r.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}
