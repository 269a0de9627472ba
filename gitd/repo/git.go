package repo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Path is the PATH of every git child; it does not depend on the server's own.
const Path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// MaxPush is how many bytes one push may bring.
const MaxPush = 512 << 20

// config is the fixed configuration of every git child, set by environment so
// that nothing in a repository's own config file can weaken it.
var config = [][2]string{
	{"core.fsync", "objects,derived-metadata,reference"}, // by default an acknowledged push was synced zero times
	{"core.fsyncMethod", "fsync"},
	// A small pack may stand for files that no memory holds: what is larger than
	// this goes through in pieces, and is not compared with others.
	{"core.bigFileThreshold", "16m"},
	{"core.deltaBaseCacheLimit", "32m"},
	{"pack.windowMemory", "64m"},
	{"pack.deltaCacheSize", "32m"},
	{"core.alternateRefsCommand", "true"}, // advertise nothing from alternates
	{"core.logAllRefUpdates", "false"},    // change logs and release tags are the record
	{"core.protectHFS", "true"},
	{"core.protectNTFS", "true"},
	{"core.useReplaceRefs", "false"}, // an object is what its id says, also in a clone of somebody else's making
	{"gc.auto", "0"},
	{"init.defaultBranch", "main"},
	{"protocol.version", "2"},
	{"receive.advertisePushOptions", "true"},
	{"receive.autogc", "false"},
	{"receive.keepAlive", "5"},
	{"receive.maxInputSize", strconv.Itoa(MaxPush)},
	// Old histories hold what tools of their time wrote. It harms nobody, and no
	// forge turns it away.
	{"receive.fsck.badTimezone", "warn"},
	{"receive.fsck.missingSpaceBeforeDate", "warn"},
	{"receive.fsck.zeroPaddedFilemode", "warn"},
	{"receive.procReceiveRefs", "refs"}, // every ref is written by the daemon
	{"receive.hideRefs", "refs/changes"},
	{"receive.hideRefs", "refs/notes"},
	{"receive.hideRefs", "refs/releases"},
	{"receive.hideRefs", "refs/decisions"},
	{"receive.hideRefs", "refs/schedules"},
	{"receive.hideRefs", "refs/keys"},
	{"safe.directory", "*"},
	{"transfer.fsckObjects", "true"},
	{"uploadpack.allowAnySHA1InWant", "true"},
	{"uploadpack.allowFilter", "true"},
}

// Env is the whole environment of a git child: built from nothing, with the
// fixed configuration and hooksPath as core.hooksPath. extra is appended.
func Env(hooksPath string, extra ...string) []string {
	env := []string{
		"PATH=" + Path,
		"HOME=/nonexistent",
		"LC_ALL=C.UTF-8",
		"TZ=UTC",
		"GIT_CONFIG_NOSYSTEM=1",
		"GIT_CONFIG_GLOBAL=/dev/null",
		"GIT_TERMINAL_PROMPT=0",
		"GIT_OPTIONAL_LOCKS=0",
		"GIT_CONFIG_COUNT=" + strconv.Itoa(len(config)+1),
		"GIT_CONFIG_KEY_0=core.hooksPath",
		"GIT_CONFIG_VALUE_0=" + hooksPath,
	}
	for i, kv := range config {
		n := strconv.Itoa(i + 1)
		env = append(env, "GIT_CONFIG_KEY_"+n+"="+kv[0], "GIT_CONFIG_VALUE_"+n+"="+kv[1])
	}
	return append(env, extra...)
}

// noHooks is core.hooksPath for the daemon's own git children: the daemon is
// the one writer that the hooks would have to ask.
const noHooks = "/dev/null"

// Command prepares a git child on r: `git --git-dir=<r> args…`, without hooks,
// in its own process group, ended with that group when ctx is done. User data
// among args belongs behind --end-of-options.
func (r *Repository) Command(ctx context.Context, args ...string) *exec.Cmd {
	return r.CommandIn(ctx, Quarantine{}, args...)
}

// Quarantine names the directories in which receive-pack keeps the objects of a
// push that is not accepted yet (the GIT_* variables of a pre-receive hook).
// The zero Quarantine is none.
type Quarantine struct {
	Objects    string // GIT_OBJECT_DIRECTORY
	Alternates string // GIT_ALTERNATE_OBJECT_DIRECTORIES
	Path       string // GIT_QUARANTINE_PATH: makes git refuse ref updates
}

func (q Quarantine) env() []string {
	if q.Objects == "" {
		return nil
	}
	return []string{
		"GIT_OBJECT_DIRECTORY=" + q.Objects,
		"GIT_ALTERNATE_OBJECT_DIRECTORIES=" + q.Alternates,
		"GIT_QUARANTINE_PATH=" + q.Path,
	}
}

