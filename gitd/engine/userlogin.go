package engine

import (
	"bytes"
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"time"
)

// userConfig is what of Docker's config.json, and of Podman's auth.json, is about logins.
type userConfig struct {
	Auths map[string]struct {
		Auth          string `json:"auth"` // user:password in base64
		Username      string `json:"username"`
		Password      string `json:"password"`
		IdentityToken string `json:"identitytoken"`
	} `json:"auths"`
	Helpers map[string]string `json:"credHelpers"`
	Store   string            `json:"credsStore"`
}

// UserLogin is how whoever runs this enters a registry, by host: as `docker login` or
// `podman login` has left it, in a file or with one of their helpers. The zero Login is
// that it was never entered.
func UserLogin(ctx context.Context, host string) (Login, error) {
	for _, file := range userConfigs() {
		data, err := os.ReadFile(file)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return Login{}, err
		}
		var c userConfig
		if err := json.Unmarshal(data, &c); err != nil {
			return Login{}, fmt.Errorf("read logins of registries from %s: it is not what docker login writes", file)
		}
		if l, err := c.login(ctx, host); err != nil || l != (Login{}) {
			return l, err
		}
	}
	return Login{}, nil
}

// userConfigs are the files in which logins are looked for, in order.
func userConfigs() (files []string) {
	if file := os.Getenv("REGISTRY_AUTH_FILE"); file != "" {
		files = append(files, file)
	}
	if dir := os.Getenv("DOCKER_CONFIG"); dir != "" {
		files = append(files, filepath.Join(dir, "config.json"))
	} else if home, err := os.UserHomeDir(); err == nil {
		files = append(files, filepath.Join(home, ".docker", "config.json"))
	}
	if dir := os.Getenv("XDG_RUNTIME_DIR"); dir != "" {
		files = append(files, filepath.Join(dir, "containers", "auth.json"))
	}
	return files
}

// hub is under which name Docker keeps the login of the registry that images without a
// host are of.
const hub = "https://index.docker.io/v1/"

// login is what the file, or a helper that it names, has for a registry.
func (c userConfig) login(ctx context.Context, host string) (Login, error) {
	names := []string{host, "https://" + host, "http://" + host, "https://" + host + "/v1/", "https://" + host + "/v2/"}
	if host == "docker.io" {
		names = []string{hub, "docker.io", "index.docker.io", "registry-1.docker.io"}
	}
	for _, name := range names {
		if helper := c.Helpers[name]; helper != "" {
			return ask(ctx, helper, name)
		}
	}
	if c.Store != "" {
		return ask(ctx, c.Store, names[0])
	}
	for _, name := range names {
		a, ok := c.Auths[name]
		if !ok {
			continue
		}
		if a.IdentityToken != "" {
			return Login{Token: a.IdentityToken}, nil
		}
		l := Login{User: a.Username, Password: a.Password}
		if a.Auth != "" {
			text, err := base64.StdEncoding.DecodeString(a.Auth)
			user, password, ok := strings.Cut(strings.TrimRight(string(text), "\x00"), ":")
			if err != nil || !ok {
				return Login{}, fmt.Errorf("the login of %s is not what docker login writes: log in again", host)
			}
			l = Login{User: user, Password: password}
		}
		return l, nil
	}
	return Login{}, nil
}

// Of what a helper may be called, as its name becomes a program's.
var helperName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]*$`)

// helperTimeout is how long a helper may take, which may ask somebody to unlock something.
const helperTimeout = 2 * time.Minute

// ask has a helper say what it keeps for a registry. It is told which on its input.
func ask(ctx context.Context, helper, name string) (Login, error) {
	if !helperName.MatchString(helper) {
		return Login{}, fmt.Errorf("the credential helper %q has no name of a program", helper)
	}
	ctx, cancel := context.WithTimeout(ctx, helperTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, "docker-credential-"+helper, "get")
	cmd.WaitDelay = time.Second // for what it may have started
	cmd.Stdin = strings.NewReader(name)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		said := strings.TrimSpace(out.String()) // helpers print their errors there
		if said == "credentials not found in native keychain" {
			return Login{}, nil
		}
		first, _, _ := strings.Cut(cmp.Or(said, strings.TrimSpace(errs.String()), err.Error()), "\n")
		return Login{}, fmt.Errorf("docker-credential-%s: %s", helper, first)
	}
	var found struct{ Username, Secret string }
	if err := json.Unmarshal(out.Bytes(), &found); err != nil {
		return Login{}, fmt.Errorf("docker-credential-%s answers nothing that could be read", helper) // and may be secret
	}
	if found.Username == "<token>" {
		return Login{Token: found.Secret}, nil
	}
	return Login{User: found.Username, Password: found.Secret}, nil
}
