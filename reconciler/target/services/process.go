package services

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/headgate-cd/headgate/gitd/engine"
	"github.com/headgate-cd/headgate/gitd/sandbox"
	"github.com/headgate-cd/headgate/gitd/tty"
)

// process is the command of an instance with all that it has started. It outlives
// the program that started it, and another one finds it again: adopt.
type process struct {
	started  started
	first    *sandbox.Handle // takes all others with it; nil: it has ended
	monitor  *sandbox.Handle // notes how it ended; nil: nobody does, or it is this program's child
	child    *exec.Cmd       // what this program has started; nil: another one has
	status   string          // file in which it is noted how it ended
	killed   atomic.Bool
	left     atomic.Bool
	done     chan struct{} // closed when all of it has ended, and not when it is left
	outcome  string        // how it ended, for people; valid after done
	exitCode int           // -1 after a signal, and when nobody knows; valid after done
}

// started is how the process of an instance is found again, in the same boot.
type started struct {
	First    sandbox.Process `json:"first"`            // of its sandbox, or of its session
	Monitor  sandbox.Process `json:"monitor,omitzero"` // bubblewrap
	Confined bool            `json:"confined"`
	Cgroups  []string        `json:"cgroups,omitempty"` // directories, of one with limits

	Container string `json:"container,omitempty"` // its ID, of a container: then there is nothing else
	Name      string `json:"name,omitempty"`      // of the container
}

// command is what to run where.
type command struct {
	argv       []string
	env        []string
	release    string // unpacked
	workingDir string
	hostname   string
	output     string // file that takes what it prints
	position   string // file that takes how far that was read
	status     string // file that takes how it ended
	port       int    // of loopback by which it is reached, 0 for none
	limits     Limits
	cgroup     string // its name, where there are limits

	vars      map[string]string // of the instance, for what is interpolated
	container engine.Spec       // of a container, its name not yet chosen
	image     image             // the same, that it is made of
	mounts    []Mount           // the same
	files     string            // directory that takes the files of mounts
	labels    map[string]string // of what all instances of the application share
	binds     []engine.Bind     // files in memory, which it finds elsewhere
}

// starter starts processes: those of instances, and those of their health checks.
type starter struct {
	bwrap string   // path of bubblewrap; empty runs without
	seal  []string // what has it forbid user namespaces inside; nil: it cannot
	// What is run by run asks the kernel to kill it when the thread that started it
	// ends, and a thread ends when a goroutine that locked it ends: work is done by one
	// that lives as long as the target.
	work chan func()
}

// serve does the work of run until ctx ends.
func (s *starter) serve(ctx context.Context) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	for {
		select {
		case <-ctx.Done():
			return
		case f := <-s.work:
			f()
		}
	}
}

var errStopped = errors.New("the agent is stopping")

