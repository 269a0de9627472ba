package server

import (
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/headgate-cd/headgate/gitd/access"
	"github.com/headgate-cd/headgate/gitd/headgateyaml"
	"github.com/headgate-cd/headgate/gitd/repo"
	"github.com/headgate-cd/headgate/gitd/yamlfile"
	"github.com/headgate-cd/headgate/hooks/build/buildspec"
	"github.com/headgate-cd/headgate/policies"
	"github.com/headgate-cd/headgate/reconciler/target"
	"github.com/headgate-cd/headgate/reconciler/target/services"
)

// ComposeFile is what declares an environment of the target services.
const ComposeFile = "compose.yaml"

func IsRego(path string) bool { return strings.HasSuffix(path, ".rego") }

// CheckFiles judges the files of one tree that Headgate reads itself, by path:
// the same at the gate, in the push and in `headgate check`. Which files of a
// tree they are is said by its headgate.yaml (see wantedFiles).
func CheckFiles(files map[string][]byte) yamlfile.Problems {
	settings, ps := headgateyaml.Default(), yamlfile.Problems(nil)
	if data, ok := files[headgateyaml.Name]; ok {
		f, err := headgateyaml.Parse(headgateyaml.Name, data)
		if err != nil {
			return Problems(headgateyaml.Name, err)
		}
		settings = f
	}
	if data, ok := files[settings.Build.Buildspec]; ok {
		if _, _, err := buildspec.Parse(settings.Build.Buildspec, data); err != nil {
			ps = append(ps, Problems(settings.Build.Buildspec, err)...)
		}
	}
	for _, e := range settings.Environments {
		name := path.Join(e.Path, ComposeFile)
		data, ok := files[name]
		if !ok {
			ps = append(ps, yamlfile.Problem{File: headgateyaml.Name, Line: e.Line,
				What: fmt.Sprintf("environment %q is declared in %s, where there is no %s", e.Name, e.Path, ComposeFile),
				Fix:  "add " + name + ", or name its folder with path:"})
			continue
		}
		problems, _ := services.Check(e.Path, target.Files{ComposeFile: data})
		ps = append(ps, problems...)
	}
	rego := map[string][]byte{}
	for name, data := range files {
		if strings.HasPrefix(name, "policies/") && IsRego(name) {
			rego[name] = data
		}
	}
	for _, p := range policies.Check(context.Background(), rego) {
		ps = append(ps, yamlfile.Problem{File: p.File, Line: p.Line, What: p.What, Fix: p.Fix})
	}
	return ps
}

// Problems are those that an error about a file holds, or the error as one.
func Problems(file string, err error) yamlfile.Problems {
	if ps, ok := yamlfile.ProblemsIn(err); ok {
		return ps
	}
	return yamlfile.Problems{{File: file, What: err.Error()}}
}

// wanted reports whether CheckFiles looks at a file.
func wanted(settings *headgateyaml.File, name string) bool {
	if name == headgateyaml.Name || name == settings.Build.Buildspec || strings.HasPrefix(name, "policies/") && IsRego(name) {
		return true
	}
	return slices.ContainsFunc(settings.Environments, func(e headgateyaml.Environment) bool {
		return name == path.Join(e.Path, ComposeFile)
	})
}

// checkTree is CheckFiles for the gate: a merge of two good trees need not be
// good. The repository headgate is judged by its build alone.
func checkTree(_ context.Context, r *repo.Repository, tree repo.Hash) error {
	if r.Name() == access.Own {
		return nil
	}
	settings := headgateyaml.Default()
	data, err := r.File(tree, headgateyaml.Name)
	if err == nil {
		if settings, err = headgateyaml.Parse(headgateyaml.Name, data); err != nil {
			return err
		}
	} else if !errors.Is(err, repo.ErrNoFile) {
		return err
	}
	files, err := r.Files(tree, func(name string) bool { return wanted(settings, name) })
	if err != nil {
		return err
	}
	return CheckFiles(files).Err()
}
