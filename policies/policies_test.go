package policies

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/cover"
	"github.com/open-policy-agent/opa/v1/tester"
	"pgregory.net/rapid"
)

var noon = time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)

// The default policies' own tests, which must cover every line of them.
func TestDefaultRego(t *testing.T) {
	modules := map[string]*ast.Module{}
	paths, err := fs.Glob(defaults, "rego/*.rego")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range paths {
		data, err := defaults.ReadFile(p)
		if err != nil {
			t.Fatal(err)
		}
		if modules[p], err = ast.ParseModuleWithOpts(p, string(data),
			ast.ParserOptions{RegoVersion: ast.RegoV1}); err != nil {
			t.Fatal(err)
		}
	}
	coverage := cover.New()
	results, err := tester.NewRunner().SetCompiler(ast.NewCompiler().WithDefaultRegoVersion(ast.RegoV1)).
		SetModules(modules).SetCoverageQueryTracer(coverage).RunTests(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	ran := 0
	for r := range results {
		ran++
		if !r.Pass() {
			t.Errorf("%s: %s %v", r.Location, r.Name, r.Error)
		}
	}
	if ran < 40 {
		t.Errorf("only %d Rego tests ran", ran)
	}
	for path, file := range coverage.Report(modules).Files {
		if !strings.HasSuffix(path, "_test.rego") && len(file.NotCovered) > 0 {
			t.Errorf("%s: no test reaches %+v", path, file.NotCovered)
		}
	}
}

func engine(t *testing.T, files map[string][]byte) *Engine {
	t.Helper()
	e, err := New(files)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func push() PushInput {
	return PushInput{Now: noon, Repository: "hello", Ref: "refs/heads/side", Class: ClassPlain,
		User: User{Name: "ada", MayRead: true, MayWrite: true}}
}

func promote() PromoteInput {
	writer := func(name string) User { return User{Name: name, MayRead: true, MayWrite: true} }
	return PromoteInput{
		Now: noon, Repository: "hello", Application: "hello",
		Environment: Environment{Name: "production", After: "staging", Soak: 3600, Approvals: Approvals{Count: 1}},
		Release:     ReleaseFact{Number: 3}, Tree: "t3", Authors: []string{"ada"},
		Candidates: []User{writer("ada"), writer("jun")},
		Upstream:   &Upstream{Release: 3, Healthy: true, HealthySince: noon.Add(-30 * time.Minute)},
		Verifies:   true,
	}
}

func TestAnswers(t *testing.T) {
	e := engine(t, nil)
	a, _ := e.Push(t.Context(), push())
	if a.Decision != Auto || a.Policy != e.Digest() {
		t.Fatalf("%+v", a)
	}
	in := promote()
	a, _ = e.Promote(t.Context(), in)
	if a.Decision != Manual || len(a.Missing) != 1 || !slices.Equal(a.Missing[0].Who, []string{"jun"}) ||
		!slices.Equal(a.Missing[0].Cannot, []string{"ada"}) {
		t.Fatalf("%+v", a)
	}
	if want := noon.Add(30 * time.Minute); !a.NotBefore.Equal(want) {
		t.Fatalf("wakes at %s, not %s", a.NotBefore, want)
	}
	if a.Checks[0].Met || !a.Checks[len(a.Checks)-1].Met {
		t.Fatalf("open checks do not come first: %+v", a.Checks)
	}
	in.Approvals = []Approval{{User: "jun", MayWrite: true, Tree: "t3"}}
	a, _ = e.Promote(t.Context(), in)
	if a.Decision != Manual || len(a.Missing) != 0 || a.NotBefore.IsZero() {
		t.Fatalf("only time is missing: %+v", a)
	}
	in.Now = a.NotBefore // waking exactly then is enough
	if a, _ = e.Promote(t.Context(), in); a.Decision != Auto {
		t.Fatalf("after the soak: %+v", a)
	}
	if a, _ = e.Land(t.Context(), LandInput{Now: noon}); a.Decision != Deny {
		t.Fatalf("a landing without facts: %+v", a)
	}
	if a, _ = e.Converge(t.Context(), ConvergeInput{Now: noon}); a.Decision != Auto {
		t.Fatalf("%+v", a)
	}
}

// A soak is a span of time, not of the wall clock: the night of the change to
// winter time makes no difference.
func TestSoakAcrossClockChange(t *testing.T) {
	berlin, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Fatal(err)
	}
	since := time.Date(2026, 10, 25, 1, 30, 0, 0, berlin)
	in := promote()
	in.Upstream.HealthySince, in.Environment.Soak = since, 7200
	in.Now = since.Add(time.Minute)
	a, _ := engine(t, nil).Promote(t.Context(), in)
	if !a.NotBefore.Equal(since.Add(2 * time.Hour)) {
		t.Fatalf("%s", a.NotBefore)
	}
}

func TestRepositoryPolicies(t *testing.T) {
	for _, c := range []struct{ name, file, want string }{
		{"stricter wins", "package headgate.push\ndeny contains {\"rule\": \"friday\", \"msg\": \"not on Fridays\"} if true\n", "not on Fridays"},
		{"looser does not", "package headgate.push\ndeny := set()\nneed := set()\n", ""},
		{"other query", "package headgate.promote\ndeny contains {\"rule\": \"x\", \"msg\": \"no\"} if true\n", ""},
		{"need waits", "package headgate.push\nneed contains {\"rule\": \"x\", \"msg\": \"wait for it\"} if true\n",
			"wait for it"},
		{"a misspelt field that cannot be seen before",
			"package headgate.push\nneed contains object.union(m, {lower(\"Cuont\"): 2}) if true\nm := {\"rule\": \"x\", \"msg\": \"m\"}\n", "invalid member of a set"},
		{"no message", "package headgate.push\ndeny contains {\"rule\": \"x\"} if true\n", "has no rule or no msg"},
		{"negative count", "package headgate.push\nneed contains {\"rule\": \"x\", \"msg\": \"m\", \"count\": -1} if true\n",
			"negative count"},
		{"text for a number", "package headgate.push\nneed contains {\"rule\": \"x\", \"msg\": \"m\", \"count\": \"2\"} if true\n", "invalid member of a set"},
		{"time that is none", "package headgate.push\nneed contains {\"rule\": \"x\", \"msg\": \"m\", \"at\": \"soon\"} if true\n", "invalid member of a set"},
		{"two values", "package headgate.push\nneed := set()\ndeny := {{\"rule\": \"a\", \"msg\": \"a\"}} if input.ref\ndeny := {{\"rule\": \"b\", \"msg\": \"b\"}} if input.ref\n", "gave no answer"},
		{"undefined", "package headgate.push\nneed := set()\ndeny := set() if input.ref == \"never\"\n",
			"gave no answer: the result is undefined"},
		{"a helper that fails unused", "package headgate.push\nneed := set()\nhelper := to_number(\"x\")\n", ""},
		{"warning", "package headgate.push\nneed := set()\nwarn contains {\"rule\": \"w\", \"msg\": \"careful\"}\n", ""},
		{"built-in error", "package headgate.push\ndeny contains {\"rule\": \"x\", \"msg\": \"m\"} if to_number(\"x\") > 1\n",
			"gave no answer"},
	} {
		t.Run(c.name, func(t *testing.T) {
			e := engine(t, map[string][]byte{"policies/a.rego": []byte(c.file)})
			a, _ := e.Push(t.Context(), push())
			if (c.want == "") != (a.Decision == Auto) || !strings.Contains(a.Why(), c.want) {
				t.Fatalf("%+v", a)
			}
		})
	}
}

func TestBrokenPolicyDeniesEverything(t *testing.T) {
	for name, file := range map[string]string{
		"syntax":  "package headgate.push\ndeny contains {\n",
		"network": "package headgate.push\ndeny contains {\"rule\": \"x\", \"msg\": \"m\"} if http.send({\"url\": \"http://127.0.0.1\", \"method\": \"get\"})\n",
		"package": "package headgate.deploy\ndeny := set()\n",
		"below":   "package headgate.push.friday\ndeny contains {\"rule\": \"x\", \"msg\": \"m\"} if true\n",
		"silent":  "package headgate.push\nallow if true\n",
		"truth":   "package headgate.push\ndeny := true\n",
		"texts":   "package headgate.push\ndeny contains \"no\" if true\n",
		"field":   "package headgate.push\nneed contains {\"rule\": \"x\", \"msg\": \"m\", \"cuont\": 2} if true\n",
		"input":   "package headgate.push\ndeny contains {\"rule\": \"x\", \"msg\": \"m\"} if input.usr.name == \"ada\"\n",
	} {
		e, err := New(map[string][]byte{"policies/a.rego": []byte(file)})
		if err == nil {
			t.Errorf("%s: no error", name)
		}
		a, _ := e.Promote(t.Context(), promote())
		if a.Decision != Deny || !strings.Contains(a.Why(), "policy is broken") {
			t.Errorf("%s: %+v", name, a)
		}
	}
	var none *Engine
	if a, _ := none.Push(t.Context(), push()); a.Decision != Deny {
		t.Errorf("no engine: %+v", a)
	}
}

func TestForbiddenBuiltins(t *testing.T) {
	for _, call := range []string{
		`http.send({"url": "x", "method": "get"})`, `opa.runtime()`, `net.lookup_ip_addr("x")`, `rand.intn("x", 2)`,
		`uuid.rfc4122("x")`,
		`rego.parse_module("a", "b")`, `bits.lsh(1, 8589934592)`, `graph.reachable_paths({}, {})`, `numbers.range(0, 9)`,
		`strings.render_template("a", {})`,
		`io.jwt.decode("x")`, `trace("x")`,
	} {
		ps := checkIn(
			t, map[string][]byte{"policies/a.rego": []byte(
				"package headgate.push\n\ndeny contains {\"rule\": \"x\", \"msg\": \"m\"} if x == 1\n\nx := " + call + "\n")})
		if len(ps) == 0 || !strings.Contains(ps[0].Error(), "policies/a.rego:5") {
			t.Errorf("%s: %v", call, ps)
		}
	}
}

func TestCheck(t *testing.T) {
	good := "package headgate.push\n\ndeny contains {\"rule\": \"x\", \"msg\": \"m\"} if input.ref == \"refs/heads/x\"\n"
	for _, c := range []struct {
		name  string
		files map[string]string
		want  string
	}{
		{"nothing", nil, ""},
		{"good", map[string]string{"policies/a.rego": good}, ""},
		{"green test", map[string]string{"policies/a.rego": good,
			"policies/a_test.rego": "package headgate.push_test\ntest_x if count(data.headgate.push.deny) == 1 with input as {\"ref\": \"refs/heads/x\"}\n"}, ""},
		{"red test", map[string]string{"policies/a.rego": good,
			"policies/a_test.rego": "package headgate.push_test\n\ntest_x if count(data.headgate.push.deny) == 2 with input as {\"ref\": \"refs/heads/x\"}\n"}, "policies/a_test.rego:3: test test_x fails"},
		{"never evaluated", map[string]string{"policies/a.rego": "package headgate.pusch\n"},
			"policies/a.rego:1: package headgate.pusch is never evaluated; name it headgate.push"},
		{"syntax", map[string]string{"policies/a.rego": "package headgate.push\n\nwhat is this\n"}, "policies/a.rego:3: "},
		{"undefined", map[string]string{"policies/a.rego": good + "\nx := nothing\n"}, "policies/a.rego:5: "},
		{"no word", map[string]string{"policies/a.rego": "package headgate.push\n\nallow if true\n"},
			"policies/a.rego:1: package headgate.push has neither deny nor need, so it would never object; write: deny contains"},
		{"below", map[string]string{"policies/a.rego": "package headgate.push.friday\n\ndeny := set()\n"},
			"policies/a.rego:1: package headgate.push.friday is never evaluated"},
		{"truth", map[string]string{"policies/a.rego": "package headgate.push\n\ndeny := true\n"},
			"policies/a.rego:3: deny is not a set; write: deny contains"},
		{"truth or set", map[string]string{"policies/a.rego": "package headgate.push\n\ndeny := set()\n\nneed := false\n"},
			"policies/a.rego:5: need is not a set"},
		{"texts", map[string]string{"policies/a.rego": "package headgate.push\n\ndeny contains \"no\" if true\n"},
			"policies/a.rego:3: deny contains string, not an object"},
		{"misspelt field of an answer",
			map[string]string{"policies/a.rego": "package headgate.push\n\nneed contains {\"rule\": \"x\", \"msg\": \"m\", \"cuont\": 2} if true\n"}, `policies/a.rego:3: need contains an object with the unknown field "cuont"; fields: rule, msg, title, group, count`},
		{"misspelt field of the input",
			map[string]string{"policies/a.rego": strings.Replace(good, "input.ref", "input.user.nmae", 1)},
			"policies/a.rego:3: undefined ref: input.user.nmae; have: \"nmae\", want (one of): [\"administrator\""},
		{"field of another query", map[string]string{"policies/a.rego": strings.Replace(good, "input.ref",
			"input.environment.name", 1)}, "policies/a.rego:3: undefined ref: input.environment.name"},
		{"wrong type of the input", map[string]string{"policies/a.rego": strings.Replace(good, "input.ref ==",
			"input.force ==", 1)}, "policies/a.rego:3: match error"},
		{"library asks wrongly", map[string]string{"policies/a.rego": strings.Replace(good, "input.ref ==",
			"data.lib.a.ref ==", 1), "policies/l.rego": "package lib.a\n\nref := input.reff\n"}, "policies/l.rego:3: undefined ref: input.reff"},
		{"a broken library", map[string]string{"policies/a.rego": strings.Replace(good, "input.ref ==", "data.lib.a.x ==", 1),
			"policies/l.rego": "package lib.a\n\nx := y\n"}, "policies/l.rego:3: "},
		{"empty", map[string]string{"policies/a.rego": ""}, "policies/a.rego: "},
		{"not strict", map[string]string{"policies/a.rego": "package headgate.push\n\nimport data.lib.a\n\ndeny := set()\n",
			"policies/l.rego": "package lib.a\n\nx := 1\n"}, "policies/a.rego:3: import data.lib.a unused"},
		{"denied built-in as a mock",
			map[string]string{"policies/a.rego": good,
				"policies/a_test.rego": "package headgate.push_test\n\nimport data.headgate.push\n\ntest_x if count(push.deny) == 0 with count as http.send\n"}, "policies/a_test.rego:5: "},
		{"test without end", map[string]string{"policies/a.rego": good,
			"policies/a_test.rego": "package headgate.push_test\n\ntest_x if {\n\tl := split(\"" + strings.Repeat("a", 3000) +
				"\", \"\")\n\tsome a in l\n\tsome b in l\n\tsome c in l\n\ta != b\n\tb != c\n}\n"}, "policies/a_test.rego:3: test test_x fails"},
		{"library", map[string]string{"policies/l.rego": "package lib.days\n\nworkday if time.weekday(time.now_ns()) != \"Sunday\"\n"}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			checks(t, c.files, c.want)
		})
	}
}

