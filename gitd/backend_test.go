package gitd

import (
	"context"
	"iter"
	"time"

	"github.com/headgate-cd/headgate/gitd/access"
	"github.com/headgate-cd/headgate/gitd/show"
)

var testNow = time.Date(2026, 11, 24, 14, 3, 48, 0, time.UTC)

// backend is what the daemon's own tests ask of one: gitd/shell tests the rest.
type backend struct {
	show.Backend
	panics bool
	follow chan struct{} // a follower of a log waits here, when set
	began  chan struct{}
}

func (b *backend) Server(context.Context) show.Server {
	return show.Server{
		Name: "git.tarn.example",
		SSH:  "git.tarn.example:22",
		HTTP: "https://git.tarn.example",
	}
}

func (b *backend) Repositories(context.Context, access.Identity) ([]show.Repository, error) {
	if b.panics {
		panic("planted")
	}
	return []show.Repository{{Name: "checkout"}}, nil
}

func (b *backend) Change(_ context.Context, _ access.Identity, repository string, n int) (show.Change, error) {
	return show.Change{Repository: repository, Number: n, State: show.Refused}, nil
}

func (b *backend) Log(ctx context.Context, _ access.Identity, _ string, _ int, follow bool) iter.Seq2[show.LogEvent, error] {
	return func(yield func(show.LogEvent, error) bool) {
		if !yield(show.LogEvent{Kind: "out", Line: 1, Text: "voucher_test.go:88: no relation"}, nil) || !follow {
			return
		}
		close(b.began)
		select {
		case <-ctx.Done():
		case <-b.follow:
		}
	}
}
