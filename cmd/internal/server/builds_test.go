package server

import (
	"errors"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/headgate-cd/headgate/gitd/secret"
	"github.com/headgate-cd/headgate/hooks/build"
)

// withSecrets is a server that keeps these, by the names of their ids.
func withSecrets(t *testing.T, values map[string]string) *Server {
	t.Helper()
	dir := t.TempDir()
	store, err := secret.Open(filepath.Join(dir, "secrets"), filepath.Join(dir, "key"))
	if err != nil {
		t.Fatal(err)
	}
	for name, value := range values {
		id := secret.ID{Name: name}
		if repository, of, ok := strings.Cut(name, ":"); ok {
			id = secret.ID{Repository: repository, Name: of}
		}
		if err := store.Set(id, secret.NewValue([]byte(value)), "ada", time.Now()); err != nil {
			t.Fatal(err)
		}
	}
	return &Server{secrets: store, log: slog.New(slog.DiscardHandler)}
}

// A registry is entered by a secret of the repository; what is wrong with it is said
// without what it holds.
func TestRegistryLogin(t *testing.T) {
	s := withSecrets(t, map[string]string{
		"hello:one":   "ada:down the rabbit hole\n",
		"hello:two":   `{"username": "ada", "password": "a:b"}`,
		"hello:wrong": "curiouser",
		"other:three": "ada:x",
	})
	for name, want := range map[string]build.Login{
		"one":  {User: "ada", Password: "down the rabbit hole"},
		"/two": {User: "ada", Password: "a:b"},
	} {
		if got, err := s.registryLogin("hello", name); err != nil || got != want {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
	for name, want := range map[string]string{
		"wrong": "the secret hello:wrong is not a login of a registry; set one like user:password",
		"three": "there is no secret hello:three; set it: ",
	} {
		_, err := s.registryLogin("hello", name)
		var no *build.ImageError
		if !errors.As(err, &no) || !strings.Contains(no.What, want) || strings.Contains(no.What, "curiouser") {
			t.Errorf("%s: %v", name, err)
		}
	}
}
