//go:build !amd64

package sandboxtest

import "golang.org/x/sys/unix"

// takeOver traces a process; what it could then have it do is shown on amd64.
func takeOver(pid int) error { return ptrace(unix.PTRACE_SEIZE, pid) }