// What belongs to other programs is left alone, in whatever dialect and state it is,
// unless it can only have been meant for Headgate.
func TestOthersPoliciesAreLeftAlone(t *testing.T) {
	good := "package headgate.push\n\ndeny contains {\"rule\": \"x\", \"msg\": \"m\"} if input.ref == \"refs/heads/x\"\n"
	for _, c := range []struct {
		name  string
		files map[string]string
		want  string
	}{
		{"Gatekeeper", map[string]string{"policies/k8s/labels.rego": "package k8srequiredlabels\n\nviolation[{\"msg\": msg}] {\n  not input.review.object.metadata.labels.app\n  msg := \"no label\"\n}\n"}, ""},
		{"conftest", map[string]string{"policies/main.rego": "# METADATA\n# title: images\npackage main\n\ndeny[msg] { input.image == \"latest\"; msg := http.send({}) }\n"}, ""},
		{"its broken tests", map[string]string{"policies/main_test.rego": "package main\n\ntest_x { false }\n"}, ""},
		{"its manifests", map[string]string{"policies/constraint.yaml": "a: 1\n---\na: 2\n", "policies/b.json": "[1]",
			"policies/c.yml": "a: *b\n"}, ""},
		{"beside ours", map[string]string{"policies/a.rego": good, "policies/b.rego": "package main\n\ndeny[msg] { x }\n"},
			""},
		{"a package in brackets is ours",
			map[string]string{"policies/a.rego": "package headgate[\"push\"]\n\nallow if true\n"},
			"policies/a.rego:1: package headgate.push has neither deny nor need"},
		{"nobody's", map[string]string{"policies/a.rego": "# ours\n\npackge headgate.push\n"},
			"policies/a.rego:3: does not begin with a package"},
		{"misspelt", map[string]string{"policies/a.rego": "package haedgate.push\n"},
			"policies/a.rego:1: package haedgate.push is never evaluated; name it headgate.push"},
		{"a letter short", map[string]string{"policies/a.rego": "package headgat.land\n"},
			"package headgat.land is never evaluated; name it headgate.land"},
		{"upper case", map[string]string{"policies/a.rego": "package Headgate.land\n"},
			"package Headgate.land is never evaluated; name it headgate.land"},
		{"the former name", map[string]string{"policies/a.rego": "package policy.push\n\ndeny := set()\n"},
			"policies/a.rego:1: package policy.push is never evaluated; name it headgate.push"},
	} {
		t.Run(c.name, func(t *testing.T) { checks(t, c.files, c.want) })
	}
}

