package build

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"time"

	"github.com/headgate-cd/headgate/gitd/yamlfile"
	"github.com/headgate-cd/headgate/hooks/build/artifact"
	"github.com/headgate-cd/headgate/hooks/build/buildlog"
	"github.com/headgate-cd/headgate/hooks/build/buildspec"
)

// What a Session answers when a script did not come to an end of its own.
var (
	ErrNoShell = errors.New("there is no such shell")
	ErrEnded   = errors.New("the sandbox has ended")
)

// Run runs one build and returns what it came to. An error is the server's own
// trouble: then there is no result, and nothing may be concluded about the tree.
// The log is written to but not finished.
func Run(ctx context.Context, req Request, ex Executor, log *buildlog.Writer, store *artifact.Store) (Result, error) {
	r := &runner{req: req, log: log, store: store, result: Result{Status: Succeeded, Started: time.Now()}, succeeding: true}
	timeout := req.Timeout
	if timeout <= 0 {
		timeout = DefaultTimeout
	}
	limited, cancel := context.WithTimeoutCause(ctx, timeout, errTimeout)
	defer cancel()
	err := r.run(limited, ex)
	r.result.Finished = time.Now()
	if err != nil && (limited.Err() == nil || errors.Is(err, errLeft)) {
		log.Note("the server could not run the build: %v", err)
		return r.result, fmt.Errorf("build %s: %w", req.ID, err)
	}
	switch {
	case ctx.Err() != nil:
		r.result.Status, r.result.Reason, r.result.Artifacts = Stopped, "stopped", nil
		log.Note("the build was stopped")
	case limited.Err() != nil:
		r.result.Status, r.result.Artifacts = TimedOut, nil
		r.result.Phase, r.result.Command, r.result.Exit = r.phaseNow, r.commandNow, 0
		r.result.Reason = fmt.Sprintf("timed out after %s", timeout)
		if r.result.Phase != "" {
			r.result.Reason += " in " + r.result.Phase
		}
		if r.result.Command != "" {
			r.result.Reason += fmt.Sprintf(", running %q", short(r.result.Command))
		}
		log.Note("the build took longer than %s and was ended", timeout)
		r.result.LogLine = log.Lines()
	}
	return r.result, nil
}

var errTimeout = errors.New("timed out")

// errLeft is in the error of a sandbox that could not be ended: however the build
// ended, something of it is left.
var errLeft = errors.New("end the sandbox")

type runner struct {
	req        Request
	spec       *buildspec.Spec
	file       string // the buildspec's path
	log        *buildlog.Writer
	store      *artifact.Store
	session    Session
	control    string // host directory that is ControlDir; commands cannot write there
	succeeding bool   // CODEBUILD_BUILD_SUCCEEDING (B21)
	phaseNow   string // what a timeout will have ended
	commandNow string
	result     Result
}

// fail records the first failure of the build.
func (r *runner) fail(phase, code, command string, exit int, reason string) {
	r.succeeding = false
	if r.result.Status != Succeeded {
		return
	}
	r.result.Status, r.result.Phase, r.result.Code = Failed, phase, code
	r.result.Command, r.result.Exit, r.result.Reason = command, exit, reason
	r.result.LogLine = r.log.Lines()
}

func (r *runner) run(ctx context.Context, ex Executor) error {
	name := r.req.Buildspec
	if name == "" {
		name = buildspec.Default
	}
	spec, warnings, err := read(r.req.Source, name)
	for _, w := range warnings {
		r.log.NoteAbout(buildlog.Warning, "warning: %s", w.Error())
	}
	if err != nil {
		ps, ok := yamlfile.ProblemsIn(err)
		if !ok {
			return err
		}
		for _, p := range ps {
			r.log.Note("%s", p.Error())
		}
		r.log.Note("Phase complete: DOWNLOAD_SOURCE State: FAILED")
		r.log.Note("Phase context status code: YAML_FILE_ERROR Message: %s", ps[0].What)
		r.fail("download_source", "YAML_FILE_ERROR", "", 0, ps[0].Error())
		return nil
	}
	r.spec, r.file = spec, name
	dirs := map[string]string{}
	for _, d := range []string{"control", "home", "temp"} {
		dirs[d] = filepath.Join(r.req.Work, d)
		if err := os.MkdirAll(dirs[d], 0o700); err != nil {
			return err
		}
	}
	r.control = dirs["control"]
	if r.req.Cache.Upper == "" {
		r.req.Cache.Upper = filepath.Join(r.req.Work, "cache")
		if err := os.MkdirAll(r.req.Cache.Upper, 0o700); err != nil {
			return err
		}
	}
	if err := r.saveEnvironment(); err != nil {
		return err
	}
	for _, notice := range r.req.Notices {
		r.log.Note("%s", notice)
	}
	r.session, err = ex.Start(ctx, Sandbox{
		ID:      r.req.ID,
		Source:  r.req.Source,
		Control: dirs["control"],
		Home:    dirs["home"],
		Temp:    dirs["temp"],
		Objects: r.req.Objects,
		Cache:   r.req.Cache,
		Network: r.req.Network,
	})
	if err != nil {
		return err
	}
	for _, note := range r.session.Notes() {
		r.log.Note("%s", note)
	}
	err = r.phases(ctx)
	if err == nil {
		err = r.upload(ctx)
	}
	if left := r.session.Close(); left != nil {
		err = errors.Join(err, fmt.Errorf("%w: %w", errLeft, left))
	}
	return err
}

