package server

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/headgate-cd/headgate/gitd/access"
	"github.com/headgate-cd/headgate/gitd/repo"
	"github.com/headgate-cd/headgate/gitd/secret"
	"github.com/headgate-cd/headgate/gitd/show"
	"github.com/headgate-cd/headgate/gitd/yamlfile"
	"github.com/headgate-cd/headgate/hooks/delivery"
	"github.com/headgate-cd/headgate/hooks/event"
	"github.com/headgate-cd/headgate/hooks/schedule"
	"github.com/headgate-cd/headgate/reconciler/record"
	"github.com/headgate-cd/headgate/reconciler/target"
)

// eventReaders read the events of what package hooks/event knows nothing of: environments,
// and schedules.
func (s *Server) eventReaders() map[string]event.Reader {
	return map[string]event.Reader{
		record.EnvironmentRef(""): readPromotions,
		record.Outcomes:           readOutcomes,
		schedule.Refs:             s.readScheduled,
	}
}

// readScheduled reads the history of a schedule: the builds that have ended.
func (s *Server) readScheduled(_ context.Context, r *repo.Repository, ref string, from, to repo.Hash) ([]event.Event,
	error) {
	name := strings.TrimPrefix(ref, schedule.Refs)
	endings, err := schedule.Endings(r, name, from, to, time.Now())
	if err != nil || len(endings) == 0 {
		return nil, err
	}
	notify := ""
	if st, err := s.schedules.Status(r.Name(), name); err == nil { // else it is declared no more
		notify = st.Notify
	}
	var events []event.Event
	for _, e := range endings {
		if e.Build.State == schedule.Green || e.Build.State == schedule.Failed {
			events = append(events, ofScheduled(r.Name(), name, notify, e))
		}
	}
	return events, nil
}

// ofScheduled is what the end of a scheduled build tells others.
func ofScheduled(repository, name, notify string, e schedule.Ending) event.Event {
	b, page := e.Build, "/"+repository+"/schedules/"+name
	told := event.Event{
		ID:         e.Commit.String(),
		Type:       event.BuildFinished,
		Kind:       access.BuildEvents,
		At:         b.Ended,
		Repository: repository,
		Subject:    fmt.Sprintf("%s/%d", strings.TrimPrefix(page, "/"), b.Number),
		Data: event.Data{
			Branch:   b.Branch,
			Schedule: name,
			Run:      b.Number,
			Notify:   notify,
			By:       b.By,
			Outcome:  "success",
			Log:      b.Log,
			Reason:   b.Reason,
			URL:      page,
		},
	}
	if b.State == schedule.Failed {
		told.Data.Outcome = "failure"
	}
	if b.Commit != repo.Zero {
		told.Data.Commit, told.Data.Tree = b.Commit.String(), b.Tree.String()
	}
	return told
}

// readPromotions reads the branch of an environment.
func readPromotions(_ context.Context, r *repo.Repository, ref string, from, to repo.Hash) ([]event.Event, error) {
	environment := strings.TrimPrefix(ref, record.EnvironmentRef(""))
	chain, err := event.Chain(r, from, to)
	if err != nil {
		return nil, err
	}
	var events []event.Event
	for _, commit := range chain {
		c, err := r.Commit(commit)
		if err != nil {
			return events, err
		}
		p, ok := record.ParsePromotion(c.Message, c.TreeHash)
		if !ok {
			continue // the initial commit
		}
		e := ofEnvironment(r, environment, commit, p)
		e.ID, e.At, e.Kind = commit.String(), c.Committer.When.UTC(), access.PromotionEvents
		switch {
		case p.Removal:
			e.Type = event.EnvironmentRemoved
		case p.Rollback != nil:
			e.Type, e.Data.By, e.Data.Reason = event.ReleaseRolledBack, p.Rollback.By, p.Rollback.Reason
		default:
			e.Type = event.ReleasePromoted
		}
		for _, a := range p.Approvals {
			e.Data.Approvers = append(e.Data.Approvers, a.User)
		}
		events = append(events, e)
	}
	return events, nil
}

// ofEnvironment is what events of an environment's commit have in common.
func ofEnvironment(r *repo.Repository, environment string, commit repo.Hash, p record.Promotion) event.Event {
	return event.Event{
		Repository: r.Name(),
		Subject:    r.Name() + "/env/" + environment,
		Data: event.Data{
			Environment: environment,
			Release:     p.Release,
			Commit:      commit.String(),
			URL:         fmt.Sprintf("/%s/env/%s", r.Name(), environment),
		},
	}
}

