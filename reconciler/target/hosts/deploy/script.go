package deploy

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/headgate-cd/headgate/reconciler/target/hosts/appspec"
)

// identityVariable is the variable by which processes of a script are found, also when a
// process that knew them was killed.
const identityVariable = "HEADGATE_SCRIPT"

// searchPath is what scripts get as PATH, whatever the agent has.
const searchPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// run is one run of one script.
type run struct {
	archive  string
	event    appspec.Event
	script   appspec.Script
	env      []string // besides those of the user
	identity string
	log      *scriptLog
	grace    time.Duration
}

// failed is the Failure of the script.
func (r *run) failed(code Code, output, fix, format string, args ...any) *Failure {
	what := "script " + r.script.Location
	if r.script.RunAs != "" {
		what += " run as user " + r.script.RunAs
	}
	return &Failure{
		Event:  r.event,
		Script: r.script.Location,
		Code:   code,
		What:   what + " " + fmt.Sprintf(format, args...),
		Fix:    fix,
		Output: output,
	}
}

// do runs the script to its end, or ends it. The process group and all that came of it
// is ended when the script fails; what a good script leaves running goes on.
func (r *run) do(ctx context.Context) *Failure {
	r.log.script(r.event, r.script.Location)
	name, failure := r.find()
	if failure != nil {
		return failure
	}
	cmd, err := r.command(name)
	if err != nil {
		return r.failed(CodeUnknown, "", "", "cannot be run: %v", err)
	}
	timeout := time.NewTimer(r.script.Timeout)
	defer timeout.Stop()
	p, err := r.start(cmd)
	if err != nil {
		return r.cannotStart(name, err)
	}
	defer p.close()
	select {
	case err := <-p.exited:
		return r.exited(ctx, p, timeout.C, err)
	case <-timeout.C:
		tail := r.end(p)
		return r.failed(CodeTimeout, tail, "give it a longer timeout:, or find out what it waits for",
			"was still running after its timeout of %s", r.script.Timeout)
	case <-ctx.Done():
		tail := r.end(p)
		return r.failed(CodeUnknown, tail, "", "was ended: %v", context.Cause(ctx))
	}
}

// exited waits for the outputs of a script that has ended, which something that it
// started may hold open.
func (r *run) exited(ctx context.Context, p *process, timeout <-chan time.Time, err error) *Failure {
	if err != nil {
		tail := r.end(p)
		var exit *exec.ExitError
		if !errors.As(err, &exit) {
			return r.failed(CodeUnknown, tail, "", "could not be waited for: %v", err)
		}
		if status, ok := exit.Sys().(syscall.WaitStatus); ok && status.Signaled() {
			return r.failed(CodeFailed, tail, "", "was killed by signal %d (%v)", int(status.Signal()), status.Signal())
		}
		return r.failed(CodeFailed, tail, "", "failed with exit code %d", exit.ExitCode())
	}
	told := time.NewTimer(r.grace)
	defer told.Stop()
	for {
		select {
		case <-p.drained:
			p.flush(r)
			return nil
		case <-told.C:
			r.log.warn(
				r.event, "the script has ended, but something that it started holds its output open; redirect that: command >/dev/null 2>&1 </dev/null &")
		case <-timeout:
			tail := r.end(p)
			return r.failed(CodeOutputsOpen, tail, "redirect what it leaves running: command >/dev/null 2>&1 </dev/null &",
				"ended, but left its output open for longer than its timeout of %s", r.script.Timeout)
		case <-ctx.Done():
			tail := r.end(p)
			return r.failed(CodeUnknown, tail, "", "was ended: %v", context.Cause(ctx))
		}
	}
}