// start starts the command of an instance. It begins to run once record has
// returned, and not at all when that fails or this program is killed before: the
// first process waits to be told.
func (s *starter) start(c command, record func(started) error) (_ *process, err error) {
	output, err := os.OpenFile(c.output, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	defer output.Close()
	status, err := os.OpenFile(c.status, os.O_CREATE|os.O_TRUNC|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	defer status.Close()
	waiting, begin, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer waiting.Close()
	defer begin.Close()
	info, told, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer info.Close()
	defer told.Close()
	shell, err := sandbox.OpenShell()
	if err != nil {
		return nil, err
	}
	defer shell.Close()

	line := alone(c)
	dir := filepath.Join(c.release, c.workingDir)
	if s.bwrap != "" {
		line, dir = sandboxed(s.bwrap, s.seal, c), "/"
	}
	cmd := exec.Command(line[0], line[1:]...)
	cmd.Dir = dir
	// What makes a sandbox runs outside it: variables that an application chose, such
	// as LD_PRELOAD, are set inside.
	cmd.Env = []string{"PATH=/usr/bin:/bin"}
	cmd.Stdout, cmd.Stderr = output, output
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	cmd.ExtraFiles = []*os.File{told, shell, waiting, status} // infoFD, shellFD, startFD, statusFD
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	told.Close()
	waiting.Close()

	p := &process{child: cmd, status: c.status, done: make(chan struct{})}
	p.started.Confined = s.bwrap != ""
	pid := cmd.Process.Pid
	if s.bwrap != "" {
		if p.started.Monitor, err = sandbox.Find(pid); err == nil {
			pid, err = sandbox.FirstOf(info)
		}
	}
	// Without a first process bubblewrap ends by itself, and has said why.
	if err == nil {
		p.started.First, err = sandbox.Find(pid)
	}
	if err == nil {
		p.first, err = p.started.First.Hold()
	}
	if err == nil {
		err := p.limit(c)
		if err == nil {
			err = record(p.started)
		}
		if err != nil {
			begin.Close()
			go p.wait()
			p.kill()
			<-p.done
			return nil, errors.Join(err, sandbox.EndCgroups(p.started.Cgroups))
		}
		_, _ = begin.WriteString("\n") // it may have ended
	}
	go p.wait()
	return p, nil
}

// adopt finds the process of an instance that another run of the program has
// started. One that has ended meanwhile is done, and says how.
func adopt(s started, status string) *process {
	p := &process{started: s, status: status, done: make(chan struct{})}
	p.first, _ = s.First.Hold() // without one it has ended
	p.monitor, _ = s.Monitor.Hold()
	go p.wait()
	return p
}

// leave stops waiting for the process, which goes on.
func (p *process) leave() {
	p.left.Store(true)
	if p.first != nil {
		p.first.Close()
	}
	if p.monitor != nil {
		p.monitor.Close()
	}
}

// monitorTimeout is how long it may take from the end of a sandbox until it is
// noted how it ended.
const monitorTimeout = 10 * time.Second

func (p *process) wait() {
	if p.first != nil {
		_ = p.first.Wait() // fails only when the process is left
		if p.left.Load() {
			return
		}
		if !p.started.Confined {
			// What it left behind in its session ends with it.
			_ = syscall.Kill(-p.started.First.PID, syscall.SIGKILL)
		}
	}
	// All of it has ended but what notes how.
	switch {
	case p.child != nil:
		late := time.AfterFunc(monitorTimeout, func() { _ = p.child.Process.Kill() })
		_ = p.child.Wait() // how it ended is read below
		late.Stop()
	case p.monitor != nil:
		late := time.AfterFunc(monitorTimeout, func() { p.monitor.Signal(syscall.SIGKILL) })
		_ = p.monitor.Wait() // fails only when it is left
		late.Stop()
	}
	if p.left.Load() {
		return
	}
	p.outcome, p.exitCode = p.ending()
	for _, h := range []*sandbox.Handle{p.first, p.monitor} {
		if h != nil {
			h.Close()
		}
	}
	close(p.done)
}

// ending is how the process ended.
func (p *process) ending() (outcome string, exitCode int) {
	code, noted := notedStatus(p.status)
	if !noted && p.child != nil && p.child.ProcessState != nil {
		state := p.child.ProcessState
		if ws, _ := state.Sys().(syscall.WaitStatus); ws.Signaled() {
			return "was ended by " + signalName(ws.Signal()), -1
		}
		code, noted = state.ExitCode(), true
	}
	switch {
	case !noted && p.killed.Load():
		return "was ended by SIGKILL", -1
	case !noted:
		return "has ended, and nobody saw how", -1
	}
	return outcomeOf(code), code
}

// outcomeOf puts an exit code into words, for people.
func outcomeOf(code int) string {
	if code > 128 && code < 128+32 { // as a shell says it
		return "was ended by " + signalName(syscall.Signal(code-128))
	}
	return "exited " + strconv.Itoa(code)
}

// notedStatus reads how a process ended from the file in which bubblewrap, or the
// shell around it, has noted that.
func notedStatus(path string) (code int, noted bool) {
	f, err := os.Open(path)
	if err != nil {
		return 0, false
	}
	defer f.Close()
	for notes := json.NewDecoder(io.LimitReader(f, 64<<10)); ; {
		var note struct {
			ExitCode *int `json:"exit-code"`
		}
		if notes.Decode(&note) != nil {
			return code, noted
		}
		if note.ExitCode != nil {
			code, noted = *note.ExitCode, true
		}
	}
}

func signalName(s syscall.Signal) string {
	for name, known := range signals {
		if known == s {
			return name
		}
	}
	return fmt.Sprintf("signal %d (%s)", int(s), s)
}

// pid is the process of the command itself, seen from the machine. Above it is the
// first one.
func (p *process) pid() (int, bool) { return child(p.started.First.PID) }

// child is the first child of a process.
func child(pid int) (int, bool) {
	id := strconv.Itoa(pid)
	if data, err := os.ReadFile("/proc/" + id + "/task/" + id + "/children"); err == nil {
		first, _, _ := strings.Cut(string(data), " ")
		n, err := strconv.Atoi(first)
		return n, err == nil
	}
	// A kernel without that file: look through all of them.
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return 0, false
	}
	for _, stat := range stats {
		data, err := os.ReadFile(stat)
		if err != nil {
			continue
		}
		// "pid (name) state ppid …", where the name may hold anything.
		_, rest, _ := strings.Cut(string(data)[strings.LastIndex(string(data), ")")+1:], " ")
		if fields := strings.Fields(rest); len(fields) > 1 && fields[1] == id {
			n, err := strconv.Atoi(filepath.Base(filepath.Dir(stat)))
			return n, err == nil
		}
	}
	return 0, false
}

// alive reports whether the first process is there, so that its number is its own.
func (p *process) alive() bool { return p.first != nil && !p.first.Ended() }

// group is the process group of the command. Its leader is the first process: in a
// sandbox the kernel shields that one from signals that it does not handle, and
// outside it handles them. Before it has made the group there is no command yet
// to be asked.
func (p *process) group() (int, bool) {
	if _, began := p.pid(); !began || !p.alive() {
		return 0, false
	}
	leader := p.started.First.PID
	group, err := syscall.Getpgid(leader)
	return group, err == nil && group == leader
}

// stop asks the command and its process group to end and, after the grace time,
// ends all of it. It returns when it has ended, or left is closed.
func (p *process) stop(signal syscall.Signal, grace time.Duration, left <-chan struct{}) {
	if group, ok := p.group(); ok && grace > 0 {
		if err := syscall.Kill(-group, signal); err == nil {
			timer := time.NewTimer(grace)
			defer timer.Stop()
			select {
			case <-p.done:
				return
			case <-left:
				return
			case <-timer.C:
			}
		}
	}
	p.kill()
	select {
	case <-p.done:
	case <-left:
	}
}

// kill ends all of it at once.
func (p *process) kill() {
	p.killed.Store(true)
	if p.alive() {
		if !p.started.Confined {
			_ = syscall.Kill(-p.started.First.PID, syscall.SIGKILL) // it may have ended
		}
		p.first.Signal(syscall.SIGKILL)
		return
	}
	if p.child != nil {
		_ = p.child.Process.Kill() // it has made no sandbox, or that has ended
	}
}

// run runs a command to its end where an instance runs, and returns its exit code, or 128
// and the signal that ended it. It ends with ctx, and with this program.
func (s *starter) run(ctx context.Context, c command, in *process, with tty.Streams) (code int, err error) {
	var cmd *exec.Cmd
	if in.started.Confined {
		namespaces, line, err := in.entered(c)
		if err != nil {
			return 0, err
		}
		defer closeAll(namespaces)
		cmd = exec.Command(line[0], line[1:]...)
		cmd.Dir = "/"
		cmd.Env = []string{"PATH=/usr/bin:/bin"}
		cmd.ExtraFiles = namespaces
	} else {
		cmd = exec.Command(programIn(c), c.argv[1:]...)
		cmd.Dir = filepath.Join(c.release, c.workingDir)
		cmd.Env = c.env
	}
	if within := in.started.Cgroups; len(within) > 0 { // what runs beside it is within its limits
		enter := []string{"/bin/sh", "-c", sandbox.EnterCgroup(within) + `exec "$@"`, "sh", cmd.Path}
		cmd.Path, cmd.Args = enter[0], append(enter, cmd.Args[1:]...)
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL}
	// A process that handed its output to something that outlives it does not hold us.
	cmd.WaitDelay = lastOutput
	var screen *pty
	started := func() {}
	switch {
	case with.Terminal != nil:
		if screen, err = openTerminal(*with.Terminal); err != nil {
			return 0, err
		}
		cmd.Stdin, cmd.Stdout, cmd.Stderr = screen.theirs, screen.theirs, screen.theirs
		cmd.SysProcAttr.Setctty = true
		started = func() { screen.carry(with.In, with.Out) }
	case with.In != nil:
		// What is not read would hold us, were the copying the command's.
		typed, err := cmd.StdinPipe()
		if err != nil {
			return 0, err
		}
		started = func() {
			go func() { // ends with what is read
				_, _ = io.Copy(typed, with.In) // the command may have read enough
				typed.Close()
			}()
		}
	}
	if screen == nil {
		cmd.Stdout, cmd.Stderr = with.Out, with.Err
	}
	if err := s.do(ctx, cmd.Start); err != nil {
		if screen != nil {
			screen.theirs.Close()
			screen.finish()
		}
		return 0, err
	}
	started()
	kill := func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // it may have ended
		if screen != nil {
			sandbox.EndSession(cmd.Process.Pid) // with job control it has groups of its own
		}
	}
	late := context.AfterFunc(ctx, kill)
	err = cmd.Wait()
	late()
	kill() // what it left behind
	if screen != nil {
		screen.finish()
	}
	if ctx.Err() != nil {
		return 0, context.Cause(ctx)
	}
	if cmd.ProcessState == nil {
		return 0, err
	}
	if ws, _ := cmd.ProcessState.Sys().(syscall.WaitStatus); ws.Signaled() {
		return 128 + int(ws.Signal()), nil
	}
	return cmd.ProcessState.ExitCode(), nil
}

// do has f run on the starter's thread.
func (s *starter) do(ctx context.Context, f func() error) error {
	done := make(chan error, 1)
	select {
	case s.work <- func() { done <- f() }:
		return <-done
	case <-ctx.Done():
		return errStopped
	}
}

// freePorts are the ports on loopback that instances were told to listen on. Until
// one does, the kernel gives its port to anybody who asks: were that another
// instance, the checks and requests of one would be answered by the other.
type freePorts struct {
	mu    sync.Mutex
	given map[int]bool
}

// take finds a port that nobody listens on, was told to, or holds.
func (f *freePorts) take(held func(port int) bool) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return 0, fmt.Errorf("find a free port: %w", err)
		}
		port := l.Addr().(*net.TCPAddr).Port
		if err := l.Close(); err != nil {
			return 0, fmt.Errorf("find a free port: %w", err)
		}
		if f.given[port] || held != nil && held(port) {
			continue
		}
		if f.given == nil {
			f.given = map[int]bool{}
		}
		f.given[port] = true
		return port, nil
	}
}

// hold has a port be given to nobody else.
func (f *freePorts) hold(port int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.given == nil {
		f.given = map[int]bool{}
	}
	f.given[port] = true
}

func (f *freePorts) release(port int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.given, port)
}
