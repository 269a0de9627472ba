package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/headgate-cd/headgate/gitd/engine"
	"github.com/headgate-cd/headgate/gitd/secret"
	"github.com/headgate-cd/headgate/hooks/build"
	"github.com/headgate-cd/headgate/hooks/build/buildspec"
	"github.com/headgate-cd/headgate/hooks/gate"
)

// buildSettings is what server.yaml says of the builds of a repository.
func (s *Server) buildSettings(repository string) gate.ServerSettings {
	all, own := s.access.Load().Builds(repository)
	return gate.ServerSettings{
		Variables: all.Variables,
		Own:       own.Variables,
		Network:   own.Network,
		Limits:    own.Limits.Within(all.Limits),
	}
}

// buildSecrets are those of a repository's builds.
func (s *Server) buildSecrets(repository string) build.Secrets {
	return func(_ context.Context, of buildspec.Secret) (string, error) { return s.buildSecret(repository, of) }
}

// valueFor is a secret that files of a repository name for its builds: one of its own, or
// one of the server's that server.yaml lets it name, as others of the server are not for
// whoever may write to one of its repositories. A parameter's name may begin with a slash,
// which is no part of it here.
func (s *Server) valueFor(repository, name string) (secret.ID, secret.Value, error) {
	id := secretOf(repository, name)
	value, err := s.secrets.Get(id)
	if errors.Is(err, secret.ErrNotFound) && s.access.Load().SharesSecret(repository, id.Name) {
		shared := secret.ID{Name: id.Name}
		if value, serr := s.secrets.Get(shared); !errors.Is(serr, secret.ErrNotFound) {
			return shared, value, serr
		}
	}
	return id, value, err
}

// buildSecret is the value of a secret that a buildspec names.
func (s *Server) buildSecret(repository string, of buildspec.Secret) (string, error) {
	id := secretOf(repository, of.Name)
	set := fmt.Sprintf("set it: ssh <this server> secret set %s <value.txt", id)
	if err := id.Check(); err != nil {
		return "", build.Problem(of, err.Error(), "name another")
	}
	id, value, err := s.valueFor(repository, of.Name)
	if errors.Is(err, secret.ErrNotFound) {
		return "", build.Problem(of, fmt.Sprintf("there is no secret %s for the variable %s", id, of.Variable), set)
	}
	if err != nil {
		return "", err
	}
	text := string(value.Reveal())
	if of.Key != "" {
		var object map[string]any
		if err := json.Unmarshal(value.Reveal(), &object); err != nil {
			return "", build.Problem(of,
				fmt.Sprintf("the secret %s is not a JSON object, and %s is asked of it", id, of.Key), set)
		}
		part, ok := object[of.Key]
		if !ok {
			return "", build.Problem(of, fmt.Sprintf("the secret %s has no key %q", id, of.Key), set)
		}
		if text, ok = part.(string); !ok {
			data, _ := json.Marshal(part) // it came from JSON
			text = string(data)
		}
	}
	if strings.ContainsRune(text, 0) {
		return "", build.Problem(of, fmt.Sprintf("the secret %s holds a zero byte, which no variable can", id), set)
	}
	return text, nil
}

// buildImage is which image a name stands for.
func (s *Server) buildImage(ctx context.Context, q gate.ImageQuery) (string, error) {
	var login build.Login
	if q.Login != "" {
		var err error
		if login, err = s.registryLogin(q.Repository, q.Login); err != nil {
			return "", err
		}
	}
	return s.containers.Resolve(ctx, q.Name, login)
}

// registryLogin is how a registry is entered by what a secret of a repository says.
func (s *Server) registryLogin(repository, name string) (build.Login, error) {
	id, value, err := s.valueFor(repository, name)
	if err != nil {
		if what, fix, _ := s.secretMissing(repository, name); what != "" {
			err = &build.ImageError{What: fmt.Sprintf("headgate.yaml: build.registries: %s; %s", what, fix)}
		}
		return build.Login{}, err
	}
	login, ok := engine.ParseLogin(value.Reveal())
	if !ok {
		return build.Login{}, &build.ImageError{What: fmt.Sprintf("headgate.yaml: build.registries: the secret %s is not a login "+
			"of a registry; set one like user:password, or {\"username\": …, \"password\": …}", id)}
	}
	return build.Login(login), nil
}
