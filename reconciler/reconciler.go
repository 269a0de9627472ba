package reconciler

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/headgate-cd/headgate/gitd/access"
	"github.com/headgate-cd/headgate/gitd/headgateyaml"
	"github.com/headgate-cd/headgate/gitd/repo"
	"github.com/headgate-cd/headgate/gitd/show"
	"github.com/headgate-cd/headgate/policies"
	"github.com/headgate-cd/headgate/reconciler/record"
	"github.com/headgate-cd/headgate/reconciler/target"
)

// safety is how often an environment is looked at although nothing was heard:
// what losing every event costs.
const safety = time.Minute

// Reconciler promotes and converges all environments of all repositories. Its
// exported fields are set before Run and not changed after; its methods are
// safe for concurrent use. Approve, ApprovePush and Rollback need Run running,
// the queries do not.
type Reconciler struct {
	Store *repo.Store
	// Access is who may do what now. Call Wake("") when it changes, or that is noticed
	// within a minute only.
	Access func() *access.Config
	// Engine compiles the policies at a commit of the gated branch. What it returns
	// together with an error denies and says why.
	Engine   func(r *repo.Repository, tip repo.Hash) (*policies.Engine, error)
	Releases func(r *repo.Repository) ([]record.Release, error)
	Artifact func(digest string) bool // whether its bytes are there; nil: they always are
	// Definitions are the files of a release's artifacts that what is declared in these files
	// asks for, by artifact; nil: it never asks for any.
	Definitions func(ctx context.Context, kind string, files target.Files, rel target.Release) (map[string][]byte, error)
	Targets     map[string]target.Target       // by the name that headgate.yaml gives as target:
	Branch      func(repository string) string // full ref name of the gated branch that releases come from
	Now         func() time.Time               // nil: time.Now
	Log         *slog.Logger                   // nil: slog.Default
	Host        string                         // name or address by which people reach this machine
	Login       string                         // what stands behind "ssh" to reach the server, for commands to paste

	sequences cache[int]
	released  cache[known]
	files     cache[*headgateyaml.File]
	renamed   cache[[]renaming]
	emails    cache[[]string]
	addressed cache[[]netip.AddrPort]

	declaring sync.Mutex // held while an environment takes addresses of this machine

	mu      sync.Mutex
	workers map[string]*worker // by workerKey

	withheld cache[withheld] // by workerKey
}

func (rc *Reconciler) now() time.Time {
	if rc.Now == nil {
		return time.Now()
	}
	return rc.Now()
}

func (rc *Reconciler) log() *slog.Logger {
	if rc.Log == nil {
		return slog.Default()
	}
	return rc.Log
}

func workerKey(repository, environment string) string { return repository + "\x00" + environment }

// Run keeps every environment converged and promoted until ctx is done. It
// returns when all that it started has ended. Recovery after a kill is nothing
// else than its first look at each environment.
func (rc *Reconciler) Run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	moved, stop := rc.Store.Watch("")
	defer stop()
	defer func() {
		rc.mu.Lock()
		defer rc.mu.Unlock()
		rc.workers = nil
	}()

	// One goroutine starts workers; each worker is one more, and ends with ctx.
	group.Go(func() error {
		tick := time.NewTicker(safety)
		defer tick.Stop()
		for {
			if err := rc.startWorkers(ctx, group); err != nil {
				rc.log().Error("looked for environments", "err", err)
			}
			select {
			case <-ctx.Done():
				return nil
			case <-moved:
			case <-tick.C:
			}
		}
	})
	return group.Wait()
}

// startWorkers starts a worker for every environment that has none.
func (rc *Reconciler) startWorkers(ctx context.Context, group *errgroup.Group) error {
	names, err := rc.Store.Names()
	if err != nil {
		return err
	}
	var errs []error
	for _, name := range names {
		r, err := rc.Store.Repository(name)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		all, err := rc.unfinished(r)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		for _, environment := range all {
			rc.mu.Lock()
			if rc.workers == nil {
				rc.workers = map[string]*worker{}
			}
			key := workerKey(name, environment)
			if rc.workers[key] == nil {
				w := newWorker(rc, r, environment)
				rc.workers[key] = w
				group.Go(func() error { w.run(ctx); return nil })
			}
			rc.mu.Unlock()
		}
	}
	return errors.Join(errs...)
}

