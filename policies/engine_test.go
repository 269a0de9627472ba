package policies

import (
	"context"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

func TestPrintsAreKept(t *testing.T) {
	e := engine(
		t, map[string][]byte{"policies/a.rego": []byte(
			"package headgate.push\n\nneed := set()\n\ndeny contains {\"rule\": \"x\", \"msg\": \"m\"} if {\n\tprint(\"looks at\", input.ref)\n\tinput.force\n}\n")})
	_, rec := e.Push(t.Context(), push())
	if rec.Printed != "policies/a.rego:6: looks at refs/heads/side\n" {
		t.Errorf("%q", rec.Printed)
	}
	if !strings.HasPrefix(rec.Engine, "opa ") || rec.Took <= 0 {
		t.Errorf("%+v", rec)
	}
	loud := engine(
		t, map[string][]byte{"policies/a.rego": []byte(
			"package headgate.push\n\nneed := set()\n\ndeny contains {\"rule\": \"x\", \"msg\": \"m\"} if {\n\tsome c in split(\"" +
				strings.Repeat("é", 500) + "\", \"\")\n\tprint(c, \"" + strings.Repeat("é", 50) + "\")\n\tinput.force\n}\n")})
	if a, rec := loud.Push(t.Context(), push()); a.Decision != Auto || len(rec.Printed) > maxPrinted ||
		len(rec.Printed) < maxPrinted-2 {
		t.Errorf("%s, %d bytes", a.Why(), len(rec.Printed))
	}
}

// One engine serves many at once and answers each their own.
func TestEvaluatedByMany(t *testing.T) {
	e := pooled(
		t, newPool(
			t), map[string][]byte{"policies/a.rego": []byte(
			"package headgate.push\n\ndeny contains {\"rule\": \"x\", \"msg\": sprintf(\"not %s\", [input.user.name])} if endswith(input.user.name, \"7\")\n")})
	var wg sync.WaitGroup
	for i := range 100 {
		wg.Go(func() {
			in := push()
			in.User.Name = fmt.Sprint("user", i)
			a, _ := e.Push(context.Background(), in)
			if want := i%10 == 7; (a.Decision == Deny) != want || want && a.Why() != "not "+in.User.Name {
				t.Errorf("%d: %s %s", i, a.Decision, a.Why())
			}
		})
	}
	wg.Wait()
}

// A denial that ends by itself says when; one that does not, does not.
func TestDeniedUntil(t *testing.T) {
	freeze := "package headgate.push\n\ndeny contains {\"rule\": \"freeze\", \"msg\": \"frozen\", \"until\": \"2026-11-24T15:00:00Z\"} if time.now_ns() < time.parse_rfc3339_ns(\"2026-11-24T15:00:00Z\")\n"
	e := engine(t, map[string][]byte{"policies/a.rego": []byte(freeze)})
	a, _ := e.Push(t.Context(), push())
	if a.Decision != Deny || !a.NotBefore.Equal(noon.Add(3*time.Hour)) || a.Unanswered() {
		t.Errorf("%+v", a)
	}
	in := push()
	in.Now = a.NotBefore
	if a, _ := e.Push(t.Context(), in); a.Decision != Auto {
		t.Errorf("%+v", a)
	}
	in = push()
	in.User.MayWrite = false
	if a, _ := e.Push(t.Context(), in); a.Decision != Deny || !a.NotBefore.IsZero() {
		t.Errorf("%+v", a)
	}
}

func TestWarningsStopNothing(t *testing.T) {
	e := engine(
		t, map[string][]byte{"policies/a.rego": []byte(
			"package headgate.push\n\ndeny := set()\n\nwarn contains {\"rule\": \"late\", \"msg\": \"it is late\"}\n")})
	if a, _ := e.Push(t.Context(), push()); a.Decision != Auto ||
		!slices.Equal(a.Warnings, []Reason{{"late", "it is late", Place{"policies/a.rego", 5}}}) {
		t.Errorf("%+v", a)
	}
}

// The engine of the target branch judges a change, whatever policy the change
// brings along; which one did is in the answer.
func TestJudgedByTheOldPolicy(t *testing.T) {
	old := engine(
		t, map[string][]byte{"policies/a.rego": []byte(
			"package headgate.land\n\ndeny contains {\"rule\": \"closed\", \"msg\": \"closed\"} if input.branch == \"main\"\n")})
	changed := engine(
		t, map[string][]byte{"policies/a.rego": []byte(
			"package headgate.land\n\ndeny contains {\"rule\": \"closed\", \"msg\": \"closed\"} if input.branch == \"other\"\n")})
	none := engine(t, nil)
	in := LandInput{Now: noon, Branch: "main", Tree: "t", Verdict: Verdict{Result: "green", Tree: "t"},
		User: User{Name: "ada", MayWrite: true}}
	var policies []string
	for e, want := range map[*Engine]Decision{old: Deny, changed: Auto, none: Auto} {
		a, rec := e.Land(t.Context(), in)
		if a.Decision != want || a.Policy != e.Digest() {
			t.Errorf("%+v", a)
		}
		if again, err := e.Replay(t.Context(), rec); err != nil || !reflect.DeepEqual(again, a) {
			t.Errorf("%+v, %v", again, err)
		}
		policies = append(policies, a.Policy)
	}
	slices.Sort(policies)
	if len(slices.Compact(policies)) != 3 {
		t.Errorf("different policies have one name: %v", policies)
	}
}

func BenchmarkPromote(b *testing.B) {
	e, err := New(nil)
	if err != nil {
		b.Fatal(err)
	}
	in := promote()
	for b.Loop() {
		e.Promote(context.Background(), in)
	}
}

func BenchmarkNew(b *testing.B) {
	files := map[string][]byte{"policies/a.rego": []byte(
		"package headgate.push\n\ndeny contains {\"rule\": \"x\", \"msg\": \"m\"} if input.force\n")}
	for b.Loop() {
		if _, err := New(files); err != nil {
			b.Fatal(err)
		}
	}
}
