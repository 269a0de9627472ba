package engine

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestUserLogin: what docker login and podman login leave is found, in files and by
// helpers, which are told the registry on their input.
func TestUserLogin(t *testing.T) {
	home := t.TempDir()
	write := func(name, text string, mode os.FileMode) {
		t.Helper()
		path := filepath.Join(home, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
	}
	const helper = `#!/bin/sh
[ "$*" = get ] || exit 2
read -r name
case $name in
helped.example) echo '{"ServerURL": "x", "Username": "cat", "Secret": "grin:ning"}';;
token.example) echo '{"ServerURL": "x", "Username": "<token>", "Secret": "t0ken"}';;
broken.example) echo locked; exit 1;;
*) echo credentials not found in native keychain; exit 1;;
esac
`
	write("bin/docker-credential-test", helper, 0o700)
	write(".docker/config.json", `{
		"auths": {
			"https://index.docker.io/v1/": {"auth": "YWRhOmRvd24gdGhlOmhvbGU="},
			"ghcr.io": {"auth": "YWxpY2U6cmFiYml0"},
			"https://old.example/v1/": {"username": "dodo", "password": "extinct"},
			"id.example": {"auth": "PHRva2VuPjo=", "identitytoken": "from-there"},
			"odd.example:5000": {"auth": "AAA"}
		},
		"credHelpers": {"helped.example": "test", "token.example": "test", "broken.example": "test", "none.example": "test",
			"evil.example": "../x"}
	}`, 0o600)
	write("run/containers/auth.json", `{"auths": {"podman.example:5000": {"auth": "aGFyZTpNYXJjaA=="}}}`, 0o600)
	t.Setenv("HOME", home)
	t.Setenv("DOCKER_CONFIG", "")
	t.Setenv("REGISTRY_AUTH_FILE", "")
	t.Setenv("XDG_RUNTIME_DIR", filepath.Join(home, "run"))
	t.Setenv("PATH", filepath.Join(home, "bin")+":"+os.Getenv("PATH"))

	for host, want := range map[string]Login{
		"docker.io":           {User: "ada", Password: "down the:hole"},
		"ghcr.io":             {User: "alice", Password: "rabbit"},
		"old.example":         {User: "dodo", Password: "extinct"},
		"id.example":          {Token: "from-there"},
		"helped.example":      {User: "cat", Password: "grin:ning"},
		"token.example":       {Token: "t0ken"},
		"none.example":        {},
		"podman.example:5000": {User: "hare", Password: "March"},
		"unknown.example":     {},
	} {
		if got, err := UserLogin(t.Context(), host); got != want || err != nil {
			t.Errorf("%s: %+v, %v", host, got, err)
		}
	}
	for host, want := range map[string]string{
		"broken.example":   "docker-credential-test: locked",
		"evil.example":     "has no name of a program",
		"odd.example:5000": "log in again",
	} {
		if _, err := UserLogin(t.Context(), host); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", host, err)
		}
	}

	write("other/config.json", `{"credsStore": "test", "auths": {"helped.example": {}}}`, 0o600)
	t.Setenv("DOCKER_CONFIG", filepath.Join(home, "other"))
	if got, err := UserLogin(t.Context(), "helped.example"); got.User != "cat" || err != nil {
		t.Errorf("by the store: %+v, %v", got, err)
	}
	t.Setenv("REGISTRY_AUTH_FILE", filepath.Join(home, "broken.json"))
	write("broken.json", "secret", 0o600)
	if _, err := UserLogin(t.Context(), "ghcr.io"); err == nil || strings.Contains(err.Error(), "secret") {
		t.Errorf("of no JSON: %v", err)
	}
	if header := (Login{Token: "t"}).header(); header == "" {
		t.Error("a token is not handed on")
	}
}
