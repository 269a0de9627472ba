package server

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/headgate-cd/headgate/gitd/access"
	"github.com/headgate-cd/headgate/gitd/secret"
	"github.com/headgate-cd/headgate/gitd/show"
	"github.com/headgate-cd/headgate/reconciler/target"
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
	done := show.Done{What: "keeps the secret " + id.String()}
	if used := s.services.SecretSet(id.Repository, id.Name); len(used) > 0 {
		done.Next = "if it is another one, its instances are replaced in " + environmentsOf(used) +
			"; see: " + s.about.Command("env show "+id.Repository+" "+used[0].Environment)
	}
	return done, nil
}

func environmentsOf(keys []target.Key) string {
	var names []string
	for _, k := range keys {
		names = append(names, k.Environment)
	}
	return strings.Join(slices.Compact(names), ", ")
}

// serviceSecrets are the values of those secrets of a repository that are set. The server's
// own are for nobody who may write to one of its repositories.
func (s *Server) serviceSecrets(repository string, names []string) target.Secrets {
	all := target.Secrets{}
	for _, name := range names {
		id := secretOf(repository, name)
		v, err := s.secrets.Get(id)
		switch {
		case errors.Is(err, secret.ErrNotFound): // which the agent says of what is not given it
		case err != nil:
			s.log.Error("a secret cannot be given to services", "secret", id.String(), "err", err)
		default:
			all[name] = target.Secret{Revision: s.secrets.Revision(id, v), Value: v}
		}
	}
	return all
}

// secretOf is a secret of a repository by how its files name it: a parameter's name may
// begin with a slash, which is no part of it here.
func secretOf(repository, name string) secret.ID {
	return secret.ID{Repository: repository, Name: strings.TrimPrefix(name, "/")}
}

// secretMissing says that a secret which files of a repository name is not set.
func (s *Server) secretMissing(repository, name string) (what, fix string, err error) {
	id := secretOf(repository, name)
	if _, err = s.secrets.Get(id); err == nil {
		return "", "", nil
	}
	set := "set it: " + s.about.Command(fmt.Sprintf("secret set %s <value.txt", id))
	if errors.Is(err, secret.ErrNotFound) {
		return fmt.Sprintf("there is no secret %s", id), set, nil
	}
	s.log.Error("a secret cannot be read", "secret", id.String(), "err", err) // with its path
	return fmt.Sprintf("the secret %s cannot be read", id), set, nil
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
	done := show.Done{What: "forgot the secret " + id.String()}
	if used := s.services.SecretSet(id.Repository, id.Name); len(used) > 0 {
		done.Next = environmentsOf(used) +
			" names it still: what runs there goes on, and nothing new is deployed until it is set again or not named"
	}
	return done, nil
}
