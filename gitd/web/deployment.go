package web

import (
	"fmt"
	"slices"
	"strings"

	"github.com/headgate-cd/headgate/gitd/show"
)

type deploymentsView struct {
	show.Environment
	Rows    []deployedRow
	Total   int
	Filters []filter
	Outcome show.State
	Seek    *seek
	Beside  *beside
}

// historyPage is all that was ever promoted to an environment, a part at a time.
func historyPage(q *request) (*page, error) {
	r, e, err := q.environmentOf()
	if err != nil {
		return nil, err
	}
	base := envHref(r.Name, e.Name)
	query := q.r.URL.Query()
	view := &deploymentsView{
		Environment: *e,
		Outcome:     show.State(query.Get("outcome")),
		Seek: q.narrowed(base+"/history", []string{"outcome"},
			field{Name: "by", Label: "Approved, chosen or rolled back by", Hint: "approved by"},
			authorField("Brings what was pushed or written by"), pathField()),
	}
	f := show.DeploymentFilter{
		From:    cut(query.Get("from"), 100),
		After:   cut(query.Get("after"), 100),
		Outcome: view.Outcome,
		By:      view.Seek.Fields[0].Value,
		Author:  view.Seek.Fields[1].Value,
		Path:    strings.Trim(view.Seek.Fields[2].Value, "/"),
	}
	if f.Outcome != "" && !slices.Contains(show.Outcomes, f.Outcome) {
		return nil, &show.Error{
			Kind: show.Usage,
			What: fmt.Sprintf("no deployment is ever %q", cut(string(f.Outcome), 40)),
			Hint: "choose one of: " + show.Words(show.Outcomes),
		}
	}
	found, err := q.Backend.Deployments(q.r.Context(), q.actor, r.Name, e.Name, f)
	if err != nil {
		return nil, err
	}

	found.Deployments = orEmpty(found.Deployments)
	view.Total, view.Beside = found.Total, &beside{}
	for i := range found.Deployments {
		view.Rows = append(view.Rows, deployedRowOf(e, &found.Deployments[i]))
	}
	if found.Older != "" {
		view.Beside.Older = q.cursor("from", found.Older)
	}
	if found.Newer != "" {
		view.Beside.Newer = q.cursor("after", found.Newer)
	}
	for _, s := range append([]show.State{""}, show.Outcomes...) {
		k := filter{Text: "All", Href: base + "/history", Current: s == f.Outcome}
		if s != "" {
			k.Text, k.Href = markOf(s).Word, base+"/history?outcome="+string(s)
		}
		view.Filters = append(view.Filters, k)
	}
	p := q.repoPage(r, "env", "History of "+e.Name+", "+r.Name, crumb{Text: e.Name, Href: base, Keep: true},
		crumb{Text: "history"})
	p.JSON = found
	p.Template, p.Data, p.Live = "deployments", view, false
	p.Git = []command{{"Git", "git fetch origin && git log origin/env/" + e.Name},
		{"SSH", q.ssh("env log " + r.Name + " " + e.Name + q.options("outcome", "by", "author", "path", "from", "after"))}}
	return p, nil
}

// environmentOf is the repository and the environment of the address.
func (q *request) environmentOf() (*show.Repository, *show.Environment, error) {
	r, err := q.repository()
	if err != nil {
		return nil, nil, err
	}
	e, err := q.Backend.Environment(q.r.Context(), q.actor, r.Name, q.arg("env"))
	if err != nil {
		return nil, nil, noEnvironment(r, q.arg("env"), err)
	}
	return r, &e, nil
}

// deploymentView is one commit of an environment: what it gave, who let it, and
// what came of it. It stays as it is for ever; only the outcome of the newest
// still changes.
type deploymentView struct {
	deployedRow
	Repository  string
	Environment string
	Done        string
	Diff        *difference
}

// done is what happened to an environment by a deployment; nil is one that the history
// does not show any more.
func done(d *show.Deployed) string {
	switch {
	case d != nil && d.Rollback:
		return "Rolled back"
	case d != nil && d.Renamed != "":
		return "Renamed"
	}
	return "Promoted"
}

func deploymentPage(q *request) (*page, error) {
	r, e, err := q.environmentOf()
	if err != nil {
		return nil, err
	}
	base := envHref(r.Name, e.Name)
	found, err := q.Backend.Deployments(q.r.Context(), q.actor, r.Name, e.Name,
		show.DeploymentFilter{From: q.arg("commit")})
	if err != nil || len(found.Deployments) == 0 {
		if err == nil || isNotFound(err) {
			err = &nearby{
				err:     notFound(fmt.Sprintf("there is no deployment %s in %s", cut(q.arg("commit"), 40), e.Name), ""),
				nearest: []link{{Text: "history of " + e.Name, Href: base + "/history"}},
			}
		}
		return nil, err
	}

	d := found.Deployments[0]
	view := &deploymentView{
		deployedRow: deployedRowOf(e, &d),
		Repository:  r.Name,
		Environment: e.Name,
		Done:        done(&d),
	}
	if d.Release != d.From {
		view.Diff = q.releaseDiff(r.Name, d.From, d.Release)
	}
	title := fmt.Sprintf("Release %d in %s, %s", d.Release, e.Name, show.Short(d.Commit))
	p := q.repoPage(r, "env", title+": "+view.Mark.Word, crumb{Text: e.Name, Href: base, Keep: true},
		crumb{Text: show.Short(d.Commit)})
	p.JSON = d
	p.Template, p.Data = "deployment", view
	p.Parts = []string{"deployment-head", "deployment-facts", "asof"}
	p.Say = title + ": " + view.Mark.Word
	p.Git = []command{{"Git", "git fetch origin && git show " + d.Commit}}
	return p, nil
}

// deployedRowOf is one commit of an environment's history as a row.
func deployedRowOf(e *show.Environment, d *show.Deployed) deployedRow {
	row := deployedRow{Deployed: *d, Mark: markOf(d.Outcome), Current: d.Commit == e.Declared}
	row.Href = envHref(e.Repository, e.Name) + "/" + d.Commit
	if d.Outcome == show.Healthy && d.Rollback {
		row.Mark = mark{"Healthy, rollback", "hold", "amber"}
	}
	if d.MayRollback && e.MayRollback && !row.Current {
		row.Ask = envHref(e.Repository, e.Name) + "?rollback=" + fmt.Sprint(d.Release) + "#ask"
	}
	return row
}
