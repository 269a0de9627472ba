package sandbox

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// endCgroups kills what is in the cgroups of a sandbox and removes them. The first
// process is gone by now; what is left can only be what never was in its namespace.
func endCgroups(dirs []string) error {
	for deadline := time.Now().Add(endTimeout); ; {
		var errs []error
		for _, dir := range dirs {
			killCgroup(dir)
			if err := os.Remove(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
				errs = append(errs, err)
			}
		}
		if len(errs) == 0 || time.Now().After(deadline) {
			return errors.Join(errs...)
		}
		time.Sleep(2 * time.Millisecond) // the kernel takes a moment to see that a cgroup is empty
	}
}

// killCgroup kills all processes of a cgroup. Frozen, they make no new ones
// meanwhile. What fails here shows when the cgroup is to be removed.
func killCgroup(dir string) {
	if len(members(dir)) == 0 {
		return
	}
	if os.WriteFile(filepath.Join(dir, "cgroup.kill"), []byte("1"), 0) == nil { // Linux 5.14
		return
	}
	freeze(dir, true)
	for _, pid := range members(dir) {
		pidfd, err := unix.PidfdOpen(pid, 0)
		if err != nil {
			continue // it has ended
		}
		// Another may have got its number: only what is in the cgroup is killed.
		in, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid)) // without it, nothing is
		for line := range strings.Lines(string(in)) {
			if strings.HasSuffix(strings.TrimSpace(line), "/"+filepath.Base(dir)) {
				_ = unix.PidfdSendSignal(pidfd, unix.SIGKILL, nil, 0) // it has ended
				break
			}
		}
		unix.Close(pidfd)
	}
	freeze(dir, false) // version 1 kills what is frozen when it thaws
}

// freeze freezes or thaws a cgroup of version 2, or of the freezer of version 1;
// others cannot be frozen.
func freeze(dir string, on bool) {
	v1, v2 := "THAWED", "0"
	if on {
		v1, v2 = "FROZEN", "1"
	}
	for file, value := range map[string]string{"cgroup.freeze": v2, "freezer.state": v1} {
		if f, err := os.OpenFile(filepath.Join(dir, file), os.O_WRONLY, 0); err == nil {
			_, _ = f.WriteString(value)
			f.Close()
		}
	}
}

// members are the processes in a cgroup.
func members(dir string) []int {
	data, _ := os.ReadFile(filepath.Join(dir, "cgroup.procs")) // a cgroup that is gone has none
	var pids []int
	for line := range strings.Lines(string(data)) {
		if pid, err := strconv.Atoi(strings.TrimSpace(line)); err == nil && pid > 1 && pid != os.Getpid() {
			pids = append(pids, pid)
		}
	}
	return pids
}

func populated(dirs []string) bool {
	for _, dir := range dirs {
		if len(members(dir)) > 0 {
			return true
		}
	}
	return false
}
