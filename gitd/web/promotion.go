package web

import (
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/headgate-cd/headgate/gitd/show"
)

// promotionView is the gate of one environment: what is open, what would
// change, what it carries, and the decision.
type promotionView struct {
	show.Promotion
	Mark    mark
	Met     int
	Checks  []check
	Diff    *difference // between the releases
	Files   *difference // what the environment will read
	Rules   int
	Opens   string
	Given   []approvalRow
	Problem string
	Reason  string
}

type approvalRow struct {
	show.Approval
	Mark mark
}

func promotionPage(q *request) (*page, error) {
	p, _, err := q.promotion()
	return p, err
}

func (q *request) promotion() (*page, *promotionView, error) {
	r, err := q.repository()
	if err != nil {
		return nil, nil, err
	}
	env := q.arg("env")
	m, err := q.Backend.Promotion(q.r.Context(), q.actor, r.Name, env)
	if err != nil {
		if !isNotFound(err) {
			return nil, nil, err
		}
		for _, e := range r.Environments {
			if e.Name == env {
				return nil, nil, &nearby{err: err, nearest: []link{{Text: env + ", as it is now", Href: envHref(r.Name, env)}}}
			}
		}
		return nil, nil, noEnvironment(r, env, err)
	}
	view := &promotionView{Promotion: m, Mark: markOf(show.Waits), Checks: checksOf(m.Checks, q.now)}
	switch m.Decision {
	case "auto":
		view.Mark = markOf(show.Open)
	case "deny":
		view.Mark = mark{"Denied", "red", "red"}
	}
	if m.Summary != "" {
		view.Mark.Word = sentence(m.Summary)
	}
	for _, c := range m.Checks {
		if c.Met {
			view.Met++
		}
	}
	if m.NotBefore.After(q.now) {
		view.Opens = "Opens " + clock(m.NotBefore, q.now, false, true) + " at the earliest."
	} else if personMissing(&m) {
		view.Opens = "Opens when a person acts."
	}
	view.Diff = q.releaseDiff(r.Name, m.From, m.To)
	view.Files = differenceOf(r.Name, show.Comparison{Files: m.Files, Changed: len(m.Files)})
	for i, f := range view.Files.Files {
		view.Files.Files[i].ID, view.Files.Files[i].Open = "e"+f.ID, false
		for _, l := range f.Lines {
			switch l.Kind {
			case "+":
				view.Files.Added++
			case "-":
				view.Files.Removed++
			}
		}
	}
	for _, a := range m.Approvals {
		k := approvalRow{a, mark{"counts", "green", "green"}}
		if a.Stale || a.Tree != "" && a.Tree != m.Tree {
			k.Stale, k.Mark = true, mark{"stale", "stopped", ""}
		}
		view.Given = append(view.Given, k)
	}
	title := fmt.Sprintf("Promote %d to %s", m.To, env)
	p := q.repoPage(r, "env", title+": "+view.Mark.Word, crumb{Text: env, Href: envHref(r.Name, env), Keep: true}, crumb{Text: fmt.Sprintf("promote %d", m.To)})
	p.JSON = m
	p.Template, p.Data, p.Parts = "promotion", view, []string{"promo-head", "promo-gate", "promo-carries", "promo-diff", "promo-files", "promo-given", "asof"}
	p.Say = title + ": " + view.Mark.Word
	for i, line := range view.Diff.Git {
		if i == 0 {
			line = "git fetch origin && " + line
		}
		p.Git = append(p.Git, command{"Source", line})
	}
	p.Git = append(p.Git,
		command{"Declared", fmt.Sprintf("git fetch origin && git diff origin/env/%s origin/promote/%s", env, env)},
		command{"SSH", q.ssh("promotion diff " + r.Name + " " + env)})
	if m.MayApprove {
		for i, c := range m.Commands {
			label := "Approve"
			if i > 0 {
				label = "or"
			}
			p.Git = append(p.Git, command{label, c})
		}
	}
	p.Git = append(p.Git, command{"Why", q.ssh("why " + r.Name + " " + env)})
	return p, view, nil
}

// approve is the act of the promotion page. The form carries the tree that was
// seen: when the proposal has changed since, nothing is approved.
func approve(q *request) error {
	repo, env, reason := q.arg("repo"), q.arg("env"), strings.TrimSpace(q.form("reason"))
	d, err := q.Backend.Approve(q.r.Context(), q.actor, repo, env, q.form("tree"), reason)
	if err != nil {
		var e *show.Error
		if !errors.As(err, &e) || e.Kind == show.NotFound || q.wantsJSON() {
			return err
		}
		p, view, perr := q.promotion()
		if perr != nil {
			return err
		}
		view.Problem, view.Reason = e.What, cut(reason, 2000)
		if e.Hint != "" {
			view.Problem += "; " + e.Hint
		}
		return q.render(p, status(e.Kind))
	}
	q.Log.Info("approved from the console", "repo", repo, "env", env, "user", q.actor.User)
	if q.wantsJSON() {
		return q.writeJSON(http.StatusOK, d)
	}
	where := promoteHref(repo, env)
	if _, err := q.Backend.Promotion(q.r.Context(), q.actor, repo, env); err != nil {
		where = envHref(repo, env) // the gate opened: the proposal is gone, what it does shows there
	}
	return q.answer(d, where)
}
