package forge

import (
	"context"
	"fmt"
	"strings"

	"github.com/headgate-cd/headgate/gitd/access"
	"github.com/headgate-cd/headgate/gitd/secret"
)

// credential is what a forge is shown over https. It is safe for concurrent use.
type credential interface {
	// token is what to show now; empty: nothing.
	token(ctx context.Context) (secret.Value, error)
	// refused reports of a token that the forge did not take whether another may do.
	refused(token secret.Value) bool
}

// fixed is a token that somebody has made; empty: none.
type fixed struct{ value secret.Value }

func (f fixed) token(context.Context) (secret.Value, error) { return f.value, nil }

func (fixed) refused(secret.Value) bool { return false }

// remoteOf is a repository at a forge with what is shown there, which is read from the
// secrets. use is what an App is used for, if it is one.
func (h *Hub) remoteOf(forge, url, repository string, c access.Credentials, use appUse) (m remote, err error) {
	if m.kind, err = ParseKind(forge); err != nil {
		return m, err
	}
	m.url, m.hostKeys, m.credential = url, c.HostKeys, fixed{}
	switch {
	case c.App.ID != 0:
		key, err := h.Secrets.Get(secret.ID{Name: c.App.Key})
		if err != nil {
			return m, err
		}
		if m.credential, err = h.apps.of(c.App, key, url, repository, use); err != nil {
			return m, err
		}
	case c.Token != "":
		value, err := h.Secrets.Get(secret.ID{Name: c.Token})
		if err != nil {
			return m, err
		}
		if strings.ContainsAny(string(value.Reveal()), "\r\n\x00") {
			return m, fmt.Errorf("secret %s: a token is one line", c.Token)
		}
		m.credential = fixed{value}
	}
	if c.Key != "" {
		m.key, err = h.Secrets.Get(secret.ID{Name: c.Key})
	}
	return m, err
}
