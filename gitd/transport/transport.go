// Package transport lets a client fetch from and push to a repository. It opens
// the repository if the client may read it, and runs git's own program between
// the two: the same way for every protocol, which is left to the callers and
// handed over as a Client.
//
//   - Transport authorises and starts (transport.go); a child process is fed,
//     watched and ended in child.go.
//   - Packs are made, and unpacked, a few at a time, for nobody more than half of them;
//     who asks for one waits in a bounded queue, who only asks for refs does not
//     (queue.go, peek.go). A place is held while git works: what a client is slow to
//     take is kept for it within bounds (spool.go), and who sends next to nothing while
//     others wait is let go (place.go).
//   - HTTP speaks git's smart protocol (http.go), in which refs are listed without git
//     (lsrefs.go); SSH is package gitd.
//
// Whether a push is allowed is decided behind the hooks. This package sees that
// the pusher may read the repository, says who they are (Begin), and moves bytes.
// It writes no ref.
//
// Goroutines: three for each child, for its pipes, and one that sees it end. Serve
// returns when they have ended, the one that reads from the client aside, which
// Client.Reading waits for.
package transport

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/headgate-cd/headgate/gitd/access"
	"github.com/headgate-cd/headgate/gitd/repo"
	"github.com/headgate-cd/headgate/gitd/show"
	"github.com/headgate-cd/headgate/gitd/yamlfile"
)

// Service is what a client asks git to do.
type Service string

// The services. A client names them so.
const (
	UploadPack    Service = "git-upload-pack"
	ReceivePack   Service = "git-receive-pack"
	UploadArchive Service = "git-upload-archive"
)

// Services are all of them.
var Services = []Service{UploadPack, ReceivePack, UploadArchive}

// Request is what a client asks for, and who that is.
type Request struct {
	Actor      access.Identity
	Source     string // the network that it comes from; who has no name is counted by it
	Key        string // what proved who it is: the fingerprint of a key
	Service    Service
	Repository string // its name
	Protocol   string // what git calls GIT_PROTOCOL, well-formed; may be empty
	Stateless  bool   // one request and one answer of a protocol that keeps nothing in between
	Advertise  bool   // say what there is, and nothing else
	ASCII      bool   // the client's people can be shown no more than that
}

// Client is the other end, whatever protocol it speaks.
type Client struct {
	In  io.Reader
	Out io.Writer
	Err io.Writer // for people; what git says there is made fit for a terminal
	// Gone is done when the client has gone.
	Gone context.Context
	// Kick ends the connection. Nothing less ends a write that waits for the
	// client to read.
	Kick func()
	// Reading has what reads from In, which may end after Serve: a client need
	// not say before the answer that it will say no more. The caller waits for it
	// once In has ended.
	Reading *sync.WaitGroup
}

// Transport serves clients. Its fields are set before its first use; it is safe
// for concurrent use.
type Transport struct {
	Store *repo.Store
	// Access is the configuration in force, asked afresh at each request.
	Access func() *access.Config
	// Begin announces a push to whatever answers the hooks: env is added to the
	// environment of git-receive-pack, end is called when that has ended. client
	// is done when the client has gone, which may be long before. Begin has unpacked
	// called when git has unpacked the push, and asks whether it is good. ascii: the
	// pusher can be shown no more than that.
	Begin func(client context.Context, actor access.Identity, key, repository string, ascii bool,
		unpacked func()) (env []string, end func())
	// Ready says why no push can be taken now: git itself would take the objects in,
	// and tell the pusher where what it misses should be. nil: always.
	Ready  func() error
	Log    *slog.Logger // nil: slog.Default
	Limits Limits

	once    sync.Once
	fetches *queue
	unpacks *queue
	spools  *Quota
	pushes  *Quota

	capabilities capabilities
}

// Limits bound what clients can take. A zero field means the value named in its
// comment.
type Limits struct {
	Stall     time.Duration // 2 min in which a fetching client neither sends nor takes a byte
	PushStall time.Duration // 15 min for a pushing one, whose own hooks may run tests meanwhile

	Pushes        int           // 128 pushes at once, waiting ones included
	PushesPerUser int           // 64 of those by one user
	Fetches       int           // packs made at once: two for each core
	FetchQueue    int           // 32 fetches that wait for their turn
	FetchWait     time.Duration // 60 s that they wait at most
	Unpacks       int           // pushes unpacked at once: two for each core; any number of pushes wait
	UnpackWait    time.Duration // 5 min that they wait at most
	Slow          time.Duration // 20 s in which a client must move 320 KiB of a pack while others wait for its place
}

