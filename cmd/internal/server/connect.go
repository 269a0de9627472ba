package server

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"path"
	"time"

	"github.com/headgate-cd/headgate/gitd/access"
	"github.com/headgate-cd/headgate/gitd/secret"
	"github.com/headgate-cd/headgate/gitd/show"
	"github.com/headgate-cd/headgate/hooks/forge"
)

// needs says what is to be given to what a connection shows.
func needs(c access.Connection) string {
	if c.App.ID != 0 {
		return "the GitHub App needs " + appRights
	}
	return "the token needs " + rightsAt(c.Forge)
}

// appRights are the permissions that a GitHub App needs for all that a connection does.
const appRights = "Contents, Pull requests, Commit statuses, Webhooks: read and write; for what else is to work, " +
	"Workflows (requests that change .github/workflows), Checks and Deployments: read and write; Actions: read"

// rightsAt are the rights that a connection's token needs at a forge.
func rightsAt(forge string) string {
	switch forge {
	case "github":
		return "as a fine-grained token: Contents, Pull requests, Commit statuses, Issues, Webhooks: read and write; Metadata: read " +
			"(and Deployments: read and write, for deployments: true)"
	case "gitlab":
		return "the scope api and the role Maintainer, as a project access token"
	}
	return "write:repository, write:issue, and the right to administer the repository's webhooks"
}

var clouds = map[string]string{"github": "https://github.com/", "gitlab": "https://gitlab.com/"}

// Connect implements show.Backend.
func (s *Server) Connect(ctx context.Context, a access.Identity, c show.NewConnection,
	token secret.Value) (show.Connecting, error) {
	if err := s.administrator(a, "connect forges"); err != nil {
		return show.Connecting{}, err
	}
	c.Name = cmp.Or(c.Name, c.Forge)
	c.Mirror = cmp.Or(c.Mirror, path.Base(c.Repository))
	if c.URL == "" && clouds[c.Forge] != "" {
		c.URL = clouds[c.Forge] + c.Repository + ".git"
	}
	if c.URL == "" {
		return show.Connecting{}, &show.Error{
			Kind: show.Usage,
			What: "nothing says where the repository " + c.Repository + " is",
			Hint: "for example: --url https://git.example.org/" + c.Repository + ".git",
		}
	}
	conf := access.Connection{
		Name:        c.Name,
		Forge:       c.Forge,
		Repository:  c.Repository,
		URL:         c.URL,
		Mirror:      c.Mirror,
		Secrets:     []string{c.Name + "-hook"},
		Credentials: access.Credentials{Token: c.Name + "-token"},
		Requests:    true,
	}
	if c.App != 0 {
		conf.Credentials = access.Credentials{App: access.App{ID: c.App, Key: c.Name + "-app-key"}}
	}
	done := show.Connecting{NewConnection: c, Webhook: s.webhook(c.Name)}
	was, err := s.landedConfiguration()
	if err != nil {
		return done, err
	}
	present, there := was.config.Connection(c.Name)
	if there && (present.Forge != conf.Forge || present.Repository != conf.Repository || present.URL != conf.URL ||
		present.Mirror != conf.Mirror) {
		return done, &show.Error{
			Kind: show.Denied,
			What: fmt.Sprintf("connection %s is to %s of %s already", c.Name, present.Repository, present.Forge),
			Hint: "give another name: --name <connection>",
		}
	}
	if there && len(token.Reveal()) > 0 && present.App.ID != c.App {
		return done, &show.Error{
			Kind: show.Denied,
			What: fmt.Sprintf("connection %s shows its forge something else", c.Name),
			Hint: "change its token or app in " + access.FileName + " of headgate, or give another name: --name <connection>",
		}
	}
	if !there { // whatever is wrong with it is said before anything is done
		if _, err := access.AddConnection(was.data, conf); err != nil {
			return done, &show.Error{Kind: show.Usage, What: err.Error()}
		}
	}
	if len(token.Reveal()) == 0 {
		done.Steps = []string{
			"make a token at the forge. It needs " + rightsAt(c.Forge),
			"connect with it: " + s.about.Command(fmt.Sprintf("forge connect %s %s --token <token-file", c.Forge, c.Repository)),
			"this makes the webhook to " + done.Webhook + ", its secret, the mirror " + c.Mirror + " and the connection " +
				c.Name + " in " + access.FileName,
		}
		if c.Forge == "github" {
			done.Steps = append(done.Steps, fmt.Sprintf("or, instead of a token, make a GitHub App without a webhook of its "+
				"own, install it for %s, and connect with its private key: %s. It needs %s", c.Repository,
				s.about.Command("forge connect github "+c.Repository+" --app <App ID> <app.pem"), appRights))
		}
		return done, nil
	}

	kind, err := forge.ParseKind(c.Forge)
	if err != nil {
		return done, &show.Error{Kind: show.Usage, What: err.Error()}
	}
	setup := forge.Setup{Kind: kind, URL: c.URL, Repository: c.Repository, Shown: token, App: conf.App}
	shown := "token"
	if c.App != 0 {
		shown = "App"
	}
	if err := setup.Check(ctx); err != nil {
		return done, &show.Error{
			Kind: show.Denied,
			What: fmt.Sprintf("the forge does not let that %s read %s: %v", shown, c.Repository, err),
			Hint: needs(conf),
		}
	}
	hook := secret.ID{Name: conf.Secrets[0]}
	if there && len(present.Secrets) > 0 {
		hook.Name = present.Secrets[0]
		conf.Token = cmp.Or(present.Token, conf.Token)
		conf.App.Key = cmp.Or(present.App.Key, conf.App.Key)
	}
	signed, err := s.secrets.Get(hook)
	if errors.Is(err, secret.ErrNotFound) {
		var random [32]byte
		_, _ = rand.Read(random[:]) // never fails
		signed = secret.NewValue([]byte(hex.EncodeToString(random[:])))
		err = s.secrets.Set(hook, signed, a.User, time.Now())
	}
	if err != nil {
		return done, err
	}
	if err := s.secrets.Set(secret.ID{Name: cmp.Or(conf.App.Key, conf.Token)}, token, a.User, time.Now()); err != nil {
		return done, err
	}
	err = s.reconfigure(ctx, a, fmt.Sprintf("Connect %s of %s", c.Repository, c.Forge),
		func(now *access.Config, data []byte) ([]byte, error) {
			if _, there := now.Connection(c.Name); there {
				return data, nil
			}
			return access.AddConnection(data, conf)
		})
	if err != nil {
		return done, err
	}
	done.Connected = true
	s.forges.Retry()
	s.log.Info("connected a forge", "connection", c.Name, "forge", c.Forge, "at", c.Repository, "user", a.User)
	if err := setup.SetHook(ctx, done.Webhook, signed); err != nil {
		done.Steps = append(done.Steps,
			fmt.Sprintf(
				"the forge did not take the webhook (%v): give it the right to administer webhooks and repeat this, or make it by hand: "+
					"POST %s, application/json, signed with a secret of yours that you set with: secret set %s", err, done.Webhook, hook.Name))
	}
	s.forges.Retry() // which sees the webhook there
	done.Steps = append(done.Steps, "prove it: forge test "+c.Name)
	return done, nil
}
