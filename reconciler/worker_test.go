package reconciler

import (
	"context"
	"errors"
	"testing"
)

// TestWhoHungUpIsNotActedFor: a request whose person left before its turn is not
// begun; one that was begun is done to its end.
func TestWhoHungUpIsNotActedFor(t *testing.T) {
	t.Parallel()
	w := newWorker(nil, nil, "staging")
	there, leave := context.WithCancel(t.Context())
	gone, hangUp := context.WithCancel(t.Context())
	hangUp()

	began := 0
	do := func(ctx context.Context) error {
		began++
		leave()
		return ctx.Err() // of the server, not of the person
	}
	answers := make(chan error, 2)
	for _, ctx := range []context.Context{there, gone} {
		go func() { answers <- w.on(ctx, do) }()
		<-w.mail.C()
		for _, req := range w.mail.Drain() {
			w.answer(t.Context(), req)
		}
	}
	first, second := <-answers, <-answers
	if began != 1 || (first == nil) == (second == nil) || !errors.Is(errors.Join(first, second), context.Canceled) {
		t.Errorf("begun %d times; answered %v and %v", began, first, second)
	}
}