// CommandIn is Command for a child that sees the objects of q as well.
func (r *Repository) CommandIn(ctx context.Context, q Quarantine, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "git", append([]string{"--git-dir=" + r.dir}, args...)...)
	cmd.Env = Env(noHooks, q.env()...)
	cmd.Dir = "/"
	OwnGroup(cmd)
	return cmd
}

// OwnGroup puts cmd into a process group of its own and ends the whole group,
// first politely, when cmd's context is done.
func OwnGroup(cmd *exec.Cmd) {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Setpgid = true
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	cmd.WaitDelay = 5 * time.Second
}

// GitError is a git child that failed.
type GitError struct {
	Args   []string
	Stderr string // first line, without "fatal: "
	Exit   int    // -1 when it was killed or did not start
	Err    error
}

func (e *GitError) Error() string {
	what := e.Stderr
	if what == "" {
		what = e.Err.Error()
	}
	return fmt.Sprintf("git %s: %s", strings.Join(e.Args[:min(2, len(e.Args))], " "), what)
}

func (e *GitError) Unwrap() error { return e.Err }

// maxOutput bounds what a git child may answer in memory.
const maxOutput = 64 << 20

// Git runs a git child and returns its standard output. An error is a *GitError.
func (r *Repository) Git(ctx context.Context, args ...string) ([]byte, error) {
	return run(r.Command(ctx, args...), nil)
}

// GitIn is Git within a quarantine, with input.
func (r *Repository) GitIn(ctx context.Context, q Quarantine, input []byte, args ...string) ([]byte, error) {
	return run(r.CommandIn(ctx, q, args...), input)
}

// Run runs a child that Command has prepared, with input, like Git.
func Run(cmd *exec.Cmd, input []byte) ([]byte, error) { return run(cmd, input) }

func run(cmd *exec.Cmd, input []byte) ([]byte, error) { return runStarted(cmd, input, nil) }

// runStarted is run, which tells the process id once there is one.
func runStarted(cmd *exec.Cmd, input []byte, started func(pid int)) ([]byte, error) {
	stdout := bounded{max: maxOutput, end: true}
	err := runInto(cmd, input, &stdout, started)
	var ge *GitError
	if stdout.cut && errors.As(err, &ge) {
		ge.Stderr, ge.Exit, ge.Err = "", -1, fmt.Errorf("answered more than %d bytes", maxOutput)
	}
	return stdout.Bytes(), err
}

// runInto runs a child that answers to stdout, which ends it by an error. Its own
// error is a *GitError.
func runInto(cmd *exec.Cmd, input []byte, stdout io.Writer, started func(pid int)) error {
	stderr := bounded{max: 64 << 10}
	cmd.Stdout, cmd.Stderr = stdout, &stderr
	if input != nil {
		cmd.Stdin = bytes.NewReader(input)
	}
	err := cmd.Start()
	if err == nil {
		if started != nil {
			started(cmd.Process.Pid)
		}
		err = cmd.Wait()
	}
	if err != nil {
		said := strings.TrimSpace(stderr.String())
		if i := strings.Index(said, "\nfatal: "); i >= 0 && strings.HasPrefix(said, "remote: ") {
			said = said[i+1:] // what the far end says comes first, and explains nothing
		}
		line, _, _ := strings.Cut(said, "\n")
		line = strings.TrimSpace(strings.TrimPrefix(line, "fatal: ")) // ssh ends lines as terminals do
		exit := -1
		var ee *exec.ExitError
		if errors.As(err, &ee) {
			exit = ee.ExitCode()
		} else if errors.Is(err, exec.ErrNotFound) {
			line = "git is not installed; install it: apt-get install git"
		}
		return &GitError{Args: cmd.Args[2:], Stderr: line, Exit: exit, Err: err}
	}
	return nil
}

// bounded keeps the first max bytes and swallows the rest.
//
// The buffer is no embedded one: its ReadFrom would be used instead of Write.
type bounded struct {
	got bytes.Buffer
	max int
	end bool // what does not fit ends whoever writes it; else it is dropped
	cut bool
}

// errMore ends a git child: what nobody reads need not be made, without end even, of
// a tree whose trees multiply.
var errMore = errors.New("more than is read")

func (b *bounded) Write(p []byte) (int, error) {
	if room := b.max - b.got.Len(); len(p) > room {
		b.cut = true
		b.got.Write(p[:max(0, room)])
		if b.end {
			return max(0, room), errMore
		}
		return len(p), nil
	}
	return b.got.Write(p)
}

func (b *bounded) Bytes() []byte  { return b.got.Bytes() }
func (b *bounded) String() string { return b.got.String() }

// exited reports whether err is a git child that exited with code.
func exited(err error, code int) bool {
	var ge *GitError
	return errors.As(err, &ge) && ge.Exit == code
}

// syncDir makes the entries of a directory durable.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	err = d.Sync()
	return errors.Join(err, d.Close())
}
