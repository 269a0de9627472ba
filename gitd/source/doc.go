// Package source reads what a repository holds for people: differences between
// two commits (diff.go), commits, directories and files (browse.go), and what a
// search finds in the history (search.go), as the structs of gitd/show.
//
// Nothing is written: what git has to compute in passing goes to a directory
// that is removed again. Everything is bounded in size and time, because what is
// read was pushed by somebody: what is left out is said to be. Whoever calls has
// made sure that the reader may read the repository, and cleans text for where
// it goes (a terminal, a page).
package source

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/headgate-cd/headgate/gitd/repo"
	"github.com/headgate-cd/headgate/gitd/show"
)

// timeout ends what takes longer than anybody looks at a page for: a history or
// a tree that was made to be slow.
const timeout = 20 * time.Second

// maxOutput bounds what is read of one git child.
const maxOutput = 16 << 20

// errCut is the end of what is read, not of what there is.
var errCut = errors.New("more than is shown")

// git runs a git child and hands its output to read, which may stop early with
// errCut. A child that runs into the timeout is a *show.Error.
func git(ctx context.Context, r *repo.Repository, env []string, read func(io.Reader) error, args ...string) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()

	cmd := r.Command(ctx, args...)
	cmd.Env = append(cmd.Env, env...)
	stderr := &tail{}
	cmd.Stderr = stderr

	out, err := cmd.StdoutPipe()
	if err != nil {
		return fmt.Errorf("git %s in %s: %w", args[0], r.Name(), err)
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("git %s in %s: %w", args[0], r.Name(), err)
	}

	err = read(io.LimitReader(out, maxOutput))
	timedOut := errors.Is(ctx.Err(), context.DeadlineExceeded)
	if err != nil {
		cancel() // the rest is not wanted
	} else if n, _ := io.Copy(io.Discard, io.LimitReader(out, 1)); n > 0 {
		err = errCut
		cancel()
	}
	werr := cmd.Wait()

	switch {
	case timedOut || errors.Is(ctx.Err(), context.DeadlineExceeded):
		return &show.Error{
			Kind: show.Again,
			What: fmt.Sprintf("this takes longer than %s to work out, and was given up", timeout),
			Hint: "clone the repository and look there",
		}
	case err != nil:
		return err
	case werr != nil:
		return &repo.GitError{Args: args, Stderr: stderr.line(), Exit: cmd.ProcessState.ExitCode(), Err: werr}
	}
	return nil
}

// output is git for a child whose answer is short.
func output(ctx context.Context, r *repo.Repository, env []string, args ...string) (string, error) {
	var b bytes.Buffer
	err := git(ctx, r, env, func(out io.Reader) error {
		_, err := io.Copy(&b, out)
		return err
	}, args...)
	return b.String(), err
}

// tail keeps the beginning of what a child complains of.
type tail struct{ b bytes.Buffer }

func (t *tail) Write(p []byte) (int, error) {
	if left := 4096 - t.b.Len(); left > 0 {
		t.b.Write(p[:min(left, len(p))])
	}
	return len(p), nil
}

func (t *tail) line() string {
	line, _, _ := strings.Cut(strings.TrimSpace(t.b.String()), "\n")
	return strings.TrimPrefix(line, "fatal: ")
}

// exit is the status that a git child ended with, 0 for other errors.
func exit(err error) int {
	var e *repo.GitError
	if errors.As(err, &e) {
		return e.Exit
	}
	return 0
}

// scratch is an object directory beside the repository's own, for what git has
// to write in order to answer. remove takes it away again.
func scratch(r *repo.Repository) (env []string, remove func(), err error) {
	dir, err := os.MkdirTemp("", "headgate-objects-")
	if err != nil {
		return nil, nil, fmt.Errorf("compare in %s: %w", r.Name(), err)
	}
	env = []string{"GIT_OBJECT_DIRECTORY=" + dir, "GIT_ALTERNATE_OBJECT_DIRECTORIES=" + r.Dir() + "/objects"}
	return env, func() { _ = os.RemoveAll(dir) }, nil // what is left of it is in the temporary directory
}
