package forge

import (
	"fmt"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/headgate-cd/headgate/e2e/forges"
	"github.com/headgate-cd/headgate/gitd/repo"
	"github.com/headgate-cd/headgate/hooks/build/report"
	"github.com/headgate-cd/headgate/hooks/delivery"
	"github.com/headgate-cd/headgate/hooks/gate"
)

// checked is an App that may write check runs, a pass over what it follows, and what main
// is.
func checked(t *testing.T) (a *appTest, p *pass, main repo.Hash) {
	t.Helper()
	a = newAppTest(t, "")
	a.app.Permissions = maps.Clone(allPermissions)
	a.app.Permissions["checks"] = "write"
	a.Install(a.app)
	a.hub.Gate = gate.New(gate.Config{Store: a.hub.Store, Settings: gate.FileSettings})
	a.hub.Reports = &report.Store{Dir: t.TempDir()}
	clone := a.forged.cloned
	a.must(os.MkdirAll(filepath.Join(clone.clone, "sub", "calc"), 0o755))
	for _, name := range []string{"sub/calc/calc_test.go", "sub/test_sum.py"} {
		a.must(os.WriteFile(filepath.Join(clone.clone, name), []byte("tests\n"), 0o644))
	}
	clone.git(clone.clone, "add", ".")
	clone.commit("tests")
	clone.git(clone.clone, "push", "-q", "origin", "HEAD:main")
	w, err := a.hub.worker("hub")
	a.must(err)
	_, err = w.sync(t.Context())
	a.must(err)
	p, err = w.requests.prepare()
	a.must(err)
	main, err = p.r.Ref("refs/heads/main")
	a.must(err)
	return a, p, main
}

// TestCheckRuns: an App says how a commit is in a check run, one for each time that it is
// built, which names the tests that failed where they are; and in a status where it began
// with one, or may not write runs.
func TestCheckRuns(t *testing.T) {
	t.Parallel()
	a, p, main := checked(t)
	built := report.Build{Log: "log-1", Ended: time.Now(), Reports: []report.Report{{Name: "unit", Total: 3}}}
	add := func(suite, name, message string) {
		r := &built.Reports[0]
		r.Cases = append(r.Cases, report.Case{Suite: suite, Name: name, Status: report.Failed, Message: message})
		r.Failed++
	}
	add("example.org/m/sub/calc", "TestAdd", "    calc_test.go:7: 1 + 1 is 3\n    more")
	add(
		"sub.test_sum",
		"test_sum",
		"Traceback\n  File \"/codebuild/src/sub/test_sum.py\", line 9, in test_sum\nAssertionError",
	)
	add("elsewhere", "TestNowhere", "nowhere.go:1: it is in no file of the commit; 10:20 is a time")
	for i := range 60 {
		add("sub/calc", fmt.Sprint("TestMany", i), fmt.Sprintf("sub/calc/calc_test.go:%d: no", i+10))
	}
	a.must(a.hub.Reports.Keep("hello", built))

	say := func(as CheckKind, c Check) CheckKind {
		t.Helper()
		c.URL = "http://here/1"
		as, err := p.check(t.Context(), main, as, c, func() Failed { return p.failed("log-1", main) })
		a.must(err)
		return as
	}
	runs := func(want ...string) []forges.CheckRun {
		t.Helper()
		list := a.CheckRuns(main.String())
		var is []string
		for _, r := range list {
			is = append(is, strings.TrimSpace(r.Status+" "+r.Conclusion)+": "+r.Title)
			if r.Name != checkName || r.URL != "http://here/1" {
				t.Errorf("%+v", r)
			}
		}
		if !slices.Equal(is, want) {
			t.Fatalf("%q, not %q", is, want)
		}
		return list
	}

	as := say("", Check{State: CheckPending, Text: "queued"})
	runs("queued: queued")
	say(as, Check{State: CheckPending, Text: "building", Running: true})
	runs("in_progress: building")
	red := Check{State: CheckFailure, Text: "refused: it is red"}
	say(as, red)
	said := runs("completed failure: refused: it is red")[0]
	if list := said.Annotations; len(list) != 49 ||
		list[0] != "sub/calc/calc_test.go:7:     calc_test.go:7: 1 + 1 is 3\n    more" ||
		!strings.HasPrefix(list[1], "sub/test_sum.py:9: ") {
		t.Errorf("%d annotations: %q", len(list), list)
	}
	if !strings.Contains(said.Summary, "- `elsewhere.TestNowhere: nowhere.go:1: it is in no file") ||
		!strings.Contains(said.Summary, "and more") {
		t.Errorf("it says: %s", said.Summary)
	}
	red.Text = "refused: it is still red" // which adds no second line to any file
	say(as, red)
	if again := runs("completed failure: refused: it is still red")[0]; len(
		again.Annotations,
	) != len(
		said.Annotations,
	) {
		t.Errorf("%d annotations", len(again.Annotations))
	}
	say(as, Check{State: CheckPending, Text: "queued again"})
	say(as, Check{State: CheckSuccess, Text: "green"})
	runs("completed failure: refused: it is still red", "completed success: green")
	if as != ByRun || len(a.Statuses(main.String())) != 0 {
		t.Errorf("as %s, statuses %+v", as, a.Statuses(main.String()))
	}

	// What began with a status goes on with it: GitHub would require both.
	if as := say(ByStatus, Check{State: CheckPending, Text: "queued"}); as != ByStatus ||
		len(a.Statuses(main.String())) != 1 {
		t.Errorf("as %s, statuses %+v", as, a.Statuses(main.String()))
	}
	// So does who may not write runs.
	delete(a.app.Permissions, "checks")
	a.Install(a.app)
	a.Revoke()
	p.api.(*gitHub).app.forget()
	if as := say("", Check{State: CheckSuccess, Text: "green"}); as != ByStatus ||
		len(a.Statuses(main.String())) != 2 {
		t.Errorf("as %s, statuses %+v", as, a.Statuses(main.String()))
	}
	runs("completed failure: refused: it is still red", "completed success: green")
}

