package policies

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
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
		if modules[p], err = ast.ParseModuleWithOpts(p, string(data), ast.ParserOptions{RegoVersion: ast.RegoV1}); err != nil {
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
	return PushInput{Now: noon, Repository: "hello", Ref: "refs/heads/side", Class: ClassPlain, User: User{Name: "ada", MayRead: true, MayWrite: true}}
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
	if a.Decision != Manual || len(a.Missing) != 1 || !slices.Equal(a.Missing[0].Who, []string{"jun"}) || !slices.Equal(a.Missing[0].Cannot, []string{"ada"}) {
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
		{"stricter wins", "package policy.push\ndeny contains {\"rule\": \"friday\", \"msg\": \"not on Fridays\"} if true\n", "not on Fridays"},
		{"looser does not", "package policy.push\ndeny := set()\nneed := set()\n", ""},
		{"other query", "package policy.promote\ndeny contains {\"rule\": \"x\", \"msg\": \"no\"} if true\n", ""},
		{"need waits", "package policy.push\nneed contains {\"rule\": \"x\", \"msg\": \"wait for it\"} if true\n", "wait for it"},
		{"a misspelt field that cannot be seen before", "package policy.push\nneed contains object.union(m, {lower(\"Cuont\"): 2}) if true\nm := {\"rule\": \"x\", \"msg\": \"m\"}\n", "invalid member of a set"},
		{"no message", "package policy.push\ndeny contains {\"rule\": \"x\"} if true\n", "has no rule or no msg"},
		{"negative count", "package policy.push\nneed contains {\"rule\": \"x\", \"msg\": \"m\", \"count\": -1} if true\n", "negative count"},
		{"text for a number", "package policy.push\nneed contains {\"rule\": \"x\", \"msg\": \"m\", \"count\": \"2\"} if true\n", "invalid member of a set"},
		{"time that is none", "package policy.push\nneed contains {\"rule\": \"x\", \"msg\": \"m\", \"at\": \"soon\"} if true\n", "invalid member of a set"},
		{"two values", "package policy.push\nneed := set()\ndeny := {{\"rule\": \"a\", \"msg\": \"a\"}} if input.ref\ndeny := {{\"rule\": \"b\", \"msg\": \"b\"}} if input.ref\n", "gave no answer"},
		{"undefined", "package policy.push\nneed := set()\ndeny := set() if input.ref == \"never\"\n", "gave no answer: the result is undefined"},
		{"a helper that fails unused", "package policy.push\nneed := set()\nhelper := to_number(\"x\")\n", ""},
		{"warning", "package policy.push\nneed := set()\nwarn contains {\"rule\": \"w\", \"msg\": \"careful\"}\n", ""},
		{"built-in error", "package policy.push\ndeny contains {\"rule\": \"x\", \"msg\": \"m\"} if to_number(\"x\") > 1\n", "gave no answer"},
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
		"syntax":  "package policy.push\ndeny contains {\n",
		"network": "package policy.push\ndeny contains {\"rule\": \"x\", \"msg\": \"m\"} if http.send({\"url\": \"http://127.0.0.1\", \"method\": \"get\"})\n",
		"package": "package something.else\ndeny := set()\n",
		"below":   "package policy.push.friday\ndeny contains {\"rule\": \"x\", \"msg\": \"m\"} if true\n",
		"silent":  "package policy.push\nallow if true\n",
		"truth":   "package policy.push\ndeny := true\n",
		"texts":   "package policy.push\ndeny contains \"no\" if true\n",
		"field":   "package policy.push\nneed contains {\"rule\": \"x\", \"msg\": \"m\", \"cuont\": 2} if true\n",
		"input":   "package policy.push\ndeny contains {\"rule\": \"x\", \"msg\": \"m\"} if input.usr.name == \"ada\"\n",
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
		`http.send({"url": "x", "method": "get"})`, `opa.runtime()`, `net.lookup_ip_addr("x")`, `rand.intn("x", 2)`, `uuid.rfc4122("x")`,
		`rego.parse_module("a", "b")`, `bits.lsh(1, 8589934592)`, `graph.reachable_paths({}, {})`, `numbers.range(0, 9)`, `strings.render_template("a", {})`,
		`io.jwt.decode("x")`, `trace("x")`,
	} {
		ps := Check(t.Context(), map[string][]byte{"policies/a.rego": []byte("package policy.push\n\ndeny contains {\"rule\": \"x\", \"msg\": \"m\"} if x == 1\n\nx := " + call + "\n")})
		if len(ps) == 0 || !strings.Contains(ps[0].Error(), "policies/a.rego:5") {
			t.Errorf("%s: %v", call, ps)
		}
	}
}

