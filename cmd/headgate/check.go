package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/headgate-cd/headgate/cmd/internal/server"
	"github.com/headgate-cd/headgate/gitd/access"
	"github.com/headgate-cd/headgate/gitd/headgateyaml"
	"github.com/headgate-cd/headgate/gitd/yamlfile"
	"github.com/headgate-cd/headgate/hooks/build/buildspec"
)

func checkCommand() command {
	return command{
		name: "check", args: "[folder]", short: "check headgate.yaml, buildspec, compose files and policies, before a push does",
		long: `
headgate check
headgate check ./service

Says by file and line what is wrong in a work tree, and what to do about it: the
same that a push would be refused for. Of what is odd, but no reason to refuse,
it warns. In a clone of the repository headgate it checks server.yaml. Exit code
1 when something is wrong.`,
		setup: func(flags *flag.FlagSet) func(context.Context, printer, []string) error {
			asJSON := flags.Bool("json", false, "print one object: good, checked, problems and warnings, each with file, line, what and fix")
			return func(_ context.Context, p printer, args []string) error {
				dir := "."
				if len(args) > 1 {
					return usageError{"check takes one folder"}
				}
				if len(args) == 1 {
					dir = args[0]
				}
				found, err := check(dir)
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
		if c.Good {
			fmt.Fprintf(p.out, "good: %s\n", strings.Join(c.Checked, ", "))
		} else {
			fmt.Fprintf(p.err, "error: %d wrong\n", len(c.Problems))
		}
	}
	if !c.Good {
		return said{1}
	}
	return nil
}

func check(dir string) (checked, error) {
	c := checked{Checked: []string{}, Problems: yamlfile.Problems{}, Warnings: yamlfile.Problems{}}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return c, fmt.Errorf("check: %w", err)
	}
	defer root.Close()
	files, illegible := map[string][]byte{}, false
	// read reads a file if it is there.
	read := func(name string) (there bool) {
		data, err := readSmall(root, name)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return false
		case err != nil:
			illegible = true
			c.Problems = append(c.Problems, yamlfile.Problem{File: name, What: err.Error()})
			return true
		}
		files[name] = data
		c.Checked = append(c.Checked, name)
		return true
	}
	settings, valid := headgateyaml.Default(), true
	if read(headgateyaml.Name) {
		f, err := headgateyaml.Parse(headgateyaml.Name, files[headgateyaml.Name])
		if valid = err == nil; valid { // else server.CheckFiles says what is wrong
			settings = f
		}
	}
	spec := settings.Build.Buildspec
	own := false // it is the server's configuration, which is no buildspec's to build
	if !read(spec) && valid {
		if own = read(access.FileName); !own {
			c.Problems = append(c.Problems, yamlfile.Problem{File: spec, What: "is not there: nothing says how to test this tree",
				Fix: `write one: version: 0.2, phases: {build: {commands: ["make test"]}}`})
		}
	}
	for _, e := range settings.Environments {
		read(path.Join(e.Path, server.ComposeFile))
	}
	err = fs.WalkDir(root.FS(), "policies", func(name string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() && server.IsRego(name) {
			read(name)
		}
		return err
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return c, fmt.Errorf("check: %w", err)
	}
	slices.Sort(c.Checked)
	if !illegible { // or what cannot be read were missing besides
		c.Problems = append(c.Problems, server.CheckFiles(files)...)
	}
	if own {
		if _, err := access.Parse(access.FileName, files[access.FileName]); err != nil {
			c.Problems = append(c.Problems, server.Problems(access.FileName, err)...)
		}
	}
	if data, ok := files[spec]; ok {
		if _, warnings, _ := buildspec.Parse(spec, data); warnings != nil { // its problems are told above
			c.Warnings = warnings
		}
	}
	c.Good = len(c.Problems) == 0
	return c, nil
}

// readSmall reads a regular file of at most yamlfile.MaxBytes below root.
func readSmall(root *os.Root, name string) ([]byte, error) {
	info, err := root.Stat(filepath.FromSlash(name))
	var data []byte
	switch {
	case err != nil:
	case !info.Mode().IsRegular():
		return nil, errors.New("is no regular file")
	case info.Size() > yamlfile.MaxBytes:
		return nil, fmt.Errorf("is %d bytes, over the limit of %d", info.Size(), yamlfile.MaxBytes)
	default:
		data, err = root.ReadFile(filepath.FromSlash(name))
	}
	var pe *fs.PathError
	if errors.As(err, &pe) && !errors.Is(err, fs.ErrNotExist) {
		err = fmt.Errorf("cannot be read: %w", pe.Err)
	}
	return data, err
}
