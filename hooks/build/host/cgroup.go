package host

import (
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/headgate-cd/headgate/gitd/buildsettings"
	"github.com/headgate-cd/headgate/hooks/build/bounds"
)

// Limits bound one build.
type Limits = buildsettings.Limits

// group is the cgroup of one build: one directory on a machine with cgroup
// v2, one for each controller on one with v1. The nil group limits nothing.
type group struct {
	dirs   []string
	limits Limits
}

// period is that in which the limit of the processor is kept, in microseconds.
const period = 100_000

// newGroup makes the group called name below root, where the cgroup file
// systems are mounted. On an error there is no group.
func newGroup(root, name string, l Limits) (*group, error) {
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
	if _, err := os.Stat(filepath.Join(root, "cpu")); err == nil && l.CPU > 0 && len(plan) > 0 { // v1
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
	g := &group{limits: l}
	for dir, settings := range plan {
		if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
			return nil, errors.Join(plain(err), g.remove())
		}
		g.dirs = append(g.dirs, dir)
		for _, s := range settings {
			if _, err := os.Stat(filepath.Join(dir, s.file)); s.optional && err != nil {
				continue
			}
			if err := os.WriteFile(filepath.Join(dir, s.file), []byte(s.value), 0o644); err != nil {
				return nil, errors.Join(plain(err), g.remove())
			}
		}
	}
	return g, nil
}

// plain says what befell a cgroup without the path of it.
func plain(err error) error {
	var pe *os.PathError
	if errors.As(err, &pe) {
		return fmt.Errorf("cgroup: %w", pe.Err)
	}
	return err
}

// enter is shell text by which a shell puts itself into the group.
func (g *group) enter() string {
	var b strings.Builder
	for _, dir := range g.dirs {
		fmt.Fprintf(&b, "echo $$ >'%s' || exit 125\n", filepath.Join(dir, "cgroup.procs"))
	}
	return b.String()
}

// limit names the limits that were met, "" if none was.
func (g *group) limit() string {
	if g == nil {
		return ""
	}
	return bounds.Met(g.dirs, g.limits)
}

// directories are what a sandbox in the group is recorded and ended with.
func (g *group) directories() []string {
	if g == nil {
		return nil
	}
	return g.dirs
}

// remove removes a group in which nothing was started.
func (g *group) remove() error {
	var errs []error
	for _, dir := range g.directories() {
		if err := os.Remove(dir); err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, plain(err))
		}
	}
	return errors.Join(errs...)
}

// groupName is like no other's: ids are unique among the builds of one server, and of
// one process of "headgate run".
func groupName(id string) string { return "headgate-" + id + "-" + strings.ToLower(rand.Text()[:10]) }
