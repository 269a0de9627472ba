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

// CgroupRoot is where the cgroup file systems are mounted.
const CgroupRoot = "/sys/fs/cgroup"

// Limits bound what is in a cgroup; 0 is no limit.
type Limits struct {
	Memory    int64 // bytes
	Processes int   // and threads
	CPU       float64
}

// Keeps reports whether the cgroups below root can keep all of the limits.
func (l Limits) Keeps(root string) bool {
	has := func(name string) bool {
		_, err := os.Stat(filepath.Join(root, name))
		return err == nil
	}
	return has("cgroup.controllers") || (l.Memory == 0 || has("memory")) && (l.Processes == 0 || has("pids")) &&
		(l.CPU == 0 || has("cpu"))
}

// period is that in which the limit of the processor is kept, in microseconds.
const period = 100_000

// NewCgroup makes the cgroup called name below root, where the cgroup file systems are
// mounted: one directory on a machine with version 2, one for each controller on one with
// version 1. On an error there is none.
func NewCgroup(root, name string, l Limits) (dirs []string, err error) {
	type setting struct {
		file, value string
		optional    bool // not there when the kernel does not count swap
	}
	plan := map[string][]setting{}
	memory, processes := strconv.FormatInt(l.Memory, 10), strconv.Itoa(l.Processes)
	if _, err := os.Stat(filepath.Join(root, "cgroup.controllers")); err == nil { // v2
		dir := filepath.Join(root, name)
		if l.Processes > 0 {
			plan[dir] = append(plan[dir], setting{file: "pids.max", value: processes})
		}
		if l.CPU > 0 {
			plan[dir] = append(plan[dir], setting{file: "cpu.max", value: fmt.Sprintf("%d %d", int(l.CPU*period), period)})
		}
		if l.Memory > 0 {
			plan[dir] = append(plan[dir], setting{file: "memory.max", value: memory},
				setting{file: "memory.swap.max", value: "0", optional: true}, setting{file: "memory.oom.group", value: "1"})
		}
	} else {
		if _, err := os.Stat(filepath.Join(root, "pids")); err == nil && l.Processes > 0 {
			plan[filepath.Join(root, "pids", name)] = []setting{{file: "pids.max", value: processes}}
		}
		if _, err := os.Stat(filepath.Join(root, "memory")); err == nil && l.Memory > 0 {
			plan[filepath.Join(root, "memory", name)] = []setting{{file: "memory.limit_in_bytes", value: memory},
				{file: "memory.memsw.limit_in_bytes", value: memory, optional: true}}
		}
	}
	if _, err := os.Stat(filepath.Join(root, "cpu")); err == nil && l.CPU > 0 { // v1
		plan[filepath.Join(root, "cpu", name)] = []setting{
			{file: "cpu.cfs_period_us", value: strconv.Itoa(period)},
			{file: "cpu.cfs_quota_us", value: strconv.Itoa(int(l.CPU * period))},
		}
	}
	if len(plan) == 0 {
		return nil, errors.New("there are no cgroups here")
	}
	if _, err := os.Stat(filepath.Join(root, "freezer")); err == nil { // v1: what is to be killed is frozen first
		plan[filepath.Join(root, "freezer", name)] = nil
	}
	for dir, settings := range plan {
		if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
			return nil, errors.Join(plain(err), removeCgroup(dirs))
		}
		dirs = append(dirs, dir)
		for _, s := range settings {
			if _, err := os.Stat(filepath.Join(dir, s.file)); s.optional && err != nil {
				continue
			}
			if err := os.WriteFile(filepath.Join(dir, s.file), []byte(s.value), 0o644); err != nil {
				return nil, errors.Join(plain(err), removeCgroup(dirs))
			}
		}
	}
	return dirs, nil
}

// plain says what befell a cgroup without the path of it.
func plain(err error) error {
	var pe *os.PathError
	if errors.As(err, &pe) {
		return fmt.Errorf("cgroup: %w", pe.Err)
	}
	return err
}

// removeCgroup removes a cgroup in which nothing was started.
func removeCgroup(dirs []string) error {
	var errs []error
	for _, dir := range dirs {
		if err := os.Remove(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, plain(err))
		}
	}
	return errors.Join(errs...)
}

// EnterCgroup is shell text by which a shell puts itself into a cgroup.
func EnterCgroup(dirs []string) string {
	var b strings.Builder
	for _, dir := range dirs {
		fmt.Fprintf(&b, "echo $$ >'%s' || exit 125\n", filepath.Join(dir, "cgroup.procs"))
	}
	return b.String()
}

// PutIntoCgroup puts a process into a cgroup, and with it what it starts from then on.
func PutIntoCgroup(dirs []string, pid int) error {
	for _, dir := range dirs {
		if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(pid)), 0o644); err != nil {
			return plain(err)
		}
	}
	return nil
}

// OutOfMemory reports whether something in a cgroup was ended because it went over the
// limit on memory.
func OutOfMemory(dirs []string) bool {
	for _, dir := range dirs {
		for _, file := range []string{"memory.events", "memory.oom_control"} {
			data, _ := os.ReadFile(filepath.Join(dir, file)) // of the other version of cgroups
			for line := range strings.Lines(string(data)) {
				if f := strings.Fields(line); len(f) == 2 && f[0] == "oom_kill" && f[1] != "0" {
					return true
				}
			}
		}
	}
	return false
}

// EndCgroups kills what is in the cgroups of a sandbox and removes them. The first
// process is gone by now; what is left can only be what never was in its namespace.
func EndCgroups(dirs []string) error {
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
