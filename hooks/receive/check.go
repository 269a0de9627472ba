package receive

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/headgate-cd/headgate/gitd/access"
	"github.com/headgate-cd/headgate/gitd/headgateyaml"
	"github.com/headgate-cd/headgate/gitd/repo"
	"github.com/headgate-cd/headgate/gitd/show"
	"github.com/headgate-cd/headgate/gitd/yamlfile"
	"github.com/headgate-cd/headgate/hooks/check"
)

// measureTime bounds the measuring of one tree.
const measureTimeout = time.Minute

// checkTree finds what is wrong with the files of a tree that is to land, while
// it is in quarantine. tip is where its branch is, or repo.Zero.
func (v *validation) checkTree(ctx context.Context, tip, tree repo.Hash) (*rejection, error) {
	objects, err := v.reader(ctx)
	if err != nil {
		return nil, err
	}
	if rejection, err := v.l.extents.check(ctx, objects, tree); rejection != nil || err != nil {
		return rejection, err
	}

	files := repo.TreeFiles{Objects: objects, Root: tree}
	if v.r.Name() == access.Own {
		found, err := v.l.Checker.ServerTree(ctx, files)
		for _, line := range found.Access.RightsSince(v.access) {
			v.notices = append(v.notices, "rights of "+line)
		}
		return rejectFiles(found), err
	}
	checker := *v.l.Checker
	checker.Server = &check.Server{Access: v.access}
	if v.l.Refuses != nil {
		checker.Server.Refuses = func(target string) (what, fix string) { return v.l.Refuses(v.r.Name(), target) }
	}
	if v.l.SecretMissing != nil {
		checker.Server.SecretMissing = func(name string) (what, fix string, err error) {
			return v.l.SecretMissing(v.r.Name(), name)
		}
	}
	if v.l.Environments != nil {
		checker.Server.Holder = func(a netip.AddrPort) (string, error) {
			return v.l.Environments.Holder(v.r.Name(), a, v.push.actor)
		}
	}
	found, err := checker.Tree(ctx, files)
	switch {
	case err != nil:
		return nil, err
	case found.Missing != nil && len(found.Problems) == 1:
		return noBuildspec(*found.Missing, v.r.Name(), v.l.Server()), nil
	case len(found.Problems) > 0:
		return rejectFiles(found), nil
	}
	v.warnings = found.Warnings

	base := repo.Zero
	if tip != repo.Zero {
		if base, err = v.r.TreeOf(tip); err != nil {
			return nil, err
		}
	}
	if rejection, err := v.checkSubmodules(ctx, base, tree); rejection != nil || err != nil {
		return rejection, err
	}
	if err := v.warnOfPointers(ctx, base, tree); err != nil {
		return nil, err
	}
	return v.checkEnvironments(found.Settings)
}

// checkEnvironments refuses what cannot be done with the environments that there are,
// and tells the pusher which of them the tree no longer names, or names otherwise:
// landing it stops none of them, somebody's yes to the removal does.
func (v *validation) checkEnvironments(file *headgateyaml.File) (*rejection, error) {
	if v.l.Environments == nil {
		return nil, nil
	}
	leaving, renamed, problems, err := v.l.Environments.Against(v.r.Name(), file)
	if err != nil || len(problems) > 0 {
		return rejectFiles(check.Result{Problems: problems}), err
	}
	for _, e := range renamed {
		v.notices = append(v.notices,
			fmt.Sprintf("the environment %s will be called %s: what runs there and its history go on under that name",
				e.Was, e.Name))
	}
	for _, name := range leaving {
		v.notices = append(v.notices,
			fmt.Sprintf("%s no longer names the environment %s: what runs there goes on until its removal is approved",
				headgateyaml.Name, name),
			"  to stop it then: "+v.l.Server().Command(fmt.Sprintf("approve %s %s", v.r.Name(), name)),
			"  to give it another name instead: "+
				v.l.Server().Command(fmt.Sprintf("env rename %s %s <new>", v.r.Name(), name)))
	}
	return nil, nil
}

