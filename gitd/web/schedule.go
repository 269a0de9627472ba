package web

import (
	"context"
	"fmt"
	"iter"
	"time"

	"github.com/headgate-cd/headgate/gitd/show"
)

// scheduleRow is a schedule in a table.
type scheduleRow struct {
	show.Schedule
	Href string
	Mark mark
	When string // its expression, and its zone
	More string
	Last time.Time
}

func scheduleHref(repository, name string) string { return "/" + repository + "/schedules/" + name }

func scheduleRowOf(s show.Schedule) scheduleRow {
	k := scheduleRow{Schedule: s, Href: scheduleHref(s.Repository, s.Name), Mark: markOf(s.State), When: s.Cron}
	if s.Zone != "" {
		k.When += ", " + s.Zone
	}
	if s.Last != nil {
		k.Last, k.More = s.Last.Finished, s.Last.Reason
	}
	return k
}

type scheduleView struct {
	scheduleRow
	Repo *show.Repository
	Rows []runRow
}

// runRow is a run in a table.
type runRow struct {
	show.Run
	Mark mark
	Log  string // its address; "" if there is none
	Why  string
	More string
}

func schedulePage(q *request) (*page, error) {
	r, err := q.repository()
	if err != nil {
		return nil, err
	}
	s, err := q.Backend.Schedule(q.r.Context(), q.actor, r.Name, q.arg("schedule"))
	if err != nil {
		return nil, err
	}
	view := &scheduleView{scheduleRow: scheduleRowOf(s), Repo: r}
	for _, run := range s.Runs {
		k := runRow{Run: run, Mark: markOf(run.State), Why: "due", More: run.Reason}
		if run.By != "" {
			k.Why = "asked for by " + run.By
		}
		if run.Late {
			k.Why += ", and missed before"
		}
		if run.Log != "" {
			k.Log = fmt.Sprintf("%s/%d/log.txt", view.Href, run.Number)
		}
		view.Rows = append(view.Rows, k)
	}
	p := q.repoPage(r, "", s.Name+", "+r.Name, crumb{Text: s.Name})
	p.JSON = s
	p.Template, p.Data, p.Parts = "schedule", view, []string{"schedule-head", "schedule-runs", "asof"}
	p.Git = []command{
		{"Git", "git fetch origin refs/schedules/" + s.Name + " && git log --first-parent FETCH_HEAD"},
		{"SSH", q.ssh("schedule show " + r.Name + " " + s.Name)},
	}
	return p, nil
}

// runSchedule is the button of schedulePage.
func runSchedule(q *request) error {
	r, err := q.repository()
	if err != nil {
		return err
	}
	name := q.arg("schedule")
	d, err := q.Backend.RunSchedule(q.r.Context(), q.actor, r.Name, name)
	if err != nil {
		return err
	}
	q.Log.Info("acted from the console", "act", "run", "repo", r.Name, "schedule", name, "user", q.actor.User)
	return q.answer(d, scheduleHref(r.Name, name))
}

// runLogText is the log of a run, as it grows.
func runLogText(q *request) error {
	r, err := q.repository()
	if err != nil {
		return err
	}
	n, ok := q.number()
	if !ok {
		return notFound("a run is a number, and "+cut(q.arg("n"), 40)+" is not one", "")
	}
	name := q.arg("schedule")
	s, err := q.Backend.Schedule(q.r.Context(), q.actor, r.Name, name)
	if err != nil {
		return err
	}
	follow := s.Running != nil && s.Running.Number == n
	return q.streamLog(follow, func(ctx context.Context) iter.Seq2[show.LogEvent, error] {
		return q.Backend.ScheduleLog(ctx, q.actor, r.Name, name, n, follow)
	})
}