// Data stands below data. What a rule refers to must be there: an undefined
// reference would be a rule that never objects.
func TestData(t *testing.T) {
	rule := func(when string) string {
		return "package headgate.push\n\ndeny contains {\"rule\": \"x\", \"msg\": \"m\"} if {\n\t" + when + "\n}\n"
	}
	frozen := rule("data.windows.frozen")
	for _, c := range []struct {
		name  string
		files map[string]string
		want  string
	}{
		{"JSON", map[string]string{"policies/a.rego": frozen, "policies/data.json": `{"windows": {"frozen": true}}`}, ""},
		{"YAML", map[string]string{"policies/a.rego": frozen,
			"policies/windows.yaml": "windows:\n  frozen: true\n  since: 2026-01-02\n"}, ""},
		{"by import", map[string]string{"policies/a.rego": "package headgate.push\n\nimport data.windows\n\ndeny contains {\"rule\": \"x\", \"msg\": \"m\"} if windows.frozen\n", "policies/data.yml": "windows: {frozen: false}"}, ""},
		{"any member", map[string]string{"policies/a.rego": rule("some day in data.windows.days\n\tday == input.ref"),
			"policies/data.json": `{"windows": {"days": ["Friday"]}}`}, ""},
		{"of a list", map[string]string{"policies/a.rego": rule("data.days[0] == input.ref"),
			"policies/data.json": `{"days": ["Friday"]}`}, ""},
		{"in its tests", map[string]string{"policies/a.rego": frozen, "policies/data.json": `{"windows": {"frozen": true}}`,
			"policies/a_test.rego": "package headgate.push_test\n\ntest_frozen if count(data.headgate.push.deny) == 1\n\ntest_open if count(data.headgate.push.deny) == 0 with data.windows.frozen as false\n"}, ""},
		{"not there", map[string]string{"policies/a.rego": frozen},
			"policies/a.rego:4: data.windows.frozen is not defined; write it into policies/data.json"},
		{"not there in it", map[string]string{"policies/a.rego": frozen,
			"policies/data.json": `{"windows": {"frozn": true}}`}, "policies/a.rego:4: data.windows.frozen is not defined; add it to policies/data.json"},
		{"beyond the list", map[string]string{"policies/a.rego": rule("data.days[1] == input.ref"),
			"policies/data.json": `{"days": ["Friday"]}`}, "policies/a.rego:4: data.days[1] is not defined"},
		{"below a number", map[string]string{"policies/a.rego": frozen, "policies/data.json": `{"windows": 1}`},
			"data.windows.frozen is not defined"},
		{"in a directory below", map[string]string{"policies/a.rego": frozen,
			"policies/k8s/data.json": `{"windows": {"frozen": true}}`}, "data.windows.frozen is not defined"},
		{"given twice", map[string]string{"policies/a.rego": frozen, "policies/a.json": `{"windows": {"frozen": true}}`,
			"policies/b.yaml": "windows: {frozen: false}"}, "data.windows is given twice, in policies/a.json and policies/b.yaml"},
		{"given twice in one", map[string]string{"policies/a.rego": frozen,
			"policies/b.yaml": "windows: {frozen: false}\nwindows: {}\n"}, `policies/b.yaml:2: key "windows" is given twice`},
		{"not JSON", map[string]string{"policies/a.rego": frozen, "policies/data.json": "{\n\"windows\": {\n"},
			"policies/data.json:2: is not a JSON object"},
		{"an alias", map[string]string{"policies/a.rego": frozen, "policies/b.yaml": "a: &a {frozen: true}\nwindows: *a\n"},
			"policies/b.yaml:2: aliases are not supported"},
		{"deep", map[string]string{"policies/a.rego": frozen, "policies/data.json": strings.Repeat(`{"windows":`, 40) + "1" +
			strings.Repeat("}", 40)}, "nests deeper than 32 levels"},
		{"large", map[string]string{"policies/a.rego": frozen,
			"policies/data.json": `{"windows": "` + strings.Repeat("x", maxFileSize) + `"}`}, "over the limit"},
		{"a rule that is not there",
			map[string]string{"policies/a.rego": rule("data.lib.a.frozn"),
				"policies/l.rego": "package lib.a\n\nfrozen := true\n"}, "policies/a.rego:4: data.lib.a.frozn is not defined; define the rule"},
		{"a package that is not there", map[string]string{"policies/a.rego": rule("data.lib.b.frozen"),
			"policies/l.rego": "package lib.a\n\nfrozen := true\n"}, "data.lib.b.frozen is not defined"},
		{"in a library", map[string]string{"policies/a.rego": rule("data.lib.a.frozen"),
			"policies/l.rego": "package lib.a\n\nfrozen if data.windows.frozen\n"}, "policies/l.rego:3: data.windows.frozen is not defined"},
		{"any name", map[string]string{"policies/a.rego": rule("data[input.ref]")},
			"policies/a.rego:3: rule data.headgate.push.deny may be recursive"},
	} {
		t.Run(c.name, func(t *testing.T) { checks(t, c.files, c.want) })
	}

	files := map[string][]byte{"policies/a.rego": []byte(frozen), "policies/data.yaml": []byte("windows: {frozen: true}"),
		"policies/other.yaml": []byte("kind: Deployment")}
	closed := engine(t, files)
	if a, _ := closed.Push(t.Context(), push()); a.Decision != Deny || a.Why() != "m" {
		t.Errorf("frozen: %+v", a)
	}
	files["policies/other.yaml"] = []byte("kind: Service")
	if same := engine(t, files); same.Digest() != closed.Digest() {
		t.Error("a file that does not count makes another policy")
	}
	files["policies/data.yaml"] = []byte("windows: {frozen: false}")
	open := engine(t, files)
	if a, _ := open.Push(t.Context(), push()); a.Decision != Auto || open.Digest() == closed.Digest() {
		t.Errorf("open: %+v, %s and %s", a, open.Digest(), closed.Digest())
	}
	delete(files, "policies/data.yaml")
	gone, err := New(files)
	if a, _ := gone.Push(t.Context(), push()); err == nil || a.Decision != Deny {
		t.Errorf("without its data: %v, %+v", err, a)
	}
}