// read finds and parses the buildspec. It goes through os.Root: a buildspec that
// is a symbolic link to somewhere else on the server is not there.
func read(source, name string) (*buildspec.Spec, yamlfile.Problems, error) {
	missing := yamlfile.Problems{{File: name, What: "YAML file does not exist", Fix: "add it, or name another one with build: {buildspec: …} in headgate.yaml"}}
	root, err := os.OpenRoot(source)
	if err != nil {
		return nil, nil, err
	}
	defer root.Close()
	info, err := root.Stat(filepath.FromSlash(name))
	if err != nil || !info.Mode().IsRegular() {
		return nil, nil, missing
	}
	f, err := root.Open(filepath.FromSlash(name))
	if err != nil {
		return nil, nil, missing
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, yamlfile.MaxBytes+1))
	if err != nil {
		return nil, nil, err
	}
	return buildspec.Parse(name, data)
}

// saveEnvironment writes the environment with which the first command begins.
func (r *runner) saveEnvironment() error {
	env := map[string]string{
		"PATH": "/usr/local/sbin:/usr/local/bin:/usr/local/go/bin:/usr/sbin:/usr/bin:/sbin:/bin",
		"HOME": HomeDir, "USER": "root", "LANG": "C.UTF-8", "TMPDIR": "/tmp", "CI": "true",
		"GOCACHE":                           CacheDir + "/go-build",
		"GOMODCACHE":                        CacheDir + "/go-mod",
		"npm_config_cache":                  CacheDir + "/npm",
		"PIP_CACHE_DIR":                     CacheDir + "/pip",
		"MAVEN_ARGS":                        "-Dmaven.repo.local=" + CacheDir + "/maven", // Maven 3.9 and later
		"CODEBUILD_CI":                      "true",
		"CODEBUILD_BUILD_ID":                r.req.ID,
		"CODEBUILD_BUILD_IMAGE":             "host",
		"CODEBUILD_BUILD_NUMBER":            strconv.Itoa(r.req.Number),
		"CODEBUILD_BUILD_SUCCEEDING":        "1",
		"CODEBUILD_INITIATOR":               r.req.Initiator,
		"CODEBUILD_RESOLVED_SOURCE_VERSION": r.req.Commit,
		"CODEBUILD_SOURCE_VERSION":          r.req.Commit,
		"CODEBUILD_SOURCE_REPO_URL":         r.req.Repository,
		"CODEBUILD_SRC_DIR":                 SourceDir,
		"CODEBUILD_START_TIME":              strconv.FormatInt(r.result.Started.UnixMilli(), 10),
	}
	if r.req.Branch != "" {
		env["CODEBUILD_WEBHOOK_EVENT"] = "PUSH"
		env["CODEBUILD_WEBHOOK_HEAD_REF"] = "refs/heads/" + r.req.Branch
		env["CODEBUILD_WEBHOOK_TRIGGER"] = "branch/" + r.req.Branch
	}
	for _, v := range r.spec.Variables { // B31: the buildspec's give way
		env[v.Name] = v.Value
	}
	for _, more := range []map[string]string{r.req.Variables, r.req.Secrets} {
		for k, v := range more {
			env[k] = v
		}
	}
	names := make([]string, 0, len(env))
	for name := range env {
		names = append(names, name)
	}
	sort.Strings(names)
	var b strings.Builder
	for _, name := range names {
		fmt.Fprintf(&b, "export %s=%s\n", name, quote(env[name]))
	}
	return os.WriteFile(filepath.Join(r.control, "first.sh"), []byte(b.String()), 0o600)
}

// quote makes s one word of a shell.
func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

// script is the file that runs one command. In 0.2 it restores directory and
// environment, runs the command, and saves both (WRAP, B05-B07); the command
// stands on line 4, as it does with CodeBuild, so that a shell's messages name
// the same line. In 0.1 every command starts afresh (B08).
//
// A command that is not complete ("make test &&", "make test \") would take in
// the line after it, and its failure with it. So an empty line follows, and the
// exit status goes through a parameter, which is not there when its line was
// not run, unlike a variable, which the command before has left.
func (r *runner) script(command string) string {
	succeeding := "0"
	if r.succeeding {
		succeeding = "1"
	}
	if r.spec.Version == "0.1" {
		return fmt.Sprintf("cd %s; set -a\n. %s/first.sh; CODEBUILD_BUILD_SUCCEEDING=%s\nset +a\n%s\n", SourceDir, ControlDir, succeeding, command)
	}
	return strings.NewReplacer("@source", SourceDir, "@control", ControlDir, "@state", StateDir, "@succeeding", succeeding, "@command", command).Replace(
		`if [ -e @state/dir.txt ]; then cd "$(cat @state/dir.txt)"; else cd @source; fi
set -a
if [ -e @state/env.sh ]; then . @state/env.sh; else . @control/first.sh; fi; CODEBUILD_BUILD_SUCCEEDING=@succeeding
@command

set -- "$?"
CODEBUILD_LAST_EXIT="${1:?the command before this line is not complete}"
export -p >@state/env.sh
pwd >@state/dir.txt
exit "$CODEBUILD_LAST_EXIT"
`)
}

