package report

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

var noon = time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC)

func built(n int, tree string, cases ...Case) Build {
	b := Build{
		Log:    fmt.Sprintf("b-%d", n),
		Tree:   tree,
		Change: n,
		Ended:  noon.Add(time.Duration(n) * time.Minute),
		Green:  true,
	}
	rep := Report{Name: "unit", Status: Succeeded}
	rep.Add(cases, nil)
	if rep.Failed > 0 {
		rep.Status, b.Green = Failed, false
	}
	b.Reports = []Report{rep}
	return b
}

func passes(name string, took time.Duration) Case {
	return Case{Name: name, Status: Succeeded, Took: took}
}
func fails(name string) Case { return Case{Name: name, Status: Failed, Message: "no"} }

// TestHistory: flaky is what passed and failed on one tree, in two builds or in one;
// what a change has broken or mended is not.
func TestHistory(t *testing.T) {
	builds := []Build{
		built(5, "e", passes("same-build", 1), fails("same-build"), passes("slow", time.Second)),
		built(4, "d", passes("mended", 1), passes("slow", 3*time.Second), Case{Name: "left", Status: Skipped}),
		built(3, "c", passes("two-builds", 1), fails("mended"), passes("slow", 2*time.Second)),
		built(2, "c", fails("two-builds"), fails("mended"), fails("left")),
		built(1, "a", passes("two-builds", 1), passes("fast", time.Millisecond)),
	}
	got := ""
	for _, test := range History(builds) {
		got += fmt.Sprintf("%s: %d of %d failed, %s", test.Name, test.Failed, len(test.Runs), test.Median)
		if test.Flaky != nil {
			got += fmt.Sprintf(", flaky on %s at %s", test.Flaky.Tree, test.Flaky.At.Format("15:04"))
		}
		got += "\n"
	}
	want := `same-build: 1 of 2 failed, 1ns, flaky on e at 12:05
two-builds: 1 of 3 failed, 1ns, flaky on c at 12:03
mended: 2 of 3 failed, 1ns
left: 1 of 2 failed, 0s
slow: 0 of 3 failed, 2s
fast: 0 of 1 failed, 1ms
`
	if got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}

	for _, c := range []struct {
		build Build
		names string
		all   bool
	}{
		{built(6, "f", fails("two-builds")), "[two-builds]", true},
		{built(6, "f", fails("two-builds"), fails("mended")), "[two-builds]", false},
		{built(6, "f", passes("two-builds", 1)), "[]", false},
		{built(6, "f", fails("new")), "[]", false},
	} {
		names, all := KnownFlaky(c.build, builds)
		if fmt.Sprint(names) != c.names || all != c.all {
			t.Errorf("%v: %v, all %v", c.build.Reports[0].Cases, names, all)
		}
	}
}