// unfinished are the names of a repository's environments, and of those that are none
// any more and have something open still.
func (rc *Reconciler) unfinished(r *repo.Repository) (names []string, err error) {
	all, err := rc.environments(r)
	if err != nil {
		return nil, err
	}
	for _, e := range all {
		names = append(names, e.Name)
	}
	open, err := r.Refs(record.ProposalRef(""))
	for _, ref := range open {
		name := strings.TrimPrefix(ref.Name, record.ProposalRef(""))
		if !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return names, err
}

// Wake makes the environments of a repository ("" for all) be looked at now.
func (rc *Reconciler) Wake(repository string) {
	rc.mu.Lock()
	defer rc.mu.Unlock()
	for _, w := range rc.workers {
		if repository == "" || w.repo.Name() == repository {
			w.mail.Wake()
		}
	}
}

// worker returns the one writer of an environment.
func (rc *Reconciler) worker(r *repo.Repository, environment string) (*worker, error) {
	rc.mu.Lock()
	w := rc.workers[workerKey(r.Name(), environment)]
	rc.mu.Unlock()
	if w != nil {
		return w, nil
	}
	all, err := rc.environments(r)
	if err != nil {
		return nil, err
	}
	if !slices.ContainsFunc(all, func(e headgateyaml.Environment) bool { return e.Name == environment }) {
		return nil, noEnvironment(r.Name(), environment, all)
	}
	return nil, &show.Error{Kind: show.Again,
		What: fmt.Sprintf("environment %s of %s is still starting", environment, r.Name()), Hint: "try again in a moment"}
}

// repository finds a repository for a person.
func (rc *Reconciler) repository(name string) (*repo.Repository, error) {
	r, err := rc.Store.Repository(name)
	if errors.Is(err, repo.ErrNoRepository) {
		return nil, &show.Error{Kind: show.NotFound, What: fmt.Sprintf("there is no repository %q", name), Hint: "see them",
			Command: "repo list"}
	}
	return r, err
}

func noEnvironment(repository, environment string, all []headgateyaml.Environment) error {
	e := &show.Error{Kind: show.NotFound, What: fmt.Sprintf("there is no environment %q in %s", environment, repository)}
	var names []string
	for _, s := range all {
		names = append(names, s.Name)
	}
	if len(names) == 0 {
		e.Hint = "declare one under environments: in headgate.yaml and push it"
	} else {
		e.Hint = "its environments are " + strings.Join(names, ", ")
	}
	return e
}

// known are a repository's releases as they were listed last.
type known struct {
	list   []record.Release
	newest repo.Hash // tag of the last one
	at     time.Time
}

const releasesPrefix = "refs/releases/"

// releases are the repository's, ascending. Listing them means reading every
// tag and checking its signature, and they are only ever added to: while the
// newest is where it was and the next does not exist, the last list is good.
func (rc *Reconciler) releases(r *repo.Repository) ([]record.Release, error) {
	if k, ok := rc.released.get(r.Name()); ok && len(k.list) > 0 && time.Since(k.at) < safety {
		last := k.list[len(k.list)-1].Number
		newest, err := r.Ref(releasesPrefix + strconv.Itoa(last))
		if err != nil {
			return nil, err
		}
		next, err := r.Ref(releasesPrefix + strconv.Itoa(last+1))
		if err != nil {
			return nil, err
		}
		if newest == k.newest && next == repo.Zero {
			return k.list, nil
		}
	}
	at := time.Now()
	list, err := rc.Releases(r)
	if err != nil {
		return nil, fmt.Errorf("read releases of %s: %w", r.Name(), err)
	}
	list = slices.SortedFunc(slices.Values(list), func(a, b record.Release) int { return a.Number - b.Number })
	k := known{list: list, at: at}
	if len(list) > 0 {
		if k.newest, err = r.Ref(releasesPrefix + strconv.Itoa(list[len(list)-1].Number)); err != nil {
			return nil, err
		}
	}
	rc.released.put(r.Name(), k)
	return list, nil
}

// observed is what an environment's target reports. What it does not know is
// Unknown, and so is all of a target that this server does not have.
func (rc *Reconciler) observed(e headgateyaml.Environment, k target.Key) target.Observed {
	t := rc.Targets[e.Target]
	if t == nil {
		return target.Observed{}
	}
	return t.Observe(k)
}

// available says which artifact's bytes are gone: what cannot run must not become
// what is declared.
func (rc *Reconciler) available(artifacts []record.Artifact) error {
	for _, a := range artifacts {
		if rc.Artifact != nil && !rc.Artifact(a.Digest) {
			return fmt.Errorf("the bytes of artifact %s (%s) are not on this server any more", a.Name, a.Digest)
		}
	}
	return nil
}

// cache remembers what was read. It forgets everything when full.
type cache[T any] struct {
	mu sync.Mutex
	m  map[string]T
}

const maxCached = 4096

func (c *cache[T]) get(key string) (T, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	v, ok := c.m[key]
	return v, ok
}

func (c *cache[T]) put(key string, v T) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.m == nil || len(c.m) >= maxCached {
		c.m = map[string]T{}
	}
	c.m[key] = v
}
