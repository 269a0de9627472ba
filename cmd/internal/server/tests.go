package server

import (
	"context"
	"errors"
	"fmt"

	"github.com/headgate-cd/headgate/gitd/access"
	"github.com/headgate-cd/headgate/gitd/show"
	"github.com/headgate-cd/headgate/hooks/build/report"
)

// ChangeTests implements show.Backend.
func (s *Server) ChangeTests(ctx context.Context, a access.Identity, name string, number int) (show.TestReport, error) {
	c, err := s.Change(ctx, a, name, number)
	if err != nil {
		return show.TestReport{}, err
	}
	none := &show.Error{
		Kind: show.NotFound,
		What: fmt.Sprintf("no test reports are kept of change %d of %s", number, name),
		Hint: "a build keeps JUnit files and others that it finds, or that reports: in buildspec.yml names, for two weeks",
	}
	if c.Build == nil || c.Build.State == show.Running {
		return show.TestReport{}, none
	}
	one, err := s.reports.Of(name, c.Build.ID)
	if errors.Is(err, report.ErrNone) {
		return show.TestReport{}, none
	}
	if err != nil {
		return show.TestReport{}, err
	}
	builds, err := s.reports.Newest(name, report.MaxBuilds)
	if err != nil {
		return show.TestReport{}, err
	}
	flaky := map[string]*report.Flaky{}
	for _, t := range report.History(builds) {
		flaky[t.Name] = t.Flaky
	}
	sum := one.Sum()
	v := show.TestReport{Repository: name, Change: number, Total: sum.Total, Failed: sum.Failed, Skipped: sum.Skipped}
	for _, k := range sum.Cases {
		t := show.TestCase{Name: k.String(), State: testState(k.Status), Message: k.Message, Took: show.Duration(k.Took)}
		if f := flaky[t.Name]; f != nil {
			t.FlakyAt = f.At.UTC()
		}
		v.Tests = append(v.Tests, t)
	}
	if k := sum.Coverage; k != nil {
		v.Coverage = &show.Coverage{Covered: k.Covered, Lines: k.Lines, Before: coverageBefore(one, builds)}
	}
	return v, nil
}

// coverageBefore is that of the last green build of the branch before one, nil if there is
// none.
func coverageBefore(one report.Build, builds []report.Build) *float64 {
	for _, b := range builds {
		if !b.Green || b.Branch != one.Branch || !b.Ended.Before(one.Ended) || b.Tree == one.Tree {
			continue
		}
		if k := b.Sum().Coverage; k != nil {
			p := show.Coverage{Covered: k.Covered, Lines: k.Lines}.Percent()
			return &p
		}
	}
	return nil
}

// Tests implements show.Backend.
func (s *Server) Tests(_ context.Context, a access.Identity, name string) (show.TestSummary, error) {
	all, builds, err := s.tests(a, name)
	if err != nil {
		return show.TestSummary{}, err
	}
	v := show.TestSummary{Repository: name, Builds: len(builds)}
	if len(builds) > 0 {
		v.Since = builds[len(builds)-1].Ended.UTC()
	}
	for _, t := range all {
		if t.Flaky != nil {
			v.Flaky++
		}
		v.Tests = append(v.Tests, testOf(t))
	}
	v.Coverage = coverageOf(builds, s.gate.Branch(name))
	return v, nil
}

func coverageOf(builds []report.Build, branch string) []show.CoverageSeries {
	var all []show.CoverageSeries
	for _, of := range report.CoverageOf(builds, branch, show.CoverageShown) {
		series := show.CoverageSeries{Report: of.Report, Branch: branch}
		for _, p := range of.Points {
			series.Points = append(series.Points, show.CoveragePoint{
				At:       p.Build.Ended.UTC(),
				Change:   p.Build.Change,
				Schedule: p.Build.Schedule,
				Commit:   p.Build.Commit,
				Tree:     p.Build.Tree,
				Covered:  p.Covered,
				Lines:    p.Lines,
				Percent:  show.Coverage{Covered: p.Covered, Lines: p.Lines}.Percent(),
			})
		}
		all = append(all, series)
	}
	return all
}

// Test implements show.Backend.
func (s *Server) Test(_ context.Context, a access.Identity, name, test string) (show.Test, error) {
	all, _, err := s.tests(a, name)
	if err != nil {
		return show.Test{}, err
	}
	for _, t := range all {
		if t.Name != test {
			continue
		}
		v := testOf(t)
		for _, r := range t.Runs {
			v.Runs = append(v.Runs, show.TestRun{
				At:      r.Build.Ended.UTC(),
				State:   testState(r.Case.Status),
				Change:  r.Build.Change,
				Commit:  r.Build.Commit,
				Tree:    r.Build.Tree,
				Log:     r.Build.Log,
				Took:    show.Duration(r.Case.Took),
				Message: r.Case.Message,
			})
		}
		return v, nil
	}
	return show.Test{}, &show.Error{
		Kind: show.NotFound,
		What: fmt.Sprintf("no build of %s that is kept has run a test %q", name, test),
		Hint: "see them", Command: "test list " + name,
	}
}

// tests are those of the builds that are kept.
func (s *Server) tests(a access.Identity, name string) ([]*report.Test, []report.Build, error) {
	if _, err := s.readable(a, name); err != nil {
		return nil, nil, err
	}
	builds, err := s.reports.Newest(name, report.MaxBuilds)
	return report.History(builds), builds, err
}

func testOf(t *report.Test) show.Test {
	v := show.Test{
		Name:   t.Name,
		State:  testState(t.Runs[0].Case.Status),
		Builds: len(t.Runs),
		Failed: t.Failed,
		Took:   show.Duration(t.Median),
	}
	if t.Flaky != nil {
		v.FlakyAt, v.Tree = t.Flaky.At.UTC(), t.Flaky.Tree
	}
	return v
}

func testState(s report.Status) show.State {
	switch s {
	case report.Succeeded:
		return show.Green
	case report.Failed, report.Error:
		return show.Failed
	case report.Skipped:
		return show.Skipped
	}
	return show.Unknown
}
