package agent

import (
	"cmp"
	"context"
	"crypto/sha256"
	"debug/elf"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/headgate-cd/headgate/gitd/repo"
)

// Files of an agent's directory, besides what is kept of applications.
const (
	socketName  = "socket"
	stoppedName = "stopped" // somebody has stopped the agent, and wants it to stay so
	settingName = "settings.json"
)

// Descriptors that a worker is handed.
const (
	channelFD = 3 + iota
	socketFD
)

// Supervisor is the process `headgate agent`. It does nothing but what must not be
// interrupted: it holds the lock, the socket and the addresses of services, and sees
// to it that a worker works.
type Supervisor struct {
	Dir       string   // the agent's
	Arguments []string // with which a program becomes a worker
	Program   string   // what SIGHUP has work: a name, at which there may be another by then
	Log       *slog.Logger
	// Trial is how long a program that a server elsewhere has sent may take until that server
	// has heard it; 0: trialTimeout.
	Trial time.Duration

	own    *os.File    // this process's program
	build  string      // of own
	kept   keptProgram // which program is to work
	trial  *trial      // of the program that works; nil: it is known to
	socket *os.File
	ended  sync.WaitGroup // of workers

	mu       sync.Mutex
	listened map[string]*os.File // by address
	claimed  map[string]bool     // asked for by the worker that works
}

// worker is one process that works, or is about to.
type worker struct {
	cmd     *exec.Cmd
	program *os.File
	channel *channel
	began   time.Time
	said    chan message  // what is not answered at once
	ended   chan struct{} // closed when it has
	err     error         // with which it did; valid after ended
}

// Bounds of what a worker may take.
const (
	readyTimeout = time.Minute      // until it is ready to begin
	leaveTimeout = 20 * time.Second // until it has let go
	claimTimeout = time.Minute      // after which an address that nobody asked for again is closed
	steadyAfter  = 20 * time.Second // after which a program is known to work
	trialTimeout = 2 * time.Minute  // within which one that a server has sent must have been heard by it
)

// ErrHeld is that another agent has the directory.
var ErrHeld = errors.New("another agent has the directory")

// Lock takes an agent's directory for this process alone, until the file is closed.
func Lock(dir string) (*os.File, error) {
	if err := repo.MakeDir(dir, 0o700); err != nil {
		return nil, fmt.Errorf("lock the agent's directory: %w", err)
	}
	f, err := repo.Lock(dir)
	var locked *repo.Locked
	if errors.As(err, &locked) {
		return nil, fmt.Errorf("%w %s (process %d)", ErrHeld, dir, locked.Process)
	}
	return f, err
}

// Run supervises until ctx is done, and everything is stopped then, or until somebody
// stops the agent through its socket.
func (s *Supervisor) Run(ctx context.Context) error {
	lock, err := Lock(s.Dir)
	if err != nil {
		return err
	}
	defer lock.Close()
	_ = os.Remove(filepath.Join(s.Dir, stoppedName)) // it is not, any more
	if s.own, err = os.Open("/proc/self/exe"); err != nil {
		return fmt.Errorf("find this program: %w", err)
	}
	defer s.own.Close()
	if s.build, err = DigestOf("/proc/self/exe"); err != nil {
		return err
	}
	if s.kept = readProgram(s.Dir); s.kept.Own != s.build {
		s.kept = keptProgram{}
	}
	if err := s.open(); err != nil {
		return err
	}
	defer s.socket.Close()
	defer os.Remove(filepath.Join(s.Dir, socketName))
	s.listened = map[string]*os.File{}
	defer s.closeAll()
	defer s.ended.Wait()
	working, err := s.first(ctx)
	if err != nil {
		return err
	}
	return s.supervise(ctx, working)
}

