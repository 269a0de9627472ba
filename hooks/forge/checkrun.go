package forge

import (
	"context"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/go-github/v60/github"

	"github.com/headgate-cd/headgate/gitd/repo"
	"github.com/headgate-cd/headgate/hooks/build/report"
)

// runner is a forge that takes check runs besides statuses: GitHub, from an App that may
// write them. They name the tests that failed, and have a button to run again.
type runner interface {
	// TakesRuns reports whether it takes them from whom it is called by, now.
	TakesRuns(ctx context.Context) (bool, error)
	// Run says how a commit is, like Publish, with what more is known of a failure.
	Run(ctx context.Context, commit repo.Hash, c Check, failed func() Failed) error
}

// Failed is what is known of a failure.
type Failed struct {
	Tests       []string // that failed, one line each
	Annotations []Annotation
}

// Annotation is a failed test where it is known to be in a file of the commit.
type Annotation struct {
	Path  string
	Line  int
	Title string // of the test
	Text  string
}

// CheckKind is how a commit's check is said. GitHub requires a status and a check run of one
// name both, so that a commit keeps what it began with.
type CheckKind string

const (
	ByStatus CheckKind = "status"
	ByRun    CheckKind = "run"
)

const (
	mostAnnotations = 50 // of one call
	maxFailedTests  = 50 // that are named
	maxSummary      = 60_000
)

// check says how a commit is: in the way that it was said before, as, or in the best one
// for a commit of which nothing was said.
func (p *pass) check(ctx context.Context, commit repo.Hash, as CheckKind, c Check, failed func() Failed) (CheckKind,
	error) {
	if runs, ok := p.api.(runner); ok && as != ByStatus {
		takes, err := runs.TakesRuns(ctx)
		if err != nil {
			return as, err
		}
		if takes {
			return ByRun, runs.Run(ctx, commit, c, failed)
		}
	}
	return ByStatus, p.api.Publish(ctx, commit, c)
}

// TakesRuns implements runner.
func (g *gitHub) TakesRuns(ctx context.Context) (bool, error) {
	if g.app == nil {
		return false, nil
	}
	return g.app.may(ctx, "checks", "write")
}

// Run implements runner. What has ended and begins again is another run, as GitHub has it.
func (g *gitHub) Run(ctx context.Context, commit repo.Hash, c Check, failed func() Failed) error {
	list, _, err := g.client.Checks.ListCheckRunsForRef(
		ctx,
		g.owner,
		g.name,
		commit.String(),
		&github.ListCheckRunsOptions{
			CheckName: github.String(checkName),
			AppID:     github.Int64(g.app.app.ID),
			Filter:    github.String("latest"),
		},
	)
	if err != nil {
		return gitHubError(err)
	}
	output := &github.CheckRunOutput{Title: github.String(cut(c.Text, 250)), Summary: github.String(cut(c.Text, 250))}
	status, conclusion := c.run()
	var known *github.CheckRun
	for _, r := range list.CheckRuns {
		if status == "completed" || r.GetStatus() != "completed" {
			known = r
		}
	}
	var ended *github.Timestamp
	var annotations []*github.CheckRunAnnotation
	if status == "completed" {
		ended = &github.Timestamp{Time: time.Now()}
		if c.State == CheckFailure {
			f := failed()
			output.Summary = github.String(f.summary(c.Text))
			if known.GetStatus() != "completed" { // they are added to those that are there
				annotations = f.annotations()
			}
		}
	}
	parts := slices.Collect(slices.Chunk(annotations, mostAnnotations))
	if len(parts) == 0 {
		parts = append(parts, nil)
	}
	id := known.GetID()
	if known == nil {
		output.Annotations, parts = parts[0], parts[1:]
		made, _, err := g.client.Checks.CreateCheckRun(ctx, g.owner, g.name, github.CreateCheckRunOptions{
			Name:        checkName,
			HeadSHA:     commit.String(),
			DetailsURL:  orNil(c.URL),
			Status:      github.String(status),
			Conclusion:  orNil(conclusion),
			CompletedAt: ended,
			Output:      output,
		})
		if err != nil {
			return gitHubError(err)
		}
		id = made.GetID()
	}
	for _, part := range parts {
		output.Annotations = part
		if _, _, err := g.client.Checks.UpdateCheckRun(ctx, g.owner, g.name, id, github.UpdateCheckRunOptions{
			Name:        checkName,
			DetailsURL:  orNil(c.URL),
			Status:      github.String(status),
			Conclusion:  orNil(conclusion),
			CompletedAt: ended,
			Output:      output,
		}); err != nil {
			return gitHubError(err)
		}
	}
	return nil
}

