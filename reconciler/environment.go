package reconciler

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/headgate-cd/headgate/gitd/repo"
	"github.com/headgate-cd/headgate/gitd/show"
	"github.com/headgate-cd/headgate/reconciler/target"
)

// maxShown bounds the history on an environment's page.
const maxShown = 100

// Environments tells what every environment of a repository is, in the order of
// headgate.yaml, without history.
func (rc *Reconciler) Environments(ctx context.Context, repository string) ([]show.Environment, error) {
	r, err := rc.repository(repository)
	if err != nil {
		return nil, err
	}
	all, _, err := rc.environments(r)
	if err != nil {
		return nil, err
	}
	var shown []show.Environment
	for _, e := range all {
		s, err := rc.look(ctx, r, e.Name)
		if err != nil {
			return nil, err
		}
		one, err := rc.environment(ctx, s)
		if err != nil {
			return nil, err
		}
		shown = append(shown, one)
	}
	return shown, nil
}

// Environment tells what one environment is, with its history. The error is a
// *show.Error when there is no such environment.
func (rc *Reconciler) Environment(ctx context.Context, repository, name string) (show.Environment, error) {
	r, err := rc.repository(repository)
	if err != nil {
		return show.Environment{}, err
	}
	s, err := rc.look(ctx, r, name)
	if err != nil {
		return show.Environment{}, err
	}
	e, err := rc.environment(ctx, s)
	if err != nil {
		return show.Environment{}, err
	}
	all, err := rc.history(r, name, maxShown)
	if err != nil {
		return show.Environment{}, err
	}
	for i, d := range all {
		h := deployed(d)
		h.MayRollback, h.WhyNot = mayRollback(all[0], d)
		if i == 0 {
			h.Outcome, h.Message = e.State, e.Reason
		} else if h.Outcome == show.Converging {
			h.Outcome, h.Message = show.Unknown, "something newer came before it was healthy"
		}
		e.MayRollback = e.MayRollback || h.MayRollback
		e.History = append(e.History, h)
	}
	return e, nil
}

// environment is everything but the history.
func (rc *Reconciler) environment(ctx context.Context, s *sight) (show.Environment, error) {
	e := show.Environment{Repository: s.app, Name: s.environment, After: s.settings.After, Target: s.settings.Target, State: show.Empty}
	observed := rc.observed(s.settings, s.key())
	if d := s.declared; d != nil {
		e.Release, e.Commit = s.Declared.Covers, s.sourceDeclared().String()
		e.Declared, e.DeclaredAt = d.Commit.String(), d.At
		e.State, e.Reason, e.Since = actual(observed, d.Commit)
		e.LastApproved = approvals(d.Approvals, false)
		if d.Held != nil {
			e.Held = &show.HoldNote{By: d.Held.By, At: d.Held.At.UTC(), Reason: d.Held.Reason}
		}
	}
	if s.Wanted != nil && s.Wanted.Problem != "" && e.Reason == "" {
		e.Reason = s.Wanted.Problem
	}
	e.Services = serving(observed)
	for _, sv := range e.Services {
		if sv.URL != "" {
			e.URLs = append(e.URLs, sv.URL)
		}
	}
	before := 0
	switch {
	case s.Upstream != nil:
		before = s.Upstream.Release
	case len(s.Releases) > 0:
		before = s.Releases[len(s.Releases)-1]
	}
	e.Behind = len(s.carried(before))
	if s.openProposal() {
		p, err := rc.promotion(ctx, s, show.Actor{})
		if err != nil {
			return e, err
		}
		e.Promotion = &p
	}
	return e, nil
}

// actual is the state of what is declared, as far as the target has told.
func actual(o target.Observed, declared repo.Hash) (state show.State, reason string, since time.Time) {
	if o.Commit != declared.String() {
		return show.Unknown, "the target has not reported on " + short(declared) + " yet", since
	}
	return stateOf(o.State), o.Message, o.Since.UTC()
}

