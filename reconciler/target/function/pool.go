package function

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/headgate-cd/headgate/reconciler/target"
	"github.com/headgate-cd/headgate/reconciler/target/function/rollout"
)

// version is an immutable, numbered snapshot of a function's code and configuration.
type version struct {
	Number  int       `json:"number"`
	Digest  string    `json:"digest"` // of the artifact
	Config  Config    `json:"config"`
	Release int       `json:"release"` // the last that published it
	Made    time.Time `json:"made"`
}

// function is one function with its instances.
type function struct {
	app  *app
	name string

	mu     sync.Mutex
	limit  int // events at the same time
	idle   time.Duration
	active int // events now
	latest int // version that was published last
	pools  map[int]*pool
	free   *sync.Cond // an event less
}

func newFunction(a *app, name string) *function {
	f := &function{app: a, name: name, pools: map[int]*pool{}}
	f.free = sync.NewCond(&f.mu)
	return f
}

// pool are the instances of one version.
type pool struct {
	owner    *Target
	function *function
	version  version
	code     string // unpacked

	mu      sync.Mutex
	all     map[*instance]time.Time // since when they are idle; zero: they are not
	waiting []*instance             // idle, the one used last at the end
	users   int                     // events that are for it
	retired bool

	left sync.Once // its code is not needed any more
}

// executed is what came of an invocation.
type executed struct {
	answer
	id      string
	version int
	log     []byte // the end of what was printed, if it was asked for
	finish  func() // to be called when the answer has been dealt with
}

// Why an event is not taken.
var (
	errThrottled = errors.New("all instances that the function may have are busy")
	errNoVersion = errors.New("there is no such version or alias")
	errStopping  = errors.New("the server is stopping")
)

// invocationOf is what to invoke, and how.
type invocationOf struct {
	payload []byte
	arn     string
	log     bool
	patient bool // it waits until an instance is free
}

// chooser says which version an event is for, 0 for none. It is called with the function's
// mu held: requests go elsewhere before the versions that they went to are let go of.
type chooser func() int

func exactly(number int) chooser { return func() int { return number } }

// pick is the pool of the version that an event is for, until the event is done with it.
func (f *function) pick(choose chooser) (p *pool, number int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	number = choose()
	if p = f.pools[number]; p != nil {
		p.mu.Lock()
		p.users++
		p.mu.Unlock()
	}
	return p, number
}

// invoke has a version deal with an event.
func (f *function) invoke(ctx context.Context, choose chooser, what invocationOf) (executed, error) {
	p, number := f.pick(choose)
	if p == nil {
		return executed{version: number, finish: func() {}}, errNoVersion
	}
	e, err := f.invokeOn(ctx, p, what)
	e.version = number
	if err != nil || e.stream == nil {
		p.unpick()
		e.finish = func() {}
		return e, err
	}
	over := e.finish
	e.finish = sync.OnceFunc(func() {
		over()
		p.unpick()
	})
	return e, nil
}

// invokeOn is invoke once it is known by which instances. An answer that streams has a finish.
func (f *function) invokeOn(ctx context.Context, p *pool, what invocationOf) (executed, error) {
	f.mu.Lock()
	if what.patient {
		// Whoever waits is told that the application ends, also when nobody lets go.
		defer context.AfterFunc(ctx, func() {
			f.mu.Lock()
			defer f.mu.Unlock()
			f.free.Broadcast()
		})()
	}
	for f.active >= f.limit {
		if !what.patient {
			f.mu.Unlock()
			return executed{}, errThrottled
		}
		if ctx.Err() != nil {
			f.mu.Unlock()
			return executed{}, errStopping
		}
		f.free.Wait()
	}
	f.active++
	f.mu.Unlock()
	done := func() {
		f.mu.Lock()
		f.active--
		f.free.Signal()
		f.mu.Unlock()
	}

	e := executed{id: requestID()}
	in, keep, err := p.try(ctx, &e, what)
	var failed *functionError
	switch {
	case errors.As(err, &failed):
		e.err = failed
		done()
		return e, nil
	case err != nil:
		done()
		return executed{}, err
	}
	if what.log {
		e.log = in.output.since()
	}
	if e.stream == nil {
		p.release(in, keep)
		done()
		return e, nil
	}
	// Its time is up also while it streams.
	late := time.AfterFunc(p.version.Config.Timeout, func() { in.kill("timed out") })
	e.finish = func() {
		stopped := late.Stop()
		close(e.stream.done)
		p.release(in, stopped)
		done()
	}
	return e, nil
}

// maxTries bounds how many instances in a row may end before they take an event.
const maxTries = 5

// try has an instance deal with an event, and another one when that ends before it has
// taken it, as one does that was broken by the event before.
func (p *pool) try(ctx context.Context, e *executed, what invocationOf) (in *instance, keep bool, err error) {
	for range maxTries {
		if in, err = p.acquire(ctx); err != nil {
			return nil, false, err
		}
		in.output.begin()
		e.answer, keep, err = in.invoke(ctx, &invocation{
			id:      e.id,
			payload: what.payload,
			arn:     what.arn,
			timeout: p.version.Config.Timeout,
			taken:   make(chan struct{}),
			answer:  make(chan answer, 1),
		})
		if err == nil {
			return in, keep, nil
		}
	}
	return nil, false, &functionError{Type: "Runtime.ExitError",
		Message: fmt.Sprintf("RequestId: %s Error: %s", e.id, in.outcome)}
}

