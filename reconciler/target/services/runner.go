package services

import (
	"context"
	"syscall"
	"time"

	"github.com/headgate-cd/headgate/gitd/sandbox"
	"github.com/headgate-cd/headgate/gitd/tty"
	"github.com/headgate-cd/headgate/reconciler/target"
	"github.com/headgate-cd/headgate/reconciler/target/logfile"
)

// runner is how the instances of a service run: as supervised processes of the
// release's files (processes), or as containers of an image (containers). Both are
// held to the same by runtime_test.go. Its methods may be called by several goroutines.
type runner interface {
	// prepare has what an instance runs from be there, and keeps it until release. What
	// runs already needs nothing of it. The error says why nothing can be started.
	prepare(ctx context.Context, in *instance) (from basis, release func(), err error)

	// start starts the command of an instance. It begins to run once record has returned,
	// and not at all when that fails or this program is killed before.
	start(ctx context.Context, c command, record func(started) error) (workload, error)

	// adopt finds what another run of the program has started. One that has ended
	// meanwhile is over, and says how.
	adopt(c command, s started) workload
}

// workload is what runs as an instance. It outlives the program that started it.
type workload interface {
	// identity is how it is found again.
	identity() started
	// pid is the process of the command itself, seen from the machine, if there is one.
	pid() (int, bool)
	// over is closed when all of it has ended, and not when it is left.
	over() <-chan struct{}
	// end is how it ended, after over.
	end() ending

	// follow carries what it prints into the log until it is over and finish is called,
	// or it is left; what was not read by then is there for the next.
	follow(log *logfile.File) (finish func(), err error)
	// exec runs a command where it runs, to its end or that of ctx, and returns its exit
	// code.
	exec(ctx context.Context, c command, with tty.Streams) (code int, err error)
	// reach says whether it takes connections on its port.
	reach(ctx context.Context) error
	// alive says whether it runs, where nothing else is asked.
	alive(ctx context.Context) error

	// stop asks it to end and, after the grace time, ends it. It returns when it is
	// over, or left is closed.
	stop(signal syscall.Signal, grace time.Duration, left <-chan struct{})
	// leave stops watching it, and it goes on.
	leave()
	// clear removes what is left of it once it is over.
	clear()
}

// ending is how an instance ended.
type ending struct {
	outcome  string // for people
	exitCode int    // -1 when nobody knows, and for processes after a signal
	reason   target.Reason
}

// basis is what an instance runs from: files, or an image.
type basis struct {
	dir   string
	image image
}

// runner is what instances of a version run by.
func (t *Target) runner(v *version) runner {
	if v.Service.Container != nil {
		return t.containers
	}
	return &processes{t}
}

// processes runs instances as supervised processes.
type processes struct{ owner *Target }

func (p *processes) prepare(ctx context.Context, in *instance) (from basis, release func(), err error) {
	releases, digest := p.owner.releases, in.version.Digest
	if in.found != nil {
		from.dir = releases.Hold(digest)
	} else {
		unpacking, cancel := context.WithTimeoutCause(ctx, unpackWithin, errUnpackTimeout)
		from.dir, err = releases.Use(unpacking, digest)
		cancel()
		if err != nil {
			return from, nil, err
		}
	}
	return from, func() { releases.Release(digest) }, nil
}

func (p *processes) start(ctx context.Context, c command, record func(started) error) (workload, error) {
	if ctx.Err() != nil {
		return nil, errStopped
	}
	s := p.owner.starter
	started, err := s.start(c, record)
	if err != nil {
		return nil, err
	}
	return &supervised{started, p.owner, c}, nil
}

func (p *processes) adopt(c command, s started) workload {
	return &supervised{adopt(s, c.status), p.owner, c}
}

// supervised is a process as a workload.
type supervised struct {
	*process
	owner   *Target
	command command
}

func (s *supervised) identity() started     { return s.started }
func (s *supervised) over() <-chan struct{} { return s.done }
func (s *supervised) end() ending {
	return s.overMemory(ending{outcome: s.outcome, exitCode: s.exitCode})
}

// clear removes its cgroup. One that cannot be removed is by the next run of the program.
func (s *supervised) clear() {
	if err := sandbox.EndCgroups(s.started.Cgroups); err != nil {
		s.owner.Log.Warn("cannot remove a cgroup", "instance", s.command.hostname, "err", err)
	}
}

// alive: whoever watches stops when it ends.
func (s *supervised) alive(context.Context) error { return nil }

func (s *supervised) reach(ctx context.Context) error { return connects(ctx, s.command.port) }

func (s *supervised) exec(ctx context.Context, c command, with tty.Streams) (int, error) {
	return s.owner.starter.run(ctx, c, s.process, with)
}

func (s *supervised) follow(log *logfile.File) (finish func(), err error) {
	out, err := openOutput(s.command.output, s.command.position, log)
	if err != nil {
		return nil, err
	}
	printed, unwatch := s.owner.outputs.add(s.command.output)
	ended, carried := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(carried)
		out.follow(printed, ended)
	}()
	return func() {
		close(ended)
		<-carried
		unwatch()
		out.close()
	}, nil
}
