package forge

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/headgate-cd/headgate/gitd/repo"
)

// gitea is Gitea or Forgejo.
type gitea struct {
	rest
	owner, name string
}

type (
	giteaRequest struct {
		Number int         `json:"number"`
		Title  string      `json:"title"`
		State  string      `json:"state"`
		Merged bool        `json:"merged"`
		Merger *giteaUser  `json:"merged_by"`
		User   giteaUser   `json:"user"`
		Head   giteaBranch `json:"head"`
		Base   giteaBranch `json:"base"`
	}
	giteaUser struct {
		Login string `json:"login"`
		ID    int64  `json:"id"`
	}
	giteaBranch struct {
		Ref  string `json:"ref"`
		SHA  string `json:"sha"`
		Repo *struct {
			ID int64 `json:"id"`
		} `json:"repo"`
	}
	giteaComment struct {
		ID      int64     `json:"id"`
		User    giteaUser `json:"user"`
		Body    string    `json:"body"`
		Created time.Time `json:"created_at"`
		Updated time.Time `json:"updated_at"`
	}
)

func (g *gitea) at(format string, args ...any) string {
	return "repos/" + url.PathEscape(g.owner) + "/" + url.PathEscape(g.name) + "/" + fmt.Sprintf(format, args...)
}

func (p giteaRequest) request() (Request, error) {
	head, err := hashOf(p.Head.SHA)
	r := Request{
		Number: p.Number,
		Title:  p.Title,
		State:  RequestState(p.State),
		Head:   head,
		Branch: p.Head.Ref,
		Target: p.Base.Ref,
		Author: Person(p.User),
		Fork:   p.Head.Repo == nil || p.Base.Repo == nil || p.Head.Repo.ID != p.Base.Repo.ID,
	}
	if p.Merged {
		r.State = Merged
	}
	if p.Merger != nil {
		r.Merger = Person(*p.Merger)
	}
	return r, err
}

// Request implements API.
func (g *gitea) Request(ctx context.Context, number int) (Request, error) {
	var p giteaRequest
	if err := g.do(ctx, http.MethodGet, g.at("pulls/%d", number), nil, nil, &p); err != nil {
		return Request{}, err
	}
	return p.request()
}

// Requests implements API.
func (g *gitea) Requests(ctx context.Context) (list []Request, err error) {
	query := url.Values{"state": {"open"}, "sort": {"oldest"}}
	err = pages(ctx, &g.rest, g.at("pulls"), query, maxRequests, func(p giteaRequest) error {
		r, err := p.request()
		list = append(list, r)
		return err
	})
	if errors.Is(err, ErrNotFound) {
		return nil, g.noRequests(ctx)
	}
	return list, err
}

// noRequests says why Gitea has no list of requests, nil if that is because nothing was
// ever pushed.
func (g *gitea) noRequests(ctx context.Context) error {
	var is struct {
		Empty    bool `json:"empty"`
		Requests bool `json:"has_pull_requests"`
	}
	err := g.do(ctx, http.MethodGet, strings.TrimSuffix(g.at(""), "/"), nil, nil, &is)
	switch {
	case err != nil:
		return err
	case !is.Requests && !is.Empty:
		return fmt.Errorf("%s/%s has no pull requests: switch them on in its settings at the forge", g.owner, g.name)
	case !is.Empty:
		return ErrNotFound
	}
	return nil
}

// Newest implements API. Gitea lists the newest first, and does not filter by branch.
func (g *gitea) Newest(ctx context.Context, branch, target string) (Request, error) {
	var page []giteaRequest
	query := url.Values{"state": {"all"}, "limit": {fmt.Sprint(pageSize)}}
	if err := g.do(ctx, http.MethodGet, g.at("pulls"), query, nil, &page); err != nil {
		return Request{}, err
	}
	var list []Request
	for _, p := range page {
		if r, err := p.request(); err == nil { // the head of an old one may be gone
			list = append(list, r)
		}
	}
	return newest(list, branch, target)
}

// Close implements API. What was pushed is a merge to Gitea when it is told so, and
// the repository's settings let it be told.
func (g *gitea) Close(ctx context.Context, number int, landed repo.Hash) error {
	r, err := g.Request(ctx, number)
	if err != nil || r.State != Open {
		return err
	}
	if landed != repo.Zero {
		err = g.do(ctx, http.MethodPost, g.at("pulls/%d/merge", number), nil,
			map[string]string{"Do": "manually-merged", "MergeCommitID": landed.String()}, nil)
		if !statusIs(err, http.StatusMethodNotAllowed, http.StatusConflict, http.StatusUnprocessableEntity,
			http.StatusForbidden) {
			return err
		}
	}
	return g.do(ctx, http.MethodPatch, g.at("pulls/%d", number), nil, map[string]string{"state": string(Closed)}, nil)
}

