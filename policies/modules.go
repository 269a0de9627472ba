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
	"github.com/open-policy-agent/opa/v1/storage/inmem"
	"github.com/open-policy-agent/opa/v1/types"
)

// queries are the packages that are evaluated, below root: headgate.push.
var queries = []string{"push", "land", "promote", "rollback", "converge", "exec"}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

// policy is what the packages headgate.* of some files come to.
type policy struct {
	prepared map[string]rego.PreparedEvalQuery // of each query that has a package
	places   map[string]places                 // of each, too
	modules  []module                          // that count
	data     map[string]any
	files    []string // that count: of modules, and of data
}

// build compiles files whose packages are headgate.<query>, with whatever they
// refer to. Each query is compiled by itself, against its own input. It returns a
// policy with problems too: of what could be read.
func build(files map[string][]byte) (policy, Problems) {
	var ps Problems
	s, d := readSources(files), readData(files)
	byQuery := map[string][]module{}
	var others []module
	for _, m := range s.evaluated() {
		if query := strings.TrimPrefix(m.name, root+"."); slices.Contains(queries, query) {
			byQuery[query] = append(byQuery[query], m)
		} else {
			others = append(others, m)
		}
	}
	built := policy{prepared: map[string]rego.PreparedEvalQuery{}, places: map[string]places{}, data: map[string]any{}}
	used := map[string]module{}
	for _, q := range queries {
		modules := byQuery[q]
		if len(modules) == 0 {
			continue
		}
		all := append(s.needed(modules), modules...)
		for _, m := range all {
			used[m.path] = m
		}
		compiler, faults := compile(all, schemaSet(q))
		if len(faults) > 0 {
			ps = append(ps, faults...)
			continue
		}
		sets, faults := setsOf(compiler, root+"."+q, modules)
		values, from, unresolved := d.resolve(compiler)
		if faults = append(faults, unresolved...); len(faults) > 0 {
			ps = append(ps, faults...)
			continue
		}
		prepared, err := prepare(compiler, root+"."+q, sets, values)
		if err != nil {
			ps = append(ps, problemsOf(modules[0].path, err)...)
			continue
		}
		built.prepared[q] = prepared
		built.places[q] = placesOf(modules)
		maps.Copy(built.data, values)
		built.files = append(built.files, from...)
	}
	for _, m := range others {
		if _, ok := used[m.path]; !ok {
			ps = append(ps, Problem{
				File: m.path,
				Line: m.parsed.Package.Location.Row,
				What: fmt.Sprintf("package %s is never evaluated", m.name),
				Fix: "name it headgate.push, headgate.land, headgate.promote, headgate.rollback, headgate.converge or headgate.exec, " +
					"or refer to it from one of those",
			})
		}
	}
	for _, name := range sortedKeys(used) {
		built.modules = append(built.modules, used[name])
		built.files = append(built.files, name)
	}
	slices.Sort(built.files)
	built.files = slices.Compact(built.files)
	return built, append(s.problems, ps...)
}

// compiler is of the language of policies.
func compiler(caps *ast.Capabilities) *ast.Compiler {
	return ast.NewCompiler().WithCapabilities(caps).WithDefaultRegoVersion(ast.RegoV1)
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
// members before it is evaluated.
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
					ps = append(ps, Problem{
						File: at.File,
						Line: at.Line,
						What: fmt.Sprintf("%s contains an object with the unknown field %q", set.name, key),
						Fix:  "fields: " + strings.Join(set.fields, ", "),
					})
				}
			}
		}
	}
	if !slices.Contains(sets, "deny") && !slices.Contains(sets, "need") {
		m := modules[0]
		ps = append(ps, Problem{
			File: m.path,
			Line: m.parsed.Package.Location.Row,
			What: fmt.Sprintf("package %s has neither deny nor need, so it would never object", name),
			Fix:  `write: deny contains {"rule": "name", "msg": "what people read"} if …`,
		})
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
func prepare(c *ast.Compiler, name string, sets []string, data map[string]any) (rego.PreparedEvalQuery, error) {
	var pairs []string
	for _, s := range sets {
		pairs = append(pairs, fmt.Sprintf("%q: data.%s.%s", s, name, s))
	}
	return rego.New(
		rego.Compiler(c),
		rego.Store(inmem.NewFromObject(data)),
		rego.Query("{"+strings.Join(pairs, ", ")+"}"),
		rego.StrictBuiltinErrors(true),
		rego.SetRegoVersion(ast.RegoV1),
		rego.GenerateJSON(func(t *ast.Term, _ *rego.EvalContext) (any, error) {
			return ast.JSONWithOpt(t.Value, ast.JSONOpt{SortSets: true})
		}),
	).PrepareForEval(context.Background())
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
