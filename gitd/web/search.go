package web

import (
	"strings"

	"github.com/headgate-cd/headgate/gitd/show"
)

// searchView is what a search found: repositories, changes, commits, lines of logs.
type searchView struct {
	show.Found
	Changes []changeRow
	Logs    []foundLog
}

// foundLog is what a search found in the log of one build.
type foundLog struct {
	show.FoundLine // the first of Lines
	Lines          []show.FoundLine
}

func searchPage(q *request) (*page, error) {
	query := cut(strings.TrimSpace(q.r.URL.Query().Get("q")), 200)
	found := show.Found{Query: query, Repositories: []show.Repository{}, Changes: []show.Change{},
		Commits: []show.FoundCommit{}, Lines: []show.FoundLine{}}
	if query != "" {
		var err error
		if found, err = q.Backend.Search(q.r.Context(), q.actor, query); err != nil {
			return nil, err
		}
	}

	view := &searchView{Found: found}
	for _, c := range found.Changes {
		view.Changes = append(view.Changes, rowOf(c))
	}
	for _, l := range found.Lines {
		if n := len(view.Logs); n == 0 || view.Logs[n-1].Build != l.Build {
			view.Logs = append(view.Logs, foundLog{FoundLine: l})
		}
		of := &view.Logs[len(view.Logs)-1]
		of.Lines = append(of.Lines, l)
	}
	p := &page{
		Title:    "Search",
		Crumbs:   []crumb{{Text: q.server.Name, Href: "/", Keep: true}, {Text: "search"}},
		Template: "search",
		Data:     view,
		JSON:     found,
	}
	p.Git = []command{{"SSH", q.ssh("help search")}}
	if query != "" {
		p.Git = []command{{"SSH", q.ssh("search " + quoted(query))}}
		p.Title = "Search: " + cut(query, 60)
	}
	return p, nil
}

// quoted is a word as a shell takes it, twice: SSH hands its command to one.
func quoted(word string) string {
	if word != "" && strings.Trim(word, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_./") == "" {
		return word
	}
	return `"'` + strings.NewReplacer(`'`, `'\''`, `"`, `\"`, "$", `\$`, "`", "\\`", `\`, `\\`).Replace(word) + `'"`
}
