package build

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/headgate-cd/headgate/hooks/build/buildspec"
)

// script is the file that runs one command as a user, "" for root. In 0.2 it
// restores directory and environment, runs the command, and saves both (WRAP,
// B05-B07); the command stands on line 4, as it does with CodeBuild, so that a
// shell's messages name the same line. In 0.1 every command starts afresh (B08).
//
// A command that is not complete ("make test &&", "make test \") would take in
// the line after it, and its failure with it. So an empty line follows, and the
// exit status goes through a parameter, which is not there when its line was
// not run, unlike a variable, which the command before has left.
//
// No line of it starts a process: the shell that runs the command is all that a
// command costs.
func (r *runner) script(command, user string) string {
	succeeding := "0"
	if r.succeeding {
		succeeding = "1"
	}
	home, mask := "", ""
	if r.manyUsers() { // what one leaves the next can write
		home, mask = fmt.Sprintf("; HOME=~%[1]s; USER=%[1]s", cmp.Or(user, "root")), "umask 0\n"
	}
	form := `cd @source
set -a
if [ -e @state/env.sh ]; then . @state/env.sh; cd "$PWD"; else . @control/first.sh; fi; CODEBUILD_BUILD_SUCCEEDING=@succeeding@home
@command

set -- "$?"
CODEBUILD_LAST_EXIT="${1:?the command before this line is not complete}"
export PWD
@maskexport -p >@state/env.sh
exit "$CODEBUILD_LAST_EXIT"
`
	if r.spec.Version == "0.1" {
		form = "cd @source; set -a\n. @control/first.sh; CODEBUILD_BUILD_SUCCEEDING=@succeeding@home\nset +a\n@command\n"
	}
	return strings.NewReplacer(
		"@source", SourceDir,
		"@control", ControlDir,
		"@state", StateDir,
		"@succeeding", succeeding,
		"@home", home,
		"@mask", mask,
		"@command", command,
	).Replace(form)
}

// manyUsers reports whether commands run as others than root.
func (r *runner) manyUsers() bool {
	return r.spec.RunAs != "" || slices.ContainsFunc(r.spec.Phases, func(p buildspec.Phase) bool { return p.RunAs != "" })
}

// command runs one command in the sandbox and returns its exit status.
func (r *runner) command(ctx context.Context, command, user string, out io.Writer) (int, error) {
	if user == "root" {
		user = ""
	}
	if err := r.session.Put(ctx, "script.sh", []byte(r.script(command, user))); err != nil {
		return 0, err
	}
	return r.session.Run(ctx, Script{Shell: r.spec.Shell, User: user, Path: ControlDir + "/script.sh"}, out)
}

// expand evaluates a text of the buildspec that may hold $VAR and $(command), in
// the state that the last command left (B46, B48). The value stands between two
// marks, so that what a process left behind prints meanwhile is no part of it.
func (r *runner) expand(ctx context.Context, text string) (string, error) {
	if !strings.ContainsAny(text, "$`") {
		return text, nil
	}
	mark := rand.Text()
	out := &between{begin: []byte(mark + "<"), end: []byte(">" + mark)}
	exit, err := r.command(ctx, "cat <<"+mark+"\n"+mark+"<"+text+">"+mark+"\n"+mark, "", out)
	if errors.Is(err, ErrEnded) || errors.Is(err, ErrNoShell) {
		exit, err = 128+9, nil
	}
	if err != nil {
		return "", err
	}
	if exit != 0 || !out.whole {
		return "", &clientError{what: fmt.Sprintf("%q cannot be evaluated: exit status %d", text, exit)}
	}
	return strings.TrimSpace(string(out.value)), nil
}

// maxValue bounds, in bytes, what a text of the buildspec may become.
const maxValue = 4096

// between keeps what is written between two marks and lets the rest go.
type between struct {
	begin, end []byte
	value      []byte // all there is so far until whole, then what stood between
	started    bool
	whole      bool
	long       bool // over the bound: it will never be whole
}

func (b *between) Write(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 && !b.whole && !b.long {
		some := p[:min(len(p), maxValue)]
		p = p[len(some):]
		b.value = append(b.value, some...)
		if !b.started {
			i := bytes.Index(b.value, b.begin)
			if i < 0 {
				b.value = b.value[max(0, len(b.value)-len(b.begin)):]
				continue
			}
			b.value, b.started = b.value[i+len(b.begin):], true
		}
		if i := bytes.Index(b.value, b.end); i >= 0 {
			b.value, b.whole = b.value[:i], true
		} else if len(b.value) > 2*maxValue {
			b.value, b.long = nil, true
		}
	}
	return n, nil
}
