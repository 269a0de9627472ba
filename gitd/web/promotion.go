package web

import (
	"cmp"
	"errors"
	"fmt"
	"net/http"
	"strconv"
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
		p, err := q.nothingWaits(r, env, err)
		return p, nil, err
	}
	if tree := q.r.URL.Query().Get("tree"); tree != "" && !strings.HasPrefix(m.Tree, tree) {
		if where, err := q.promoted(r, env, tree); where != "" || err != nil {
			return nil, nil, cmp.Or(err, error(&elsewhere{where}))
		}
	}
	view := &promotionView{Promotion: m, Mark: promotionMark(&m), Checks: checksOf(m.Checks, q.now)}
	for _, c := range m.Checks {
		if c.Met {
			view.Met++
		}
	}
	if m.NotBefore.After(q.now) {
		view.Opens = "Opens " + clock(show.FullMinute(m.NotBefore), q.now, false, true) + " at the earliest."
	} else if m.Stuck {
		view.Opens = "It does not open: nobody is there to give what is missing."
	} else if personMissing(&m) {
		view.Opens = "Opens when a person acts."
	}
	if !m.Removal { // otherwise there is no release to compare with
		view.Diff = q.releaseDiff(r.Name, m.From, m.To)
	}
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
	title := sentence(promotionTitle(&m))
	crumbText := fmt.Sprintf("promote %d", m.To)
	if m.Removal {
		crumbText = "removal"
	}
	p := q.repoPage(r, "env", title+": "+view.Mark.Word, crumb{Text: env, Href: envHref(r.Name, env), Keep: true},
		crumb{Text: crumbText})
	p.JSON = m
	p.Template, p.Data, p.Parts = "promotion", view, []string{"promo-head", "promo-means", "promo-gate", "promo-carries",
		"promo-diff", "promo-files", "promo-given", "asof"}
	p.Say = title + ": " + view.Mark.Word
	if view.Diff != nil {
		for i, line := range view.Diff.Git {
			if i == 0 {
				line = "git fetch origin && " + line
			}
			p.Git = append(p.Git, command{"Source", line})
		}
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
	if m.MayReject {
		p.Git = append(p.Git,
			command{"Reject", q.ssh("reject " + r.Name + " " + env)},
			command{"or", "git push -o reason=<text> origin :promote/" + env})
	}
	p.Git = append(p.Git, command{"Link", q.server.HTTP + promoteHref(r.Name, env) + "?tree=" + show.Short(m.Tree)})
	p.Git = append(p.Git, command{"Why", q.ssh("why " + r.Name + " " + env)})
	return p, view, nil
}

// promotionTitle is what a promotion does.
func promotionTitle(p *show.Promotion) string {
	if p.Removal {
		return "remove " + p.Environment
	}
	return fmt.Sprintf("promote release %d to %s", p.To, p.Environment)
}

// promotionLabel names a promotion beside its environment.
func promotionLabel(p *show.Promotion) string {
	if p.Removal {
		return "Removal"
	}
	return fmt.Sprintf("Promotion of %d", p.To)
}

// promotionMark is how a promotion stands. What nobody can complete is no wait.
func promotionMark(p *show.Promotion) mark {
	m := markOf(show.Waits)
	switch {
	case p.Decision == "deny":
		m = mark{"Denied", "red", "red"}
	case p.Stuck:
		m = mark{"Stuck", "red", "red"}
	case p.Decision == "auto":
		m = markOf(show.Open)
	}
	if p.Summary != "" {
		m.Word = sentence(p.Summary)
	}
	return m
}

// waitsView is the page of a gate before which nothing stands.
type waitsView struct {
	Repository  string
	Environment string
	Why         string
	Last        *deployedRow // what was promoted last
	Replaced    string       // the tree that a link was to, which came to nothing
	Rejected    []show.Rejection
	MayChoose   bool
}