func stateOf(s target.State) show.State {
	switch s {
	case target.Healthy:
		return show.Healthy
	case target.Converging:
		return show.Converging
	case target.Degraded:
		return show.Drift
	case target.Failed:
		return show.Failed
	}
	return show.Unknown
}

// serving are the services as the target sees them, whatever commit it is at.
func serving(o target.Observed) []show.Service {
	var all []show.Service
	for _, u := range o.Units {
		one := show.Service{Name: u.Name, URL: u.URL, State: show.Healthy}
		staying := 0
		for _, in := range u.Instances {
			i := show.Instance{ID: in.ID, Release: in.Release, Since: in.Since.UTC(), Restarts: in.Restarts, Message: in.Message}
			switch in.Phase {
			case target.PhaseHealthy:
				i.State = show.Healthy
				staying++
			case target.PhaseUnhealthy:
				i.State = show.Failed
				staying++
			default: // waiting, starting, draining, stopping: on its way
				i.State = show.Converging
				switch {
				case in.Phase == target.PhaseWaiting:
					// How it ended is news only where nothing was wrong with it before.
					i.Message = strings.TrimPrefix(or(in.Message, in.LastExit)+", waiting for its next start", ", ")
				case i.Message == "":
					i.Message = string(in.Phase)
				}
			}
			if i.State != show.Healthy && !in.Phase.Leaving() {
				one.State = stateOf(u.State)
				if one.State == show.Healthy {
					one.State = show.Converging
				}
			}
			one.Instances = append(one.Instances, i)
		}
		if staying == 0 && one.State == show.Healthy {
			one.State = show.Unknown
		}
		all = append(all, one)
	}
	return all
}

// deployed is one line of the history.
func deployed(d declaration) show.Deployed {
	h := show.Deployed{Commit: d.Commit.String(), Release: d.Release, Source: d.Source.String(), Subject: d.subject, At: d.At,
		By: "policy", Approvals: approvals(d.Approvals, false), Outcome: stateOf(d.Outcome.State), Message: d.Outcome.Message,
		Rollback: d.RollbackOf != repo.Zero}
	if h.Rollback {
		h.By = d.By
	}
	return h
}

func approvals(as []Approval, stale bool) []show.Approval {
	var shown []show.Approval
	for _, a := range as {
		shown = append(shown, show.Approval{By: a.User, At: a.At.UTC(), Via: a.Via, Tree: a.Tree.String(), Why: a.Why, Stale: stale})
	}
	return shown
}

// Live is an environment that runs a commit, or something newer.
type Live struct {
	Environment string
	Release     int
	State       show.State
	Since       time.Time // of State
}

// LiveIn tells which environments declare a commit of the gated branch or one
// that contains it. Whether it really runs there is their State.
func (rc *Reconciler) LiveIn(ctx context.Context, repository string, commit repo.Hash) ([]Live, error) {
	r, err := rc.repository(repository)
	if err != nil {
		return nil, err
	}
	all, _, err := rc.environments(r)
	if err != nil {
		return nil, err
	}
	var live []Live
	for _, e := range all {
		d, err := rc.declaredIn(r, e.Name)
		if err != nil {
			return nil, err
		}
		if d == nil {
			continue
		}
		sources := []repo.Hash{d.Source}
		for _, c := range d.Outcome.Covers {
			if h, ok := repo.ParseHash(c.Commit); ok {
				sources = append(sources, h)
			}
		}
		newest := sources[len(sources)-1]
		in, err := r.Contains(ctx, newest, commit)
		if err != nil {
			return nil, fmt.Errorf("is %s in %s of %s: %w", short(commit), e.Name, repository, err)
		}
		if in {
			state, _, since := actual(rc.observed(e, target.Key{Repository: r.Name(), Application: r.Name(), Environment: e.Name}), d.Commit)
			live = append(live, Live{e.Name, d.Outcome.covers(d.Release), state, since})
		}
	}
	return slices.Clip(live), nil
}
