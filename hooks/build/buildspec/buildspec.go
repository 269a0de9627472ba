// Package buildspec reads buildspec.yml, AWS CodeBuild's format, versions 0.1
// and 0.2, to the letter of CodeBuild: strict where CodeBuild is strict
// (what it would fail on is refused, with file, line and column), lenient where
// real files are sloppy (a scalar where a list belongs, empty lists, keys twice).
//
// Nothing is passed over in silence. A key that is nearly one of CodeBuild's, or
// stands where it has no effect, is refused: the build would do less than its
// author thinks. A key that nobody knows is warned of.
package buildspec

import (
	"fmt"
	"maps"
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
	RunAs     string // user of all phases that name none; "" is root
	Variables []Variable
	Secrets   []Secret
	Exported  []string // names of variables whose values are told at the end
	Phases    []Phase  // those the file has, in the order in which they run
	Reports   []Report
	Artifacts []Artifact
	Cache     Cache
	Batch     *Batch // nil: one build
}

// Phase finds a phase by name; the zero Phase when the file does not have it.
func (s *Spec) Phase(name string) Phase {
	for _, p := range s.Phases {
		if p.Name == name {
			return p
		}
	}
	return Phase{}
}

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
	commands []*yaml.Node // of all phases
}

func (r *reader) problem(at *yaml.Node, what, fix string) yamlfile.Problem {
	return yamlfile.Problem{File: r.file, Line: at.Line, Column: at.Column, What: what, Fix: fix}
}

func (r *reader) refuse(at *yaml.Node, fix, format string, args ...any) {
	r.problems = append(r.problems, r.problem(at, fmt.Sprintf(format, args...), fix))
}

