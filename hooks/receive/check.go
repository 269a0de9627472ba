package receive

import (
	"context"
	"errors"
	"fmt"
	"path"
	"sort"
	"strings"

	"github.com/headgate-cd/headgate/gitd/access"
	"github.com/headgate-cd/headgate/gitd/headgateyaml"
	"github.com/headgate-cd/headgate/gitd/repo"
	"github.com/headgate-cd/headgate/gitd/show"
	"github.com/headgate-cd/headgate/gitd/yamlfile"
)

// PoliciesFolder holds a repository's own policies.
const PoliciesFolder = "policies"

// checkTree finds what is wrong with the files of a tree that is to land, before
// anything is spent on it. It judges form only; what the files ask for comes
// into force when they have landed.
func (j *judging) checkTree(ctx context.Context, tree repo.Hash, target *headgateyaml.File) (*refusal, error) {
	objects, err := j.reader(ctx)
	if err != nil {
		return nil, err
	}
	own, no, err := readOwn(objects, tree)
	if no != nil || err != nil {
		return no, err
	}
	if target == nil { // the first push is judged by its own
		target = own
	}
	w := wanted{exact: map[string]bool{headgateyaml.Name: true, own.Build.Buildspec: true, target.Build.Buildspec: true}}
	for _, e := range own.Environments {
		w.folders = append(w.folders, path.Clean(e.Path))
	}
	configuration := j.r.Name() == access.Own
	if configuration {
		w.exact[access.FileName] = true
	}
	files, err := objects.files(tree, w.enter, w.keep)
	if errors.Is(err, errTooBig) {
		return refuse("the tree holds more than can be checked", fmt.Sprintf("keep what is checked below %d files and %d MB", maxFiles, maxTotal>>20), err.Error()), nil
	}
	if err != nil {
		return nil, err
	}
	var problems yamlfile.Problems
	if configuration {
		data, ok := files[access.FileName]
		if !ok {
			return refuse("no "+access.FileName+": nothing says who may do what", "restore it, then push again"), nil
		}
		if _, err := access.Parse(access.FileName, data); err != nil {
			ps, ok := yamlfile.ProblemsIn(err)
			if !ok {
				return nil, err
			}
			problems = append(problems, ps...)
		}
		delete(files, access.FileName)
	} else {
		for _, name := range []string{target.Build.Buildspec, own.Build.Buildspec} {
			if _, ok := files[name]; !ok && !strings.HasPrefix(name, builtin) {
				return noBuildspec(name, j.r.Name(), j.l.Server()), nil
			}
		}
	}
	delete(files, headgateyaml.Name)
	rego := map[string][]byte{}
	for name, data := range files {
		if strings.HasPrefix(name, PoliciesFolder+"/") {
			rego[name] = data
			delete(files, name)
		}
	}
	if len(rego) > 0 {
		problems = append(problems, policyProblems(ctx, rego)...)
	}
	if j.l.Check != nil && len(files) > 0 {
		problems = append(problems, j.l.Check(files)...)
	}
	if len(problems) == 0 {
		return nil, nil
	}
	sort.SliceStable(problems, func(a, b int) bool {
		if problems[a].File != problems[b].File {
			return problems[a].File < problems[b].File
		}
		return problems[a].Line < problems[b].Line
	})
	return refuseProblems(problems), nil
}

// builtin begins the name of a buildspec that is no file of the tree.
const builtin = "builtin:"

// readOwn reads the headgate.yaml at the top of a tree.
func readOwn(objects *reader, tree repo.Hash) (*headgateyaml.File, *refusal, error) {
	files, err := objects.files(tree, func(string) bool { return false }, func(p string) bool { return p == headgateyaml.Name })
	if errors.Is(err, errTooBig) {
		return nil, refuse(headgateyaml.Name+" is too big", "it needs a few lines only", headgateyaml.Name), nil
	}
	if err != nil {
		return nil, nil, err
	}
	data, ok := files[headgateyaml.Name]
	if !ok {
		return headgateyaml.Default(), nil, nil
	}
	f, err := headgateyaml.Parse(headgateyaml.Name, data)
	if ps, ok := yamlfile.ProblemsIn(err); ok {
		return nil, refuseProblems(ps), nil
	}
	return f, nil, err
}

// ownGates reads, for the first push to an empty repository, whether the pushed
// commit's own headgate.yaml gates a branch. One that cannot be read gates it,
// so that it is refused with its faults.
func (j *judging) ownGates(ctx context.Context, pushed repo.Hash, branch string) (bool, error) {
	objects, err := j.reader(ctx)
	if err != nil {
		return false, err
	}
	c, err := objects.commit(pushed)
	if err != nil {
		return true, nil // no commit: refused as such
	}
	f, no, err := readOwn(objects, c.tree)
	if err != nil || no != nil {
		return true, err
	}
	return f.Gates(branch), nil
}

// wanted says which files of a tree are checked.
type wanted struct {
	exact   map[string]bool
	folders []string // that declare an environment
}

func (w wanted) keep(p string) bool {
	dir, base := path.Split(p)
	switch {
	case w.exact[p]:
		return true
	case strings.HasPrefix(p, PoliciesFolder+"/"):
		return strings.HasSuffix(base, ".rego")
	}
	for _, f := range w.folders {
		if path.Clean("./"+dir) == f {
			return composeNames[base]
		}
	}
	return false
}

var composeNames = map[string]bool{"compose.yaml": true, "compose.yml": true, "docker-compose.yaml": true, "docker-compose.yml": true}

func (w wanted) enter(dir string) bool {
	if dir == PoliciesFolder || strings.HasPrefix(dir, PoliciesFolder+"/") {
		return true
	}
	for p := range w.exact {
		if strings.HasPrefix(p, dir+"/") {
			return true
		}
	}
	for _, f := range w.folders {
		if f == dir || strings.HasPrefix(f, dir+"/") {
			return true
		}
	}
	return false
}

// noBuildspec is the refusal that a newcomer meets: with what to paste.
func noBuildspec(name, repository string, server show.Server) *refusal {
	return &refusal{
		What: "no " + name + ": nothing says how to test this tree",
		Where: []string{
			"paste this into " + name + ", then push again:",
			"  version: 0.2",
			"  phases:",
			"    build:",
			`      commands: ["make test"]`,
		},
		Hint: "an administrator can ungate it: " + sshCommand(server) + " repo set " + repository + " gate=off",
	}
}

// refuseProblems is one refusal for all that is wrong with files.
func refuseProblems(problems yamlfile.Problems) *refusal {
	r := &refusal{Hint: "fix it, look with: headgate check, then push again"}
	if len(problems) == 1 {
		r.What = problems[0].File + " is not right"
	} else {
		r.What = fmt.Sprintf("%d things are not right in what you pushed", len(problems))
	}
	for _, p := range problems {
		r.Where = append(r.Where, p.Place()+": "+p.What)
		if p.Fix != "" {
			r.Where = append(r.Where, "  fix: "+p.Fix)
		}
	}
	return r
}
