package appspec

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/headgate-cd/headgate/gitd/yamlfile"
)

const head = "version: 0.0\nos: linux\n"

func parse(t *testing.T, text string) (*Spec, yamlfile.Problems) {
	t.Helper()
	s, warnings, err := Parse("appspec.yml", []byte(text), Options{})
	if err != nil {
		t.Fatalf("%s\n%v", text, err)
	}
	return s, warnings
}

// TestRefusals: behaviours 1 to 11, each with the place and what to write. Only the
// first problem is compared, which is the one that CodeDeploy would name.
func TestRefusals(t *testing.T) {
	files := head + "files:\n"
	permission := head + "permissions:\n  - object: /srv/app\n    "
	script := head + "hooks:\n  AfterInstall:\n    - "
	for name, c := range map[string]struct{ text, want string }{
		"1 empty":     {"", "appspec.yml: application specification file was empty; it must have at least 'version' and 'os'; write version: 0.0 and os: linux"},
		"1 blank":     {" \n\n", "appspec.yml: application specification file was empty"},
		"1 only null": {"~\n", "appspec.yml:1:1: application specification file was empty"},
		"1 a list":    {"- a\n", "appspec.yml:1:1: is a list, not a mapping"},
		"syntax":      {"version: 0.0\nos: linux\nfiles: [\n", "appspec.yml:3: is not YAML"},
		"a key twice": {head + "os: linux\n", `appspec.yml:3:1: "os" is given twice; keep one of them`},
		"2 none":      {"os: linux\n", "appspec.yml:1:1: version is missing; write version: 0.0, without quotes"},
		"2 invalid": {"version: invalid\nos: linux\n",
			`appspec.yml:1:10: version is the text "invalid", not the number 0.0`},
		"2 quoted": {"version: \"0.0\"\nos: linux\n",
			`appspec.yml:1:10: version is the text "0.0", not the number 0.0; write version: 0.0, without quotes`},
		"2 another": {"version: 1.0\nos: linux\n", "appspec.yml:1:10: version is 1.0; 0.0 is the only one there is"},
		"2 a list":  {"version: [0]\nos: linux\n", "appspec.yml:1:10: version is a list, not 0.0"},
		"3 none":    {"version: 0.0\n", "appspec.yml:1:1: os is missing; write os: linux"},
		"3 unknown": {"version: 0.0\nos: Linux\n",
			`appspec.yml:2:5: unsupported operating system "Linux"; write os: linux`},
		"3 order": {"hooks: 3\nos: beos\nversion: 7\n", "appspec.yml:3:10: version is 7"},
		"3 order, 2": {head + "file_exists_behavior: x\npermissions: 1\nfiles: 2\nhooks: 3\n",
			`appspec.yml:6:8: hooks is "3"`},
		"3 order, 3": {head + "file_exists_behavior: x\npermissions: 1\nfiles: 2\n", `appspec.yml:5:8: files is "2"`},
		"3 order, 4": {head + "file_exists_behavior: x\npermissions: 1\n", `appspec.yml:4:14: permissions is "1"`},
		"4 lower case": {head + "file_exists_behavior: overwrite\n",
			`appspec.yml:3:23: file_exists_behavior is "overwrite", not one of DISALLOW, OVERWRITE and RETAIN; write OVERWRITE`},
		"4 another": {head + "file_exists_behavior: MERGE\n",
			`not one of DISALLOW, OVERWRITE and RETAIN; write DISALLOW, OVERWRITE or RETAIN, in capitals`},
		"5 no source": {files + "  - destination: /srv\n",
			`appspec.yml:4:5: an entry of files has no source; add source: with a path in the revision; "/" is all of it`},
		"5 no destination": {files + "  - source: /\n",
			"appspec.yml:4:5: an entry of files has no destination; add destination: with the directory to copy to, such as /srv/app"},
		"5 null destination": {files + "  - source: /\n    destination:\n", "an entry of files has no destination"},
		"5 source outside": {files + "  - source: a/../../x\n    destination: /srv\n",
			`appspec.yml:4:13: the source "a/../../x" of an entry of files is not in the revision`},
		"5 relative": {files + "  - source: /\n    destination: srv/app\n",
			`appspec.yml:5:18: the destination of an entry of files, "srv/app", is not an absolute path; write the whole path, such as /srv/app`},
		"5 home": {files + "  - source: /\n    destination: ~/app\n",
			"write the whole path; neither ~ nor variables are expanded"},
		"5 text": {files + "  - /\n",
			`appspec.yml:4:5: an entry of files is "/", not a mapping with source and destination`},
		"6 no location": {script + "timeout: 3\n",
			"appspec.yml:5:7: a script of hook AfterInstall has no location; add location:"},
		"6 blank location": {script + "location: '  '\n",
			`appspec.yml:5:17: the location of a script of hook AfterInstall is "  "`},
		"6 outside": {script + "location: ../x.sh\n",
			`appspec.yml:5:17: the location "../x.sh" of a script of hook AfterInstall is not in the revision`},
		"6 a text": {head + "hooks:\n  AfterInstall: a.sh\n",
			`appspec.yml:4:17: hook AfterInstall is "a.sh", not a list of scripts; write - location:`},
		"6 a text in the list": {script + "a.sh\n",
			`appspec.yml:5:7: a script of hook AfterInstall is "a.sh", not a mapping`},
		"6 Lambda's form": {head + "hooks:\n  - BeforeAllowTraffic: f\n",
			"appspec.yml:4:3: hooks is a list, as for Amazon ECS and AWS Lambda"},
		"7 a unit": {script + "location: a\n      timeout: 300s\n",
			`appspec.yml:6:16: the timeout of a script of hook AfterInstall is "300s", not a number of seconds from 1 to 604800; write timeout: 300`},
		"7 minutes":    {script + "location: a\n      timeout: 5m\n", "write timeout: 300"},
		"7 a fraction": {script + "location: a\n      timeout: 1.9\n", "write whole seconds, such as timeout: 300"},
		"7 nought":     {script + "location: a\n      timeout: 0\n", `is "0", not a number of seconds`},
		"7 negative":   {script + "location: a\n      timeout: -3\n", `is "-3", not a number of seconds`},
		"7 a word":     {script + "location: a\n      timeout: soon\n", `is "soon", not a number of seconds`},
		"runas": {script + "location: a\n      runas: -c\n",
			`appspec.yml:6:14: runas of a script of hook AfterInstall is "-c", not a user`},
		"sudo": {script + "location: a\n      sudo: please\n",
			`appspec.yml:6:13: sudo of a script of hook AfterInstall is "please"; write sudo: true`},
		"8 windows": {"version: 0.0\nos: windows\npermissions:\n  - object: c:\\x\n",
			"appspec.yml:4:3: permissions are for linux only"},
		"9 five digits": {permission + "mode: 00644\n",
			`appspec.yml:5:11: the mode is "00644"; write 1 to 4 octal digits, such as 0755`},
		"9 an eight": {permission + "mode: 0680\n", `appspec.yml:5:11: the mode is "0680"`},
		"9 letters":  {permission + "mode: u+x\n", `the mode is "u+x"`},
		"10 one part": {permission + "acls: [rw]\n",
			`appspec.yml:5:12: the acl "rw" does not have 2 to 4 parts; write it as setfacl takes it, such as u:mary:rw`},
		"10 five parts":    {permission + "acls: ['d:u:m:r:w']\n", "does not have 2 to 4 parts"},
		"10 four parts":    {permission + "acls: ['u:m:r:w']\n", "does not have a kind, a name and permissions"},
		"10 unnamed user":  {permission + "acls: ['u::rw']\n", "use mode to set the base acl entry"},
		"10 unnamed group": {permission + "acls: ['group::rw']\n", "use mode to set the base acl entry"},
		"10 unnamed other": {permission + "acls: ['o::rw']\n", "use mode to set the base acl entry"},
		"10 named mask":    {permission + "acls: ['m:mary:rw']\n", "names somebody, which mask does not take"},
		"10 named other":   {permission + "acls: ['other:mary:rw']\n", "names somebody, which other does not take"},
		"10 permissions": {permission + "acls: ['u:mary:8']\n",
			`has the permissions "8", not one digit from 0 to 7 or letters of rwx`},
		"10 no permissions": {permission + "acls: ['u:mary:']\n", `has the permissions ""`},
		"10 another kind":   {permission + "acls: ['x:mary:rw']\n", `is for "x", not for user, group, mask or other`},
		"10 not text":       {permission + "acls: [[x]]\n", "an entry of acls is a list, not text"},
		"11 no type": {permission + "context: {name: user_u}\n",
			"appspec.yml:5:14: invalid context type: it is missing; write context: {type: httpd_sys_content_t}"},
		"11 no sensitivity": {permission + "context: {type: t, range: x0}\n",
			`appspec.yml:5:31: the range "x0" of context does not begin with a sensitivity`},
		"11 inverted":    {permission + "context: {type: t, range: s3-s0}\n", "goes from s3 down to s0"},
		"11 category":    {permission + "context: {type: t, range: 's0:c1024'}\n", "has a category over c1023"},
		"11 inverted, c": {permission + "context: {type: t, range: 's0:c5.c2'}\n", "goes from c5 down to c2"},
		"11 twice":       {permission + "context: {type: t, range: 's0:c1.c5,c3'}\n", "has the category c3 twice"},
		"11 no category": {permission + "context: {type: t, range: 's0:'}\n",
			`has "" where a category such as c5 belongs`},
		"11 two names": {permission + "context: {type: t, name: a, user: b}\n",
			`context has the name "a" and the user "b"`},
		"no object": {head + "permissions:\n  - mode: 0644\n",
			"appspec.yml:4:5: an entry of permissions has no object; add object:"},
		"owner": {permission + "owner: [a]\n",
			"appspec.yml:5:12: owner is a list; write the name of a user of the host"},
		"pattern": {permission + "pattern: []\n", `the pattern is a list`},
		"except":  {permission + "except: x\n", `except is "x", not a list; write except: ["*.sh"]`},
		"type": {permission + "type: [link]\n",
			`type is "link", not file or directory; write type: [file, directory]`},
		"Lambda": {"version: 0.0\nResources:\n  - f:\n      Type: AWS::Lambda::Function\n",
			"appspec.yml:2:1: is for AWS Lambda, not for servers; declare the environment with target: function"},
		"Lambda in small": {"version: 0.0\nresources:\n  - f: {type: 'AWS::Lambda::Function'}\n",
			"is for AWS Lambda, not for servers"},
		"ECS": {"version: 0.0\nResources:\n  - TargetService: {Type: AWS::ECS::Service}\n",
			"appspec.yml:2:1: is for Amazon ECS, not for servers; declare the environment with target: services"},
		"JSON": {"{\n\t\"version\": \"0.0\",\n\t\"os\": \"linux\"\n}",
			`appspec.yml:2:13: version is the text "0.0"`},
		"nesting":               {head + "files: " + strings.Repeat("[", 100), "nests deeper than 64 levels"},
		"an alias of itself":    {head + "files: &a [*a]\n", "nests deeper"},
		"a location with a NUL": {script + "location: \"a\\0b\"\n", "is not in the revision"},
	} {
		t.Run(name, func(t *testing.T) {
			_, _, err := Parse("appspec.yml", []byte(c.text), Options{})
			problems, ok := yamlfile.ProblemsIn(err)
			if !ok {
				t.Fatalf("got %v, want %q", err, c.want)
			}
			if first := problems[0].Error(); !strings.Contains(first, c.want) {
				t.Errorf("got  %q\nwant %q", first, c.want)
			}
		})
	}
}

