package gate

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"strings"
	"time"

	"github.com/headgate-cd/headgate/gitd/headgateyaml"
	"github.com/headgate-cd/headgate/hooks/build"
	"github.com/headgate-cd/headgate/hooks/verdict"
)

// errAsking is that it is not known yet which image a name stands for.
var errAsking = errors.New("it is asked which image that is")

// imageFor is how long a name stands for one image: for every candidate that is made
// meanwhile. One that is made keeps it.
const imageFor = 10 * time.Minute

// imageAnswer is which image a name stands for.
type imageAnswer struct {
	pinned string
	err    error
	until  time.Time // zero: it is being asked
}

// image is the image that a name stands for, with the digest of its content. It waits for
// nobody: while the engine or a registry is asked the error is errAsking, and the loop
// goes on when they have answered.
func (l *loop) image(ctx context.Context, name string) (pinned string, err error) {
	if name == headgateyaml.HostImage || strings.Contains(name, "@") {
		return name, nil
	}
	if l.g.c.Image == nil {
		return "", &build.ImageError{
			What: fmt.Sprintf("headgate.yaml: build.image is %q, and this server runs no builds in containers", name)}
	}
	a := l.images[name]
	if a != nil && (a.until.IsZero() || l.g.c.Now().Before(a.until)) {
		if a.until.IsZero() {
			return name, errAsking
		}
		return a.pinned, a.err
	}
	l.images[name] = &imageAnswer{}
	l.builds.Go(func() {
		a := &imageAnswer{}
		a.pinned, a.err = l.g.c.Image(ctx, name)
		a.until = l.g.c.Now().Add(imageFor)
		if a.err != nil {
			a.until = l.g.c.Now().Add(l.g.c.Retry / 8)
		}
		l.mailbox.Post(func() {
			for name, a := range l.images { // anybody may push any name
				if !a.until.IsZero() && l.g.c.Now().After(a.until) {
					delete(l.images, name)
				}
			}
			l.images[name] = a
			for _, o := range l.open {
				if o.waiting != nil && o.waiting.image {
					o.waiting = nil
				}
			}
		})
	})
	return name, errAsking
}

// pinned are the inputs of builds in the image that in names, as verdicts say which one
// that was when it was built.
func pinned(in verdict.Inputs, vs verdict.List) iter.Seq[verdict.Inputs] {
	return func(yield func(verdict.Inputs) bool) {
		if !yield(in) || in.Image == headgateyaml.HostImage {
			return
		}
		for _, v := range vs {
			with := in
			with.Image = v.Image
			if strings.HasPrefix(v.Image, in.Image+"@sha256:") && !yield(with) {
				return
			}
		}
	}
}
