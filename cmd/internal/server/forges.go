package server

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"iter"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/headgate-cd/headgate/gitd/access"
	"github.com/headgate-cd/headgate/gitd/repo"
	"github.com/headgate-cd/headgate/gitd/secret"
	"github.com/headgate-cd/headgate/gitd/show"
	"github.com/headgate-cd/headgate/gitd/yamlfile"
	"github.com/headgate-cd/headgate/hooks/forge"
)

// shownDeliveries is how many deliveries of a connection are shown.
const shownDeliveries = 200

// connection finds a connection whose mirror an actor may read.
func (s *Server) connection(a access.Identity, name string) (access.Connection, error) {
	c := s.access.Load()
	conf, ok := c.Connection(name)
	if ok && c.May(a, access.Read, conf.Mirror) {
		return conf, nil
	}
	e := &show.Error{
		Kind: show.NotFound,
		What: fmt.Sprintf("there is no connection %q", name),
		Hint: "see those you may", Command: "forge list",
	}
	var names []string
	for _, other := range c.Connections() {
		if c.May(a, access.Read, other.Mirror) {
			names = append(names, other.Name)
		}
	}
	if near, ok := yamlfile.Nearest(name, names); ok {
		e.Hint = "did you mean " + near + "?"
	}
	return conf, e
}

// Connections implements show.Backend.
func (s *Server) Connections(ctx context.Context, a access.Identity) ([]show.Connection, error) {
	c := s.access.Load()
	var list []show.Connection
	for _, conf := range c.Connections() {
		if !c.May(a, access.Read, conf.Mirror) {
			continue
		}
		f, err := s.Connection(ctx, a, conf.Name)
		if err != nil {
			return nil, err
		}
		list = append(list, f)
	}
	return list, nil
}

// Connection implements show.Backend.
func (s *Server) Connection(_ context.Context, a access.Identity, name string) (show.Connection, error) {
	conf, err := s.connection(a, name)
	if err != nil {
		return show.Connection{}, err
	}
	status, err := s.forges.Status(name)
	if err != nil {
		return show.Connection{}, err
	}
	f := show.Connection{
		Name:         name,
		Forge:        conf.Forge,
		Repository:   conf.Repository,
		URL:          conf.URL,
		Mirror:       conf.Mirror,
		Webhook:      s.webhook(name),
		State:        show.Healthy,
		LastDelivery: status.LastDelivery,
		LastSync:     status.LastSync,
		NextPoll:     status.NextPoll,
		Pending:      status.Pending,
		Kept:         status.Kept,
		Dropped:      status.Dropped,
		Recovered:    status.Recovered,
		LastLost:     status.LastLost,
		Hook:         string(status.Hook),
		MayAct:       s.administrator(a, "act on connections") == nil,
		Left:         status.Left,
		Follows:      conf.Requests,
		Requests:     status.Requests,
		Failing:      status.Failing,
		RetryAt:      status.RetryAt,
	}
	for _, t := range status.Tips {
		f.Tips = append(f.Tips, show.Tip{
			Branch:  t.Branch,
			Commit:  t.Commit.String(),
			State:   t.State,
			Reason:  t.Reason,
			Log:     t.Log,
			Release: t.Release,
		})
	}
	switch {
	case f.Failing != "":
		f.State = show.Failed
	case f.LastSync.IsZero():
		f.State = show.Unknown
	}
	if !f.LastDelivery.IsZero() {
		f.Silent = show.Duration(time.Since(f.LastDelivery))
	}
	f.Unset = s.unset(append(slices.Clone(conf.Secrets), conf.Token, conf.Key)...)
	return f, nil
}

// Publications implements show.Backend.
func (s *Server) Publications(_ context.Context, a access.Identity) (list []show.Publication, err error) {
	c := s.access.Load()
	for _, conf := range c.Publications() {
		if !c.May(a, access.Read, conf.Repository) {
			continue
		}
		status := s.forges.Publishing(conf.Name)
		p := show.Publication{
			Name:       conf.Name,
			Forge:      conf.Forge,
			Repository: conf.Repository,
			URL:        conf.URL,
			State:      show.Healthy,
			Unset:      s.unset(conf.Token, conf.Key),
			Refs:       status.Refs,
			LastStep:   status.LastStep,
			NextLook:   status.NextLook,
			Moved:      status.Moved,
			Diverged:   status.Diverged,
			Left:       status.Left,
			Failing:    status.Failing,
			RetryAt:    status.RetryAt,
		}
		switch {
		case p.Failing != "":
			p.State = show.Failed
		case len(p.Diverged) > 0:
			p.State = show.Drift
		case p.LastStep.IsZero():
			p.State = show.Unknown
		}
		list = append(list, p)
	}
	return list, nil
}

