package forge

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/headgate-cd/headgate/gitd/repo"
)

// gitLab is GitLab, there and on premises.
type gitLab struct {
	rest
	project string // its path, escaped as one part
}

type (
	gitLabRequest struct {
		IID     int        `json:"iid"`
		Title   string     `json:"title"`
		State   string     `json:"state"`
		SHA     string     `json:"sha"`
		Branch  string     `json:"source_branch"`
		Target  string     `json:"target_branch"`
		Author  gitLabUser `json:"author"`
		Merger  gitLabUser `json:"merge_user"`
		Former  gitLabUser `json:"merged_by"` // the same, before GitLab 14.7
		Source  int64      `json:"source_project_id"`
		Project int64      `json:"target_project_id"`
	}
	gitLabUser struct {
		Username string `json:"username"`
		ID       int64  `json:"id"`
	}
	gitLabNote struct {
		ID      int64      `json:"id"`
		Author  gitLabUser `json:"author"`
		Body    string     `json:"body"`
		System  bool       `json:"system"`
		Created time.Time  `json:"created_at"`
		Updated time.Time  `json:"updated_at"`
	}
)

// developer is the least access level that may push.
const developer = 30

func (g *gitLab) at(format string, args ...any) string {
	return "projects/" + g.project + "/" + fmt.Sprintf(format, args...)
}

func (m gitLabRequest) request() (Request, error) {
	head, err := hashOf(m.SHA)
	r := Request{
		Number: m.IID,
		Title:  m.Title,
		State:  Closed, // locked too: it is being merged
		Head:   head,
		Branch: m.Branch,
		Target: m.Target,
		Author: Person{Login: m.Author.Username, ID: m.Author.ID},
		Merger: Person{Login: cmp.Or(m.Merger.Username, m.Former.Username), ID: cmp.Or(m.Merger.ID, m.Former.ID)},
		Fork:   m.Source == 0 || m.Source != m.Project,
	}
	switch m.State {
	case "opened":
		r.State = Open
	case "merged":
		r.State = Merged
	}
	return r, err
}

// Request implements API.
func (g *gitLab) Request(ctx context.Context, number int) (Request, error) {
	var m gitLabRequest
	if err := g.do(ctx, http.MethodGet, g.at("merge_requests/%d", number), nil, nil, &m); err != nil {
		return Request{}, err
	}
	return m.request()
}

// Requests implements API.
func (g *gitLab) Requests(ctx context.Context) (list []Request, err error) {
	query := url.Values{"state": {"opened"}, "order_by": {"created_at"}, "sort": {"asc"}}
	err = pages(ctx, &g.rest, g.at("merge_requests"), query, maxRequests, func(m gitLabRequest) error {
		r, err := m.request()
		list = append(list, r)
		return err
	})
	return list, err
}

// Newest implements API.
func (g *gitLab) Newest(ctx context.Context, branch, target string) (Request, error) {
	var page []gitLabRequest
	query := url.Values{"source_branch": {branch}, "target_branch": {target}, "state": {"all"}, "order_by": {"created_at"},
		"sort": {"desc"}}
	if err := g.do(ctx, http.MethodGet, g.at("merge_requests"), query, nil, &page); err != nil {
		return Request{}, err
	}
	var list []Request
	for _, m := range page {
		r, err := m.request()
		if err != nil {
			return Request{}, err
		}
		list = append(list, r)
	}
	return newest(list, branch, target)
}

// Close implements API. GitLab sees by itself that a head has landed, a little
// after the push.
func (g *gitLab) Close(ctx context.Context, number int, _ repo.Hash) error {
	r, err := g.Request(ctx, number)
	if err != nil || r.State != Open {
		return err
	}
	return g.do(ctx, http.MethodPut, g.at("merge_requests/%d", number), nil,
		map[string]string{"state_event": "close"}, nil)
}

// Open implements API.
func (g *gitLab) Open(ctx context.Context, branch, target, title, text string) (int, error) {
	var m gitLabRequest
	err := g.do(ctx, http.MethodPost, g.at("merge_requests"), nil,
		map[string]string{"source_branch": branch, "target_branch": target, "title": title,
			"description": cut(text, maxText)}, &m)
	return m.IID, err
}

// Edit implements API.
func (g *gitLab) Edit(ctx context.Context, number int, title, text string) error {
	return g.do(ctx, http.MethodPut, g.at("merge_requests/%d", number), nil,
		map[string]string{"title": title, "description": cut(text, maxText)}, nil)
}

// Publish implements API.
func (g *gitLab) Publish(ctx context.Context, commit repo.Hash, c Check) error {
	state := string(c.State)
	if c.State == CheckFailure {
		state = "failed"
	}
	say := func(state string) error {
		return g.do(ctx, http.MethodPost, g.at("statuses/%s", commit), nil, map[string]string{
			"name":        checkName,
			"state":       state,
			"description": cut(c.Text, 140),
			"target_url":  c.URL,
		}, nil)
	}
	err := say(state)
	if c.State != CheckPending && refusesTransition(err) {
		// It has that state, and takes other words for it only after another one.
		if err = say("running"); err == nil || refusesTransition(err) {
			err = say(state)
		}
	}
	if refusesTransition(err) {
		return nil // it says so already
	}
	return err
}

// refusesTransition reports whether GitLab did not take a state because it has it.
func refusesTransition(err error) bool {
	return statusIs(err, http.StatusBadRequest) && strings.Contains(err.Error(), "Cannot transition status")
}

