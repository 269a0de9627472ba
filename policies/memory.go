//go:build !race

package policies

import "golang.org/x/sys/unix"

// byKernel says who limits the memory of a process.
const byKernel = true

// limitMemory has the kernel refuse this process more memory than it may use.
func limitMemory() error {
	return unix.Setrlimit(unix.RLIMIT_DATA, &unix.Rlimit{Cur: maxMemory, Max: maxMemory})
}