// command runs one command of the sandbox and returns its exit status.
func (r *runner) command(ctx context.Context, command string, out io.Writer) (int, error) {
	if err := os.WriteFile(filepath.Join(r.control, "script.sh"), []byte(r.script(command)), 0o600); err != nil {
		return 0, err
	}
	return r.session.Run(ctx, r.spec.Shell, ControlDir+"/script.sh", out)
}

// phases runs the phases in order: a failed install or pre_build ends the
// commands, a failed build does not keep post_build from running (B17-B20),
// unless on-failure says otherwise (B25, B26).
func (r *runner) phases(ctx context.Context) error {
	for _, p := range r.spec.Phases {
		before := r.result
		failed, err := r.phase(ctx, p)
		if err != nil {
			return err
		}
		if !failed {
			continue
		}
		if p.OnFailure == "CONTINUE" {
			// B27 is not documented; the files that use it mean "this may fail".
			r.log.Note("on-failure is CONTINUE: the failure of %s does not count", p.Name)
			r.result = before // green, or red by an earlier phase
			continue
		}
		if p.OnFailure == "ABORT" || p.Name == "install" || p.Name == "pre_build" {
			return nil
		}
	}
	return nil
}

// phase runs a phase's commands until one fails, then its finally commands
// (B11, B22, B23).
func (r *runner) phase(ctx context.Context, p buildspec.Phase) (failed bool, err error) {
	r.log.Note("Entering phase %s", strings.ToUpper(p.Name))
	var broken string // message of the first failure
	for _, commands := range [][]string{p.Commands, p.Finally} {
		for _, command := range commands {
			exit, err := r.step(ctx, p.Name, command)
			if err != nil {
				return false, err
			}
			if exit == 0 {
				continue
			}
			r.log.Note("Command did not exit successfully %s exit status %d", short(command), exit)
			reason := fmt.Sprintf("%s: %q exited %d", p.Name, short(command), exit)
			if limit := r.session.Limit(); limit != "" {
				reason += ", limit: " + limit
				r.log.Note("the build ran into its limit: %s", limit)
			}
			r.fail(p.Name, "COMMAND_EXECUTION_ERROR", command, exit, reason)
			if !failed {
				broken = fmt.Sprintf("Error while executing command: %s. Reason: exit status %d", short(command), exit)
			}
			failed = true
			break
		}
	}
	state := "SUCCEEDED"
	if failed {
		state = "FAILED"
	}
	r.log.Note("Phase complete: %s State: %s", strings.ToUpper(p.Name), state)
	if failed {
		r.log.Note("Phase context status code: COMMAND_EXECUTION_ERROR Message: %s", broken)
	}
	return failed, nil
}

func (r *runner) step(ctx context.Context, phase, command string) (int, error) {
	r.log.NoteAbout(buildlog.Command, "Running command %s", short(command))
	r.phaseNow, r.commandNow = phase, command
	n := r.log.Begin(phase, command)
	out := r.log.Output(n)
	want := &wantOfNetwork{out: out}
	exit, err := r.command(ctx, command, want)
	out.Close()
	if errors.Is(err, ErrNoShell) {
		r.log.Note("there is no %s on this machine; install it, or choose another with env.shell", r.spec.Shell)
		exit, err = 127, nil
	}
	if errors.Is(err, ErrEnded) {
		r.log.Note("the sandbox was killed from within, and the command with it")
		exit, err = 128+9, nil
	}
	if err != nil {
		r.log.End(n, -1)
		return 0, err
	}
	r.log.End(n, exit)
	if exit != 0 && want.seen && !r.req.Network {
		r.log.NoteAbout(buildlog.Warning, "this build reaches no network: the line \"build: {network: true}\" in headgate.yaml%s allows it", r.onBranch())
	}
	if exit == 0 && r.result.Status == Succeeded {
		r.result.Phase, r.result.Command = "", ""
	}
	return exit, nil
}

// short names a command in one line.
func short(command string) string {
	line, rest, _ := strings.Cut(strings.TrimSpace(command), "\n")
	if strings.TrimSpace(rest) != "" {
		line += " …"
	}
	if r := []rune(line); len(r) > 200 {
		line = string(r[:200]) + "…"
	}
	return line
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
	exit, err := r.command(ctx, "cat <<"+mark+"\n"+mark+"<"+text+">"+mark+"\n"+mark, out)
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