// Open implements API.
func (g *gitea) Open(ctx context.Context, branch, target, title, text string) (int, error) {
	var p giteaRequest
	err := g.do(ctx, http.MethodPost, g.at("pulls"), nil,
		map[string]string{"head": branch, "base": target, "title": title, "body": cut(text, maxText)}, &p)
	return p.Number, err
}

// Edit implements API.
func (g *gitea) Edit(ctx context.Context, number int, title, text string) error {
	return g.do(ctx, http.MethodPatch, g.at("pulls/%d", number), nil,
		map[string]string{"title": title, "body": cut(text, maxText)}, nil)
}

// Publish implements API.
func (g *gitea) Publish(ctx context.Context, commit repo.Hash, c Check) error {
	return g.do(ctx, http.MethodPost, g.at("statuses/%s", commit), nil, map[string]string{
		"context":     checkName,
		"state":       string(c.State),
		"description": cut(c.Text, 140),
		"target_url":  c.URL,
	}, nil)
}

// Comments implements API.
func (g *gitea) Comments(ctx context.Context, request int, since time.Time) (list []Comment, err error) {
	query := url.Values{}
	if !since.IsZero() {
		query.Set("since", since.UTC().Format(time.RFC3339))
	}
	// This list has no pages.
	var all []giteaComment
	if err := g.do(ctx, http.MethodGet, g.at("issues/%d/comments", request), query, nil, &all); err != nil {
		return nil, err
	}
	for _, c := range all[:min(len(all), maxComments)] {
		list = append(list, Comment{
			ID:      c.ID,
			Author:  Person(c.User),
			Text:    cut(c.Body, maxText),
			Created: c.Created,
			Edited:  !c.Updated.Equal(c.Created),
		})
	}
	return list, nil
}

// Write implements API.
func (g *gitea) Write(ctx context.Context, request int, id int64, text string) (int64, error) {
	method, path := http.MethodPost, g.at("issues/%d/comments", request)
	if id != 0 {
		method, path = http.MethodPatch, g.at("issues/comments/%d", id)
	}
	var c giteaComment
	err := g.do(ctx, method, path, nil, map[string]string{"body": cut(text, maxText)}, &c)
	return c.ID, err
}

type giteaHook struct {
	ID     int64             `json:"id"`
	Config map[string]string `json:"config"`
	Active bool              `json:"active"`
}

// hook finds the webhook for an address, without a number if there is none.
func (g *gitea) hook(ctx context.Context, address string) (found giteaHook, err error) {
	err = pages(ctx, &g.rest, g.at("hooks"), nil, maxHooks, func(h giteaHook) error {
		if h.Config["url"] == address {
			found = h
		}
		return nil
	})
	return found, err
}

// SetHook implements API.
func (g *gitea) SetHook(ctx context.Context, address, secret string) error {
	h, err := g.hook(ctx, address)
	if err != nil {
		return err
	}
	method, path := http.MethodPost, g.at("hooks")
	if h.ID != 0 {
		method, path = http.MethodPatch, g.at("hooks/%d", h.ID)
	}
	return g.do(ctx, method, path, nil, map[string]any{
		"type":   "gitea",
		"active": true,
		"events": []string{"push", "create", "delete", "pull_request", "pull_request_sync", "issue_comment",
			"pull_request_comment"},
		"config": map[string]string{"url": address, "content_type": "json", "secret": secret},
	}, nil)
}

// Hook implements API.
func (g *gitea) Hook(ctx context.Context, address string) (HookState, error) {
	h, err := g.hook(ctx, address)
	if err != nil || h.ID == 0 {
		return HookNone, err
	}
	return hookState(h.Active), nil
}

// PingHook implements API.
func (g *gitea) PingHook(ctx context.Context, address string) error {
	h, err := g.hook(ctx, address)
	if err != nil {
		return err
	}
	if h.ID == 0 {
		return ErrNotFound
	}
	return g.do(ctx, http.MethodPost, g.at("hooks/%d/tests", h.ID), nil, nil, nil)
}

// MayWrite implements API.
func (g *gitea) MayWrite(ctx context.Context, who Person) (bool, error) {
	var level struct {
		Permission string `json:"permission"`
	}
	err := g.do(ctx, http.MethodGet, g.at("collaborators/%s/permission", url.PathEscape(who.Login)), nil, nil, &level)
	if errors.Is(err, ErrNotFound) {
		return false, nil // nobody of whom the repository knows
	}
	return level.Permission == "write" || level.Permission == "admin" || level.Permission == "owner", err
}