// extents remembers how much trees hold, so that a push is measured by what is
// new in it.
type extents struct {
	mu    sync.Mutex // held while known is in use
	known map[repo.Hash]repo.Extent
}

const maxExtents = 200_000

// check refuses a tree that holds too much.
func (x *extents) check(ctx context.Context, objects *reader, tree repo.Hash) (*rejection, error) {
	known := map[repo.Hash]repo.Extent{}
	if x.mu.TryLock() { // else another push is being measured: this one does without what is known
		defer x.mu.Unlock()
		if x.known == nil || len(x.known) > maxExtents {
			x.known = known
		}
		known = x.known
	}
	measuring, cancel := context.WithTimeout(ctx, measureTimeout)
	defer cancel()

	_, err := repo.Measure(measuring, tree, repo.MaxTree, objects.Tree, objects.size, known)
	var large *repo.TooLarge
	switch {
	case errors.As(err, &large):
		return reject("the tree is larger than this server takes", "leave out what belongs elsewhere, then push again",
			large.Error()), nil
	case errors.Is(err, errTooBig), errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil:
		return reject("the tree is larger than this server can check", "put fewer files into one directory, then push again"),
			nil
	}
	return nil, err
}

// ownGates reads, for the first push to an empty repository, whether the pushed
// commit's own headgate.yaml gates a branch. One that cannot be read gates it,
// so that it is refused with its faults.
func (v *validation) ownGates(ctx context.Context, pushed repo.Hash, branch string) (bool, error) {
	objects, err := v.reader(ctx)
	if err != nil {
		return false, err
	}
	c, err := objects.commit(pushed)
	if err != nil {
		return true, nil // no commit: refused as such
	}
	f, err := headgateyaml.In(repo.TreeFiles{Objects: objects, Root: c.tree}.ReadFile)
	if err != nil {
		return true, nil
	}
	return f.Gates(branch), nil
}

// noBuildspec is the refusal that a newcomer meets: with what to paste.
func noBuildspec(m check.Missing, repository string, server show.Server) *rejection {
	r := &rejection{What: "no " + m.File + ": nothing says how to test this tree", Short: "no " + m.File}
	if m.Is != check.Absent {
		r.Short = m.File + " " + m.What()
		r.What = fmt.Sprintf("%s %s: nothing says how to test this tree", m.File, m.What())
	}
	if m.Is != check.Absent || m.Near != "" {
		r.Hint = m.Fix()
		return r
	}
	r.Where = []string{
		"`headgate init` in the project writes one that fits it, and what else is wanted; or",
		"paste this into " + m.File + ", then push again:",
		"  version: 0.2",
		"  phases:",
		"    build:",
		`      commands: ["make test"]`,
	}
	r.Hint = fmt.Sprintf("an administrator can ungate it: ssh %s repo set %s gate=off", server.Login(), repository)
	return r
}

// refuseFound is one refusal for all that is wrong with files; nil for nothing.
func rejectFiles(found check.Result) *rejection {
	if len(found.Problems) == 0 {
		return nil
	}
	r := &rejection{Hint: "fix it, look with: headgate check, then push again"}
	if len(found.Problems) == 1 {
		r.What = found.Problems[0].File + " is not right"
	} else {
		r.What = fmt.Sprintf("%d things are not right in what you pushed", len(found.Problems))
	}
	for _, p := range found.Problems {
		r.Where = append(r.Where, p.Place()+": "+p.What)
		if p.Fix != "" {
			r.Where = append(r.Where, "  fix: "+p.Fix)
		}
	}
	return r
}

// maxWarnings is how many warnings about files a pusher is told.
const maxWarnings = 5

// warningLines tell the pusher of what is odd and no reason to refuse.
func warningLines(warnings yamlfile.Problems) (lines []string) {
	for i, w := range warnings {
		if i == maxWarnings {
			lines = append(lines, fmt.Sprintf("warning: and %d more: headgate check has them", len(warnings)-maxWarnings))
			break
		}
		lines = append(lines, oneLine("warning: ", strings.TrimSpace(w.Error()))...)
	}
	return lines
}
