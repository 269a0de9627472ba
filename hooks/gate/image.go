package gate

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/headgate-cd/headgate/gitd/buildsettings"
	"github.com/headgate-cd/headgate/gitd/headgateyaml"
	"github.com/headgate-cd/headgate/hooks/build"
	"github.com/headgate-cd/headgate/hooks/verdict"
)

// errAsking is that it is not known yet which image a name stands for.
var errAsking = errors.New("it is asked which image this is")

// imageName is what an image is called, and by which secret its registry is entered.
type imageName struct{ name, login string }

// pin has the image of a build, and those of its services, be known by their content. All
// that are not known yet are asked for at once.
func (c *candidate) pin(ctx context.Context, image imageOf) error {
	services := slices.Clone(c.Services)
	names := []*string{&c.Image}
	for i := range services {
		names = append(names, &services[i].Image)
	}
	var asking error
	for _, name := range names {
		registry := buildsettings.RegistryOf(*name)
		login := c.Registries[registry]
		if login != "" && c.outside {
			return &build.ImageError{What: fmt.Sprintf("headgate.yaml: image %s is behind a login of %s, which is for changes "+
				"that somebody who may write here has vouched for", *name, registry)}
		}
		pinned, err := image(ctx, imageName{*name, login})
		switch {
		case errors.Is(err, errAsking):
			if asking == nil {
				asking = fmt.Errorf("%w: %s", err, *name)
			}
			continue
		case err != nil:
			return err
		}
		*name = pinned
	}
	c.Services = services
	return asking
}

// imageFor is how long a name stands for one image: for every candidate that is made
// meanwhile. One that is made keeps it.
const imageFor = 10 * time.Minute

// imageAnswer is which image a name stands for.
type imageAnswer struct {
	pinned string
	err    error
	asking bool      // there is no answer yet
	heard  bool      // by somebody, if it is an error
	again  time.Time // when it may be asked anew
	until  time.Time // when it is forgotten
}

// imageBoard is which images names stand for. The loop asks; whoever only looks at what
// is built reads it, too.
type imageBoard struct {
	mu sync.Mutex
	of map[imageName]*imageAnswer
}

// known is the last answer that there was for a name.
func (b *imageBoard) known(name imageName) (a imageAnswer, ok bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if known := b.of[name]; known != nil {
		return *known, true
	}
	return a, false
}

// keep takes an answer. Anybody may push any name: old ones are forgotten.
func (b *imageBoard) keep(name imageName, a imageAnswer, now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	maps.DeleteFunc(b.of, func(_ imageName, old *imageAnswer) bool { return !old.asking && !now.Before(old.until) })
	if b.of == nil {
		b.of = map[imageName]*imageAnswer{}
	}
	b.of[name] = &a
}

// isOne reports whether it can stand for one image alone.
func (n imageName) isOne() bool {
	return n.name == headgateyaml.HostImage || strings.Contains(n.name, "@")
}

// image is the image that a name stands for, with the digest of its content. It waits for
// nobody: while the engine or a registry is asked the error is errAsking, and the loop
// goes on when they have answered.
func (l *loop) image(ctx context.Context, name imageName) (pinned string, err error) {
	if name.isOne() {
		return name.name, nil
	}
	if l.g.c.Image == nil {
		return "", &build.ImageError{
			What: fmt.Sprintf("headgate.yaml: build.image is %q, and this server runs no builds in containers", name.name)}
	}
	now := l.g.c.Now()
	a, ok := l.images.known(name)
	switch {
	case a.asking:
		return name.name, errAsking
	case ok && now.Before(a.again):
		if a.err != nil && !a.heard {
			// From now on, and not since it came: whoever waited for it may be late.
			a.heard, a.again = true, now.Add(l.g.c.Retry/8)
			l.images.keep(name, a, now)
		}
		return a.pinned, a.err
	}
	l.images.keep(name, imageAnswer{asking: true}, now)
	l.builds.Go(func() {
		pinned, err := l.g.c.Image(ctx, ImageQuery{Repository: l.r.Name(), Name: name.name, Login: name.login})
		l.mailbox.Post(func() { l.answered(name, pinned, err) })
	})
	return name.name, errAsking
}

// knownImage is image for whoever only looks: it asks nobody.
func (l *loop) knownImage(_ context.Context, name imageName) (pinned string, err error) {
	if name.isOne() || l.g.c.Image == nil {
		return name.name, nil
	}
	a, ok := l.images.known(name)
	if !ok || a.asking {
		return name.name, errAsking
	}
	return a.pinned, a.err
}

// answered keeps which image a name stands for, and lets go on who waited for it.
func (l *loop) answered(name imageName, pinned string, err error) {
	now := l.g.c.Now()
	l.images.keep(name, imageAnswer{pinned: pinned, err: err, again: now.Add(imageFor), until: now.Add(imageFor)}, now)
	for _, o := range l.open {
		if o.waiting != nil && o.waiting.image {
			o.waiting = nil
		}
	}
}

// pinned are the inputs of builds in the images that in names, as verdicts say which ones
// these were when it was built.
func pinned(in verdict.Inputs, vs verdict.List) iter.Seq[verdict.Inputs] {
	return func(yield func(verdict.Inputs) bool) {
		if !yield(in) || in.Image == headgateyaml.HostImage {
			return
		}
		for _, v := range vs {
			with := in
			with.Image, with.Services = v.Image, v.Services
			if isPinned(in.Image, v.Image) && slices.EqualFunc(in.Services, v.Services, isPinnedService) && !yield(with) {
				return
			}
		}
	}
}

// isPinned reports whether an image is what a name stood for.
func isPinned(name, image string) bool {
	return image == name || strings.HasPrefix(image, name+"@sha256:")
}

func isPinnedService(named, was verdict.Service) bool {
	return was.Name == named.Name && was.Settings == named.Settings && isPinned(named.Image, was.Image)
}
