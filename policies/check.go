package policies

import (
	"context"
	"errors"
	"fmt"
	"sort"
	"strings"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/tester"
)

// Problem is one fault in a policy, for the person who wrote it.
type Problem struct {
	File string
	Line int
	What string
	Fix  string
}

func (p Problem) Error() string {
	s := p.File
	if p.Line > 0 {
		s = fmt.Sprintf("%s:%d", p.File, p.Line)
	}
	s += ": " + p.What
	if p.Fix != "" {
		s += "; " + p.Fix
	}
	return s
}

// Limits of a repository's policies.
const (
	maxFiles    = 100
	maxFileSize = 256 << 10
	testsWithin = 10 * time.Second
)

// Check judges a repository's policies, by path: they must compile with the
// built-ins that are allowed, belong to a question, and pass their own tests.
func Check(ctx context.Context, files map[string][]byte) []Problem {
	modules, tests := map[string]string{}, map[string]string{}
	for path, data := range files {
		switch {
		case !strings.HasSuffix(path, ".rego"):
		case strings.HasSuffix(path, "_test.rego"):
			tests[path] = string(data)
		default:
			modules[path] = string(data)
		}
	}
	if len(modules)+len(tests) > maxFiles {
		return []Problem{{File: "policies", What: fmt.Sprintf("holds %d Rego files, over the limit of %d", len(modules)+len(tests), maxFiles)}}
	}
	ps := inspect(modules)
	all := map[string]*ast.Module{}
	for _, set := range []map[string]string{modules, tests} {
		for path, text := range set {
			m, err := ast.ParseModuleWithOpts(path, text, ast.ParserOptions{RegoVersion: ast.RegoV1, Capabilities: capabilities()})
			if err != nil {
				ps = append(ps, problemsOf(path, err)...)
				continue
			}
			all[path] = m
		}
	}
	if len(ps) == 0 {
		if _, err := compile(modules); err != nil {
			ps = append(ps, problemsOf("policies", err)...)
		}
	}
	if len(ps) == 0 && len(tests) > 0 {
		ps = append(ps, runTests(ctx, all)...)
	}
	sort.Slice(ps, func(i, j int) bool {
		return ps[i].File < ps[j].File || ps[i].File == ps[j].File && ps[i].Line < ps[j].Line
	})
	return ps
}

// inspect finds what the compiler does not mind but would never be asked.
func inspect(modules map[string]string) []Problem {
	var ps []Problem
	for path, text := range modules {
		if len(text) > maxFileSize {
			ps = append(ps, Problem{File: path, What: fmt.Sprintf("is %d bytes, over the limit of %d", len(text), maxFileSize)})
			continue
		}
		m, err := ast.ParseModuleWithOpts(path, text, ast.ParserOptions{RegoVersion: ast.RegoV1, Capabilities: capabilities()})
		if err != nil {
			ps = append(ps, problemsOf(path, err)...)
			continue
		}
		name := strings.TrimPrefix(m.Package.Path.String(), "data.")
		question, below := strings.CutPrefix(name, "policy.")
		known := strings.HasPrefix(name, "lib.") || name == "lib"
		for _, q := range questions {
			known = known || below && (question == q || strings.HasPrefix(question, q+"."))
		}
		if !known {
			ps = append(ps, Problem{File: path, Line: m.Package.Location.Row, What: fmt.Sprintf("package %s is never asked", name),
				Fix: "name it policy.push, policy.land, policy.promote or policy.converge, or lib.<name> for what they share"})
		}
	}
	return ps
}

func problemsOf(path string, err error) []Problem {
	var list ast.Errors
	var one *ast.Error
	switch {
	case errors.As(err, &list):
	case errors.As(err, &one):
		list = ast.Errors{one}
	default:
		return []Problem{{File: path, What: firstLine(err)}}
	}
	var ps []Problem
	for _, e := range list {
		p := Problem{File: path, What: strings.TrimSpace(firstLine(errors.New(e.Message)))}
		if e.Location != nil {
			p.Line = e.Location.Row
			if e.Location.File != "" {
				p.File = e.Location.File
			}
		}
		if strings.Contains(p.What, "undefined function") {
			p.Fix = "policies may use pure built-ins only, no network, no randomness, no environment"
		}
		ps = append(ps, p)
	}
	return ps
}

func runTests(ctx context.Context, modules map[string]*ast.Module) []Problem {
	ctx, cancel := context.WithTimeout(ctx, testsWithin)
	defer cancel()
	results, err := tester.NewRunner().SetCompiler(ast.NewCompiler().WithCapabilities(testCapabilities()).WithDefaultRegoVersion(ast.RegoV1)).
		SetModules(modules).SetTimeout(deadline).RunTests(ctx, nil)
	if err != nil {
		return problemsOf("policies", err)
	}
	var ps []Problem
	for r := range results {
		if r.Pass() || r.Skip {
			continue
		}
		p := Problem{File: "policies", What: "test " + r.Name + " fails"}
		if r.Error != nil {
			p.What += ": " + firstLine(r.Error)
		}
		if r.Location != nil {
			p.File, p.Line = r.Location.File, r.Location.Row
		}
		ps = append(ps, p)
	}
	if ctx.Err() != nil {
		ps = append(ps, Problem{File: "policies", What: fmt.Sprintf("its tests take longer than %s", testsWithin)})
	}
	return ps
}

// testCapabilities adds what the test runner itself compiles in.
func testCapabilities() *ast.Capabilities {
	caps := *capabilities()
	for _, b := range ast.CapabilitiesForThisVersion().Builtins {
		if strings.HasPrefix(b.Name, "internal.test_case") {
			caps.Builtins = append(caps.Builtins, b)
		}
	}
	return &caps
}