// readOutcomes reads the notes on environments' commits.
func readOutcomes(ctx context.Context, r *repo.Repository, _ string, from, to repo.Hash) ([]event.Event, error) {
	chain, err := event.Chain(r, from, to)
	if err != nil {
		return nil, err
	}
	var events []event.Event
	for _, note := range chain {
		c, err := r.Commit(note)
		if err != nil {
			return events, err
		}
		before := repo.Zero
		if len(c.ParentHashes) > 0 {
			if before, err = r.TreeOf(c.ParentHashes[0]); err != nil {
				return events, err
			}
		}
		paths, err := r.ChangedPaths(ctx, before, c.TreeHash)
		if err != nil {
			return events, err
		}
		for _, path := range paths {
			on, ok := repo.ParseHash(strings.ReplaceAll(path, "/", ""))
			if !ok {
				continue
			}
			was, err := outcomeAt(r, before, path)
			if err != nil {
				return events, err
			}
			is, err := outcomeAt(r, c.TreeHash, path)
			if err != nil {
				return events, err
			}
			e, told, err := ofOutcome(r, on, was, is)
			if err != nil {
				return events, err
			}
			if told {
				e.ID = note.String()
				events = append(events, e)
			}
		}
	}
	return events, nil
}

// outcomeAt reads the note at a path of a notes ref's tree.
func outcomeAt(r *repo.Repository, tree repo.Hash, path string) (record.Outcome, error) {
	data, err := r.File(tree, path)
	if errors.Is(err, repo.ErrNoFile) {
		return record.Outcome{}, nil
	}
	return record.ParseOutcome(data), err
}

// ofOutcome is what the new outcome of an environment's commit tells others.
func ofOutcome(r *repo.Repository, on repo.Hash, was, is record.Outcome) (e event.Event, told bool, err error) {
	if is.State == was.State && is.Since.Equal(was.Since) {
		return e, false, nil // it covers another release
	}
	c, err := r.Commit(on)
	if err != nil {
		return e, false, err
	}
	p, ok := record.ParsePromotion(c.Message, c.TreeHash)
	if !ok {
		return e, false, nil
	}
	environment, err := environmentOf(r, on)
	if err != nil || environment == "" {
		return e, false, err
	}

	e = ofEnvironment(r, environment, on, p)
	e.At, e.Kind, e.Data.Reason = is.Since, access.DeploymentEvents, is.Message
	switch is.State {
	case target.Converging:
		e.Type = event.DeploymentStarted
	case target.Healthy:
		e.Content = event.Service(environment, event.PackageURL(r.Name(), p.Release, ""))
		switch {
		case p.Removal:
			e.Type, e.Content = event.ServiceRemoved, event.Service(environment, "")
		case p.Rollback != nil:
			e.Type = event.ServiceRolledBack
		case p.Replaces != repo.Zero:
			e.Type = event.ServiceUpgraded
		default:
			e.Type = event.ServiceDeployed
		}
	case target.Degraded:
		e.Type, e.Kind = event.DeploymentDrifted, access.DriftEvents
	case target.Failed:
		e.Type = event.DeploymentFailed
	default:
		return e, false, nil
	}
	return e, true, nil
}

// environmentOf finds the environment whose branch holds a commit.
func environmentOf(r *repo.Repository, commit repo.Hash) (string, error) {
	refs, err := r.Refs(record.EnvironmentRef(""))
	if err != nil {
		return "", err
	}
	for _, ref := range refs {
		for at := ref.Hash; at != repo.Zero; {
			if at == commit {
				return strings.TrimPrefix(ref.Name, record.EnvironmentRef("")), nil
			}
			c, err := r.Commit(at)
			if err != nil {
				return "", err
			}
			if len(c.ParentHashes) == 0 {
				break
			}
			at = c.ParentHashes[0]
		}
	}
	return "", nil
}

// endpoint finds an endpoint for an administrator.
func (s *Server) endpoint(a access.Identity, name string) (access.EventEndpoint, error) {
	if err := s.administrator(a, "see and test endpoints of events"); err != nil {
		return access.EventEndpoint{}, err
	}
	c := s.access.Load()
	if conf, ok := c.EventEndpoint(name); ok {
		return conf, nil
	}
	e := &show.Error{
		Kind: show.NotFound,
		What: fmt.Sprintf("there is no endpoint %q", name),
		Hint: "they are written as events in server.yaml; see them", Command: "events list",
	}
	var names []string
	for _, other := range c.EventEndpoints() {
		names = append(names, other.Name)
	}
	if near, ok := yamlfile.Nearest(name, names); ok {
		e.Hint = "did you mean " + near + "?"
	}
	return access.EventEndpoint{}, e
}

