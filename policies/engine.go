package policies

import (
	"context"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"sort"
	"strings"
	"sync"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/rego"
)

// Limits of one evaluation (spec/policy.md 2.1, spec/git.md F10).
const (
	maxInput = 1 << 20
	deadline = 250 * time.Millisecond
	// overrun is how much longer an evaluation that ignores its deadline is waited
	// for. It then answers deny; its goroutine ends when it ends. The built-ins
	// known to ignore the deadline are not allowed (capabilities.go).
	overrun = 250 * time.Millisecond
)

//go:embed rego/*.rego
var defaults embed.FS

// questions are the packages that are asked: headgate.push in the default
// policy, policy.push in a repository's own.
var questions = []string{"push", "land", "promote", "converge"}

// Engine is a set of compiled policies. It is safe for concurrent use.
type Engine struct {
	digest  string
	queries map[string][]rego.PreparedEvalQuery // by question: the default's, then the repository's
	broken  error                               // why everything is denied; nil if the policies compiled
}

var compiledDefaults = sync.OnceValues(func() (map[string]rego.PreparedEvalQuery, error) {
	modules, err := defaultModules()
	if err != nil {
		return nil, err
	}
	compiler, err := compile(modules)
	if err != nil {
		return nil, err
	}
	prepared := map[string]rego.PreparedEvalQuery{}
	for _, q := range questions {
		if prepared[q], err = prepare(compiler, "data.headgate."+q); err != nil {
			return nil, err
		}
	}
	return prepared, nil
})

func defaultModules() (map[string]string, error) {
	modules := map[string]string{}
	paths, err := fs.Glob(defaults, "rego/*.rego")
	if err != nil {
		return nil, err
	}
	for _, p := range paths {
		if strings.HasSuffix(p, "_test.rego") {
			continue
		}
		data, err := defaults.ReadFile(p)
		if err != nil {
			return nil, err
		}
		modules[p] = string(data)
	}
	return modules, nil
}

// New compiles the default policies and a repository's own: the files of its
// folder policies/ by path; others than *.rego and *_test.rego are left out. When
// the repository's do not compile, the Engine denies everything and says why;
// the error says the same.
func New(repository map[string][]byte) (*Engine, error) {
	e := &Engine{queries: map[string][]rego.PreparedEvalQuery{}}
	modules, err := defaultModules()
	if err != nil {
		return nil, err
	}
	own := map[string]string{}
	for path, data := range repository {
		if strings.HasSuffix(path, ".rego") && !strings.HasSuffix(path, "_test.rego") {
			own[path] = string(data)
			modules["repository/"+path] = string(data)
		}
	}
	e.digest = digest(modules)
	built, err := compiledDefaults()
	if err != nil {
		return nil, fmt.Errorf("compile the default policies: %w", err)
	}
	for _, q := range questions {
		e.queries[q] = append(e.queries[q], built[q])
	}
	if len(own) == 0 {
		return e, nil
	}
	if ps := inspect(own); len(ps) > 0 {
		e.broken = ps[0]
		return e, e.broken
	}
	compiler, err := compile(own)
	if err != nil {
		e.broken = err
		return e, err
	}
	for _, q := range questions {
		if compiler.GetRulesExact(ast.MustParseRef("data.policy."+q+".deny")) == nil &&
			compiler.GetRulesExact(ast.MustParseRef("data.policy."+q+".need")) == nil {
			continue // the repository has no word on this question
		}
		query, err := prepare(compiler, "data.policy."+q)
		if err != nil {
			e.broken = err
			return e, err
		}
		e.queries[q] = append(e.queries[q], query)
	}
	return e, nil
}

// Digest names the modules of this engine.
func (e *Engine) Digest() string { return e.digest }

func digest(modules map[string]string) string {
	names := make([]string, 0, len(modules))
	for name := range modules {
		names = append(names, name)
	}
	sort.Strings(names)
	h := sha256.New()
	for _, name := range names {
		fmt.Fprintf(h, "%d %s %d %s", len(name), name, len(modules[name]), modules[name])
	}
	return "sha256:" + hex.EncodeToString(h.Sum(nil))
}

func compile(modules map[string]string) (*ast.Compiler, error) {
	parsed := map[string]*ast.Module{}
	for name, text := range modules {
		m, err := ast.ParseModuleWithOpts(name, text, ast.ParserOptions{RegoVersion: ast.RegoV1, Capabilities: capabilities()})
		if err != nil {
			return nil, err
		}
		parsed[name] = m
	}
	c := ast.NewCompiler().WithCapabilities(capabilities()).WithStrict(true).WithDefaultRegoVersion(ast.RegoV1).WithEnablePrintStatements(false)
	c.Compile(parsed)
	if c.Failed() {
		return nil, c.Errors
	}
	return c, nil
}

