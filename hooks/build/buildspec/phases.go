package buildspec

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"

	"go.yaml.in/yaml/v4"

	"github.com/headgate-cd/headgate/gitd/yamlfile"
)

// Phase is one of the four phases.
type Phase struct {
	Name      string // install, pre_build, build, post_build
	RunAs     string // "" is the Spec's
	OnFailure OnFailure
	Runtimes  []Runtime // of install
	Commands  []string
	Finally   []string
}

// What a phase's failure leads to.
const (
	Abort    = "ABORT"
	Continue = "CONTINUE"
	Retry    = "RETRY"
)

// OnFailure is what follows when a phase fails. The zero value is CodeBuild's
// order of phases.
type OnFailure struct {
	Do    string         // "", Abort, Continue or Retry
	Times int            // how often the build may begin again
	Match *regexp.Regexp // that the failure's message must match
}

// Runtime is a language's tools in a version: "3.11", "18.x", "latest", or "$VAR".
type Runtime struct {
	Name, Version string
	Line          int
}

// Names are the phases in the order in which they run.
var Names = []string{"install", "pre_build", "build", "post_build"}

// runtimes are those that CodeBuild's images have.
var runtimes = []string{"android", "dotnet", "golang", "java", "nodejs", "php", "python", "ruby"}

func (r *reader) user(n *yaml.Node) string {
	name := r.text(n, "run-as")
	if name != "" && !userForm().MatchString(name) {
		r.refuse(n, "name a user", "run-as %q is not the name of a user", name)
	}
	return name
}

var userForm = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[a-z_][a-z0-9_.-]{0,31}\$?$`) })

func (r *reader) phases(key, n *yaml.Node) {
	if n.Kind != yaml.MappingNode {
		r.refuse(key, `write phases: {build: {commands: ["make test"]}}`, "phases is not a mapping of phase names to phases")
		return
	}
	found := map[string]Phase{}
	r.pairs(n, func(key, value *yaml.Node) {
		if slices.Contains(Names, key.Value) {
			found[key.Value] = r.phase(key, value)
			return
		}
		fix := ""
		if near, ok := yamlfile.Nearest(strings.ReplaceAll(key.Value, "-", "_"), Names); ok {
			fix = fmt.Sprintf("did you mean %q?", near)
		} else if place := places[key.Value]; place != "" {
			fix = "it belongs in " + place + ": indent it less"
		}
		r.refuse(key, fix, "Invalid buildspec phase name: %s. Expecting: build,install,post_build,pre_build", key.Value)
	})
	commands := 0
	for _, name := range Names {
		if p, ok := found[name]; ok {
			r.spec.Phases = append(r.spec.Phases, p)
			commands += len(p.Commands) + len(p.Finally)
		}
	}
	if commands == 0 && len(r.problems) == 0 {
		r.refuse(key, `add commands, such as build: {commands: ["make test"]}`, "has no command: it would prove nothing")
	}
}

func (r *reader) phase(key, n *yaml.Node) Phase {
	p := Phase{Name: key.Value}
	if n.Kind == yaml.SequenceNode || n.Kind == yaml.ScalarNode && !null(n) {
		r.refuse(n, `write "commands:" below it, and the commands below that`,
			"phase %s is not a mapping of keys to values", key.Value)
		return p
	}
	known := []string{"run-as", "on-failure", "commands", "finally"}
	if key.Value == "install" {
		known = append(known, "runtime-versions")
	}
	r.mapping(n, "phase "+key.Value, func() {
		r.keys(n, "phases."+key.Value, known, func(k, value *yaml.Node) {
			switch k.Value {
			case "run-as":
				p.RunAs = r.user(value)
			case "on-failure":
				p.OnFailure = r.onFailure(value)
			case "runtime-versions":
				p.Runtimes = r.runtimes(value)
			case "commands":
				p.Commands = r.script(value, "commands")
			case "finally":
				p.Finally = r.script(value, "finally")
			}
		})
	})
	return p
}

// script reads commands, and keeps them for a look at their shell.
func (r *reader) script(n *yaml.Node, what string) []string {
	list := r.texts(n, what)
	if n.Kind == yaml.ScalarNode && !null(n) {
		r.commands = append(r.commands, n)
	}
	for _, item := range n.Content {
		if item.Kind == yaml.ScalarNode && !null(item) {
			r.commands = append(r.commands, item)
		}
	}
	return list
}

// Bounds of RETRY.
const (
	defaultRetries = 3
	maxRetries     = 100
)

// onFailure reads ABORT, CONTINUE, RETRY, RETRY-n, RETRY-regex and RETRY-n-regex
// (B25, B26, B28).
func (r *reader) onFailure(n *yaml.Node) OnFailure {
	text := r.text(n, "on-failure")
	switch text {
	case "":
		return OnFailure{}
	case Continue:
		r.warnings = append(r.warnings,
			r.problem(n, "on-failure is CONTINUE: what fails in this phase does not keep the tree from landing",
				"leave it out where the failure should count"))
		return OnFailure{Do: text}
	case Abort:
		return OnFailure{Do: text}
	}
	rest, ok := strings.CutPrefix(text, Retry)
	if !ok || rest != "" && rest[0] != '-' {
		fix := "use ABORT, CONTINUE or RETRY"
		if near, ok := yamlfile.Nearest(text, []string{Abort, Continue, Retry}); ok {
			fix = fmt.Sprintf("did you mean %q?", near)
		}
		r.refuse(n, fix, "on-failure %q is unknown", text)
		return OnFailure{}
	}
	do := OnFailure{Do: Retry, Times: defaultRetries}
	pattern := strings.TrimPrefix(rest, "-")
	number, behind, more := strings.Cut(pattern, "-")
	if times, err := strconv.Atoi(number); err == nil {
		do.Times, pattern = times, behind
		if times < 0 || times > maxRetries || more && behind == "" {
			r.refuse(n, "write RETRY-3, or RETRY-3-<regular expression>", "on-failure %q: a build is tried again 0 to %d times",
				text, maxRetries)
		}
	}
	if pattern == "" {
		pattern = ".*"
	}
	match, err := regexp.Compile(pattern)
	if err != nil {
		r.refuse(n, "write RETRY-3, or RETRY-3-<regular expression>",
			"on-failure %q: %q is not a regular expression", text, pattern)
	}
	do.Match = match
	return do
}

func (r *reader) runtimes(n *yaml.Node) (list []Runtime) {
	r.mapping(n, "runtime-versions", func() {
		r.pairs(n, func(key, value *yaml.Node) {
			if !slices.Contains(runtimes, key.Value) {
				fix := "This build image has the following runtimes: " + strings.Join(runtimes, ", ")
				if near, ok := yamlfile.Nearest(key.Value, runtimes); ok {
					fix = fmt.Sprintf("did you mean %q?", near)
				}
				r.refuse(key, fix, "Unknown runtime named '%s'", key.Value)
				return
			}
			version := r.text(value, "runtime-versions."+key.Value)
			if version == "" {
				r.refuse(key, "write a version, such as latest", "runtime-versions.%s has no version", key.Value)
			}
			list = append(list, Runtime{Name: key.Value, Version: version, Line: key.Line})
		})
	})
	return list
}