// TestReads: all of it, in YAML and in JSON.
func TestReads(t *testing.T) {
	text := `version: 0.0
os: linux
files:
  - source: /
    destination: /srv/app/
  - source: /config//web.conf
    destination: /etc/nginx/sites-enabled
file_exists_behavior: OVERWRITE
permissions:
  - object: /srv/app
    pattern: "*.sh"
    except: [x.sh]
    owner: deploy
    group: www
    mode: 4755
    acls: ["u:mary:rw", "m::7", "d:g::r-x", "bob:r"]
    context: {name: user_u, type: httpd_sys_content_t, range: "s0-s3:c0.c5,c7"}
    type: [file]
  - object: /srv/app
    mode: 0644
hooks:
  ApplicationStop:
  BeforeInstall: []
  AfterInstall:
    - location: " scripts/a b.sh "
      timeout: 300
      runas: deploy
    - location: scripts/c.sh
      sudo: true
`
	s, warnings := parse(t, text)
	if len(warnings) > 0 {
		t.Errorf("warnings: %v", warnings)
	}
	mode, plain := Mode(0o4755), Mode(0o644)
	want := &Spec{
		File:       "appspec.yml",
		OS:         Linux,
		FileExists: Overwrite,
		Files: []File{
			{Source: ".", Destination: "/srv/app", At: Position{4, 5}},
			{Source: "config/web.conf", Destination: "/etc/nginx/sites-enabled", At: Position{6, 5}},
		},
		Permissions: []Permission{
			{
				Object:  "/srv/app",
				Pattern: "*.sh",
				Except:  []string{"x.sh"},
				Owner:   "deploy",
				Group:   "www",
				Mode:    &mode,
				ACLs: []ACL{
					{Kind: "user", Name: "mary", Bits: 6},
					{Kind: "mask", Bits: 7},
					{Kind: "group", Default: true, Bits: 5},
					{Kind: "user", Name: "bob", Bits: 4},
				},
				Context:   &Context{User: "user_u", Type: "httpd_sys_content_t", Range: "s0-s3:c0.c5,c7"},
				Files:     true,
				Patterned: true,
				At:        Position{10, 5},
			},
			{Object: "/srv/app", Pattern: Everything, Mode: &plain, Files: true, Dirs: true, At: Position{19, 5}},
		},
		Hooks: map[Event][]Script{AfterInstall: {
			{Location: "scripts/a b.sh", Timeout: 5 * time.Minute, RunAs: "deploy", At: Position{25, 7}},
			{Location: "scripts/c.sh", Timeout: time.Hour, Sudo: true, At: Position{28, 7}},
		}},
	}
	if !reflect.DeepEqual(s, want) {
		t.Errorf("got  %+v\nwant %+v", s, want)
	}

	fromJSON, _ := parse(
		t, "{\n\t\"version\": 0.0, \"os\": \"linux\",\n\t\"files\": [{\"source\": \"a\", \"destination\": \"/b\"}]\n}\n")
	if len(fromJSON.Files) != 1 || fromJSON.Files[0].Source != "a" {
		t.Errorf("from JSON: %+v", fromJSON)
	}
	for _, version := range []string{"0.0", "0", "0.00"} { // golden table
		parse(t, "version: "+version+"\nos: linux\n")
	}
}

