package web

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/headgate-cd/headgate/gitd/access"
	"github.com/headgate-cd/headgate/gitd/show"
)

// repositoryView is main, its environments, the train, and what happened.
type repositoryView struct {
	Repo    *show.Repository
	Stages  []stage
	Train   *train
	Recent  []changeRow
	Total   int
	Figures []figure

	Schedules []scheduleRow
	Forge     string // address of the page of what connects it to forges, if anything does
}

// figure is one number of the last 30 days, of what.
type figure struct{ Label, Value, Of string }

// changeRow is a change in a table.
type changeRow struct {
	show.Change
	Href string
	Mark mark
	More string
	When time.Time
}

func rowOf(c show.Change) changeRow {
	k := changeRow{Change: c, Href: changeHref(c), Mark: markOf(c.State), More: c.Reason, When: c.EndedAt}
	switch {
	case c.State == show.Landed && c.Build != nil && c.Build.Reused:
		k.More = minutes(c.EndedAt.Sub(c.PushedAt)) + ", tree already green"
	case c.State == show.Landed && !c.EndedAt.IsZero():
		k.More = "in " + minutes(c.EndedAt.Sub(c.PushedAt))
	case c.State == show.Conflict && len(c.Files) > 0:
		k.More = show.Plural(len(c.Files), "file")
	case c.State == show.Queued:
		k.More = waitsFor(&c)
	}
	if k.When.IsZero() {
		k.When = c.PushedAt
	}
	return k
}

// trainEntries is how many entries the overview draws.
const trainEntries = 5

func repositoryPage(q *request) (*page, error) {
	r, err := q.repository()
	if err != nil {
		return nil, err
	}
	ctx := q.r.Context()
	found, err := q.Backend.Changes(ctx, q.actor, r.Name, show.ChangeFilter{})
	if err != nil {
		return nil, err
	}
	recent, total := found.Changes, found.Total
	p := q.repoPage(r, "overview", r.Name)
	p.JSON = r
	p.Git = []command{{"Git", "git log --first-parent " + r.Branch + "; git fetch origin 'refs/notes/*:refs/notes/*'"},
		{"SSH", q.ssh("change list " + r.Name)}}
	if r.Tip == "" && len(r.Queue) == 0 && total == 0 && r.Gated {
		return startPage(q, p, r, false), nil
	}
	view := &repositoryView{Repo: r, Stages: stagesOf(r, q.now),
		Train: buildTrain(r, recent, q.now, trainEntries), Total: total}
	for _, c := range recent {
		if len(view.Recent) < 8 && !slices.ContainsFunc(r.Queue, func(k show.Change) bool { return k.Number == c.Number }) {
			view.Recent = append(view.Recent, rowOf(c))
		}
	}
	schedules, err := q.Backend.Schedules(ctx, q.actor, r.Name)
	if err != nil {
		return nil, err
	}
	for _, s := range schedules {
		view.Schedules = append(view.Schedules, scheduleRowOf(s))
	}
	connections, publications, err := q.forges(r)
	if err != nil {
		return nil, err
	}
	if len(connections)+len(publications) > 0 && r.Name != access.Own {
		view.Forge = forgeHref(r.Name)
	}
	f, err := q.figures(ctx, r, recent, total)
	if err != nil {
		return nil, err
	}
	if r.Gated {
		view.Figures = q.monthFigures(r, f)
	}
	p.Template, p.Data, p.Parts = "repository", view, []string{"repo-head", "repo-stages", "repo-train", "repo-schedules",
		"repo-recent", "asof"}
	p.Moving = len(r.Queue) > 0
	p.Say = r.Branch + " is " + strings.ToLower(markOf(r.State).Word) + ", " + sayQueue(r.Queue)
	return p, nil
}

// monthFigures are the numbers that the changes and the last environment's
// history really say.
func (q *request) monthFigures(r *show.Repository, f figures) []figure {
	if f.Ended == 0 {
		return nil
	}
	pace := "in 30 days"
	if f.Landed >= 30 {
		pace = fmt.Sprintf("%.1f a day", float64(f.Landed)/30)
	}
	all := []figure{
		{"Landed", show.Thousands(f.Landed), pace},
		{"Refused", fmt.Sprintf("%d of %d", f.Failed, f.Ended), "changes that ended"},
	}
	if f.Landed > 0 {
		all = append(all, figure{"Lead time", minutes(f.Median), "p95 " + minutes(f.P95)},
			figure{"Builds saved", fmt.Sprintf("%d of %d", f.Saved, f.Landed), "same tree"})
	}
	if n := len(r.Environments); n > 0 {
		last := r.Environments[n-1]
		d, err := q.deploys(r, last)
		if err != nil {
			q.Log.Warn("left out the deployment figures", "repo", r.Name, "env", last.Name, "err", err)
			return all
		}
		if d.all == 0 {
			return all
		}
		all = append(all, figure{"Deploys", fmt.Sprint(d.all), last.Name},
			figure{"Failed", fmt.Sprintf("%d of %d", d.failed, d.all), last.Name})
	}
	return all
}

