package web

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/headgate-cd/headgate/gitd/access"
	"github.com/headgate-cd/headgate/gitd/show"
)

// connectionRow is a connection to a forge, and how it is.
type connectionRow struct {
	show.Connection
	Mark   mark
	Href   string
	Silent string
	Rows   []deliveryRow
}

// deliveryRow is a webhook in a table.
type deliveryRow struct {
	show.Delivery
	Mark mark
}

// publicationRow is a repository that is pushed to a forge.
type publicationRow struct {
	show.Publication
	Mark mark
	Href string
}

// forgeView is what connects a repository to forges: all of them, in the server's own.
type forgeView struct {
	Repo         *show.Repository
	Href         string
	Connections  []connectionRow
	Publications []publicationRow
	Say          string
}

func forgeHref(repository string) string { return "/" + repository + "/forge" }

func connectionRowOf(c show.Connection) connectionRow {
	row := connectionRow{Connection: c, Mark: markOf(c.State), Href: forgeHref(c.Mirror), Silent: "never heard of"}
	if !c.LastDelivery.IsZero() {
		row.Silent = minutes(time.Duration(c.Silent))
	}
	return row
}

// outcomes are how what became of a webhook is shown.
var outcomes = map[string]mark{
	"pending": marked(show.Queued, "Pending"),
	"applied": marked(show.Green, "Applied"),
	"ignored": marked(show.Skipped, "Ignored"),
	"failed":  marked(show.Failed, "Failed"),
}

// forgePage is of a repository that follows a forge, or is pushed to one; or of the
// server's own, with all of them.
func forgePage(q *request) (*page, error) {
	r, err := q.repository()
	if err != nil {
		return nil, err
	}
	view := &forgeView{Repo: r, Href: forgeHref(r.Name)}
	connections, publications, err := q.forges(r)
	if err != nil {
		return nil, err
	}
	if len(connections)+len(publications) == 0 && r.Name != access.Own {
		return nil, notFound("nothing connects "+r.Name+" to a forge",
			q.ssh("forge connect github owner/"+r.Name)+" says how")
	}
	failing := 0
	for _, c := range connections {
		row := connectionRowOf(c)
		if r.Name != access.Own {
			deliveries, err := q.Backend.Deliveries(q.r.Context(), q.actor, c.Name)
			if err != nil {
				return nil, err
			}
			for _, d := range deliveries {
				row.Rows = append(row.Rows, deliveryRow{d, cmp.Or(outcomes[d.Outcome], markOf(show.Unknown))})
			}
		}
		view.Connections = append(view.Connections, row)
		if c.State == show.Failed {
			failing++
		}
	}
	for _, one := range publications {
		view.Publications = append(view.Publications, publicationRow{one, markOf(one.State), forgeHref(one.Repository)})
		if one.State == show.Failed {
			failing++
		}
	}
	view.Say = fmt.Sprintf("%s, %s, %d failing.", show.Plural(len(connections), "connection"),
		show.Plural(len(publications), "publication"), failing)

	p := q.repoPage(r, "", "Forge, "+r.Name, crumb{Text: "forge"})
	p.JSON = struct {
		Connections  []show.Connection  `json:"connections"`
		Publications []show.Publication `json:"publications"`
	}{connections, publications}
	p.Template, p.Data, p.Moving = "forge", view, true // webhooks and polls are no news of the repository
	p.Parts = []string{"forge-head", "forge-connections", "forge-publications", "asof"}
	p.Git = []command{{"SSH", q.ssh("forge list")}}
	for _, c := range view.Connections {
		if r.Name != access.Own {
			p.Git = append(p.Git, command{"SSH", q.ssh("forge deliveries " + c.Name)})
		}
	}
	return p, nil
}

// forges are the connections and publications of a repository; of the server's own, all.
func (q *request) forges(r *show.Repository) ([]show.Connection, []show.Publication, error) {
	connections, err := q.Backend.Connections(q.r.Context(), q.actor)
	if err != nil {
		return nil, nil, err
	}
	publications, err := q.Backend.Publications(q.r.Context(), q.actor)
	if r.Name != access.Own {
		connections = slices.DeleteFunc(connections, func(c show.Connection) bool { return c.Mirror != r.Name })
		publications = slices.DeleteFunc(publications, func(p show.Publication) bool { return p.Repository != r.Name })
	}
	return connections, publications, err
}

// forgeAct are the buttons of forgePage: to prove a connection, and to process a webhook
// again.
func forgeAct(q *request) error {
	r, err := q.repository()
	if err != nil {
		return err
	}
	connections, publications, err := q.forges(r)
	if err != nil {
		return err
	}
	name := q.form("connection")
	connected := slices.ContainsFunc(connections, func(c show.Connection) bool { return c.Name == name })
	if !connected && !slices.ContainsFunc(publications, func(p show.Publication) bool { return p.Name == name }) {
		return notFound(r.Name+" has no connection "+cut(name, 40), "go back to the page, and try again from there")
	}
	var d show.Done
	switch act := q.form("act"); act {
	case "test":
		d, err = q.Backend.TestConnection(q.r.Context(), q.actor, name)
	case "replay":
		number, wrong := strconv.ParseInt(q.form("delivery"), 10, 64)
		if wrong != nil {
			return &show.Error{Kind: show.Usage, What: cut(q.form("delivery"), 40) + " is not the number of a delivery"}
		}
		d, err = q.Backend.Replay(q.r.Context(), q.actor, name, number)
	default:
		return &show.Error{Kind: show.Usage, What: "a connection is tested, or one of its webhooks processed again, and not " +
			cut(act, 40)}
	}
	if err != nil {
		return err
	}
	q.Log.Info("acted from the console", "act", q.form("act"), "repo", r.Name, "connection", name, "user", q.actor.User)
	return q.answer(d, forgeHref(r.Name))
}
