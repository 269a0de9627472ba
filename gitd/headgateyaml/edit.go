package headgateyaml

import (
	"bytes"
	"errors"
	"fmt"
	"path"
	"reflect"
	"slices"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v4"

	"github.com/headgate-cd/headgate/gitd/yamlfile"
)

// ErrNoEdit is a file that only its authors can edit: its text is not of the usual form.
var ErrNoEdit = errors.New("the file is not written in a way that can be edited by a program")

// Rename gives an environment another name: in its key, in the `after` of others, and
// with `was`, so that it goes on from what it was. It declares what it declared: a
// path that was the default for the old name is written down. Everything else in the
// text stays as it is.
func Rename(data []byte, environment, to string) ([]byte, error) {
	file, err := Parse(Name, data)
	if err != nil {
		return nil, err
	}
	e, ok := file.Environment(environment)
	if !ok {
		return nil, fmt.Errorf("there is no environment %q in %s", environment, Name)
	}
	top, err := yamlfile.Parse(Name, data)
	if err != nil {
		return nil, err
	}
	var key, value *yaml.Node
	var afters []*yaml.Node // scalars that name it
	for k, v := range environmentNodes(top) {
		if k.Value == environment {
			key, value = k, v
		}
		if n := valueOf(v, "after"); n != nil && n.Value == environment {
			afters = append(afters, n)
		}
	}

	var edits edits
	add := []string{"was: " + environment}
	if was := valueOf(value, "was"); was != nil {
		edits.scalar(was, environment)
		add = nil
	}
	if valueOf(value, "path") == nil {
		of, _ := file.Application(e.Application)
		own := e.Path
		if of.Path != "" {
			own = strings.TrimPrefix(e.Path, path.Clean(of.Path)+"/")
		}
		add = append(add, "path: "+own)
	}
	edits.scalar(key, to)
	for _, n := range afters {
		edits.scalar(n, to)
	}
	edits.entries(key, value, add)
	edited, ok := edits.apply(data)
	if !ok {
		return nil, ErrNoEdit
	}

	got, err := Parse(Name, edited)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNoEdit, err)
	}
	if !reflect.DeepEqual(bare(got), bare(file.renamed(environment, to))) {
		return nil, ErrNoEdit
	}
	return edited, nil
}

// renamed is the file with an environment under another name.
func (f *File) renamed(environment, to string) *File {
	r := *f
	r.Environments = slices.Clone(f.Environments)
	for i := range r.Environments {
		e := &r.Environments[i]
		if e.Name == environment {
			e.Name, e.Was = to, environment
		}
		if e.After == environment {
			e.After = to
		}
	}
	return &r
}

// bare is a file without its lines.
func bare(f *File) *File {
	r := *f
	r.Environments, r.Applications, r.Schedules = slices.Clone(f.Environments), slices.Clone(
		f.Applications), slices.Clone(f.Schedules)
	for i := range r.Environments {
		r.Environments[i].Line, r.Environments[i].lines = 0, nil
	}
	for i := range r.Applications {
		r.Applications[i].Line = 0
	}
	for i := range r.Schedules {
		r.Schedules[i].Line, r.Schedules[i].lines = 0, nil
	}
	return &r
}

// environmentNodes yields the keys and values of all environments.
func environmentNodes(top *yaml.Node) func(yield func(key, value *yaml.Node) bool) {
	return func(yield func(key, value *yaml.Node) bool) {
		lists := []*yaml.Node{valueOf(top, "environments")}
		if apps := valueOf(top, "applications"); apps != nil {
			for _, app := range yamlfile.Pairs(apps) {
				lists = append(lists, valueOf(app, "environments"))
			}
		}
		for _, list := range lists {
			if list == nil {
				continue
			}
			for key, value := range yamlfile.Pairs(list) {
				if !yield(key, value) {
					return
				}
			}
		}
	}
}

// valueOf is the value of a mapping's key, nil without one.
func valueOf(n *yaml.Node, name string) *yaml.Node {
	if n == nil || n.Kind != yaml.MappingNode {
		return nil
	}
	for key, value := range yamlfile.Pairs(n) {
		if key.Value == name {
			return value
		}
	}
	return nil
}

// edits are replacements in a text, at places that its nodes name.
type edits struct {
	at     []edit
	cannot bool
}

type edit struct {
	line, column int // from 1; column 0: whole lines before it
	old, new     string
}

// scalar replaces a scalar.
func (e *edits) scalar(n *yaml.Node, with string) {
	old := n.Value
	switch n.Style {
	case yaml.DoubleQuotedStyle:
		old = `"` + old + `"`
	case yaml.SingleQuotedStyle:
		old = "'" + old + "'"
	}
	e.at = append(e.at, edit{n.Line, n.Column, old, with})
}

// entries adds some to the mapping that a key has.
func (e *edits) entries(key, value *yaml.Node, add []string) {
	switch {
	case len(add) == 0:
	case value == nil || value.Kind != yaml.MappingNode || len(value.Content) == 0:
		e.cannot = true
	case value.Style&yaml.FlowStyle != 0:
		e.at = append(e.at, edit{value.Line, value.Column, "{", "{" + strings.Join(add, ", ") + ", "})
	default:
		indent := strings.Repeat(" ", value.Content[0].Column-1)
		text := ""
		for _, a := range add {
			text += indent + a + "\n"
		}
		e.at = append(e.at, edit{line: key.Line + 1, new: text})
	}
}

// apply makes them, the last first, so that the places of the others stay.
func (e *edits) apply(data []byte) ([]byte, bool) {
	mark := []byte("\ufeff")
	text := bytes.TrimPrefix(data, mark)
	lines := strings.SplitAfter(string(text), "\n")
	slices.SortFunc(e.at, func(a, b edit) int {
		if a.line != b.line {
			return b.line - a.line
		}
		return b.column - a.column
	})
	for _, one := range e.at {
		if e.cannot || one.line < 1 || one.line > len(lines) {
			return nil, false
		}
		line, at := lines[one.line-1], 0
		for range one.column - 1 { // columns count characters
			_, size := utf8.DecodeRuneInString(line[at:])
			at += size
		}
		if !strings.HasPrefix(line[at:], one.old) {
			return nil, false
		}
		lines[one.line-1] = line[:at] + one.new + line[at+len(one.old):]
	}
	return []byte(strings.Join(lines, "")), true
}