// checks holds what Check says of files to be want; "" is nothing.
func checks(t *testing.T, texts map[string]string, want string) {
	t.Helper()
	files := map[string][]byte{}
	for name, text := range texts {
		if !Reads(name) && path.Dir(name) == Dir {
			t.Fatalf("%s is not read", name)
		}
		if Reads(name) {
			files[name] = []byte(text)
		}
	}
	var all []error
	for _, p := range checkIn(t, files) {
		all = append(all, p)
	}
	if got := fmt.Sprint(errors.Join(all...)); (want == "") != (len(all) == 0) || !strings.Contains(got, want) {
		t.Errorf("got %s, want %q", got, want)
	}
}

// A repository may say that drift is reported only.
func TestDriftIsHealedUnlessPolicyObjects(t *testing.T) {
	in := ConvergeInput{Now: noon, Repository: "hello", Environment: "production", Release: 3}
	e := engine(
		t, map[string][]byte{"policies/drift.rego": []byte(
			"package headgate.converge\n\nneed contains {\"rule\": \"report\", \"msg\": \"drift is looked into first\"} if input.environment == \"production\"\n")})
	if a, rec := e.Converge(t.Context(), in); a.Decision != Manual || a.Why() != "drift is looked into first" ||
		rec.Query != "converge" {
		t.Errorf("production: %+v", a)
	}
	in.Environment = "staging"
	if a, _ := e.Converge(t.Context(), in); a.Decision != Auto {
		t.Errorf("staging: %+v", a)
	}
}

