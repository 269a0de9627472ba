// Package sandboxtest is a program that tries to outlive its sandbox, for the tests
// of all that make some.
package sandboxtest

import (
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/headgate-cd/headgate/gitd/sandbox"
)

// variable makes a test binary hostile: "<role>:<mark>".
const variable = "HEADGATE_TEST_HOSTILE"

// Command is shell text that runs the hostile program at path under a mark, by
// which Left finds it and what it starts.
func Command(path, mark string) string { return variable + "=first:" + mark + " " + path + " " + mark }

// Ready is what the hostile program prints when it has tried everything.
const Ready = "hostile: tried everything"

// TookOver is what it prints when it could have process 1 do as it likes.
const TookOver = "hostile: took process 1 over"

// Main is to be called by TestMain. It returns unless the process was started to
// be hostile.
func Main() {
	role, mark, ok := strings.Cut(os.Getenv(variable), ":")
	if !ok {
		return
	}
	signal.Ignore(unix.SIGTERM, unix.SIGINT, unix.SIGHUP, unix.SIGQUIT, unix.SIGCONT, unix.SIGUSR1)
	switch role {
	case "runaway": // is another process before anybody can look at this one
		time.Sleep(20 * time.Millisecond)
		daemon("runaway", mark)
		os.Exit(0)
	case "first":
		runtime.LockOSThread() // a process is traced by a thread
		report("trace process 1", takeOver(1))
		report("write the memory of process 1", writeMemory(1))
		report("write to process 1", writeTo(1))
		for _, sig := range []syscall.Signal{unix.SIGTERM, unix.SIGSTOP, unix.SIGKILL} {
			_ = syscall.Kill(1, sig)
		}
		daemon("daemon", mark)
		daemon("runaway", mark)
		fmt.Println(Ready)
	}
	for {
		time.Sleep(time.Hour)
	}
}

func report(what string, err error) {
	if err != nil {
		fmt.Printf("hostile: %s: %v\n", what, err)
	} else {
		fmt.Println(TookOver)
	}
}

// daemon starts this program in a session of its own, with another role.
func daemon(role, mark string) {
	self, err := os.Executable()
	if err != nil {
		fmt.Println(err)
		return
	}
	cmd := exec.Command(self, mark)
	cmd.Env = append(os.Environ(), variable+"="+role+":"+mark)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		fmt.Println(err)
	}
}

func writeMemory(pid int) error {
	f, err := os.OpenFile(fmt.Sprintf("/proc/%d/mem", pid), os.O_RDWR, 0)
	if err != nil {
		return err
	}
	return f.Close()
}

func writeTo(pid int) error {
	// Nothing is mapped at 1: who may write is told so, who may not is told that.
	b := byte(0)
	local, remote := unix.Iovec{Base: &b, Len: 1}, unix.RemoteIovec{Base: 1, Len: 1}
	_, err := unix.ProcessVMWritev(pid, []unix.Iovec{local}, []unix.RemoteIovec{remote}, 0)
	if err == unix.EFAULT {
		return nil
	}
	return err
}

func ptrace(request, pid int) error {
	if _, _, errno := unix.RawSyscall6(unix.SYS_PTRACE, uintptr(request), uintptr(pid), 0, 0, 0, 0); errno != 0 {
		return errno
	}
	return nil
}

// Copy puts the test binary into a directory under a name.
func Copy(t testing.TB, dir, name string) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(self)
	if err != nil {
		t.Fatal(err)
	}
	if err := sandbox.WriteProgram(filepath.Join(dir, name), data, 0o755); err != nil {
		t.Fatal(err)
	}
}

// Left are the processes whose command line or environment holds a mark.
func Left(mark string) (left []string) {
	dirs, _ := filepath.Glob("/proc/[0-9]*") // a pattern without fault
	for _, dir := range dirs {
		cmdline, _ := os.ReadFile(dir + "/cmdline") // it may have ended
		environ, _ := os.ReadFile(dir + "/environ")
		if strings.Contains(string(cmdline)+string(environ), mark) {
			left = append(left, fmt.Sprintf("%s %q", filepath.Base(dir), cmdline))
		}
	}
	return left
}
