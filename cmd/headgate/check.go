package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/headgate-cd/headgate/cmd/internal/server"
	"github.com/headgate-cd/headgate/gitd/access"
	"github.com/headgate-cd/headgate/gitd/headgateyaml"
	"github.com/headgate-cd/headgate/gitd/yamlfile"
	"github.com/headgate-cd/headgate/hooks/check"
)

func checkCommand() command {
	return command{
		name:  "check",
		args:  "[directory]",
		short: "check headgate.yaml, buildspec, compose files and policies, before a push does",
		long: `
headgate check
headgate check ./service

Says by file and line what is wrong in a work tree, and what to do about it: the
same that a push would be refused for. Of what is odd, but no reason to refuse,
it warns. In a clone of the repository headgate it checks server.yaml. Exit code
1 when something is wrong.`,
		setup: func(flags *flag.FlagSet) func(context.Context, printer, []string) error {
			asJSON := flags.Bool("json", false,
				"print one object: good, checked, problems and warnings, each with file, line, what and fix")
			return func(ctx context.Context, p printer, args []string) error {
				dir := "."
				if len(args) > 1 {
					return usageError{"check takes one directory"}
				}
				if len(args) == 1 {
					dir = args[0]
				}
				found, err := checkDir(ctx, dir)
				if err != nil {
					return err
				}
				return found.print(p, *asJSON)
			}
		},
	}
}

// checked is what check found, as --json prints it.
type checked struct {
	Good     bool              `json:"good"`
	Checked  []string          `json:"checked"` // files
	Problems yamlfile.Problems `json:"problems"`
	Warnings yamlfile.Problems `json:"warnings"`
	Rights   map[string]string `json:"rights,omitempty"` // of server.yaml: what they come to, by repository
}

func (c checked) print(p printer, asJSON bool) error {
	if asJSON {
		if err := json.NewEncoder(p.out).Encode(c); err != nil {
			return err
		}
	} else {
		for _, problem := range c.Problems {
			fmt.Fprintln(p.out, problem.Error())
		}
		for _, warning := range c.Warnings {
			fmt.Fprintln(p.out, "warning: "+warning.Error())
		}
		for _, name := range slices.Sorted(maps.Keys(c.Rights)) {
			fmt.Fprintf(p.out, "rights of %s: %s\n", name, c.Rights[name])
		}
		if c.Good {
			fmt.Fprintf(p.out, "good: %s\n", strings.Join(c.Checked, ", "))
		} else {
			s := "s"
			if len(c.Problems) == 1 {
				s = ""
			}
			fmt.Fprintf(p.err, "error: %d problem%s\n", len(c.Problems), s)
		}
	}
	if !c.Good {
		return exitCode{1}
	}
	return nil
}

func checkDir(ctx context.Context, dir string) (checked, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return checked{}, fmt.Errorf("check: %w", err)
	}
	defer root.Close()
	files, ok := root.FS().(check.Files)
	if !ok {
		return checked{}, errors.New("check: this platform's os.Root lists no directories")
	}

	pool, err := server.Policies(nil)
	if err != nil {
		return checked{}, err
	}
	defer pool.Close()
	checker := server.Checker(pool.Check)
	read := checker.Tree
	if isServerTree(files) {
		read = checker.ServerTree
	}
	found, err := read(ctx, files)
	if err != nil {
		return checked{}, err
	}
	rights := map[string]string{}
	for _, r := range found.Access.Repositories() {
		rights[r.Name] = r.Rights()
	}
	return checked{
		Good:     len(found.Problems) == 0,
		Checked:  append([]string{}, found.Read...),
		Problems: append(yamlfile.Problems{}, found.Problems...),
		Warnings: append(yamlfile.Problems{}, found.Warnings...),
		Rights:   rights,
	}, nil
}

// isServerTree reports whether files are a clone of the repository headgate:
// the server's configuration, which no buildspec builds.
func isServerTree(files check.Files) bool {
	_, noSpec := files.ReadFile(headgateyaml.Default().Build.Buildspec)
	_, noConfig := files.ReadFile(access.FileName)
	_, noSettings := files.ReadFile(headgateyaml.Name)
	return noSpec != nil && noSettings != nil && noConfig == nil
}
