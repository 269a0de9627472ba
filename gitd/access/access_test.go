package access_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.yaml.in/yaml/v4"
	"golang.org/x/crypto/ssh"

	"github.com/headgate-cd/headgate/gitd/access"
	"github.com/headgate-cd/headgate/gitd/yamlfile"
	"github.com/headgate-cd/headgate/gitd/yamlfile/schematest"
)

func line(t testing.TB, public any) string {
	t.Helper()
	key, err := ssh.NewPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key)))
}

func newKey(t testing.TB) string {
	public, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return line(t, public)
}

var example = `# the Tarn team
users:
  ada: {name: Ada Lovelace, email: [ada@tarn.example, Ada@home.example], keys: ["KEY1 ada@laptop"]}
  jun:
    name: Jun
    email: [jun@tarn.example]
    keys:
      - KEY2
      - KEY3
  robot:            # left us
groups:
  administrators: [ada]
  release: [jun, ada]
repositories:
  hello: {description: "says hello", read: [everyone], write: [release]}
  vault: {read: [jun], write: [], gate: off by ada on 2026-11-24}
  open:
`

func withKeys(t testing.TB, s string) []byte {
	for i := range 9 {
		if name := fmt.Sprintf("KEY%d", i+1); strings.Contains(s, name) {
			s = strings.ReplaceAll(s, name, newKey(t))
		}
	}
	return []byte(s)
}

func TestRights(t *testing.T) {
	c, err := access.Parse("server.yaml", withKeys(t, example))
	if err != nil {
		t.Fatal(err)
	}
	type row struct {
		user, repository string
		read, write      bool
	}
	for _, r := range []row{
		{"ada", "hello", true, true},
		{"robot", "hello", true, false},
		{"jun", "vault", true, false},
		{"ada", "vault", true, false}, // administrators read, but write only where listed
		{"robot", "vault", false, false},
		{"robot", "open", true, true},
		{"ada", "headgate", true, true},
		{"jun", "headgate", false, false},
		{"ada", "missing", false, false},
		{"nobody", "hello", false, false},
		{"", "open", false, false},
		{"everyone", "open", false, false},
		{"administrators", "headgate", false, false},
	} {
		who := access.Recorded(r.user)
		if got := c.May(who, access.Read, r.repository); got != r.read {
			t.Errorf("%q reads %q: %v", r.user, r.repository, got)
		}
		if got := c.May(who, access.Write, r.repository); got != r.write {
			t.Errorf("%q writes %q: %v", r.user, r.repository, got)
		}
		if got := c.May(who, access.Administer, r.repository); got != (r.user == "ada" && r.repository != "missing") {
			t.Errorf("%q administers %q: %v", r.user, r.repository, got)
		}
		if c.May(who, 0, r.repository) || c.May(who, access.Administer+1, r.repository) {
			t.Errorf("%q has an unknown right to %q", r.user, r.repository)
		}
	}
	if got := c.Who(access.Write, "hello"); !slices.Equal(got, []string{"ada", "jun"}) {
		t.Errorf("writers of hello: %v", got)
	}
	if got := c.Groups("ada"); !slices.Equal(got, []string{"administrators", "release"}) {
		t.Errorf("groups of ada: %v", got)
	}
	if got := c.Members("release"); !slices.Equal(got, []string{"ada", "jun"}) {
		t.Errorf("members of release: %v", got)
	}
	if got := c.Members(access.Everyone); !slices.Equal(got, []string{"ada", "jun", "robot"}) {
		t.Errorf("everyone: %v", got)
	}
	if c.Gated("vault") || !c.Gated("hello") || !c.Gated("open") || !c.Gated("headgate") || !c.Gated("missing") {
		t.Error("wrong gates")
	}
	if v, _ := c.Repository("vault"); v.UngatedBy != "ada on 2026-11-24" {
		t.Errorf("ungated by %q", v.UngatedBy)
	}
	var names []string
	for _, r := range c.Repositories() {
		names = append(names, r.Name)
	}
	if !slices.Equal(names, []string{"headgate", "hello", "open", "vault"}) {
		t.Errorf("repositories: %v", names)
	}
	ada, _ := c.User("ada")
	if who, ok := c.ByKey(ada.Keys[0].Fingerprint, access.ViaSSH); !ok || who.User != "ada" ||
		ada.Keys[0].Comment != "ada@laptop" {
		t.Errorf("the key of ada finds %v %v", who, ok)
	}
	if who, ok := c.ByKey("", access.ViaSSH); ok || who.User != "" {
		t.Error("no key finds somebody")
	}
	if who, ok := c.BySession("jun"); !ok || who.User != "jun" || who.Via != access.ViaConsole {
		t.Errorf("the session of jun finds %v %v", who, ok)
	}
	for _, name := range []string{"", "nobody", access.Everyone, access.Administrators} {
		if who, ok := c.BySession(name); ok || who.User != "" {
			t.Errorf("a session of %q finds %v", name, who)
		}
	}
	if u, ok := c.UserByEmail("ADA@tarn.example"); !ok || u.Name != "ada" {
		t.Error("mail does not find ada")
	}
	var none *access.Config
	_, known := none.ByKey(ada.Keys[0].Fingerprint, access.ViaSSH)
	if known || none.May(access.Recorded("ada"), access.Read, "hello") || none.Who(access.Read, "hello") != nil ||
		!none.Gated("hello") {
		t.Error("no configuration allows something")
	}
}

