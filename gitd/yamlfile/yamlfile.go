// Package yamlfile reads YAML that people write: headgate.yaml, server.yaml,
// buildspec.yml, compose.yaml. It bounds the input, keeps positions, and turns
// every fault into a Problem that says where it is and what to do about it.
//
// It knows no file format of its own; the rooms that own a format keep its
// rules and report them as Problems too, so that every refusal reads alike.
package yamlfile

import (
	"bytes"
	"errors"
	"fmt"
	"reflect"
	"regexp"
	"sort"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

// Bounds of one file.
const (
	MaxBytes = 1 << 20 // bytes in one file
	MaxDepth = 64      // nesting of mappings and sequences
	MaxNodes = 100_000 // scalars, mappings and sequences in one file
)

// Problem is one fault in a file, for the person who wrote the file.
type Problem struct {
	File string `json:"file"`
	Line int    `json:"line,omitempty"` // from 1; 0 when the file as a whole is meant
	What string `json:"what"`           // what is wrong, lower case, no full stop
	Fix  string `json:"fix,omitempty"`  // one concrete thing to do; may be empty
}

// Place is "file:line", or the file alone.
func (p Problem) Place() string {
	if p.Line == 0 {
		return p.File
	}
	return p.File + ":" + strconv.Itoa(p.Line)
}

func (p Problem) Error() string {
	s := p.Place() + ": " + p.What
	if p.Fix != "" {
		s += "; " + p.Fix
	}
	return s
}

// Problems is all that is wrong with some files. It is an error when it is not empty.
type Problems []Problem

func (ps Problems) Error() string {
	lines := make([]string, len(ps))
	for i, p := range ps {
		lines[i] = p.Error()
	}
	return strings.Join(lines, "\n")
}

// Err is ps as an error: nil when there is no problem.
func (ps Problems) Err() error {
	if len(ps) == 0 {
		return nil
	}
	return ps
}

// ProblemsIn returns the Problems inside err, if it carries any.
func ProblemsIn(err error) (Problems, bool) {
	var ps Problems
	if errors.As(err, &ps) {
		return ps, true
	}
	var p Problem
	if errors.As(err, &p) {
		return Problems{p}, true
	}
	return nil, false
}

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
		return fail(0, "keep it small; move data to files of its own", "is %d bytes, over the limit of %d", len(data), MaxBytes)
	}
	if !utf8.Valid(data) {
		return fail(0, "save it as UTF-8", "is not UTF-8 text")
	}
	data = bytes.TrimPrefix(data, []byte("\ufeff"))
	if line, depth := deepest(data); depth > MaxDepth {
		return fail(line, "", "nests deeper than %d levels", MaxDepth)
	}
	dec := yaml.NewDecoder(bytes.NewReader(data))
	var doc yaml.Node
	if err := dec.Decode(&doc); err != nil {
		if err.Error() == "EOF" {
			return fail(0, "write it, or remove it", "is empty")
		}
		line, what := position(err.Error())
		fix := ""
		if strings.Contains(what, "found character that cannot start any token") && bytes.Contains(data, []byte("\t")) {
			fix = "indent with spaces; YAML does not allow tabs"
		}
		return fail(syntaxLine(data, line, what), fix, "is not YAML: %s", what)
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
			return &Problem{file, n.Line, "uses a YAML alias (*" + n.Value + ")", "write the value out"}
		case depth > MaxDepth:
			return &Problem{file, n.Line, fmt.Sprintf("nests deeper than %d levels", MaxDepth), ""}
		case count > MaxNodes:
			return &Problem{file, n.Line, fmt.Sprintf("holds more than %d values", MaxNodes), ""}
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

// Decode reads a YAML mapping into a struct with yaml tags. Unknown and
// duplicate keys and wrong types are Problems with their line; an unknown key
// comes with the nearest one that exists. The struct may hold fields of type
// yaml.Node (not pointers to it) or types with UnmarshalYAML for what it wants to read itself.
func Decode(file string, data []byte, into any) error {
	top, err := Parse(file, data)
	if err != nil {
		return err
	}
	return DecodeNode(file, top, into)
}

// DecodeNode is Decode for a node that was already parsed.
func DecodeNode(file string, node *yaml.Node, into any) error {
	var ps Problems
	checkKeys(file, node, reflect.TypeOf(into).Elem(), "", &ps)
	if len(ps) > 0 {
		return ps
	}
	if err := node.Decode(into); err != nil {
		if ps, ok := ProblemsIn(err); ok {
			return ps
		}
		var te *yaml.TypeError
		if errors.As(err, &te) {
			for _, e := range te.Errors {
				line, what := position(e)
				ps = append(ps, Problem{File: file, Line: line, What: plainType(what, func(tag, text string) string { return keyAt(node, line, tag, text) })})
			}
			return ps
		}
		line, what := position(err.Error())
		return Problems{{File: file, Line: line, What: what}}
	}
	return nil
}

var unmarshaler = reflect.TypeFor[yaml.Unmarshaler]()

func checkKeys(file string, n *yaml.Node, t reflect.Type, path string, ps *Problems) {
	for t.Kind() == reflect.Pointer {
		if t.Implements(unmarshaler) {
			return
		}
		t = t.Elem()
	}
	if reflect.PointerTo(t).Implements(unmarshaler) || t == reflect.TypeFor[yaml.Node]() {
		return
	}
	switch {
	case t.Kind() == reflect.Slice && n.Kind == yaml.SequenceNode:
		for _, c := range n.Content {
			checkKeys(file, c, t.Elem(), path, ps)
		}
	case (t.Kind() == reflect.Map || t.Kind() == reflect.Struct) && n.Kind == yaml.MappingNode:
		fields := map[string]reflect.Type{}
		if t.Kind() == reflect.Struct {
			for f := range structFields(t) {
				fields[f.name] = f.typ
			}
		}
		*ps = append(*ps, DuplicateKeys(file, n)...)
		for key, value := range Pairs(n) {
			if t.Kind() == reflect.Map {
				checkKeys(file, value, t.Elem(), join(path, key.Value), ps)
				continue
			}
			ft, ok := fields[key.Value]
			if !ok {
				known := make([]string, 0, len(fields))
				for name := range fields {
					known = append(known, name)
				}
				*ps = append(*ps, UnknownKey(file, key, path, known))
				continue
			}
			checkKeys(file, value, ft, join(path, key.Value), ps)
		}
	}
}

type field struct {
	name string
	typ  reflect.Type
}

func structFields(t reflect.Type) func(yield func(field) bool) {
	return func(yield func(field) bool) {
		for i := range t.NumField() {
			f := t.Field(i)
			name, opts, _ := strings.Cut(f.Tag.Get("yaml"), ",")
			if name == "-" || !f.IsExported() {
				continue
			}
			if opts == "inline" {
				for in := range structFields(f.Type) {
					if !yield(in) {
						return
					}
				}
				continue
			}
			if name == "" {
				name = strings.ToLower(f.Name)
			}
			if !yield(field{name, f.Type}) {
				return
			}
		}
	}
}

func join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

// resolve replaces an alias by a copy of what it stands for. Aliases in the copy
// are left for whoever walks it: one that holds itself meets the bound on depth.
func resolve(file string, n *yaml.Node) *Problem {
	if n.Alias == nil || n.Alias.Kind == yaml.AliasNode {
		return &Problem{file, n.Line, "uses the YAML alias *" + n.Value + ", which stands for nothing", "write the value out"}
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
				return &Problem{file, key.Line, `merges ("<<") what is not a mapping`, "name an anchor of a mapping, or write the keys out"}
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

// DuplicateKeys lists the keys of one mapping that stand in it twice.
func DuplicateKeys(file string, n *yaml.Node) Problems {
	var ps Problems
	first := map[string]int{}
	for key := range Pairs(n) {
		if line, ok := first[key.Value]; ok {
			ps = append(ps, Problem{file, key.Line, fmt.Sprintf("%q was already set on line %d", key.Value, line), "keep one of them"})
			continue
		}
		first[key.Value] = key.Line
	}
	return ps
}

// UnknownKey is the Problem of a key that a mapping may not hold. Under is the
// dotted path of the mapping, empty at the top.
func UnknownKey(file string, key *yaml.Node, under string, known []string) Problem {
	where := "here"
	if under != "" {
		where = "in " + strconv.Quote(under)
	}
	p := Problem{File: file, Line: key.Line, What: fmt.Sprintf("unknown key %q %s", key.Value, where)}
	sort.Strings(known)
	if near, ok := Nearest(key.Value, known); ok {
		p.Fix = fmt.Sprintf("did you mean %q?", near)
	} else if len(known) > 0 {
		p.Fix = "known keys: " + strings.Join(known, ", ")
	}
	return p
}

var atLine = regexp.MustCompile(`^(?:yaml: )?(?:unmarshal errors:\s*)?line (\d+): (?s:(.*))$`)

// position splits the yaml package's "line N: what" apart.
func position(msg string) (line int, what string) {
	if m := atLine.FindStringSubmatch(msg); m != nil {
		line, _ = strconv.Atoi(m[1])
		return line, m[2]
	}
	return 0, strings.TrimPrefix(msg, "yaml: ")
}

// syntaxLine is the line of a fault of syntax. The yaml package counts lines from
// 0 where it parses and from 1 where it scans, leaves out a line that is 0, and
// knows none for some faults.
func syntaxLine(data []byte, line int, what string) int {
	at := -1
	switch name, anchor := strings.CutPrefix(what, "unknown anchor '"); {
	case anchor:
		name, _, _ = strings.Cut(name, "'")
		at = bytes.Index(data, []byte("*"+name))
	case strings.HasPrefix(what, "control characters"):
		at = bytes.IndexFunc(data, func(c rune) bool { return unicode.IsControl(c) && !strings.ContainsRune("\t\n\r", c) })
	case line == 0, strings.HasPrefix(what, "did not find expected"):
		line++
	}
	if at >= 0 {
		line = 1 + bytes.Count(data[:at], []byte("\n"))
	}
	return min(line, 1+bytes.Count(bytes.TrimSuffix(data, []byte("\n")), []byte("\n")))
}

var cannot = regexp.MustCompile("^cannot unmarshal !!(\\w+)(?: `(.*)`)? into (.*)$")

// plainType puts the yaml package's type errors into words for people. Key finds
// the key of a value by its tag and the beginning of its text.
func plainType(what string, key func(tag, text string) string) string {
	m := cannot.FindStringSubmatch(what)
	if m == nil {
		return what
	}
	got := map[string]string{"str": "text", "int": "a number", "float": "a number", "bool": "true or false", "seq": "a list", "map": "a mapping", "null": "nothing"}[m[1]]
	if got == "" {
		got = m[1]
	}
	if m[2] != "" {
		got += " (" + m[2] + ")"
	}
	want := m[3]
	switch {
	case strings.HasPrefix(want, "[]"):
		want = "a list"
	case strings.HasPrefix(want, "map["), strings.Contains(want, "."):
		want = "a mapping"
	case want == "string":
		want = "text"
	case want == "bool":
		want = "true or false"
	case strings.HasPrefix(want, "int"), strings.HasPrefix(want, "uint"), strings.HasPrefix(want, "float"):
		want = "a number"
	}
	is := "is "
	if k := key("!!"+m[1], strings.TrimSuffix(m[2], "...")); k != "" {
		is = strconv.Quote(k) + " is "
	}
	return is + got + ", where " + want + " belongs"
}

// keyAt is the dotted path of the one value below n that begins on a line with
// that tag and text; "" if there is none, or more than one could be meant.
func keyAt(n *yaml.Node, line int, tag, text string) string {
	found := map[string]bool{}
	var walk func(n *yaml.Node, path string)
	walk = func(n *yaml.Node, path string) {
		if n.Line == line && n.ShortTag() == tag && strings.HasPrefix(n.Value, text) {
			found[path] = true
		}
		if n.Kind == yaml.SequenceNode {
			for _, c := range n.Content {
				walk(c, path)
			}
		}
		for key, value := range Pairs(n) {
			walk(value, join(path, key.Value))
		}
	}
	walk(n, "")
	if len(found) == 1 {
		for path := range found {
			return path
		}
	}
	return ""
}

// Nearest finds the word closest to got, if one is close enough to suggest.
func Nearest(got string, words []string) (string, bool) {
	best, at := "", 1+max(1, len(got)/3)
	for _, w := range words {
		if d := distance(strings.ToLower(got), strings.ToLower(w)); d < at {
			best, at = w, d
		}
	}
	return best, best != ""
}

// distance counts the letters to add, drop, change or swap with a neighbour.
func distance(a, b string) int {
	before, last, row := []int(nil), []int(nil), make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := 1; i <= len(a); i++ {
		before, last, row = last, row, make([]int, len(b)+1)
		row[0] = i
		for j := 1; j <= len(b); j++ {
			change := last[j-1]
			if a[i-1] != b[j-1] {
				change++
			}
			row[j] = min(last[j]+1, row[j-1]+1, change)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
	}
	return row[len(b)]
}