// TestModes: behaviour 9, and the trap that a mode which is not quoted is a number.
func TestModes(t *testing.T) {
	for text, want := range map[string]Mode{
		"0644": 0o644, `"0644"`: 0o644, "644": 0o644, "0755": 0o755, "755": 0o755, "5": 5, "0": 0, "4755": 0o4755,
		"1777": 0o1777,
	} {
		s, _ := parse(t, head+"permissions:\n  - object: /a\n    mode: "+text+"\n")
		if got := *s.Permissions[0].Mode; got != want {
			t.Errorf("mode: %s is %s, want %s", text, got, want)
		}
	}
}

// TestIgnored: what CodeDeploy ignores is told, and refused when strict.
func TestIgnored(t *testing.T) {
	for text, want := range map[string]string{
		"file: []\n":                     `appspec.yml:3:1: unknown key "file" of the file is ignored; did you mean "files"?`,
		"hooks:\n  AfterInstal:\n":       `appspec.yml:4:3: unknown lifecycle event "AfterInstal"; its scripts do not run; did you mean "AfterInstall"?`,
		"hooks:\n  DownloadBundle: []\n": "the lifecycle event DownloadBundle is reserved; its scripts do not run",
		"files:\n  - source: a\n    destination: /b\n    mode: 3\n":   `unknown key "mode" of an entry of files is ignored`,
		"permissions:\n  - object: /a\n    except: [/a/b]\n":          `"/a/b" of except is an absolute path, which never matches`,
		"hooks:\n  AfterInstall:\n    - location: a\n      args: b\n": `unknown key "args" of a script of hook AfterInstall is ignored`,
	} {
		_, warnings := parse(t, head+text)
		if len(warnings) != 1 || !strings.Contains(warnings[0].Error(), want) {
			t.Errorf("%q: warnings %q, want %q", text, warnings, want)
		}
		if _, _, err := Parse("appspec.yml", []byte(head+text), Options{Strict: true}); err == nil ||
			!strings.Contains(err.Error(), want) {
			t.Errorf("%q, strict: %v, want %q", text, err, want)
		}
	}
}

