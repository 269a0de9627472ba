package yamlfile

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"sort"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v4"
)

// DecodeNode decodes a YAML mapping into a struct with yaml tags. Unknown and
// duplicate keys and wrong types are Problems with their line; an unknown key
// comes with the nearest one that exists. The struct may hold fields of type
// yaml.Node (not pointers to it) or types with UnmarshalYAML for what it wants to read itself.
func DecodeNode(file string, node *yaml.Node, into any) error {
	var ps Problems
	check(file, node, reflect.TypeOf(into).Elem(), "", &ps)
	if len(ps) > 0 {
		return ps
	}
	if err := node.Decode(into); err != nil {
		if ps, ok := ProblemsIn(err); ok { // of an UnmarshalYAML
			return ps
		}
		return Problems{problemOf(file, err)}
	}
	return nil
}

// problemOf is an error of the yaml package as a Problem.
func problemOf(file string, err error) Problem {
	var e *yaml.LoadError
	if errors.As(err, &e) {
		return Problem{File: file, Line: e.Mark.Line, What: e.Message}
	}
	return Problem{File: file, What: err.Error()}
}

var unmarshaler = reflect.TypeFor[yaml.Unmarshaler]()

// check finds what of n does not fit t: keys that t does not have or that are
// given twice, and values of another type. Under is the dotted path of n.
func check(file string, n *yaml.Node, t reflect.Type, under string, ps *Problems) {
	for t.Kind() == reflect.Pointer {
		if t.Implements(unmarshaler) {
			return
		}
		t = t.Elem()
	}
	if reflect.PointerTo(t).Implements(unmarshaler) || t == reflect.TypeFor[yaml.Node]() || n.ShortTag() == "!!null" {
		return
	}

	switch t.Kind() {
	case reflect.Interface:
	case reflect.Slice:
		if n.Kind != yaml.SequenceNode {
			*ps = append(*ps, wrongType(file, n, "a list", under))
			return
		}
		for _, c := range n.Content {
			check(file, c, t.Elem(), under, ps)
		}
	case reflect.Map, reflect.Struct:
		if n.Kind != yaml.MappingNode {
			*ps = append(*ps, wrongType(file, n, "a mapping", under))
			return
		}
		checkKeys(file, n, t, under, ps)
	default:
		if n.Kind != yaml.ScalarNode || n.Decode(reflect.New(t).Interface()) != nil {
			*ps = append(*ps, wrongType(file, n, nameOf(t), under))
		}
	}
}

func checkKeys(file string, n *yaml.Node, t reflect.Type, under string, ps *Problems) {
	*ps = append(*ps, DuplicateKeys(file, n)...)
	if t.Kind() == reflect.Map {
		for key, value := range Pairs(n) {
			check(file, value, t.Elem(), join(under, key.Value), ps)
		}
		return
	}

	fields := map[string]reflect.Type{}
	for f := range structFields(t) {
		fields[f.name] = f.typ
	}
	for key, value := range Pairs(n) {
		if ft, ok := fields[key.Value]; ok {
			check(file, value, ft, join(under, key.Value), ps)
			continue
		}
		*ps = append(*ps, UnknownKey(file, key, under, slices.Collect(maps.Keys(fields))))
	}
}

// wrongType is the Problem of a value of another type than belongs there.
func wrongType(file string, n *yaml.Node, want, under string) Problem {
	what := Describe(n) + ", where " + want + " belongs"
	if under != "" {
		what = strconv.Quote(under) + " is " + what
	} else {
		what = "is " + what
	}
	return Problem{File: file, Line: n.Line, What: what}
}

func nameOf(t reflect.Type) string {
	switch t.Kind() {
	case reflect.String:
		return "text"
	case reflect.Bool:
		return "true or false"
	}
	return "a number"
}

// maxDescribed is how many characters of a scalar Describe shows.
const maxDescribed = 40

// Describe says what a value is, for people: "a list", "a number (7)".
func Describe(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "a mapping"
	case yaml.SequenceNode:
		return "a list"
	}

	names := map[string]string{"!!str": "text", "!!int": "a number", "!!float": "a number", "!!bool": "true or false"}
	tag := n.ShortTag()
	if tag == "!!null" {
		return "nothing"
	}
	text := []rune(n.Value)
	if len(text) > maxDescribed {
		text = append(text[:maxDescribed-1], '…')
	}
	return cmp.Or(names[tag], strings.TrimPrefix(tag, "!!")) + " (" + string(text) + ")"
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

// DuplicateKeys lists the keys of one mapping that stand in it twice.
func DuplicateKeys(file string, n *yaml.Node) Problems {
	var ps Problems
	first := map[string]int{}
	for key := range Pairs(n) {
		if line, ok := first[key.Value]; ok {
			ps = append(ps, Problem{File: file, Line: key.Line,
				What: fmt.Sprintf("%q was already set on line %d", key.Value, line), Fix: "keep one of them"})
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
