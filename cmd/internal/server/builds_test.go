package server

import (
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/headgate-cd/headgate/gitd/access"
	"github.com/headgate-cd/headgate/gitd/secret"
	"github.com/headgate-cd/headgate/gitd/yamlfile"
	"github.com/headgate-cd/headgate/hooks/build"
	"github.com/headgate-cd/headgate/hooks/build/buildspec"
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

// Of the server's secrets builds get those that server.yaml lets their repository name, and
// a repository's own ones before them.
func TestSharedBuildSecrets(t *testing.T) {
	s := withSecrets(t, map[string]string{
		"nexus":      "of the server",
		"hub":        "a webhook's",
		"npm":        "ada:of the server",
		"hello:npm":  "ada:of hello",
		"other:more": "of other",
	})
	c, err := access.Parse("server.yaml", []byte("users: {ada: {keys: ["+testKey+"]}}\ngroups: {administrators: [ada]}\n"+
		"builds: {secrets: [nexus, never-set]}\nrepositories: {hello: {build: {secrets: [npm]}}, other: {}}\n"))
	if err != nil {
		t.Fatal(err)
	}
	s.access.Store(c)
	for of, want := range map[string]string{
		"hello nexus": "of the server", "other nexus": "of the server", "hello npm": "ada:of hello", "other more": "of other",
		"hello hub": "", "other npm": "", "hello never-set": "", "hello more": "",
	} {
		repository, name, _ := strings.Cut(of, " ")
		got, err := s.buildSecret(repository, buildspec.Secret{Name: name, Variable: "V"})
		if got != want || (err != nil) != (want == "") {
			t.Errorf("%s: %q, %v", of, got, err)
		}
		if want == "" && !strings.Contains(err.Error(), "there is no secret "+repository+":"+name) {
			t.Errorf("%s: %v", of, err)
		}
	}
	if login, err := s.registryLogin("hello", "npm"); err != nil || login.Password != "of hello" {
		t.Errorf("%+v, %v", login, err)
	}
	if _, err := s.registryLogin("other", "npm"); err == nil {
		t.Error("another repository's builds have it, too")
	}
}

const testKey = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIIAaU4pYEWGd/yv4FbWBRCersPHrGngbEzqibRLlmbNX"

// TestBuildSecretsOfAWS: AWS is asked for what server.yaml says, and for nothing else, whatever
// a tree names.
func TestBuildSecretsOfAWS(t *testing.T) {
	s := withSecrets(t, map[string]string{"hello:db": "kept here", "other:db": "of other"})
	c, err := access.Parse("server.yaml", []byte("users: {ada: {keys: ["+testKey+"]}}\ngroups: {administrators: [ada]}\n"+
		"repositories: {hello: {build: {aws: {region: eu-north-1, parameters: [/hello/x], secrets: ['team/*']}}}, other: {}}\n"))
	if err != nil {
		t.Fatal(err)
	}
	s.access.Store(c)
	var asked []string
	stores := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		asked = append(asked, string(body))
		_, _ = io.WriteString(w, `{"Parameter": {"Value": "parameter"}, "SecretString": "{\"user\": \"of AWS\"}"}`)
	}))
	defer stores.Close()
	for name, value := range map[string]string{"AWS_ACCESS_KEY_ID": "A", "AWS_SECRET_ACCESS_KEY": "S", "AWS_PROFILE": "",
		"AWS_CONFIG_FILE": "/dev/null", "AWS_SHARED_CREDENTIALS_FILE": "/dev/null", "AWS_ENDPOINT_URL": stores.URL} {
		t.Setenv(name, value)
	}
	const parameters, secrets = buildspec.ParameterStore, buildspec.SecretsManager
	for _, row := range []struct {
		repository string
		of         buildspec.Secret
		want       string
		fromAWS    bool
	}{
		{"hello", buildspec.Secret{Store: secrets, Name: "team/db", Key: "user"}, "of AWS", true},
		{"hello", buildspec.Secret{Store: secrets, Name: "team/db", Stage: "AWSPREVIOUS"}, `{"user": "of AWS"}`, true},
		{"hello", buildspec.Secret{Store: parameters, Name: "/hello/x"}, "parameter", true},
		{"hello", buildspec.Secret{Store: parameters, Name: "/hello/x:3"}, "parameter", true},
		{"hello", buildspec.Secret{Store: parameters, Name: "arn:aws:ssm:eu-north-1:1:parameter/hello/x"}, "parameter", true},
		{"hello", buildspec.Secret{Store: secrets, Name: "team/db", Key: "password"}, "", true},
		{"hello", buildspec.Secret{Store: secrets, Name: "db"}, "kept here", false},
		{"hello", buildspec.Secret{Store: secrets, Name: "db", Stage: "AWSPREVIOUS"}, "", false},
		{"hello", buildspec.Secret{Store: parameters, Name: "team/db"}, "", false},
		{"hello", buildspec.Secret{Store: secrets, Name: "/hello/x"}, "", false},
		{"other", buildspec.Secret{Store: secrets, Name: "team/db"}, "", false},
		{"other", buildspec.Secret{Store: secrets, Name: "db"}, "of other", false},
	} {
		asked = nil
		row.of.ID, row.of.Variable = row.of.Name, "V"
		got, err := s.buildSecrets(row.repository)(t.Context(), row.of)
		if got != row.want || (err != nil) != (row.want == "") || (len(asked) > 0) != row.fromAWS {
			t.Errorf("%s %+v: %q, %v, asked %q", row.repository, row.of, got, err, asked)
		}
		if _, known := yamlfile.ProblemsIn(err); err != nil && !known {
			t.Errorf("%+v: the author is not told: %v", row.of, err)
		}
	}
}
