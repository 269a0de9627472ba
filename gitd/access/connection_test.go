package access_test

import (
	"strings"
	"testing"

	"github.com/headgate-cd/headgate/gitd/access"
)

func TestConnections(t *testing.T) {
	t.Parallel()
	const good = "{forge: github, repository: o/n, url: 'https://github.com/o/n.git', mirror: copy, secrets: [hook]}"
	for _, tt := range []struct{ name, from, to, want string }{
		{"good", "", "", ""},
		{"this machine", "https://github.com", "http://127.0.0.1:3000", ""},
		{"in the clear", "https://", "http://", "in the clear"},
		{"password", "https://", "https://u:p@", "holds a user or password"},
		{"query", "n.git'", "n.git?token=x'", "holds a query"},
		{"ssh", "https://", "ssh://", "not fetched from"},
		{"file", "https://github.com/", "file:///", "is not an address"},
		{"forge", "github,", "githup,", "did you mean \"github\""},
		{"repository", "o/n,", "o/n/x,", "not the name of a repository at a forge"},
		{"mirror", "copy,", "cops,", "did you mean \"copy\""},
		{"headgate itself", "copy,", "headgate,", "not a repository of this server"},
		{"no secret", "[hook]", "[]", "has 0 secrets"},
		{"four secrets", "[hook]", "[a, b, c, d]", "has 4 secrets"},
		{"twice", "[hook]", "[hook, hook]", "twice"},
		{"unknown key", "forge:", "frge: x, forge:", "frge"},
		{"written to", "mirror: copy", "mirror: written", "the forge alone moves"},
		{"gated", "mirror: copy", "mirror: gated", "decided at the forge"},
	} {
		file := "users: {ada: {keys: [ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIIAaU4pYEWGd/yv4FbWBRCersPHrGngbEzqibRLlmbNX]}}\n" +
			"groups: {administrators: [ada]}\nrepositories: {copy: {}, written: {write: [ada]}, gated: {gate: on}}\n" +
			"connections: {hub: " + strings.Replace(good, tt.from, tt.to, 1) + "}\n"
		c, err := access.Parse("server.yaml", []byte(file))
		switch {
		case tt.want == "" && err != nil, tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)):
			t.Errorf("%s: %v, want %q", tt.name, err, tt.want)
		case err == nil && (c.Gated("copy") || c.May(access.Recorded("ada"), access.Write, "copy")):
			t.Errorf("%s: the mirror is gated, or may be pushed to", tt.name)
		}
	}
}