func orNil(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

// run is the state of a check run.
func (c Check) run() (status, conclusion string) {
	switch {
	case c.State == CheckSuccess:
		return "completed", "success"
	case c.State == CheckFailure:
		return "completed", "failure"
	case c.Running:
		return "in_progress", ""
	}
	return "queued", ""
}

// summary is what a check run says in Markdown.
func (f Failed) summary(text string) string {
	var b strings.Builder
	b.WriteString(code(text) + "\n")
	for _, test := range f.Tests {
		b.WriteString("\n- " + code(test))
	}
	return cut(b.String(), maxSummary)
}

func (f Failed) annotations() (list []*github.CheckRunAnnotation) {
	for _, a := range f.Annotations {
		list = append(list, &github.CheckRunAnnotation{
			Path:            github.String(a.Path),
			StartLine:       github.Int(a.Line),
			EndLine:         github.Int(a.Line),
			AnnotationLevel: github.String("failure"),
			Title:           github.String(cut(a.Title, 250)),
			Message:         github.String(cut(a.Text, maxText)),
		})
	}
	return list
}

// failed is what the tests of a build say that failed, in a commit's files.
func (p *pass) failed(log string, commit repo.Hash) Failed {
	var f Failed
	if p.w.hub.Reports == nil || log == "" {
		return f
	}
	built, err := p.w.hub.Reports.Of(p.r.Name(), log)
	if err != nil {
		return f // it had none
	}
	tree, err := p.r.TreeOf(commit)
	if err != nil {
		return f
	}
	is := func(name string) bool {
		entry, err := p.r.Lookup(tree, name)
		return err == nil && entry.Mode.IsFile()
	}
	for _, r := range built.Reports {
		for _, c := range r.Cases {
			if c.Status != report.Failed && c.Status != report.Error {
				continue
			}
			if len(f.Tests) == maxFailedTests {
				f.Tests = append(f.Tests, "and more")
				return f
			}
			line, _, _ := strings.Cut(c.Message, "\n")
			f.Tests = append(f.Tests, fmt.Sprintf("%s: %s", c, line))
			if name, number, ok := placeOf(c, is); ok {
				f.Annotations = append(
					f.Annotations,
					Annotation{Path: name, Line: number, Title: c.String(), Text: c.Message},
				)
			}
		}
	}
	return f
}

// place is a file and a line in what a failed test says: of Go, pytest, Ruby, Node and
// others as "file:12", of Python also as File "file", line 12.
var place = regexp.MustCompile(`([A-Za-z0-9_@+./-]+\.[A-Za-z0-9]+):([0-9]{1,7})\b|"([^"\n]+)", line ([0-9]{1,7})\b`)

// placeOf finds where a failed test is: the first place that it names which is a file. A
// build names it by where it was built, or from the directory of its package.
func placeOf(c report.Case, is func(string) bool) (name string, line int, ok bool) {
	for _, m := range place.FindAllStringSubmatch(c.Message, 20) {
		line, err := strconv.Atoi(m[2] + m[4])
		if err != nil || line < 1 {
			continue
		}
		parts := strings.Split(strings.TrimPrefix(path.Clean("/"+m[1]+m[3]), "/"), "/")
		for i := range parts {
			if name := path.Join(parts[i:]...); is(name) {
				return name, line, true
			}
		}
		dirs := strings.Split(c.Suite, "/") // of Go: example.org/module/package
		for i := range dirs {
			if name := path.Join(path.Join(dirs[i:]...), parts[len(parts)-1]); is(name) {
				return name, line, true
			}
		}
	}
	return "", 0, false
}