// find is the script's file, which may be run then.
func (r *run) find() (string, *Failure) {
	root, err := filepath.EvalSymlinks(r.archive)
	if err != nil {
		return "", r.failed(CodeMissing, "",
			"the revision it belongs to is gone; deploy with --ignore-application-stop-failures", "does not exist: its revision is not there any more")
	}
	name, err := filepath.EvalSymlinks(filepath.Join(root, filepath.FromSlash(r.script.Location)))
	if err != nil {
		return "", r.failed(CodeMissing, "", "add it to the revision, or correct the location",
			"does not exist at the specified location")
	}
	if !strings.HasPrefix(name, root+"/") {
		return "", r.failed(CodeMissing, "", "put it into the revision itself", "is a link that leads out of the revision")
	}
	info, err := os.Stat(name)
	if err != nil || !info.Mode().IsRegular() {
		return "", r.failed(CodeMissing, "", "", "is not a file")
	}
	if info.Mode()&0o111 == 0 {
		r.log.warn(r.event, r.script.Location+" is not executable; making it so")
		if err := os.Chmod(name, info.Mode().Perm()|0o111); err != nil {
			return "", r.failed(CodeExecutable, "", "chmod +x it in the repository", "cannot be made executable: %v", err)
		}
	}
	return name, nil
}

// cannotStart explains why the kernel did not take a script.
func (r *run) cannotStart(name string, err error) *Failure {
	fix := ""
	f, openErr := os.Open(name)
	if openErr == nil {
		defer f.Close()
		first := make([]byte, 256)
		n, _ := io.ReadFull(f, first)
		if line, _, _ := bytes.Cut(first[:n], []byte("\n")); bytes.HasPrefix(line, []byte("#!")) {
			interpreter := strings.TrimSpace(strings.TrimPrefix(string(line), "#!"))
			fix = fmt.Sprintf("install %s on this host, or correct the first line", interpreter)
			if bytes.HasSuffix(line, []byte("\r")) {
				fix = "save it with Unix line endings: its first line ends with a carriage return"
			}
		}
	}
	return r.failed(CodeFailed, "", fix, "cannot be started: %v", err)
}

// command is what runs the script as the user it is for. Root becomes a user itself;
// others need sudo.
func (r *run) command(name string) (*exec.Cmd, error) {
	self, err := user.Current()
	if err != nil {
		return nil, err
	}
	as := self
	if r.script.RunAs != "" {
		if as, err = user.Lookup(r.script.RunAs); err != nil {
			return nil, fmt.Errorf("there is no user %q on this host", r.script.RunAs)
		}
	}
	argv := []string{name}
	var credential *syscall.Credential
	switch {
	case os.Getuid() == 0 && as.Uid != self.Uid:
		if credential, err = credentialOf(as); err != nil {
			return nil, err
		}
	case os.Getuid() == 0:
	case r.script.Sudo && r.script.RunAs != "":
		argv = []string{"sudo", "-n", "su", r.script.RunAs, "-c", quote(name)}
	case r.script.Sudo:
		argv = []string{"sudo", "-n", name}
	case as.Uid != self.Uid:
		return nil, fmt.Errorf("only root can run it as %q, or a user who may use sudo: write sudo: true", r.script.RunAs)
	}
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Dir = r.archive
	cmd.Env = append([]string{
		"PATH=" + searchPath,
		"HOME=" + cmp.Or(as.HomeDir, "/"),
		"USER=" + as.Username,
		"LOGNAME=" + as.Username,
		"SHELL=/bin/sh",
		"LANG=C.UTF-8",
	}, r.env...)
	cmd.Env = append(cmd.Env, identityVariable+"="+r.identity)
	// A process group of its own can be ended whole.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Credential: credential}
	return cmd, nil
}

func credentialOf(u *user.User) (*syscall.Credential, error) {
	number := func(s string) uint32 {
		n, _ := strconv.ParseUint(s, 10, 32) // which package user has read from a number
		return uint32(n)
	}
	c := &syscall.Credential{Uid: number(u.Uid), Gid: number(u.Gid)}
	groups, err := u.GroupIds()
	if err != nil {
		return nil, err
	}
	for _, g := range groups {
		c.Groups = append(c.Groups, number(g))
	}
	return c, nil
}

