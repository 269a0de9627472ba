package server

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/headgate-cd/headgate/hooks/build/host"
)

// endOrphans ends sandboxes that an earlier server made for the directory work and
// did not live to end. Bubblewrap ends with the server, but not when the server
// is killed in the very moment in which bubblewrap makes its first process. Only
// the holder of the data directory's lock may do it.
func endOrphans(work string) (ended int, err error) {
	for deadline := time.Now().Add(5 * time.Second); ; {
		found := 0
		dirs, err := filepath.Glob("/proc/[0-9]*")
		if err != nil {
			return ended, err
		}
		for _, dir := range dirs {
			if !sandboxIn(dir, work) {
				continue
			}
			pid, _ := strconv.Atoi(filepath.Base(dir)) // it is digits
			if syscall.Kill(pid, syscall.SIGKILL) == nil {
				found++
			}
		}
		if found == 0 {
			return ended, nil
		}
		ended = max(ended, found)
		if time.Now().After(deadline) {
			return ended, fmt.Errorf("%d processes of an earlier server cannot be ended", found)
		}
		time.Sleep(10 * time.Millisecond) // the kernel takes a moment to end a process
	}
}

// sweepGroups removes the cgroups of builds that an earlier server did not
// live to end. Each has left a directory of its name in work.
func sweepGroups(work string) error {
	left, err := os.ReadDir(work)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	ids := make([]string, 0, len(left))
	for _, d := range left {
		ids = append(ids, d.Name())
	}
	return host.Sweep(ids)
}

// sandboxIn reports whether the process at /proc/<pid> is a bubblewrap that was
// given something below work.
func sandboxIn(proc, work string) bool {
	cmdline, err := os.ReadFile(filepath.Join(proc, "cmdline"))
	if err != nil {
		return false // it has ended
	}
	args := bytes.Split(cmdline, []byte{0})
	if filepath.Base(string(args[0])) != "bwrap" {
		return false
	}
	for _, a := range args[1:] {
		if strings.HasPrefix(string(a), work+string(filepath.Separator)) {
			return true
		}
	}
	return false
}
