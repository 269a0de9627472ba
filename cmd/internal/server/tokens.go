package server

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/headgate-cd/headgate/gitd/access"
	"github.com/headgate-cd/headgate/gitd/show"
	"github.com/headgate-cd/headgate/gitd/token"
)

// CreateToken implements show.Backend.
func (s *Server) CreateToken(_ context.Context, a access.Identity, r show.TokenRequest) (show.NewToken, error) {
	right := access.Read
	if r.Write || r.Approve {
		right = access.Write
	}
	repositories := slices.Compact(slices.Sorted(slices.Values(r.Repositories)))
	for _, name := range repositories {
		if _, err := s.readable(a, name); err != nil {
			return show.NewToken{}, err
		}
		if !s.access.Load().May(a, right, name) {
			return show.NewToken{}, &show.Error{
				Kind: show.Forbidden,
				What: fmt.Sprintf("you may not write to %s, so no token of yours may", name),
				Hint: "leave out --write, and the token reads",
			}
		}
	}

	secret, t, err := s.tokens.Create(token.Request{
		User:         a.User,
		Name:         r.Name,
		Repositories: repositories,
		Write:        r.Write,
		Approve:      r.Approve,
		Life:         r.Life,
	})
	var refusal token.Refusal
	if errors.As(err, &refusal) {
		return show.NewToken{}, &show.Error{Kind: show.Usage, What: refusal.Error()}
	}
	if err != nil {
		return show.NewToken{}, err
	}
	s.log.Info("made a token", "token", t.ID, "user", a.User, "write", t.Write, "repositories", t.Repositories,
		"expires", t.Expires)
	return show.NewToken{Secret: secret, Token: shownToken(t)}, nil
}

// Tokens implements show.Backend.
func (s *Server) Tokens(_ context.Context, a access.Identity, all bool) ([]show.Token, error) {
	of := a.User
	if all {
		if err := s.administrator(a, "see the tokens of others"); err != nil {
			return nil, err
		}
		of = ""
	}
	var list []show.Token
	for _, t := range s.tokens.Of(of) {
		list = append(list, shownToken(t))
	}
	return list, nil
}

// RevokeToken implements show.Backend.
func (s *Server) RevokeToken(_ context.Context, a access.Identity, id string) (show.Done, error) {
	of := a.User
	if s.access.Load().May(a, access.Administer, access.Own) {
		of = ""
	}
	t, err := s.tokens.Revoke(of, id)
	if errors.Is(err, token.ErrNone) {
		return show.Done{}, &show.Error{Kind: show.NotFound, What: fmt.Sprintf("you have no token %q", id),
			Hint: "see yours, with their ids", Command: "token list"}
	}
	if err != nil {
		return show.Done{}, err
	}
	s.log.Info("revoked a token", "token", t.ID, "user", a.User, "of", t.User)
	return show.Done{What: fmt.Sprintf("revoked the token %s (%s) of %s", t.ID, t.Name, t.User)}, nil
}

func shownToken(t token.Token) show.Token {
	return show.Token{
		ID:           t.ID,
		Name:         t.Name,
		User:         t.User,
		Repositories: t.Repositories,
		Write:        t.Write,
		Created:      t.Created,
		Expires:      t.Expires,
		Used:         t.Used,
		Expired:      !time.Now().Before(t.Expires),
	}
}

// identify is who holds a token, for HTTP.
func (s *Server) identify(secret string) (who access.Identity, key string, ok bool) {
	t, ok := s.tokens.Find(secret)
	if !ok {
		return who, "", false
	}
	who, ok = s.access.Load().ByToken(t.User, t.Scope())
	return who, "token:" + t.ID, ok
}
