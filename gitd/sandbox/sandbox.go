// Package sandbox ends sandboxes by what nothing inside can touch: the first
// process of the pid namespace, held by a pidfd, and the cgroup where there is
// one. When the first process of a pid namespace has ended, the kernel has
// ended all others.
//
//   - Init makes that first process one that nobody inside can trace: a shell
//     that may be executed but not read.
//   - Records remembers what runs, so that a server that was killed ends at its
//     next start what it left (EndAll).
//   - Sandbox is one that runs.
//   - Process names a process for a later program of the same boot, and Handle holds
//     one, whoever started it: so instances outlive the program that started them.
//   - WriteProgram and Runnable are for files that are run as soon as they are written.
//
// What a sandbox is made of, and what runs in it, is for its users: hooks/build/host
// and reconciler/target/services.
package sandbox

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/headgate-cd/headgate/gitd/crash"
)

// endTimeout bounds how long the kernel may take to end what was killed.
const endTimeout = 30 * time.Second

// Init are bubblewrap's arguments by which the command of a sandbox becomes its
// first process; the command is the shell at path, a copy of what shellFD reads.
// The kernel lets nobody without privilege trace a process of a program that he
// may not read, nor look into its memory, nor at its descriptors. So nothing
// inside can have the first process forget what it is there for. With WithParent it
// ends with whoever started bubblewrap, too.
func Init(shellFD int, path string) []string {
	return []string{"--as-pid-1", "--perms", "0111", "--ro-bind-data", strconv.Itoa(shellFD), path}
}

// WithParent is bubblewrap's argument by which a sandbox ends with the thread that
// started it.
const WithParent = "--die-with-parent"

// OpenShell opens the shell that Init makes a copy of.
func OpenShell() (*os.File, error) { return os.Open("/bin/sh") }

// Records is the directory in which running sandboxes are recorded, one file each,
// below a directory for each boot of the machine: the numbers of another boot
// mean nothing. An empty Dir keeps no records.
type Records struct{ Dir string }

// record is a file of Records.
type record struct {
	What       string   `json:"what"`
	Mark       string   `json:"mark,omitempty"` // see Sandbox.Mark
	First      Process  `json:"first,omitzero"` // inside; zero: not known yet
	Bubblewrap Process  `json:"bubblewrap,omitzero"`
	Cgroups    []string `json:"cgroups,omitempty"`
}

// Sandbox is one sandbox, from before it is started to its end. Its methods may be
// called at the same time.
type Sandbox struct {
	record record
	path   string // of the record; "" without one

	mu    sync.Mutex
	pidfd int // of the first process; -1 when there is none to wait for
}

// New records a sandbox that is about to be started, in these cgroups. What is for
// people.
func (r Records) New(what string, cgroups ...string) (*Sandbox, error) {
	s := &Sandbox{record: record{What: what, Mark: rand.Text(), Cgroups: cgroups}, pidfd: -1}
	if r.Dir == "" {
		return s, nil
	}
	boot, err := BootID()
	if err != nil {
		return nil, fmt.Errorf("record a sandbox: %w", err)
	}
	dir := filepath.Join(r.Dir, boot)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("record a sandbox: %w", err)
	}
	f, err := os.CreateTemp(dir, "*.json")
	if err != nil {
		return nil, fmt.Errorf("record a sandbox: %w", err)
	}
	s.path = f.Name()
	if err := errors.Join(f.Close(), s.save()); err != nil {
		os.Remove(s.path)
		return nil, fmt.Errorf("record a sandbox: %w", err)
	}
	return s, nil
}

// Mark is to be in bubblewrap's environment, which its command does not inherit. By it
// is found what a bubblewrap leaves behind that is killed while it makes the sandbox:
// its child, which waits for it for ever and has not come to know the command yet.
func (s *Sandbox) Mark() string { return "HEADGATE_SANDBOX=" + s.record.Mark }

// save writes the record. It is not synced: after a loss of power nothing runs
// that it could be about.
func (s *Sandbox) save() error {
	if s.path == "" {
		return nil
	}
	data, err := json.Marshal(s.record)
	if err != nil {
		return err
	}
	half := strings.TrimSuffix(s.path, ".json") + ".half"
	if err := os.WriteFile(half, data, 0o600); err != nil {
		return err
	}
	return os.Rename(half, s.path)
}

// FirstOf reads from bubblewrap's --info-fd which process is the first of the sandbox.
// Without one bubblewrap could not make it, and has said why.
func FirstOf(info io.Reader) (pid int, err error) {
	var told struct {
		PID int `json:"child-pid"`
	}
	if err := json.NewDecoder(io.LimitReader(info, 4096)).Decode(&told); err != nil || told.PID <= 0 {
		return 0, errors.New("bubblewrap names no process of the sandbox")
	}
	return told.PID, nil
}

