package gate

import (
	"context"
	"errors"
	"log/slog"
	"runtime"
	"sync"
	"time"

	"github.com/headgate-cd/headgate/gitd/access"
	"github.com/headgate-cd/headgate/gitd/headgateyaml"
	"github.com/headgate-cd/headgate/gitd/repo"
	"github.com/headgate-cd/headgate/gitd/show"
	"github.com/headgate-cd/headgate/hooks/change"
	"github.com/headgate-cd/headgate/hooks/release"
)

// Own is the name of the repository that holds the server's own configuration.
// It is gated like any other, and makes no releases.
const Own = "headgate"

// Gate is the gate of all repositories. It is safe for concurrent use.
type Gate struct {
	c    Config
	pool *pool // of workers on the machine itself

	containers *pool

	mu      sync.Mutex
	loops   map[string]*loop
	running context.Context // of Run; nil before
	closed  bool
	loopsWG sync.WaitGroup
}

// New makes a Gate. Nothing runs before Run.
func New(c Config) *Gate {
	if c.Releases == nil {
		c.Releases = func(repository string) bool { return repository != Own }
	}
	if c.Access == nil {
		c.Access = func() *access.Config { return nil }
	}
	if c.Workers <= 0 {
		c.Workers = runtime.NumCPU()
	}
	if c.Containers <= 0 {
		c.Containers = c.Workers
	}
	if c.Retry <= 0 {
		c.Retry = 30 * time.Second
	}
	if c.Log == nil {
		c.Log = slog.Default()
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	return &Gate{c: c, pool: newPool(c.Workers), containers: newPool(c.Containers), loops: map[string]*loop{}}
}

// Run runs the gate until ctx is done: it reads the queues back from the
// repositories, repairs what a kill left unfinished, and goes on. When it returns,
// no build runs. Changes that have not ended stay in their queue for the next
// Run of another Gate.
func (g *Gate) Run(ctx context.Context) error {
	names, err := g.c.Store.Names()
	if err != nil {
		return err
	}
	g.mu.Lock()
	g.running = ctx
	for _, l := range g.loops {
		g.start(l)
	}
	g.mu.Unlock()
	for _, name := range names {
		if _, err := g.loop(name); err != nil {
			g.c.Log.Error("gate cannot open a repository", "repo", name, "err", err)
		}
	}
	<-ctx.Done()
	g.mu.Lock()
	g.closed = true
	g.mu.Unlock()
	g.loopsWG.Wait()
	return nil
}

// start runs a loop. The caller holds g.mu.
func (g *Gate) start(l *loop) {
	g.loopsWG.Go(func() { l.run(g.running) })
}

// loop returns the loop of a repository, started if the gate runs.
func (g *Gate) loop(name string) (*loop, error) {
	r, err := g.c.Store.Repository(name)
	if errors.Is(err, repo.ErrNoRepository) {
		return nil, &show.Error{Kind: show.NotFound, What: "there is no repository " + name}
	}
	if err != nil {
		return nil, err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if l := g.loops[name]; l != nil {
		return l, nil
	}
	if g.closed {
		return nil, errRestarting()
	}
	l := newLoop(g, r)
	g.loops[name] = l
	if g.running != nil {
		g.start(l)
	}
	return l, nil
}

func errRestarting() error {
	return &show.Error{Kind: show.Again, What: "the server is restarting", Hint: "push again in a moment"}
}

// Changes is the stories of a repository's changes, nil if it is not there.
func (g *Gate) Changes(repository string) *change.Store {
	l, err := g.loop(repository)
	if err != nil {
		return nil
	}
	return l.log
}

// ReleasesOf is the releases of a repository, nil if it is not there.
func (g *Gate) ReleasesOf(repository string) *release.Store {
	l, err := g.loop(repository)
	if err != nil {
		return nil
	}
	return l.releases
}

// Queue is a repository's open changes in the order in which their turn comes.
func (g *Gate) Queue(repository string) []Entry {
	l, err := g.loop(repository)
	if err != nil {
		return nil
	}
	return l.progress.snapshot(g.c.Now())
}

// Change is the story of one change and its place in the queue, nil if it is
// not in it. The error is change.ErrNone if there is no such change.
func (g *Gate) Change(repository string, number int) (change.Change, *Entry, error) {
	l, err := g.loop(repository)
	if err != nil {
		return change.Change{}, nil, err
	}
	s, err := l.log.Read(number)
	if err != nil {
		return change.Change{}, nil, err
	}
	for _, e := range l.progress.snapshot(g.c.Now()) {
		if e.Change == number {
			return s, &e, nil
		}
	}
	return s, nil, nil
}

// Load is how many of an executor's workers have a build.
type Load struct{ Busy, Workers int }

// Load is that of builds on the machine itself, and in containers.
func (g *Gate) Load() (machine, containers Load) {
	return Load{g.pool.busy(), g.c.Workers}, Load{g.containers.busy(), g.c.Containers}
}

// workers are those that builds of an image have.
func (g *Gate) workers(image string) *pool {
	if inContainer(image) {
		return g.containers
	}
	return g.pool
}

func inContainer(image string) bool { return image != "" && image != headgateyaml.HostImage }

// BuildSpare runs a build that is no change's, when a worker is free that no change
// waits for. It gives no verdict. started is called when it has a worker.
func (g *Gate) BuildSpare(ctx context.Context, j Job, started func()) (Result, error) {
	workers := g.workers(j.Image)
	if err := workers.takeSpare(ctx); err != nil {
		return Result{}, err
	}
	defer workers.giveSpare()
	started()
	settings := Settings{Network: j.Network, Variables: j.Variables, Limits: j.Limits,
		Server: g.server(j.Repository.Name())}
	j.Variables, j.Network, j.Limits = settings.environment()
	result, err := guarded(ctx, g.c.Builder, j)
	if err == nil {
		err = ctx.Err() // what was stopped says nothing
	}
	return result, err
}
