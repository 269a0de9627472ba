package main

import (
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"

	"go.yaml.in/yaml/v4"
)

// project is what was found in a directory: how it is built, tested and run.
type project struct {
	kind      string   // "Go"
	saw       []string // what that was told by, a line each
	notes     []string // what could not be known, and what to do about it
	buildspec string   // one that is there already
	deaf      bool     // nothing in it seems to read $PORT
	network   string   // why the build needs it; empty: it does not
	variables []string // of the build, NAME=value
	install   []string // commands that fetch what it needs
	build     []string // commands that build and test it, in order
	test      []string // those that test
	artifacts []string // patterns of what the build brings
	command   string   // what runs it, for compose.yaml; empty: nothing serves
	runtime   []string // variables of what runs, NAME=value
}

func (p *project) sawf(format string, args ...any) {
	p.saw = append(p.saw, fmt.Sprintf(format, args...))
}
func (p *project) note(format string, args ...any) {
	p.notes = append(p.notes, fmt.Sprintf(format, args...))
}

// tests adds commands that test.
func (p *project) tests(commands ...string) {
	p.test, p.build = append(p.test, commands...), append(p.build, commands...)
}

// sources are the files of a project. What cannot be read is taken for absent:
// this guesses, and a person reads what it wrote.
type sources struct{ root *os.Root }

// read is a file's text, "" when there is none.
func (s sources) read(name string) string {
	f, err := s.root.Open(name)
	if err != nil {
		return ""
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, 1<<20))
	if err != nil { // a directory
		return ""
	}
	return string(data)
}

func (s sources) has(name string) bool {
	_, err := s.root.Stat(name)
	return err == nil
}

// first is the first of names that is there.
func (s sources) first(names ...string) string {
	for _, name := range names {
		if s.has(name) {
			return name
		}
	}
	return ""
}

// skipped are directories that hold other people's files, or what a build makes.
var skipped = []string{".git", "node_modules", "vendor", "target", "dist", "build", "__pycache__", ".venv", "venv",
	".tox", "deploy"}

// find lists files by a pattern on their names, bounded, in the order of a walk.
func (s sources) find(pattern string) (found []string) {
	visited := 0
	err := fs.WalkDir(s.root.FS(), ".", func(name string, e fs.DirEntry, err error) error {
		if visited++; visited > 20_000 || len(found) == 1000 {
			return fs.SkipAll
		}
		switch {
		case err != nil && e != nil && e.IsDir():
			return fs.SkipDir
		case err != nil:
			return nil
		case e.IsDir() && name != "." && slices.Contains(skipped, e.Name()):
			return fs.SkipDir
		}
		if ok, _ := path.Match(pattern, e.Name()); ok && e.Type().IsRegular() { // the pattern is ours
			found = append(found, name)
		}
		return nil
	})
	if err != nil {
		return nil
	}
	return found
}

// mentions reports whether one of the files that match says text.
func (s sources) mentions(text string, patterns ...string) bool {
	for _, pattern := range patterns {
		for _, name := range s.find(pattern) {
			if strings.Contains(s.read(name), text) {
				return true
			}
		}
	}
	return false
}

// procfile is the line of a Procfile for the process "web".
func procfile(text string) string {
	for line := range strings.Lines(text) {
		if name, command, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "web" {
			return strings.TrimSpace(command)
		}
	}
	return ""
}

// shellCommand is a line that a shell reads, as a command of compose.yaml, which
// is none. Its variables are left to the shell.
func shellCommand(line string) string {
	if !strings.ContainsAny(line, "|&;<>(){}*?`\"'\\$") {
		return line
	}
	if !strings.ContainsAny(line, "|&;<>(){}*?`\"'\\") {
		return line // $PORT is replaced
	}
	return "sh -c '" + strings.ReplaceAll(strings.ReplaceAll(line, "'", `'\''`), "$", "$$") + "'"
}

// composeOf says what of a compose file has no place here.
func composeOf(p *project, s sources) {
	name := s.first("compose.yaml", "compose.yml", "docker-compose.yaml", "docker-compose.yml")
	if name == "" {
		return
	}
	var file struct {
		Services map[string]struct {
			Image string    `yaml:"image"`
			Build yaml.Node `yaml:"build"`
		} `yaml:"services"`
	}
	if err := yaml.Unmarshal([]byte(s.read(name)), &file); err != nil {
		p.note("%s cannot be read: %v", name, err)
		return
	}
	var images []string
	for service, of := range file.Services {
		if of.Image != "" && of.Build.IsZero() {
			images = append(images, fmt.Sprintf("%s (%s)", service, of.Image))
		}
	}
	slices.Sort(images)
	p.sawf("%s with %d services", name, len(file.Services))
	if len(images) > 0 {
		p.note(
			"%s is of images, which do not run here: %s. Run them where they run today, and give their addresses under environment: in deploy/*/compose.yaml",
			name, strings.Join(images, ", "))
	}
}
