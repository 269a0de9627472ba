package report

import (
	"cmp"
	"maps"
	"slices"
	"time"
)

// Run is one test in one build.
type Run struct {
	Build *Build
	Case  Case
}

// Test is a test over several builds, by its name.
type Test struct {
	Name   string // Case.String
	Runs   []Run  // newest first; one that a build ran twice is there twice
	Failed int    // runs that failed
	Flaky  *Flaky // nil: it is not known to be
	Median time.Duration
}

// Flaky is that a test has passed and failed on the same tree: on which, and when it
// did the last time that tells.
type Flaky struct {
	Tree string
	At   time.Time
}

func (c Case) failed() bool { return c.Status == Failed || c.Status == Error }

// History is every test of builds, which are the newest first: flaky ones first, then
// those that failed most often, then the slowest.
func History(builds []Build) []*Test {
	tests := map[string]*Test{}
	for i := range builds {
		for _, rep := range builds[i].Reports {
			for _, c := range rep.Cases {
				t := tests[c.String()]
				if t == nil {
					t = &Test{Name: c.String()}
					tests[t.Name] = t
				}
				t.Runs = append(t.Runs, Run{&builds[i], c})
			}
		}
	}
	for _, t := range tests {
		t.judge()
	}
	return slices.SortedFunc(maps.Values(tests), func(a, b *Test) int {
		if (a.Flaky != nil) != (b.Flaky != nil) {
			if a.Flaky != nil {
				return -1
			}
			return 1
		}
		return cmp.Or(cmp.Compare(b.Failed, a.Failed), cmp.Compare(b.Median, a.Median), cmp.Compare(a.Name, b.Name))
	})
}

// judge counts, and looks for a tree on which the test both passed and failed.
func (t *Test) judge() {
	type both struct{ passed, failed bool }
	on := map[string]both{}
	newest := map[string]time.Time{}
	var took []time.Duration
	for _, r := range t.Runs {
		seen := on[r.Build.Tree]
		switch {
		case r.Case.failed():
			t.Failed++
			seen.failed = true
		case r.Case.Status == Succeeded:
			seen.passed = true
			took = append(took, r.Case.Took)
		default:
			continue
		}
		on[r.Build.Tree] = seen
		if r.Build.Ended.After(newest[r.Build.Tree]) {
			newest[r.Build.Tree] = r.Build.Ended
		}
	}
	for tree, seen := range on {
		if seen.passed && seen.failed && (t.Flaky == nil || newest[tree].After(t.Flaky.At)) {
			t.Flaky = &Flaky{tree, newest[tree]}
		}
	}
	if slices.Sort(took); len(took) > 0 {
		t.Median = took[len(took)/2]
	}
}

// KnownFlaky are the tests that failed in b and are known to be flaky by builds, among
// which b may be; ok is whether these are all that failed there.
func KnownFlaky(b Build, builds []Build) (names []string, ok bool) {
	flaky := map[string]bool{}
	for _, t := range History(builds) {
		flaky[t.Name] = t.Flaky != nil
	}
	ok = true
	for _, rep := range b.Reports {
		if shown := min(rep.Failed, len(rep.Cases)); shown < rep.Failed {
			ok = false // more failed than are kept
		}
		for _, c := range rep.Cases {
			switch name := c.String(); {
			case !c.failed():
			case !flaky[name]:
				ok = false
			case !slices.Contains(names, name):
				names = append(names, name)
			}
		}
	}
	return names, ok && len(names) > 0
}

// Sum is all of a build's reports as one, without a name.
func (b Build) Sum() Report {
	sum := Report{Status: Succeeded}
	for _, rep := range b.Reports {
		if rep.Status != Succeeded && sum.Status != Failed {
			sum.Status = rep.Status
		}
		sum.Total, sum.Failed, sum.Skipped = sum.Total+rep.Total, sum.Failed+rep.Failed, sum.Skipped+rep.Skipped
		sum.Cases = append(sum.Cases, rep.Cases...)
		if c := rep.Coverage; c != nil {
			if sum.Coverage == nil {
				sum.Coverage = &Coverage{}
			}
			sum.Coverage.Covered, sum.Coverage.Lines = sum.Coverage.Covered+c.Covered, sum.Coverage.Lines+c.Lines
		}
	}
	slices.SortStableFunc(sum.Cases, func(a, b Case) int { return rank(a.Status) - rank(b.Status) })
	return sum
}

// CoverageSeries is what a report has covered, build by build.
type CoverageSeries struct {
	Report string // its name; "" for all of a build together
	Points []CoveragePoint
}

// CoveragePoint is the coverage of a build.
type CoveragePoint struct {
	Build *Build
	Coverage
}

// CoverageOf is what the newest n green builds for a branch have covered, the oldest first: by
// report, and all together where there are several. builds are the newest first. Of builds of
// one tree the newest tells: that one was built again changes nothing about the code.
func CoverageOf(builds []Build, branch string, n int) []CoverageSeries {
	all := CoverageSeries{}
	reports := map[string]*CoverageSeries{}
	trees := map[string]bool{}
	for i := range builds {
		b := &builds[i]
		if !b.Green || b.Branch != branch || trees[b.Tree] || len(all.Points) == n {
			continue
		}
		sum := b.Sum().Coverage
		if sum == nil || sum.Lines == 0 {
			continue
		}
		trees[b.Tree] = true
		all.Points = append(all.Points, CoveragePoint{b, *sum})
		own := map[string]Coverage{} // the tasks of a batch may have reports of one name
		for _, rep := range b.Reports {
			if c := rep.Coverage; c != nil {
				own[rep.Name] = Coverage{own[rep.Name].Covered + c.Covered, own[rep.Name].Lines + c.Lines}
			}
		}
		for name, c := range own {
			if c.Lines == 0 {
				continue
			}
			if reports[name] == nil {
				reports[name] = &CoverageSeries{Report: name}
			}
			reports[name].Points = append(reports[name].Points, CoveragePoint{b, c})
		}
	}
	var series []CoverageSeries
	if len(reports) > 1 {
		series = append(series, all)
	}
	for _, name := range slices.Sorted(maps.Keys(reports)) {
		series = append(series, *reports[name])
	}
	for _, s := range series {
		slices.Reverse(s.Points)
	}
	return series
}
