package reconciler

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/headgate-cd/headgate/gitd/headgateyaml"
	"github.com/headgate-cd/headgate/gitd/repo"
	"github.com/headgate-cd/headgate/gitd/show"
	"github.com/headgate-cd/headgate/reconciler/record"
)

// renamedYAML is helloYAML with production under other names, and with other rules.
func renamedYAML(name, was, rest string) string {
	return "environments:\n  staging: {target: services, path: deploy/staging}\n  " + name +
		": {target: services, path: deploy/production, was: " + was + ", after: staging" + rest + "}\n"
}

// TestRenameKeepsWhatRunsAndItsHistory: what is declared, what runs, what was rejected
// and the rules that judge go on under the new name; renaming loosens none of them.
func TestRenameKeepsWhatRunsAndItsHistory(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	h.target.obedient = true
	stop := h.start(t)
	h.release(t, "jun", "one")
	h.proposed(t, "production", 1)
	h.approve(t, "sam")
	before := h.healthy(t, "production", 1)
	h.release(t, "jun", "two")
	h.proposed(t, "production", 2)
	if _, err := h.rc.Reject(t.Context(), "hello", "production", actor("sam"), "", "not this one"); err != nil {
		t.Fatal(err)
	}
	h.release(t, "jun", "three")
	h.proposed(t, "production", 3)

	loose := helloFiles("four")
	loose["headgate.yaml"] = renamedYAML("live", "production", ", approvals: 0")
	if _, err := h.land(t.Context(), version1("jun", "four"), loose); err != nil {
		t.Fatal(err)
	}
	p := h.proposed(t, "live", 4)
	if p.Decision != "manual" || !slices.ContainsFunc(p.Rules,
		func(c show.RuleChange) bool { return c.Rule == "approvals" && c.Was == "1" && c.Is == "0" }) {
		t.Errorf("renaming loosened the rules: %+v", p)
	}
	live := h.healthy(t, "live", 1)
	if live.Declared == before.Declared || len(live.History) != 2 ||
		live.History[0].Subject != "renamed from production" ||
		live.History[1].Commit != before.Declared || live.History[0].Tree != live.History[1].Tree ||
		!slices.Equal(live.Formerly, []string{"production"}) {
		t.Errorf("live: %+v", live)
	}
	if got := h.target.last("live"); got.Release.Number != 1 || !slices.Equal(got.Was, []string{"production"}) ||
		len(h.target.removed) > 0 {
		t.Errorf("the target was given %+v, and removed %v", got, h.target.removed)
	}

	// The old name leads to the new one, and nothing is open under it.
	var none *show.Error
	if _, err := h.rc.Environment(t.Context(), actor("jun"), "hello", "production"); !errors.As(err, &none) ||
		none.Kind != show.NotFound ||
		none.What != "environment production of hello is called live now" {
		t.Errorf("production: %v", err)
	}
	if err := h.settled(t); err != nil {
		t.Fatal(err)
	}
	if open, err := h.hello.Ref(record.ProposalRef("production")); err != nil || open != repo.Zero {
		t.Errorf("promote/production is at %s, %v", open, err)
	}
	all, err := h.rc.Environments(t.Context(), actor("jun"), "hello")
	if err != nil || len(all) != 2 || all[1].Name != "live" {
		t.Errorf("environments: %+v, %v", all, err)
	}
	if r, err := record.Rejections(h.hello, "live"); err != nil || len(r) != 1 || r[0].Release != 2 {
		t.Errorf("rejections: %+v, %v", r, err)
	}
	if _, err := h.rc.Approve(t.Context(), "hello", "live", actor("sam"), "", ""); err != nil {
		t.Fatal(err)
	}
	h.healthy(t, "live", 4)
	h.checkVerifies(t, 6, 0, 2)

	// It can go back to a release of before, and be called again what it was.
	if _, err := h.rc.Rollback(t.Context(), "hello", "live", 1, actor("jun"), ""); err != nil {
		t.Fatal(err)
	}
	stop()
	h.start(t)
	if h.healthy(t, "live", 1); len(h.target.removed) > 0 {
		t.Errorf("removed %v", h.target.removed)
	}
	again := map[string]string{"headgate.yaml": renamedYAML("production", "live", ", approvals: 1")}
	if _, err := h.land(t.Context(), version1("jun", "four"), again); err != nil {
		t.Fatal(err)
	}
	back := h.healthy(t, "production", 1)
	if back.Held == nil || len(back.History) != 5 || back.History[0].Subject != "renamed from live" {
		t.Errorf("production: %+v", back)
	}
	if err := h.settled(t); err != nil {
		t.Fatal(err)
	}
	h.checkVerifies(t, 6, 1, 2)

	// Nothing else may take its other name, as long as it goes on.
	file, err := headgateyaml.Parse(headgateyaml.Name,
		[]byte(helloYAML+"  live: {target: services, path: deploy/staging}\n"))
	if err != nil {
		t.Fatal(err)
	}
	_, _, problems, err := h.rc.Against("hello", file)
	if err != nil || len(problems) != 1 || problems[0].Line != 4 ||
		problems[0].What != `environment "live" is called "production" now, and goes on under that name` {
		t.Errorf("%v, %v", problems, err)
	}
}

