// Package buildspec reads buildspec.yml, AWS CodeBuild's format, versions 0.1
// and 0.2, to the letter of CodeBuild: strict where CodeBuild is strict
// (what it would fail on is refused, with file and line), lenient where real
// files are sloppy (a scalar where a list belongs, empty lists, keys twice).
//
// What this version of Headgate does not do is never passed over in silence: a
// key that would change the outcome is refused, one that would not is warned of.
package buildspec

import (
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v4"

	"github.com/headgate-cd/headgate/gitd/yamlfile"
)

// Default is where a buildspec stands unless somebody says otherwise (B01).
const Default = "buildspec.yml"

// Spec is one buildspec.
type Spec struct {
	Version   string // "0.1" or "0.2"
	Shell     string // env.shell: "sh" or "bash"
	Variables []Variable
	Phases    []Phase // those the file has, in the order in which they run
	Artifacts []Artifact
}

// Variable is one of env.variables; its value is literal text (B32, B33).
type Variable struct{ Name, Value string }

// Phase is one of the four phases.
type Phase struct {
	Name      string // install, pre_build, build, post_build
	OnFailure string // "", ABORT or CONTINUE
	Commands  []string
	Finally   []string
}

// Artifact is what to keep: the main one is called Main, the others by their
// identifier.
type Artifact struct {
	ID            string
	Name          string // may hold $VAR and $(command); "" is ID
	Files         []string
	Exclude       []string
	BaseDirectory string // may hold $VAR
	DiscardPaths  bool
	Symlinks      bool
	Line          int
}

// Main is the identifier of the artifact at the top of `artifacts`.
const Main = "main"

// Names are the phases in the order in which they run.
var Names = []string{"install", "pre_build", "build", "post_build"}

var topKeys = []string{"version", "run-as", "env", "environment_variables", "proxy", "batch", "phases", "reports", "artifacts", "cache"}

// Parse reads a buildspec. Warnings are told to the person who pushes and
// refuse nothing; err is yamlfile.Problems.
func Parse(file string, data []byte) (spec *Spec, warnings yamlfile.Problems, err error) {
	top, err := yamlfile.Parse(file, data)
	if err != nil {
		return nil, nil, err
	}
	r := &reader{file: file, spec: &Spec{Shell: "sh"}}
	if top.Kind != yaml.MappingNode {
		r.refuse(top, `begin with "version: 0.2"`, "is not a mapping of keys to values")
		return nil, nil, r.problems
	}
	r.top(top)
	if err := r.problems.Err(); err != nil {
		return nil, r.warnings, err
	}
	return r.spec, r.warnings, nil
}

type reader struct {
	file     string
	spec     *Spec
	problems yamlfile.Problems
	warnings yamlfile.Problems
}

func (r *reader) refuse(at *yaml.Node, fix, format string, args ...any) {
	r.problems = append(r.problems, yamlfile.Problem{File: r.file, Line: at.Line, What: fmt.Sprintf(format, args...), Fix: fix})
}

func (r *reader) warn(at *yaml.Node, format string, args ...any) {
	r.warnings = append(r.warnings, yamlfile.Problem{File: r.file, Line: at.Line, What: fmt.Sprintf(format, args...)})
}

func null(n *yaml.Node) bool { return n == nil || n.Kind == yaml.ScalarNode && n.Tag == "!!null" }

// pairs walks a mapping; of a key that is given twice the last counts (spec: "last
// wins, warn").
func (r *reader) pairs(n *yaml.Node, each func(key, value *yaml.Node)) {
	last := map[string]*yaml.Node{}
	for key := range yamlfile.Pairs(n) {
		if last[key.Value] != nil {
			r.warn(key, "%q is given twice; the last counts", key.Value)
		}
		last[key.Value] = key
	}
	for key, value := range yamlfile.Pairs(n) {
		if last[key.Value] == key {
			each(key, value)
		}
	}
}

// keys is pairs for a mapping whose keys are known. Others are warned of, with
// the nearest that is.
func (r *reader) keys(n *yaml.Node, under string, known []string, each func(key, value *yaml.Node)) {
	r.pairs(n, func(key, value *yaml.Node) {
		if slices.Contains(known, key.Value) {
			each(key, value)
			return
		}
		r.warnings = append(r.warnings, yamlfile.UnknownKey(r.file, key, under, slices.Clone(known)))
	})
}

// text reads a text; nothing is "".
func (r *reader) text(n *yaml.Node, what string) string {
	switch {
	case null(n):
		return ""
	case n.Kind != yaml.ScalarNode:
		r.refuse(n, "write one text behind it", "%s is not text", what)
	}
	return n.Value
}

