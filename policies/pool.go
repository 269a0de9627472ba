package policies

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Bounds of a Pool.
const (
	maxSets      = 64 // that are remembered, most without a process
	maxProcesses = 8  // of repositories' policies; the default ones have one of their own
	maxChecks    = 2  // at the same time
)

// idleTimeout is how long the process of a repository's policies waits for the
// next query before it is ended.
const idleTimeout = 10 * time.Minute

// Limits of what a process may take for one request. Processor time is what counts,
// so that a machine with much else to do denies nothing; the clock ends what sleeps.
// What passes a check has half the time that it has later, and ten times what an
// honest policy takes.
var (
	checkLimit    = limit{3 * time.Second, time.Minute, "the policies take too long to compile"}
	testLimit     = limit{10 * time.Second, 2 * time.Minute, "the tests of the policies take too long"}
	loadLimit     = limit{6 * time.Second, time.Minute, "the policies take too long to compile"}
	evaluateLimit = limit{time.Second, 20 * time.Second, "policy timed out"}
)

// retryOver is when policies over a limit are given another chance to compile.
const retryOver = time.Minute

// Pool compiles, tests and evaluates policies in processes of their own, one for
// each set of files: whatever a policy does, its process is what it does it to, and
// is ended when it takes too long. The default policies, which answer for every
// repository that has none of its own, have a process that no other policy enters.
//
// It is safe for concurrent use. A set answers one query at a time.
type Pool struct {
	Program []string     // a program that calls Work, with its arguments
	Log     *slog.Logger // nil: nowhere

	once   sync.Once
	ctx    context.Context // of all processes
	cancel context.CancelFunc
	alive  sync.WaitGroup // processes

	places  chan struct{} // of processes of repositories' policies
	waiting atomic.Int32  // for one of places
	checks  chan struct{}

	mu    sync.Mutex
	sets  map[string]*set
	clock int // counts calls of Engine
}

func (p *Pool) init() {
	p.once.Do(func() {
		p.ctx, p.cancel = context.WithCancel(context.Background())
		p.places = make(chan struct{}, maxProcesses)
		p.checks = make(chan struct{}, maxChecks)
		p.sets = map[string]*set{}
		p.Log = cmp.Or(p.Log, slog.New(slog.DiscardHandler))
	})
}

// Close ends all processes, and whatever they are asked from now on has no answer.
func (p *Pool) Close() {
	p.init()
	p.cancel()
	p.alive.Wait()
}

// set is the policies of one set of files, compiled in a process when it is needed.
type set struct {
	pool *Pool
	key  string
	load func() (map[string][]byte, error) // reads the files; nil for the default policies alone

	once   sync.Once
	engine *Engine
	err    error
	until  time.Time // when engine is made again; zero: never
	used   int       // by Pool.clock; guarded by Pool.mu

	forgotten atomic.Bool // no longer in Pool.sets

	turn    chan struct{} // held by whoever uses what follows
	process *process      // nil: none runs
	idle    *time.Timer
}

// Engine returns the Engine of the files that key names, which load reads when
// they have not been compiled yet, and whenever their process is started again:
// equal keys must mean equal files. Of files that do not compile, or not within
// bounds, the Engine denies everything, and the error says why. Without an Engine,
// the error is the server's own, and another try may succeed.
func (p *Pool) Engine(key string, load func() (map[string][]byte, error)) (*Engine, error) {
	p.init()
	s := p.set(key, load)
	s.once.Do(func() {
		s.err = errors.New("compiling the policies came to no end") // if it panics
		s.engine, s.err = s.compile()
	})
	if s.err != nil && (s.engine == nil || !s.until.IsZero()) {
		p.mu.Lock()
		if p.sets[key] == s && time.Now().After(s.until) {
			delete(p.sets, key)
		}
		p.mu.Unlock()
	}
	return s.engine, s.err
}

// set finds or makes the set of a key.
func (p *Pool) set(key string, load func() (map[string][]byte, error)) *set {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.clock++
	s := p.sets[key]
	if s == nil {
		if len(p.sets) >= maxSets {
			p.forget()
		}
		s = &set{pool: p, key: key, load: load, turn: make(chan struct{}, 1)}
		p.sets[key] = s
	}
	s.used = p.clock
	return s
}