// unset are the secrets of these names that nobody has set.
func (s *Server) unset(names ...string) (list []string) {
	for _, name := range names {
		if name == "" {
			continue
		}
		if _, err := s.secrets.Get(secret.ID{Name: name}); errors.Is(err, secret.ErrNotFound) {
			list = append(list, name)
		}
	}
	return list
}

// Deliveries implements show.Backend.
func (s *Server) Deliveries(_ context.Context, a access.Identity, name string) ([]show.Delivery, error) {
	conf, err := s.connection(a, name)
	if err != nil {
		return nil, err
	}
	entries, err := s.forges.Deliveries(name, shownDeliveries)
	if err != nil {
		return nil, err
	}
	list := make([]show.Delivery, 0, len(entries))
	for _, e := range entries {
		d := show.Delivery{
			Connection: name,
			Number:     e.Sequence,
			ID:         e.ID,
			Event:      e.Event,
			At:         e.At,
			Outcome:    cmp.Or(string(e.Outcome), "pending"),
			Detail:     e.Detail,
			Duplicates: e.Duplicates,
		}
		if e.Secret < len(conf.Secrets) { // as they are named now
			d.Secret = conf.Secrets[e.Secret]
		}
		list = append(list, d)
	}
	return list, nil
}

// operates finds a connection on which an actor may act.
func (s *Server) operates(a access.Identity, name string) error {
	if _, err := s.connection(a, name); err != nil {
		return err
	}
	return s.administrator(a, "act on connections")
}

// Replay implements show.Backend.
func (s *Server) Replay(_ context.Context, a access.Identity, name string, delivery int64) (show.Done, error) {
	if err := s.operates(a, name); err != nil {
		return show.Done{}, err
	}
	err := s.forges.Replay(name, delivery)
	if errors.Is(err, os.ErrNotExist) {
		return show.Done{}, &show.Error{
			Kind: show.NotFound,
			What: fmt.Sprintf("connection %s keeps no delivery %d", name, delivery),
			Hint: "see the newest", Command: "forge deliveries " + name,
		}
	}
	if err != nil {
		return show.Done{}, err
	}
	return show.Done{What: fmt.Sprintf("delivery %d of %s is processed again", delivery, name), State: show.Queued}, nil
}

// TestConnection implements show.Backend.
func (s *Server) TestConnection(ctx context.Context, a access.Identity, name string) (show.Done, error) {
	if conf, ok := s.access.Load().Publication(name); ok && s.access.Load().May(a, access.Read, conf.Repository) {
		if err := s.administrator(a, "act on connections"); err != nil {
			return show.Done{}, err
		}
		s.forges.Publish(name)
		return show.Done{
			What: fmt.Sprintf("%s is looked at, and gets what it lacks", conf.URL),
			Next: "see what came of it: forge show " + name,
		}, nil
	}
	if err := s.operates(a, name); err != nil {
		return show.Done{}, err
	}
	proof, err := s.forges.Test(ctx, name)
	if err != nil {
		return show.Done{}, &show.Error{
			Kind: show.Denied,
			What: fmt.Sprintf("connection %s does not work: %v", name, err),
			Hint: "see what it fetches from, and which secrets are not set", Command: "forge show " + name,
		}
	}
	f, err := s.Connection(ctx, a, name)
	if err != nil {
		return show.Done{}, err
	}
	d := show.Done{What: fmt.Sprintf("%s answers: %s", f.URL, show.Plural(proof.Refs, "ref"))}
	conf, _ := s.access.Load().Connection(name)
	switch {
	case proof.API != nil:
		return d, &show.Error{
			Kind: show.Denied,
			What: fmt.Sprintf("git answers for connection %s, and its API does not: %v", name, proof.API),
			Hint: "the token needs " + rightsAt(conf.Forge),
		}
	case conf.Token == "" && f.LastDelivery.IsZero():
		d.Next = "no webhook has come yet: send a test from the forge's settings to " + f.Webhook
	case conf.Token == "":
	case proof.Hook != nil:
		d.Next = fmt.Sprintf("the forge could not be asked for a webhook (%v): send a test from its settings to %s",
			proof.Hook, f.Webhook)
	case !proof.Arrived:
		return d, &show.Error{
			Kind: show.Denied,
			What: fmt.Sprintf("the forge says that it posts a webhook to %s, and none has come", f.Webhook),
			Hint: "see there why; the forge must reach this address, and sign with " + strings.Join(conf.Secrets, " or "),
		}
	default:
		d.What += "; a webhook that it was asked for has come"
	}
	return d, nil
}

