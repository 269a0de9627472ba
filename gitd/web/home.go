package web

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/headgate-cd/headgate/gitd/show"
)

// homeFacts is the JSON of the home page.
type homeFacts struct {
	Server       show.Server       `json:"server"`
	Repositories []show.Repository `json:"repositories"`
}

// homeView is the operator's page: what needs the visitor, then everything.
type homeView struct {
	Summary string
	Needs   []need
	Rows    []homeRow
}

// need is one thing that waits for the visitor.
type need struct {
	Mark  mark
	Href  string
	Link  string // the sentence begins with this link …
	After string // … and ends with this
	More  string
	Do    string // the button
	at    time.Time
}

type homeRow struct {
	show.Repository
	Mark    mark
	Mini    *mini
	Next    string
	Envs    []homeEnv
	Figures figures
	Spark   spark
	Lead    string
}

type homeEnv struct {
	show.Environment
	Href  string
	Marks []mark
}

func homePage(q *request) (*page, error) {
	ctx := q.r.Context()
	all, err := q.Backend.Repositories(ctx, q.actor)
	if err != nil {
		return nil, err
	}
	p := &page{Title: "Repositories", Crumbs: []crumb{{Text: q.server.Name}}, Live: true,
		JSON: homeFacts{q.server, orEmpty(all)},
		Git:  []command{{"SSH", q.ssh("repo list")}}}
	fresh := !slices.ContainsFunc(all, func(r show.Repository) bool { return r.Name != "headgate" })
	if fresh || q.r.URL.Query().Has("new") {
		return startPage(q, p, nil, fresh), nil
	}
	view := &homeView{}
	var gated, ungated, today, green, empty, damaged int
	slices.SortStableFunc(all, func(a, b show.Repository) int { return b.LandedAt.Compare(a.LandedAt) })
	for i := range all {
		r := &all[i]
		read, err := q.readForHome(ctx, r)
		if ctx.Err() != nil {
			return nil, err
		}
		if err != nil { // it must not keep the others from being seen
			q.Log.Error("a repository cannot be shown", "repo", r.Name, "err", err)
			r.State, r.Reason = show.Damaged, "it cannot be read; the server's log says why"
		}
		row := homeRow{Repository: *r, Mark: markOf(r.State), Figures: read.figures}
		if r.State == show.Damaged {
			view.Rows = append(view.Rows, row)
			damaged++
			continue
		}
		if r.Gated {
			gated++
		} else {
			ungated++
		}
		if r.Gated && r.State == show.Empty {
			empty++
		}
		if r.State == show.Green {
			green++
			if slices.ContainsFunc(r.Queue, func(c show.Change) bool { return c.State == show.Running }) {
				row.Mark = mark{"Green, building", "running", "water"}
			}
		}
		today += row.Figures.Today
		row.Spark = sparkOf(row.Figures.Days)
		if row.Figures.Landed > 0 {
			row.Lead = minutes(row.Figures.Median)
		}
		if len(r.Queue) > 0 {
			row.Mini = miniOf(r.Queue, q.now)
			row.Next = nextLanding(r.Queue, q.now)
			p.Moving = true
		}
		for _, e := range r.Environments {
			k := homeEnv{Environment: e, Href: envHref(r.Name, e.Name)}
			if e.Release > 0 && e.State != show.Healthy {
				k.Marks = append(k.Marks, marked(e.State, strings.ToLower(markOf(e.State).Word)))
			}
			if e.Promotion != nil {
				k.Marks = append(k.Marks, marked(show.Waits, "waits"))
			}
			if e.Held != nil {
				k.Marks = append(k.Marks, marked(show.Hold, "hold"))
			}
			row.Envs = append(row.Envs, k)
		}
		view.Needs = append(view.Needs, q.needs(r, read.recent)...)
		view.Needs = append(view.Needs, q.failedSchedules(read.schedules)...)
		view.Rows = append(view.Rows, row)
	}
	slices.SortStableFunc(view.Needs, func(a, b need) int { return cmp.Compare(b.at.Unix(), a.at.Unix()) })
	repositories := fmt.Sprintf("%d gated", gated)
	if ungated > 0 {
		repositories += fmt.Sprintf(", %d not gated", ungated)
	}
	if damaged > 0 {
		repositories += fmt.Sprintf(", %d damaged", damaged)
	}
	switch red := gated - green - empty; red {
	case 0:
		view.Summary = fmt.Sprintf("%s. %s landed today, no branch is red.", repositories, show.Plural(today, "change"))
	default:
		view.Summary = fmt.Sprintf("%d of %d branches not green. %s; %s landed today.", red, gated, repositories,
			show.Plural(today, "change"))
	}
	p.Template, p.Data, p.Parts = "home", view, []string{"home-head", "home-needs", "home-table", "asof"}
	p.Say = fmt.Sprintf("%s need you", show.Plural(len(view.Needs), "thing"))
	if len(view.Needs) > 0 {
		p.Title = fmt.Sprintf("(%d) Repositories", len(view.Needs))
	}
	return p, nil
}

// readHome is what the start page reads of a repository, besides what is listed of it.
type readHome struct {
	recent    []show.Change
	figures   figures
	schedules []show.Schedule
}

