package build

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"github.com/headgate-cd/headgate/hooks/build/artifact"
	"github.com/headgate-cd/headgate/hooks/build/buildlog"
	"github.com/headgate-cd/headgate/hooks/build/buildspec"
	"github.com/headgate-cd/headgate/hooks/build/report"
)

// Bounds of the search for reports that no buildspec names (B53).
const (
	discoveryTime  = 5 * time.Second // CodeBuild's own
	maxDiscovered  = 200
	maxReportFiles = 2000 // of one report
)

// maxFailedNamed is how many failed tests are named in a reason; the log names more.
const (
	maxFailedNamed  = 3
	maxFailedLogged = 50
)

// reports reads what tests have written (B50-B53). However they went, exit statuses
// alone decide (B51): what failed is named where the build's failure is.
func (r *runner) reports(ctx context.Context) error {
	var all []report.Report
	for _, one := range r.spec.Reports {
		rep, err := r.report(ctx, one)
		if err != nil {
			return err
		}
		all = append(all, rep)
	}
	if len(r.spec.Reports) == 0 && r.environment()["CODEBUILD_CONFIG_AUTO_DISCOVER"] != "false" {
		source, err := r.session.Files(ctx, SourceDir)
		if err != nil {
			return err
		}
		if rep := r.discover(ctx, source); rep.Total > 0 {
			all = append(all, rep)
		}
	}
	var failed []string
	for _, rep := range all {
		r.tell(rep)
		for _, c := range rep.Cases {
			if c.Status == report.Failed || c.Status == report.Error {
				failed = append(failed, c.String())
			}
		}
	}
	r.result.Reports = all
	if r.result.Status == Failed && len(failed) > 0 && r.result.Code == "COMMAND_EXECUTION_ERROR" {
		more := ""
		if n := len(failed) - maxFailedNamed; n > 0 {
			more = fmt.Sprintf(" and %d more", n)
		}
		r.result.Reason += "; failed: " + strings.Join(failed[:min(len(failed), maxFailedNamed)], ", ") + more
	}
	return nil
}

// tell writes a report into the log, the failed tests first.
func (r *runner) tell(rep report.Report) {
	about := buildlog.About("")
	if rep.Failed > 0 || rep.Status == report.Incomplete {
		about = buildlog.Warning
	}
	text := fmt.Sprintf("report %s: %s", rep.Name, rep.Status)
	if rep.Total > 0 {
		text += fmt.Sprintf(", %d of %d tests failed, %d skipped", rep.Failed, rep.Total, rep.Skipped)
	}
	if c := rep.Coverage; c != nil && c.Lines > 0 {
		text += fmt.Sprintf(", %.1f %% of lines covered", 100*float64(c.Covered)/float64(c.Lines))
	}
	r.log.NoteAbout(about, "%s", text)
	for i, c := range rep.Cases {
		if c.Status != report.Failed && c.Status != report.Error {
			break
		}
		if i == maxFailedLogged {
			r.log.Note("  and %d more", rep.Failed-i)
			break
		}
		message, _, _ := strings.Cut(c.Message, "\n")
		r.log.Note("  %s %s: %s", c.Status, c, message)
	}
}

