package server

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/headgate-cd/headgate/gitd/access"
	"github.com/headgate-cd/headgate/gitd/secret"
	"github.com/headgate-cd/headgate/gitd/show"
)

// mayKeep reports whether an actor may set and remove the secrets of a
// repository, or those of the server for "".
func (s *Server) mayKeep(a access.Identity, repository string) bool {
	c := s.access.Load()
	if repository == "" {
		return c.May(a, access.Administer, access.Own)
	}
	return c.May(a, access.Write, repository) || c.May(a, access.Administer, access.Own)
}

// keeper refuses whoever may not.
func (s *Server) keeper(a access.Identity, repository string) error {
	if repository == "" {
		return s.administrator(a, "keep secrets of the server")
	}
	if _, err := s.readable(a, repository); err != nil {
		return err
	}
	if !s.mayKeep(a, repository) {
		return &show.Error{
			Kind: show.Forbidden,
			What: fmt.Sprintf("you may not keep secrets of %s: that is for those who may write to it", repository),
			Hint: "ask one of the group " + access.Administrators,
		}
	}
	return nil
}

// Secrets implements show.Backend.
func (s *Server) Secrets(_ context.Context, a access.Identity, repository string) ([]secret.Info, error) {
	if repository != "" {
		if err := s.keeper(a, repository); err != nil {
			return nil, err
		}
	}
	all, err := s.secrets.List()
	return slices.DeleteFunc(all, func(i secret.Info) bool {
		return repository != "" && i.Repository != repository || !s.mayKeep(a, i.Repository)
	}), err
}

// SetSecret implements show.Backend.
func (s *Server) SetSecret(_ context.Context, a access.Identity, id secret.ID, value secret.Value) (show.Done, error) {
	if err := s.keeper(a, id.Repository); err != nil {
		return show.Done{}, err
	}
	if err := s.secrets.Set(id, value, a.User, time.Now()); err != nil {
		return show.Done{}, err
	}
	s.forges.Retry() // one of them may have waited for it
	s.events.Wake()
	s.log.Info("set a secret", "secret", id.String(), "user", a.User)
	return show.Done{What: "keeps the secret " + id.String()}, nil
}

// RemoveSecret implements show.Backend. Administrators can remove what is left of
// a repository that is no more.
func (s *Server) RemoveSecret(_ context.Context, a access.Identity, id secret.ID) (show.Done, error) {
	if !s.mayKeep(a, id.Repository) {
		return show.Done{}, s.keeper(a, id.Repository)
	}
	err := s.secrets.Remove(id)
	if errors.Is(err, secret.ErrNotFound) {
		return show.Done{}, &show.Error{
			Kind: show.NotFound,
			What: fmt.Sprintf("there is no secret %q", id),
			Hint: "see those that you may set", Command: "secret list",
		}
	}
	if err != nil {
		return show.Done{}, err
	}
	s.log.Info("removed a secret", "secret", id.String(), "user", a.User)
	return show.Done{What: "forgot the secret " + id.String()}, nil
}