// readForHome reads nothing of a repository that is damaged.
func (q *request) readForHome(ctx context.Context, r *show.Repository) (read readHome, err error) {
	if r.State == show.Damaged {
		return read, nil
	}
	found, err := q.Backend.Changes(ctx, q.actor, r.Name, show.ChangeFilter{})
	if err != nil {
		return read, fmt.Errorf("read the changes of %s: %w", r.Name, err)
	}
	read.recent = found.Changes
	if read.figures, err = q.figures(ctx, r, read.recent, found.Total); err != nil {
		return read, err
	}
	if read.schedules, err = q.Backend.Schedules(ctx, q.actor, r.Name); err != nil {
		return read, fmt.Errorf("read the schedules of %s: %w", r.Name, err)
	}
	return read, nil
}

// needs is what of a repository waits for the visitor.
func (q *request) needs(r *show.Repository, recent []show.Change) []need {
	var all []need
	for _, e := range r.Environments {
		if p := e.Promotion; p != nil && p.MayApprove {
			n := need{Mark: markOf(show.Waits), Href: promoteHref(r.Name, e.Name), Do: "Review", at: p.ProposedAt,
				Link: r.Name + ": " + promotionTitle(p), After: " waits for your approval"}
			n.More = p.Summary
			if !p.FailedAt.IsZero() {
				n.More = "it was there before and failed; " + n.More
			}
			all = append(all, n)
		}
		if (e.MayRollback || r.MayWrite) && (e.State == show.Failed || e.State == show.Drift || e.State == show.Unknown) {
			word := map[show.State]string{show.Failed: "does not run what is declared",
				show.Drift: "differs from what is declared", show.Unknown: "does not answer"}[e.State]
			n := need{Mark: markOf(e.State), Href: envHref(r.Name, e.Name), Do: "Compare", at: e.Since,
				Link: r.Name + " in " + e.Name, After: " " + word, More: e.Reason}
			all = append(all, n)
		}
	}
	for _, c := range recent {
		if c.By != q.actor.User || c.State != show.Refused && c.State != show.Conflict ||
			q.now.Sub(c.EndedAt) > show.RefusalsShown || c.Mended {
			continue
		}
		n := need{Mark: markOf(c.State), Href: changeHref(c), Do: "See why", at: c.EndedAt,
			Link: fmt.Sprintf("%s: change %d, %s", r.Name, c.Number,
				cut(c.Subject, 80)), After: ", yours, was refused", More: c.Reason}
		if c.State == show.Conflict {
			n.After = ", yours, is in conflict"
		}
		if !c.EndedAt.IsZero() {
			n.More = strings.TrimPrefix(n.More+", "+clock(c.EndedAt, q.now, false, true), ", ")
		}
		all = append(all, n)
	}
	return all
}

// failedSchedules are those whose last run failed and that the visitor is to be
// told of.
func (q *request) failedSchedules(all []show.Schedule) []need {
	var needs []need
	for _, s := range all {
		if !s.NotifyYou || s.Last == nil || s.Last.State != show.Failed {
			continue
		}
		needs = append(needs, need{
			Mark:  markOf(show.Failed),
			Href:  scheduleHref(s.Repository, s.Name),
			Do:    "See why",
			Link:  fmt.Sprintf("%s: run %d of %s", s.Repository, s.Last.Number, s.Name),
			After: " failed",
			More:  strings.TrimPrefix(s.Last.Reason+", "+clock(s.Last.Finished, q.now, false, true), ", "),
			at:    s.Last.Finished,
		})
	}
	return needs
}

// nextLanding is the line under a small train.
func nextLanding(queue []show.Change, now time.Time) string {
	s := fmt.Sprintf("%d queued", len(queue))
	for _, c := range queue {
		if text := landsText(c.Estimate, now, false); text != "" {
			return s + ", next lands " + text
		}
	}
	return s
}

func orEmpty[T any](list []T) []T {
	if list == nil {
		return []T{}
	}
	return list
}

// startView is the page with blocks to paste, for a server or a repository in
// which nothing flows yet.
type startView struct {
	Repo   *show.Repository
	Name   string // of the repository to paste
	Create string
	Clone  string
	Fresh  bool
}

// startPage turns p into the page of a fresh server (r nil) or an empty
// repository. It turns into the real page by itself when something arrives.
func startPage(q *request, p *page, r *show.Repository, fresh bool) *page {
	view := &startView{Repo: r, Name: "hello", Fresh: fresh}
	switch {
	case r != nil:
		view.Name, p.Title = r.Name, r.Name+" is empty"
	case fresh:
		p.Title = "Start"
	default:
		p.Title = "New repository"
	}
	view.Create = q.ssh("repo create " + view.Name)
	view.Clone = q.server.CloneURL(view.Name)
	p.Template, p.Width, p.Data = "start", "narrow", view
	if p.Live = fresh || r != nil; p.Live {
		p.Parts = []string{"start-waits"}
	}
	return p
}

// repository is the repository of the address.
func (q *request) repository() (*show.Repository, error) {
	r, err := q.Backend.Repository(q.r.Context(), q.actor, q.arg("repo"))
	if err != nil {
		return nil, q.noRepository(q.arg("repo"), err)
	}
	return &r, nil
}

// repoPage begins a page inside a repository.
func (q *request) repoPage(r *show.Repository, tab, title string, crumbs ...crumb) *page {
	p := &page{Title: title, Tab: tab, Repo: r, Watch: r.Name, Live: true}
	p.Crumbs = append([]crumb{{Text: q.server.Name, Href: "/", Keep: len(crumbs) == 0},
		{Text: r.Name, Href: "/" + r.Name, Keep: len(crumbs) == 1}}, crumbs...)
	last := &p.Crumbs[len(p.Crumbs)-1]
	last.Href, last.Keep = "", false
	return p
}