// report reads the files of one of the buildspec's reports.
func (r *runner) report(ctx context.Context, one buildspec.Report) (report.Report, error) {
	rep := report.Report{Status: report.Succeeded}
	incomplete := func(format string, args ...any) {
		rep.Status = report.Incomplete
		r.log.NoteAbout(buildlog.Warning, "report %s: %s", one.Name, fmt.Sprintf(format, args...))
	}
	texts := append([]string{one.Name, one.BaseDirectory}, one.Files...)
	for i, text := range texts {
		value, err := r.expand(ctx, text)
		var unset *clientError
		if errors.As(err, &unset) {
			incomplete("%v", unset)
			value, err = text, nil
		}
		if err != nil {
			return rep, err
		}
		texts[i] = value
	}
	// A name may be an ARN, whose last part names the group.
	rep.Name = texts[0][strings.LastIndexByte(texts[0], '/')+1:]
	if !strings.HasPrefix(texts[0], "arn:") {
		rep.Name = projectName(r.req) + "-" + texts[0]
	}
	found, err := r.find(ctx, texts[1], texts[2:], buildspec.Artifact{})
	var none *clientError
	if errors.As(err, &none) {
		incomplete("%v", none)
		return rep, nil
	}
	if err != nil {
		return rep, err
	}
	for _, p := range found.unmatched {
		incomplete("nothing matches %s", p)
	}
	source, err := r.session.Files(ctx, SourceDir)
	if err != nil {
		return rep, err
	}
	for i, f := range found.files {
		if i == maxReportFiles {
			incomplete("only the first %d files are read", maxReportFiles)
			break
		}
		if f.Root == "" {
			f.Root = source
		}
		if err := readReport(&rep, f, one.Format); err != nil {
			incomplete("%s: %v", f.Source, err)
		}
	}
	if rep.Failed > 0 && rep.Status == report.Succeeded {
		rep.Status = report.Failed
	}
	return rep, nil
}

func projectName(req Request) string {
	if req.Repository == "" {
		return "headgate"
	}
	return req.Repository
}

// readReport reads a file below its Root.
func readReport(rep *report.Report, f artifact.File, format string) error {
	root, err := os.OpenRoot(f.Root)
	if err != nil {
		return err
	}
	defer root.Close()
	in, err := openRegular(root, f.Source)
	if err != nil {
		return err
	}
	defer in.Close()
	cases, coverage, err := report.Parse(format, in)
	if err != nil {
		return err
	}
	rep.Add(cases, coverage)
	return nil
}

var errNotRegular = errors.New("it is not a regular file")

// openRegular opens a file below root that is one, and blocks on nothing else.
func openRegular(root *os.Root, name string) (*os.File, error) {
	name = filepath.FromSlash(name)
	if info, err := root.Stat(name); err != nil || !info.Mode().IsRegular() {
		return nil, errors.Join(err, errNotRegular)
	}
	in, err := root.OpenFile(name, os.O_RDONLY|artifact.NonBlock, 0)
	if err != nil {
		return nil, err
	}
	if info, err := in.Stat(); err != nil || !info.Mode().IsRegular() {
		in.Close()
		return nil, errors.Join(err, errNotRegular)
	}
	return in, nil
}

// discover looks for results of tests that this build has written, when the
// buildspec names none (B53).
func (r *runner) discover(ctx context.Context, source string) report.Report {
	rep := report.Report{Name: projectName(r.req) + "-discovered", Status: report.Succeeded}
	root, err := os.OpenRoot(source)
	if err != nil {
		return rep
	}
	defer root.Close()
	until := time.Now().Add(discoveryTime)
	below := path.Clean(r.environment()["CODEBUILD_CONFIG_AUTO_DISCOVER_DIR"])
	if !fs.ValidPath(below) {
		below = "."
	}
	files := 0
	_ = fs.WalkDir(root.FS(), below, func(p string, d fs.DirEntry, err error) error {
		if ctx.Err() != nil || time.Now().After(until) || files == maxDiscovered {
			return fs.SkipAll
		}
		if err != nil || d.IsDir() {
			if d != nil && d.IsDir() && (d.Name() == ".git" || d.Name() == "node_modules" || err != nil) {
				return fs.SkipDir
			}
			return nil
		}
		switch path.Ext(p) {
		case ".xml", ".trx", ".json":
		default:
			return nil
		}
		info, err := d.Info()
		if err != nil || !info.Mode().IsRegular() || info.ModTime().Before(r.result.Started) {
			return nil // it was there before
		}
		in, err := openRegular(root, p)
		if err != nil {
			return nil
		}
		head := make([]byte, 4096)
		n, _ := io.ReadFull(in, head) // a short file is read as far as it goes
		in.Close()
		if format := report.Detect(p, head[:n]); format != "" {
			files++
			if readReport(&rep, artifact.File{Root: source, Source: p}, format) != nil {
				return nil // it only looked like one
			}
		}
		return nil
	})
	if rep.Failed > 0 {
		rep.Status = report.Failed
	}
	return rep
}
