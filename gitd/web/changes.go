package web

import (
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/headgate-cd/headgate/gitd/show"
)

type changesView struct {
	Repo    *show.Repository
	Rows    []changeRow
	Total   int
	Filters []filter
	State   show.State
	Seek    *seek
	Beside  *beside
	All     string // where all of them are, if not here
	Cut     bool   // even "all" is more than a page holds
}

// filter is one of several narrowings of a list of which one holds.
type filter struct {
	Text, Href string
	Current    bool
}

// seek is the form that narrows a list.
type seek struct {
	Action string
	Keep   []field // of the query as it is
	Fields []field
}

// given reports whether the list is narrowed by it.
func (s *seek) given() bool {
	return slices.ContainsFunc(s.Fields, func(f field) bool { return f.Value != "" })
}

type field struct {
	Name, Value string
	Label, Hint string // what it means, and in short
}

// narrowed reads the fields of a form from the query.
func (q *request) narrowed(action string, keep []string, fields ...field) *seek {
	s := &seek{Action: action, Fields: fields}
	query := q.r.URL.Query()
	for _, name := range keep {
		if value := query.Get(name); value != "" {
			s.Keep = append(s.Keep, field{Name: name, Value: cut(value, 100)})
		}
	}
	for i := range s.Fields {
		s.Fields[i].Value = strings.TrimSpace(cut(query.Get(s.Fields[i].Name), maxField))
	}
	return s
}

// maxField is the longest text that a list is narrowed by: a path.
const maxField = 1000

// authorField and pathField narrow lists of changes, releases and deployments.
func authorField(label string) field { return field{Name: "author", Label: label, Hint: "by whom"} }

func pathField() field {
	return field{Name: "path", Label: "Changes the file or directory", Hint: "file or directory"}
}

// beside is where the parts of a list beside the one that is shown are.
type beside struct{ Older, Newer string }

// besideOf are the addresses of the parts beside one of a numbered list.
func (q *request) besideOf(b show.Beside) *beside {
	cursor := func(name string, number int) string {
		if number == 0 {
			return ""
		}
		return q.cursor(name, strconv.Itoa(number))
	}
	return &beside{Older: cursor("before", b.Older), Newer: cursor("after", b.Newer)}
}

// cursor is the address of another part of the list that is asked for.
func (q *request) cursor(name, value string) string {
	query := url.Values{}
	for k, v := range q.r.URL.Query() {
		if k != "before" && k != "after" && k != "from" && k != "all" && v[0] != "" {
			query.Set(k, v[0])
		}
	}
	if value != "" {
		query.Set(name, value)
	}
	return strings.TrimSuffix(q.r.URL.Path, "/events") + "?" + query.Encode()
}

// options are those of a command that narrows a list as the page's address does; they
// have the same names.
func (q *request) options(names ...string) string {
	var s strings.Builder
	for _, name := range names {
		if value := q.r.URL.Query().Get(name); value != "" {
			s.WriteString(" --" + name + " " + quoted(value))
		}
	}
	return s.String()
}

// part is which part of a numbered list is asked for, of what.
func (q *request) part(what string) (p show.Part, err error) {
	for name, number := range map[string]*int{"before": &p.Before, "after": &p.After} {
		text := q.r.URL.Query().Get(name)
		if text == "" {
			continue
		}
		if *number, err = strconv.Atoi(text); err != nil || *number < 1 {
			return p, &show.Error{
				Kind: show.Usage,
				What: fmt.Sprintf("%q is not the number of a %s", cut(text, 40), what),
				Hint: "send " + name + "=<number>",
			}
		}
	}
	return p, nil
}

// maxRows is the longest table a page holds.
const maxRows = 2000

func changesPage(q *request) (*page, error) {
	r, err := q.repository()
	if err != nil {
		return nil, err
	}
	query := q.r.URL.Query()
	base := "/" + r.Name + "/changes"
	view := &changesView{
		Repo:  r,
		State: show.State(query.Get("state")),
		Seek:  q.narrowed(base, []string{"state"}, authorField("Pushed or written by"), pathField()),
	}
	f := show.ChangeFilter{
		State:  view.State,
		Author: view.Seek.Fields[0].Value,
		Path:   strings.Trim(view.Seek.Fields[1].Value, "/"),
		All:    query.Has("all"),
	}
	if f.Part, err = q.part("change"); err != nil {
		return nil, err
	}
	if _, ok := marks[f.State]; f.State != "" && !ok {
		return nil, &show.Error{Kind: show.Usage, What: "there is no state " + fmt.Sprintf("%q", cut(string(f.State), 40)),
			Hint: "choose one of: landed, refused, conflict, withdrawn, running, queued, waits"}
	}
	found, err := q.Backend.Changes(q.r.Context(), q.actor, r.Name, f)
	if err != nil {
		return nil, err
	}
	found.Changes = orEmpty(found.Changes)
	view.Total, view.Beside = found.Total, q.besideOf(found.Beside)
	for _, s := range []show.State{"", show.Landed, show.Refused, show.Conflict, show.Withdrawn, show.Running,
		show.Queued, show.Waits} {
		k := filter{Text: "Newest", Href: base, Current: s == f.State}
		if s != "" {
			k.Text, k.Href = markOf(s).Word, base+"?state="+url.QueryEscape(string(s))
		}
		view.Filters = append(view.Filters, k)
	}
	if found.Older > 0 && f.Part == (show.Part{}) && !view.Seek.given() {
		view.All = base + "?all"
		if f.State != "" {
			view.All = base + "?all&state=" + url.QueryEscape(string(f.State))
		}
	}
	list := found.Changes
	if len(list) > maxRows {
		list, view.Cut = list[:maxRows], true
	}
	for _, c := range list {
		view.Rows = append(view.Rows, rowOf(c))
	}
	p := q.repoPage(r, "changes", "Changes, "+r.Name, crumb{Text: "changes"})
	p.JSON = found
	p.Template, p.Data, p.Parts = "changes", view, []string{"changes-list", "asof"}
	p.Git = []command{{"Git", `git ls-remote origin "refs/changes/*/head"`},
		{"SSH", q.ssh("change list " + r.Name + q.options("state", "author", "path", "before", "after"))}}
	return p, nil
}