// Comments implements API. GitLab cannot list since a time: the newest pages are
// read until one is older.
func (g *gitLab) Comments(ctx context.Context, request int, since time.Time) (list []Comment, err error) {
	older := errors.New("older")
	query := url.Values{"order_by": {"updated_at"}, "sort": {"desc"}}
	err = pages(ctx, &g.rest, g.at("merge_requests/%d/notes", request), query, maxComments, func(n gitLabNote) error {
		if n.Updated.Before(since) {
			return older
		}
		if !n.System {
			list = append(list, Comment{
				ID:      n.ID,
				Author:  Person{Login: n.Author.Username, ID: n.Author.ID},
				Text:    cut(n.Body, maxText),
				Created: n.Created,
				Edited:  !n.Updated.Equal(n.Created),
			})
		}
		return nil
	})
	if errors.Is(err, older) {
		err = nil
	}
	slices.SortFunc(list, func(a, b Comment) int { return int(min(max(a.ID-b.ID, -1), 1)) })
	return list, err
}

// Write implements API.
func (g *gitLab) Write(ctx context.Context, request int, id int64, text string) (int64, error) {
	method, path := http.MethodPost, g.at("merge_requests/%d/notes", request)
	if id != 0 {
		method, path = http.MethodPut, g.at("merge_requests/%d/notes/%d", request, id)
	}
	var n gitLabNote
	err := g.do(ctx, method, path, nil, map[string]string{"body": cut(text, maxText)}, &n)
	return n.ID, err
}

type gitLabHook struct {
	ID    int64  `json:"id"`
	URL   string `json:"url"`
	Alert string `json:"alert_status"` // older GitLab says nothing
}

// hook finds the webhook for an address, without a number if there is none.
func (g *gitLab) hook(ctx context.Context, address string) (found gitLabHook, err error) {
	err = pages(ctx, &g.rest, g.at("hooks"), nil, maxHooks, func(h gitLabHook) error {
		if h.URL == address {
			found = h
		}
		return nil
	})
	return found, err
}

// SetHook implements API.
func (g *gitLab) SetHook(ctx context.Context, address, secret string) error {
	h, err := g.hook(ctx, address)
	if err != nil {
		return err
	}
	method, path := http.MethodPost, g.at("hooks")
	if h.ID != 0 {
		method, path = http.MethodPut, g.at("hooks/%d", h.ID)
	}
	return g.do(ctx, method, path, nil, map[string]any{
		"url":                     address,
		"token":                   secret,
		"push_events":             true,
		"tag_push_events":         true,
		"merge_requests_events":   true,
		"note_events":             true,
		"enable_ssl_verification": true,
	}, nil)
}

// Hook implements API. GitLab switches one off that fails often, for a while or for good.
func (g *gitLab) Hook(ctx context.Context, address string) (HookState, error) {
	h, err := g.hook(ctx, address)
	if err != nil || h.ID == 0 {
		return HookNone, err
	}
	return hookState(h.Alert == "" || h.Alert == "executable"), nil
}

// PingHook implements API.
func (g *gitLab) PingHook(ctx context.Context, address string) error {
	h, err := g.hook(ctx, address)
	if err != nil {
		return err
	}
	if h.ID == 0 {
		return ErrNotFound
	}
	return g.do(ctx, http.MethodPost, g.at("hooks/%d/test/push_events", h.ID), nil, nil, nil)
}

// MayWrite implements API.
func (g *gitLab) MayWrite(ctx context.Context, who Person) (bool, error) {
	var member struct {
		Level int    `json:"access_level"`
		State string `json:"state"`
	}
	err := g.do(ctx, http.MethodGet, g.at("members/all/%d", who.ID), nil, nil, &member)
	if errors.Is(err, ErrNotFound) {
		return false, nil // nobody of whom the project knows
	}
	return member.Level >= developer && (member.State == "" || member.State == "active"), err
}

// Deploy implements deployer.
func (g *gitLab) Deploy(ctx context.Context, environment string, commit repo.Hash, _ string) (int64, error) {
	var made struct {
		ID int64 `json:"id"`
	}
	err := g.do(ctx, http.MethodPost, g.at("deployments"), nil, map[string]any{
		"environment": environment,
		"sha":         commit.String(),
		"ref":         commit.String(),
		"tag":         false,
		"status":      "running",
	}, &made)
	return made.ID, err
}

// Deployed implements deployer. The address is the environment's.
func (g *gitLab) Deployed(ctx context.Context, id int64, environment string, state DeploymentState,
	_, address, _ string) error {
	status := map[DeploymentState]string{DeploymentRuns: "running", DeploymentSuccess: "success",
		DeploymentFailure: "failed"}[state]
	err := g.do(ctx, http.MethodPut, g.at("deployments/%d", id), nil, map[string]string{"status": status}, nil)
	if refusesTransition(err) {
		err = nil // it says so already
	}
	if err != nil || address == "" {
		return err
	}
	var found []struct {
		ID  int64  `json:"id"`
		URL string `json:"external_url"`
	}
	if err := g.do(ctx, http.MethodGet, g.at("environments"), url.Values{"name": {environment}}, nil, &found); err != nil {
		return err
	}
	if len(found) == 0 || found[0].URL == address {
		return nil
	}
	return g.do(ctx, http.MethodPut, g.at("environments/%d", found[0].ID), nil,
		map[string]string{"external_url": address}, nil)
}
