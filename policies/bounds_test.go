package policies

import (
	"errors"
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/rego"
	"github.com/open-policy-agent/opa/v1/types"
)

// chain is rules x0 to x<n>, each made from the one before by a format with %[1]s
// in its place.
func chain(name, first, step string, n int) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s0 := %s\n", name, first)
	for i := range n {
		fmt.Fprintf(&b, "%s%d := %s\n", name, i+1, strings.ReplaceAll(step, "PREV", fmt.Sprintf("%s%d", name, i)))
	}
	return b.String()
}

// Policies that would take the server with them. Each is
// answered soon, by a denial that says why, and without much memory.
func TestPoliciesThatNeverEnd(t *testing.T) {
	const when = "package headgate.push\n\ndeny contains {\"rule\": \"x\", \"msg\": \"m\"} if "
	text := strings.Repeat("a", 2000)
	for _, c := range []struct{ name, file, want string }{
		{"loops", when + "{\n\tsome a in l\n\tsome b in l\n\tsome c in l\n\ta + b + c < 0\n}\n\nl := [i | some i, _ in split(\"" + text + text + "\", \"\")]\n", "policy timed out"},
		{"a text that doubles", when + "x40 == \"\"\n\n" + chain("x", `"aaaaaaaaaaaaaaaa"`, `concat("", [PREV, PREV])`, 40), "more than 8 MiB"},
		{"one that repeats an argument", when + "x12 == \"\"\n\n" + chain("x", `"aaaaaaaaaaaaaaaa"`, `sprintf("`+strings.Repeat("%[1]s", 20)+`", [PREV])`, 12), "the policy makes "},
		{"one of wide numbers", when + "sprintf(\"" + strings.Repeat("%0999999d", 2000) + "\", [1]) == \"\"\n", "more than 8 MiB"},
		{"one of a width from outside", when + "sprintf(\"%*d\", [999999, 1]) == \"\"\n", "more than 8 MiB"},
		{"one that is replaced", when + "x9 == \"\"\n\n" + chain("x", `"aaaaaaaaaaaaaaaa"`, `replace(PREV, "a", PREV)`, 9), "more than 8 MiB"},
		{"one in ever more quotes", when + "x40 == \"\"\n\n" + chain("x", `"\"\""`, `json.marshal(PREV)`, 40), "the policy makes "},
		{"an array that doubles", when + "count(x40) == 1\n\n" + chain("x", `[1, 2]`, `array.concat(PREV, PREV)`, 40), "the policy makes a value"},
		{"a text in pieces", when + "count(split(x14, \"\")) == 1\n\n" + chain("x", `"aaaaaaaaaaaaaaaa"`, `concat("", [PREV, PREV])`, 14), "more than 8 MiB"},
		{"shared parts, written", when + "json.marshal(x40) == \"\"\n\n" + chain("x", `[1]`, `array.concat([PREV], [PREV])`, 40), "makes a value"},
		{"shared parts, joined", when + "object.union({\"a\": x40}, {\"a\": {}}) == {}\n\n" + chain("x", `[1]`, `array.concat([PREV], [PREV])`, 40), "makes a value"},
		{"shared parts, answered", "package headgate.push\n\ndeny contains {\"rule\": \"x\", \"msg\": x40}\n\n" + chain("x", `[1]`, `array.concat([PREV], [PREV])`, 40), "makes a value"},
		{"shared parts by a function", when + "json.marshal(x40) == \"\"\n\ntwice(v) := [v, v]\n\n" + chain("x", `[1]`, `twice(PREV)`, 40), "policy timed out"},
		{"shared parts in sets", when + "x40 == y40\n\n" + chain("x", `{1}`, `{[PREV, 1]} | {[PREV, 2]}`, 40) + chain("y", `{1}`, `{[PREV, 1]} | {[PREV, 2]}`, 40), "makes a value"},
		{"shared parts, sorted", when + "x40 == y40\n\n" + chain("x", `[1]`, `sort({[PREV, 1]} | {[PREV, 2]})`, 40) + chain("y", `[1]`, `sort({[PREV, 1]} | {[PREV, 2]})`, 40), "makes a value"},
		{"shared parts, compared", when + "x40 == y40\n\n" + chain("x", `[1]`, `array.concat([PREV], [PREV])`, 40) + chain("y", `[1]`, `array.concat([PREV], [PREV])`, 40), "makes a value"},
		{"a number", when + "x20 > 0\n\n" + chain("x", `1e300`, `PREV * PREV`, 20), "a number that is too large"},
		{"prints", when + "{\n\tsome c in split(\"" + text + "\", \"\")\n\tprint(c)\n\tc == \"b\"\n}\n", "prints more than"},
	} {
		t.Run(c.name, func(t *testing.T) {
			files := map[string][]byte{"policies/a.rego": []byte(c.file)}
			if ps := Check(t.Context(), files); len(ps) > 0 {
				t.Fatalf("does not compile: %v", ps)
			}
			e := engine(t, files)
			if c.want != "policy timed out" {
				// It is to be stopped by what it makes, however slow the machine is.
				defer func(d time.Duration) { evalTimeout = d }(evalTimeout)
				evalTimeout = time.Minute
			}
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			a, _ := e.Push(t.Context(), push())
			runtime.ReadMemStats(&after)
			if a.Decision != Deny || !a.Unanswered() || !strings.Contains(a.Why(), c.want) {
				t.Errorf("%+v", a)
			}
			if made := after.TotalAlloc - before.TotalAlloc; made > 256<<20 {
				t.Errorf("allocated %d MiB", made>>20)
			}
			if a, _ := engine(t, nil).Push(t.Context(), push()); a.Decision != Auto {
				t.Errorf("and then the server does not answer others: %s", a.Why())
			}
		})
	}
}

