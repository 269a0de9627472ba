package services

import (
	"context"
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
	"syscall"
	"time"

	"github.com/headgate-cd/headgate/gitd/sandbox"
)

// process is one running command with all that it started.
type process struct {
	cmd     *exec.Cmd
	sandbox *sandbox.Sandbox // nil when it runs in none of its own
	first   int              // the sandbox's first process, which takes all others with it; 0 without one
	log     *logFile         // nil when the output is kept elsewhere
	done    chan struct{}
	outcome string // how it ended, for people; valid after done
	status  int    // exit status; -1 after a signal; valid after done
}

// command is what to run where.
type command struct {
	argv       []string
	env        []string
	release    string // unpacked
	workingDir string
	hostname   string
	output     io.Writer
	in         *process // the process whose sandbox it runs in; nil for one of its own
}

// starter starts processes from a thread of its own. A child asks the kernel to
// kill it when the thread that started it ends, and a thread ends when a
// goroutine that locked it ends; this one lives as long as the target.
type starter struct {
	bwrap   string // path of bubblewrap; empty runs without
	records sandbox.Records
	work    chan func()
}

// run serves start until ctx ends.
func (s *starter) run(ctx context.Context) {
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

var errStopped = errors.New("the server is stopping")

// start starts a command. The process ends with the server in any case.
func (s *starter) start(ctx context.Context, c command) (*process, error) {
	var cmd *exec.Cmd
	var namespaces []*os.File
	switch {
	case c.in != nil && c.in.sandbox != nil:
		var line []string
		var err error
		if namespaces, line, err = c.in.entered(c); err != nil {
			return nil, err
		}
		defer closeAll(namespaces)
		cmd = exec.Command(line[0], line[1:]...)
		cmd.Dir = "/"
	case s.bwrap != "":
		line := sandboxed(s.bwrap, c)
		cmd = exec.Command(line[0], line[1:]...)
		cmd.Dir = "/"
	default:
		dir := filepath.Join(c.release, c.workingDir)
		name := c.argv[0]
		if strings.Contains(name, "/") && !filepath.IsAbs(name) {
			name = filepath.Join(dir, name)
		}
		cmd = exec.Command(name, c.argv[1:]...)
		cmd.Dir = dir
		cmd.Env = c.env
	}
	if cmd.Env == nil {
		// What makes a sandbox runs outside it: variables that an application chose, such
		// as LD_PRELOAD, are set inside.
		cmd.Env = []string{"PATH=/usr/bin:/bin"}
	}
	cmd.Stdout, cmd.Stderr = c.output, c.output
	// A process that handed its output to something that outlives it does not hold us.
	cmd.WaitDelay = 2 * time.Second
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL}
	cmd.ExtraFiles = namespaces
	p := &process{cmd: cmd, done: make(chan struct{})}
	p.log, _ = c.output.(*logFile)
	if s.bwrap == "" || c.in != nil {
		if err := s.do(ctx, cmd.Start); err != nil {
			return nil, err
		}
		go p.wait()
		return p, nil
	}

	info, told, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer info.Close()
	defer told.Close()
	waiting, begin, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer waiting.Close()
	defer begin.Close()
	shell, err := sandbox.OpenShell()
	if err != nil {
		return nil, err
	}
	defer shell.Close()
	if p.sandbox, err = s.records.New("instance " + c.hostname); err != nil {
		return nil, err
	}
	cmd.ExtraFiles = []*os.File{told, shell, waiting} // infoFD, shellFD, startFD
	cmd.Env = append(cmd.Env, p.sandbox.Mark())
	if err := s.do(ctx, cmd.Start); err != nil {
		return nil, errors.Join(err, p.sandbox.Close())
	}

	// A bubblewrap that is killed before it has tied its first process to itself
	// leaves it behind. So whoever may kill waits until that process is known.
	// Without one bubblewrap ends by itself, and has said why.
	told.Close()
	if p.first, err = p.sandbox.Started(info, cmd.Process.Pid); err == nil {
		_, _ = begin.WriteString("\n") // it may have ended
	}
	go p.wait()
	return p, nil
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

func (p *process) wait() {
	defer close(p.done)
	err := p.cmd.Wait()
	var left error
	if p.sandbox != nil {
		// Bubblewrap ends with the command, and does not wait for what the command started.
		left = p.sandbox.Close()
	} else {
		// What it left behind in its session ends with it.
		_ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL)
	}
	state := p.cmd.ProcessState
	if state == nil {
		p.outcome, p.status = err.Error(), -1
		return
	}
	p.status = state.ExitCode()
	ws, _ := state.Sys().(syscall.WaitStatus)
	switch {
	case ws.Signaled():
		p.outcome = "was ended by " + signalName(ws.Signal())
	case p.sandbox != nil && p.status > 128 && p.status < 128+32:
		p.outcome = "was ended by " + signalName(syscall.Signal(p.status-128))
	default:
		p.outcome = "exited " + strconv.Itoa(p.status)
	}
	if p.log != nil {
		if last := p.log.lastLine(); last != "" {
			p.outcome += ": " + last
		}
	}
	if left != nil {
		p.outcome += "; " + left.Error()
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

// pid is the process of the command itself, seen from the machine. In a sandbox
// there are bubblewrap and the sandbox's first process above it.
func (p *process) pid() (int, bool) {
	if p.sandbox == nil {
		return p.cmd.Process.Pid, true
	}
	if p.first == 0 {
		return 0, false
	}
	return child(p.first)
}

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

// group is the process group of the command, when it has one of its own. In a
// sandbox its leader is the sandbox's first process, which the kernel shields
// from signals that it does not handle; before that one has made the group there
// is no command yet to be asked.
func (p *process) group() (int, bool) {
	leader := p.cmd.Process.Pid
	if p.sandbox != nil {
		if _, began := p.pid(); !began {
			return 0, false
		}
		leader = p.first
	}
	group, err := syscall.Getpgid(leader)
	return group, err == nil && group == leader
}

// stop asks the command and its process group to end and, after the grace time,
// ends all of it. It returns when it has ended.
func (p *process) stop(signal syscall.Signal, grace time.Duration) {
	if group, ok := p.group(); ok && grace > 0 {
		if err := syscall.Kill(-group, signal); err == nil {
			timer := time.NewTimer(grace)
			defer timer.Stop()
			select {
			case <-p.done:
				return
			case <-timer.C:
			}
		}
	}
	p.kill()
	<-p.done
}

// kill ends all of it at once.
func (p *process) kill() {
	if p.sandbox == nil {
		_ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL) // it may have ended
		return
	}
	// Bubblewrap ends with the sandbox's first process, and says how.
	if !p.sandbox.Kill() {
		_ = p.cmd.Process.Kill() // it has made no sandbox, or that has ended
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

func (f *freePorts) release(port int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.given, port)
}
