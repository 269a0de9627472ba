package web

import (
	"bytes"
	"encoding/json"

	"github.com/headgate-cd/headgate/gitd/show"
)

// decisionsFacts is the JSON of the list of decisions.
type decisionsFacts struct {
	Decisions []show.Decision `json:"decisions"`
	More      bool            `json:"more,omitempty"`
}

type decisionsView struct {
	Base  string
	Rows  []decisionRow
	Older string
}

type decisionRow struct {
	show.Decision
	Mark mark
	Href string
}

// answerMark draws what a policy answered.
func answerMark(answer string) mark {
	switch answer {
	case "auto":
		return mark{"Yes, by itself", "open", "green"}
	case "manual":
		return mark{"Asks a person", "waits", "amber"}
	case "deny":
		return mark{"No", "red", "red"}
	}
	return mark{sentence(answer), "unknown", "amber"}
}

func decisionsPage(q *request) (*page, error) {
	r, err := q.repository()
	if err != nil {
		return nil, err
	}
	list, more, err := q.Backend.Decisions(q.r.Context(), q.actor, r.Name, q.r.URL.Query().Get("before"))
	if err != nil {
		return nil, err
	}

	view := &decisionsView{Base: "/" + r.Name}
	for _, d := range list {
		view.Rows = append(view.Rows, decisionRow{d, answerMark(d.Answer), decisionHref(r.Name, d.ID)})
	}
	if more {
		view.Older = view.Base + "/decisions?before=" + list[len(list)-1].Commit
	}
	p := q.repoPage(r, "env", "Decisions, "+r.Name, crumb{Text: "decisions"})
	p.JSON = decisionsFacts{list, more}
	p.Template, p.Data, p.Live = "decisions", view, false
	p.Git = []command{{"Git", "git fetch origin refs/decisions/log && git log FETCH_HEAD"}}
	return p, nil
}

type decisionView struct {
	decisionRow
	Text string // the document, indented
}

func decisionPage(q *request) (*page, error) {
	r, err := q.repository()
	if err != nil {
		return nil, err
	}
	d, err := q.Backend.Decision(q.r.Context(), q.actor, r.Name, q.arg("id"))
	if err != nil {
		if isNotFound(err) {
			err = &nearby{err: err, nearest: []link{{Text: "decisions of " + r.Name, Href: "/" + r.Name + "/decisions"}}}
		}
		return nil, err
	}

	view := &decisionView{decisionRow: decisionRow{d, answerMark(d.Answer), ""}, Text: d.Document}
	var b bytes.Buffer
	if json.Indent(&b, []byte(d.Document), "", "  ") == nil {
		view.Text = b.String()
	}
	p := q.repoPage(r, "env", "Decision "+d.ID+", "+r.Name,
		crumb{Text: "decisions", Href: "/" + r.Name + "/decisions", Keep: true}, crumb{Text: d.ID})
	p.JSON = d
	p.Template, p.Data, p.Live = "decision", view, false
	p.Git = []command{{"Git", "git fetch origin refs/decisions/log && git show " + d.Commit}}
	return p, nil
}

func decisionHref(repo, id string) string { return "/" + repo + "/decisions/" + id }
