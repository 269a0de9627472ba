package access_test

import (
	"strings"
	"testing"

	"github.com/headgate-cd/headgate/gitd/access"
)

const anyKey = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIIAaU4pYEWGd/yv4FbWBRCersPHrGngbEzqibRLlmbNX"

func TestConnections(t *testing.T) {
	t.Parallel()
	const good = "{forge: github, repository: o/n, url: 'https://github.com/o/n.git', mirror: copy, secrets: [hook]}"
	for _, tt := range []struct{ name, from, to, want string }{
		{"good", "", "", ""},
		{"this machine", "https://github.com", "http://127.0.0.1:3000", ""},
		{"in the clear", "https://", "http://", "in the clear"},
		{"password", "https://", "https://u:p@", "holds a user or password"},
		{"query", "n.git'", "n.git?token=x'", "holds a query"},
		{"git", "https://", "git://", "not fetched from"},
		{"ssh without a user", "https://", "ssh://", "who logs in"},
		{"ssh without a key", "https://", "ssh://git@", "no key to log in with"},
		{"ssh to any host", "https://github.com/o/n.git'", "ssh://git@github.com/o/n.git', key: k", "no host_keys"},
		{"ssh with a token", "https://github.com/o/n.git'",
			"ssh://git@github.com/o/n.git', token: t, key: k, host_keys: [HOST]", "a token, which ssh does not take"},
		{"ssh with requests", "https://github.com/o/n.git'",
			"ssh://git@github.com/o/n.git', key: k, host_keys: [HOST], requests: true", "which ssh does not show"},
		{"ssh with no host's key", "https://github.com/o/n.git'",
			"ssh://git@github.com/o/n.git', key: k, host_keys: [ssh-ed25519]", "a host key that is none"},
		{"ssh with a password", "https://", "ssh://git:x@", "holds a password"},
		{"ssh", "https://github.com/o/n.git'", "ssh://git@github.com:2222/o/n.git', key: k, host_keys: [HOST]", ""},
		{"a key over https", "n.git'", "n.git', key: k", "its url is not of ssh"},
		{"app", "n.git'", "n.git', app: {id: 12, key: k}, requests: true", ""},
		{"app and installation", "n.git'", "n.git', app: {id: 12, installation: 7, key: k}", ""},
		{"app without an id", "n.git'", "n.git', app: {key: k}", "server.yaml:4: "},
		{"app without a key", "n.git'", "n.git', app: {id: 12}", "server.yaml:4: "},
		{"app with no number", "n.git'", "n.git', app: {id: my-app, key: k}", "server.yaml:4: "},
		{"app with a key in the file", "n.git'", "n.git', app: {id: 12, key: -----BEGIN}", "server.yaml:4: "},
		{"app and token", "n.git'", "n.git', token: t, app: {id: 12, key: k}", "a token and an app"},
		{"app of GitLab", "github, repository: o/n, url: 'https://github.com/o/n.git'",
			"gitlab, repository: o/n, url: 'https://gitlab.com/o/n.git', app: {id: 12, key: k}", "only the forge github has"},
		{"app over ssh", "https://github.com/o/n.git'",
			"ssh://git@github.com/o/n.git', key: k, host_keys: [HOST], app: {id: 12, key: k}", "an app, which ssh does not take"},
		{"file", "https://github.com/", "file:///", "is not an address"},
		{"forge", "github,", "githup,", "did you mean \"github\""},
		{"repository", "o/n,", "o/n/x,", "not the name of a repository at a forge"},
		{"mirror", "copy,", "cops,", "did you mean \"copy\""},
		{"headgate itself", "copy,", "headgate,", "not a repository of this server"},
		{"no secret", "[hook]", "[]", "has 0 secrets"},
		{"four secrets", "[hook]", "[a, b, c, d]", "has 4 secrets"},
		{"twice", "[hook]", "[hook, hook]", "twice"},
		{"unknown key", "forge:", "frge: x, forge:", "frge"},
		{"acted on", "mirror: copy", "mirror: written", ""},
		{"deployments alone", "]}", "], deployments: true}", "does not follow requests"},
		{"deployments", "]}", "], token: t, requests: true, deployments: true}", ""},
		{"promotions alone", "]}", "], promotions: true}", "does not follow requests"},
		{"promotions", "]}", "], token: t, requests: true, promotions: true}", ""},
		{"gated", "mirror: copy", "mirror: gated", "decided at the forge"},
	} {
		file := "users: {ada: {keys: [ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIIAaU4pYEWGd/yv4FbWBRCersPHrGngbEzqibRLlmbNX]}}\n" +
			"groups: {administrators: [ada]}\nrepositories: {copy: {}, written: {write: [ada]}, gated: {gate: on}}\n" +
			"connections: {hub: " + strings.ReplaceAll(strings.Replace(good, tt.from, tt.to, 1), "HOST", anyKey) + "}\n"
		c, err := access.Parse("server.yaml", []byte(file))
		switch {
		case tt.want == "" && err != nil, tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)):
			t.Errorf("%s: %v, want %q", tt.name, err, tt.want)
		case err == nil && tt.name != "acted on" && (c.Gated("copy") || c.May(access.Recorded("ada"), access.Write, "copy")):
			t.Errorf("%s: the mirror is gated, or may be pushed to", tt.name)
		}
	}
}

