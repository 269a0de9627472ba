package host

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/headgate-cd/headgate/hooks/build"
)

// usersOf is the user namespace that the other namespaces of a process belong to.
// Where bubblewrap forbids more of them it has put the process into one below it.
func (n *session) usersOf(pid string) (*os.File, error) {
	own, err := os.Open("/proc/" + pid + "/ns/user")
	if err != nil || n.machine != nil && n.machine.users != nil || !n.sealed {
		return own, err
	}
	defer own.Close()
	fd, err := unix.IoctlRetInt(int(own.Fd()), unix.NS_GET_PARENT)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), "users"), nil
}

// Enter runs an interactive shell in the sandbox, with the environment and the
// directory that the last command left. It implements build.Enterer.
func (n *session) Enter(ctx context.Context, shell string, in io.Reader, out, errs io.Writer) error {
	// Nobody may look at the first process. A command of its own is a way in.
	const waiter = "enter.sh"
	if err := n.Put(ctx, waiter, []byte("exec sleep 1000000\n")); err != nil {
		return err
	}
	waiting, stop := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() {
		_, err := n.Run(waiting, build.Script{Shell: "sh", Path: build.ControlDir + "/" + waiter}, io.Discard)
		ended <- err
	}()
	defer func() {
		stop() // which ends the sandbox
		<-ended
	}()
	child := ""
	for child == "" {
		select {
		case err := <-ended:
			ended <- err
			return errors.Join(build.ErrEnded, err)
		case <-time.After(10 * time.Millisecond):
		}
		data, err := os.ReadFile(fmt.Sprintf("/proc/%[1]d/task/%[1]d/children", n.first))
		if err != nil {
			return fmt.Errorf("find a process of the sandbox: %w", err)
		}
		for pid := range strings.FieldsSeq(string(data)) {
			if name, err := os.ReadFile("/proc/" + pid + "/comm"); err == nil && string(name) == "sleep\n" {
				child = pid
			}
		}
	}
	users, err := n.usersOf(child)
	if err != nil {
		return fmt.Errorf("find the users of the sandbox: %w", err)
	}
	defer users.Close()
	cmd := exec.CommandContext(ctx, "nsenter", "--target", child, "--user=/proc/self/fd/3", "--mount", "--pid", "--ipc",
		"--uts", "--net", "--root",
		"--preserve-credentials", "/bin/sh", "-c", build.EnterProgram, shell)
	cmd.ExtraFiles = []*os.File{users}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = in, out, errs
	cmd.Env = []string{"PATH=" + Path, "TERM=" + os.Getenv("TERM")}
	cmd.Dir = "/"
	err = cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) { // of its last command
		return nil
	}
	return err
}