// filled is l with its defaults.
func (l Limits) filled() Limits {
	return Limits{
		Stall:         positive(l.Stall, 2*time.Minute),
		PushStall:     positive(l.PushStall, 15*time.Minute),
		Pushes:        positive(l.Pushes, 128),
		PushesPerUser: positive(l.PushesPerUser, 64),
		Fetches:       positive(l.Fetches, 2*runtime.NumCPU()),
		FetchQueue:    positive(l.FetchQueue, 32),
		FetchWait:     positive(l.FetchWait, time.Minute),
		Unpacks:       positive(l.Unpacks, 2*runtime.NumCPU()),
		UnpackWait:    positive(l.UnpackWait, 5*time.Minute),
		Slow:          positive(l.Slow, 20*time.Second),
	}
}

func positive[T int | time.Duration](n, otherwise T) T {
	if n > 0 {
		return n
	}
	return otherwise
}

// maxSpools is how many packs may lie in files for clients that lag behind.
const maxSpools = 16

// spool makes the spool of one fetch by holder.
func (t *Transport) spool(holder string) func() (*spool, func()) {
	return func() (*spool, func()) {
		s := newSpool()
		s.crowded, s.least, s.window = t.fetches.crowded, leastBytes, t.Limits.Slow
		has := false
		s.file = func() *os.File {
			if !t.spools.Take(holder) {
				return nil
			}
			f, err := os.CreateTemp("", "headgate-pack-")
			if err != nil {
				t.spools.Give(holder)
				t.Log.Warn("a slow client's pack is not kept in a file", "err", err)
				return nil
			}
			_ = os.Remove(f.Name()) // it needs no name; whoever looks finds a file that nobody misses
			has = true
			return f
		}
		return s, func() {
			if has {
				t.spools.Give(holder)
			}
		}
	}
}

// Check says what is missing that nobody could be served without.
func (t *Transport) Check() error {
	if t.Store == nil || t.Access == nil || t.Begin == nil {
		return errors.New("transport: Store, Access and Begin must all be set")
	}
	return nil
}

func (t *Transport) start() {
	t.once.Do(func() {
		t.Limits = t.Limits.filled()
		t.fetches = newQueue(t.Limits.Fetches, t.Limits.FetchQueue, t.Limits.FetchWait)
		t.unpacks = newQueue(t.Limits.Unpacks, t.Limits.Pushes, t.Limits.UnpackWait)
		t.spools = NewQuota(maxSpools, maxSpools/4)
		t.pushes = NewQuota(t.Limits.Pushes, t.Limits.PushesPerUser)
		if t.Log == nil {
			t.Log = slog.Default()
		}
	})
}

// Serve runs a service for a client, and returns git's exit status. An error is a
// *show.Error: nothing was run, or it was ended; the client is not told by Serve.
// When ctx is done, so is the child, and the error is ctx's cause.
func (t *Transport) Serve(ctx context.Context, r Request, c Client) (status int, err error) {
	t.start()
	repository, err := t.Open(r.Actor, r.Repository)
	if err != nil {
		return 1, err
	}
	return t.serve(ctx, r, repository, c)
}

// Open opens a repository for who may read it. An error is a *show.Error.
func (t *Transport) Open(actor access.Identity, name string) (*repo.Repository, error) {
	t.start()
	r, err := t.Store.Repository(name)
	if !t.Access().May(actor, access.Read, name) || errors.Is(err, repo.ErrNoRepository) {
		// One answer for both: who may not read does not learn what there is.
		return nil, t.notFound(actor, name)
	}
	if damaged := (*repo.Damaged)(nil); errors.As(err, &damaged) {
		return nil, &show.Error{Kind: show.Again, What: damaged.Error(),
			Hint: "tell an administrator of this server: headgate doctor"}
	}
	if err != nil {
		t.Log.Error("could not open a repository", "repo", name, "err", err)
		return nil, &show.Error{
			Kind: show.Again,
			What: fmt.Sprintf("repository %q cannot be opened", name),
			Hint: "tell an administrator of this server",
		}
	}
	return r, nil
}

// notFound names the nearest of what the actor may read.
func (t *Transport) notFound(actor access.Identity, name string) error {
	e := &show.Error{Kind: show.NotFound, What: fmt.Sprintf("no such repository: %q", name)}
	all, err := t.Store.Names()
	if err != nil {
		t.Log.Warn("could not list the repositories", "err", err) // the hint is left out
		return e
	}

	var readable []string
	config := t.Access()
	for _, n := range all {
		if config.May(actor, access.Read, n) {
			readable = append(readable, n)
		}
	}
	if near, ok := yamlfile.Nearest(name, readable); ok {
		e.Hint = fmt.Sprintf("did you mean %q?", near)
	}
	return e
}

