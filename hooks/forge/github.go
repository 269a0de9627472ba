package forge

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"github.com/google/go-github/v60/github"

	"github.com/headgate-cd/headgate/gitd/repo"
)

// gitHub is GitHub, there and on premises.
type gitHub struct {
	client      *github.Client
	owner, name string
	app         *installation // that it is called by, nil for a token
}

func newGitHub(client *http.Client, base *url.URL, owner, name string, app *installation) *gitHub {
	c := github.NewClient(client)
	c.BaseURL = base
	return &gitHub{client: c, owner: owner, name: name, app: app}
}

// gitHubError is an error as API has it.
func gitHubError(err error) error {
	var failed *github.ErrorResponse
	if errors.As(err, &failed) && failed.Response != nil && failed.Response.StatusCode == http.StatusNotFound {
		return ErrNotFound
	}
	return err
}

// Request implements API.
func (g *gitHub) Request(ctx context.Context, number int) (Request, error) {
	p, _, err := g.client.PullRequests.Get(ctx, g.owner, g.name, number)
	if err != nil {
		return Request{}, gitHubError(err)
	}
	return g.request(p)
}

func (g *gitHub) request(p *github.PullRequest) (Request, error) {
	head, err := hashOf(p.GetHead().GetSHA())
	r := Request{
		Number: p.GetNumber(),
		Title:  p.GetTitle(),
		State:  RequestState(p.GetState()),
		Head:   head,
		Branch: p.GetHead().GetRef(),
		Target: p.GetBase().GetRef(),
		Merger: Person{Login: p.GetMergedBy().GetLogin(), ID: p.GetMergedBy().GetID()},
		Author: Person{Login: p.GetUser().GetLogin(), ID: p.GetUser().GetID()},
		// The repository of a fork that was deleted is null.
		Fork: p.GetHead().GetRepo().GetID() == 0 || p.GetHead().GetRepo().GetID() != p.GetBase().GetRepo().GetID(),
	}
	if p.MergedAt != nil {
		r.State = Merged
	}
	return r, err
}

// Requests implements API.
func (g *gitHub) Requests(ctx context.Context) (list []Request, err error) {
	options := &github.PullRequestListOptions{State: "open", Sort: "created", Direction: "asc"}
	options.PerPage = pageSize
	for len(list) < maxRequests {
		page, resp, err := g.client.PullRequests.List(ctx, g.owner, g.name, options)
		if err != nil {
			return nil, gitHubError(err)
		}
		for _, p := range page {
			r, err := g.request(p)
			if err != nil {
				return nil, err
			}
			list = append(list, r)
		}
		if resp.NextPage == 0 {
			break
		}
		options.Page = resp.NextPage
	}
	return list, nil
}

// Newest implements API.
func (g *gitHub) Newest(ctx context.Context, branch, target string) (Request, error) {
	options := &github.PullRequestListOptions{State: "all", Head: g.owner + ":" + branch, Base: target, Sort: "created",
		Direction: "desc"}
	page, _, err := g.client.PullRequests.List(ctx, g.owner, g.name, options)
	if err != nil {
		return Request{}, gitHubError(err)
	}
	var list []Request
	for _, p := range page {
		r, err := g.request(p)
		if err != nil {
			return Request{}, err
		}
		list = append(list, r)
	}
	return newest(list, branch, target)
}

// Close implements API. GitHub sees by itself that a head has landed, a little
// after the push.
func (g *gitHub) Close(ctx context.Context, number int, _ repo.Hash) error {
	r, err := g.Request(ctx, number)
	if err != nil || r.State != Open {
		return err
	}
	_, _, err = g.client.PullRequests.Edit(ctx, g.owner, g.name, number,
		&github.PullRequest{State: github.String(string(Closed))})
	return gitHubError(err)
}

