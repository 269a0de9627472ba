package show

import (
	"cmp"
	"context"
	"fmt"
	"time"

	"github.com/headgate-cd/headgate/gitd/access"
)

// Tests answers for what the tests of builds have said, as far as it is kept: the
// newest builds of two weeks.
type Tests interface {
	// ChangeTests are those of the build that tested a change.
	ChangeTests(ctx context.Context, who access.Identity, repository string, number int) (TestReport, error)
	// Tests are all of a repository, without their Runs: flaky ones first, then those
	// that failed most often, then the slowest.
	Tests(ctx context.Context, who access.Identity, repository string) (TestSummary, error)
	Test(ctx context.Context, who access.Identity, repository, name string) (Test, error)
}

// TestReport is what the tests of one build have said.
type TestReport struct {
	Repository string     `json:"repository"`
	Change     int        `json:"change"`
	Total      int        `json:"total"`
	Failed     int        `json:"failed"`
	Skipped    int        `json:"skipped,omitempty"`
	Coverage   *Coverage  `json:"coverage,omitempty"`
	Tests      []TestCase `json:"tests,omitempty"` // failed ones first; bounded, as in CodeBuild
}

// TestCase is one test in one build.
type TestCase struct {
	Name    string    `json:"test"`
	State   State     `json:"state"`             // green, failed, skipped, unknown
	Message string    `json:"message,omitempty"` // failed: its first lines
	Took    Duration  `json:"took_ms,omitempty"`
	FlakyAt time.Time `json:"flaky_at,omitzero"` // when it last passed and failed on one and the same tree
}

// Coverage is how many lines tests have run, of how many.
type Coverage struct {
	Covered int      `json:"covered"`
	Lines   int      `json:"lines"`
	Before  *float64 `json:"before_percent,omitempty"` // in the last green build of the branch before this one
}

// Percent is 0 to 100.
func (c Coverage) Percent() float64 {
	if c.Lines == 0 {
		return 0
	}
	return 100 * float64(c.Covered) / float64(c.Lines)
}

// String is for people: "81.2% of lines covered, +0.3 since the build before".
func (c Coverage) String() string {
	text := fmt.Sprintf("%.1f%% of lines covered", c.Percent())
	if c.Before != nil {
		text += fmt.Sprintf(", %+.1f since the build before", c.Percent()-*c.Before)
	}
	return text
}

// TestSummary is the tests of a repository's newest builds.
type TestSummary struct {
	Repository string    `json:"repository"`
	Builds     int       `json:"builds"`
	Since      time.Time `json:"since,omitzero"`
	Flaky      int       `json:"flaky"`
	Tests      []Test    `json:"tests,omitempty"`
	// Coverage is by report, and before those of all reports together where there are several.
	Coverage []CoverageSeries `json:"coverage,omitempty"`
}

// CoverageShown is of how many builds a series is.
const CoverageShown = 50

// CoverageSeries is what a report has covered in the newest green builds for the branch that
// is gated.
type CoverageSeries struct {
	Report string          `json:"report,omitempty"` // "": all of a build
	Branch string          `json:"branch"`
	Points []CoveragePoint `json:"points"` // the oldest first
}

// CoveragePoint is the coverage of a build.
type CoveragePoint struct {
	At       time.Time `json:"at"`
	Change   int       `json:"change,omitempty"`   // 0: a scheduled build, or what came from a forge
	Schedule string    `json:"schedule,omitempty"` // that started it
	Commit   string    `json:"commit"`
	Tree     string    `json:"tree"`
	Covered  int       `json:"covered"`
	Lines    int       `json:"lines"`
	Percent  float64   `json:"percent"`
}

// Name is the report's, or what it is of.
func (s CoverageSeries) Name() string { return cmp.Or(s.Report, "all reports") }

// Range is the lowest and the highest percentage; a series has at least one point.
func (s CoverageSeries) Range() (low, high float64) {
	low, high = s.Points[0].Percent, s.Points[0].Percent
	for _, p := range s.Points {
		low, high = min(low, p.Percent), max(high, p.Percent)
	}
	return low, high
}

// String is for people: "81.1% of lines covered in the newest build, 80.3 to 81.1 in 12".
func (s CoverageSeries) String() string {
	newest := s.Points[len(s.Points)-1]
	text := fmt.Sprintf("%.1f%% of lines covered in the newest build", newest.Percent)
	if len(s.Points) > 1 {
		low, high := s.Range()
		text += fmt.Sprintf(", %.1f to %.1f in the last %d, %+.1f since the first of them", low, high, len(s.Points),
			newest.Percent-s.Points[0].Percent)
	}
	return text
}

// Test is one test over several builds.
type Test struct {
	Name    string    `json:"test"`
	State   State     `json:"state"` // as TestCase's, in the newest build
	Builds  int       `json:"runs"`
	Failed  int       `json:"failed"`
	Took    Duration  `json:"took_ms,omitempty"` // the median of those that passed
	FlakyAt time.Time `json:"flaky_at,omitzero"`
	Tree    string    `json:"flaky_tree,omitempty"` // on which it last passed and failed
	Runs    []TestRun `json:"history,omitempty"`    // newest first
}

// TestRun is a test in a build.
type TestRun struct {
	At      time.Time `json:"at"`
	State   State     `json:"state"`
	Change  int       `json:"change,omitempty"` // 0: a scheduled build, or what came from a forge
	Commit  string    `json:"commit"`
	Tree    string    `json:"tree"`
	Log     string    `json:"log"`
	Took    Duration  `json:"took_ms,omitempty"`
	Message string    `json:"message,omitempty"`
}
