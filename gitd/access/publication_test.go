package access_test

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.yaml.in/yaml/v4"

	"github.com/headgate-cd/headgate/gitd/access"
	"github.com/headgate-cd/headgate/gitd/yamlfile/schematest"
)

// TestPublications: what cannot be meant is refused, by the schema too where it can see it.
func TestPublications(t *testing.T) {
	t.Parallel()
	schema := schematest.Compile(t, access.Schema)
	const good = "{forge: github, repository: hello, url: 'https://github.com/o/n.git', token: t}"
	const overSSH = "{forge: gitea, repository: hello, url: 'ssh://git@example.org:2222/o/n.git', key: k, host_keys: [HOST]}"
	for _, tt := range []struct {
		name, of, from, to, want string
		schemaSees               bool
	}{
		{name: "good", of: good},
		{name: "ssh", of: overSSH},
		{name: "branches", of: good, from: "token: t", to: "branches: [main, 'release/*']"},
		{name: "all branches", of: good, from: "token: t", to: "branches: "},
		{name: "no repository", of: good, from: "hello", to: "helo", want: `did you mean "hello"`},
		{name: "the server's", of: good, from: "hello", to: "headgate", want: "the server's own configuration",
			schemaSees: true},
		{name: "a mirror of it", of: good, from: "o/n", to: "o/followed", want: "what connection hub follows"},
		{name: "the same place", of: good, from: "github.com/o/n", to: "GitHub.com/o/taken", want: "to where other does"},
		{name: "forge", of: good, from: "github,", to: "githup,", want: `did you mean "github"`, schemaSees: true},
		{name: "in the clear", of: good, from: "https:", to: "http:", want: "in the clear"},
		{name: "password", of: good, from: "https://", to: "https://u:p@", want: "holds a user or password",
			schemaSees: true},
		{name: "any host", of: overSSH, from: ", host_keys: [HOST]", to: "", want: "no host_keys"},
		{name: "host's key", of: overSSH, from: "[HOST]", to: "[x]", want: "a host key that is none", schemaSees: true},
		{name: "option", of: overSSH, from: "example.org", to: "-oProxyCommand=x", want: "host", schemaSees: true},
		{name: "pattern", of: good, from: "token: t", to: "branches: ['[']", want: "not a pattern"},
		{name: "name", of: good, from: "token: t", to: "tokn: t", want: "tokn", schemaSees: true},
	} {
		file := strings.ReplaceAll(
			"users: {ada: {keys: [HOST]}}\ngroups: {administrators: [ada]}\nrepositories: {hello: {}, copy: {}}\n"+
				"connections: {hub: {forge: github, repository: o/followed, url: 'https://github.com/o/followed.git', mirror: copy, secrets: [s]}}\n"+
				"publish:\n  other: {forge: github, repository: copy, url: 'https://github.com/o/taken', token: t}\n"+
				"  away: "+strings.Replace(tt.of, tt.from, tt.to, 1)+"\n", "HOST", anyKey)
		c, err := access.Parse("server.yaml", []byte(file))
		if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
			t.Errorf("%s: %v, want %q", tt.name, err, tt.want)
		}
		if _, there := c.Publication("away"); there != (tt.want == "") {
			t.Errorf("%s: it is there: %v", tt.name, there)
		}
		var value any
		if err := yaml.Unmarshal([]byte(file), &value); err != nil {
			t.Fatal(err)
		}
		data, err := json.Marshal(value)
		if err != nil {
			t.Fatal(err)
		}
		if value, err = jsonschema.UnmarshalJSON(bytes.NewReader(data)); err != nil {
			t.Fatal(err)
		}
		if err := schema.Validate(value); (err != nil) != tt.schemaSees {
			t.Errorf("%s: the schema says %v", tt.name, err)
		}
	}
}

func TestPublishes(t *testing.T) {
	t.Parallel()
	all, some, none := access.Publication{}, access.Publication{Branches: []string{"main",
		"release/*"}}, access.Publication{Branches: []string{}}
	for _, tt := range []struct {
		ref             string
		all, some, none bool
	}{
		{"refs/heads/main", true, true, false},
		{"refs/heads/release/1", true, true, false},
		{"refs/heads/release/1/x", true, false, false},
		{"refs/heads/work", true, false, false},
		{"refs/heads/env/production", false, false, false},
		{"refs/heads/promote/production", false, false, false},
		{"refs/tags/v1", true, true, true},
		{"refs/changes/1/log", false, false, false},
		{"refs/notes/verdicts", false, false, false},
	} {
		if a, b, c := all.Publishes(tt.ref), some.Publishes(tt.ref), none.Publishes(tt.ref); a != tt.all ||
			b != tt.some || c != tt.none {
			t.Errorf("%s: %v, %v, %v", tt.ref, a, b, c)
		}
	}
}