func (s *Server) webhook(name string) string { return s.about.GitHTTP + "/webhooks/" + name }

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
		Name:       c.Name,
		Forge:      c.Forge,
		Repository: c.Repository,
		URL:        c.URL,
		Mirror:     c.Mirror,
		Secrets:    []string{c.Name + "-hook"},
		Token:      c.Name + "-token",
		Requests:   true,
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
	if !there { // whatever is wrong with it is said before anything is done
		if _, err := access.AddConnection(was.data, conf); err != nil {
			return done, &show.Error{Kind: show.Usage, What: err.Error()}
		}
	}
	if len(token.Reveal()) == 0 {
		done.Steps = []string{
			"make a token at the forge. It needs " + rightsAt(c.Forge),
			fmt.Sprintf("connect with it: %s forge connect %s %s --token <token-file", s.about.Login(), c.Forge, c.Repository),
			"this makes the webhook to " + done.Webhook + ", its secret, the mirror " + c.Mirror + " and the connection " +
				c.Name + " in " + access.FileName,
		}
		return done, nil
	}

	kind, err := forge.ParseKind(c.Forge)
	if err != nil {
		return done, &show.Error{Kind: show.Usage, What: err.Error()}
	}
	setup := forge.Setup{Kind: kind, URL: c.URL, Repository: c.Repository, Token: token}
	if err := setup.Check(ctx); err != nil {
		return done, &show.Error{
			Kind: show.Denied,
			What: fmt.Sprintf("the forge does not let that token read %s: %v", c.Repository, err),
			Hint: "it needs " + rightsAt(c.Forge),
		}
	}
	hook := secret.ID{Name: conf.Secrets[0]}
	if there && len(present.Secrets) > 0 {
		hook.Name = present.Secrets[0]
		conf.Token = cmp.Or(present.Token, conf.Token)
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
	if err := s.secrets.Set(secret.ID{Name: conf.Token}, token, a.User, time.Now()); err != nil {
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
				"the forge did not take the webhook (%v): give the token the right to administer webhooks and repeat this, or make it by hand: "+
					"POST %s, application/json, signed with a secret of yours that you set with: secret set %s", err, done.Webhook, hook.Name))
	}
	s.forges.Retry() // which sees the webhook there
	done.Steps = append(done.Steps, "prove it: forge test "+c.Name)
	return done, nil
}

// TipLog implements show.Backend.
func (s *Server) TipLog(ctx context.Context, a access.Identity, name, branch string,
	follow bool) iter.Seq2[show.LogEvent, error] {
	return func(yield func(show.LogEvent, error) bool) {
		f, err := s.Connection(ctx, a, name)
		if err != nil {
			yield(show.LogEvent{}, err)
			return
		}
		i := slices.IndexFunc(f.Tips, func(t show.Tip) bool { return t.Branch == branch || branch == "" })
		if i < 0 || f.Tips[i].Log == "" {
			e := &show.Error{
				Kind: show.NotFound,
				What: fmt.Sprintf("no branch of %s is where its forge has moved it past the gate", name),
				Hint: "see those that are", Command: "forge show " + name,
			}
			if i >= 0 {
				e.What = fmt.Sprintf("%s at %.7s has no build yet: %s", f.Tips[i].Branch, f.Tips[i].Commit,
					cmp.Or(f.Tips[i].Reason, string(f.Tips[i].State)))
			}
			yield(show.LogEvent{}, e)
			return
		}
		for e, err := range s.followed(ctx, a, f.Mirror, func(ctx context.Context) iter.Seq2[show.LogEvent, error] {
			return s.logs.Events(ctx, f.Tips[i].Log, follow)
		}) {
			if !yield(e, err) {
				return
			}
		}
	}
}

// promotions is the reconciler, for forges.
type promotions struct{ *Server }

// Environments implements forge.Promotions.
func (p promotions) Environments(ctx context.Context, repository string) ([]string, error) {
	all, err := p.reconciler.Environments(ctx, access.Identity{}, repository)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range all {
		names = append(names, e.Name)
	}
	return names, nil
}

// Environment implements forge.Promotions.
func (p promotions) Environment(ctx context.Context, repository, environment string) (show.Environment, error) {
	return p.reconciler.Environment(ctx, access.Identity{}, repository, environment)
}

// Promotion implements forge.Promotions.
func (p promotions) Promotion(ctx context.Context, repository, environment string) (show.Promotion, error) {
	return p.reconciler.Promotion(ctx, access.Identity{}, repository, environment)
}

// Approve implements forge.Promotions.
func (p promotions) Approve(ctx context.Context, repository, environment string, by access.Identity,
	commit repo.Hash) ([]string, error) {
	if _, err := p.readable(by, repository); err != nil {
		return nil, err
	}
	_, lines, err := p.reconciler.ApprovePush(ctx, repository, environment, by, commit, "")
	return lines, err
}