// forget makes room for another set. Whoever still has the Engine of the one that
// goes may use it; its process ends when it is idle.
func (p *Pool) forget() {
	var oldest *set
	for _, s := range p.sets {
		if s.load != nil && (oldest == nil || s.used < oldest.used) {
			oldest = s
		}
	}
	delete(p.sets, oldest.key)
	oldest.forgotten.Store(true)
	go oldest.retire()
}

// byDefault is the set of the default policies alone. No key of a caller is its key.
func (p *Pool) byDefault() (*Engine, error) { return p.Engine("\x00default", nil) }

func (s *set) compile() (*Engine, error) {
	if s.load != nil {
		files, err := s.load()
		if err != nil {
			return nil, err
		}
		if !evaluated(files) {
			return s.pool.byDefault()
		}
	}

	s.turn <- struct{}{}
	defer func() { <-s.turn }()
	answer, err := s.start()
	var over overError
	var ps Problems
	switch {
	case err == nil:
		s.rest()
		return &Engine{digest: answer.Digest, version: answer.Version, evaluator: s}, nil
	case errors.As(err, &ps):
		return &Engine{digest: answer.Digest, version: answer.Version, broken: ps}, ps
	case errors.As(err, &over):
		s.until = time.Now().Add(retryOver)
		return &Engine{digest: s.key, broken: over}, over
	}
	return nil, err
}

// evaluated reports whether any of the files is for Headgate, or looks as if it
// were meant to be.
func evaluated(files map[string][]byte) bool {
	s := readSources(files)
	if len(s.problems) > 0 {
		return true
	}
	for _, pkg := range s.packages {
		if sameOrBelow(pkg, root) {
			return true
		}
	}
	return false
}

// start makes the process of a set and has it compile. Its caller holds turn.
func (s *set) start() (reply, error) {
	var files map[string][]byte
	if s.load != nil {
		var err error
		if files, err = s.load(); err != nil {
			return reply{}, err
		}
		if err := s.pool.place(s.pool.ctx); err != nil {
			return reply{}, err
		}
	}
	started, err := s.pool.start()
	if err != nil {
		s.leave()
		return reply{}, err
	}
	answer, err := started.exchange(request{Op: opLoad, Files: files}, loadLimit)
	switch {
	case err != nil:
	case len(answer.Problems) > 0:
		err = answer.Problems
	case answer.Error != "":
		err = errors.New(answer.Error)
	}
	if err != nil {
		started.end()
		s.leave()
		s.pool.Log.Warn("policies do not compile", "policies", s.key, "err", err)
		return answer, err
	}
	s.process = started
	return answer, nil
}

// leave gives the place of the set's process to whoever waits for one.
func (s *set) leave() {
	if s.load != nil {
		<-s.pool.places
	}
}

// stop ends the process, if there is one. Its caller holds turn.
func (s *set) stop() {
	if s.process == nil {
		return
	}
	s.process.end()
	s.process = nil
	s.leave()
}

// rest lets the process wait for the next query, for a while, unless somebody else
// waits for its place. Its caller holds turn.
func (s *set) rest() {
	switch {
	case s.load == nil:
	case s.pool.waiting.Load() > 0, s.forgotten.Load():
		s.stop()
	case s.idle == nil:
		s.idle = time.AfterFunc(idleTimeout, func() { s.retire() })
	default:
		s.idle.Reset(idleTimeout)
	}
}

// retire ends the process when nobody uses it, and reports whether that made room.
func (s *set) retire() bool {
	select {
	case s.turn <- struct{}{}:
	default:
		return false
	}
	defer func() { <-s.turn }()
	had := s.process != nil
	s.stop()
	return had
}

// place takes one of the places for processes, that of the set which was idle for
// longest if there is none.
func (p *Pool) place(ctx context.Context) error {
	select {
	case p.places <- struct{}{}:
		return nil
	default:
	}
	p.waiting.Add(1) // from here on whoever has answered gives its place away
	defer p.waiting.Add(-1)
	p.mu.Lock()
	byAge := make([]*set, 0, len(p.sets))
	for _, s := range p.sets {
		if s.load != nil {
			byAge = append(byAge, s)
		}
	}
	slices.SortFunc(byAge, func(a, b *set) int { return a.used - b.used })
	p.mu.Unlock()
	for _, s := range byAge {
		if s.retire() {
			break
		}
	}
	select {
	case p.places <- struct{}{}:
		return nil
	case <-ctx.Done():
		return errClosed
	}
}