// quote makes one word of a shell of a path.
func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

// process is a script that runs.
type process struct {
	pid     int
	exited  chan error    // how it ended
	drained chan struct{} // closed when nobody holds its outputs any more
	outputs [2]*os.File
	streams [2]*capture
	shared  *captured
	flushed sync.Once
}

// start starts the script without standard input. A file that the kernel takes for no
// program, having no first line that says what reads it, is the shell's.
func (r *run) start(cmd *exec.Cmd) (*process, error) {
	p := &process{exited: make(chan error, 1), drained: make(chan struct{}), shared: &captured{}}
	var inputs [2]*os.File
	for i, stream := range []string{"stdout", "stderr"} {
		from, to, err := os.Pipe()
		if err != nil {
			return nil, err
		}
		p.outputs[i], inputs[i] = from, to
		p.streams[i] = &capture{log: r.log, event: r.event, script: r.script.Location, stream: stream, shared: p.shared}
	}
	defer inputs[0].Close()
	defer inputs[1].Close()
	cmd.Stdout, cmd.Stderr = inputs[0], inputs[1]
	err := cmd.Start()
	if errors.Is(err, syscall.ENOEXEC) {
		shell := exec.Command("/bin/sh", cmd.Args...)
		shell.Dir, shell.Env, shell.SysProcAttr, shell.Stdout, shell.Stderr = cmd.Dir, cmd.Env, cmd.SysProcAttr, cmd.Stdout, cmd.Stderr
		cmd, err = shell, shell.Start()
	}
	if err != nil {
		p.close()
		return nil, err
	}
	p.pid = cmd.Process.Pid
	var reading sync.WaitGroup
	for i := range p.outputs {
		reading.Go(func() { _, _ = io.Copy(p.streams[i], p.outputs[i]) })
	}
	go func() { // ends with the outputs, which close closes
		reading.Wait()
		close(p.drained)
	}()
	go func() { p.exited <- cmd.Wait() }() // ends with the script, which end ends
	return p, nil
}

func (p *process) close() {
	for _, o := range p.outputs {
		if o != nil {
			o.Close()
		}
	}
}

// flush tells what has no newline, and how much was dropped.
func (p *process) flush(r *run) (tail string) {
	p.flushed.Do(func() {
		for _, s := range p.streams {
			s.end()
		}
		if _, dropped := p.shared.end(); dropped > 0 {
			r.log.warn(r.event, fmt.Sprintf("%s printed more than %d MiB; %d lines were dropped", r.script.Location,
				maxScriptLog>>20, dropped))
		}
	})
	tail, _ = p.shared.end()
	return tail
}

// end ends what the script has started, the script itself included: SIGTERM to the
// process group, SIGKILL to all that is left after the grace.
func (r *run) end(p *process) (tail string) {
	_ = syscall.Kill(-p.pid, syscall.SIGTERM)
	grace := time.NewTimer(r.grace)
	defer grace.Stop()
	select {
	case <-p.drained: // all are gone, or have let go
	case <-grace.C:
	}
	_ = syscall.Kill(-p.pid, syscall.SIGKILL)
	endMarked(r.identity)
	p.close() // somebody else's process may hold the other end for ever
	<-p.drained
	return p.flush(r)
}

// endMarked kills the processes whose identity is, or begins with, this one, and waits
// until they are gone.
func endMarked(identity string) (ended int) {
	for range 100 { // one that forks while it is looked for is found the next time
		pids := marked(identity)
		if len(pids) == 0 {
			return ended
		}
		ended += len(pids)
		for _, pid := range pids {
			killAndWait(pid, identity)
		}
	}
	return ended
}

// marked finds processes by what their environment says of where they come from.
func marked(identity string) (pids []int) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	for _, e := range entries {
		if pid, err := strconv.Atoi(e.Name()); err == nil && pid != os.Getpid() && isMarked(pid, identity) {
			pids = append(pids, pid)
		}
	}
	return pids
}

