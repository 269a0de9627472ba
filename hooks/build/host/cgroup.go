package host

import (
	"crypto/rand"
	"strings"

	"github.com/headgate-cd/headgate/gitd/buildsettings"
	"github.com/headgate-cd/headgate/gitd/sandbox"
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

// newGroup makes the group called name below root, where the cgroup file
// systems are mounted. On an error there is no group.
func newGroup(root, name string, l Limits) (*group, error) {
	dirs, err := sandbox.NewCgroup(root, name, sandbox.Limits{Memory: l.Memory, Processes: l.Processes, CPU: l.CPU})
	if err != nil {
		return nil, err
	}
	return &group{dirs, l}, nil
}

// enter is shell text by which a shell puts itself into the group.
func (g *group) enter() string { return sandbox.EnterCgroup(g.dirs) }

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

// groupName is like no other's: ids are unique among the builds of one server, and of
// one process of "headgate run".
func groupName(id string) string { return "headgate-" + id + "-" + strings.ToLower(rand.Text()[:10]) }