// TestStore keeps what tells something about the next builds, and no more.
func TestStore(t *testing.T) {
	s := &Store{Dir: filepath.Join(t.TempDir(), "reports")}
	if all, err := s.Newest("hello", 10); err != nil || len(all) != 0 {
		t.Errorf("of nothing: %v, %v", all, err)
	}
	if err := s.Keep("hello", Build{Log: "b-0", Ended: noon,
		Reports: []Report{{Name: "none", Status: Incomplete}}}); err != nil {
		t.Error(err)
	}
	if _, err := s.Of("hello", "b-0"); !errors.Is(err, ErrNone) {
		t.Errorf("of a build without tests: %v", err)
	}
	for n := range MaxBuilds + 3 {
		if err := s.Keep("hello", built(n, fmt.Sprint("t", n), passes("x", 1))); err != nil {
			t.Fatal(err)
		}
	}
	all, err := s.Newest("hello", MaxBuilds+10)
	if err != nil || len(all) != MaxBuilds || all[0].Log != fmt.Sprintf("b-%d", MaxBuilds+2) ||
		all[0].Reports[0].Cases[0].Name != "x" {
		t.Errorf("%d builds, the newest %+v: %v", len(all), all[0], err)
	}
	if _, err := s.Of("hello", "b-2"); !errors.Is(err, ErrNone) {
		t.Errorf("of one that is too many: %v", err)
	}

	// A file that is damaged hides no other one.
	path := filepath.Join(s.Dir, "hello", fmt.Sprintf("%d-torn.json.gz", noon.Add(24*time.Hour).UnixMilli()))
	if err := os.WriteFile(path, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if all, err := s.Newest("hello", 2); err != nil || len(all) != 1 {
		t.Errorf("beside a damaged one: %d, %v", len(all), err)
	}

	late := built(1000, "late", passes("x", 1))
	late.Ended = noon.Add(KeptFor + 100*time.Minute)
	if err := s.Keep("hello", late); err != nil {
		t.Fatal(err)
	}
	if all, err := s.Newest("hello", 1000); err != nil || all[len(all)-1].Ended.Before(noon.Add(100*time.Minute)) {
		t.Errorf("two weeks later the oldest is %s: %v", all[len(all)-1].Ended, err)
	}
	if err := s.Keep("hello", Build{Log: "../x", Reports: late.Reports}); err == nil {
		t.Error("a log id that leads out is taken")
	}
}

// TestStoreIsBounded: a batch that says as much as it may costs those who look at it little,
// and what failed in its last report is there.
func TestStoreIsBounded(t *testing.T) {
	s := &Store{Dir: filepath.Join(t.TempDir(), "reports")}
	b := built(1, "a")
	b.Reports = nil
	for task := range 100 {
		var cases []Case
		for n := range MaxCases {
			cases = append(cases, passes(strings.Repeat("x", MaxName-10)+fmt.Sprint(n), 1))
		}
		if task == 99 {
			last := fails("last")
			last.Message = strings.Repeat("é", MaxMessage)
			cases = append(cases, last)
		}
		rep := Report{Name: fmt.Sprint("task-", task)}
		rep.Add(cases, nil)
		b.Reports = append(b.Reports, rep)
	}
	if err := s.Keep("hello", b); err != nil {
		t.Fatal(err)
	}
	kept, err := s.Of("hello", b.Log)
	if err != nil || kept.Reports[99].Total != MaxCases+1 || len(kept.Reports[99].Cases) != 1 ||
		len(b.Reports[99].Cases) != MaxCases {
		t.Fatalf("%d cases of %d: %v", len(kept.Reports[99].Cases), kept.Reports[99].Total, err)
	}
	if m := kept.Reports[99].Cases[0].Message; len(m) > maxMessage || !utf8.ValidString(m) {
		t.Errorf("its message has %d bytes", len(m))
	}
	size := 0
	for _, rep := range kept.Reports {
		for _, c := range rep.Cases {
			size += len(c.Name)
		}
	}
	if size == 0 || size > maxStored {
		t.Errorf("names of %d bytes are kept", size)
	}
}

// TestCoverageOf: a series is of green builds for one branch, each tree once, by report and,
// where there are several, all together.
func TestCoverageOf(t *testing.T) {
	covered := func(n int, tree, branch string, green bool, reports ...Report) Build {
		b := built(n, tree)
		b.Branch, b.Green, b.Reports = branch, green, reports
		return b
	}
	rep := func(name string, covered, lines int) Report {
		return Report{Name: name, Coverage: &Coverage{Covered: covered, Lines: lines}}
	}
	builds := []Build{
		covered(9, "h", "main", true, rep("unit", 9, 10)),
		covered(8, "g", "main", true, rep("unit", 8, 10), rep("web", 10, 20), rep("web", 5, 10)),
		covered(7, "g", "main", true, rep("unit", 1, 10)),    // the same tree
		covered(6, "f", "main", false, rep("unit", 2, 10)),   // not green
		covered(5, "e", "release", true, rep("unit", 3, 10)), // another branch
		covered(4, "d", "main", true, rep("unit", 0, 0)),     // says nothing
		covered(3, "c", "main", true, Report{Name: "unit"}),  // nor this
		covered(2, "b", "main", true, rep("unit", 4, 10)),    // and the third
		covered(1, "a", "main", true, rep("unit", 10, 10)),   // one too many
	}
	text := func(all []CoverageSeries) string {
		var b strings.Builder
		for _, s := range all {
			fmt.Fprintf(&b, "%s:", s.Report)
			for _, p := range s.Points {
				fmt.Fprintf(&b, " %d=%d/%d", p.Build.Change, p.Covered, p.Lines)
			}
			b.WriteString("\n")
		}
		return b.String()
	}
	want := ": 2=4/10 8=23/40 9=9/10\nunit: 2=4/10 8=8/10 9=9/10\nweb: 8=15/30\n"
	if got := text(CoverageOf(builds, "main", 3)); got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
	if got := text(CoverageOf(builds, "release", 3)); got != "unit: 5=3/10\n" {
		t.Errorf("of one report: %s", got)
	}
	if got := CoverageOf(builds, "none", 3); got != nil {
		t.Errorf("of no builds: %v", got)
	}
}
