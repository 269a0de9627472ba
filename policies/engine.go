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
	"reflect"
	"runtime"
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

// Limits of one evaluation. The default policy takes about 1 ms.
const (
	maxInput   = 1 << 20
	maxPrinted = 4 << 10 // bytes that are kept
	maxPrints  = 1000    // calls, after which the policy is stopped
	// grace is how much longer an evaluation is waited for that does not end
	// when its timeout tells it to.
	grace = 250 * time.Millisecond
	// defaultTimeout is that of the default policy. It cannot loop: only a machine
	// with too much else to do keeps it from answering, and a denial would be wrong.
	defaultTimeout = 10 * time.Second
)

// evalTimeout is that of a repository's policy: it also bounds what one can
// allocate until then. An honest one takes a few milliseconds; a machine with
// much else to do may make a hundred of them. Tests of other bounds raise it.
var evalTimeout = time.Second

//go:embed rego/*.rego
var defaults embed.FS

// Engine is a set of compiled policies. It is safe for concurrent use.
type Engine struct {
	digest string
	own    policy // the repository's; nil if it has none
	broken error  // why everything is denied; nil if the policies compiled
}

// semaphore bounds how many evaluations of this process run at once, those among
// them that were given up on.
var semaphore = make(chan struct{}, 8+4*runtime.GOMAXPROCS(0))

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
func New(repository map[string][]byte) (*Engine, error) {
	if _, err := compiledDefaults(); err != nil {
		return nil, fmt.Errorf("compile the default policies: %w", err)
	}
	named, err := defaultFiles()
	if err != nil {
		return nil, err
	}
	e := &Engine{}
	var ps Problems
	e.own, ps = build(repository)
	if len(ps) > 0 {
		e.broken = ps
		e.own.files = sortedKeys(repository) // any of them may be to blame
	}
	for _, name := range e.own.files {
		named["repository/"+name] = repository[name]
	}
	e.digest = digest(named)
	if e.broken != nil {
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
	var printed printer
	var answer Answer
	switch {
	case len(raw) > maxInput:
		answer = denied(fmt.Sprintf("the input is %d bytes, over the limit of %d", len(raw), maxInput))
	case e == nil:
		answer = denied("there is no policy")
	case e.broken != nil:
		answer = denied("the policy is broken: " + firstLine(e.broken))
	default:
		answer = e.evaluate(ctx, query, now, raw, &printed)
	}
	if e != nil {
		answer.Policy = e.digest
	}
	return answer, Record{
		Query:   query,
		Input:   raw,
		Answer:  answer,
		Printed: printed.String(),
		Engine:  "opa " + version.Version,
		Took:    time.Since(start),
	}
}

// denied is the answer when a policy gives none.
func denied(message string) Answer {
	return Answer{Decision: Deny, Reasons: []Reason{{RulePolicy, message}},
		Checks: []Condition{{Rule: RulePolicy, Title: message, Denied: true}}}
}

func firstLine(err error) string {
	s, _, _ := strings.Cut(err.Error(), "\n")
	return s
}

// evaluate joins what the default policy and the repository's say.
func (e *Engine) evaluate(ctx context.Context, query string, now time.Time, raw []byte, printed *printer) Answer {
	input, err := ast.ValueFromReader(strings.NewReader(string(raw)))
	if err != nil {
		return denied("the input is not JSON: " + err.Error())
	}
	built, err := compiledDefaults()
	if err != nil {
		return denied("the default policy is broken: " + firstLine(err))
	}

	var results []result
	for _, one := range []struct {
		whose   string
		policy  policy
		timeout time.Duration
	}{
		{"the default policy", built, defaultTimeout},
		{"the repository's policy", e.own, evalTimeout},
	} {
		prepared, ok := one.policy.prepared[query]
		if !ok && one.whose == "the repository's policy" {
			continue // it does not answer this query
		}
		r, err := evaluateOne(ctx, prepared, input, now, printed, one.timeout)
		if err != nil {
			return denied(fmt.Sprintf("%s gave no answer: %s", one.whose, firstLine(err)))
		}
		results = append(results, r)
	}
	return combine(results)
}

var (
	errTimedOut    = errors.New("policy timed out")
	errInterrupted = errors.New("nobody waits for the answer any more")
)

// evaluateOne evaluates one policy. The timeout stops every loop of Rego, and the
// built-ins that would not notice it are bounded or not allowed (capabilities.go,
// bounds.go), as are the values that rules spell out (growth.go). What is left,
// such as comparing values that functions have doubled again and again, is given
// up on: the answer is a denial, while the goroutine goes on until it ends and
// keeps its slot until then. Only a process of its own could be stopped for
// certain.
func evaluateOne(
	ctx context.Context, q rego.PreparedEvalQuery, input ast.Value, now time.Time, printed *printer, timeout time.Duration,
) (result, error) {
	outer := ctx
	if outer.Err() != nil {
		return result{}, errInterrupted
	}
	late := func() error {
		if outer.Err() != nil {
			return errInterrupted
		}
		return errTimedOut
	}

	// Waiting for a slot is nothing that the policy could be blamed for: its time
	// begins when it has one.
	waited := time.NewTimer(defaultTimeout)
	defer waited.Stop()
	select {
	case semaphore <- struct{}{}:
	case <-waited.C:
		return result{}, late()
	case <-ctx.Done():
		return result{}, late()
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()

	type outcome struct {
		result result
		err    error
	}
	done := make(chan outcome, 1)
	go func() {
		defer func() {
			<-semaphore
			if p := recover(); p != nil {
				done <- outcome{err: fmt.Errorf("the evaluation panicked: %v", p)}
			}
		}()
		rs, err := q.Eval(ctx, rego.EvalParsedInput(input), rego.EvalTime(now), rego.EvalPrintHook(printed))
		switch {
		case err != nil && ctx.Err() != nil:
			err = late()
		case err == nil && (len(rs) != 1 || len(rs[0].Expressions) != 1):
			err = errors.New("the result is undefined")
		}
		if err != nil {
			done <- outcome{err: err}
			return
		}
		r, err := parseResult(rs[0].Expressions[0].Value)
		done <- outcome{r, err}
	}()

	select {
	case o := <-done:
		return o.result, o.err
	case <-ctx.Done():
	}
	select {
	case o := <-done:
		return o.result, o.err
	case <-time.After(grace):
		return result{}, late()
	}
}

// printer keeps the beginning of what policies print.
type printer struct {
	mu    sync.Mutex // an evaluation that was given up on may still print
	kept  strings.Builder
	calls int
}

// Print implements print.Hook.
func (p *printer) Print(at print.Context, text string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
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

func (p *printer) String() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.kept.String()
}
