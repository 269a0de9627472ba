package forges

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// known has somebody have an account.
func (g *Gitea) known(login string) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.users[strings.ToLower(login)] {
		return nil
	}
	err := g.as("owner", "POST", "admin/users", object{
		"username":             login,
		"email":                login + "@example.com",
		"password":             giteaPassword,
		"must_change_password": false,
	}, nil)
	g.users[strings.ToLower(login)] = err == nil
	return err
}

func (g *Gitea) permit(login, level string) error {
	if err := g.known(login); err != nil {
		return err
	}
	g.mu.Lock()
	g.given[login] = true
	g.mu.Unlock()
	if level == "" {
		return g.as("owner", "DELETE", "repos/"+Name+"/collaborators/"+login, nil, nil)
	}
	return g.as("owner", "PUT", "repos/"+Name+"/collaborators/"+login, object{"permission": level}, nil)
}

// Permit implements People.
func (g *Gitea) Permit(login, level string) error { return g.permit(login, level) }

type giteaPull struct {
	Number int    `json:"number"`
	Title  string `json:"title"`
	Body   string `json:"body"`
	State  string `json:"state"`
	Merged bool   `json:"merged"`
	User   struct {
		Login string `json:"login"`
	} `json:"user"`
	Head, Base struct {
		Ref  string `json:"ref"`
		SHA  string `json:"sha"`
		Repo struct {
			Name string `json:"full_name"`
		} `json:"repo"`
	}
}

func (p giteaPull) request() Request {
	r := Request{
		Number: p.Number,
		Title:  p.Title,
		Body:   p.Body,
		State:  p.State,
		Author: p.User.Login,
		Branch: p.Head.Ref,
		Target: p.Base.Ref,
		Fork:   p.Head.Repo.Name != Name,
	}
	if p.Merged {
		r.State = "merged"
	}
	return r
}

func pullPath(number int) string { return fmt.Sprintf("repos/%s/pulls/%d", Name, number) }

// Request implements People.
func (g *Gitea) Request(number int) (Request, error) {
	var p giteaPull
	err := g.as("owner", "GET", pullPath(number), nil, &p)
	return p.request(), err
}

// Propose implements People. A fork is the author's own repository; who has a branch in
// this one may write to it, if nothing else was said.
func (g *Gitea) Propose(author, branch string, fork bool) (*Request, error) {
	if err := g.known(author); err != nil {
		return nil, err
	}
	g.mu.Lock()
	given := g.given[author]
	g.mu.Unlock()
	if !fork && !given {
		if err := g.permit(author, "write"); err != nil {
			return nil, err
		}
	}
	head, at := branch, "refs/heads/"+branch
	if fork {
		head, at = author+":"+branch, "refs/forks/"+branch
		var of struct{ Name string }
		if g.as(author, "GET", "repos/"+author+"/name", nil, &of) != nil {
			if err := g.as(author, "POST", "repos/"+Name+"/forks", object{}, nil); err != nil {
				return nil, err
			}
		}
		theirs := strings.Replace(g.Push, "owner:", author+":", 1)
		theirs = strings.Replace(theirs, Name, author+"/name", 1)
		if _, err := git("-C", g.Dir, "push", "-q", "-f", theirs, at+":refs/heads/"+branch); err != nil {
			return nil, err
		}
	}
	commit, err := git("-C", g.Dir, "rev-parse", "--verify", at)
	if err != nil {
		return nil, err
	}
	var list []giteaPull
	// There is no list before it has seen what was pushed first.
	if err := g.eventually(func() error {
		return g.as("owner", "GET", "repos/"+Name+"/pulls?state=open&limit=50", nil, &list)
	}); err != nil {
		return nil, err
	}
	i := slices.IndexFunc(
		list,
		func(p giteaPull) bool { return p.Head.Ref == branch && (p.Head.Repo.Name != Name) == fork },
	)
	var p giteaPull
	if i >= 0 {
		p = list[i]
	} else if err := g.as(author, "POST", "repos/"+Name+"/pulls",
		object{"head": head, "base": "main", "title": "Take " + branch}, &p); err != nil {
		return nil, err
	}
	// Gitea takes a little to see what has been pushed to it.
	err = g.eventually(func() error {
		if err := g.as("owner", "GET", pullPath(p.Number), nil, &p); err != nil {
			return err
		}
		if p.Head.SHA != commit {
			return fmt.Errorf("request %d is at %s, not at %s", p.Number, p.Head.SHA, commit)
		}
		return nil
	})
	r := p.request()
	return &r, err
}

// Merge implements People, by somebody who is given the right to.
func (g *Gitea) Merge(author string, number int, squash bool) error {
	if err := g.permit(author, "write"); err != nil {
		return err
	}
	how := "merge"
	if squash {
		how = "squash"
	}
	// It is not done before Gitea has found out whether it can be.
	return g.eventually(func() error {
		return g.as(author, "POST", pullPath(number)+"/merge", object{"Do": how}, nil)
	})
}

// CloseRequest implements People.
func (g *Gitea) CloseRequest(number int) error {
	return g.as("owner", "PATCH", pullPath(number), object{"state": "closed"}, nil)
}

// Say implements People.
func (g *Gitea) Say(author string, request int, body string) (int64, error) {
	var c struct {
		ID int64 `json:"id"`
	}
	err := errors.Join(
		g.known(author),
		g.as(author, "POST", fmt.Sprintf("repos/%s/issues/%d/comments", Name, request),
			object{"body": body}, &c),
	)
	return c.ID, err
}

// Statuses implements People.
func (g *Gitea) Statuses(commit string) (list []Status) {
	type status struct {
		ID          int64  `json:"id"`
		Context     string `json:"context"`
		State       string `json:"status"`
		Description string `json:"description"`
		URL         string `json:"target_url"`
	}
	var all []status
	for page := 1; commit != ""; page++ {
		var some []status
		if g.as("owner", "GET", fmt.Sprintf("repos/%s/commits/%s/statuses?limit=50&page=%d", Name, commit, page), nil,
			&some) != nil || len(some) == 0 {
			break
		}
		all = append(all, some...)
	}
	slices.SortFunc(all, func(a, b status) int { return cmp.Compare(a.ID, b.ID) })
	for _, s := range all {
		list = append(
			list,
			Status{Commit: commit, Context: s.Context, State: s.State, Description: s.Description, URL: s.URL},
		)
	}
	return list
}

// Comments implements People.
func (g *Gitea) Comments(request int) (list []Comment) {
	var all []struct {
		ID      int64     `json:"id"`
		Body    string    `json:"body"`
		Created time.Time `json:"created_at"`
		Updated time.Time `json:"updated_at"`
		User    struct {
			Login string `json:"login"`
		} `json:"user"`
	}
	if g.as("owner", "GET", fmt.Sprintf("repos/%s/issues/%d/comments", Name, request), nil, &all) != nil {
		return nil
	}
	for _, c := range all {
		list = append(list, Comment{
			ID: c.ID, Request: request, Author: c.User.Login, Body: c.Body, Created: c.Created, Updated: c.Updated,
		})
	}
	return list
}