func TestPorts(t *testing.T) {
	const head = "users:\n  ada: {keys: [KEY1]}\ngroups:\n  administrators: [ada]\nrepositories:\n"
	c, err := access.Parse("server.yaml", withKeys(t, head+"  x: {ports: [80, 9000-9010]}\n  y: {ports: [81]}\n"))
	if err != nil {
		t.Fatal(err)
	}
	for port, want := range map[int]string{79: "", 80: "x", 81: "y", 8999: "", 9000: "x", 9010: "x", 9011: ""} {
		if got := c.PortOf(port); got != want {
			t.Errorf("port %d is reserved for %q, want %q", port, got, want)
		}
	}
	for given, want := range map[string]string{
		"  x: {ports: [80]}\n  y: {ports: [79-81]}\n": "server.yaml:7: port 79-81 of y is reserved for x on line 6 already",
		"  x: {ports: [80, 80]}\n":                    "port 80 of x is reserved for x on line 6 already",
		"  x: {ports: [90-80]}\n":                     `the ports of x hold "90-80", which is neither a port nor a range`,
		"  x: {ports: [1-99999]}\n":                   `hold "1-99999"`,
		"  x: {ports: [[80]]}\n":                      "which is neither a port nor a range",
	} {
		if _, err := access.Parse("server.yaml", withKeys(t, head+given)); err == nil ||
			!strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", given, err, want)
		}
	}
}

// What is left out is never wider than what is given, and the words say what
// holds.
func TestRightsLeftOut(t *testing.T) {
	const head = "users:\n  ada: {keys: [KEY1]}\n  jun: {keys: [KEY2]}\ngroups:\n  administrators: [ada]\n  release: [ada]\nrepositories:\n  x: "
	for given, want := range map[string]string{
		"{}":                                 "read: everyone; write: everyone",
		"":                                   "read: everyone; write: everyone",
		"{description: of all}":              "read: everyone; write: everyone",
		"{read: [administrators]}":           "read: administrators; write: administrators",
		"{write: [release, ada]}":            "read: release, ada; write: release, ada",
		"{read: []}":                         "read: nobody; write: nobody",
		"{write: }":                          "read: nobody; write: nobody",
		"{read: [everyone]}":                 "read: everyone; write: everyone",
		"{read: [jun], write: [release]}":    "read: jun, release; write: release",
		"{read: [everyone, jun], write: []}": "read: everyone; write: nobody",
		"{read: [], write: [everyone]}":      "read: everyone; write: everyone",
		"{read: [release, jun], write: [release]}": "read: release, jun; write: release",
	} {
		c, err := access.Parse("server.yaml", withKeys(t, head+given+"\n"))
		if err != nil {
			t.Errorf("%s: %v", given, err)
			continue
		}
		x, _ := c.Repository("x")
		if got := x.Rights(); got != want {
			t.Errorf("%s: %q, want %q", given, got, want)
		}
		jun := access.Recorded("jun")
		reads := strings.Contains(want, "read: everyone") || strings.Contains(want, "jun")
		if c.May(jun, access.Read, "x") != reads ||
			c.May(jun, access.Write, "x") != strings.Contains(want, "write: everyone") {
			t.Errorf("%s: jun reads %v, writes %v", given, c.May(jun, access.Read, "x"), c.May(jun, access.Write, "x"))
		}
	}
}