// TestAfterWhatWasRenamed: an environment goes on waiting for the one before it by
// its new name, by the rules of before as well.
func TestAfterWhatWasRenamed(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	h.target.obedient = true
	h.start(t)
	auto := strings.Replace(helloYAML, ", approvals: 1", "", 1)
	files := helloFiles("one")
	files["headgate.yaml"] = auto
	if _, err := h.land(t.Context(), version1("jun", "one"), files); err != nil {
		t.Fatal(err)
	}
	h.healthy(t, "production", 1)
	files = helloFiles("two")
	files["headgate.yaml"] = strings.NewReplacer("staging: {", "stage: {was: staging, ", "after: staging",
		"after: stage").Replace(auto)
	if _, err := h.land(t.Context(), version1("jun", "two"), files); err != nil {
		t.Fatal(err)
	}
	h.healthy(t, "stage", 2)
	if e := h.healthy(t, "production", 2); e.After != "stage" {
		t.Errorf("production: %+v", e)
	}
}

// TestWhatCannotBecomeOfAnEnvironment: by file and line, what to do.
func TestWhatCannotBecomeOfAnEnvironment(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	h.target.obedient = true
	h.start(t)
	h.release(t, "jun", "one")
	h.healthy(t, "staging", 1)
	h.proposed(t, "production", 1)
	h.approve(t, "sam")
	h.healthy(t, "production", 1)
	for name, c := range map[string]struct{ yaml, want string }{
		"another's name": {
			"environments:\n  production:\n    target: services\n    was: staging\n",
			`headgate.yaml:4: environment "production" cannot go on from "staging": environment production has a history of its own`,
		},
		"another application": {
			"applications:\n  web:\n    environments:\n      staging: {target: services}\n",
			`headgate.yaml:4: environment "staging" runs application "hello", and cannot be moved to "web"`,
		},
		"both at once": {
			"applications:\n  web:\n    environments:\n      stage: {target: services, was: staging}\n",
			`headgate.yaml:4: environment "staging" runs application "hello", and cannot be moved to "web"`,
		},
		"no such environment before": {"environments:\n  staging: {target: services}\n  live: {target: services, was: productoin}\n", ""},
	} {
		file, err := headgateyaml.Parse(headgateyaml.Name, []byte(c.yaml))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		_, _, problems, err := h.rc.Against("hello", file)
		got := ""
		if len(problems) > 0 {
			got = problems[0].Place() + ": " + problems[0].What
		}
		if err != nil || got != c.want {
			t.Errorf("%s: %v, %v", name, problems, err)
		}
	}
}