func isMarked(pid int, identity string) bool {
	env, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid)) // empty for a zombie
	if err != nil {
		return false
	}
	return slices.ContainsFunc(strings.Split(string(env), "\x00"), func(v string) bool {
		value, ok := strings.CutPrefix(v, identityVariable+"=")
		return ok && (value == identity || strings.HasPrefix(value, identity+"/"))
	})
}

// unreachable is the first directory on the way to a file that a user may not enter; ""
// when there is none.
func unreachable(name string, u *user.User) string {
	c, err := credentialOf(u)
	if err != nil {
		return ""
	}
	var way []string
	for dir := filepath.Dir(name); ; dir = filepath.Dir(dir) {
		way = append(way, dir)
		if dir == "/" {
			break
		}
	}
	for _, dir := range slices.Backward(way) {
		info, err := os.Stat(dir)
		if err != nil {
			return dir
		}
		st := info.Sys().(*syscall.Stat_t)
		bit := uint32(0o001)
		switch {
		case st.Uid == c.Uid:
			bit = 0o100
		case st.Gid == c.Gid || slices.Contains(c.Groups, st.Gid):
			bit = 0o010
		}
		if st.Mode&bit == 0 {
			return dir
		}
	}
	return ""
}

// prepared reports whether a script could be run, as far as that can be known before.
func prepared(archive string, event appspec.Event, s appspec.Script) (problems []problem) {
	r := &run{archive: archive, event: event, script: s}
	root, err := filepath.EvalSymlinks(archive)
	if err != nil {
		return []problem{{Failure{What: err.Error()}, false}}
	}
	name, err := filepath.EvalSymlinks(filepath.Join(root, filepath.FromSlash(s.Location)))
	var info fs.FileInfo
	if err == nil {
		info, err = os.Stat(name)
	}
	var f *Failure
	switch {
	case errors.Is(err, fs.ErrNotExist):
		f = r.failed(CodeMissing, "", "add it to the revision's artifact, or correct the location",
			"does not exist at the specified location")
	case err != nil:
		f = r.failed(CodeMissing, "", "", "cannot be read: %v", err)
	case !strings.HasPrefix(name, root+"/"):
		f = r.failed(CodeMissing, "", "put it into the revision itself", "is a link that leads out of the revision")
	case !info.Mode().IsRegular():
		f = r.failed(CodeMissing, "", "name a file", "is not a file")
	}
	if f != nil {
		problems = append(problems, problem{*f, false})
	}
	if u, err := user.Lookup(s.RunAs); f == nil && err == nil && os.Getuid() == 0 && u.Uid != "0" {
		if dir := unreachable(name, u); dir != "" {
			problems = append(problems,
				problem{*r.failed(CodeUnknown, "",
					"keep deployments elsewhere (--root, or --deploy-root of a server), or chmod o+x "+dir,
					"cannot be run: that user may not enter %s", dir), false})
		}
	}
	if s.RunAs != "" {
		if _, err := (account{what: "user", name: s.RunAs}).lookup(); err != nil {
			problems = append(problems,
				problem{*r.failed(CodeUnknown, "", "make the user, or correct runas:", "cannot be run: %v", err), true})
		} else if u, err := user.Lookup(s.RunAs); err == nil && os.Getuid() != 0 && u.Uid != strconv.Itoa(
			os.Getuid()) && !s.Sudo {
			problems = append(problems, problem{*r.failed(CodeUnknown, "", "deploy as root, or write sudo: true",
				"cannot be run: only root can run scripts as another user"), false})
		}
	}
	if s.Sudo && os.Getuid() != 0 {
		if _, err := exec.LookPath("sudo"); err != nil {
			problems = append(problems,
				problem{*r.failed(CodeUnknown, "", "install sudo, or deploy as root",
					"cannot be run: there is no sudo on this host"), false})
		}
	}
	return problems
}
