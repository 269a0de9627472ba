package policies

import (
	"bytes"
	"context"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"reflect"
	"strings"
	"sync"
	"time"

	// Rules that name a time zone answer the same on every machine.
	_ "time/tzdata"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/rego"
	"github.com/open-policy-agent/opa/v1/topdown/print"
	"github.com/open-policy-agent/opa/v1/version"
)

// Limits of one evaluation that are kept where it runs. Its time and its memory
// are the Pool's matter.
const (
	maxInput   = 1 << 20
	maxPrinted = 4 << 10 // bytes that are kept
	maxPrints  = 1000    // calls, after which the policy is stopped
)

//go:embed rego/*.rego
var defaults embed.FS

// Engine is a set of policies that answers. It is safe for concurrent use.
type Engine struct {
	digest    string
	version   string // of what evaluates
	broken    error  // why everything is denied; nil if the policies compiled
	evaluator evaluator
}

// evaluator holds compiled policies: in this process (compiled), or in one of its
// own (set). Its error is why there is no answer.
type evaluator interface {
	evaluate(ctx context.Context, query string, now time.Time, input []byte) (Answer, string, error)
}

// compiled are the default policies and a repository's own, in this process.
type compiled struct{ own policy }

var compiledDefaults = sync.OnceValues(func() (policy, error) {
	files, err := defaultFiles()
	if err != nil {
		return policy{}, err
	}
	built, ps := build(files)
	if len(ps) > 0 {
		return policy{}, ps
	}
	return built, nil
})

func defaultFiles() (map[string][]byte, error) {
	paths, err := fs.Glob(defaults, "rego/*.rego")
	if err != nil {
		return nil, err
	}
	files := map[string][]byte{}
	for _, p := range paths {
		if isTest(p) {
			continue
		}
		if files[p], err = defaults.ReadFile(p); err != nil {
			return nil, err
		}
	}
	return files, nil
}

// New compiles the default policies and a repository's own, from the files by path
// for which Reads is true; tests do not matter. When the repository's do not
// compile, the Engine denies everything and says why; the error, which is Problems,
// says the same. Any other error is one of this program, and there is no Engine.
//
// What is compiled here, and evaluated here, has no bounds: a Pool is for what
// somebody pushed.
func New(repository map[string][]byte) (*Engine, error) {
	if _, err := compiledDefaults(); err != nil {
		return nil, fmt.Errorf("compile the default policies: %w", err)
	}
	named, err := defaultFiles()
	if err != nil {
		return nil, err
	}
	own, ps := build(repository)
	if len(ps) > 0 {
		own.files = sortedKeys(repository) // any of them may be to blame
	}
	for _, name := range own.files {
		named["repository/"+name] = repository[name]
	}
	e := &Engine{digest: digest(named), version: "opa " + version.Version, evaluator: compiled{own}}
	if len(ps) > 0 {
		e.broken = ps
		return e, ps
	}
	return e, nil
}

// Digest names the modules and the data of this engine.
func (e *Engine) Digest() string { return e.digest }

func digest(modules map[string][]byte) string {
	h := sha256.New()
	for _, name := range sortedKeys(modules) {
		fmt.Fprintf(h, "%d %s %d %s", len(name), name, len(modules[name]), modules[name])
	}
	return "sha256:" + hex.EncodeToString(h.Sum(nil))
}

// Push answers whether a user may write a ref.
func (e *Engine) Push(ctx context.Context, in PushInput) (Answer, Record) {
	return e.query(ctx, "push", in.Now, in)
}

// Land answers whether a candidate may become the tip of a gated branch.
func (e *Engine) Land(ctx context.Context, in LandInput) (Answer, Record) {
	return e.query(ctx, "land", in.Now, in)
}

// Promote answers whether a release may be given to an environment.
func (e *Engine) Promote(ctx context.Context, in PromoteInput) (Answer, Record) {
	return e.query(ctx, "promote", in.Now, in)
}

// Rollback answers whether an environment may go back to a release.
func (e *Engine) Rollback(ctx context.Context, in RollbackInput) (Answer, Record) {
	return e.query(ctx, "rollback", in.Now, in)
}

// Converge answers whether drift may be healed: auto heals, else it is reported.
func (e *Engine) Converge(ctx context.Context, in ConvergeInput) (Answer, Record) {
	return e.query(ctx, "converge", in.Now, in)
}

