package server

import (
	"context"
	"errors"
	"iter"
	"testing"

	"github.com/headgate-cd/headgate/gitd/access"
	"github.com/headgate-cd/headgate/gitd/show"
)

// TestFollowingEndsWithTheRight: what somebody follows goes on while others' rights
// change, and ends, saying so, when the right to read or the user is taken away.
func TestFollowingEndsWithTheRight(t *testing.T) {
	config := func(text string) *access.Config {
		c, err := access.Parse("server.yaml", []byte(text))
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	const admin = "users:\n  ada: {name: Ada, keys: [\"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHJlY2VpdmUtdGVzdC1rZXktMDAwMDAwMDAwMDAwMDAw\"]}\n"
	const groups = "groups:\n  administrators: [ada]\n"
	const before = admin + "  jun: {name: Jun}\n" + groups + "repositories:\n  hello: {read: [jun], write: [ada]}\n"
	for name, after := range map[string]string{
		"the right": admin + "  jun: {name: Jun}\n" + groups + "repositories:\n  hello: {read: [ada], write: [ada]}\n",
		"the user":  admin + groups + "repositories:\n  hello: {read: [everyone], write: [ada]}\n",
	} {
		t.Run(name, func(t *testing.T) {
			s := &Server{}
			s.access.Store(config(before))
			jun, _ := s.access.Load().BySession("jun")
			lines, quiet := make(chan string), make(chan struct{})
			events := func(ctx context.Context) iter.Seq2[show.LogEvent, error] {
				return func(yield func(show.LogEvent, error) bool) {
					for line := range lines {
						if !yield(show.LogEvent{Text: line}, nil) {
							return
						}
					}
					close(quiet) // the build says nothing more for a while
					<-ctx.Done()
					yield(show.LogEvent{}, ctx.Err())
				}
			}
			got := make(chan any)
			go func() {
				defer close(got)
				for e, err := range s.followed(t.Context(), jun, "hello", events) {
					if err != nil {
						got <- err
						continue
					}
					got <- e.Text
				}
			}()
			lines <- "one"
			if g := <-got; g != "one" {
				t.Fatal(g)
			}
			s.access.Store(config(before + "  other: {read: [ada], write: [ada]}\n"))
			s.moved.Notify(access.Own)
			lines <- "two"
			if g := <-got; g != "two" {
				t.Fatal(g)
			}
			close(lines)
			<-quiet
			s.access.Store(config(after))
			s.moved.Notify(access.Own)
			g, more := <-got
			var e *show.Error
			if err, _ := g.(error); !more || !errors.As(err, &e) || e.Kind != show.Forbidden {
				t.Errorf("ends with %v", g)
			}
			if g, more := <-got; more {
				t.Errorf("and goes on with %v", g)
			}
		})
	}
}
