package web

import (
	"fmt"
	"net/url"
	"strings"

	"github.com/headgate-cd/headgate/gitd/show"
)

// shownTests is how many tests a table shows: those that matter come first.
const shownTests = 100

// changeTests is what the tests of a change have said, on its page.
type changeTests struct {
	show.TestReport
	Mark     mark
	Coverage string
	Failed   []testRow
	More     int // failed, beyond those
	All      string
}

// testRow is a test in a table.
type testRow struct {
	show.Test
	Href    string
	Mark    mark
	Took    string
	Flaky   bool
	Message string
}

func testsHref(repository string) string { return "/" + repository + "/tests" }

func testHref(repository, name string) string {
	return testsHref(repository) + "?test=" + url.QueryEscape(name)
}

// changeTests are nil where none are kept.
func (q *request) changeTests(c *show.Change) (*changeTests, error) {
	if c.Build == nil || c.Build.State == show.Running {
		return nil, nil
	}
	r, err := q.Backend.ChangeTests(q.r.Context(), q.actor, c.Repository, c.Number)
	if isNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	v := &changeTests{TestReport: r, Mark: markOf(show.Green), All: testsHref(c.Repository)}
	if r.Failed > 0 {
		v.Mark = markOf(show.Failed)
	}
	v.Mark.Word = testWords(r)
	if k := r.Coverage; k != nil {
		v.Coverage = k.String()
	}
	for _, t := range r.Tests {
		if t.State != show.Failed {
			break // the failed ones are first
		}
		if len(v.Failed) == shownTests {
			break
		}
		v.Failed = append(v.Failed, testRow{
			Test:    show.Test{Name: t.Name, State: t.State, FlakyAt: t.FlakyAt},
			Href:    testHref(c.Repository, t.Name),
			Mark:    markOf(t.State),
			Took:    show.Seconds(t.Took),
			Flaky:   !t.FlakyAt.IsZero(),
			Message: t.Message,
		})
	}
	v.More = r.Failed - len(v.Failed)
	return v, nil
}

func testWords(r show.TestReport) string {
	text := fmt.Sprintf("All %s passed", show.Plural(r.Total, "test"))
	switch {
	case r.Failed > 0:
		text = fmt.Sprintf("%d of %s failed", r.Failed, show.Plural(r.Total, "test"))
	case r.Total == 0:
		text = "No tests"
	case r.Skipped > 0:
		text = fmt.Sprintf("%s passed", show.Plural(r.Total-r.Skipped, "test"))
	}
	if r.Skipped > 0 {
		text += fmt.Sprintf(", %d skipped", r.Skipped)
	}
	return text
}

type testsView struct {
	show.TestSummary
	Rows  []testRow
	More  int
	Lines []coverageLine
}

// coverageLine is a series of coverage, drawn 96 wide and 22 high.
type coverageLine struct {
	show.CoverageSeries
	Path      string  // of the line
	X, Y      float64 // of its end
	Low, High string
	Newest    show.CoveragePoint
	Href      string // of the change that the newest was built for
	Since     string // the build before
	Said      string
}

// coverageLineOf scales from the lowest to the highest that was covered, but to no less than
// one of a hundred: noise is no mountain.
func coverageLineOf(repository string, s show.CoverageSeries) coverageLine {
	const width, top, bottom = 94, 2, 20
	low, high := s.Range()
	l := coverageLine{
		CoverageSeries: s,
		Low:            fmt.Sprintf("%.1f%%", low),
		High:           fmt.Sprintf("%.1f%%", high),
		Newest:         s.Points[len(s.Points)-1],
		Said:           "coverage of " + s.Name() + ": " + s.String(),
	}
	if n := len(s.Points); n > 1 {
		l.Since = fmt.Sprintf("%+.1f", l.Newest.Percent-s.Points[n-2].Percent)
	}
	if l.Newest.Change > 0 {
		l.Href = fmt.Sprintf("/%s/changes/%d", repository, l.Newest.Change)
	}
	scale := max(high-low, 1)
	for i, p := range s.Points {
		l.X = 1
		if n := len(s.Points); n > 1 {
			l.X += width * float64(i) / float64(n-1)
		}
		l.Y = bottom - (bottom-top)*(p.Percent-low)/scale
		move := "L"
		if i == 0 {
			move = "M"
		}
		l.Path += fmt.Sprintf("%s%.1f %.1f", move, l.X, l.Y)
	}
	return l
}

type testView struct {
	testRow
	Repository string
	Rows       []testRunRow
}

// testRunRow is a run of a test in a table.
type testRunRow struct {
	show.TestRun
	Mark mark
	Took string
	Href string // of the change that was built
	Said string
}

// testsPage is what tests of the newest builds have said, or one of them with its runs.
func testsPage(q *request) (*page, error) {
	r, err := q.repository()
	if err != nil {
		return nil, err
	}
	if name := q.r.URL.Query().Get("test"); name != "" {
		return testPage(q, r, name)
	}
	s, err := q.Backend.Tests(q.r.Context(), q.actor, r.Name)
	if err != nil {
		return nil, err
	}
	view := &testsView{TestSummary: s}
	for _, t := range s.Tests[:min(len(s.Tests), shownTests)] {
		view.Rows = append(view.Rows, testRowOf(r.Name, t))
	}
	view.More = len(s.Tests) - len(view.Rows)
	for _, series := range s.Coverage {
		view.Lines = append(view.Lines, coverageLineOf(r.Name, series))
	}
	p := q.repoPage(r, "changes", "Tests, "+r.Name, crumb{Text: "tests"})
	p.JSON = s
	p.Template, p.Data, p.Parts = "tests", view, []string{"tests", "asof"}
	p.Git = []command{{"SSH", q.ssh("test list " + r.Name)}}
	if len(view.Lines) > 0 {
		p.Git = append(p.Git, command{"Coverage", q.ssh("test coverage " + r.Name)})
	}
	return p, nil
}

func testRowOf(repository string, t show.Test) testRow {
	return testRow{
		Test:  t,
		Href:  testHref(repository, t.Name),
		Mark:  markOf(t.State),
		Took:  show.Seconds(t.Took),
		Flaky: !t.FlakyAt.IsZero(),
	}
}

func testPage(q *request, r *show.Repository, name string) (*page, error) {
	t, err := q.Backend.Test(q.r.Context(), q.actor, r.Name, name)
	if err != nil {
		return nil, err
	}
	view := &testView{testRow: testRowOf(r.Name, t), Repository: r.Name}
	for _, run := range t.Runs {
		k := testRunRow{TestRun: run, Mark: markOf(run.State), Took: show.Seconds(run.Took)}
		k.Said, _, _ = strings.Cut(run.Message, "\n")
		if run.Change > 0 {
			k.Href = fmt.Sprintf("/%s/changes/%d", r.Name, run.Change)
		}
		view.Rows = append(view.Rows, k)
	}
	p := q.repoPage(r, "changes", cut(t.Name, 60)+", "+r.Name, crumb{Text: "tests", Href: testsHref(r.Name), Keep: true},
		crumb{Text: cut(t.Name, 60)})
	p.JSON = t
	p.Template, p.Data, p.Parts = "test", view, []string{"test", "asof"}
	p.Git = []command{{"SSH", q.ssh("test show " + r.Name + " " + t.Name)}}
	return p, nil
}
