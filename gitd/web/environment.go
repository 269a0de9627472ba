package web

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/headgate-cd/headgate/gitd/show"
)

// environmentsFacts is the JSON of the environments page.
type environmentsFacts struct {
	Environments []show.Environment `json:"environments"`
}

type environmentsView struct {
	Repo    *show.Repository
	Say     string
	Stages  []stage
	Columns []string // the environments, and what one becomes when its promotion is approved
	Rows    []differing
	Equal   int // rows that are the same everywhere
	Missing []show.Release
	From    string // the environment that has them
	To      string // the one that has not
}

// differing is one declared or actual value, environment by environment.
type differing struct {
	Name  string
	Cells []cell
}

type cell struct {
	Text    string
	Code    string
	Differs bool
	Will    bool // what it becomes
	Stays   bool // it does not change
	Open    bool // what it becomes shows only once it runs
}

func environmentsPage(q *request) (*page, error) {
	r, err := q.repository()
	if err != nil {
		return nil, err
	}
	view := &environmentsView{Repo: r, Stages: stagesOf(r, q.now)}
	var said []string
	for _, e := range r.Environments {
		if e.Behind > 0 {
			from := e.After
			if from == "" {
				from = r.Branch
			}
			said = append(said, fmt.Sprintf("%s is %s behind %s", e.Name, show.Plural(e.Behind, "release"), from))
		}
	}
	switch {
	case len(r.Environments) == 0:
		view.Say = "No environments: headgate.yaml on " + r.Branch + " declares none."
	case len(said) == 0:
		view.Say = "Every environment is level with the one before it."
	default:
		view.Say = names(said) + "." // the names of environments are written as they are
	}
	view.compare(r)
	if n := len(r.Environments); n > 0 {
		last := r.Environments[n-1]
		newest, from := r.Release, r.Branch
		for _, e := range r.Environments {
			if e.Name == last.After {
				newest, from = e.Release, e.Name
			}
		}
		if newest > last.Release {
			missing := show.Part{Before: newest + 1, After: last.Release}
			found, err := q.Backend.Releases(q.r.Context(), q.actor, r.Name, show.ReleaseFilter{Part: missing})
			if err != nil {
				return nil, err
			}
			view.Missing, view.From, view.To = found.Releases, from, last.Name
		}
	}
	p := q.repoPage(r, "env", "Environments, "+r.Name, crumb{Text: "environments"})
	p.JSON = environmentsFacts{orEmpty(r.Environments)}
	p.Template, p.Data, p.Parts = "environments", view, []string{"envs-head", "repo-stages", "envs-rows", "asof"}
	p.Say = view.Say
	p.Git = []command{{"SSH", q.ssh("env list " + r.Name)}}
	if n := len(r.Environments); n > 1 && r.Environments[n-1].Declared != "" && r.Environments[n-2].Declared != "" {
		p.Git = append([]command{{"Git", fmt.Sprintf("git fetch origin && git diff origin/env/%s origin/env/%s",
			r.Environments[n-1].Name, r.Environments[n-2].Name)}}, p.Git...)
	}
	return p, nil
}

