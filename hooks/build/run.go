package build

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
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
	ErrNoUser  = errors.New("there is no such user")
	ErrEnded   = errors.New("the sandbox has ended")
)

// Run runs one build and returns what it came to. An error is the server's own
// trouble: then there is no result, and nothing may be concluded about the tree.
// The log is written to but not finished.
func Run(ctx context.Context, req Request, ex Executor, log *buildlog.Writer, store *artifact.Store) (Result, error) {
	r := &runner{req: req, log: log, store: store}
	r.begin()
	timeout := req.Timeout
	if timeout <= 0 {
		timeout = DefaultTimeout
	}
	limited, cancel := context.WithTimeoutCause(ctx, timeout, errTimeout)
	defer cancel()
	err := r.run(limited, ex)
	r.result.Finished = time.Now()
	r.mask()
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

// mask takes secrets out of what leaves the build besides its log: names and messages of
// tests, and the reason, which may name a test or a path that a variable is part of. Both
// are kept for longer than the secret.
func (r *runner) mask() {
	r.result.Reason = r.log.Masked(r.result.Reason)
	for _, rep := range r.result.Reports {
		for i := range rep.Cases {
			c := &rep.Cases[i]
			c.Suite, c.Name, c.Message = r.log.Masked(c.Suite), r.log.Masked(c.Name), r.log.Masked(c.Message)
		}
	}
}

var errTimeout = errors.New("timed out")

// errLeft is in the error of a sandbox that could not be ended: however the build
// ended, something of it is left.
var errLeft = errors.New("end the sandbox")

type runner struct {
	req     Request
	spec    *buildspec.Spec
	file    string // the buildspec's path
	log     *buildlog.Writer
	store   *artifact.Store
	session Session
	control string // what ControlDir begins with

	succeeding bool                // CODEBUILD_BUILD_SUCCEEDING (B21)
	phaseNow   string              // what a timeout will have ended
	commandNow string              //
	retry      buildspec.OnFailure // that a failed phase asks for; zero: none
	cacheFiles []string            // names of archives; see cachepaths.go
	cacheKey   string
	cacheHit   bool // what is kept for the key was restored
	result     Result
}

// begin is how a build begins, and begins again.
func (r *runner) begin() {
	started := r.result.Started
	if started.IsZero() {
		started = time.Now()
	}
	r.result = Result{Status: Succeeded, Started: started}
	r.succeeding, r.retry = true, buildspec.OnFailure{}
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

// refuse ends a build before its first command, by what is wrong with its file.
func (r *runner) refuse(ps yamlfile.Problems) {
	for _, p := range ps {
		r.log.Note("%s", p.Error())
	}
	r.log.Note("Phase complete: DOWNLOAD_SOURCE State: FAILED")
	r.log.Note("Phase context status code: YAML_FILE_ERROR Message: %s", ps[0].What)
	r.fail("download_source", "YAML_FILE_ERROR", "", 0, ps[0].Error())
}

func (r *runner) run(ctx context.Context, ex Executor) error {
	r.file = cmp.Or(r.req.Buildspec, buildspec.Default)
	spec, warnings, err := Read(r.req.Source, r.file)
	for _, w := range warnings {
		r.log.NoteAbout(buildlog.Warning, "warning: %s", w.Error())
	}
	var secrets map[string]string
	if err == nil {
		r.spec = spec
		secrets, err = r.secrets(ctx)
	}
	if ps, ok := yamlfile.ProblemsIn(err); ok {
		r.refuse(ps)
		return nil
	}
	if err != nil {
		return err
	}
	if r.req.Task == nil {
		for _, notice := range r.req.Notices {
			r.log.Note("%s", notice)
		}
		if spec.Batch != nil {
			return r.batch(ctx, ex)
		}
	}

	retries := slices.ContainsFunc(spec.Phases, func(p buildspec.Phase) bool { return p.OnFailure.Do == buildspec.Retry })
	if retries {
		if err := r.keepSource(ctx); err != nil {
			return err
		}
	}
	for attempt := 0; ; attempt++ {
		if err := r.attempt(ctx, ex, secrets); err != nil {
			return err
		}
		if r.result.Status == Succeeded || attempt >= r.retry.Times {
			return nil
		}
		r.log.Note("on-failure is RETRY: the build begins again, try %d of %d", attempt+2, r.retry.Times+1)
		if err := r.restoreSource(ctx); err != nil {
			return err
		}
		r.begin()
	}
}

// attempt runs the build once, in a sandbox of its own.
func (r *runner) attempt(ctx context.Context, ex Executor, secrets map[string]string) error {
	s := Sandbox{
		ID:       r.req.ID,
		Image:    r.req.Image,
		Services: r.req.Services,
		Logins:   r.req.Logins,
		Source:   r.req.Source,
		Control:  filepath.Join(r.req.Work, "control"),
		Home:     filepath.Join(r.req.Work, "home"),
		Temp:     filepath.Join(r.req.Work, "temp"),
		System:   filepath.Join(r.req.Work, "system"),
		Objects:  r.req.Objects,
		Cache:    r.req.Cache,
		Network:  r.req.Network,
		Limits:   r.req.Limits,
	}
	if s.Cache.Upper == "" {
		s.Cache.Upper = filepath.Join(r.req.Work, "cache")
	}
	// Other users inside than root read the source and the scripts. Nobody else
	// on this machine does: the directory around them is closed.
	for dir, mode := range map[string]os.FileMode{s.System: 0o755, s.Source: 0o755, s.Control: 0o755, s.Home: 0o700,
		s.Temp: 0o777 | os.ModeSticky, s.Cache.Upper: 0o755} {
		if err := errors.Join(os.MkdirAll(dir, 0o700), os.Chmod(dir, mode)); err != nil {
			return err
		}
	}
	r.control = s.Control
	if err := errors.Join(r.saveTools(), r.saveEnvironment(secrets)); err != nil {
		return err
	}
	var err error
	if r.session, err = ex.Start(ctx, s); err != nil {
		return err
	}
	for _, note := range r.session.Notes() {
		r.log.Note("%s", note)
	}
	if err = r.await(ctx); err == nil && r.result.Status == Succeeded {
		err = r.inside(ctx)
		r.fallen(ctx)
	}
	if err == nil && r.result.Status == Failed && r.req.Failed != nil {
		err = r.req.Failed(ctx, r.session)
	}
	if left := r.session.Close(); left != nil {
		err = errors.Join(err, fmt.Errorf("%w: %w", errLeft, left))
	}
	return err
}

// inside is all that happens in the sandbox.
func (r *runner) inside(ctx context.Context) error {
	for _, do := range []func(context.Context) error{r.restore, r.phases, r.export, r.reports, r.upload,
		r.images, r.save} {
		if err := do(ctx); err != nil {
			return err
		}
	}
	return nil
}

// keepSource keeps the source as it is, for a build that may begin again.
func (r *runner) keepSource(ctx context.Context) error {
	if err := os.MkdirAll(r.req.Work, 0o700); err != nil {
		return err
	}
	return copyAll(ctx, r.req.Source, filepath.Join(r.req.Work, "kept"))
}

// restoreSource gives a build that begins again a source, a home and a /tmp as at
// first.
func (r *runner) restoreSource(ctx context.Context) error {
	for _, dir := range []string{"home", "temp", "system"} {
		RemoveAll(filepath.Join(r.req.Work, dir))
	}
	RemoveAll(r.req.Source)
	return copyAll(ctx, filepath.Join(r.req.Work, "kept"), r.req.Source)
}

// copyAll copies a directory with links, modes and times; where the file system can
// share blocks, without copying them.
func copyAll(ctx context.Context, from, to string) error {
	if out, err := exec.CommandContext(ctx, "cp", "-a", "--", from, to).CombinedOutput(); err != nil {
		return fmt.Errorf("copy %s: %w: %s", filepath.Base(from), err, bytes.TrimSpace(out))
	}
	return nil
}

// Read finds and parses a buildspec below source. It goes through os.Root: a buildspec that
// is a symbolic link to somewhere else on the server is not there.
func Read(source, name string) (*buildspec.Spec, yamlfile.Problems, error) {
	missing := yamlfile.Problems{{File: name, What: "YAML file does not exist",
		Fix: "add it, or name another one with build: {buildspec: …} in headgate.yaml"}}
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

// phases runs the phases in order: a failed install or pre_build ends the
// commands, a failed build does not keep post_build from running (B17-B20),
// unless on-failure says otherwise (B25, B26, B28).
func (r *runner) phases(ctx context.Context) error {
	if err := r.runtimes(ctx); err != nil {
		return err
	}
	for _, p := range r.spec.Phases {
		before := r.result
		message, err := r.phase(ctx, p)
		if err != nil {
			return err
		}
		if message == "" {
			continue
		}
		switch do := p.OnFailure; {
		case do.Do == buildspec.Continue:
			// B27 is not documented; the files that use it mean "this may fail".
			r.log.Note("on-failure is CONTINUE: the failure of %s does not count", p.Name)
			r.result = before // green, or red by an earlier phase
		case do.Do == buildspec.Retry && do.Match.MatchString(message):
			r.retry = do
			return nil
		case do.Do == buildspec.Retry:
			r.log.Note("on-failure is RETRY, of failures that match %q, which this one does not", do.Match)
			return nil
		case do.Do == buildspec.Abort || p.Name == "install" || p.Name == "pre_build":
			return nil
		}
	}
	return nil
}

// phase runs a phase's commands until one fails, then its finally commands
// (B11, B22, B23). It returns the message of the first failure.
func (r *runner) phase(ctx context.Context, p buildspec.Phase) (message string, err error) {
	r.log.Note("Entering phase %s", strings.ToUpper(p.Name))
	for _, commands := range [][]string{p.Commands, p.Finally} {
		for _, command := range commands {
			exit, err := r.step(ctx, p, command)
			if err != nil {
				return "", err
			}
			if exit == 0 {
				continue
			}
			said := r.log.Lines() // the last line of the command itself: a push leads there too
			r.log.Note("Command did not exit successfully %s exit status %d", short(command), exit)
			reason := fmt.Sprintf("%s: %q exited %d", p.Name, short(command), exit)
			if limit := r.session.Limit(); limit != "" {
				reason += ", limit: " + limit
				r.log.Note("the build ran into its limit: %s", limit)
			}
			first := r.result.Status == Succeeded
			if r.fail(p.Name, "COMMAND_EXECUTION_ERROR", command, exit, reason); first {
				r.result.LogLine = said
			}
			if message == "" {
				message = fmt.Sprintf("Error while executing command: %s. Reason: exit status %d", short(command), exit)
			}
			break
		}
	}
	if message == "" {
		r.log.Note("Phase complete: %s State: SUCCEEDED", strings.ToUpper(p.Name))
		return "", nil
	}
	r.log.Note("Phase complete: %s State: FAILED", strings.ToUpper(p.Name))
	r.log.Note("Phase context status code: COMMAND_EXECUTION_ERROR Message: %s", message)
	return message, nil
}

func (r *runner) step(ctx context.Context, p buildspec.Phase, command string) (int, error) {
	r.log.NoteAbout(buildlog.Command, "Running command %s", short(command))
	r.phaseNow, r.commandNow = p.Name, command
	n := r.log.Begin(p.Name, command)
	out := r.log.Output(n)
	said := &symptoms{out: out}
	user := cmp.Or(p.RunAs, r.spec.RunAs)
	exit, err := r.command(ctx, command, user, said)
	out.Close()
	switch {
	case errors.Is(err, ErrNoShell):
		where, do := "on this machine", "install it"
		if r.req.Image != "" {
			where, do = "in the image", "name another image"
		}
		r.log.Note("there is no %s %s; %s, or choose another with env.shell", r.spec.Shell, where, do)
		exit, err = 127, nil
	case errors.Is(err, ErrNoUser):
		r.log.Note(
			"run-as: commands cannot run as %s here: there is no such user, or a build on this machine has one user alone", user)
		exit, err = 126, nil
	case errors.Is(err, ErrEnded):
		if r.session.Limit() == "" { // which is told below
			r.log.Note("the sandbox was killed from within, and the command with it")
		}
		exit, err = 128+9, nil
	}
	if err != nil {
		r.log.End(n, -1)
		return 0, err
	}
	r.log.End(n, exit)
	if exit != 0 {
		r.explain(said, command, exit)
	}
	if exit == 0 && r.result.Status == Succeeded {
		r.result.Phase, r.result.Command = "", ""
	}
	return exit, nil
}

// short names a command in one line: the first that says something.
func short(command string) string {
	lines := strings.Split(strings.TrimSpace(command), "\n")
	at := 0
	for at < len(lines)-1 && (strings.TrimSpace(lines[at]) == "" || strings.HasPrefix(strings.TrimSpace(lines[at]), "#")) {
		at++
	}
	line := strings.TrimSpace(lines[at])
	if strings.TrimSpace(strings.Join(lines[at+1:], "")) != "" {
		line += " …"
	}
	if r := []rune(line); len(r) > 200 {
		line = string(r[:200]) + "…"
	}
	return line
}

// export tells the values of exported variables (B37).
func (r *runner) export(ctx context.Context) error {
	for _, name := range r.spec.Exported {
		value, err := r.expand(ctx, "$"+name)
		var unset *clientError
		if errors.As(err, &unset) {
			continue
		}
		if err != nil {
			return err
		}
		if r.result.Exported == nil {
			r.result.Exported = map[string]string{}
		}
		r.result.Exported[name] = value
		r.log.Note("exported variable %s=%s", name, value)
	}
	return nil
}