// EventEndpoints implements show.Backend.
func (s *Server) EventEndpoints(ctx context.Context, a access.Identity) ([]show.EventEndpoint, error) {
	if err := s.administrator(a, "see endpoints of events"); err != nil {
		return nil, err
	}
	var list []show.EventEndpoint
	for _, conf := range s.access.Load().EventEndpoints() {
		e, err := s.EventEndpoint(ctx, a, conf.Name)
		if err != nil {
			return nil, err
		}
		list = append(list, e)
	}
	return list, nil
}

// EventEndpoint implements show.Backend.
func (s *Server) EventEndpoint(_ context.Context, a access.Identity, name string) (show.EventEndpoint, error) {
	conf, err := s.endpoint(a, name)
	if err != nil {
		return show.EventEndpoint{}, err
	}
	status, err := s.events.Status(name)
	if err != nil {
		return show.EventEndpoint{}, err
	}
	e := show.EventEndpoint{
		Name:          name,
		URL:           conf.URL,
		Repositories:  conf.Repositories,
		State:         show.Healthy,
		LastDelivered: status.LastDelivered,
		Pending:       status.Pending,
		Parked:        status.Parked,
		Kept:          status.Kept,
		Skipped:       status.Skipped,
		Failing:       status.Failing,
		RetryAt:       status.RetryAt,
	}
	for _, kind := range conf.Kinds {
		e.Only = append(e.Only, string(kind))
	}
	switch {
	case e.Failing != "":
		e.State = show.Failed
	case e.LastDelivered.IsZero():
		e.State = show.Unknown
	}
	if _, err := s.secrets.Get(secret.ID{Name: conf.Secret}); errors.Is(err, secret.ErrNotFound) {
		e.Unset = conf.Secret
	}
	return e, nil
}

// EventDeliveries implements show.Backend.
func (s *Server) EventDeliveries(_ context.Context, a access.Identity, name string) ([]show.EventDelivery, error) {
	if _, err := s.endpoint(a, name); err != nil {
		return nil, err
	}
	entries, err := s.events.Deliveries(name, shownDeliveries)
	if err != nil {
		return nil, err
	}
	list := make([]show.EventDelivery, 0, len(entries))
	for _, entry := range entries {
		d := show.EventDelivery{
			Endpoint: name,
			Number:   entry.Sequence,
			ID:       entry.ID,
			Type:     entry.Event,
			At:       entry.At,
			Outcome:  string(entry.Outcome),
			Detail:   entry.Detail,
		}
		if entry.Outcome == delivery.Pending {
			d.Outcome = "pending"
		}
		list = append(list, d)
	}
	return list, nil
}

// TestEvents implements show.Backend.
func (s *Server) TestEvents(ctx context.Context, a access.Identity, name string) (show.Done, error) {
	conf, err := s.endpoint(a, name)
	if err != nil {
		return show.Done{}, err
	}
	answered, err := s.events.Test(ctx, name, a.User)
	if err != nil {
		return show.Done{}, &show.Error{
			Kind: show.Denied,
			What: fmt.Sprintf("endpoint %s does not take events: %v", name, err),
			Hint: "see how it is set up", Command: "events show " + name,
		}
	}
	return show.Done{What: fmt.Sprintf("%s answers: %s", conf.URL, answered)}, nil
}

// ReplayEvents implements show.Backend.
func (s *Server) ReplayEvents(_ context.Context, a access.Identity, name string, delivery int64) (show.Done, error) {
	if _, err := s.endpoint(a, name); err != nil {
		return show.Done{}, err
	}
	var which []int64
	if delivery > 0 {
		which = append(which, delivery)
	}
	n, err := s.events.Replay(name, which...)
	if errors.Is(err, os.ErrNotExist) {
		return show.Done{}, &show.Error{
			Kind: show.NotFound,
			What: fmt.Sprintf("endpoint %s keeps no delivery %d", name, delivery),
			Hint: "see the newest", Command: "events show " + name,
		}
	}
	if err != nil {
		return show.Done{}, err
	}
	if n == 0 {
		return show.Done{What: "no event is parked for " + name}, nil
	}
	return show.Done{What: fmt.Sprintf("%s for %s: on the way again", show.Plural(n, "event"), name), State: show.Queued},
		nil
}