// compare fills in the rows in which the environments differ.
func (w *environmentsView) compare(r *show.Repository) {
	if len(r.Environments) < 2 {
		return
	}
	var after *show.Environment
	for i := range r.Environments {
		w.Columns = append(w.Columns, r.Environments[i].Name)
		if r.Environments[i].Promotion != nil {
			after = &r.Environments[i]
		}
	}
	if after != nil {
		w.Columns = append(w.Columns, after.Name+" after "+afterwards(after.Promotion))
	}
	add := func(name string, value func(show.Environment) cell, becomes func(*show.Promotion) cell) {
		row := differing{Name: name}
		differ := false
		for i, e := range r.Environments {
			c := value(e)
			if i > 0 && (c.Text != row.Cells[0].Text || c.Code != row.Cells[0].Code) {
				c.Differs, differ = true, true
			}
			row.Cells = append(row.Cells, c)
		}
		if after != nil {
			row.Cells = append(row.Cells, becomes(after.Promotion))
		}
		if differ {
			w.Rows = append(w.Rows, row)
		} else {
			w.Equal++
		}
	}
	stays := func(*show.Promotion) cell { return cell{Stays: true} }
	shows := func(*show.Promotion) cell { return cell{Open: true} }
	add("release", func(e show.Environment) cell {
		if e.Release == 0 {
			return cell{Text: "none"}
		}
		return cell{Text: fmt.Sprint(e.Release), Code: show.Short(e.Commit)}
	}, func(p *show.Promotion) cell {
		if p.Removal {
			return cell{Text: "none", Will: true}
		}
		return cell{Text: fmt.Sprint(p.To), Code: show.Short(p.Source), Will: true}
	})
	add("state", func(e show.Environment) cell { return cell{Text: string(e.State)} }, shows)
	add("target", func(e show.Environment) cell { return cell{Text: e.Target} }, stays)
	add("hold", func(e show.Environment) cell {
		if e.Held == nil {
			return cell{Text: "none"}
		}
		return cell{Text: "by " + e.Held.By}
	}, func(*show.Promotion) cell { return cell{Text: "none", Will: true} })
	var services []string
	seen := map[string]bool{}
	for _, e := range r.Environments {
		for _, s := range e.Services {
			if !seen[s.Name] {
				seen[s.Name] = true
				services = append(services, s.Name)
			}
		}
	}
	find := func(e show.Environment, name string) *show.Service {
		for i := range e.Services {
			if e.Services[i].Name == name {
				return &e.Services[i]
			}
		}
		return nil
	}
	for _, name := range services {
		add(name+": instances", func(e show.Environment) cell {
			if s := find(e, name); s != nil {
				return cell{Text: fmt.Sprint(len(s.Instances))}
			}
			return cell{Text: "no such service"}
		}, shows)
		add(name+": address", func(e show.Environment) cell {
			if s := find(e, name); s != nil && s.URL != "" {
				c := cell{Code: s.URL}
				if s.Local {
					c.Text = "on the server's machine only"
				}
				return c
			}
			return cell{Text: "none"}
		}, shows)
	}
}

func afterwards(p *show.Promotion) string {
	if p.Removal {
		return "its removal"
	}
	return fmt.Sprint(p.To)
}

// environmentView is declared and actual side by side, and how it came to be.
type environmentView struct {
	show.Environment
	Stages    []stage
	Mark      mark
	Promote   string
	Waits     string // what the link to the promotion says
	Colour    string
	Healthy   int
	Instances int
	Releases  []string // what the instances run, if it is not the declared release alone
	Deciding  *show.Deployed
	Done      string // what it was
	History   []deployedRow
	Whole     string // where all of the history is, if not here
	RollTo    int    // the release that "Roll back" on top means, 0: none
	Ask       *askRollback
	Logs      string              // the page of what its instances print; "" while there is nothing that could
	Last      []show.InstanceLine // what those that fail printed last
	Steer     steering            // what can be said to its deployment
	Happened  bool                // something is known of what happened to services
}

// historyShown is how much of its history an environment's page shows.
const historyShown = 20

// lastLines is how much of what a failing service printed its page shows.
const lastLines = 10

type deployedRow struct {
	show.Deployed
	Href    string
	Mark    mark
	Current bool
	Ask     string // the address that asks whether to roll back to it
}

// askRollback is the form that asks before it rolls back: the release, and the
// environment's name to be typed.
type askRollback struct {
	Release int
	Problem string
	Reason  string
	Back    string
}

func environmentPage(q *request) (*page, error) {
	p, view, err := q.environment()
	if err != nil {
		return nil, err
	}
	if n, err := strconv.Atoi(q.r.URL.Query().Get("rollback")); err == nil && n > 0 {
		no := &show.Error{Kind: show.Denied, What: fmt.Sprintf("release %d cannot be rolled back to in %s", n, view.Name),
			Hint: "choose one that the history offers"}
		if !view.MayRollback {
			no.Kind, no.Hint = show.Forbidden, "ask somebody who may roll "+view.Name+" back"
		}
		for _, d := range view.History {
			if d.Release == n && d.Ask != "" {
				view.Ask = &askRollback{Release: n, Back: envHref(view.Repository, view.Name)}
			} else if d.Release == n && d.WhyNot != "" {
				no.Where = []string{show.Short(d.Commit) + ": " + d.WhyNot}
			}
		}
		if view.Ask == nil {
			return nil, &nearby{err: no, nearest: []link{{Text: view.Name, Href: envHref(view.Repository, view.Name)}}}
		}
	}
	return p, nil
}