// first starts the first worker. One that cannot begin ends the agent: whoever has
// started it is there to read why.
func (s *Supervisor) first(ctx context.Context) (*worker, error) {
	if program := s.openKept(); program != nil {
		w, err := s.ready(ctx, program)
		if err == nil {
			s.begin(w, false)
			return w, nil
		}
		program.Close()
		s.kept.Path = ""
		build, _ := DigestOf(program.Name()) // for people
		s.refuse(build, err)
	}
	w, err := s.ready(ctx, s.own)
	if err != nil {
		return nil, err
	}
	s.begin(w, false)
	return w, nil
}

// ready starts a worker, and waits until it is ready to begin.
func (s *Supervisor) ready(ctx context.Context, program *os.File) (*worker, error) {
	w, err := s.start(program, os.Environ())
	if err != nil {
		return nil, err
	}
	return w, s.untilReady(ctx, w)
}

// open opens the socket on which workers answer.
func (s *Supervisor) open() error {
	_ = os.Remove(filepath.Join(s.Dir, socketName)) // an earlier process's, which has lost the lock
	path, done, err := socketPath(s.Dir)
	if err != nil {
		return fmt.Errorf("open the agent's socket: %w", err)
	}
	defer done()
	mask := syscall.Umask(0o177)
	l, err := net.Listen("unix", path)
	syscall.Umask(mask)
	if err != nil {
		return fmt.Errorf("open the agent's socket: %w", err)
	}
	u := l.(*net.UnixListener)
	u.SetUnlinkOnClose(false)
	defer u.Close()
	s.socket, err = u.File()
	return err
}

// supervise keeps a worker working.
func (s *Supervisor) supervise(ctx context.Context, working *worker) error {
	done, fails, stopping := ctx.Done(), 0, false
	claims := time.NewTimer(claimTimeout)
	defer claims.Stop()
	hangup := make(chan os.Signal, 1)
	signal.Notify(hangup, syscall.SIGHUP)
	defer signal.Stop(hangup)
	var late <-chan time.Time // of the trial
	upgrade := func(m message) {
		before := working.program
		next, err := s.upgrade(ctx, working, m)
		if err != nil {
			s.Log.Error("another program does not work, the one before goes on", "program", m.Program, "err", err)
			_ = working.channel.say(message{Op: opAnswer, ID: m.ID, Error: err.Error()}) // it may be gone
		}
		build, _ := DigestOf(m.Program) // for people
		switch {
		case next == nil && m.Trial:
			s.refuse(build, err)
		case next == nil:
		case m.Trial:
			s.trial = &trial{before, m.Program, build}
			late = time.After(cmp.Or(s.Trial, trialTimeout))
		default:
			s.trial = nil
			s.keepProgram(keptProgram{}) // somebody on this machine has said so
		}
		if next != nil {
			working, fails = next, 0
			claims.Reset(claimTimeout)
		}
	}
	stop := func() {
		done, stopping = nil, true
		s.Log.Info("stopping everything")
		_ = working.channel.say(message{Op: opStop}) // its end is heard
	}
	for {
		select {
		case <-done:
			stop()
		case <-claims.C:
			s.closeUnclaimed()
		case m := <-working.said:
			switch m.Op {
			case opStop:
				if !stopping {
					stop()
				}
			case opUpgrade:
				if !stopping {
					upgrade(m)
				}
			case opReported:
				if s.trial != nil {
					s.passed(s.trial)
					s.trial = nil
				}
			}
		case <-late:
			if late = nil; s.trial == nil || stopping {
				continue
			}
			t := s.trial
			s.trial = nil
			s.refuse(t.build, fmt.Errorf("the server has not heard it within %s", cmp.Or(s.Trial, trialTimeout)))
			next, err := s.replace(ctx, working, t.before, false, nil)
			if err != nil {
				s.Log.Error("the program before does not work either", "err", err)
				continue
			}
			working, fails = next, 0
			claims.Reset(claimTimeout)
		case <-hangup:
			if !stopping && s.Program != "" {
				upgrade(message{Program: s.Program})
			}
		case <-working.ended:
			if stopping && working.err == nil {
				return nil // it has stopped everything
			}
			if stopping {
				return fmt.Errorf("the worker ended before everything was stopped: %w", working.err)
			}
			if fails++; time.Since(working.began) > steadyAfter {
				fails = 1
			}
			program := working.program
			if t := s.trial; t != nil {
				s.trial = nil
				s.refuse(t.build, fmt.Errorf("it ended before the server had heard it: %w",
					cmp.Or(working.err, errors.New("without a word"))))
				program, fails = t.before, 1
			}
			if fails >= 3 && program != s.own {
				s.Log.Error("the program does not work, going back to the one before")
				build, _ := DigestOf(program.Name()) // for people
				s.kept.Path = ""
				s.refuse(build, cmp.Or(working.err, errors.New("it ends again and again")))
				program, fails = s.own, 1
			}
			next, err := s.again(ctx, program, fails, working.err)
			if err != nil {
				return err
			}
			if next == nil {
				continue // ctx is done
			}
			working = next
			claims.Reset(claimTimeout)
		}
	}
}

