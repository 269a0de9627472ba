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

// buildSecrets are those of a repository's builds: of AWS's own stores what server.yaml
// says, whatever is kept here under the same name.
func (s *Server) buildSecrets(repository string) build.Secrets {
	return func(ctx context.Context, of buildspec.Secret) (string, error) {
		stores := s.access.Load().AWS(repository)
		allowed := stores.Secret(of.Name)
		if of.Store == buildspec.ParameterStore {
			allowed = stores.Parameter(parameterName(of.Name))
		}
		if !allowed {
			return s.buildSecret(repository, of)
		}
		value, err := s.aws.Value(ctx, stores.Region, of)
		if err != nil {
			return "", err
		}
		return part(of, of.ID, []byte(value), "correct it in AWS")
	}
}

// parameterName is the name of a parameter that is given as an ARN, or with a version or a
// label after it.
func parameterName(id string) string {
	if strings.HasPrefix(id, "arn:") {
		_, id, _ = strings.Cut(id, ":parameter")
	}
	name, _, _ := strings.Cut(id, ":")
	return name
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
	if of.Stage != "" || of.Version != "" {
		return "", build.Problem(of, fmt.Sprintf("another version of the secret %s is asked for than the current one, and "+
			"no other is kept here", id), "leave the version out")
	}
	id, value, err := s.valueFor(repository, of.Name)
	if errors.Is(err, secret.ErrNotFound) {
		return "", build.Problem(of, fmt.Sprintf("there is no secret %s for the variable %s", id, of.Variable), set)
	}
	if err != nil {
		return "", err
	}
	return part(of, id.String(), value.Reveal(), set)
}

// part is what of a secret's value a buildspec names.
func part(of buildspec.Secret, name string, value []byte, fix string) (string, error) {
	text := string(value)
	if of.Key != "" {
		var object map[string]any
		if err := json.Unmarshal(value, &object); err != nil {
			return "", build.Problem(of,
				fmt.Sprintf("the secret %s is not a JSON object, and %s is asked of it", name, of.Key), fix)
		}
		found, ok := object[of.Key]
		if !ok {
			return "", build.Problem(of, fmt.Sprintf("the secret %s has no key %q", name, of.Key), fix)
		}
		if text, ok = found.(string); !ok {
			data, _ := json.Marshal(found) // it came from JSON
			text = string(data)
		}
	}
	if strings.ContainsRune(text, 0) {
		return "", build.Problem(of, fmt.Sprintf("the secret %s holds a zero byte, which no variable can", name), fix)
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