var errClosed = errors.New("the server stops")

// evaluate implements evaluator.
func (s *set) evaluate(ctx context.Context, query string, now time.Time, input []byte) (Answer, string, error) {
	if ctx.Err() != nil {
		return Answer{}, "", errInterrupted
	}
	select {
	case s.turn <- struct{}{}:
	case <-ctx.Done():
		return Answer{}, "", errInterrupted
	}
	// Nobody need wait for the answer to the end, but the process has to.
	type outcome struct {
		reply reply
		err   error
	}
	done := make(chan outcome, 1)
	go func() {
		defer func() { <-s.turn }()
		r, err := s.ask(request{Op: opEvaluate, Query: query, Now: now, Input: input})
		done <- outcome{r, err}
	}()
	select {
	case o := <-done:
		if o.err != nil {
			return Answer{}, o.reply.Printed, o.err
		}
		return o.reply.Answer, o.reply.Printed, nil
	case <-ctx.Done():
		return Answer{}, "", errInterrupted
	}
}

// ask has the set's process answer; once more, by another one, when it ended for a
// reason that need not be the policy's. Its caller holds turn.
func (s *set) ask(r request) (reply, error) {
	for again := false; ; again = true {
		if s.process == nil {
			if _, err := s.start(); err != nil {
				return reply{}, err
			}
		}
		answer, err := s.process.exchange(r, evaluateLimit)
		if err == nil {
			s.rest()
			if answer.Error != "" {
				err = errors.New(answer.Error)
			}
			return answer, err
		}
		s.stop()
		var ended endedError
		if again || !errors.As(err, &ended) {
			s.pool.Log.Warn("policies give no answer", "policies", s.key, "query", r.Query, "err", err)
			return reply{}, err
		}
		s.pool.Log.Warn("the process that evaluates policies ended, another is asked", "policies", s.key, "err", err)
	}
}

// Check judges a repository's policies, by path: packages headgate.* must compile
// with the built-ins that are allowed, against the inputs of the queries, belong to
// a query, refer to nothing that is not there, and pass their own tests, if they
// have any, within the bounds of a process. Which files those are is said by Reads;
// others are left alone. The error is the server's own.
func (p *Pool) Check(ctx context.Context, files map[string][]byte) ([]Problem, error) {
	p.init()
	if !evaluated(files) {
		return nil, nil
	}
	select {
	case p.checks <- struct{}{}:
		defer func() { <-p.checks }()
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-p.ctx.Done():
		return nil, errClosed
	}

	for again := false; ; again = true {
		problems, err := p.check(ctx, files)
		var over overError
		var ended endedError
		switch {
		case err == nil:
			return sorted(problems), nil
		case ctx.Err() != nil:
			return nil, ctx.Err()
		case errors.As(err, &over):
			return []Problem{{File: Dir, What: over.Error(), Fix: "make them smaller and simpler"}}, nil
		case again && errors.As(err, &ended):
			return []Problem{{File: Dir,
				What: fmt.Sprintf("compiling or testing the policies ends the process that does it: %v", ended)}}, nil
		case again || !errors.As(err, &ended):
			return nil, err
		}
	}
}

func (p *Pool) check(ctx context.Context, files map[string][]byte) ([]Problem, error) {
	c, err := p.start()
	if err != nil {
		return nil, err
	}
	defer c.end()
	defer context.AfterFunc(ctx, c.kill)()
	answer, err := c.exchange(request{Op: opCompile, Files: files}, checkLimit)
	if err == nil && len(answer.Problems) == 0 {
		answer, err = c.exchange(request{Op: opTest}, testLimit)
	}
	return answer.Problems, err
}

func sorted(ps []Problem) []Problem {
	slices.SortStableFunc(ps, func(a, b Problem) int {
		return cmp.Or(strings.Compare(a.File, b.File), a.Line-b.Line)
	})
	return slices.Compact(ps)
}