// again starts a worker after one has ended, until one begins or ctx is done. What
// runs goes on meanwhile, and connections wait.
func (s *Supervisor) again(ctx context.Context, program *os.File, fails int, why error) (*worker, error) {
	for ; ; fails++ {
		pause := time.Duration(min(fails-1, 10)) * 500 * time.Millisecond
		s.Log.Error("the worker ended, starting another", "err", why, "in", pause)
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("no worker works that could stop what runs: %w", why)
		case <-time.After(pause):
		}
		// One that was to be killed somewhere was killed there.
		env := slices.DeleteFunc(os.Environ(), func(kv string) bool { return strings.HasPrefix(kv, "HEADGATE_CRASH_AT=") })
		w, err := s.start(program, env)
		if err == nil {
			err = s.untilReady(ctx, w)
		}
		if err == nil {
			s.begin(w, false)
			return w, nil
		}
		why = err
	}
}

// upgrade has a worker of another program take over. It returns no worker when the
// working one goes on.
func (s *Supervisor) upgrade(ctx context.Context, working *worker, asked message) (*worker, error) {
	program, err := os.Open(asked.Program)
	if err != nil {
		return nil, err
	}
	next, err := s.replace(ctx, working, program, asked.Trial, func() {
		_ = working.channel.say(message{Op: opAnswer, ID: asked.ID}) // it may be gone: then there is nothing to wait for
	})
	if err != nil {
		return nil, errors.Join(err, program.Close())
	}
	s.Log.Info("another program works now", "program", asked.Program)
	return next, nil
}

// replace has a worker of a program take over, once it is ready, of which tell tells.
func (s *Supervisor) replace(ctx context.Context, working *worker, program *os.File, trial bool,
	tell func()) (*worker, error) {
	next, err := s.ready(ctx, program)
	if err != nil {
		return nil, err
	}
	if tell != nil {
		tell()
	}
	_ = working.channel.say(message{Op: opLeave})
	late := time.NewTimer(leaveTimeout)
	defer late.Stop()
	for left := false; !left; {
		select {
		case m := <-working.said:
			left = m.Op == opLeft
		case <-working.ended:
			left = true
		case <-late.C:
			_ = working.cmd.Process.Kill() // its end is heard
		}
	}
	s.begin(next, trial)
	return next, nil
}

// untilReady waits until a worker is ready to begin. One that is not is ended.
func (s *Supervisor) untilReady(ctx context.Context, w *worker) error {
	late := time.NewTimer(readyTimeout)
	defer late.Stop()
	var why error
	for {
		select {
		case m := <-w.said:
			switch m.Op {
			case opReady:
				return nil
			case opFailed:
				why = errors.New(m.Error)
			}
		case <-w.ended:
			select {
			case m := <-w.said: // its last word
				if m.Op == opFailed {
					why = errors.New(m.Error)
				}
			default:
			}
			if why == nil {
				why = fmt.Errorf("it ended before it was ready: %w", cmp.Or(w.err, errors.New("without a word")))
			}
			return why
		case <-late.C:
			why = fmt.Errorf("it was not ready within %s", readyTimeout)
			_ = w.cmd.Process.Kill()
		case <-ctx.Done():
			why = ctx.Err()
			_ = w.cmd.Process.Kill()
		}
	}
}