// TestUnknownEvents: behaviour 28, when the caller knows all events.
func TestUnknownEvents(t *testing.T) {
	text := head + "hooks:\n  HealthCheck: [{location: a}]\n  Other: []\n  AfterInstall: []\n"
	_, _, err := Parse("appspec.yml", []byte(text), Options{Events: []Event{AfterInstall}})
	if want := "appspec.yml:4:3: contains unknown lifecycle events: [HealthCheck, Other]; name one of AfterInstall"; err == nil || err.Error() != want {
		t.Errorf("got %v, want %q", err, want)
	}
	s, _, err := Parse("appspec.yml", []byte(text), Options{Events: []Event{AfterInstall, "HealthCheck", "Other"}})
	if err != nil || len(s.Hooks["HealthCheck"]) != 1 {
		t.Errorf("%+v, %v", s, err)
	}
}

// TestMatches: behaviour 21; "?" and "[" are letters like others.
func TestMatches(t *testing.T) {
	for _, c := range []struct {
		pattern, except, name string
		want                  bool
	}{
		{"**", "", "a/b/c.sh", true},
		{"*.sh", "", "c.sh", true},
		{"*.sh", "", "c.sh.bak", false},
		{"*.sh", "", "a/c.sh", false},
		{"a*b*c", "", "a-b-b-c", true},
		{"a*b*c", "", "a-c-b", false},
		{"a*a", "", "a", false},
		{"**.sh", "", "x.sh", true},
		{"[ab]?", "", "a1", false},
		{"[ab]?", "", "[ab]?", true},
		{"**", "h.txt", "h.txt", false},
		{"**", "h.txt", "e/h.txt", true},
		{"**", "h*", "h.txt", false},
	} {
		p := Permission{Pattern: c.pattern}
		if c.except != "" {
			p.Except = []string{c.except}
		}
		if got := p.Matches(c.name); got != c.want {
			t.Errorf("pattern %s except %q: %s: %t", c.pattern, c.except, c.name, got)
		}
	}
}