func TestRightsSince(t *testing.T) {
	const head = "users:\n  ada: {keys: [KEY1]}\ngroups:\n  administrators: [ada]\nrepositories:\n"
	parse := func(repositories string) *access.Config {
		c, err := access.Parse("server.yaml", withKeys(t, head+repositories))
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	before, after := parse("  a: {read: [ada]}\n  b:\n  c:\n"), parse(
		"  a: {write: [ada]}\n  b: {read: [ada]}\n  d: {write: []}\n")
	want := []string{"b: read: ada; write: ada (was read: everyone; write: everyone)", "d: read: nobody; write: nobody"}
	if got := after.RightsSince(before); !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	if got := after.RightsSince(nil); len(got) != 3 {
		t.Errorf("since nothing: %q", got)
	}
}

// Every fault is refused with the line it is on.
func TestParseRefuses(t *testing.T) {
	weak, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	const head = "users:\n  ada: {keys: [\"KEY1\"]}\ngroups:\n  administrators: [ada]\n"
	for name, row := range map[string]struct{ file, want string }{
		"key of two": {"users:\n  ada: {keys: [KEY1]}\n  jun:\n    keys: [KEY1]\ngroups: {administrators: [ada]}\n",
			"server.yaml:4: the key SHA256:"},
		"same user twice": {"users:\n  ada: {keys: [KEY1]}\n  ada: {keys: [KEY2]}\ngroups: {administrators: [ada]}\n",
			`server.yaml:3: "ada" was already set on line 2`},
		"unknown member": {"users:\n  ada: {keys: [KEY1]}\ngroups:\n  administrators: [ada]\n  release: [adda]\n",
			`server.yaml:5: group "release" holds "adda", which is not a user; did you mean "ada"?`},
		"unknown reader": {head + "repositories:\n  hello: {read: [administratrs]}\n",
			`server.yaml:6: read of hello names "administratrs", which is not a user or a group; did you mean "administrators"?`},
		"no size of a user": {strings.Replace(head, "keys: ", "quota: much, keys: ", 1),
			`the quota of ada is "much", which is no size`},
		"no size": {head + "repositories:\n  hello: {quota: 5 GB}\n",
			`server.yaml:6: the quota of hello is "5 GB", which is no size`},
		"group in group":  {head + "  release: [administrators]\n", `server.yaml:5: group "release" holds the group`},
		"group like user": {head + "  ada: [ada]\n", `server.yaml:5: "ada" is a group here and a user on line 2`},
		"group everyone":  {head + "  everyone: [ada]\n", `server.yaml:5: "everyone" is always`},
		"user everyone": {"users:\n  everyone: {keys: [KEY1]}\ngroups: {administrators: [everyone]}\n",
			`server.yaml:2: "everyone" means`},
		"no administrators": {"users: {ada: {keys: [KEY1]}}\n", "server.yaml:1: there is no administrator"},
		"keyless admin": {"users: {ada: {}}\ngroups:\n  administrators: [ada]\n",
			"server.yaml:3: there is no administrator with a key"},
		"no key": {"users:\n  ada:\n    keys:\n      - ssh-ed25519 AAAA\ngroups: {administrators: [ada]}\n",
			"server.yaml:4: a key of ada is not an SSH public key"},
		"private key": {"users:\n  ada:\n    keys:\n      - -----BEGIN OPENSSH PRIVATE KEY-----\n",
			"is a private key"},
		"weak": {"users:\n  ada: {keys: [\"" + line(t, &weak.PublicKey) + "\"]}\n",
			"server.yaml:2: a key of ada is an RSA key of 1024 bits"},
		"dsa":               {"users:\n  ada: {keys: [ssh-dss AAAAB3NzaC1kc3M=]}\n", "is a DSA key"},
		"options":           {"users:\n  ada: {keys: ['command=\"x\" KEY1']}\n", "has the option command="},
		"two keys in one":   {"users:\n  ada: {keys: [\"KEY1\\nKEY2\"]}\n", "has more than one line"},
		"user name":         {"users:\n  Ada: {keys: [KEY1]}\n", `server.yaml:2: "Ada" is not a name`},
		"user name long":    {"users:\n  a" + strings.Repeat("b", 32) + ":\n", "server.yaml:2: "},
		"user name option":  {"users:\n  -a:\n", "is not a name"},
		"full name":         {"users:\n  ada: {name: \"Ada <root@x>\", keys: [KEY1]}\n", "does not fit into a commit"},
		"full name control": {"users:\n  ada: {name: \"Ada\\e[2J\", keys: [KEY1]}\n", "U+001B"},
		"mail":              {"users:\n  ada: {email: [ada], keys: [KEY1]}\n", `"ada" is not an e-mail address`},
		"mail of two": {"users:\n  ada: {email: [a@x.example]}\n  jun: {email: [A@x.example]}\n",
			"server.yaml:3: A@x.example is already the address of ada"},
		"unknown key":     {head + "repositories:\n  hello: {writ: []}\n", `did you mean "write"?`},
		"reserved":        {head + "repositories:\n  Assets: {}\n", `server.yaml:6: "Assets" is the server's own`},
		"own":             {head + "repositories:\n  headgate: {}\n", `server.yaml:6: "headgate" is the server's own`},
		"repository name": {head + "repositories:\n  ../x: {}\n", "server.yaml:6: "},
		"repository .git": {head + "repositories:\n  x.git: {}\n", "server.yaml:6: "},
		"gate":            {head + "repositories:\n  x: {gate: maybe}\n", "server.yaml:6: the gate of x"},
		"gate list":       {head + "repositories:\n  x: {gate: [on]}\n", "server.yaml:6: the gate of x"},
		"gate forged": {head + "repositories:\n  x: {gate: \"off by a\\u001b[2J\"}\n",
			"server.yaml:6: the gate of x"},
		"description": {head + "repositories:\n  x: {description: \"a\\nb\"}\n",
			"server.yaml:6: the description of x"},
		"list is text":        {head + "repositories:\n  x: {read: everyone}\n", "where a list belongs"},
		"not a mapping":       {"- users\n", "server.yaml"},
		"empty":               {"", "is empty"},
		"alias":               {"users: &u {}\ngroups: *u\n", "alias"},
		"merge key":           {"users:\n  <<: {ada: {keys: [KEY1]}}\n", "server.yaml:2: "},
		"suggested key":       {"user: {}\n", `did you mean "users"?`},
		"everyone in a group": {head + "  all: [everyone]\n", "groups hold users"},
		"member twice":        {head + "  all: [ada, ada]\n", "twice"},
	} {
		t.Run(name, func(t *testing.T) {
			c, err := access.Parse("server.yaml", withKeys(t, row.file))
			if err == nil {
				t.Fatalf("taken: %+v", c)
			}
			if _, ok := yamlfile.ProblemsIn(err); !ok {
				t.Errorf("not problems: %T", err)
			}
			if c != nil {
				t.Error("a configuration came with the error")
			}
			if !strings.Contains(err.Error(), row.want) {
				t.Errorf("got:\n%s\nwant: %s", err, row.want)
			}
		})
	}
}

func TestKeyTypes(t *testing.T) {
	strong, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	curve, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range []string{line(t, &strong.PublicKey), line(t, &curve.PublicKey), newKey(t) + " a comment\n"} {
		if _, err := access.ParseKey(l); err != nil {
			t.Errorf("%s: %v", l, err)
		}
	}
}

func TestInitial(t *testing.T) {
	data, err := access.Initial("ada", "Ada \"the first\" Lovelace", "ada@tarn.example",
		[]string{newKey(t) + " ada@laptop\n", newKey(t)})
	if err != nil {
		t.Fatal(err)
	}
	c, err := access.Parse(access.FileName, data)
	if err != nil {
		t.Fatal(err)
	}
	ada, _ := c.User("ada")
	if !c.May(access.Recorded("ada"), access.Administer, access.Own) || len(ada.Keys) != 2 ||
		ada.FullName != `Ada "the first" Lovelace` {
		t.Errorf("ada is %+v", ada)
	}
	if data, err = access.AddRepository(data, "hello", `says "hello": to all #1`); err != nil {
		t.Fatal(err)
	}
	if data, err = access.AddRepository(data, "other", ""); err != nil {
		t.Fatal(err)
	}
	if data, err = access.Set(data, "hello", access.Gate, false, "ada on 2026-11-24"); err != nil {
		t.Fatal(err)
	}
	c, _ = access.Parse(access.FileName, data)
	if r, _ := c.Repository("hello"); r.Gated || r.UngatedBy != "ada on 2026-11-24" ||
		r.Description != `says "hello": to all #1` {
		t.Errorf("hello is %+v", r)
	}
	if !bytes.Contains(data, []byte("# Groups hold users")) {
		t.Error("comments are gone")
	}
	for _, bad := range []struct {
		user string
		keys []string
	}{{"Ada", []string{newKey(t)}}, {"ada", nil}, {"ada", []string{"x"}}} {
		if _, err := access.Initial(bad.user, "", "", bad.keys); err == nil {
			t.Errorf("taken: %v", bad)
		}
	}
}

// Edits touch one line; the rest of the text stays byte for byte.
func TestEdits(t *testing.T) {
	const head = "users: {ada: {name: \"Ä\", keys: [\"KEY1\"]}} # öhm\ngroups: {administrators: [ada]}\n"
	off := func(d []byte) ([]byte, error) { return access.Set(d, "hello", access.Gate, false, "ada on 2026-11-24") }
	on := func(d []byte) ([]byte, error) { return access.Set(d, "hello", access.Gate, true, "") }
	rest := func(d []byte) ([]byte, error) { return access.Set(d, "hello", access.OwnPolicies, false, "ada") }
	judge := func(d []byte) ([]byte, error) { return access.Set(d, "hello", access.OwnPolicies, true, "") }
	add := func(d []byte) ([]byte, error) { return access.AddRepository(d, "new", "x") }
	for name, row := range map[string]struct {
		edit          func([]byte) ([]byte, error)
		before, after string
	}{
		"add to none": {add, "", "\nrepositories:\n  new: {description: \"x\", gate: on}\n"},
		"add to empty flow": {add, "repositories: {} # none yet\n",
			"repositories: # none yet\n  new: {description: \"x\", gate: on}\n"},
		"add to null": {add, "repositories:\n# end\n",
			"repositories:\n  new: {description: \"x\", gate: on}\n# end\n"},
		"add behind": {add,
			"repositories:\n    # about hello\n    hello: {} # c\n    # about b\n    b:\n      read: []\n\n# the end\n",
			"repositories:\n    # about hello\n    hello: {} # c\n    # about b\n    b:\n      read: []\n    new: {description: \"x\", gate: on}\n\n# the end\n"},
		"add to flow": {add, "repositories: {hello: {}}\n",
			"repositories: {new: {description: \"x\", gate: on}, hello: {}}\n"},
		"policies off": {rest, "repositories:\n  hello: {gate: on} # c\n",
			"repositories:\n  hello: {policies: off by ada, gate: on} # c\n"},
		"policies on": {judge, "repositories:\n  hello:\n    policies: off by ada # c\n",
			"repositories:\n  hello:\n    policies: on # c\n"},
		"off in empty flow": {off, "repositories:\n  hello: {} # c\n",
			"repositories:\n  hello: {gate: off by ada on 2026-11-24} # c\n"},
		"off in flow": {off, "repositories:\n  hello: {read: [ada]} # c\n",
			"repositories:\n  hello: {gate: off by ada on 2026-11-24, read: [ada]} # c\n"},
		"off for on in flow": {off, "repositories: {hello: {description: \"öö, x\", gate: on, read: [ada]}}\n",
			"repositories: {hello: {description: \"öö, x\", gate: off by ada on 2026-11-24, read: [ada]}}\n"},
		"off in block": {off, "repositories:\n  hello: # c\n      # d\n      read: [ada]\n",
			"repositories:\n  hello: # c\n      gate: off by ada on 2026-11-24\n      # d\n      read: [ada]\n"},
		"off for null": {off, "repositories:\n  hello:\n  b:\n",
			"repositories:\n  hello:\n    gate: off by ada on 2026-11-24\n  b:\n"},
		"off for tilde": {off, "repositories:\n  hello: ~\n  b:\n",
			"repositories:\n  hello:\n    gate: off by ada on 2026-11-24\n  b:\n"},
		"on again": {on, "repositories:\n  hello:\n    gate: off by ada on 2026-11-24   # c\n",
			"repositories:\n  hello:\n    gate: on   # c\n"},
		"on for quoted":            {on, "repositories:\n  hello: {gate: 'off'}\n", "repositories:\n  hello: {gate: on}\n"},
		"no line break at the end": {on, "repositories:\n  hello: {gate: off}", "repositories:\n  hello: {gate: on}\n"},
	} {
		t.Run(name, func(t *testing.T) {
			start := string(withKeys(t, head))
			got, err := row.edit([]byte(start + row.before))
			if err != nil {
				t.Fatal(err)
			}
			if want := start + row.after; string(got) != want {
				t.Errorf("got:\n%s\nwant:\n%s", got, want)
			}
		})
	}
	base := withKeys(t, head+"repositories: {hello: {}}\n")
	for name, edit := range map[string]func() ([]byte, error){
		"there already": func() ([]byte, error) { return access.AddRepository(base, "hello", "") },
		"bad name":      func() ([]byte, error) { return access.AddRepository(base, "a: {}", "") },
		"reserved name": func() ([]byte, error) { return access.AddRepository(base, "headgate", "") },
		"two lines":     func() ([]byte, error) { return access.AddRepository(base, "x", "a\nusers: {}") },
		"unknown":       func() ([]byte, error) { return access.Set(base, "x", access.Gate, true, "") },
		"own":           func() ([]byte, error) { return access.Set(base, "headgate", access.Gate, false, "ada") },
		"forged by":     func() ([]byte, error) { return access.Set(base, "hello", access.Gate, false, "ada, read: [x]") },
		"broken file":   func() ([]byte, error) { return access.Set([]byte("users: ["), "hello", access.Gate, true, "") },
		"null in a flow": func() ([]byte, error) {
			return access.Set(withKeys(t, head+"repositories: {hello: }\n"), "hello", access.Gate, false, "ada")
		},
	} {
		if got, err := edit(); err == nil {
			t.Errorf("%s: edited to\n%s", name, got)
		}
	}
}

// TestAWSStores: of AWS's stores builds are given what server.yaml names, and no more.
func TestAWSStores(t *testing.T) {
	c, err := access.Parse("server.yaml", withKeys(t, "users:\n  ada: {keys: [\"KEY1\"]}\ngroups:\n  administrators: [ada]\n"+
		"repositories: {a: {build: {aws: {region: eu-north-1, parameters: [/a/x, '/b/*'], secrets: ['a/*', one]}}}, b: {}}\n"))
	if err != nil {
		t.Fatal(err)
	}
	s := c.AWS("a")
	for name, want := range map[string]bool{"/a/x": true, "/a/xy": false, "/b/y": true, "/b/": false, "/b": false, "one": false} {
		if s.Parameter(name) != want {
			t.Errorf("parameter %s", name)
		}
	}
	for name, want := range map[string]bool{"a/x": true, "a": false, "one": true, "one/more": false, "/a/x": false, "": false} {
		if s.Secret(name) != want {
			t.Errorf("secret %s", name)
		}
	}
	if s.Region != "eu-north-1" || c.AWS("b").Secret("a/x") || (*access.Config)(nil).AWS("a").Secret("a/x") {
		t.Errorf("%+v", s)
	}
}

// What the decoder takes, the schema takes; what has the wrong shape, both refuse.
// A secret of the server is for builds of those repositories alone that server.yaml names.
func TestSharedSecrets(t *testing.T) {
	c, err := access.Parse("server.yaml", withKeys(t, "users:\n  ada: {keys: [\"KEY1\"]}\ngroups:\n  administrators: [ada]\n"+
		"builds: {secrets: [nexus]}\nrepositories: {a: {build: {secrets: [/npm/token]}}, b: {}}\n"))
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]bool{"a nexus": true, "b nexus": true, "a npm/token": true, "b npm/token": false,
		"a hub": false, "c npm/token": false, " nexus": false} {
		repository, secret, _ := strings.Cut(name, " ")
		if got := c.SharesSecret(repository, secret); got != want {
			t.Errorf("%q: %v", name, got)
		}
	}
	if (*access.Config)(nil).SharesSecret("a", "nexus") {
		t.Error("without a configuration everything is shared")
	}
}