func (t *Transport) serve(ctx context.Context, r Request, repository *repo.Repository,
	c Client) (status int, err error) {
	var extra []string
	if r.Protocol != "" {
		extra = append(extra, "GIT_PROTOCOL="+r.Protocol)
	}
	began := time.Now()
	if t.serveRefs(ctx, r, repository, &c) {
		t.served(r, repository, 0, began)
		return 0, nil
	}
	child := &child{t: t, client: c, stall: t.Limits.Stall}
	holder := cmp.Or(r.Actor.User, r.Source)
	var flags []string
	if r.Stateless {
		flags = append(flags, "--stateless-rpc")
	}
	if r.Advertise {
		flags = append(flags, "--http-backend-info-refs")
	}
	args := func(words ...string) []string { return slices.Concat(words, flags, []string{repository.Dir()}) }

	switch {
	case r.Service == ReceivePack && r.Advertise: // no hook runs
		status, err = child.run(ctx, repo.Env(t.Store.Hooks(), extra...), args("receive-pack")...)

	case r.Service == ReceivePack:
		if t.Ready != nil {
			if err := t.Ready(); err != nil {
				t.Log.Error("no push can be taken", "err", err)
				return 1, &show.Error{
					Kind: show.Again,
					What: "the server cannot take pushes now: a part of it is missing",
					Hint: "nothing was changed; tell an administrator of this server: headgate doctor",
				}
			}
		}
		if !t.pushes.Take(r.Actor.User) {
			return 1, &show.Error{
				Kind: show.Again,
				What: fmt.Sprintf("too many pushes are under way already: %d at once, %d of them by one user", t.Limits.Pushes,
					t.Limits.PushesPerUser),
				Hint: "try again when some have landed, or do not wait for them: git push -o nowait",
			}
		}
		defer t.pushes.Give(r.Actor.User)

		env, end := t.Begin(c.Gone, r.Actor, r.Key, repository.Name(), r.ASCII, child.leave)
		defer end()
		defer repository.BeginPush()()
		child.places = t.unpacks
		child.before = func(ctx context.Context, from io.Reader, to io.Writer) (io.Reader, func(), error) {
			return t.unpacks.admitPack(ctx, from, to, holder)
		}
		child.outlives = true
		child.stall = t.Limits.PushStall
		status, err = child.run(ctx, repo.Env(t.Store.Hooks(), append(extra, env...)...), args("receive-pack")...)

	case r.Service == UploadPack && r.Stateless && r.Advertise && r.Protocol == wholeV2 && repository.Plain():
		var keep func()
		child.client.Out, keep = t.capabilities.learn(c.Out)
		status, err = child.run(ctx, repo.Env(os.DevNull, extra...), args("upload-pack", "--strict")...)
		if status == 0 && err == nil && c.Gone.Err() == nil {
			keep()
		}

	case r.Service == UploadPack:
		child.output, child.places = t.spool(holder), t.fetches
		requests := strings.HasPrefix(r.Protocol, "version=2") // others have no commands, whatever they are called
		child.before = func(ctx context.Context, from io.Reader, to io.Writer) (io.Reader, func(), error) {
			return t.fetches.admit(ctx, from, to, holder, requests)
		}
		status, err = child.run(ctx, repo.Env(os.DevNull, extra...), args("upload-pack", "--strict")...)

	case r.Service == UploadArchive:
		child.output, child.places = t.spool(holder), t.fetches
		child.before = func(ctx context.Context, from io.Reader, _ io.Writer) (io.Reader, func(), error) {
			done, err := t.fetches.enter(ctx, holder)
			return from, done, err
		}
		status, err = child.run(ctx, repo.Env(os.DevNull, extra...), "upload-archive", repository.Dir())

	default:
		return 1, &show.Error{Kind: show.Usage, What: fmt.Sprintf("%q is not a service of this server", r.Service)}
	}

	t.served(r, repository, status, began)
	return status, err
}

func (t *Transport) served(r Request, repository *repo.Repository, status int, began time.Time) {
	t.Log.Info("served git",
		"verb", string(r.Service), "repo", repository.Name(), "user", r.Actor.User, "via", string(r.Actor.Via),
		"status", status, "took", time.Since(began).Round(time.Millisecond))
}
