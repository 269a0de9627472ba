package forge

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"time"

	"github.com/headgate-cd/headgate/gitd/repo"
	"github.com/headgate-cd/headgate/gitd/show"
	"github.com/headgate-cd/headgate/hooks/delivery"
)

// deployer is an API that shows deployments.
type deployer interface {
	// Deploy makes a deployment of a commit, or finds the one with the same description.
	Deploy(ctx context.Context, environment string, commit repo.Hash, description string) (int64, error)
	// Deployed says how a deployment is, and where people find it.
	Deployed(ctx context.Context, id int64, environment string, state DeploymentState, description, url, log string) error
}

// DeploymentState is how a deployment is.
type DeploymentState string

const (
	DeploymentRuns    DeploymentState = "in_progress"
	DeploymentSuccess DeploymentState = "success"
	DeploymentFailure DeploymentState = "failure"
)

// protector is an API that asks whether a workflow's run may go to an environment.
type protector interface {
	// RunCommit is the commit that a run is of.
	RunCommit(ctx context.Context, run int64) (repo.Hash, error)
	// Protect answers. ErrNotFound: nobody waits for it any more.
	Protect(ctx context.Context, run int64, environment string, approve bool, why string) error
}

// saidDeployment is what was last said of what an environment declares.
type saidDeployment struct {
	Declared string          `json:"declared"` // commit of env/<environment>
	ID       int64           `json:"id,omitempty"`
	State    DeploymentState `json:"state,omitempty"`
	URL      string          `json:"url,omitempty"`
}

// protection is a run that waits for an answer.
type protection struct {
	Run         int64     `json:"run"`
	Environment string    `json:"environment"`
	Asked       time.Time `json:"asked"`
}

// protectionTime is for how long GitHub lets a run wait.
const protectionTime = 30 * 24 * time.Hour

// maxProtections bounds how many runs wait at once.
const maxProtections = 1000

// sayDeployments says of every environment what it declares, and how that is.
func (p *pass) sayDeployments(ctx context.Context) error {
	api, ok := p.api.(deployer)
	if !ok || !p.conf.Deployments || p.w.hub.Promotions == nil {
		return nil
	}
	names, err := p.w.hub.Promotions.Environments(ctx, p.r.Name())
	if err != nil {
		return err
	}
	for _, name := range names {
		e, err := p.w.hub.Promotions.Environment(ctx, p.r.Name(), name)
		if err != nil {
			return err
		}
		commit, ok := repo.ParseHash(e.Commit)
		if e.Declared == "" || !ok {
			continue
		}
		m := p.memory.deployments[name]
		if m == nil || m.Declared != e.Declared {
			id, err := api.Deploy(ctx, name, commit, fmt.Sprintf("release %d, %.12s", e.Release, e.Declared))
			if err != nil {
				return fmt.Errorf("the deployment of %s: %w", name, err)
			}
			m = &saidDeployment{Declared: e.Declared, ID: id}
			p.memory.deployments[name] = m
			if err := p.memory.save(); err != nil {
				return err
			}
		}
		state, text := DeploymentRuns, cut(fmt.Sprintf("release %d: %s", e.Release, e.State), 140)
		switch e.State {
		case show.Healthy, show.Drift:
			state = DeploymentSuccess
		case show.Failed:
			state, text = DeploymentFailure, cut(fmt.Sprintf("release %d: %s", e.Release, e.Reason), 140)
		}
		url := ""
		if len(e.URLs) > 0 {
			url = e.URLs[0]
		}
		if m.State == state && m.URL == url {
			continue
		}
		log := ""
		if p.w.hub.Page != nil {
			log = p.w.hub.Page(p.r.Name(), 0) + "/env/" + name
		}
		if err := api.Deployed(ctx, m.ID, name, state, text, url, log); err != nil {
			return fmt.Errorf("the deployment of %s: %w", name, err)
		}
		m.State, m.URL = state, url
		if err := p.memory.save(); err != nil {
			return err
		}
	}
	return nil
}

