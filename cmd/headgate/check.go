package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/headgate-cd/headgate/gitd/access"
	"github.com/headgate-cd/headgate/gitd/headgateyaml"
	"github.com/headgate-cd/headgate/gitd/repo"
	"github.com/headgate-cd/headgate/gitd/yamlfile"
	"github.com/headgate-cd/headgate/hooks/build/buildspec"
	"github.com/headgate-cd/headgate/policies"
	"github.com/headgate-cd/headgate/reconciler/services"
)

// composeFile is what declares an environment of the target services.
const composeFile = "compose.yaml"

func isRego(path string) bool { return strings.HasSuffix(path, ".rego") }

// checkFiles judges the files of one tree that Headgate reads itself, by path:
// the same at the gate, in the push and in `headgate check`. Which files of a
// tree they are is said by its headgate.yaml (see wantedFiles).
func checkFiles(files map[string][]byte) yamlfile.Problems {
	settings, ps := headgateyaml.Default(), yamlfile.Problems(nil)
	if data, ok := files[headgateyaml.Name]; ok {
		f, err := headgateyaml.Parse(headgateyaml.Name, data)
		if err != nil {
			return problems(headgateyaml.Name, err)
		}
		settings = f
	}
	if data, ok := files[settings.Build.Buildspec]; ok {
		if _, _, err := buildspec.Parse(settings.Build.Buildspec, data); err != nil {
			ps = append(ps, problems(settings.Build.Buildspec, err)...)
		}
	}
	for _, e := range settings.Environments {
		name := path.Join(e.Path, composeFile)
		data, ok := files[name]
		if !ok {
			ps = append(ps, yamlfile.Problem{File: headgateyaml.Name, Line: e.Line,
				What: fmt.Sprintf("environment %q is declared in %s, where there is no %s", e.Name, e.Path, composeFile),
				Fix:  "add " + name + ", or name its folder with path:"})
			continue
		}
		ps = append(ps, services.Check(name, data)...)
	}
	rego := map[string][]byte{}
	for name, data := range files {
		if strings.HasPrefix(name, "policies/") && isRego(name) {
			rego[name] = data
		}
	}
	for _, p := range policies.Check(context.Background(), rego) {
		ps = append(ps, yamlfile.Problem{File: p.File, Line: p.Line, What: p.What, Fix: p.Fix})
	}
	return ps
}

func problems(file string, err error) yamlfile.Problems {
	if ps, ok := yamlfile.ProblemsIn(err); ok {
		return ps
	}
	return yamlfile.Problems{{File: file, What: err.Error()}}
}

// wanted reports whether checkFiles looks at a file.
func wanted(settings *headgateyaml.File, name string) bool {
	if name == headgateyaml.Name || name == settings.Build.Buildspec || strings.HasPrefix(name, "policies/") && isRego(name) {
		return true
	}
	return slices.ContainsFunc(settings.Environments, func(e headgateyaml.Environment) bool {
		return name == path.Join(e.Path, composeFile)
	})
}

// fileAt is the headgate.yaml of a commit, or what holds without one.
func fileAt(r *repo.Repository, commit repo.Hash) (*headgateyaml.File, error) {
	tree, err := r.TreeOf(commit)
	if err != nil {
		return nil, err
	}
	data, err := r.File(tree, headgateyaml.Name)
	if errors.Is(err, repo.ErrNoFile) {
		return headgateyaml.Default(), nil
	}
	if err != nil {
		return nil, err
	}
	return headgateyaml.Parse(headgateyaml.Name, data)
}

// checkTree is checkFiles for the gate: a merge of two good trees need not be
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
	return checkFiles(files).Err()
}

func checkCommand() command {
	return command{
		name: "check", args: "[folder]", short: "check headgate.yaml, buildspec, compose files and policies, before a push does",
		long: `
headgate check
headgate check ./service

Says by file and line what is wrong in a work tree, and what to do about it:
the same that a push would be refused for. Exit code 1 when something is wrong.`,
		setup: func(*flag.FlagSet) func(context.Context, printer, []string) error {
			return func(_ context.Context, p printer, args []string) error {
				dir := "."
				if len(args) > 1 {
					return usageError{"check takes one folder"}
				}
				if len(args) == 1 {
					dir = args[0]
				}
				return check(p, dir)
			}
		},
	}
}

func check(p printer, dir string) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return fmt.Errorf("check: %w", err)
	}
	defer root.Close()
	read := func(name string) ([]byte, error) {
		info, err := root.Stat(filepath.FromSlash(name))
		if err != nil {
			return nil, err
		}
		if info.Size() > yamlfile.MaxBytes {
			return nil, fmt.Errorf("%s is over %d bytes", name, yamlfile.MaxBytes)
		}
		return root.ReadFile(filepath.FromSlash(name))
	}
	files := map[string][]byte{}
	settings := headgateyaml.Default()
	if data, err := read(headgateyaml.Name); err == nil {
		files[headgateyaml.Name] = data
		if f, err := headgateyaml.Parse(headgateyaml.Name, data); err == nil {
			settings = f
		}
	}
	names := []string{settings.Build.Buildspec}
	for _, e := range settings.Environments {
		names = append(names, path.Join(e.Path, composeFile))
	}
	_ = fs.WalkDir(root.FS(), "policies", func(name string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() && isRego(name) {
			names = append(names, name)
		}
		return nil // no policies, nothing to check
	})
	for _, name := range names {
		if data, err := read(name); err == nil {
			files[name] = data
		}
	}
	ps := checkFiles(files)
	if _, ok := files[settings.Build.Buildspec]; !ok {
		ps = append(ps, yamlfile.Problem{File: settings.Build.Buildspec, What: "is not there: nothing says how to test this tree",
			Fix: `write one: version: 0.2, phases: {build: {commands: ["make test"]}}`})
	}
	for _, problem := range ps {
		fmt.Fprintln(p.out, problem.Error())
	}
	if len(ps) > 0 {
		fmt.Fprintf(p.err, "error: %d wrong\n", len(ps))
		return said{1}
	}
	checked := make([]string, 0, len(files))
	for name := range files {
		checked = append(checked, name)
	}
	slices.Sort(checked)
	fmt.Fprintf(p.out, "good: %s\n", strings.Join(checked, ", "))
	return nil
}