// Exec answers whether a person may run a command where a service runs.
func (e *Engine) Exec(ctx context.Context, in ExecInput) (Answer, Record) {
	return e.query(ctx, "exec", in.Now, in)
}

func (e *Engine) query(ctx context.Context, query string, now time.Time, input any) (Answer, Record) {
	raw, err := json.Marshal(document(reflect.ValueOf(input)))
	if err != nil {
		panic(err) // maps, lists and plain values only
	}
	return e.decide(ctx, query, now, raw)
}

// decide evaluates a query whose input is raw: the answer, and the record of it.
func (e *Engine) decide(ctx context.Context, query string, now time.Time, raw []byte) (Answer, Record) {
	start := time.Now()
	var printed string
	var answer Answer
	switch {
	case len(raw) > maxInput:
		answer = denied(fmt.Sprintf("the input is %d bytes, over the limit of %d", len(raw), maxInput))
	case e == nil:
		answer = denied("there is no policy")
	case e.broken != nil:
		answer = denied("the policy is broken: " + firstLine(e.broken))
	default:
		var err error
		if answer, printed, err = e.evaluator.evaluate(ctx, query, now, raw); err != nil {
			answer = denied(firstLine(err))
		}
	}
	var by string
	if e != nil {
		answer.Policy, by = e.digest, e.version
	}
	return answer, Record{
		Query:   query,
		Input:   raw,
		Answer:  answer,
		Printed: printed,
		Engine:  by,
		Took:    time.Since(start),
	}
}

// denied is the answer when a policy gives none.
func denied(message string) Answer {
	return Answer{Decision: Deny, Reasons: []Reason{{Rule: RulePolicy, Message: message}},
		Checks: []Condition{{Rule: RulePolicy, Title: message, Denied: true}}}
}

func firstLine(err error) string {
	s, _, _ := strings.Cut(err.Error(), "\n")
	return s
}

var errInterrupted = errors.New("nobody waits for the answer any more")

// evaluate joins what the default policy and the repository's say.
func (c compiled) evaluate(ctx context.Context, query string, now time.Time, raw []byte) (Answer, string, error) {
	input, err := ast.ValueFromReader(bytes.NewReader(raw))
	if err != nil {
		return Answer{}, "", fmt.Errorf("the input is not JSON: %w", err)
	}
	byDefault, err := compiledDefaults()
	if err != nil {
		return Answer{}, "", fmt.Errorf("the default policy is broken: %w", err)
	}

	var results []result
	var printed printer
	for _, one := range []struct {
		whose  string
		policy policy
	}{{"the default policy", byDefault}, {"the repository's policy", c.own}} {
		prepared, ok := one.policy.prepared[query]
		if !ok && one.whose == "the repository's policy" {
			continue // it does not answer this query
		}
		r, err := evaluateOne(ctx, prepared, input, now, &printed)
		if err != nil {
			return Answer{}, printed.String(), fmt.Errorf("%s gave no answer: %w", one.whose, err)
		}
		if one.whose == "the repository's policy" {
			r.places = one.policy.places[query]
		}
		results = append(results, r)
	}
	return combine(results), printed.String(), nil
}

func evaluateOne(
	ctx context.Context, q rego.PreparedEvalQuery, input ast.Value, now time.Time, printed *printer,
) (_ result, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("the evaluation panicked: %v", p)
		}
	}()
	if ctx.Err() != nil {
		return result{}, errInterrupted
	}
	rs, err := q.Eval(ctx, rego.EvalParsedInput(input), rego.EvalTime(now), rego.EvalPrintHook(printed))
	switch {
	case err != nil:
		return result{}, err
	case len(rs) != 1 || len(rs[0].Expressions) != 1:
		return result{}, errors.New("the result is undefined")
	}
	return parseResult(rs[0].Expressions[0].Value)
}

// printer keeps the beginning of what policies print.
type printer struct {
	kept  strings.Builder
	calls int
}

// Print implements print.Hook.
func (p *printer) Print(at print.Context, text string) error {
	if p.calls++; p.calls > maxPrints {
		return fmt.Errorf("the policy prints more than %d times", maxPrints)
	}
	line := fmt.Sprintf("%s:%d: %s\n", at.Location.File, at.Location.Row, text)
	if room := maxPrinted - p.kept.Len(); len(line) > room {
		line = strings.ToValidUTF8(line[:room], "")
	}
	p.kept.WriteString(line)
	return nil
}

func (p *printer) String() string { return p.kept.String() }