// environment makes the page of the address's environment.
func (q *request) environment() (*page, *environmentView, error) {
	r, err := q.repository()
	if err != nil {
		return nil, nil, err
	}
	name := q.arg("env")
	e, err := q.Backend.Environment(q.r.Context(), q.actor, r.Name, name)
	if err != nil {
		return nil, nil, noEnvironment(r, name, err)
	}
	view := &environmentView{Environment: e, Mark: markOf(e.State), Promote: promoteHref(r.Name, e.Name)}
	view.Colour = view.Mark.Colour
	if e.Promotion != nil {
		view.Waits = promotionLabel(e.Promotion) + " waits"
	}
	runs := map[int]int{}
	for _, s := range e.Services {
		view.Happened = view.Happened || len(s.Events) > 0
		for _, i := range s.Instances {
			if i.Drained {
				continue
			}
			view.Instances++
			runs[i.Release]++
			if i.State == show.Healthy {
				view.Healthy++
			}
		}
	}
	for rel, n := range runs {
		view.Releases = append(view.Releases, fmt.Sprintf("%d on %d of %d", rel, n, view.Instances))
	}
	slices.Sort(view.Releases)
	slices.Reverse(view.Releases) // newest first
	if e.MayRollback {
		view.RollTo = e.RollbackTo
	}
	for i := range e.History {
		d := &e.History[i]
		row := deployedRowOf(&e, d)
		if row.Current {
			view.Deciding = d
		}
		if len(view.History) < historyShown {
			view.History = append(view.History, row)
		}
	}
	view.Done = done(view.Deciding)
	view.Steer = steeringOf(&e)
	if len(e.History) > historyShown {
		view.Whole = envHref(r.Name, e.Name) + "/history"
	}
	if e.Declared != "" {
		view.Logs = logsHref(r.Name, e.Name, "")
	}
	for _, service := range e.Failing() {
		for l, err := range q.Backend.InstanceLogs(q.r.Context(), q.actor, r.Name, e.Name,
			show.LogQuery{Service: service, Lines: lastLines}) {
			if err != nil {
				return nil, nil, err
			}
			view.Last = append(view.Last, l)
		}
	}
	p := q.repoPage(r, "env", fmt.Sprintf("%s, %s: %s", e.Name, r.Name, e.State), crumb{Text: e.Name})
	p.JSON = e
	p.Template, p.Data = "environment", view
	p.Parts = []string{
		"env-head", "env-sides", "env-instances", "env-times", "env-last", "env-events", "env-history",
	}
	p.Moving = e.State == show.Converging
	p.Say = fmt.Sprintf("%s: release %d, %s", e.Name, e.Release, e.State)
	if e.Declared != "" { // before that there is no such branch
		p.Git = []command{{"Git", "git fetch origin && git log origin/env/" + e.Name}}
	}
	p.Git = append(p.Git, command{"SSH", q.ssh("env show " + r.Name + " " + e.Name)},
		command{"Why", q.ssh("why " + r.Name + " " + e.Name)})
	if view.RollTo > 0 {
		p.Git = append(p.Git, command{"Undo", q.ssh(fmt.Sprintf("rollback %s %s %d", r.Name, e.Name, view.RollTo))})
	}
	return p, view, nil
}

// noEnvironment adds to err the environment whose name is nearest.
func noEnvironment(r *show.Repository, name string, err error) error {
	if !isNotFound(err) {
		return err
	}
	var all []string
	for _, e := range r.Environments {
		all = append(all, e.Name)
	}
	near := []link{}
	if n := nearest(name, all); n != "" {
		near = append(near, link{Text: n, Href: envHref(r.Name, n)})
	}
	return &nearby{err: err, nearest: append(near, link{Text: "environments of " + r.Name, Href: "/" + r.Name + "/env"})}
}

