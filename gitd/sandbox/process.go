package sandbox

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Process is a process by its number, which may be another's later, and when it
// started, in ticks since the boot. It means something in that boot only.
type Process struct {
	PID   int    `json:"pid"`
	Start string `json:"start"`
}

// Find is the process that has a number now.
func Find(pid int) (Process, error) {
	start, err := startTime(pid)
	return Process{pid, start}, err
}

// open opens a process, if it is there still and not another that has got its
// number; else -1.
func (p Process) open() int {
	if p.PID <= 0 {
		return -1
	}
	pidfd, err := unix.PidfdOpen(p.PID, 0)
	if err != nil {
		return -1
	}
	if start, err := startTime(p.PID); err != nil || start != p.Start {
		unix.Close(pidfd)
		return -1
	}
	return pidfd
}

// Handle is a process that is held: while it is, its number is nobody else's. It
// need not be a child.
type Handle struct {
	pidfd *os.File
	conn  syscall.RawConn
}

// ErrGone is that a process has ended, or that its number is another's.
var ErrGone = errors.New("the process has ended")

// Hold holds a process. The error is ErrGone when it is not there any more.
func (p Process) Hold() (*Handle, error) {
	pidfd := p.open()
	if pidfd < 0 {
		return nil, ErrGone
	}
	// A descriptor that does not block is waited for without a thread.
	if err := unix.SetNonblock(pidfd, true); err != nil {
		unix.Close(pidfd)
		return nil, fmt.Errorf("hold process %d: %w", p.PID, err)
	}
	f := os.NewFile(uintptr(pidfd), fmt.Sprintf("process %d", p.PID))
	conn, err := f.SyscallConn()
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("hold process %d: %w", p.PID, err)
	}
	return &Handle{f, conn}, nil
}

// Wait returns when the process has ended, or the handle is closed, or ended by
// SetDeadline.
func (h *Handle) Wait() error {
	return h.conn.Read(func(fd uintptr) bool { return ended(int(fd)) })
}

// Ended reports whether the process has ended.
func (h *Handle) Ended() (is bool) {
	err := h.conn.Control(func(fd uintptr) { is = ended(int(fd)) })
	return is || err != nil
}

func ended(pidfd int) bool {
	fds := []unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}
	n, err := unix.Poll(fds, 0)
	return err == nil && n > 0
}

// Signal sends a signal; false if the process has ended.
func (h *Handle) Signal(sig unix.Signal) (sent bool) {
	err := h.conn.Control(func(fd uintptr) { sent = unix.PidfdSendSignal(int(fd), sig, nil, 0) == nil })
	return sent && err == nil
}

// Close lets the process go.
func (h *Handle) Close() error { return h.pidfd.Close() }

// startTime is when a process started, in ticks since the boot.
func startTime(pid int) (string, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return "", err
	}
	// "pid (name) state …", where the name may hold anything.
	fields := strings.Fields(string(data)[strings.LastIndexByte(string(data), ')')+1:])
	if len(fields) < 20 {
		return "", fmt.Errorf("/proc/%d/stat holds %d fields", pid, len(fields))
	}
	return fields[19], nil
}

// BootID names this boot of the machine.
func BootID() (string, error) {
	data, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(data)), err
}