func TestCheck(t *testing.T) {
	good := "package policy.push\n\ndeny contains {\"rule\": \"x\", \"msg\": \"m\"} if input.ref == \"refs/heads/x\"\n"
	for _, c := range []struct {
		name  string
		files map[string]string
		want  string
	}{
		{"nothing", nil, ""},
		{"good", map[string]string{"policies/a.rego": good, "policies/README.md": "{"}, ""},
		{"green test", map[string]string{"policies/a.rego": good, "policies/a_test.rego": "package policy.push_test\ntest_x if count(data.policy.push.deny) == 1 with input as {\"ref\": \"refs/heads/x\"}\n"}, ""},
		{"red test", map[string]string{"policies/a.rego": good, "policies/a_test.rego": "package policy.push_test\n\ntest_x if count(data.policy.push.deny) == 2 with input as {\"ref\": \"refs/heads/x\"}\n"}, "policies/a_test.rego:3: test test_x fails"},
		{"never evaluated", map[string]string{"policies/a.rego": "package policy.pusch\n"}, "policies/a.rego:1: package policy.pusch is never evaluated; name it policy.push"},
		{"syntax", map[string]string{"policies/a.rego": "package policy.push\n\nwhat is this\n"}, "policies/a.rego:3: "},
		{"undefined", map[string]string{"policies/a.rego": good + "\nx := nothing\n"}, "policies/a.rego:5: "},
		{"no word", map[string]string{"policies/a.rego": "package policy.push\n\nallow if true\n"}, "policies/a.rego:1: package policy.push has neither deny nor need, so it would never object; write: deny contains"},
		{"below", map[string]string{"policies/a.rego": "package policy.push.friday\n\ndeny := set()\n"}, "policies/a.rego:1: package policy.push.friday is never evaluated"},
		{"truth", map[string]string{"policies/a.rego": "package policy.push\n\ndeny := true\n"}, "policies/a.rego:3: deny is not a set; write: deny contains"},
		{"truth or set", map[string]string{"policies/a.rego": "package policy.push\n\ndeny := set()\n\nneed := false\n"}, "policies/a.rego:5: need is not a set"},
		{"texts", map[string]string{"policies/a.rego": "package policy.push\n\ndeny contains \"no\" if true\n"}, "policies/a.rego:3: deny contains string, not an object"},
		{"misspelt field of an answer", map[string]string{"policies/a.rego": "package policy.push\n\nneed contains {\"rule\": \"x\", \"msg\": \"m\", \"cuont\": 2} if true\n"}, `policies/a.rego:3: need contains an object with the unknown field "cuont"; fields: rule, msg, title, group, count`},
		{"misspelt field of the input", map[string]string{"policies/a.rego": strings.Replace(good, "input.ref", "input.user.nmae", 1)}, "policies/a.rego:3: undefined ref: input.user.nmae; have: \"nmae\", want (one of): [\"administrator\""},
		{"field of another query", map[string]string{"policies/a.rego": strings.Replace(good, "input.ref", "input.environment.name", 1)}, "policies/a.rego:3: undefined ref: input.environment.name"},
		{"wrong type of the input", map[string]string{"policies/a.rego": strings.Replace(good, "input.ref ==", "input.force ==", 1)}, "policies/a.rego:3: match error"},
		{"library asks wrongly", map[string]string{"policies/a.rego": strings.Replace(good, "input.ref ==", "data.lib.a.ref ==", 1), "policies/l.rego": "package lib.a\n\nref := input.reff\n"}, "policies/l.rego:3: undefined ref: input.reff"},
		{"broken library nobody uses", map[string]string{"policies/a.rego": good, "policies/l.rego": "package lib.a\n\nx := y\n"}, "policies/l.rego:3: "},
		{"empty", map[string]string{"policies/a.rego": ""}, "policies/a.rego: "},
		{"not strict", map[string]string{"policies/a.rego": "package policy.push\n\nimport data.lib.a\n\ndeny := set()\n", "policies/l.rego": "package lib.a\n\nx := 1\n"}, "policies/a.rego:3: import data.lib.a unused"},
		{"denied built-in as a mock", map[string]string{"policies/a.rego": good, "policies/a_test.rego": "package policy.push_test\n\nimport data.policy.push\n\ntest_x if count(push.deny) == 0 with count as http.send\n"}, "policies/a_test.rego:5: "},
		{"test without end", map[string]string{"policies/a.rego": good, "policies/a_test.rego": "package policy.push_test\n\ntest_x if {\n\tl := split(\"" + strings.Repeat("a", 3000) + "\", \"\")\n\tsome a in l\n\tsome b in l\n\tsome c in l\n\ta != b\n\tb != c\n}\n"}, "policies/a_test.rego:3: test test_x fails"},
		{"library", map[string]string{"policies/l.rego": "package lib.days\n\nworkday if time.weekday(time.now_ns()) != \"Sunday\"\n"}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			files := map[string][]byte{}
			for p, s := range c.files {
				files[p] = []byte(s)
			}
			ps := Check(t.Context(), files)
			var all []error
			for _, p := range ps {
				all = append(all, p)
			}
			if got := fmt.Sprint(errors.Join(all...)); (c.want == "") != (len(ps) == 0) || !strings.Contains(got, c.want) {
				t.Fatalf("got %s, want %q", got, c.want)
			}
		})
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

// Whatever the facts: auto means that enough different people who may, and who
// did not write it, approved exactly this content.
func TestNeverAutoWithoutEnoughApprovals(t *testing.T) {
	e := engine(t, nil)
	names := []string{"ada", "jun", "sam", "kim"}
	trees := []string{"t3", "t2"}
	rapid.Check(t, func(t *rapid.T) {
		in := promote()
		in.Environment.Soak = 0
		in.Environment.Approvals = Approvals{Count: rapid.IntRange(0, 3).Draw(t, "count"), Own: rapid.Bool().Draw(t, "own"),
			From: rapid.SampledFrom([]string{"", "release"}).Draw(t, "from")}
		in.Authors = rapid.SliceOfNDistinct(rapid.SampledFrom(names), 0, 3, rapid.ID).Draw(t, "authors")
		n := rapid.IntRange(0, 5).Draw(t, "approvals")
		counted := map[string]bool{}
		for range n {
			a := Approval{User: rapid.SampledFrom(names).Draw(t, "user"), MayWrite: rapid.Bool().Draw(t, "write"), Tree: rapid.SampledFrom(trees).Draw(t, "tree")}
			if rapid.Bool().Draw(t, "group") {
				a.Groups = []string{"release"}
			}
			in.Approvals = append(in.Approvals, a)
			may := a.MayWrite
			if in.Environment.Approvals.From != "" {
				may = len(a.Groups) > 0
			}
			if a.Tree == in.Tree && may && (in.Environment.Approvals.Own || !slices.Contains(in.Authors, a.User)) {
				counted[a.User] = true
			}
		}
		answer, _ := e.Promote(context.Background(), in)
		enough := len(counted) >= in.Environment.Approvals.Count
		if (answer.Decision == Auto) != enough {
			t.Fatalf("%d of %d approvals count, and the answer is %s: %s", len(counted), in.Environment.Approvals.Count, answer.Decision, answer.Why())
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
