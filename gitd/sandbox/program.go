package sandbox

import (
	"errors"
	"io/fs"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// stillWritten bounds the wait for a program that stays open for writing.
const stillWritten = 10 * time.Second

// Runnable waits until a program that this process wrote and closed a moment ago can be
// run. A process that was being started meanwhile has what was open then, until it is past
// its own exec, and to run what somebody has open for writing fails: "text file busy". f is
// open for reading. Where it cannot be told whether somebody has, nothing is waited for.
func Runnable(f *os.File) {
	for late := time.Now().Add(stillWritten); ; time.Sleep(time.Millisecond) {
		if !written(f) || time.Now().After(late) {
			return
		}
	}
}

// written reports whether somebody has a file open for writing. A lease for reading is
// given only for what nobody has (fcntl(2), F_SETLEASE).
func written(f *os.File) bool {
	raw, err := f.SyscallConn()
	if err != nil {
		return false
	}
	var lease error
	err = raw.Control(func(fd uintptr) {
		if _, lease = unix.FcntlInt(fd, unix.F_SETLEASE, unix.F_RDLCK); lease == nil {
			_, lease = unix.FcntlInt(fd, unix.F_SETLEASE, unix.F_UNLCK)
		}
	})
	return err == nil && errors.Is(lease, syscall.EAGAIN)
}

// RunnableIn is Runnable for a name in a directory. What may not be read is not waited for.
func RunnableIn(root *os.Root, name string) {
	if f, err := root.Open(name); err == nil {
		Runnable(f)
		f.Close()
	}
}

// WriteProgram is os.WriteFile for what is to be run.
func WriteProgram(path string, data []byte, mode fs.FileMode) error {
	if err := os.WriteFile(path, data, mode); err != nil {
		return err
	}
	if f, err := os.Open(path); err == nil {
		Runnable(f)
		f.Close()
	}
	return nil
}
