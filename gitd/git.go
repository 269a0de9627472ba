package gitd

import (
	"context"
	"errors"

	"github.com/headgate-cd/headgate/gitd/access"
	"github.com/headgate-cd/headgate/gitd/show"
	"github.com/headgate-cd/headgate/gitd/transport"
)

// git runs one git verb for the session's client and returns its exit status.
func (s *session) git(actor access.Identity, key string, line execLine) int {
	if s.tty() != nil {
		return s.refuse(&show.Error{
			Kind: show.Usage,
			What: "a terminal would damage what git sends",
			Hint: "leave out -t, or RequestTTY in your ssh configuration",
		})
	}

	status, err := s.d.Transport.Serve(s.d.children, transport.Request{
		Actor:      actor,
		Source:     s.conn.source.String(),
		Key:        key,
		Service:    line.service,
		Repository: line.repository,
		Protocol:   s.env["GIT_PROTOCOL"],
		ASCII:      s.ascii(),
	}, transport.Client{
		In:      s,
		Out:     s,
		Err:     s.Stderr(),
		Gone:    s.ended,
		Kick:    func() { s.conn.Close() },
		Reading: &s.work,
	})
	var e *show.Error
	if errors.As(context.Cause(s.ended), &e) {
		return s.refuse(e)
	}
	if err == nil {
		return status
	}
	if !errors.As(err, &e) {
		e = &show.Error{Kind: show.Again, What: "the server could not answer", Hint: "tell an administrator of this server"}
	}
	if e.Kind == show.NotFound && e.Hint == "" {
		e.Hint = "see yours: " + s.ssh("repo list")
	}
	return s.refuse(e)
}

func (s *session) refuse(e *show.Error) int {
	s.fail(e)
	return show.Exit(e)
}