// environmentAct is what can be done on the environment page: a deployment is steered, or
// rolled back.
func environmentAct(q *request) error {
	repo, env, act := q.arg("repo"), q.arg("env"), q.form("act")
	host, reason := q.form("host"), strings.TrimSpace(q.form("reason"))
	ctx := q.r.Context()
	var d show.Done
	var err error
	switch act {
	case "":
		return rollback(q)
	case "pause":
		d, err = q.Backend.Pause(ctx, q.actor, repo, env, reason)
	case "continue":
		d, err = q.Backend.Continue(ctx, q.actor, repo, env)
	case "stop":
		d, err = q.Backend.StopDeployment(ctx, q.actor, repo, env, reason)
	case "retry":
		d, err = q.Backend.RetryDeployment(ctx, q.actor, repo, env, host)
	case "skip":
		d, err = q.Backend.SkipHost(ctx, q.actor, repo, env, host)
	default:
		err = &show.Error{Kind: show.Usage, What: "a deployment can be paused, continued, stopped or retried, and a host skipped",
			Hint: "send act=pause, continue, stop, retry or skip"}
	}
	if err != nil {
		return err
	}
	q.Log.Info("acted from the console", "act", act, "repo", repo, "env", env, "host", host, "user", q.actor.User)
	return q.answer(d, envHref(repo, env))
}

// steering is what can be said to the deployment of an environment now.
type steering struct {
	Pause, Continue, Stop, Retry bool
}

// Any reports whether there is something.
func (s steering) Any() bool { return s != steering{} }

func steeringOf(e *show.Environment) (s steering) {
	if !e.MayRollback || e.Declared == "" {
		return s
	}
	under := e.State == show.Converging
	s.Continue = e.Paused != nil
	s.Pause = under && !s.Continue && e.Stopped == nil
	s.Stop = under && e.Stepwise && e.Stopped == nil
	s.Retry = e.Stepwise && (e.Stopped != nil || e.State == show.Failed)
	return s
}

// CanSkip reports whether a host can be left out of the deployment.
func (v *environmentView) CanSkip(s show.Service) bool {
	return v.Stepwise && v.MayRollback && (v.State == show.Converging || v.State == show.Failed) &&
		!slices.Contains(v.Skipped, s.Name) && (s.State != show.Healthy || s.Release != v.Release)
}

// CanRetry reports whether a host can be deployed to again.
func (v *environmentView) CanRetry(s show.Service) bool {
	return v.Stepwise && v.MayRollback && (s.State == show.Failed || slices.Contains(v.Skipped, s.Name))
}

// rollback is the other act of the environment page. It wants the environment's name
// typed: undoing it takes another promotion.
func rollback(q *request) error {
	release, err := strconv.Atoi(q.form("release"))
	if err != nil || release < 1 {
		return &show.Error{Kind: show.Usage, What: "say which release to roll back to", Hint: "choose one from the history"}
	}
	repo, env := q.arg("repo"), q.arg("env")
	if q.form("confirm") != env {
		p, view, err := q.environment()
		if err != nil {
			return err
		}
		if q.wantsJSON() {
			return &show.Error{Kind: show.Usage, What: "confirm is not the name of the environment", Hint: "send confirm=" + env}
		}
		view.Ask = &askRollback{Release: release, Reason: cut(q.form("reason"), 2000), Back: envHref(repo, env),
			Problem: "This is not the environment's name. Type " + env + "; nothing was done."}
		return q.render(p, http.StatusUnprocessableEntity)
	}
	d, err := q.Backend.Rollback(q.r.Context(), q.actor, repo, env, release, strings.TrimSpace(q.form("reason")))
	if err != nil {
		return err
	}
	q.Log.Info("rolled back from the console", "repo", repo, "env", env, "release", release, "user", q.actor.User)
	return q.answer(d, envHref(repo, env))
}

// answer answers an act: JSON says what was done, a browser goes to the page that
// shows it.
func (q *request) answer(d show.Done, where string) error {
	if q.wantsJSON() {
		return q.writeJSON(http.StatusOK, d)
	}
	q.setFlash(d)
	http.Redirect(q.w, q.r, where, http.StatusSeeOther)
	return nil
}

// safeURL is u when a browser may be sent there, else nothing.
func safeURL(u string) string {
	p, err := url.Parse(u)
	if err != nil || p.Scheme != "http" && p.Scheme != "https" || p.Host == "" {
		return ""
	}
	return u
}
