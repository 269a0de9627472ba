package policies

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/rego"
	"github.com/open-policy-agent/opa/v1/types"
)

// Limits of a repository's policies.
const (
	maxFiles    = 100
	maxFileSize = 256 << 10
)

// queries are the packages that are evaluated: headgate.push in the default
// policy, policy.push in a repository's own.
var queries = []string{"push", "land", "promote", "rollback", "converge"}

// module is one Rego file.
type module struct {
	path   string
	name   string // its package: "policy.push"
	parsed *ast.Module
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

func isTest(path string) bool { return strings.HasSuffix(path, "_test.rego") }

// parse reads Rego files by path. What it returns is in order of path.
func parse(files map[string][]byte) ([]module, Problems) {
	var modules []module
	var ps Problems
	paths := slices.DeleteFunc(sortedKeys(files), func(path string) bool { return !strings.HasSuffix(path, ".rego") })
	if len(paths) > maxFiles {
		return nil, Problems{{File: "policies", What: fmt.Sprintf("holds %d Rego files, over the limit of %d", len(paths), maxFiles)}}
	}
	for _, path := range paths {
		if n := len(files[path]); n > maxFileSize {
			ps = append(ps, Problem{File: path, What: fmt.Sprintf("is %d bytes, over the limit of %d", n, maxFileSize)})
			continue
		}
		m, err := ast.ParseModuleWithOpts(path, string(files[path]), ast.ParserOptions{RegoVersion: ast.RegoV1, Capabilities: capabilities()})
		switch {
		case err != nil:
			ps = append(ps, problemsOf(path, err)...)
		case m == nil:
			ps = append(ps, Problem{File: path, What: "is empty", Fix: "write it, or remove it"})
		default:
			modules = append(modules, module{path, strings.TrimPrefix(m.Package.Path.String(), "data."), m})
		}
	}
	return modules, ps
}

// policy is a compiled package for each query that it answers.
type policy map[string]rego.PreparedEvalQuery

// build compiles modules whose packages are <root>.<query>, and lib.<name> for
// what they share. Each query is compiled by itself, against its own input.
func build(root string, modules []module) (policy, Problems) {
	var ps Problems
	byQuery := map[string][]module{}
	var libraries []module
	for _, m := range modules {
		query, under := strings.CutPrefix(m.name, root+".")
		switch {
		case under && slices.Contains(queries, query):
			byQuery[query] = append(byQuery[query], m)
		case strings.HasPrefix(m.name, "lib."):
			libraries = append(libraries, m)
		default:
			ps = append(ps, Problem{File: m.path, Line: m.parsed.Package.Location.Row, What: fmt.Sprintf("package %s is never evaluated", m.name),
				Fix: fmt.Sprintf("name it %[1]s.push, %[1]s.land, %[1]s.promote, %[1]s.rollback or %[1]s.converge, or lib.<name> for what they share", root)})
		}
	}
	built := policy{}
	used := map[string]bool{}
	for _, q := range queries {
		if len(byQuery[q]) == 0 {
			continue
		}
		with := needed(byQuery[q], libraries)
		for _, l := range with {
			used[l.path] = true
		}
		compiler, faults := compile(append(with, byQuery[q]...), schemaSet(q))
		if len(faults) > 0 {
			ps = append(ps, faults...)
			continue
		}
		sets, faults := setsOf(compiler, root+"."+q, byQuery[q])
		if len(faults) > 0 {
			ps = append(ps, faults...)
			continue
		}
		prepared, err := prepare(compiler, root+"."+q, sets)
		if err != nil {
			ps = append(ps, problemsOf(byQuery[q][0].path, err)...)
			continue
		}
		built[q] = prepared
	}
	// A library nobody uses yet is judged all the same.
	var unused []module
	for _, l := range libraries {
		if !used[l.path] {
			unused = append(unused, l)
		}
	}
	if len(unused) > 0 {
		_, faults := compile(append(needed(unused, libraries), unused...), nil)
		ps = append(ps, faults...)
	}
	if len(ps) > 0 {
		return nil, ps
	}
	return built, nil
}

// needed are the libraries that modules refer to, and those that these refer to.
func needed(by, libraries []module) []module {
	var found []module
	for look := by; len(look) > 0; {
		m := look[0]
		look = look[1:]
		ast.WalkRefs(m.parsed, func(r ast.Ref) bool {
			name := strings.TrimPrefix(r.String(), "data.")
			for _, l := range libraries {
				if (name == l.name || strings.HasPrefix(name, l.name+".") || strings.HasPrefix(l.name, name+".")) &&
					!slices.ContainsFunc(found, func(f module) bool { return f.path == l.path }) {
					found = append(found, l)
					look = append(slices.Clone(look), l)
				}
			}
			return false
		})
	}
	return found
}

func compile(modules []module, schemas *ast.SchemaSet) (*ast.Compiler, Problems) {
	parsed := map[string]*ast.Module{}
	for _, m := range modules {
		parsed[m.path] = m.parsed
	}
	c := compiler(capabilities()).WithStrict(true).WithEnablePrintStatements(true).WithSchemas(schemas)
	c.Compile(parsed)
	if c.Failed() {
		return nil, problemsOf("policies", c.Errors)
	}
	return c, nil
}

// setsOf finds which of the sets a package has, and what can be seen of their
// members before anybody asks.
func setsOf(c *ast.Compiler, name string, modules []module) ([]string, Problems) {
	var sets []string
	var ps Problems
	for _, set := range resultSets {
		ref := ast.MustParseRef("data." + name + "." + set.name)
		rules := c.GetRulesExact(ref)
		if len(rules) == 0 {
			continue
		}
		sets = append(sets, set.name)
		at := Problem{File: rules[0].Location.File, Line: rules[0].Location.Row,
			Fix: fmt.Sprintf(`write: %s contains {"rule": "name", "msg": "what people read"} if …`, set.name)}
		members, ok := c.TypeEnv.GetByRef(ref).(*types.Set)
		if !ok {
			at.What = fmt.Sprintf("%s is not a set", set.name)
			ps = append(ps, at)
			continue
		}
		for _, member := range alternatives(members.Of()) {
			object, ok := member.(*types.Object)
			if !ok {
				at.What = fmt.Sprintf("%s contains %s, not an object", set.name, types.Sprint(member))
				ps = append(ps, at)
				continue
			}
			for _, p := range object.StaticProperties() {
				if key, ok := p.Key.(string); ok && !slices.Contains(set.fields, key) {
					ps = append(ps, Problem{File: at.File, Line: at.Line, What: fmt.Sprintf("%s contains an object with the unknown field %q", set.name, key),
						Fix: "fields: " + strings.Join(set.fields, ", ")})
				}
			}
		}
	}
	if !slices.Contains(sets, "deny") && !slices.Contains(sets, "need") {
		m := modules[0]
		ps = append(ps, Problem{File: m.path, Line: m.parsed.Package.Location.Row, What: fmt.Sprintf("package %s has neither deny nor need, so it would never object", name),
			Fix: `write: deny contains {"rule": "name", "msg": "what people read"} if …`})
	}
	return sets, ps
}

// alternatives are the types that a value may have; what can be anything is left
// to the evaluation.
func alternatives(t types.Type) []types.Type {
	switch t := t.(type) {
	case nil:
		return nil
	case types.Any:
		var all []types.Type
		for _, one := range t {
			all = append(all, alternatives(one)...)
		}
		return all
	}
	return []types.Type{t}
}

// prepare queries the sets and nothing else of a package. A set that is
// undefined makes the whole result undefined, and that is a denial.
func prepare(c *ast.Compiler, name string, sets []string) (rego.PreparedEvalQuery, error) {
	var pairs []string
	for _, s := range sets {
		pairs = append(pairs, fmt.Sprintf("%q: data.%s.%s", s, name, s))
	}
	return rego.New(rego.Compiler(c), rego.Query("{"+strings.Join(pairs, ", ")+"}"), rego.StrictBuiltinErrors(true),
		rego.SetRegoVersion(ast.RegoV1), rego.GenerateJSON(boundedJSON)).PrepareForEval(context.Background())
}

// problemsOf puts a compiler's errors in our words.
func problemsOf(path string, err error) Problems {
	var list ast.Errors
	var one *ast.Error
	switch {
	case errors.As(err, &list):
	case errors.As(err, &one):
		list = ast.Errors{one}
	default:
		return Problems{{File: path, What: firstLine(err)}}
	}
	var ps Problems
	for _, e := range list {
		p := Problem{File: path, What: strings.TrimSpace(firstLine(errors.New(e.Message)))}
		if e.Location != nil {
			p.Line = e.Location.Row
			if e.Location.File != "" {
				p.File = e.Location.File
			}
		}
		if e.Details != nil {
			p.Fix = details(e.Details.Lines())
		}
		if strings.Contains(p.What, "undefined function") {
			p.Fix = "policies may use pure built-ins only, no network, no randomness, no environment"
		}
		if !slices.Contains(ps, p) {
			ps = append(ps, p)
		}
	}
	return ps
}

// details of a compiler's error in one line: "have: x, want (one of): [y]". The
// lines that only point at a column are left out.
func details(lines []string) string {
	var said []string
	for _, l := range lines {
		if l = strings.TrimSpace(l); l != "" && strings.Trim(l, "^ ") != "" && strings.Contains(l, ":") {
			said = append(said, l)
		}
	}
	return strings.Join(said, ", ")
}