// nothingWaits is the page of a promotion that is no more: a link to it leads to
// what came of it, or says that it was replaced.
func (q *request) nothingWaits(r *show.Repository, env string, why error) (*page, error) {
	e, err := q.Backend.Environment(q.r.Context(), q.actor, r.Name, env)
	if err != nil {
		return nil, noEnvironment(r, env, err)
	}
	tree := q.r.URL.Query().Get("tree")
	if tree != "" {
		if where, err := q.promoted(r, env, tree); where != "" || err != nil {
			return nil, cmp.Or(err, error(&elsewhere{where}))
		}
	}

	view := &waitsView{Repository: r.Name, Environment: env, Why: why.Error(), Replaced: cut(tree, 40),
		Rejected: e.Rejected, MayChoose: r.MayWrite}
	if len(e.History) > 0 {
		last := deployedRowOf(&e, &e.History[0])
		view.Last = &last
	}
	p := q.repoPage(r, "env", "Nothing waits for "+env+", "+r.Name,
		crumb{Text: env, Href: envHref(r.Name, env), Keep: true}, crumb{Text: "promote"})
	p.JSON = struct {
		Environment string           `json:"environment"`
		Promotion   *string          `json:"promotion"` // null: there is none
		Last        *show.Deployed   `json:"last,omitempty"`
		Rejected    []show.Rejection `json:"rejected,omitempty"`
	}{Environment: env, Rejected: e.Rejected}
	p.Template, p.Data, p.Parts = "promotion-none", view, []string{"none-all", "asof"}
	p.Say = "nothing waits for " + env
	p.Git = []command{{"Git", "git fetch origin && git log origin/env/" + env},
		{"SSH", q.ssh("env log " + r.Name + " " + env)}}
	return p, nil
}

// promoted is the address of what a proposal became: the commit of the
// environment with its tree. Empty: it came to nothing.
func (q *request) promoted(r *show.Repository, env, tree string) (string, error) {
	if len(tree) < 7 {
		return "", nil
	}
	e, err := q.Backend.Environment(q.r.Context(), q.actor, r.Name, env)
	if err != nil {
		return "", err
	}
	for _, d := range e.History {
		if strings.HasPrefix(d.Tree, tree) {
			return envHref(r.Name, env) + "/" + d.Commit, nil
		}
	}
	return "", nil
}

// elsewhere is not an error: what was asked for has another address by now.
type elsewhere struct{ to string }

func (e *elsewhere) Error() string { return "it is at " + e.to }

// promotionAct is what the buttons of the promotion page do: say yes, say no, or
// propose what was rejected all the same.
func promotionAct(q *request) error {
	repo, env, reason := q.arg("repo"), q.arg("env"), strings.TrimSpace(q.form("reason"))
	switch act := q.form("act"); act {
	case "", "approve":
		return approve(q)
	case "reject":
		d, err := q.Backend.Reject(q.r.Context(), q.actor, repo, env, q.form("tree"), reason)
		if err != nil {
			return q.notDecided(err, reason)
		}
		q.Log.Info("rejected from the console", "repo", repo, "env", env, "user", q.actor.User)
		return q.answer(d, promoteHref(repo, env))
	case "choose":
		release, err := strconv.Atoi(q.form("release"))
		if err != nil || release < 0 {
			return &show.Error{Kind: show.Usage, What: "say which release to propose", Hint: "send release=<number>"}
		}
		d, err := q.Backend.Choose(q.r.Context(), q.actor, repo, env, release)
		if err != nil {
			return err
		}
		q.Log.Info("chosen from the console", "repo", repo, "env", env, "release", release, "user", q.actor.User)
		return q.answer(d, promoteHref(repo, env))
	default:
		return &show.Error{Kind: show.Usage, What: "a promotion can be approved, rejected or chosen",
			Hint: "send act=approve, act=reject or act=choose"}
	}
}

// notDecided shows the promotion again with why nothing was done, and keeps what
// was written.
func (q *request) notDecided(err error, reason string) error {
	var e *show.Error
	if !errors.As(err, &e) || e.Kind == show.NotFound || q.wantsJSON() {
		return err
	}
	p, view, perr := q.promotion()
	if perr != nil || view == nil {
		return err
	}
	view.Problem, view.Reason = e.What, cut(reason, 2000)
	if hint := e.Advice(q.Backend.Server(q.r.Context()).Login()); hint != "" {
		view.Problem += "; " + hint
	}
	return q.render(p, status(e.Kind))
}

// approve says yes. The form carries the tree that was
// seen: when the proposal has changed since, nothing is approved.
func approve(q *request) error {
	repo, env, reason := q.arg("repo"), q.arg("env"), strings.TrimSpace(q.form("reason"))
	d, err := q.Backend.Approve(q.r.Context(), q.actor, repo, env, q.form("tree"), reason)
	if err != nil {
		return q.notDecided(err, reason)
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
