package web

import (
	"fmt"
	"net/url"
	"path"
	"strings"

	"github.com/headgate-cd/headgate/gitd/show"
)

// commitsFacts is the JSON of a history.
type commitsFacts struct {
	Commits []show.Commit `json:"commits"`
	More    bool          `json:"more,omitempty"`
}

type commitsView struct {
	Base     string
	Revision string // whose history it is
	Rows     []show.Commit
	Older    string // where older ones are
}

// commitsPage is the history of the gated branch, or of a revision.
func commitsPage(q *request) (*page, error) {
	r, err := q.repository()
	if err != nil {
		return nil, err
	}
	revision := q.r.URL.Query().Get("from")
	if revision == "" && r.Tip == "" {
		return nil, notFound(r.Name+" has no commit yet", "push to "+r.Branch)
	}
	list, more, err := q.Backend.Commits(q.r.Context(), q.actor, r.Name, revision)
	if err != nil {
		return nil, err
	}

	base := "/" + r.Name
	view := &commitsView{Base: base, Revision: revision, Rows: list}
	if revision == "" {
		view.Revision = r.Branch
	}
	if last := len(list) - 1; more && last > 0 && len(list[last].Parents) > 0 {
		view.Older = base + "/commits?from=" + list[last].Parents[0]
	}
	p := q.repoPage(r, "commits", "Commits, "+r.Name, crumb{Text: "commits"})
	p.JSON = commitsFacts{list, more}
	p.Template, p.Data, p.Live = "commits", view, false
	p.Git = []command{{"Git", "git log " + show.Short(view.Revision)}}
	return p, nil
}

// commitView is one commit: what it says, what it changed, where it went.
type commitView struct {
	show.CommitPage
	Base  string
	Where string // what became of it, if that is known
	Facts []show.Fact
	Mark  mark
	Diff  *difference
}

func commitPage(q *request) (*page, error) {
	r, err := q.repository()
	if err != nil {
		return nil, err
	}
	c, err := q.Backend.Commit(q.r.Context(), q.actor, r.Name, q.arg("revision"))
	if err != nil {
		return nil, q.noCommit(r, err)
	}

	view := &commitView{CommitPage: c, Base: "/" + r.Name, Diff: differenceOf(r.Name, c.Difference)}
	why, err := q.Backend.Why(q.r.Context(), q.actor, r.Name, c.ID)
	switch {
	case err == nil:
		view.Where, view.Facts, view.Mark = why.Answer, why.Facts, markOf(why.State)
	case !isNotFound(err):
		q.Log.Warn("left out where a commit is", "repo", r.Name, "commit", c.ID, "err", err)
	}

	p := q.repoPage(r, "commits", show.Short(c.ID)+" "+cut(c.Subject, 60),
		crumb{Text: "commits", Href: view.Base + "/commits", Keep: true}, crumb{Text: show.Short(c.ID)})
	p.JSON = c
	p.Template, p.Data, p.Live = "commit", view, false
	p.Git = []command{{"Git", "git show " + c.ID}, {"Why", q.ssh("why " + r.Name + " " + show.Short(c.ID))}}
	return p, nil
}

func (q *request) noCommit(r *show.Repository, err error) error {
	if !isNotFound(err) {
		return err
	}
	return &nearby{err: err, nearest: []link{{Text: "commits of " + r.Branch, Href: "/" + r.Name + "/commits"}}}
}

// treeView is a directory or a file of a commit.
type treeView struct {
	show.Content
	Base  string
	Path  []link // the way from the root, the last being this
	Rows  []treeRow
	Lines []string
	Note  string // why there is no text
}

type treeRow struct {
	show.TreeEntry
	Href string
	Word string
}

func treePage(q *request) (*page, error) {
	r, err := q.repository()
	if err != nil {
		return nil, err
	}
	revision, name := q.arg("revision"), strings.Trim(q.r.URL.Query().Get("path"), "/")
	c, err := q.Backend.Content(q.r.Context(), q.actor, r.Name, revision, name)
	if err != nil {
		return nil, q.noCommit(r, err)
	}

	view := &treeView{Content: c, Base: "/" + r.Name}
	view.Path = append(view.Path, link{Text: r.Name, Href: treeHref(r.Name, revision, "")})
	for i, part := range strings.Split(name, "/") {
		if part != "" {
			upto := strings.Join(strings.Split(name, "/")[:i+1], "/")
			view.Path = append(view.Path, link{Text: part, Href: treeHref(r.Name, revision, upto)})
		}
	}
	for _, e := range c.Entries {
		row := treeRow{TreeEntry: e, Href: treeHref(r.Name, revision, path.Join(name, e.Name))}
		if e.Kind != show.File {
			row.Word = string(e.Kind)
		}
		view.Rows = append(view.Rows, row)
	}
	switch {
	case c.Binary && c.Cut:
		view.Note = "It is larger than what is shown here, " + show.Bytes(c.Size) + "."
	case c.Binary:
		view.Note = "It is not text, " + show.Bytes(c.Size) + "."
	case c.Kind == show.Submodule:
		view.Note = "A submodule, at commit " + show.Short(c.Text) + " of another repository."
	case c.Kind == show.Link:
		view.Note = "A link to " + c.Text
	case c.Kind != show.Directory:
		view.Lines = linesOf(&view.Content)
	}

	title := r.Name
	if name != "" {
		title = path.Base(name)
	}
	p := q.repoPage(r, "commits", title+" at "+show.Short(c.Commit),
		crumb{Text: show.Short(c.Commit), Href: view.Base + "/commits/" + c.Commit, Keep: true}, crumb{Text: title})
	p.JSON = c
	p.Template, p.Data, p.Live = "tree", view, false
	what := ":" + name
	if c.Kind == show.Directory {
		p.Git = []command{{"Git", "git ls-tree " + show.Short(c.Commit) + what}}
	} else {
		p.Git = []command{{"Git", fmt.Sprintf("git show '%s%s'", show.Short(c.Commit),
			strings.ReplaceAll(what, "'", `'\''`))}}
	}
	return p, nil
}

// maxFileLines bounds the lines of a file on a page, each of which is an element.
const maxFileLines = 5000

func linesOf(c *show.Content) []string {
	if c.Text == "" {
		return nil
	}
	lines := strings.Split(strings.TrimSuffix(c.Text, "\n"), "\n")
	if len(lines) > maxFileLines {
		lines, c.Cut = lines[:maxFileLines], true
	}
	for i := range lines {
		lines[i] = cut(lines[i], maxLine)
	}
	return lines
}

func treeHref(repo, revision, name string) string {
	href := "/" + repo + "/tree/" + url.PathEscape(revision)
	if name != "" {
		href += "?path=" + url.QueryEscape(name)
	}
	return href
}
