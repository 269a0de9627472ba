package services

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/headgate-cd/headgate/gitd/engine"
	"github.com/headgate-cd/headgate/gitd/signal"
	"github.com/headgate-cd/headgate/reconciler/target"
)

// image is what the image of a version was resolved to.
type image struct {
	engine.Image
	At  time.Time `json:"at"`
	Own string    `json:"own,omitempty"` // digest of the release's image that it is
}

// images are what versions of an application run from: a tag is resolved once, so
// that all instances of a version are equal, and a version that comes back is what it
// was.
type images struct {
	mu  sync.Mutex
	all map[string]*resolution // by version
}

// resolution is that of one version.
type resolution struct {
	mu    sync.Mutex // held while it is resolved
	known bool
	image
}

const (
	// resolveTries is how often an image is looked for before its version is given up.
	resolveTries = 3
	resolvePause = 500 * time.Millisecond
	// pullWithin bounds how long an image may take to be fetched.
	pullWithin = 30 * time.Minute
	// maxImages is of how many versions of an application it is remembered what they were.
	maxImages = 100
)

var errPullTimeout = errors.New("took longer than " + pullWithin.String())

func (i *images) of(version string) *resolution {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.all == nil {
		i.all = map[string]*resolution{}
	}
	r := i.all[version]
	if r == nil {
		r = &resolution{}
		i.all[version] = r
	}
	return r
}

// known is what a version was resolved to.
func (i *images) known(version string) (image, bool) {
	i.mu.Lock()
	r := i.all[version]
	i.mu.Unlock()
	if r == nil || !r.mu.TryLock() {
		return image{}, false
	}
	defer r.mu.Unlock()
	return r.image, r.known
}

// keep is what is to be remembered.
func (i *images) keep() map[string]image {
	i.mu.Lock()
	versions := slices.Collect(maps.Keys(i.all))
	i.mu.Unlock()
	kept := map[string]image{}
	for _, v := range versions {
		if image, ok := i.known(v); ok {
			kept[v] = image
		}
	}
	if len(kept) <= maxImages {
		return kept
	}
	newest := slices.SortedFunc(maps.Keys(kept), func(a, b string) int {
		return cmp.Or(kept[b].At.Compare(kept[a].At), cmp.Compare(a, b))
	})
	i.mu.Lock()
	defer i.mu.Unlock()
	for _, v := range newest[maxImages:] {
		delete(kept, v)
		delete(i.all, v)
	}
	return kept
}

// recall brings back what was remembered.
func (i *images) recall(kept map[string]image) {
	for v, image := range kept {
		r := i.of(v)
		r.known, r.image = true, image
	}
}

// hopeless is that what a version declares cannot be had, after trying often enough.
type hopeless struct{ error }

func (h hopeless) Unwrap() error { return h.error }

// resolve finds out what the image of an instance's version is, and has it be there.
func (i *images) resolve(ctx context.Context, e *engine.Engine, in *instance, ref string) (image, error) {
	r := i.of(in.what)
	r.mu.Lock()
	defer r.mu.Unlock()
	ctx, cancel := context.WithTimeoutCause(ctx, pullWithin, errPullTimeout)
	defer cancel()
	c := in.version.Service.Container
	login, err := in.app.grants.Load().login(c)
	if r.known {
		// What is there already needs no login.
		found, have := e.Have(ctx, r.Image, login)
		if have != nil && err != nil {
			have = err
		}
		return image{Image: found, At: r.At}, have
	}
	if err != nil {
		return image{}, hopeless{err}
	}
	for try := 1; ; try++ {
		found, err := e.Resolve(ctx, ref, pullOf(c.Pull), login)
		if err == nil {
			r.known, r.image = true, image{Image: found, At: time.Now()}
			return r.image, nil
		}
		switch reason := engine.ReasonOf(err); {
		case ctx.Err() != nil, reason == engine.ReasonEngineUnavailable:
			return image{}, err
		case try == resolveTries, reason == engine.ReasonImageInvalid:
			return image{}, hopeless{err}
		}
		in.wait(err)
		if !signal.Sleep(ctx, time.Duration(try)*resolvePause) {
			return image{}, err
		}
	}
}

// load has an image of the release be there, from the server's own store.
func (i *images) load(ctx context.Context, e *engine.Engine, in *instance, digest string) (image, error) {
	r := i.of(in.what)
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.known {
		found, err := e.Have(ctx, r.Image, engine.Login{})
		switch {
		case err == nil:
			return image{Image: found, At: r.At, Own: digest}, nil
		case engine.ReasonOf(err) != engine.ReasonImageNotFound:
			return image{}, err
		}
	}
	archive := in.app.owner.Archive
	if archive == nil {
		return image{}, hopeless{errors.New("this agent has no images of releases")}
	}
	ctx, cancel := context.WithTimeoutCause(ctx, pullWithin, errPullTimeout)
	defer cancel()
	from, to := io.Pipe()
	go func() { to.CloseWithError(archive(ctx, digest, to)) }()
	found, err := e.Load(ctx, from)
	from.Close()
	if err != nil {
		return image{}, err
	}
	if r.known && found.ID != r.ID {
		return image{}, &engine.Error{
			Reason: engine.ReasonDigestMismatch,
			What:   fmt.Sprintf("image %s of release %d is %s, and was %s", digest, in.version.Release.Number, found.ID, r.ID),
		}
	}
	r.known, r.image = true, image{Image: found, At: time.Now(), Own: digest}
	return r.image, nil
}

// ownImage is the release's image that a service names, which is a name alone.
func ownImage(v *version, ref string) (digest string, own bool) {
	digest, own = v.Release.Images[ref]
	return digest, own
}

// checkContainer says whether a container can be had of what is declared and released.
func checkContainer(s Service, r target.Release) error {
	c := s.Container
	if _, ok := r.Images[c.Image]; ok || !c.OwnImage {
		return nil
	}
	return fmt.Errorf("service %s wants image %q, but release %d has %s; correct x-headgate.image in compose.yaml, "+
		"or name the image so under images in headgate.yaml", s.Name, c.Image, r.Number, list(
		slices.Sorted(maps.Keys(r.Images))))
}

func pullOf(p PullPolicy) engine.Pull {
	switch p {
	case PullAlways:
		return engine.PullAlways
	case PullMissing:
		return engine.PullMissing
	case PullNever:
		return engine.PullNever
	}
	return engine.PullOnce
}
