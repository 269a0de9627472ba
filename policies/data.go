package policies

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
	"go.yaml.in/yaml/v4"
)

// Limits of a repository's data.
const (
	maxData      = 1 << 20 // bytes of all files
	maxDataDepth = 32
)

// documents is what the JSON and YAML files in Dir hold: the members of their
// objects, as data.<name>. A file that is none of Headgate's business (a manifest,
// a schema) does no harm: only a reference to what is not there does.
type documents struct {
	values   map[string]any
	files    map[string][]string // that have a name
	problems Problems            // of files that hold nothing that can be used
}

func readData(files map[string][]byte) *documents {
	d := &documents{values: map[string]any{}, files: map[string][]string{}}
	total := 0
	for _, name := range sortedKeys(files) {
		if !isData(name) {
			continue
		}
		content, err := files[name], error(nil)
		var members map[string]any
		switch total += len(content); {
		case len(content) > maxFileSize:
			err = fmt.Errorf("is %d bytes, over the limit of %d", len(content), maxFileSize)
		case total > maxData:
			err = fmt.Errorf("is over the limit of %d KiB for all data", maxData>>10)
		case strings.HasSuffix(name, ".json"):
			members, err = parseJSON(content)
		default:
			members, err = parseYAML(content)
		}
		var at *lineError
		switch {
		case errors.As(err, &at):
			d.problems = append(d.problems, Problem{File: name, Line: at.line, What: at.what})
		case err != nil:
			d.problems = append(d.problems, Problem{File: name, What: firstLine(err)})
		}
		for key, value := range members {
			d.values[key] = value
			d.files[key] = append(d.files[key], name)
		}
	}
	return d
}

// lineError is a fault at a line of a data file.
type lineError struct {
	line int
	what string
}

func (e *lineError) Error() string { return fmt.Sprintf("line %d: %s", e.line, e.what) }

func parseJSON(content []byte) (map[string]any, error) {
	dec := json.NewDecoder(bytes.NewReader(content))
	dec.UseNumber()
	var members map[string]any
	if err := dec.Decode(&members); err != nil {
		at := len(content) // where it ends too soon
		var syntax *json.SyntaxError
		var kind *json.UnmarshalTypeError
		switch {
		case errors.As(err, &syntax):
			at = int(syntax.Offset)
		case errors.As(err, &kind):
			at = int(kind.Offset)
		}
		line := 1 + bytes.Count(bytes.TrimRight(content[:min(at, len(content))], "\n"), []byte("\n"))
		return nil, &lineError{line, "is not a JSON object: " + err.Error()}
	}
	if _, err := dec.Token(); err != io.EOF {
		return nil, errors.New("holds more than one JSON object")
	}
	if deep(members, 0) {
		return nil, fmt.Errorf("nests deeper than %d levels", maxDataDepth)
	}
	return members, nil
}

func deep(v any, level int) bool {
	switch v := v.(type) {
	case map[string]any:
		for _, one := range v {
			if level == maxDataDepth || deep(one, level+1) {
				return true
			}
		}
	case []any:
		return slices.ContainsFunc(v, func(one any) bool { return level == maxDataDepth || deep(one, level+1) })
	}
	return false
}

func parseYAML(content []byte) (map[string]any, error) {
	dec := yaml.NewDecoder(bytes.NewReader(content))
	var doc yaml.Node
	if err := dec.Decode(&doc); err != nil {
		var e *yaml.LoadError
		if errors.As(err, &e) {
			return nil, &lineError{e.Mark.Line, "is not YAML: " + e.Message}
		}
		return nil, errors.New("is not YAML: " + firstLine(err))
	}
	if err := dec.Decode(&yaml.Node{}); err != io.EOF {
		return nil, errors.New("holds more than one YAML document")
	}
	value, err := plainValue(doc.Content[0], 0)
	if err != nil {
		return nil, err
	}
	members, ok := value.(map[string]any)
	if !ok {
		return nil, errors.New("is not an object: its members would be data.<name>")
	}
	return members, nil
}