// Started reads from bubblewrap's --info-fd which process is the first of the
// sandbox. An error means that there is no sandbox: bubblewrap could not make
// it, and has said why, or it could not be held and was killed. Nobody may have
// waited for bubblewrap yet.
func (s *Sandbox) Started(info io.Reader, bubblewrap int) (pid int, err error) {
	pid, err = FirstOf(info)
	if err != nil {
		return 0, err
	}
	pidfd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ENOSYS) {
		_ = unix.Kill(pid, unix.SIGKILL) // bubblewrap has not waited for it: the number is its own
		return 0, errors.New("sandboxes need Linux 5.3 or later")
	} else if err != nil {
		return pid, nil // it has ended
	}
	s.mu.Lock()
	s.pidfd = pidfd
	s.mu.Unlock()
	crash.Point("sandbox.before-record")

	// The time is this process's only if this process is there still.
	s.record.First.PID, s.record.Bubblewrap.PID = pid, bubblewrap
	s.record.First.Start, err = startTime(pid)
	if err == nil {
		s.record.Bubblewrap.Start, err = startTime(bubblewrap)
	}
	if err != nil || !s.Alive() {
		return pid, nil
	}
	if err := s.save(); err != nil {
		return 0, errors.Join(fmt.Errorf("record a sandbox: %w", err), s.Close())
	}
	return pid, nil
}

// Alive reports whether the first process is there.
func (s *Sandbox) Alive() bool { return s.signal(0) }

// Kill kills the first process, and returns at once; false if there is none.
func (s *Sandbox) Kill() bool { return s.signal(unix.SIGKILL) }

func (s *Sandbox) signal(sig unix.Signal) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.pidfd >= 0 && unix.PidfdSendSignal(s.pidfd, sig, nil, 0) == nil
}

// Close ends everything in the sandbox, returns when nothing of it is left, and
// forgets it. When something cannot be ended the record stays, for the next
// start of the server.
func (s *Sandbox) Close() error {
	s.Kill()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.pidfd >= 0 {
		if err := wait(s.pidfd); err != nil {
			return fmt.Errorf("end %s: %w", s.record.What, err)
		}
		unix.Close(s.pidfd)
		s.pidfd = -1
	}
	if s.record.First.PID == 0 && s.record.Mark != "" {
		if _, err := endMarked(s.Mark()); err != nil {
			return fmt.Errorf("end %s: %w", s.record.What, err)
		}
	}
	if err := EndCgroups(s.record.Cgroups); err != nil {
		return fmt.Errorf("end %s: %w", s.record.What, err)
	}
	if s.path != "" {
		if err := os.Remove(s.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("forget %s: %w", s.record.What, err)
		}
	}
	return nil
}

// endMarked ends the processes that have mark in the environment with which they were
// started, and says of how many. They can only be bubblewrap's own: what a command
// made of its environment is not looked for once the first process is known.
func endMarked(mark string) (ended int, err error) {
	for again := true; again; {
		again = false
		dirs, err := filepath.Glob("/proc/[0-9]*")
		if err != nil {
			return ended, err
		}
		for _, dir := range dirs {
			pid, err := strconv.Atoi(filepath.Base(dir))
			if err != nil || pid == os.Getpid() {
				continue
			}
			pidfd, err := unix.PidfdOpen(pid, 0)
			if err != nil {
				continue // it has ended
			}
			environ, _ := os.ReadFile(filepath.Join(dir, "environ")) // of another user's it says nothing
			if !slices.Contains(strings.Split(string(environ), "\x00"), mark) {
				unix.Close(pidfd)
				continue
			}
			_ = unix.PidfdSendSignal(pidfd, unix.SIGKILL, nil, 0) // it has ended
			err = wait(pidfd)
			unix.Close(pidfd)
			if err != nil {
				return ended, err
			}
			ended++
			again = true // it may have made another meanwhile
		}
	}
	return ended, nil
}

// wait waits until a process that was killed has ended. The kernel lets the first
// process of a namespace end last.
func wait(pidfd int) error {
	fds := []unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}
	for deadline := time.Now().Add(endTimeout); ; {
		ready, err := unix.Poll(fds, max(0, int(time.Until(deadline).Milliseconds())))
		switch {
		case err == unix.EINTR:
			continue
		case err != nil:
			return err
		case ready == 0:
			return errors.New("its processes were killed and do not end")
		}
		return nil
	}
}

// EndAll ends what an earlier server recorded and did not live to end, and says of
// how many sandboxes something was left. Only the holder of the data directory's
// lock may call it.
func (r Records) EndAll() (ended int, err error) {
	boot, err := BootID()
	if err != nil {
		return 0, fmt.Errorf("end sandboxes: %w", err)
	}
	files, err := filepath.Glob(filepath.Join(r.Dir, boot, "*.json"))
	if err != nil {
		return 0, fmt.Errorf("end sandboxes: %w", err)
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			return ended, fmt.Errorf("end sandboxes: %w", err)
		}
		if len(data) == 0 {
			continue // made in the moment of the kill, before anything was started
		}
		s := &Sandbox{path: file, pidfd: -1}
		if err := json.Unmarshal(data, &s.record); err != nil {
			return ended, fmt.Errorf("end sandboxes: %s: %w", file, err)
		}
		first, bubblewrap := s.record.First.open(), s.record.Bubblewrap.open()
		marked := 0
		if s.record.First.PID == 0 && s.record.Mark != "" {
			if marked, err = endMarked(s.Mark()); err != nil {
				return ended, fmt.Errorf("end %s: %w", s.record.What, err)
			}
		}
		if first >= 0 || bubblewrap >= 0 || marked > 0 || populated(s.record.Cgroups) {
			ended++
		}
		s.pidfd = first
		if err := s.Close(); err != nil {
			return ended, err
		}
		s.pidfd = bubblewrap // it ends with the first, in a moment
		if err := s.Close(); err != nil {
			return ended, err
		}
	}
	return ended, nil
}
