// Package yamlfile reads YAML that people write: headgate.yaml, server.yaml,
// buildspec.yml, compose.yaml. It bounds the input, keeps positions, and turns
// every fault into a Problem that says where it is and what to do about it.
//
// It knows no file format of its own; the packages that own a format keep its
// rules and report them as Problems too, so that every refusal reads alike.
package yamlfile

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode"
	"unicode/utf8"

	"go.yaml.in/yaml/v4"
)

// Bounds of one file.
const (
	MaxBytes = 1 << 20 // bytes in one file
	MaxDepth = 64      // nesting of mappings and sequences
	MaxNodes = 100_000 // scalars, mappings and sequences in one file
)

// Parse reads one YAML document and returns its top node. It refuses input over
// the bounds, aliases, text that is not UTF-8, several documents, and an empty
// file. Duplicate keys are left to the caller, whose format decides. The error
// is Problems.
func Parse(file string, data []byte) (*yaml.Node, error) { return parse(file, data, false) }

// ParseAliased is Parse for formats in which aliases (*name) and merges (<<) are
// usual: each is replaced by what it stands for. The bounds hold for the result.
func ParseAliased(file string, data []byte) (*yaml.Node, error) { return parse(file, data, true) }

func parse(file string, data []byte, aliases bool) (*yaml.Node, error) {
	fail := func(line int, fix, format string, args ...any) (*yaml.Node, error) {
		return nil, Problems{{File: file, Line: line, What: fmt.Sprintf(format, args...), Fix: fix}}
	}
	if len(data) > MaxBytes {
		return fail(0, "keep it small; move data to files of its own", "is %d bytes, over the limit of %d",
			len(data), MaxBytes)
	}
	if !utf8.Valid(data) {
		return fail(0, "save it as UTF-8", "is not UTF-8 text")
	}
	data = bytes.TrimPrefix(data, []byte("\ufeff"))
	if at := bytes.IndexFunc(data, isForbidden); at >= 0 {
		r, _ := utf8.DecodeRune(data[at:])
		return fail(1+bytes.Count(data[:at], []byte("\n")), "remove it", "holds the control character %U", r)
	}
	if line, depth := deepest(data); depth > MaxDepth {
		return fail(line, "", "nests deeper than %d levels", MaxDepth)
	}
	dec := yaml.NewDecoder(bytes.NewReader(data))
	var doc yaml.Node
	if err := dec.Decode(&doc); err != nil {
		if errors.Is(err, io.EOF) {
			return fail(0, "write it, or remove it", "is empty")
		}
		p := problemOf(file, err)
		p.Line = min(p.Line, 1+bytes.Count(bytes.TrimSuffix(data, []byte("\n")), []byte("\n"))) // not behind the end
		p.What = "is not YAML: " + p.What
		if strings.Contains(p.What, "found character that cannot start any token") && bytes.Contains(data, []byte("\t")) {
			p.Fix = "indent with spaces; YAML does not allow tabs"
		}
		return nil, Problems{p}
	}
	var second yaml.Node
	if err := dec.Decode(&second); err == nil {
		return fail(second.Line, "keep the first", "holds more than one YAML document")
	}
	if len(doc.Content) == 0 {
		return fail(0, "write it, or remove it", "is empty")
	}
	top := doc.Content[0]
	count := 0
	var walk func(n *yaml.Node, depth int) *Problem
	walk = func(n *yaml.Node, depth int) *Problem {
		count++
		if n.Kind == yaml.AliasNode && aliases {
			if p := resolve(file, n); p != nil {
				return p
			}
		}
		switch {
		case n.Kind == yaml.AliasNode:
			return &Problem{File: file, Line: n.Line, What: "uses a YAML alias (*" + n.Value + ")", Fix: "write the value out"}
		case depth > MaxDepth:
			return &Problem{File: file, Line: n.Line, What: fmt.Sprintf("nests deeper than %d levels", MaxDepth)}
		case count > MaxNodes:
			return &Problem{File: file, Line: n.Line, What: fmt.Sprintf("holds more than %d values", MaxNodes)}
		}
		for _, c := range n.Content {
			if p := walk(c, depth+1); p != nil {
				return p
			}
		}
		if aliases && n.Kind == yaml.MappingNode {
			return merge(file, n)
		}
		return nil
	}
	if p := walk(top, 1); p != nil {
		return nil, Problems{*p}
	}
	return top, nil
}

// isForbidden reports whether YAML does not allow r anywhere.
func isForbidden(r rune) bool {
	return unicode.IsControl(r) && !strings.ContainsRune("\t\n\r\u0085", r)
}

// deepest estimates the nesting of flow collections without parsing, so that a
// file of brackets is refused before the parser spends its stack on it.
func deepest(data []byte) (line, depth int) {
	at, level := 1, 0
	for _, b := range data {
		switch b {
		case '\n':
			at++
		case '[', '{':
			if level++; level > depth {
				depth, line = level, at
			}
		case ']', '}':
			if level > 0 {
				level--
			}
		}
	}
	return line, depth
}

// resolve replaces an alias by a copy of what it stands for. Aliases in the copy
// are left for whoever walks it: one that holds itself meets the bound on depth.
func resolve(file string, n *yaml.Node) *Problem {
	if n.Alias == nil || n.Alias.Kind == yaml.AliasNode {
		return &Problem{File: file, Line: n.Line, What: "uses the YAML alias *" + n.Value + ", which stands for nothing",
			Fix: "write the value out"}
	}
	c := *n.Alias
	c.Anchor = ""
	c.Content = make([]*yaml.Node, len(n.Alias.Content))
	for i, child := range n.Alias.Content {
		copied := *child
		c.Content[i] = &copied
	}
	*n = c
	return nil
}

// merge puts what "<<" of a mapping stands for into it. Keys of its own win, and
// of several mappings the first.
func merge(file string, n *yaml.Node) *Problem {
	var own, from []*yaml.Node
	for key, value := range Pairs(n) {
		if key.Tag != "!!merge" {
			own = append(own, key, value)
			continue
		}
		mappings := []*yaml.Node{value}
		if value.Kind == yaml.SequenceNode {
			mappings = value.Content
		}
		for _, m := range mappings {
			if m.Kind != yaml.MappingNode {
				return &Problem{File: file, Line: key.Line, What: `merges ("<<") what is not a mapping`,
					Fix: "name an anchor of a mapping, or write the keys out"}
			}
			from = append(from, m)
		}
	}
	if len(from) == 0 {
		return nil
	}
	have := map[string]bool{}
	for i := 0; i < len(own); i += 2 {
		have[own[i].Value] = true
	}
	for _, m := range from {
		for key, value := range Pairs(m) {
			if !have[key.Value] {
				have[key.Value] = true
				own = append(own, key, value)
			}
		}
	}
	n.Content = own
	return nil
}

// Pairs walks the keys and values of a mapping in file order.
func Pairs(n *yaml.Node) func(yield func(key, value *yaml.Node) bool) {
	return func(yield func(key, value *yaml.Node) bool) {
		if n == nil || n.Kind != yaml.MappingNode {
			return
		}
		for i := 0; i+1 < len(n.Content); i += 2 {
			if !yield(n.Content[i], n.Content[i+1]) {
				return
			}
		}
	}
}