func TestSchema(t *testing.T) {
	schema := schematest.Compile(t, access.Schema)
	first, err := access.Initial("ada", "", "", []string{newKey(t)})
	if err != nil {
		t.Fatal(err)
	}
	const head = "users:\n  ada: {keys: [\"KEY1\"]}\ngroups:\n  administrators: [ada]\n"
	files := map[string]bool{
		example:       true,
		string(first): true,
		head:          true,
		head + "repositories: {a: {gate: true}, b: {gate: off}}\n":                                               true,
		head + "repositories: {a: {gate: maybe}}\n":                                                              false,
		head + "repositories: {a: {read: everyone}}\n":                                                           false,
		head + "repositories: {headgate: {}}\n":                                                                  false,
		head + "repositories: {a.git: {}}\n":                                                                     false,
		head + "repositories: {a: {wirte: []}}\n":                                                                false,
		head + "  everyone: []\n":                                                                                false,
		head + "more: 1\n":                                                                                       false,
		head + "repositories: {a: {ports: [80, \"9000-9010\"]}, b: {ports: }}\n":                                 true,
		head + "builds: {secrets: [nexus/token]}\nrepositories: {a: {build: {secrets: [b]}}}\n":                  true,
		head + "builds: {secrets: nexus}\n":                                                                      false,
		head + "repositories: {a: {build: {aws: {region: eu-north-1, parameters: [/a/x], secrets: ['a/*']}}}}\n": true,
		head + "repositories: {a: {build: {aws: {}}}}\n":                                                         true,
		head + "repositories: {a: {build: {aws: {secrets: ['a*b']}}}}\n":                                         false,
		head + "repositories: {a: {build: {aws: {secrets: a}}}}\n":                                               false,
		head + "repositories: {a: {build: {aws: {region: 'x y'}}}}\n":                                            false,
		head + "repositories: {a: {build: {aws: {role: x}}}}\n":                                                  false,
		head + "builds: {aws: {secrets: [a]}}\nrepositories: {a: {}}\n":                                          false,
		head + "repositories: {a: {build: {secrets: ['a b']}}}\n":                                                false,
		head + "repositories: {a: {ports: [web]}}\n":                                                             false,
		head + "repositories: {a: {ports: [0]}}\n":                                                               false,
		head + "repositories: {a: {ports: [65536]}}\n":                                                           false,
		head + "repositories: {a: {ports: 80}}\n":                                                                false,
		"users: {Ada: {}}\n" + head[strings.Index(head, "groups"):]:                                              false,
		"users: {ada: {keys: [KEY1]}}\n":                                                                         false,
		"users: {ada: {keys: [ssh-dss AAAA]}}\ngroups: {administrators: [ada]}\n":                                false,
	}
	for _, name := range access.Reserved() {
		files[head+"repositories: {"+name+": {}}\n"] = false
	}
	for file, good := range files {
		data := withKeys(t, file)
		_, parseErr := access.Parse("server.yaml", data)
		var value any
		if err := yaml.Unmarshal(data, &value); err != nil {
			t.Fatal(err)
		}
		text, err := json.Marshal(value)
		if err != nil {
			t.Fatal(err)
		}
		if value, err = jsonschema.UnmarshalJSON(bytes.NewReader(text)); err != nil {
			t.Fatal(err)
		}
		schemaErr := schema.Validate(value)
		if (parseErr == nil) != good || (schemaErr == nil) != good {
			t.Errorf("%s\ndecoder: %v\nschema: %v\nwant good: %v", file, parseErr, schemaErr, good)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(withKeys(f, example))
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := access.Parse("server.yaml", data)
		if err != nil {
			return
		}
		admins := c.Members(access.Administrators)
		if len(admins) == 0 {
			t.Fatal("a file without administrators was taken")
		}
		if edited, err := access.AddRepository(data, "fuzzed", "x"); err == nil {
			if d, err := access.Parse("server.yaml", edited); err != nil || len(d.Repositories()) != len(c.Repositories())+1 {
				t.Fatalf("an edit broke the file: %v", err)
			}
		}
	})
}
