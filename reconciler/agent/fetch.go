package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"golang.org/x/crypto/ssh"
)

// cut is that the connection ended before everything had come.
type cut struct{ err error }

func (c *cut) Error() string { return fmt.Sprintf("the connection to the server was cut: %v", c.err) }
func (c *cut) Unwrap() error { return c.err }

// Pauses between tries to fetch, each twice as long as the one before, and how often a
// server that is there may refuse: one that has just started does not know yet what it
// declares.
const (
	fetchPause    = 100 * time.Millisecond
	maxFetchPause = 5 * time.Second
	maxRefused    = 15
)

// Fetch does what reads with Blob, again whenever the connection was cut, until it has
// succeeded, has failed for another reason, or ctx ends.
func (u *Uplink) Fetch(ctx context.Context, get func(ctx context.Context) error) error {
	pause, refused := fetchPause, 0
	for {
		err := get(ctx)
		if err == nil || ctx.Err() != nil {
			return err
		}
		var hungUp *cut
		var no *ssh.OpenChannelError
		switch {
		case errors.As(err, &hungUp), errors.Is(err, io.ErrUnexpectedEOF):
		case errors.As(err, &no) && refused < maxRefused:
			refused++
		default:
			return err
		}
		u.Log.Warn("what is to be deployed has not come yet", "err", err, "again_in", pause)
		select {
		case <-ctx.Done():
			return err
		case <-time.After(pause):
		}
		pause = min(2*pause, maxFetchPause)
	}
}

// Read implements io.Reader. An end that comes too early is known by whoever knows how much
// there is.
func (r *blobReader) Read(p []byte) (int, error) {
	n, err := r.Channel.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		err = &cut{err}
	}
	return n, err
}
