package web

import (
	"cmp"
	"fmt"
	"maps"
	"slices"

	"github.com/headgate-cd/headgate/gitd/access"
	"github.com/headgate-cd/headgate/gitd/show"
)

// agentRow is the agent of another machine in a table.
type agentRow struct {
	show.Agent
	Mark  mark
	Tags  []string
	Whose string // which repositories may deploy there
	Runs  []agentRunsRow
}

// agentRunsRow is what one environment has there.
type agentRunsRow struct {
	show.AgentRuns
	Mark mark
	Href string // of the environment
}

func agentRowOf(a show.Agent) agentRow {
	row := agentRow{Agent: a, Mark: marked(show.Healthy, "Connected"), Whose: "all repositories"}
	switch {
	case !a.Connected && a.Since.IsZero():
		row.Mark = marked(show.Queued, "Not seen yet")
	case !a.Connected:
		row.Mark = marked(show.Unknown, "Away")
	case a.Drained:
		row.Mark = marked(show.Hold, "Drained")
	}
	for _, key := range slices.Sorted(maps.Keys(a.Tags)) {
		row.Tags = append(row.Tags, key+"="+a.Tags[key])
	}
	if a.Repositories != nil {
		row.Whose = cmp.Or(joined(a.Repositories), "no repository")
	}
	for _, r := range a.Runs {
		row.Runs = append(row.Runs, agentRunsRow{r, markOf(r.State), envHref(r.Repository, r.Environment)})
	}
	return row
}

func joined(names []string) (text string) {
	for i, name := range names {
		if i > 0 {
			text += ", "
		}
		text += name
	}
	return text
}

type agentsView struct {
	Rows []agentRow
	Say  string
}

// agentsPage is of the server's own repository, whose server.yaml names the agents.
func agentsPage(q *request) (*page, error) {
	r, err := q.repository()
	if err != nil {
		return nil, err
	}
	if r.Name != access.Own {
		return nil, notFound("agents are the server's, and not of "+r.Name, "look at /"+access.Own+"/agents")
	}
	all, err := q.Backend.Agents(q.r.Context(), q.actor)
	if err != nil {
		return nil, err
	}
	view := &agentsView{}
	away, drained := 0, 0
	for _, a := range all {
		view.Rows = append(view.Rows, agentRowOf(a))
		if !a.Connected {
			away++
		}
		if a.Drained {
			drained++
		}
	}
	view.Say = fmt.Sprintf("%s of other machines, %d away, %d drained.", show.Plural(len(all), "agent"), away, drained)
	p := q.repoPage(r, "", "Agents", crumb{Text: "agents"})
	p.JSON, p.Moving = all, true // what runs there is no news of this repository
	p.Template, p.Data, p.Parts = "agents", view, []string{"agents-head", "agents-list", "asof"}
	p.Git = []command{{"SSH", q.ssh("agent list")}, {"SSH", q.ssh("agent enrol")}}
	return p, nil
}