func (r *reader) warn(at *yaml.Node, format string, args ...any) {
	r.warnings = append(r.warnings, r.problem(at, fmt.Sprintf(format, args...), ""))
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

// Where a key belongs that is found elsewhere. Those that stand in several places
// are not here.
var places = map[string]string{
	"commands": "a phase, such as phases.build", "finally": "a phase, such as phases.build",
	"on-failure": "a phase, such as phases.build", "runtime-versions": "phases.install",
	"install": "phases", "pre_build": "phases", "build": "phases", "post_build": "phases",
	"phases": "the top of the file", "env": "the top of the file", "reports": "the top of the file",
	"artifacts": "the top of the file", "cache": "the top of the file", "batch": "the top of the file",
	"variables": "env", "parameter-store": "env", "secrets-manager": "env", "exported-variables": "env", "shell": "env",
	"secondary-artifacts": "artifacts", "exclude-paths": "artifacts", "enable-symlinks": "artifacts",
	"s3-prefix":     "artifacts",
	"fallback-keys": "cache", "paths": "cache",
	"build-list": "batch", "build-matrix": "batch", "build-graph": "batch", "build-fanout": "batch", "fast-fail": "batch",
}

// What people write who know another builder's words.
var synonyms = map[string]string{
	"steps": "commands", "script": "commands", "scripts": "commands", "run": "commands", "cmd": "commands",
	"environment": "env", "environment-variables": "environment_variables", "outputs": "artifacts", "stages": "phases",
	"depends-on": "depend-on", "needs": "depend-on",
}

// keys is pairs for a mapping whose keys are known. One that was probably meant to
// be one of them, or that has an effect elsewhere alone, is refused; others are
// warned of.
func (r *reader) keys(n *yaml.Node, under string, known []string, each func(key, value *yaml.Node)) {
	r.pairs(n, func(key, value *yaml.Node) {
		if slices.Contains(known, key.Value) {
			each(key, value)
			return
		}
		p := yamlfile.UnknownKey(r.file, key, under, slices.Clone(known))
		p.Column = key.Column
		if meant := synonyms[key.Value]; slices.Contains(known, meant) {
			p.Fix = fmt.Sprintf("did you mean %q?", meant)
			r.problems = append(r.problems, p)
			return
		}
		if belongs := places[key.Value]; belongs != "" && belongs != under {
			p.Fix = "it belongs in " + belongs
			if key.Value == "runtime-versions" { // nobody misses them
				r.warnings = append(r.warnings, p)
				return
			}
			r.problems = append(r.problems, p)
			return
		}
		if _, near := yamlfile.Nearest(key.Value, known); near {
			r.problems = append(r.problems, p)
			return
		}
		r.warnings = append(r.warnings, p)
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

// oneOf reads one of some words, in any case; "" for nothing.
func (r *reader) oneOf(n *yaml.Node, what string, words []string) string {
	text := r.text(n, what)
	if text == "" {
		return ""
	}
	for _, w := range words {
		if strings.EqualFold(w, text) {
			return w
		}
	}
	fix := "use " + strings.Join(words, ", ")
	if near, ok := yamlfile.Nearest(text, words); ok {
		fix = fmt.Sprintf("did you mean %q?", near)
	} else if i := slices.IndexFunc(
		words, func(w string) bool { return strings.HasPrefix(w, strings.ToUpper(text)) }); i >= 0 {
		fix = fmt.Sprintf("did you mean %q?", words[i])
	}
	r.refuse(n, fix, "%s %q is unknown", what, text)
	return ""
}

func (r *reader) mapping(n *yaml.Node, what string, then func()) {
	switch {
	case null(n):
	case n.Kind != yaml.MappingNode:
		r.refuse(n, "write 'key: value' below it, a line for each, without '- '",
			"%s is not a mapping of keys to values", what)
	default:
		then()
	}
}

func (r *reader) top(top *yaml.Node) {
	versioned, phased := false, false
	handlers := map[string]func(key, value *yaml.Node){
		"version": func(_, value *yaml.Node) {
			versioned = true
			r.spec.Version = value.Value
			if value.Kind != yaml.ScalarNode || value.Value != "0.1" && value.Value != "0.2" {
				r.refuse(value, "write version: 0.2", "version %q is neither 0.1 nor 0.2", value.Value)
			}
		},
		"run-as": func(_, value *yaml.Node) { r.spec.RunAs = r.user(value) },
		"env":    func(_, value *yaml.Node) { r.env(value) },
		"environment_variables": func(key, value *yaml.Node) { // 0.1's
			r.mapping(value, key.Value, func() {
				r.keys(value, key.Value, []string{"plaintext", "variables"}, func(_, v *yaml.Node) { r.variables(v) })
			})
		},
		"batch":     func(key, value *yaml.Node) { r.batch(key, value) },
		"phases":    func(key, value *yaml.Node) { phased = true; r.phases(key, value) },
		"artifacts": func(key, value *yaml.Node) { r.artifacts(key, value) },
		"reports":   func(key, value *yaml.Node) { r.reports(key, value) },
		"cache":     func(key, value *yaml.Node) { r.cache(key, value) },
		"proxy":     func(_, value *yaml.Node) { r.proxy(value) },
	}
	r.keys(top, "", slices.Sorted(maps.Keys(handlers)), func(key, value *yaml.Node) { handlers[key.Value](key, value) })
	r.shells()
	r.blocks()
	if !versioned {
		r.refuse(top, "add version: 0.2 at the top", "has no version")
	}
	if !phased && (r.spec.Batch == nil || !r.spec.Batch.elsewhere()) {
		r.refuse(top, `add phases: {build: {commands: ["make test"]}}`, "has no phases")
	}
}

// proxy is about CodeBuild's own connections, which a build here does not have.
func (r *reader) proxy(n *yaml.Node) {
	r.mapping(n, "proxy", func() {
		r.keys(n, "proxy", []string{"upload-artifacts", "logs"}, func(key, value *yaml.Node) {
			if r.yes(value, "proxy."+key.Value) {
				r.warn(key, "proxy.%s has no effect here: artifacts and logs take no network", key.Value)
			}
		})
	})
}
