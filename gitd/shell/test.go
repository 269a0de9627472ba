package shell

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/headgate-cd/headgate/gitd/show"
)

// Commands about what tests have said.
var testCommands = []command{
	{
		name: "test list", args: "[repo] [--all]",
		what: "tests of the newest builds: flaky ones, those that failed, the slowest", example: "test list hello",
		options: []option{{"--all", fmt.Sprintf("not only the first %d", newestTests)}},
		notes:   "What the builds of two weeks have said is looked at. A test is flaky that has\npassed and failed on one and the same tree.",
		run:     testList,
	},
	{
		name: "test show", args: "<repo> <test...>", what: "one test and its runs", example: "test show hello TestGreeting",
		notes: "It ends with 0 when it passed in the newest build, 1 when it failed there.",
		run:   testShow,
	},
	{
		name: "test coverage", args: "[repo] [--all]", what: "how much tests have covered, build by build", example: "test coverage hello",
		options: []option{{"--all", fmt.Sprintf("not only the newest %d", newestTests)}},
		notes: fmt.Sprintf("Of each report, in the newest %d green builds of two weeks for the gated branch; each tree counts once.",
			show.CoverageShown),
		run: testCoverage,
	},
}

const newestTests = 20

func testList(c *call) error {
	names, err := c.repositories()
	if err != nil {
		return err
	}
	rows := [][]cell{{plain("REPOSITORY"), plain("STATE"), plain("FAILED"), plain("TOOK"), plain("FLAKY"), plain("TEST")}}
	var tails []string
	for _, name := range names {
		s, err := c.shell.Backend.Tests(c.ctx, c.actor, name)
		if err != nil {
			return err
		}
		if c.json {
			if err := c.answer(s, nil); err != nil {
				return err
			}
			continue
		}
		all := len(s.Tests)
		if !c.has("--all") {
			s.Tests = s.Tests[:min(all, newestTests)]
		}
		for _, t := range s.Tests {
			rows = append(rows, []cell{
				plain(name), c.out.word(t.State), plain(fmt.Sprintf("%d of %d", t.Failed, t.Builds)), plain(took(t.Took)),
				plain(c.flaky(t.FlakyAt)), {s: t.Name, cut: true},
			})
		}
		if all > 0 {
			tail := fmt.Sprintf("%d of %s in %s of %s since %s", len(s.Tests), show.Plural(all, "test"),
				show.Plural(s.Builds, "build"), name, c.out.at(s.Since, true))
			if len(s.Tests) < all {
				tail += "; more: " + c.ssh("test list "+name+" --all")
			}
			tails = append(tails, tail)
		}
	}
	if c.json {
		return nil
	}
	if len(rows) == 1 {
		c.out.line("no tests yet")
		c.out.line("a build keeps JUnit files and others that it finds, or that reports: in buildspec.yml names")
		return nil
	}
	c.out.table(rows)
	for _, tail := range tails {
		c.out.line("%s", tail)
	}
	return nil
}

func testCoverage(c *call) error {
	names, err := c.repositories()
	if err != nil {
		return err
	}
	said := false
	for _, name := range names {
		s, err := c.shell.Backend.Tests(c.ctx, c.actor, name)
		if err != nil {
			return err
		}
		if c.json {
			s.Tests = nil
			if err := c.answer(s, nil); err != nil {
				return err
			}
			continue
		}
		for _, series := range s.Coverage {
			if said {
				c.out.line("")
			}
			said = true
			c.coverage(name, series)
		}
	}
	if !said && !c.json {
		c.out.line("no coverage yet")
		c.out.line("a build keeps what reports: in buildspec.yml names with a file-format of coverage, such as COBERTURAXML")
	}
	return nil
}

