package services

import (
	"crypto/rand"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/headgate-cd/headgate/gitd/engine"
	"github.com/headgate-cd/headgate/gitd/sandbox"
	"github.com/headgate-cd/headgate/reconciler/target"
)

// Limits of processes are kept by cgroups: one an instance, which is made before the command
// begins, is on its record, and goes with it.

// bounds are the limits as a cgroup has them.
func (l Limits) bounds() sandbox.Limits {
	return sandbox.Limits{Memory: l.Memory, Processes: int(l.PIDs), CPU: l.CPUs}
}

// limit puts the first process of an instance, which waits to begin, within its limits.
func (p *process) limit(c command) (err error) {
	bounds := c.limits.bounds()
	if bounds == (sandbox.Limits{}) {
		return nil
	}
	if bounds.Processes > 0 {
		bounds.Processes++ // the first one is ours
	}
	err = errors.New("the machine has no cgroups for that")
	if bounds.Keeps(sandbox.CgroupRoot) {
		p.started.Cgroups, err = sandbox.NewCgroup(sandbox.CgroupRoot, c.cgroup, bounds)
	}
	if err == nil {
		err = sandbox.PutIntoCgroup(p.started.Cgroups, p.started.First.PID)
	}
	if err != nil {
		return fmt.Errorf("its limits cannot be kept: %w; leave them out, or run the agent as root where it may write cgroups", err)
	}
	return nil
}

// cgroups is what the names of cgroups of this agent begin with.
func (t *Target) cgroups() string { return "headgate-" + t.agentName() + "-" }

func (t *Target) newCgroup() string { return t.cgroups() + strings.ToLower(rand.Text()[:10]) }

// endCgroups removes cgroups that are on no record, with what is in them: of instances that
// an earlier run was about to start, or whose record it had just removed.
func (t *Target) endCgroups(recorded []string) {
	for _, pattern := range []string{t.cgroups() + "*", filepath.Join("*", t.cgroups()+"*")} { // version 2, and 1
		found, _ := filepath.Glob(filepath.Join(sandbox.CgroupRoot, pattern)) // fails only for a bad pattern
		for _, dir := range found {
			if slices.Contains(recorded, dir) {
				continue
			}
			if err := sandbox.EndCgroups([]string{dir}); err != nil {
				t.Log.Warn("cannot remove a cgroup", "dir", dir, "err", err)
			}
		}
	}
}

// overMemory is how an instance ended that went over its limit of memory, as it is said of
// a container.
func (s *supervised) overMemory(how ending) ending {
	killed := how.exitCode < 0 || how.exitCode == 128+9
	if killed && !s.killed.Load() && sandbox.OutOfMemory(s.started.Cgroups) {
		how.outcome, how.reason = "needed more than its memory limit and was ended", target.Reason(engine.ReasonOutOfMemory)
	}
	return how
}