// TestUsersAtForges: who somebody at a forge is, is what server.yaml says: by login,
// whatever its case, or by number, each one user's; it gives the right to say yes in
// the mirror and nothing else.
func TestUsersAtForges(t *testing.T) {
	t.Parallel()
	parse := func(ann, bob string) (*access.Config, error) {
		return access.Parse("server.yaml",
			[]byte("users: {ada: {keys: [ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIIAaU4pYEWGd/yv4FbWBRCersPHrGngbEzqibRLlmbNX]}, "+
				"ann: {forge: "+ann+"}, bob: {forge: "+bob+
				"}}\ngroups: {administrators: [ada]}\nrepositories: {copy: {write: [ann]}, hello: {write: [ann]}}\n"+
				"connections: {hub: {forge: github, repository: o/n, url: 'https://github.com/o/n.git', mirror: copy, secrets: [hook]}}\n"))
	}
	c, err := parse("{hub: Ann-GH}", "{hub: 'id:7'}")
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		login string
		id    int64
		want  string
	}{{"ann-gh", 1, "ann"}, {"whoever", 7, "bob"}, {"ann-gh", 7, "bob"}, {"eve", 2, ""}, {"ann", 2, ""}, {"", 0, ""}} {
		who, ok := c.OfForge("hub", tt.login, tt.id)
		if who.User != tt.want || ok != (tt.want != "") {
			t.Errorf("%s (%d) is %q", tt.login, tt.id, who.User)
		}
	}
	ann, _ := c.OfForge("hub", "ann-gh", 1)
	if !c.May(ann, access.Approve, "copy") || c.May(ann, access.Approve, "hello") ||
		c.May(ann, access.Administer, "copy") {
		t.Error("the rights of somebody at a forge are not those to say yes in its mirror")
	}
	if u, ok := c.UserOfForge("ann-gh@hub"); !ok || u.Name != "ann" {
		t.Errorf("ann-gh@hub is %q", u.Name)
	}
	for _, name := range []string{"@hub", "ann", "ann-gh@other", "eve@hub"} {
		if u, ok := c.UserOfForge(name); ok {
			t.Errorf("%s is %q", name, u.Name)
		}
	}
	for _, tt := range []struct{ ann, bob, want string }{
		{"{hub: ann}", "{hub: ANN}", "is ann already"},
		{"{hbu: ann}", "{}", "is not a connection"},
		{"{hub: 'a b'}", "{}", "does not name somebody"},
		{"{hub: 'id:0'}", "{}", "does not name somebody"},
	} {
		if _, err := parse(tt.ann, tt.bob); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s, %s: %v", tt.ann, tt.bob, err)
		}
	}
}

// TestAddConnection: a connection is written into whatever file there is, with the
// repository that is its mirror; nothing else in it changes.
func TestAddConnection(t *testing.T) {
	t.Parallel()
	const head = "users: {ada: {keys: [ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIIAaU4pYEWGd/yv4FbWBRCersPHrGngbEzqibRLlmbNX]}}\ngroups: {administrators: [ada]}\n"
	conn := access.Connection{
		Name: "hub", Forge: "github", Repository: "o/n", URL: "https://github.com/o/n.git", Mirror: "n",
		Secrets: []string{"hub-hook"}, Credentials: access.Credentials{Token: "hub-token"}, Requests: true,
	}
	byApp := conn
	byApp.Credentials = access.Credentials{App: access.App{ID: 12, Key: "hub-app-key"}}
	if got, err := access.AddConnection([]byte(head), byApp); err != nil ||
		!strings.Contains(string(got), "app: {id: 12, key: hub-app-key}") {
		t.Errorf("by an App: %v\n%s", err, got)
	}
	for _, tt := range []struct{ name, rest, want string }{
		{"empty", "repositories: {}\n", ""},
		{"none", "", ""},
		{"block", "# ours\nrepositories:\n  # the first\n  hello: {}\n\n# nothing else\n", ""},
		{"another", "repositories: {m: {}}\nconnections:\n  other: {forge: github, repository: o/m, url: 'https://github.com/o/m.git', mirror: m, secrets: [s]}\n", ""},
		{"the mirror is there", "repositories: {n: {read: [ada]}}\n", ""},
		{"the mirror is gated", "repositories: {n: {gate: on}}\n", "leave gate out"},
		{"the name is taken", "repositories: {m: {}}\nconnections: {hub: {forge: github, repository: o/m, url: 'https://github.com/o/m.git', mirror: m, secrets: [s]}}\n", "already there"},
	} {
		data, err := access.AddConnection([]byte(head+tt.rest), conn)
		if tt.want != "" {
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%s: %v", tt.name, err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
			continue
		}
		c, err := access.Parse("server.yaml", data)
		if got, _ := c.Connection("hub"); err != nil || got.URL != conn.URL || !got.Requests || got.Token != conn.Token {
			t.Errorf("%s: %+v, %v", tt.name, got, err)
		}
		for line := range strings.Lines(tt.rest) {
			if strings.HasPrefix(strings.TrimSpace(line), "#") && !strings.Contains(string(data), line) {
				t.Errorf("%s: %q is gone from\n%s", tt.name, line, data)
			}
		}
	}
}
