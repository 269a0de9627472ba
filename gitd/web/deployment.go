package web

import (
	"fmt"

	"github.com/headgate-cd/headgate/gitd/show"
)

// deploymentsFacts is the JSON of an environment's history.
type deploymentsFacts struct {
	Deployments []show.Deployed `json:"deployments"`
	Total       int             `json:"total"`
}

type deploymentsView struct {
	show.Environment
	Rows  []deployedRow
	Total int
	Older string
}

// historyPage is all that was ever promoted to an environment, a part at a time.
func historyPage(q *request) (*page, error) {
	r, e, err := q.environmentOf()
	if err != nil {
		return nil, err
	}
	list, total, err := q.Backend.Deployments(q.r.Context(), q.actor, r.Name, e.Name, q.r.URL.Query().Get("from"))
	if err != nil {
		return nil, err
	}

	base := envHref(r.Name, e.Name)
	view := &deploymentsView{Environment: *e, Total: total}
	for i := range list {
		view.Rows = append(view.Rows, deployedRowOf(e, &list[i]))
	}
	if n := len(list); n == deploymentsShown && total > n {
		view.Older = base + "/history?from=" + list[n-1].Commit // the last stands on both parts
	}
	p := q.repoPage(r, "env", "History of "+e.Name+", "+r.Name, crumb{Text: e.Name, Href: base, Keep: true},
		crumb{Text: "history"})
	p.JSON = deploymentsFacts{orEmpty(list), total}
	p.Template, p.Data, p.Live = "deployments", view, false
	p.Git = []command{{"Git", "git fetch origin && git log origin/env/" + e.Name},
		{"SSH", q.ssh("env log " + r.Name + " " + e.Name)}}
	return p, nil
}

// deploymentsShown is how many deployments the backend tells at once.
const deploymentsShown = 100

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
	Diff        *difference
}

func deploymentPage(q *request) (*page, error) {
	r, e, err := q.environmentOf()
	if err != nil {
		return nil, err
	}
	base := envHref(r.Name, e.Name)
	list, _, err := q.Backend.Deployments(q.r.Context(), q.actor, r.Name, e.Name, q.arg("commit"))
	if err != nil || len(list) == 0 {
		if err == nil || isNotFound(err) {
			err = &nearby{
				err:     notFound(fmt.Sprintf("there is no deployment %s in %s", cut(q.arg("commit"), 40), e.Name), ""),
				nearest: []link{{Text: "history of " + e.Name, Href: base + "/history"}},
			}
		}
		return nil, err
	}

	d := list[0]
	view := &deploymentView{deployedRow: deployedRowOf(e, &d), Repository: r.Name, Environment: e.Name}
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