// Open implements API.
func (g *gitHub) Open(ctx context.Context, branch, target, title, text string) (int, error) {
	p, _, err := g.client.PullRequests.Create(ctx, g.owner, g.name, &github.NewPullRequest{
		Title: github.String(title),
		Head:  github.String(branch),
		Base:  github.String(target),
		Body:  github.String(cut(text, maxText)),
	})
	return p.GetNumber(), gitHubError(err)
}

// Edit implements API.
func (g *gitHub) Edit(ctx context.Context, number int, title, text string) error {
	_, _, err := g.client.PullRequests.Edit(ctx, g.owner, g.name, number, &github.PullRequest{
		Title: github.String(title),
		Body:  github.String(cut(text, maxText)),
	})
	return gitHubError(err)
}

// Publish implements API: a commit status, which any token may write.
func (g *gitHub) Publish(ctx context.Context, commit repo.Hash, c Check) error {
	_, _, err := g.client.Repositories.CreateStatus(ctx, g.owner, g.name, commit.String(), &github.RepoStatus{
		State:       github.String(string(c.State)),
		TargetURL:   github.String(c.URL),
		Description: github.String(cut(c.Text, 140)),
		Context:     github.String(checkName),
	})
	return gitHubError(err)
}

// Comments implements API.
func (g *gitHub) Comments(ctx context.Context, request int, since time.Time) (list []Comment, err error) {
	options := &github.IssueListCommentsOptions{}
	if !since.IsZero() {
		options.Since = &since
	}
	options.PerPage = pageSize
	for len(list) < maxComments {
		page, resp, err := g.client.Issues.ListComments(ctx, g.owner, g.name, request, options)
		if err != nil {
			return nil, gitHubError(err)
		}
		for _, c := range page {
			list = append(list, Comment{
				ID:      c.GetID(),
				Author:  Person{Login: c.GetUser().GetLogin(), ID: c.GetUser().GetID()},
				Text:    cut(c.GetBody(), maxText),
				Created: c.GetCreatedAt().Time,
				Edited:  !c.GetUpdatedAt().Equal(c.GetCreatedAt()),
			})
		}
		if resp.NextPage == 0 {
			break
		}
		options.Page = resp.NextPage
	}
	return list, nil
}

// Write implements API.
func (g *gitHub) Write(ctx context.Context, request int, id int64, text string) (int64, error) {
	comment := &github.IssueComment{Body: github.String(cut(text, maxText))}
	var err error
	if id == 0 {
		comment, _, err = g.client.Issues.CreateComment(ctx, g.owner, g.name, request, comment)
	} else {
		comment, _, err = g.client.Issues.EditComment(ctx, g.owner, g.name, id, comment)
	}
	return comment.GetID(), gitHubError(err)
}

// gitHubEvents are the events that are of use. deployment_protection_rule comes to Apps only.
var gitHubEvents = []string{"push", "create", "delete", "pull_request", "issue_comment", "merge_group"}

// hook finds the webhook for an address, nil if there is none.
func (g *gitHub) hook(ctx context.Context, address string) (*github.Hook, error) {
	options := &github.ListOptions{PerPage: pageSize}
	for {
		page, resp, err := g.client.Repositories.ListHooks(ctx, g.owner, g.name, options)
		if err != nil {
			return nil, gitHubError(err)
		}
		for _, h := range page {
			if h.GetConfig().GetURL() == address {
				return h, nil
			}
		}
		if resp.NextPage == 0 {
			return nil, nil
		}
		options.Page = resp.NextPage
	}
}

// SetHook implements API.
func (g *gitHub) SetHook(ctx context.Context, address, secret string) error {
	h, err := g.hook(ctx, address)
	if err != nil {
		return err
	}
	want := &github.Hook{
		Events: gitHubEvents,
		Active: github.Bool(true),
		Config: &github.HookConfig{
			URL:         github.String(address),
			ContentType: github.String("json"),
			InsecureSSL: github.String("0"),
			Secret:      github.String(secret),
		},
	}
	if h == nil {
		_, _, err = g.client.Repositories.CreateHook(ctx, g.owner, g.name, want)
	} else {
		_, _, err = g.client.Repositories.EditHook(ctx, g.owner, g.name, h.GetID(), want)
	}
	return gitHubError(err)
}