// coverage writes one series, the newest build first.
func (c *call) coverage(repository string, s show.CoverageSeries) {
	c.out.line("%s of %s, %s: %s", s.Name(), repository, s.Branch, s)
	rows := [][]cell{{plain("AT"), plain("COVERED"), plain("SINCE"), plain("LINES"), plain("BUILT FOR"), plain("COMMIT")}}
	for i, p := range slices.Backward(s.Points) {
		if len(rows) > newestTests && !c.has("--all") {
			break
		}
		since := "-"
		if i > 0 {
			since = fmt.Sprintf("%+.1f", p.Percent-s.Points[i-1].Percent)
		}
		of := "-"
		switch {
		case p.Change > 0:
			of = fmt.Sprintf("change %d", p.Change)
		case p.Schedule != "":
			of = p.Schedule
		}
		rows = append(rows, []cell{
			plain(c.out.at(p.At, false)), plain(fmt.Sprintf("%.1f%%", p.Percent)), plain(since),
			plain(fmt.Sprintf("%d of %d", p.Covered, p.Lines)), plain(of), plain(show.Short(p.Commit)),
		})
	}
	c.out.table(rows)
	if left := len(s.Points) + 1 - len(rows); left > 0 {
		c.out.line("%d more: %s", left, c.ssh("test coverage "+repository+" --all"))
	}
}

func testShow(c *call) error {
	t, err := c.shell.Backend.Test(c.ctx, c.actor, c.args["repo"], c.args["test"])
	if err != nil {
		return err
	}
	if c.json {
		return c.answer(t, outcomeOf(t.State))
	}
	c.out.wrapped("%s %s in the newest build; %d of %s failed", t.Name, testVerb(t.State), t.Failed,
		show.Plural(t.Builds, "run"))
	if !t.FlakyAt.IsZero() {
		c.out.wrapped("it is flaky: until %s it passed and failed on tree %s", c.out.at(t.FlakyAt, true), show.Short(t.Tree))
	}
	rows := [][]cell{{plain("AT"), plain("STATE"), plain("TOOK"), plain("BUILT FOR"), plain("TREE"), plain("SAID")}}
	for _, r := range t.Runs {
		of := "-"
		if r.Change > 0 {
			of = fmt.Sprintf("change %d", r.Change)
		}
		said, _, _ := strings.Cut(r.Message, "\n")
		rows = append(rows, []cell{
			plain(c.out.at(r.At, false)), c.out.word(r.State), plain(took(r.Took)), plain(of), plain(show.Short(r.Tree)),
			{s: said, cut: true},
		})
	}
	c.out.table(rows)
	return outcomeOf(t.State)
}

// changeTests are what the tests of a change have said, the failed ones first.
func changeTests(c *call) error {
	name, number, err := c.change()
	if err != nil {
		return err
	}
	r, err := c.shell.Backend.ChangeTests(c.ctx, c.actor, name, number)
	if err != nil {
		return err
	}
	var end error
	if r.Failed > 0 {
		end = outcome(1)
	}
	if c.json {
		return c.answer(r, end)
	}
	line := fmt.Sprintf("%d of %s failed", r.Failed, show.Plural(r.Total, "test"))
	if r.Skipped > 0 {
		line += fmt.Sprintf(", %d skipped", r.Skipped)
	}
	if k := r.Coverage; k != nil {
		line += ", " + k.String()
	}
	c.out.line("%s", line)
	var rows [][]cell
	shown := r.Tests
	if !c.has("--all") {
		shown = shown[:min(len(shown), max(newestTests, r.Failed))]
	}
	for _, t := range shown {
		said, _, _ := strings.Cut(t.Message, "\n")
		if flaky := c.flaky(t.FlakyAt); flaky != "-" && t.State == show.Failed {
			said = strings.TrimSuffix("flaky: "+said, ": ")
		}
		rows = append(rows, []cell{c.out.state(t.State), plain(took(t.Took)), plain(t.Name), {s: said, cut: true}})
	}
	c.out.table(rows)
	if len(shown) < r.Total {
		more := fmt.Sprintf("%d of %s", len(shown), show.Plural(r.Total, "test"))
		if len(shown) < len(r.Tests) {
			more += "; more: " + c.ssh(fmt.Sprintf("change tests %s %d --all", name, number))
		}
		c.out.line("%s", more)
	}
	return end
}

// flaky is when a test was last found to be, "-" for one that was not.
func (c *call) flaky(at time.Time) string {
	if at.IsZero() {
		return "-"
	}
	return c.out.at(at, false)
}

// took is how long a test ran, "-" where that is not known.
func took(d show.Duration) string { return cmp.Or(show.Seconds(d), "-") }

func testVerb(s show.State) string {
	switch s {
	case show.Green:
		return "passed"
	case show.Failed:
		return "failed"
	case show.Skipped:
		return "was skipped"
	}
	return "came to no end"
}
