package yamlfile

import (
	"bytes"
	"slices"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v4"
)

// ValueOf is the value of a mapping's key, nil without one.
func ValueOf(n *yaml.Node, name string) *yaml.Node {
	if n == nil || n.Kind != yaml.MappingNode {
		return nil
	}
	for key, value := range Pairs(n) {
		if key.Value == name {
			return value
		}
	}
	return nil
}

// Edits are replacements in a text, at places that its nodes name.
type Edits struct {
	at     []edit
	cannot bool
}

type edit struct {
	line, column int // from 1; column 0: whole lines before it
	old, new     string
}

// Scalar replaces a scalar.
func (e *Edits) Scalar(n *yaml.Node, with string) {
	old := n.Value
	switch n.Style {
	case yaml.DoubleQuotedStyle:
		old = `"` + old + `"`
	case yaml.SingleQuotedStyle:
		old = "'" + old + "'"
	}
	e.at = append(e.at, edit{n.Line, n.Column, old, with})
}

// Entries adds some to the mapping that a key has.
func (e *Edits) Entries(key, value *yaml.Node, add []string) {
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

// Apply makes them, the last first, so that the places of the others stay. It says
// whether the text is of a form in which that can be done.
func (e *Edits) Apply(data []byte) ([]byte, bool) {
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
