package policies

import (
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

// testTimeout is that of one test. It is told; the process is what ends a test
// that does not listen.
const testTimeout = time.Second

// runTests runs the tests of files that built was made of.
func runTests(ctx context.Context, files map[string][]byte, built policy) Problems {
	s := readSources(files)
	tests := s.tests(built.modules)
	if len(s.problems) > 0 || len(tests) == 0 {
		return s.problems
	}
	all := append(slices.Clone(built.modules), tests...)
	return testAll(ctx, append(s.needed(all), all...), readData(files).values)
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
		SetTimeout(testTimeout).
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