// TestAnnotationsInCalls: GitHub takes 50 annotations in a call.
func TestAnnotationsInCalls(t *testing.T) {
	t.Parallel()
	a, p, _ := checked(t)
	for _, n := range []int{0, 1, 50, 51, 120} {
		for _, begun := range []bool{false, true} {
			commit := a.forged.push(fmt.Sprint(n, begun), "refs/heads/one")
			if begun {
				_, err := p.check(t.Context(), commit, "", Check{State: CheckPending, Text: "queued"}, nil)
				a.must(err)
			}
			failed := Failed{}
			for i := range n {
				failed.Annotations = append(
					failed.Annotations,
					Annotation{Path: "x", Line: i + 1, Title: "t", Text: "no"},
				)
			}
			_, err := p.check(
				t.Context(),
				commit,
				"",
				Check{State: CheckFailure, Text: "red"},
				func() Failed { return failed },
			)
			a.must(err)
			if list := a.CheckRuns(commit.String()); len(list) != 1 || len(list[0].Annotations) != n {
				t.Errorf("%d annotations, begun %v: %+v", n, begun, list)
			}
		}
	}
}

// TestRerun: GitHub's button has a request built again, once, by who may write there at
// that moment.
func TestRerun(t *testing.T) {
	t.Parallel()
	a, p, _ := checked(t)
	head := a.forged.push("one", "refs/heads/one")
	_, err := a.Propose("ann", "one", false)
	a.must(err)
	r, err := p.api.Request(t.Context(), 1)
	a.must(err)
	_, err = p.one(t.Context(), r)
	a.must(err)
	press := func(event, by string, commit repo.Hash) delivery.Entry {
		t.Helper()
		body := fmt.Sprintf(
			`{"action": "rerequested", "repository": {"full_name": "owner/name"}, %q: {"head_sha": %q},
			"sender": {"login": %q, "id": 5}}`,
			event,
			commit.String(),
			by,
		)
		_, err := p.w.inbox.Put(delivery.Delivery{Event: event, At: time.Now(), Body: []byte(body)})
		a.must(err)
		p.w.reduce()
		a.must(p.rerun(t.Context()))
		return p.w.inbox.List(1)[0]
	}
	revisions := func() []string {
		var all []string
		for _, revision := range p.changes[1].Revisions {
			all = append(all, strings.Join(revision.Options, " "))
		}
		return all
	}

	if d := press("check_run", "eve", head); d.Outcome != delivery.Ignored ||
		!strings.Contains(d.Detail, `"eve" may not`) {
		t.Errorf("%+v", d)
	}
	a.must(a.Permit("ann", "write"))
	if d := press("check_run", "ann", head); d.Outcome != delivery.Applied {
		t.Errorf("%+v", d)
	}
	if all := revisions(); !slices.Equal(all, []string{"request=1", "request=1 rebuild rerun=2"}) ||
		p.changes[1].Head().By != "ann@hub" {
		t.Errorf("%q", all)
	}
	a.must(p.w.inbox.Settle(delivery.Pending, "", 2)) // a kill came before it was noted
	a.must(p.rerun(t.Context()))
	if all := revisions(); len(all) != 2 {
		t.Errorf("%q", all)
	}
	if d := press("check_suite", "ann", head); d.Outcome != delivery.Applied || len(revisions()) != 3 {
		t.Errorf("%+v, %q", d, revisions())
	}
	if d := press("check_run", "ann", repo.Hash{1}); d.Outcome != delivery.Ignored {
		t.Errorf("%+v", d)
	}
	a.Break(forges.Fault{Status: http.StatusBadGateway})
	body := fmt.Sprintf(
		`{"action": "rerequested", "check_run": {"head_sha": %q}, "sender": {"login": "ann"}}`,
		head.String(),
	)
	_, err = p.w.inbox.Put(delivery.Delivery{Event: "check_run", At: time.Now(), Body: []byte(body)})
	a.must(err)
	if err := p.rerun(t.Context()); err == nil || p.w.inbox.List(1)[0].Outcome != delivery.Pending {
		t.Errorf("%v, %+v", err, p.w.inbox.List(1)[0])
	}
	a.must(p.rerun(t.Context()))
	if d := p.w.inbox.List(1)[0]; d.Outcome != delivery.Applied || len(revisions()) != 4 {
		t.Errorf("%+v", d)
	}
}

// FuzzPlaceOf: whatever a test says, what is annotated is a file and a line of it.
func FuzzPlaceOf(f *testing.F) {
	f.Add("example.org/m/sub/calc", "calc_test.go:7: no")
	f.Add("", "File \"/codebuild/src/sub/test_sum.py\", line 9, in test_sum")
	f.Add("../..", "../../etc/passwd.x:0: /..:1 a.b:99999999")
	files := []string{"sub/calc/calc_test.go", "sub/test_sum.py"}
	f.Fuzz(func(t *testing.T, suite, message string) {
		name, line, ok := placeOf(report.Case{Suite: suite, Message: message}, func(name string) bool {
			return slices.Contains(files, name)
		})
		if ok && (!slices.Contains(files, name) || line < 1) || !ok && (name != "" || line != 0) {
			t.Errorf("%q:%d, %v", name, line, ok)
		}
	})
}