// queueFacts is the JSON of the queue page.
type queueFacts struct {
	Repository string        `json:"repository"`
	Branch     string        `json:"branch"`
	Queue      []show.Change `json:"queue"`
}

type queueView struct {
	Repo   *show.Repository
	Train  *train
	List   []queueRow
	Off    []entry // that left it in the last ten minutes
	Drawn  bool    // there is a queue to draw, if an empty one
	Idle   bool    // nobody builds though something waits
	Paused bool    // nothing lands on the branch that is shown

	MayPause bool // and resume
	Workers  string
}

type queueRow struct {
	show.Change
	Href  string
	Mark  mark
	Now   string
	Lands string
	Log   bool
}

func queuePage(q *request) (*page, error) {
	r, err := q.repository()
	if err != nil {
		return nil, err
	}
	recent, err := q.Backend.Changes(q.r.Context(), q.actor, r.Name, show.ChangeFilter{})
	if err != nil {
		return nil, err
	}
	view := &queueView{Repo: r, Train: buildTrain(r, recent.Changes, q.now, 0)}
	for _, k := range view.Train.Entries {
		if k.Off {
			view.Off = append(view.Off, k)
		}
	}
	busy := false
	for _, c := range r.Queue {
		row := queueRow{Change: c, Href: changeHref(c), Mark: markOf(c.State), Lands: landsText(c.Estimate, q.now, false),
			Log: c.Build != nil && c.Build.Log != ""}
		if _, _, text := running(&c, q.now); text != "" {
			busy = true
			row.Now = text
			if c.Build.Phase != "" {
				row.Now = c.Build.Phase + ", " + text
			}
		} else if c.State == show.Conflict {
			row.Mark.Word = conflictText(&c)
		} else {
			row.Now = waitsFor(&c)
		}
		view.List = append(view.List, row)
	}
	view.Drawn = r.Gated || len(r.Queue) > 0
	view.MayPause = r.Gated && r.MayWrite && r.Name != access.Own
	view.Paused = slices.ContainsFunc(r.Paused, func(p show.Pause) bool { return p.Branch == r.Branch })
	view.Idle = len(r.Queue) > 0 && !busy && q.server.Workers == 0
	view.Workers = fmt.Sprintf("%d of %s busy", q.server.WorkersBusy, show.Plural(q.server.Workers, "worker"))
	if n := q.server.Containers; n > 0 {
		view.Workers += fmt.Sprintf(", and %d of %d for containers", q.server.ContainersBusy, n)
	}
	p := q.repoPage(r, "queue", "Queue, "+r.Name, crumb{Text: "queue"})
	p.JSON = queueFacts{r.Name, r.Branch, orEmpty(r.Queue)}
	p.Width, p.Template, p.Data, p.Parts = "wide", "queue", view, []string{"queue-acts", "queue-news", "queue-train",
		"queue-list", "asof"}
	p.Moving = len(r.Queue) > 0
	p.Say = sayQueue(r.Queue)
	if len(r.Queue) > 0 {
		p.Title = fmt.Sprintf("(%d) Queue, %s", len(r.Queue), r.Name)
	}
	p.Git = []command{{"Git", `git ls-remote origin "refs/changes/*/head"`}, {"SSH", q.ssh("change list " + r.Name)}}
	switch {
	case view.Paused:
		p.Git = append(p.Git, command{"Resume", "git push -o resume origin HEAD:refs/for/" + r.Branch},
			command{"or", q.ssh("repo resume " + r.Name)})
	case view.MayPause:
		p.Git = append(p.Git, command{"Pause", "git push -o pause -o reason=<text> origin HEAD:refs/for/" + r.Branch},
			command{"or", q.ssh("repo pause " + r.Name)})
	}
	return p, nil
}

// queueAct pauses landing on a branch, and resumes it.
func queueAct(q *request) error {
	r, err := q.repository()
	if err != nil {
		return err
	}
	act, branch, reason := q.form("act"), q.form("branch"), strings.TrimSpace(q.form("reason"))
	var d show.Done
	switch act {
	case "pause":
		d, err = q.Backend.PauseLanding(q.r.Context(), q.actor, r.Name, branch, reason)
	case "resume":
		d, err = q.Backend.ResumeLanding(q.r.Context(), q.actor, r.Name, branch, reason)
	default:
		err = &show.Error{Kind: show.Usage, What: "landing can be paused or resumed", Hint: "send act=pause or act=resume"}
	}
	if err != nil {
		return err
	}
	q.Log.Info("acted from the console", "act", act, "repo", r.Name, "ref", branch, "user", q.actor.User)
	return q.answer(d, "/"+r.Name+"/queue")
}