// acquire takes an idle instance, or starts one.
func (p *pool) acquire(ctx context.Context) (*instance, error) {
	p.mu.Lock()
	for n := len(p.waiting); n > 0; n = len(p.waiting) {
		in := p.waiting[n-1]
		p.waiting = p.waiting[:n-1]
		select {
		case <-in.dead: // it ended by itself a moment ago
			continue
		default:
		}
		p.all[in] = time.Time{}
		p.mu.Unlock()
		return in, nil
	}
	p.mu.Unlock()
	return p.begin(ctx)
}

// begin starts an instance and waits until it is ready. Whoever gets it has it alone.
func (p *pool) begin(ctx context.Context) (*instance, error) {
	if ctx.Err() != nil {
		return nil, errStopping
	}
	in, err := p.start()
	if err != nil {
		return nil, &functionError{Type: "Runtime.InvalidEntrypoint", Message: err.Error()}
	}
	p.mu.Lock()
	select {
	case <-in.dead: // it is lost already
	default:
		p.all[in] = time.Time{}
	}
	p.mu.Unlock()
	p.function.app.changed()
	if failed := in.initialized(ctx); failed != nil {
		return nil, failed
	}
	p.function.app.changed()
	return in, nil
}

// release gives an instance back, or ends it.
func (p *pool) release(in *instance, keep bool) {
	p.mu.Lock()
	_, here := p.all[in]
	if keep && here && !p.retired {
		p.all[in] = time.Now()
		p.waiting = append(p.waiting, in)
		p.mu.Unlock()
		p.function.mu.Lock()
		idle := p.function.idle
		p.function.mu.Unlock()
		time.AfterFunc(idle, func() { p.reap(idle) })
		return
	}
	p.mu.Unlock()
	if here {
		in.kill("it is not needed any more")
	}
}

// reap ends instances that were idle for so long.
func (p *pool) reap(idle time.Duration) {
	p.mu.Lock()
	var over []*instance
	p.waiting = slices.DeleteFunc(p.waiting, func(in *instance) bool {
		is := time.Since(p.all[in]) >= idle
		if is {
			over = append(over, in)
		}
		return is
	})
	p.mu.Unlock()
	for _, in := range over {
		in.kill("it was idle")
	}
}

// lost forgets an instance that has ended.
func (p *pool) lost(in *instance) {
	p.mu.Lock()
	delete(p.all, in)
	p.waiting = slices.DeleteFunc(p.waiting, func(w *instance) bool { return w == in })
	p.leave()
	p.mu.Unlock()
	p.function.app.changed()
}

// retire ends the instances, those that are busy when they have answered, unless now.
func (p *pool) retire(now bool) {
	p.mu.Lock()
	p.retired = true
	over := p.waiting
	p.waiting = nil
	if now {
		over = slices.Collect(maps.Keys(p.all))
	}
	p.leave()
	p.mu.Unlock()
	for _, in := range over {
		in.kill("it is not needed any more")
	}
}

// unpick says that an event is done with.
func (p *pool) unpick() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.users--
	p.leave()
}

// leave gives the code back once nothing runs from it, nor will. It is called with mu held.
func (p *pool) leave() {
	if p.retired && len(p.all) == 0 && p.users == 0 {
		p.left.Do(func() { p.owner.code.Release(p.version.code()) })
	}
}

// instances are as they are reported.
func (p *pool) instances(release int) (all []target.Instance) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for in := range p.all {
		in.mu.Lock()
		i := target.Instance{
			ID:      in.id,
			Release: release,
			Phase:   target.PhaseStarting,
			Since:   in.began,
			Serving: in.isReady && !p.retired,
		}
		switch {
		case p.retired:
			i.Phase = target.PhaseDraining
		case in.isReady:
			i.Phase = target.PhaseHealthy
		}
		in.mu.Unlock()
		all = append(all, i)
	}
	return all
}

// keepOnly retires the pools of versions that are not needed any more.
func (f *function) keepOnly(needed func(number int) bool) {
	f.mu.Lock()
	var over []*pool
	for number, p := range f.pools {
		if !needed(number) {
			over = append(over, p)
			delete(f.pools, number)
		}
	}
	f.mu.Unlock()
	for _, p := range over {
		p.retire(false)
	}
}

// router says which version a request for an alias is for.
type router struct {
	mu    sync.Mutex
	alias rollout.Alias
	asked uint64 // since the alias is there
}

func (r *router) set(a rollout.Alias) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.alias != a {
		r.alias, r.asked = a, 0
	}
}

// at is where the alias is.
func (r *router) at() rollout.Alias {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.alias
}

// next is the version of the next request, 0 without an alias. The canary's are spread
// evenly: of any number of requests in a row it gets its share, give or take one.
func (r *router) next() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	a := r.alias
	if a.Canary == 0 {
		return a.Version
	}
	weight := uint64(a.Weight)
	before := r.asked * weight / 100
	r.asked++
	if r.asked*weight/100 > before {
		return a.Canary
	}
	return a.Version
}

func (v version) String() string { return fmt.Sprintf("version %d", v.Number) }