func TestPlatformOf(t *testing.T) {
	for text, want := range map[string]Platform{
		head: Server,
		"version: 0.0\nResources:\n  - f: {Type: AWS::Lambda::Function}\n":                  Lambda,
		`{"version": 0.0, "Resources": [{"TargetService": {"Type": "AWS::ECS::Service"}}]}`: ECS,
		"version: 0.0\nResources: 3\n":                                                      Server,
	} {
		top, err := yamlfile.ParseAliased("appspec.yml", plainJSON([]byte(text)))
		if err != nil {
			t.Fatal(err)
		}
		if got := platformOf(top); got != want {
			t.Errorf("%q is for %s, want %s", text, got, want)
		}
	}
}

// FuzzParse: whatever comes, it is read or refused with a place and never panics;
// and a file in JSON says what it says in YAML.
func FuzzParse(f *testing.F) {
	f.Add([]byte(head + "files:\n  - {source: a, destination: /b}\n"))
	f.Add(
		[]byte(head + "hooks: {AfterInstall: [{location: a, timeout: 3}]}\npermissions: [{object: /a, acls: ['u:m:r']}]\n"))
	f.Add([]byte(`{"version": 0, "os": "linux"}`))
	f.Add([]byte("version: 0.0\nResources: [{f: {Type: AWS::ECS::Service}}]\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		s, _, err := Parse("appspec.yml", data, Options{})
		if (s == nil) == (err == nil) {
			t.Fatalf("spec %v and error %v", s, err)
		}
		if problems, ok := yamlfile.ProblemsIn(err); err != nil && (!ok || problems[0].File != "appspec.yml") {
			t.Fatalf("error without a place: %v", err)
		}
		if s != nil {
			for _, file := range s.Files {
				if strings.HasPrefix(file.Source, "..") || file.Source == "" {
					t.Errorf("source %q leads out", file.Source)
				}
			}
			if _, err := json.Marshal(s); err != nil {
				t.Error(err)
			}
		}
	})
}