// begin has a worker take over, on trial or for good.
func (s *Supervisor) begin(w *worker, trial bool) {
	w.began = time.Now()
	s.mu.Lock()
	s.claimed = map[string]bool{}
	s.mu.Unlock()
	_ = w.channel.say(message{Op: opGo, Trial: trial}) // its end is heard
}

// start starts a worker, which waits to be told to begin.
func (s *Supervisor) start(program *os.File, env []string) (*worker, error) {
	line, theirs, err := newChannel()
	if err != nil {
		return nil, err
	}
	defer theirs.Close()
	// By the file that is open, whatever has its name by now.
	path := fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), program.Fd())
	cmd := exec.Command(path, s.Arguments...)
	cmd.Args[0] = "headgate"
	cmd.Env = env
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	cmd.ExtraFiles = []*os.File{theirs, s.socket} // channelFD, socketFD
	// What is typed at a terminal is the supervisor's to hear.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		line.close()
		return nil, fmt.Errorf("start a worker: %w", err)
	}
	w := &worker{
		cmd:     cmd,
		program: program,
		channel: line,
		began:   time.Now(),
		said:    make(chan message, 16),
		ended:   make(chan struct{}),
	}
	s.ended.Go(func() {
		for {
			m, err := line.receive()
			if err != nil {
				break
			}
			switch m.Op {
			case opListen, opClose:
				s.address(w, m)
			default:
				select {
				case w.said <- m:
				default: // nobody says so much
				}
			}
		}
		line.close()
		w.err = cmd.Wait()
		close(w.ended)
	})
	return w, nil
}

// address opens or closes an address for a worker.
func (s *Supervisor) address(w *worker, m message) {
	answer := message{Op: opAnswer, ID: m.ID}
	s.mu.Lock()
	defer s.mu.Unlock()
	if m.Op == opClose {
		if f := s.listened[m.Address]; f != nil {
			f.Close()
			delete(s.listened, m.Address)
		}
	} else {
		f, address, err := s.listen(m.Address)
		if err != nil {
			answer.Error = err.Error()
			_ = errors.As(err, &answer.Errno) // else it is told in words alone
		} else {
			answer.file, answer.Address = f, address
			s.claimed[address] = true
		}
	}
	_ = w.channel.say(answer) // its end is heard
}

// listen opens an address, or finds it open, for one who holds s.mu.
func (s *Supervisor) listen(address string) (*os.File, string, error) {
	if f := s.listened[address]; f != nil {
		return f, address, nil
	}
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, "", err
	}
	defer l.Close() // the file goes on listening
	f, err := l.(*net.TCPListener).File()
	if err != nil {
		return nil, "", err
	}
	address = l.Addr().String()
	s.listened[address] = f
	return f, address, nil
}

// closeUnclaimed closes what the worker that works has not asked for: what was there
// for one that has ended, and is not declared any more.
func (s *Supervisor) closeUnclaimed() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for address, f := range s.listened {
		if !s.claimed[address] {
			f.Close()
			delete(s.listened, address)
		}
	}
}

func (s *Supervisor) closeAll() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, f := range s.listened {
		f.Close()
	}
}

// DigestOf names what a program was built of.
func DigestOf(program string) (string, error) {
	f, err := elf.Open(program)
	if err != nil {
		return "", fmt.Errorf("read the program %s: %w", program, err)
	}
	defer f.Close()
	if note := f.Section(".note.go.buildid"); note != nil {
		data, err := note.Data()
		sum := sha256.Sum256(data)
		return hex.EncodeToString(sum[:8]), err
	}
	return "", fmt.Errorf("%s has no build ID", program)
}
