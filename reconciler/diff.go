package reconciler

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/headgate-cd/headgate/gitd/repo"
	"github.com/headgate-cd/headgate/gitd/show"
	"github.com/headgate-cd/headgate/gitd/terminal"
	"github.com/headgate-cd/headgate/reconciler/record"
)

// Bounds of a rendered diff: beyond them it is cut, and says so.
const (
	maxDiffFiles = 60
	maxDiffLines = 400  // a file
	maxDiffWidth = 1000 // bytes a line
)

// diff is what a proposal changes in its application's folder, file by file.
func diff(ctx context.Context, r *repo.Repository, from, to repo.Hash, app string) ([]show.FileDiff, error) {
	if from == repo.Zero {
		empty := repo.TreeObject(nil)
		if err := r.Write(empty); err != nil {
			return nil, err
		}
		from = empty.Hash()
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	cmd := r.Command(ctx, "-c", "core.quotePath=false", "diff", "--no-color", "--no-ext-diff", "--no-textconv",
		"--no-renames",
		"--src-prefix=a/", "--dst-prefix=b/", "--unified=3", "--end-of-options", from.String(), to.String(), "--", record.ApplicationPath(app), record.HoldPath(app))
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("diff of %s: %w", app, err)
	}
	files, whole, err := readDiff(stdout)
	if !whole {
		cancel() // the rest is not wanted
	}
	if werr := cmd.Wait(); err == nil && whole && werr != nil {
		err = werr
	}
	if err != nil {
		return nil, fmt.Errorf("diff of %s: %w", app, err)
	}
	return files, nil
}

// readDiff reads a unified diff. whole is false when it stopped at a bound.
func readDiff(in io.Reader) (files []show.FileDiff, whole bool, err error) {
	lines := bufio.NewReaderSize(in, 64<<10)
	var f *show.FileDiff
	body := false
	for {
		line, err := readLine(lines)
		if errors.Is(err, io.EOF) {
			return files, true, nil
		}
		if err != nil {
			return files, false, err
		}
		if rest, ok := strings.CutPrefix(line, "diff --git "); ok && (!body || !strings.HasPrefix(line, " ")) {
			if len(files) == maxDiffFiles {
				files[len(files)-1].Cut = true
				return files, false, nil
			}
			// No renames: both names are the same but for their first letter.
			name := strings.Trim(rest[len(rest)/2+1:], `"`)
			files = append(files, show.FileDiff{Path: strings.TrimPrefix(name, "b/"), State: "changed"})
			f, body = &files[len(files)-1], false
			continue
		}
		switch {
		case f == nil:
		case !body && strings.HasPrefix(line, "new file"):
			f.State = "added"
		case !body && strings.HasPrefix(line, "deleted file"):
			f.State = "removed"
		case !body && strings.HasPrefix(line, "Binary files"):
			f.Lines = append(f.Lines, show.DiffLine{Kind: " ", Text: "binary file"})
		case strings.HasPrefix(line, "@@"):
			body = true
			addLine(f, " ", line)
		case body && line != "" && strings.ContainsRune("+- ", rune(line[0])):
			addLine(f, line[:1], line[1:])
		}
	}
}

func addLine(f *show.FileDiff, kind, text string) {
	if len(f.Lines) >= maxDiffLines {
		f.Cut = true
		return
	}
	f.Lines = append(f.Lines, show.DiffLine{Kind: kind, Text: terminal.Text(text)})
}

func readLine(in *bufio.Reader) (string, error) {
	var line []byte
	for {
		part, more, err := in.ReadLine()
		if err != nil {
			return "", err
		}
		if len(line) < maxDiffWidth {
			line = append(line, part...)
		}
		if !more {
			return string(line[:min(len(line), maxDiffWidth)]), nil
		}
	}
}