func (r *reader) top(top *yaml.Node) {
	phases, versioned := false, false
	r.keys(top, "", topKeys, func(key, value *yaml.Node) {
		switch key.Value {
		case "version":
			versioned = true
			r.spec.Version = value.Value
			if value.Kind != yaml.ScalarNode || value.Value != "0.1" && value.Value != "0.2" {
				r.refuse(value, "write version: 0.2", "version %q is neither 0.1 nor 0.2", value.Value)
			}
		case "run-as":
			r.runAs(value)
		case "env":
			r.env(value)
		case "environment_variables":
			r.mapping(value, key.Value, func() {
				r.keys(value, key.Value, []string{"plaintext", "variables"}, func(_, v *yaml.Node) { r.variables(v) })
			})
		case "batch":
			r.refuse(key, "remove it, or put its builds into several repositories", "batch builds are not in this version")
		case "phases":
			phases = true
			r.phases(key, value)
		case "artifacts":
			r.artifacts(key, value)
		case "reports":
			if !null(value) {
				r.warn(key, "reports are not read by this version; exit statuses alone decide")
			}
		case "cache":
			if !null(value) {
				r.warn(key, "cache is not kept by this version; every build starts without one")
			}
		case "proxy":
			r.warn(key, "proxy has no effect here")
		}
	})
	if !versioned {
		r.refuse(top, "add version: 0.2 at the top", "has no version")
	}
	if !phases {
		r.refuse(top, `add phases: {build: {commands: ["make test"]}}`, "has no phases")
	}
}

func (r *reader) mapping(n *yaml.Node, what string, then func()) {
	switch {
	case null(n):
	case n.Kind != yaml.MappingNode:
		r.refuse(n, "write 'key: value' below it, a line for each, without '- '", "%s is not a mapping of keys to values", what)
	default:
		then()
	}
}

func (r *reader) runAs(n *yaml.Node) {
	if user := r.text(n, "run-as"); user != "root" && user != "" {
		r.refuse(n, "remove run-as: commands run as the sandbox's only user, called root", "run-as %q is not in this version", user)
	}
}

var variableForm = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

func (r *reader) env(n *yaml.Node) {
	r.mapping(n, "env", func() {
		r.keys(n, "env", []string{"shell", "variables", "parameter-store", "secrets-manager", "exported-variables", "git-credential-helper"}, func(key, value *yaml.Node) {
			switch key.Value {
			case "shell":
				switch shell := strings.TrimPrefix(r.text(value, "env.shell"), "/bin/"); shell {
				case "sh", "bash":
					r.spec.Shell = shell
				case "":
				default:
					r.refuse(value, "use sh or bash", "shell %q is not here", value.Value)
				}
			case "variables":
				r.variables(value)
			case "parameter-store", "secrets-manager":
				if !null(value) && len(value.Content) > 0 {
					r.refuse(key, "remove it; this version keeps no secrets", "env.%s is not in this version", key.Value)
				}
			case "exported-variables":
				if !null(value) {
					r.warn(key, "exported-variables have no effect in this version")
				}
			case "git-credential-helper":
				r.warn(key, "git-credential-helper has no effect here")
			}
		})
	})
}

func (r *reader) variables(n *yaml.Node) {
	r.mapping(n, "env.variables", func() {
		r.pairs(n, func(key, value *yaml.Node) {
			v := Variable{key.Value, value.Value}
			switch {
			case value.Kind != yaml.ScalarNode:
				r.refuse(value, "write its value as text", "variable %s is not text", key.Value)
			case !variableForm.MatchString(v.Name):
				r.refuse(key, "use letters, digits and '_'", "%q is not a name for a variable", v.Name)
			case strings.HasPrefix(v.Name, "CODEBUILD_"):
				r.refuse(key, "choose another name", "%s: names beginning with CODEBUILD_ are CodeBuild's own", v.Name)
			case strings.ContainsRune(v.Value, 0):
				r.refuse(value, "remove it", "variable %s holds a zero byte", v.Name)
			case null(value):
				v.Value = ""
			}
			r.spec.Variables = append(r.spec.Variables, v)
		})
	})
}

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
		r.refuse(n, `write "commands:" below it, and the commands below that`, "phase %s is not a mapping of keys to values", key.Value)
		return p
	}
	r.mapping(n, "phase "+key.Value, func() {
		r.keys(n, "phases."+key.Value, []string{"run-as", "on-failure", "runtime-versions", "commands", "finally", "steps"}, func(k, value *yaml.Node) {
			switch k.Value {
			case "run-as":
				r.runAs(value)
			case "on-failure":
				switch p.OnFailure = r.text(value, "on-failure"); {
				case p.OnFailure == "" || p.OnFailure == "ABORT" || p.OnFailure == "CONTINUE":
				case strings.HasPrefix(p.OnFailure, "RETRY"):
					r.refuse(value, "use ABORT or CONTINUE", "on-failure %s is not in this version", p.OnFailure)
				default:
					r.refuse(value, "use ABORT or CONTINUE", "on-failure %q is unknown", p.OnFailure)
				}
			case "runtime-versions":
				if !null(value) {
					r.warn(k, "Skipping install of runtimes. runtime-versions have no effect here: builds use what the server has")
				}
			case "commands":
				p.Commands = r.texts(value, "commands")
			case "finally":
				p.Finally = r.texts(value, "finally")
			case "steps":
				r.warn(k, "unknown key \"steps\" in \"phases.%s\"; did you mean \"commands\"?", key.Value)
			}
		})
	})
	return p
}

