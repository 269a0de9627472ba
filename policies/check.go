package policies

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/storage/inmem"
	"github.com/open-policy-agent/opa/v1/tester"
)

// Problem is one fault in a policy, for the person who wrote it.
type Problem struct {
	File string `json:"file"`
	Line int    `json:"line,omitempty"` // from 1; 0 when the file as a whole is meant
	What string `json:"what"`
	Fix  string `json:"fix,omitempty"`
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

// Problems is all that is wrong with some policies. It is an error when it is not empty.
type Problems []Problem

func (ps Problems) Error() string {
	lines := make([]string, len(ps))
	for i, p := range ps {
		lines[i] = p.Error()
	}
	return strings.Join(lines, "\n")
}

// testTimeout bounds all tests of a repository's policies together.
const testTimeout = 10 * time.Second

// Check judges a repository's policies, by path: packages headgate.* must compile
// with the built-ins that are allowed, against the inputs of the queries, belong to
// a query, refer to nothing that is not there, and pass their own tests, if they
// have any. Which files those are is said by Reads; others are left alone.
func Check(ctx context.Context, files map[string][]byte) []Problem {
	built, ps := build(files)
	if len(ps) == 0 {
		s := readSources(files)
		tests := s.tests(built.modules)
		if ps = s.problems; len(ps) == 0 && len(tests) > 0 {
			all := append(slices.Clone(built.modules), tests...)
			ps = runTests(ctx, append(s.needed(all), all...), readData(files).values)
		}
	}
	slices.SortStableFunc(ps, func(a, b Problem) int {
		return cmp.Or(strings.Compare(a.File, b.File), a.Line-b.Line)
	})
	return slices.Compact(ps)
}

// runTests runs the tests of modules. One that does not notice its deadline is
// given up on; see evaluateOne for what that means.
func runTests(ctx context.Context, modules []module, data map[string]any) Problems {
	ctx, cancel := context.WithTimeout(ctx, testTimeout)
	defer cancel()
	late := Problem{File: "policies", What: fmt.Sprintf("its tests take longer than %s", testTimeout), Fix: "make them smaller"}
	done := make(chan Problems, 1)
	go func() {
		defer func() {
			if p := recover(); p != nil {
				done <- Problems{{File: "policies", What: fmt.Sprintf("its tests cannot be run: %v", p)}}
			}
		}()
		done <- testAll(ctx, modules, data)
	}()
	select {
	case ps := <-done:
		if ctx.Err() != nil {
			ps = append(ps, late)
		}
		return ps
	case <-time.After(testTimeout + grace):
		return Problems{late}
	}
}

func testAll(ctx context.Context, modules []module, data map[string]any) Problems {
	parsed := map[string]*ast.Module{}
	for _, m := range modules {
		parsed[m.path] = m.parsed
	}
	runner := tester.NewRunner().
		RaiseBuiltinErrors(true).
		SetModules(parsed).
		SetStore(inmem.NewFromObject(data)).
		SetTimeout(evalTimeout).
		SetCompiler(compiler(testCapabilities()))
	results, err := runner.RunTests(ctx, nil)
	if err != nil {
		return problemsOf("policies", err)
	}
	var ps Problems
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
	return ps
}
