package access

import (
	"strconv"
	"strings"

	"go.yaml.in/yaml/v4"
	"golang.org/x/crypto/ssh"
)

// Credentials are what a forge is shown: over https a token, or those that GitHub gives
// an App; over ssh a private key. All are named here, and are secrets of the server.
type Credentials struct {
	Token    string   // name of a secret, over https; "" for none
	App      App      // in the place of a token
	Key      string   // name of one that is a private key, over ssh
	HostKeys []string // that the forge may have, over ssh
}

// App is a GitHub App that is installed where the repository is.
type App struct {
	ID           int64  // 0: there is none
	Installation int64  // 0: the one that has the repository
	Key          string // name of a secret that is its private key
}

// HasAPI reports whether there is something to show to the forge's API.
func (c Credentials) HasAPI() bool { return c.Token != "" || c.App.ID != 0 }

// Names are those of the secrets that have to be set.
func (c Credentials) Names() (list []string) {
	for _, name := range []string{c.Token, c.App.Key, c.Key} {
		if name != "" {
			list = append(list, name)
		}
	}
	return list
}

// maxHostKeys is how many keys a forge's host may have.
const maxHostKeys = 10

// credentials reads what a forge is shown: over https a token or an App, over ssh a
// private key, to a host that has one of the keys that are pinned.
func (r *reader) credentials(key, value *yaml.Node, what, forge, address string) (c Credentials) {
	_, tokenAt := lookup(value, "token")
	_, keyAt := lookup(value, "key")
	_, hostsAt := lookup(value, "host_keys")
	overSSH := strings.HasPrefix(address, "ssh://")
	if tokenAt != nil {
		r.secretName(tokenAt, what)
		if c.Token = tokenAt.Value; overSSH {
			r.problem(tokenAt, "name a private key instead: key: "+key.Value+"-key",
				"%s has a token, which ssh does not take", what)
		}
	}
	if key, app := lookup(value, "app"); app != nil && app.Tag != "!!null" {
		c.App = r.app(key, app, what)
		switch {
		case forge != "github":
			r.problem(key, "name a token instead: token: <secret>", "%s has an app, which only the forge github has", what)
		case overSSH:
			r.problem(key, "write the url like https://github.com/owner/name.git", "%s has an app, which ssh does not take",
				what)
		case c.Token != "":
			r.problem(tokenAt, "leave out token, or app", "%s has a token and an app: nothing says which is shown", what)
		}
	}
	if keyAt != nil {
		r.secretName(keyAt, what)
		c.Key = keyAt.Value
	}
	for _, n := range items(hostsAt) {
		if _, _, _, rest, err := ssh.ParseAuthorizedKey([]byte(n.Value)); err != nil || len(rest) > 0 {
			r.problem(n, "write a line of: ssh-keyscan <host>, without the host's name, once you know that it is right",
				"%s has a host key that is none", what)
		}
		c.HostKeys = append(c.HostKeys, strings.TrimSpace(n.Value))
	}
	switch {
	case !overSSH && (keyAt != nil || hostsAt != nil):
		r.problem(key, "write the url like ssh://git@example.org/owner/name.git, or leave key and host_keys out",
			"%s has a key, and its url is not of ssh", what)
	case overSSH && c.Key == "":
		r.problem(key, "set the private key, and name it: key: "+key.Value+"-key", "%s has no key to log in with", what)
	case overSSH && len(c.HostKeys) == 0:
		r.problem(key, "for example: host_keys: [\"ssh-ed25519 AAAA…\"]",
			"%s has no host_keys: nothing says that the host is the one that is meant", what)
	case len(c.HostKeys) > maxHostKeys:
		r.problem(hostsAt, "leave out those that are not in use", "%s has over %d host keys", what, maxHostKeys)
	}
	return c
}

// app reads which GitHub App it is, and what its private key is called.
func (r *reader) app(key, value *yaml.Node, what string) (a App) {
	number := func(name string) (n int64) {
		_, at := lookup(value, name)
		if at == nil {
			return 0
		}
		n, err := strconv.ParseInt(at.Value, 10, 64)
		if err != nil || n < 1 {
			r.problem(at, "write the number that GitHub gives for it",
				"the %s of the app of %s is %q, which is no number of one", name, what, at.Value)
			return 0
		}
		return n
	}
	a.ID, a.Installation = number("id"), number("installation")
	if _, at := lookup(value, "id"); at == nil {
		r.problem(key, "for example: app: {id: 12345, key: app-key}; GitHub shows the App ID in the App's settings",
			"the app of %s has no id", what)
	}
	_, at := lookup(value, "key")
	if at == nil {
		r.problem(key, "set the private key that GitHub made for the App, and name it: ssh host secret set app-key <app.pem",
			"the app of %s has no key", what)
		return a
	}
	r.secretName(at, what)
	a.Key = at.Value
	return a
}
