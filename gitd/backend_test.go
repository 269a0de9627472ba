package gitd

import (
	"context"
	"fmt"
	"io"
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

func (b *backend) Log(ctx context.Context, _ access.Identity, _ string, _ int,
	follow bool) iter.Seq2[show.LogEvent, error] {
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

// Environment is of a repository that is there.
func (b *backend) Environment(_ context.Context, _ access.Identity,
	repository, environment string) (show.Environment, error) {
	if repository != "checkout" {
		return show.Environment{}, &show.Error{Kind: show.NotFound, What: "no such repository"}
	}
	return show.Environment{Repository: repository, Name: environment}, nil
}

// Exec says the keys that are typed, up to a q, and every size of the terminal.
func (b *backend) Exec(ctx context.Context, _ access.Identity, repository, environment string,
	x show.Exec) (int, error) {
	fmt.Fprintf(x.Out, "%s %s %s %q\n", repository, environment, x.Service, x.Command)
	if x.Terminal == nil {
		data, err := io.ReadAll(x.In)
		fmt.Fprintf(x.Err, "read %d bytes", len(data))
		return 5, err
	}
	fmt.Fprintf(x.Out, "%s %d by %d\n", x.Terminal.Name, x.Terminal.Size.Columns, x.Terminal.Size.Rows)
	size := <-x.Terminal.Resize
	fmt.Fprintf(x.Out, "%d by %d\n", size.Columns, size.Rows)
	key := make([]byte, 1)
	for {
		if _, err := x.In.Read(key); err != nil {
			<-ctx.Done() // as the keyboard ends with it
			return 0, context.Cause(ctx)
		}
		if key[0] == 'q' {
			return 7, nil
		}
		fmt.Fprintf(x.Out, "key %d\n", key[0])
	}
}
