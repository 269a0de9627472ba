package server

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/headgate-cd/headgate/gitd/access"
	"github.com/headgate-cd/headgate/gitd/repo"
	"github.com/headgate-cd/headgate/gitd/secret"
	"github.com/headgate-cd/headgate/gitd/show"
	"github.com/headgate-cd/headgate/gitd/yamlfile"
	"github.com/headgate-cd/headgate/hooks/delivery"
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
	f.Unset = s.unset(slices.Concat(conf.Secrets, conf.Names())...)
	entries, err := s.forges.Deliveries(name, shownDeliveries)
	if err != nil {
		return show.Connection{}, err
	}
	f.Secrets = secretUses(conf.Secrets, entries)
	return f, nil
}

// secretUses says of secrets which of the deliveries, newest first, were signed with them.
func secretUses(names []string, entries []delivery.Entry) (list []show.SecretUse) {
	for _, name := range names {
		use := show.SecretUse{Name: name}
		for _, e := range entries {
			if e.SecretName != name {
				continue
			}
			if use.Used++; use.Used == 1 {
				use.Last = e.At
			}
		}
		list = append(list, use)
	}
	return list
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
			Unset:      s.unset(conf.Names()...),
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
		if _, err := s.secrets.Get(secret.ID{Name: name}); errors.Is(err, secret.ErrNotFound) {
			list = append(list, name)
		}
	}
	return list
}

// Deliveries implements show.Backend.
func (s *Server) Deliveries(_ context.Context, a access.Identity, name string) ([]show.Delivery, error) {
	if _, err := s.connection(a, name); err != nil {
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
		d.FromLog, d.Secret = e.Secret == delivery.FromLog, e.SecretName
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
			Next: "see what came of it: " + s.about.Command("forge show "+name),
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
	conf, _ := s.access.Load().Connection(name)
	d := show.Done{What: fmt.Sprintf("%s answers: %s", f.URL, show.Plural(proof.Refs, "ref"))}
	if conf.App.ID != 0 {
		d.What = fmt.Sprintf("%s answers GitHub App %d: %s", f.URL, conf.App.ID, show.Plural(proof.Refs, "ref"))
	}
	switch {
	case proof.API != nil:
		return d, &show.Error{
			Kind: show.Denied,
			What: fmt.Sprintf("git answers for connection %s, and its API does not: %v", name, proof.API),
			Hint: needs(conf),
		}
	case !conf.HasAPI() && f.LastDelivery.IsZero():
		d.Next = "no webhook has come yet: send a test from the forge's settings to " + f.Webhook
	case !conf.HasAPI():
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