// texts reads a list of texts, or one text alone; nothing is an empty list.
func (r *reader) texts(n *yaml.Node, what string) []string {
	switch {
	case null(n):
		return nil
	case n.Kind == yaml.ScalarNode:
		return []string{n.Value}
	case n.Kind != yaml.SequenceNode:
		r.refuse(n, "write a list, a line for each, each beginning with '- '", "%s is neither a list nor a text", what)
		return nil
	}
	var list []string
	for _, item := range n.Content {
		switch {
		case null(item):
		case item.Kind == yaml.ScalarNode:
			list = append(list, item.Value)
		default:
			fix := "write it as one text"
			if item.Kind == yaml.MappingNode {
				fix = "a text that holds ': ' must be quoted"
			}
			r.refuse(item, fix, "an item of %s is not text", what)
		}
	}
	return list
}

var artifactKeys = []string{"files", "name", "discard-paths", "base-directory", "exclude-paths", "enable-symlinks", "s3-prefix"}

var identifierForm = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}$`)

func (r *reader) artifacts(key, n *yaml.Node) {
	r.mapping(n, "artifacts", func() {
		main := Artifact{ID: Main, Line: key.Line}
		r.keys(n, "artifacts", append(slices.Clone(artifactKeys), "secondary-artifacts", "type"), func(k, value *yaml.Node) {
			if k.Value != "secondary-artifacts" {
				r.artifact(&main, k, value)
				return
			}
			r.mapping(value, "secondary-artifacts", func() {
				r.pairs(value, func(id, each *yaml.Node) {
					a := Artifact{ID: id.Value, Line: id.Line}
					if !identifierForm.MatchString(a.ID) || a.ID == Main {
						r.refuse(id, "use letters, digits, '.', '_' and '-'", "%q is not an identifier for an artifact", a.ID)
					}
					r.mapping(each, "artifact "+a.ID, func() {
						r.keys(each, "artifacts.secondary-artifacts."+a.ID, artifactKeys, func(k, v *yaml.Node) { r.artifact(&a, k, v) })
					})
					if len(a.Files) == 0 {
						r.refuse(id, `add files: ["**/*"]`, "artifact %s names no files", a.ID)
					}
					r.spec.Artifacts = append(r.spec.Artifacts, a)
				})
			})
		})
		if len(main.Files) > 0 {
			r.spec.Artifacts = append([]Artifact{main}, r.spec.Artifacts...)
		} else if len(r.spec.Artifacts) == 0 && len(r.problems) == 0 {
			r.refuse(key, `add files: ["**/*"]`, "artifacts names no files")
		}
	})
}

func (r *reader) artifact(a *Artifact, key, value *yaml.Node) {
	switch key.Value {
	case "files":
		a.Files = r.texts(value, "files")
	case "exclude-paths":
		a.Exclude = r.texts(value, "exclude-paths")
	case "name":
		a.Name = r.text(value, "name")
	case "base-directory":
		a.BaseDirectory = r.text(value, "base-directory")
		if clean := path.Clean(a.BaseDirectory); clean == ".." || strings.HasPrefix(clean, "../") {
			r.refuse(value, "name a directory in the source", "base-directory %q is outside of the source", a.BaseDirectory)
		}
	case "discard-paths":
		a.DiscardPaths = r.yes(value, key.Value)
	case "enable-symlinks":
		a.Symlinks = r.yes(value, key.Value)
	case "s3-prefix", "type":
		r.warn(key, "%s has no effect here", key.Value)
	}
}

func (r *reader) yes(n *yaml.Node, what string) bool {
	text := r.text(n, what)
	switch strings.ToLower(text) {
	case "yes", "true", "on":
		return true
	case "no", "false", "off", "":
		return false
	}
	r.refuse(n, "write yes or no", "%s %q is neither yes nor no", what, text)
	return false
}