// plainValue is a YAML value as JSON has it. Aliases are refused: a few of them can
// stand for more than any memory holds.
func plainValue(n *yaml.Node, level int) (any, error) {
	fault := func(format string, args ...any) (any, error) {
		return nil, &lineError{n.Line, fmt.Sprintf(format, args...)}
	}
	if level > maxDataDepth {
		return fault("nests deeper than %d levels", maxDataDepth)
	}
	switch n.Kind {
	case yaml.MappingNode:
		members := map[string]any{}
		for i := 0; i+1 < len(n.Content); i += 2 {
			key := n.Content[i]
			if key.Kind != yaml.ScalarNode || key.Tag == "!!merge" {
				return fault("a key must be text")
			}
			if _, twice := members[key.Value]; twice {
				return nil, &lineError{key.Line, fmt.Sprintf("key %q is given twice", key.Value)}
			}
			value, err := plainValue(n.Content[i+1], level+1)
			if err != nil {
				return nil, err
			}
			members[key.Value] = value
		}
		return members, nil
	case yaml.SequenceNode:
		list := []any{}
		for _, one := range n.Content {
			value, err := plainValue(one, level+1)
			if err != nil {
				return nil, err
			}
			list = append(list, value)
		}
		return list, nil
	case yaml.ScalarNode:
		switch n.Tag {
		case "!!null":
			return nil, nil
		case "!!bool":
			var b bool
			if err := n.Decode(&b); err != nil {
				return fault("is not true or false: %q", n.Value)
			}
			return b, nil
		case "!!int", "!!float":
			var f float64
			if err := n.Decode(&f); err != nil || math.IsInf(f, 0) || math.IsNaN(f) {
				return fault("is not a number that JSON has: %q", n.Value)
			}
			if n.Tag == "!!int" {
				if i, err := strconv.ParseInt(n.Value, 0, 64); err == nil {
					return json.Number(strconv.FormatInt(i, 10)), nil
				}
			}
			return json.Number(strconv.FormatFloat(f, 'g', -1, 64)), nil
		case "!!str", "!!timestamp":
			return n.Value, nil
		}
		return fault("tag %s is not supported", n.Tag)
	}
	return fault("aliases are not supported; write the value again")
}

// resolve finds what the rules of a compiled policy refer to below data that is
// no package. What it cannot find is a problem at its line, because an undefined
// reference would be a rule that never objects.
func (d *documents) resolve(c *ast.Compiler) (values map[string]any, files []string, ps Problems) {
	values = map[string]any{}
	report := func(at *ast.Location, what, fix string) {
		p := Problem{File: at.File, Line: at.Row, What: what, Fix: fix}
		if !slices.Contains(ps, p) {
			ps = append(ps, p)
		}
	}
	packages := c.RuleTree.Child(ast.DefaultRootDocument.Value)
	refer := func(r ast.Ref, at *ast.Location) {
		ground := r.GroundPrefix()
		if len(ground) < 2 {
			report(at, "names no document of data", "write: data.<name>")
			return
		}
		name, ok := ground[1].Value.(ast.String)
		switch {
		case packages != nil && packages.Child(name) != nil:
			if !hasRule(packages, ground[1:]) {
				report(at, ground.String()+" is not defined", "define the rule, or correct its name")
			}
			return
		case !ok || len(d.files[string(name)]) == 0:
			report(at, ground.String()+" is not defined",
				fmt.Sprintf("write it into %s/data.json, {%q: …}, or name a package", Dir, string(name)))
			ps = append(ps, d.problems...) // it may be in one of those
			return
		case len(d.files[string(name)]) > 1:
			report(at, fmt.Sprintf("data.%s is given twice, in %s", string(name), strings.Join(d.files[string(name)], " and ")),
				"keep one of them")
			return
		}
		if !hasValue(d.values[string(name)], ground[2:]) {
			report(at, ground.String()+" is not defined", "add it to "+d.files[string(name)][0]+", or correct its name")
			return
		}
		values[string(name)] = d.values[string(name)]
		files = append(files, d.files[string(name)][0])
	}
	for _, file := range sortedKeys(c.Modules) {
		for _, rule := range c.Modules[file].Rules {
			at := rule.Location
			ast.NewGenericVisitor(func(x any) bool {
				switch x := x.(type) {
				case *ast.Expr:
					if x.Location != nil && x.Location.Row > 0 {
						at = x.Location
					}
				case *ast.Term:
					if r, ok := x.Value.(ast.Ref); ok && r.HasPrefix(ast.DefaultRootRef) {
						where := at
						if x.Location != nil && x.Location.Row > 0 {
							where = x.Location
						}
						refer(r, where)
					}
				}
				return false
			}).Walk(rule)
		}
	}
	slices.Sort(files)
	return values, slices.Compact(files), ps
}

// hasRule follows a reference through packages to a rule. What is below a rule's
// value is the type checker's.
func hasRule(at *ast.TreeNode, ref ast.Ref) bool {
	for _, t := range ref {
		if len(at.Values) > 0 {
			return true
		}
		if at = at.Child(t.Value); at == nil {
			return false
		}
	}
	return true
}

func hasValue(v any, ref ast.Ref) bool {
	for _, t := range ref {
		switch key := t.Value.(type) {
		case ast.String:
			members, ok := v.(map[string]any)
			if !ok {
				return false
			}
			if v, ok = members[string(key)]; !ok {
				return false
			}
		case ast.Number:
			list, ok := v.([]any)
			i, whole := key.Int()
			if !ok || !whole || i < 0 || i >= len(list) {
				return false
			}
			v = list[i]
		default:
			return false
		}
	}
	return true
}