// Hook implements API.
func (g *gitHub) Hook(ctx context.Context, address string) (HookState, error) {
	h, err := g.hook(ctx, address)
	if err != nil || h == nil {
		return HookNone, err
	}
	return hookState(h.GetActive()), nil
}

// PingHook implements API.
func (g *gitHub) PingHook(ctx context.Context, address string) error {
	h, err := g.hook(ctx, address)
	if err != nil {
		return err
	}
	if h == nil {
		return ErrNotFound
	}
	_, err = g.client.Repositories.PingHook(ctx, g.owner, g.name, h.GetID())
	return gitHubError(err)
}

// MayWrite implements API.
func (g *gitHub) MayWrite(ctx context.Context, who Person) (bool, error) {
	level, _, err := g.client.Repositories.GetPermissionLevel(ctx, g.owner, g.name, who.Login)
	if err = gitHubError(err); errors.Is(err, ErrNotFound) {
		return false, nil // nobody of whom the repository knows
	}
	return err == nil && (level.GetPermission() == "admin" || level.GetPermission() == "write"), err
}

// Deploy implements deployer.
func (g *gitHub) Deploy(ctx context.Context, environment string, commit repo.Hash, description string) (int64, error) {
	list, _, err := g.client.Repositories.ListDeployments(ctx, g.owner, g.name,
		&github.DeploymentsListOptions{SHA: commit.String(), Environment: environment})
	if err != nil {
		return 0, gitHubError(err)
	}
	for _, d := range list {
		if d.GetDescription() == description {
			return d.GetID(), nil
		}
	}
	d, _, err := g.client.Repositories.CreateDeployment(ctx, g.owner, g.name, &github.DeploymentRequest{
		Ref:              github.String(commit.String()),
		Environment:      github.String(environment),
		Description:      github.String(description),
		AutoMerge:        github.Bool(false), // which is on else, and would merge the default branch
		RequiredContexts: &[]string{},
	})
	return d.GetID(), gitHubError(err)
}

// Deployed implements deployer.
func (g *gitHub) Deployed(ctx context.Context, id int64, environment string, state DeploymentState,
	description, url, log string) error {
	s := &github.DeploymentStatusRequest{
		State:       github.String(string(state)),
		Environment: github.String(environment),
		Description: github.String(description),
	}
	if url != "" {
		s.EnvironmentURL = github.String(url)
	}
	if log != "" {
		s.LogURL = github.String(log)
	}
	_, _, err := g.client.Repositories.CreateDeploymentStatus(ctx, g.owner, g.name, id, s)
	return gitHubError(err)
}

// RunCommit implements protector.
func (g *gitHub) RunCommit(ctx context.Context, run int64) (repo.Hash, error) {
	r, _, err := g.client.Actions.GetWorkflowRunByID(ctx, g.owner, g.name, run)
	if err != nil {
		return repo.Zero, gitHubError(err)
	}
	return hashOf(r.GetHeadSHA())
}

// Protect implements protector. The library has no call for it.
func (g *gitHub) Protect(ctx context.Context, run int64, environment string, approve bool, why string) error {
	state := "rejected"
	if approve {
		state = "approved"
	}
	r, err := g.client.NewRequest(http.MethodPost,
		fmt.Sprintf("repos/%s/%s/actions/runs/%d/deployment_protection_rule", g.owner, g.name, run),
		map[string]string{"environment_name": environment, "state": state, "comment": cut(why, 1000)})
	if err != nil {
		return err
	}
	_, err = g.client.Do(ctx, r, nil)
	var failed *github.ErrorResponse
	if errors.As(err, &failed) && failed.Response != nil && gone(failed.Response.StatusCode) {
		return ErrNotFound
	}
	return err
}