func prepare(c *ast.Compiler, query string) (rego.PreparedEvalQuery, error) {
	return rego.New(rego.Compiler(c), rego.Query(query), rego.StrictBuiltinErrors(true), rego.SetRegoVersion(ast.RegoV1)).PrepareForEval(context.Background())
}

// Push answers whether a user may write a ref.
func (e *Engine) Push(ctx context.Context, in PushInput) (Answer, Record) {
	return e.ask(ctx, "push", in.Now, in)
}

// Land answers whether a candidate may become the tip of a gated branch.
func (e *Engine) Land(ctx context.Context, in LandInput) (Answer, Record) {
	return e.ask(ctx, "land", in.Now, in)
}

// Promote answers whether a release may be given to an environment.
func (e *Engine) Promote(ctx context.Context, in PromoteInput) (Answer, Record) {
	return e.ask(ctx, "promote", in.Now, in)
}

// Converge answers whether drift may be healed: auto heals, else it is reported.
func (e *Engine) Converge(ctx context.Context, in ConvergeInput) (Answer, Record) {
	return e.ask(ctx, "converge", in.Now, in)
}

func (e *Engine) ask(ctx context.Context, question string, now time.Time, input any) (Answer, Record) {
	began := time.Now()
	raw, err := json.Marshal(input)
	answer := Answer{}
	switch {
	case err != nil:
		answer = denied("input", "the question could not be put: "+err.Error())
	case len(raw) > maxInput:
		answer = denied("input", fmt.Sprintf("the question holds %d bytes, over the limit of %d", len(raw), maxInput))
	case e == nil:
		answer = denied("policy", "there is no policy")
	case e.broken != nil:
		answer = denied("policy", "the policy is broken: "+firstLine(e.broken))
	default:
		answer = e.evaluate(ctx, question, now, raw)
	}
	if e != nil {
		answer.Policy = e.digest
	}
	return answer, Record{Question: question, Input: raw, Answer: answer, Took: time.Since(began)}
}

func denied(rule, message string) Answer {
	return Answer{Decision: Deny, Reasons: []Reason{{rule, message}},
		Checks: []Condition{{Rule: rule, Title: message, Denied: true}}}
}

func firstLine(err error) string {
	s, _, _ := strings.Cut(err.Error(), "\n")
	return s
}

func (e *Engine) evaluate(ctx context.Context, question string, now time.Time, raw []byte) Answer {
	if err := ctx.Err(); err != nil {
		return denied("policy", "the question was withdrawn: "+err.Error())
	}
	input, err := ast.ValueFromReader(strings.NewReader(string(raw)))
	if err != nil {
		return denied("input", "the question could not be put: "+err.Error())
	}
	var words []word
	for i, q := range e.queries[question] {
		w, err := evaluateOne(ctx, q, input, now)
		if err != nil {
			whose := "the default policy"
			if i > 0 {
				whose = "the repository's policy"
			}
			return denied("policy", fmt.Sprintf("%s gave no answer: %s", whose, firstLine(err)))
		}
		words = append(words, w)
	}
	return weigh(words)
}

var errTimedOut = errors.New("policy timed out")

func evaluateOne(ctx context.Context, q rego.PreparedEvalQuery, input ast.Value, now time.Time) (word, error) {
	ctx, cancel := context.WithTimeout(ctx, deadline)
	defer cancel()
	type result struct {
		word word
		err  error
	}
	done := make(chan result, 1)
	go func() {
		defer func() {
			if p := recover(); p != nil {
				done <- result{err: fmt.Errorf("the evaluation panicked: %v", p)}
			}
		}()
		rs, err := q.Eval(ctx, rego.EvalParsedInput(input), rego.EvalTime(now))
		if err != nil {
			if ctx.Err() != nil {
				err = errTimedOut
			}
			done <- result{err: err}
			return
		}
		if len(rs) != 1 || len(rs[0].Expressions) != 1 {
			done <- result{err: errors.New("the answer is undefined")}
			return
		}
		w, err := read(rs[0].Expressions[0].Value)
		done <- result{w, err}
	}()
	select {
	case r := <-done:
		return r.word, r.err
	case <-time.After(deadline + overrun):
		return word{}, errTimedOut
	}
}