func TestRecordsReplay(t *testing.T) {
	e := engine(t, nil)
	in := promote()
	a, rec := e.Promote(t.Context(), in)
	var back Record
	if err := json.Unmarshal(rec.JSON(), &back); err != nil {
		t.Fatal(err)
	}
	again, err := e.Replay(t.Context(), back)
	if err != nil || fmt.Sprint(again) != fmt.Sprint(a) {
		t.Fatalf("%v\n%+v\n%+v", err, again, a)
	}
	in.Now = in.Now.Add(time.Second) // the same decision, asked again
	if _, later := e.Promote(t.Context(), in); later.Digest() != rec.Digest() {
		t.Error("the moment of asking makes another decision of it")
	}
	in.Tree = "t4"
	if _, other := e.Promote(t.Context(), in); other.Digest() == rec.Digest() {
		t.Error("another query has the same digest")
	}
}

func TestInputIsBounded(t *testing.T) {
	in := push()
	in.Ref = strings.Repeat("x", maxInput)
	if a, _ := engine(t, nil).Push(t.Context(), in); a.Decision != Deny || !strings.Contains(a.Why(), "over the limit") {
		t.Fatalf("%v", a.Decision)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if a, _ := engine(t, nil).Push(ctx, push()); a.Decision != Deny {
		t.Fatalf("evaluated when nobody waits: %+v", a)
	}
}

// Whatever the facts: auto means that each change which is carried has the yes of
// as many people as are asked for, who may and who did not write that change, to
// exactly this content; and with those it is auto.
func TestNeverAutoWithoutEnoughApprovals(t *testing.T) {
	e := engine(t, nil)
	names := []string{"ada", "jun", "sam", "kim"}
	trees := []string{"t3", "t2"}
	rapid.Check(t, func(t *rapid.T) {
		in := promote()
		in.Environment.Soak = 0
		want := Approvals{
			Count: rapid.IntRange(0, 3).Draw(t, "count"),
			From:  rapid.SampledFrom([]string{"", "release"}).Draw(t, "from"),
			Own:   rapid.Bool().Draw(t, "own"),
		}
		in.Environment.Approvals = want
		wrote := rapid.SliceOfN(rapid.SliceOfNDistinct(rapid.SampledFrom(names), 0, 3, rapid.ID), 0, 4).Draw(t, "changes")
		in.Authors, in.Carries = nil, nil
		for i, authors := range wrote {
			in.Carries = append(in.Carries, Carried{Changes: []int{i + 1}, Authors: authors})
			in.Authors = append(in.Authors, authors...)
		}
		if len(wrote) == 0 {
			wrote = [][]string{nil}
		}

		in.Candidates = nil
		for _, n := range names {
			in.Candidates = append(in.Candidates, User{Name: n, MayRead: true, MayWrite: true, Groups: []string{"release"}})
		}
		counts := map[string]bool{}
		for range rapid.IntRange(0, 5).Draw(t, "approvals") {
			a := Approval{
				User:     rapid.SampledFrom(names).Draw(t, "user"),
				MayWrite: rapid.Bool().Draw(t, "write"),
				Tree:     rapid.SampledFrom(trees).Draw(t, "tree"),
			}
			may := a.MayWrite
			if rapid.Bool().Draw(t, "group") {
				a.Groups = []string{"release"}
			}
			if want.From != "" {
				may = len(a.Groups) > 0
			}
			in.Approvals = append(in.Approvals, a)
			if a.Tree == in.Tree && may {
				counts[a.User] = true
			}
		}

		answer, _ := e.Promote(context.Background(), in)
		enough := true
		for _, authors := range wrote {
			given := 0
			for user := range counts {
				if want.Own || !slices.Contains(authors, user) {
					given++
				}
			}
			enough = enough && given >= want.Count
		}
		if (answer.Decision == Auto) != enough {
			t.Fatalf("%v approved changes of %v, %d asked for each, and the answer is %s: %s", counts, wrote, want.Count,
				answer.Decision, answer.Why())
		}
		if answer.Decision == Manual && len(answer.Missing) != 1 {
			t.Fatalf("nothing is said to be missing: %+v", answer)
		}

		// What is said to be missing is: with fewer further approvals it stays open, and
		// whom it names can complete it, unless it says that nobody can.
		if answer.Decision != Manual {
			return
		}
		m := answer.Missing[0]
		for _, n := range m.Who[:min(len(m.Who), m.Count-1)] {
			in.Approvals = append(in.Approvals, Approval{User: n, MayWrite: true, Groups: []string{"release"}, Tree: in.Tree})
		}
		if answer, _ := e.Promote(context.Background(), in); answer.Decision == Auto {
			t.Fatalf("%d were missing, and fewer sufficed: %+v", m.Count, m)
		}
		for _, n := range m.Who {
			in.Approvals = append(in.Approvals, Approval{User: n, MayWrite: true, Groups: []string{"release"}, Tree: in.Tree})
		}
		if answer, _ := e.Promote(context.Background(), in); (answer.Decision == Auto) != (m.Count <= len(m.Who)) {
			t.Fatalf("%d missing of %v, all of whom gave theirs: %s: %s", m.Count, m.Who, answer.Decision, answer.Why())
		}
	})
}

func BenchmarkPush(b *testing.B) {
	e, err := New(nil)
	if err != nil {
		b.Fatal(err)
	}
	in := push()
	for b.Loop() {
		e.Push(context.Background(), in)
	}
}
