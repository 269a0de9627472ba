package services

import (
	"errors"
	"fmt"
	"os"
	"path"
	"slices"

	"golang.org/x/sys/unix"
)

var errNoSandbox = errors.New("the instance is only starting, or has ended")

// entered is the command line that runs a command in the sandbox of p, where it
// sees what p sees, and with no more rights than p; namespaces are files that it
// finds from descriptor 3 on.
func (p *process) entered(c command) (namespaces []*os.File, line []string, err error) {
	defer func() {
		if err != nil {
			closeAll(namespaces)
		}
	}()
	// The command starts when everything is mounted. Before that the namespaces are
	// open to the machine.
	first := p.started.First.PID
	if _, ok := child(first); !ok {
		return nil, nil, errNoSandbox
	}

	line = []string{"nsenter"}
	add := func(option string, f *os.File) {
		line = append(line, fmt.Sprintf("%s=/proc/self/fd/%d", option, 3+len(namespaces)))
		namespaces = append(namespaces, f)
	}
	for _, ns := range []struct{ file, option string }{
		{"mnt", "--mount"}, {"pid", "--pid"}, {"ipc", "--ipc"}, {"uts", "--uts"}, {"cgroup", "--cgroup"},
	} {
		name := fmt.Sprintf("/proc/%d/ns/%s", first, ns.file)
		theirs, err := os.Readlink(name)
		if err != nil {
			return namespaces, nil, errNoSandbox
		}
		if ours, err := os.Readlink("/proc/self/ns/" + ns.file); err == nil && ours == theirs {
			continue
		}
		f, err := os.Open(name)
		if err != nil {
			return namespaces, nil, errNoSandbox
		}
		add(ns.option, f)
	}
	if len(namespaces) == 0 {
		return nil, nil, errNoSandbox
	}
	// Who is not root enters by the user namespace that owns the others. The process
	// itself is in one below it, which opens none of them.
	owner, err := unix.IoctlRetInt(int(namespaces[0].Fd()), unix.NS_GET_USERNS)
	if err != nil {
		return namespaces, nil, fmt.Errorf("enter the sandbox: %w", err)
	}
	users := os.NewFile(uintptr(owner), "user namespace")
	if same, err := isOwnUsers(users); err != nil {
		return append(namespaces, users), nil, fmt.Errorf("enter the sandbox: %w", err)
	} else if same {
		users.Close()
	} else {
		add("--user", users)
		line = append(line, "--preserve-credentials")
	}
	// Had the process ended meanwhile, its number could be another's.
	if !p.alive() {
		return namespaces, nil, errNoSandbox
	}

	// What enters other processes' numbers is a child of nsenter, which ends with this program
	// and would leave it behind.
	line = append(line, "--", "/usr/bin/setpriv", "--bounding-set=-all", "--inh-caps=-all", "--ambient-caps=-all",
		"--no-new-privs", "--pdeathsig=KILL",
		"/usr/bin/env", "-i", "-C", path.Join(inside, c.workingDir))
	return namespaces, slices.Concat(line, c.env, noVariable(c.argv)), nil
}

// isOwnUsers reports whether a user namespace is this process's own.
func isOwnUsers(f *os.File) (bool, error) {
	is, err := f.Stat()
	if err != nil {
		return false, err
	}
	own, err := os.Stat("/proc/self/ns/user")
	return err == nil && os.SameFile(is, own), err
}

func closeAll(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}