// hearProtections notes the runs that GitHub asks about.
func (p *pass) hearProtections() error {
	for _, d := range p.w.pending.list(p.remote.kind) {
		if !d.is(OfProtection) {
			continue
		}
		k, sequence := d.hints.Keys[0], d.sequence
		if len(p.memory.protections) >= maxProtections {
			p.w.note(p.w.inbox.Settle(delivery.Failed,
				fmt.Sprintf("%d runs wait already, which is the limit", maxProtections), sequence))
			continue
		}
		p.memory.protections[fmt.Sprintf("%d/%s", k.Run, k.Environment)] = &protection{Run: k.Run, Environment: k.Environment,
			Asked: time.Now().UTC()}
		if err := p.memory.save(); err != nil {
			return err
		}
		p.w.note(p.w.inbox.Settle(delivery.Applied,
			fmt.Sprintf("run %d waits for the policy of %s", k.Run, k.Environment), sequence))
	}
	return nil
}

// answerProtections answers the runs of which the policies have decided.
func (p *pass) answerProtections(ctx context.Context, now time.Time) error {
	api, ok := p.api.(protector)
	if !ok || p.w.hub.Promotions == nil {
		return nil
	}
	for _, key := range slices.Sorted(maps.Keys(p.memory.protections)) {
		m := p.memory.protections[key]
		commit, err := api.RunCommit(ctx, m.Run)
		decided, approve, why := false, false, ""
		if err == nil {
			decided, approve, why, err = p.protects(ctx, m.Environment, commit)
		}
		if err == nil && decided {
			if err = api.Protect(ctx, m.Run, m.Environment, approve, why); err == nil {
				p.w.hub.Log.Info("answered for a deployment", "connection", p.w.name, "env", m.Environment, "run", m.Run,
					"approved", approve, "why", why)
			}
		}
		if err != nil && !errors.Is(err, ErrNotFound) {
			return fmt.Errorf("run %d: %w", m.Run, err)
		}
		if decided || err != nil || now.Sub(m.Asked) > protectionTime {
			delete(p.memory.protections, key)
			if err := p.memory.save(); err != nil {
				return err
			}
		}
	}
	return nil
}

// protects says whether the policies have decided about a commit for an environment. What
// is declared there may go there; what they deny may not; what still waits, waits.
func (p *pass) protects(ctx context.Context, environment string,
	commit repo.Hash) (decided, approve bool, why string, err error) {
	e, err := p.w.hub.Promotions.Environment(ctx, p.r.Name(), environment)
	if none := (*show.Error)(nil); errors.As(err, &none) && none.Kind == show.NotFound {
		return true, false, "headgate.yaml declares no environment " + environment, nil
	}
	if err != nil {
		return false, false, "", err
	}
	if e.Commit == commit.String() {
		return true, true, fmt.Sprintf("release %d was promoted to %s", e.Release, environment), nil
	}
	if declared, ok := repo.ParseHash(e.Commit); ok && p.r.Has(commit) {
		older, err := p.r.Contains(ctx, declared, commit)
		if err != nil {
			return false, false, "", err
		}
		if older {
			return true, false, fmt.Sprintf("%s has release %d, which is newer", environment, e.Release), nil
		}
	}
	if e.Promotion != nil && e.Promotion.Source == commit.String() && e.Promotion.Decision == "deny" {
		return true, false, e.Promotion.Summary, nil
	}
	tips, err := p.w.hub.Gate.Tips(p.r.Name())
	for _, t := range tips {
		if t.Commit == commit && (t.State == show.Failed || t.State == show.Waits) {
			return true, false, "it is not green: " + t.Reason, err
		}
	}
	return false, false, "", err
}

// gone reports whether a forge says that what was meant is not there, or over.
func gone(status int) bool {
	return status == http.StatusNotFound || status == http.StatusGone || status == http.StatusUnprocessableEntity
}