// An evaluation that does not notice its evalTimeout is given up on: the answer
// comes in time, and the evaluation keeps its slot until it ends.
func TestGivesUpOnWhatDoesNotNotice(t *testing.T) {
	stuck := make(chan struct{})
	query, err := rego.New(rego.Query(`{"deny": stuck("x")}`), rego.Function1(&rego.Function{Name: "stuck", Decl: types.NewFunction(types.Args(types.S), types.A)},
		func(rego.BuiltinContext, *ast.Term) (*ast.Term, error) {
			<-stuck
			return ast.ArrayTerm(), nil
		})).PrepareForEval(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	waitIdle(t) // those given up on by an earlier test among them
	start := time.Now()
	_, err = evaluateOne(t.Context(), query, ast.NewObject(), noon, &printer{}, evalTimeout)
	if took := time.Since(start); !errors.Is(err, errTimedOut) || took < evalTimeout {
		t.Errorf("%v after %s", err, took)
	}
	if len(semaphore) != 1 {
		t.Errorf("%d slots are taken, not 1", len(semaphore))
	}
	close(stuck)
	waitIdle(t)
}

// waitIdle waits until no evaluation runs.
func waitIdle(t *testing.T) {
	t.Helper()
	for until := time.Now().Add(time.Minute); len(semaphore) > 0; runtime.Gosched() {
		if time.Now().After(until) {
			t.Fatalf("%d slots are not given back", len(semaphore))
		}
	}
}

// What rules spell out is refused before its types are inferred, which would
// take as long as comparing it.
func TestGrowthIsRefused(t *testing.T) {
	const when = "package headgate.push\n\ndeny contains {\"rule\": \"x\", \"msg\": \"m\"} if "
	for name, file := range map[string]string{
		"arrays":         when + "x40 == y40\n\n" + chain("x", `[1]`, `[PREV, PREV]`, 40) + chain("y", `[1]`, `[PREV, PREV]`, 40),
		"objects":        when + "x40 == 1\n\n" + chain("x", `{"a": 1}`, `{"a": PREV, "b": PREV}`, 40),
		"sets":           when + "x40 == 1\n\n" + chain("x", `[1]`, `{[PREV, 1], [PREV, 2]}`, 40),
		"comprehensions": when + "x40 == 1\n\n" + chain("x", `[1]`, `[[PREV, PREV] | true]`, 40),
		"variables":      when + "{\n" + chain("x", `[1]`, `[PREV, PREV]`, 40) + "x40 == 1\n}\n",
		"taken apart":    when + "{\n" + "[p, _] := [x40, 1]\np == 1\n}\n\n" + chain("x", `[1]`, `[PREV, PREV]`, 40),
		"parts":          when + "x40 == 1\n\n" + chain("x", `[1]`, `[PREV, PREV[0]]`, 40),
		"functions":      when + "x40(1) == 1\n\nx0(_) := [1]\n" + functions(40),
		"else":           when + "x40 == 1\n\n" + chain("x", `[1]`, "1 if {\n\tinput.force\n} else := [PREV, PREV]", 40),
		"every":          when + "{\n\tevery v in [x40] { v == 1 }\n}\n\n" + chain("x", `[1]`, `[PREV, PREV]`, 40),
	} {
		t.Run(name, func(t *testing.T) {
			ps := Check(t.Context(), map[string][]byte{"policies/a.rego": []byte(file)})
			if len(ps) != 1 || ps[0].Line == 0 || !strings.Contains(ps[0].What, "build a value of more than 100000 parts") {
				t.Errorf("%.300v", ps)
			}
		})
	}
}

func functions(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "x%d(v) := [x%d(v), x%d(v)]\n", i+1, i, i)
	}
	return b.String()
}

// The budget is for policies out of their mind, not for those with work to do.
func TestBoundsLeaveRoom(t *testing.T) {
	e := engine(t, map[string][]byte{"policies/a.rego": []byte(`package headgate.promote

deny contains {"rule": "x", "msg": "m"} if {
	lines := [sprintf("%s: %s by %d", [upper(a), concat(", ", input.authors), i]) | some i, a in input.authors]
	count(split(concat("\n", lines), "\n")) != count(input.authors)
}

deny contains {"rule": "y", "msg": "m"} if json.unmarshal(json.marshal(input)) != input

deny contains {"rule": "z", "msg": "m"} if round(2.5 * 1e6) + 0.1 != 2500000.1
`)})
	in := promote()
	in.Approvals = []Approval{{User: "jun", MayWrite: true, Tree: "t3"}}
	in.Environment.Soak = 0
	for i := range 100 {
		in.Authors = append(in.Authors, fmt.Sprintf("author-%d", i))
	}
	if a, _ := e.Promote(t.Context(), in); a.Decision != Auto {
		t.Fatal(a.Why())
	}
}

func TestWeightStops(t *testing.T) {
	v := ast.ArrayTerm(ast.StringTerm("a"))
	for range 200 {
		v = ast.ArrayTerm(v, v)
	}
	if w := weight(v.Value); w <= maxWalked || w > 2*maxWalked {
		t.Errorf("%d", w)
	}
	if w := weight(ast.MustParseTerm(`{"a": ["b", {1, 2}]}`).Value); w != 8*7+2+2 {
		t.Errorf("%d", w)
	}
}
