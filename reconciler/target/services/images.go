package services

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/headgate-cd/headgate/reconciler/target"
	"github.com/headgate-cd/headgate/reconciler/target/services/engine"
)

// image is what the image of a version was resolved to.
type image struct {
	engine.Image
	At time.Time `json:"at"`
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
	if r.known {
		found, err := e.Have(ctx, r.Image, engine.Login{})
		return image{found, r.At}, err
	}
	for try := 1; ; try++ {
		found, err := e.Resolve(ctx, ref, pullOf(c.Pull), engine.Login{})
		if err == nil {
			r.known, r.image = true, image{found, time.Now()}
			return r.image, nil
		}
		switch reason := engine.ReasonOf(err); {
		case ctx.Err() != nil, reason == target.ReasonEngineUnavailable:
			return image{}, err
		case try == resolveTries, reason == target.ReasonImageInvalid:
			return image{}, hopeless{err}
		}
		in.wait(err)
		if !pause(ctx, time.Duration(try)*resolvePause) {
			return image{}, err
		}
	}
}

func pullOf(p PullPolicy) engine.Pull {
	switch p {
	case PullMissing:
		return engine.PullMissing
	case PullNever:
		return engine.PullNever
	}
	return engine.PullOnce
}

// pause waits, and says whether ctx goes on.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}
