package web

import (
	"fmt"
	"strconv"
	"sync"

	"github.com/headgate-cd/headgate/gitd/show"
)

// difference is a comparison as a page shows it: what is a rule first, then
// files, folded where they are long, then artifacts.
type difference struct {
	show.Comparison
	Base      string // "/checkout", before the addresses of commits
	Files     []diffFile
	Rules     int // how many of the files are rules
	Artifacts []diffArtifact
	Same      int // artifacts that are the same
	Problem   string
}

// diffFile is one file; ID is the same as long as the list is.
type diffFile struct {
	show.FileDiff
	ID   string
	Open bool
	Note string // what its lines do not say
}

type diffArtifact struct {
	show.ArtifactDiff
	Note string
}

// What of a difference is unfolded at first.
const (
	openFileLines = 60
	openLines     = 300
)

func differenceOf(repo string, c show.Comparison) *difference {
	d := &difference{Comparison: c, Base: "/" + repo}
	lines := 0
	for i, f := range c.Files {
		k := diffFile{FileDiff: f, ID: "f" + strconv.Itoa(i+1), Note: fileNote(f)}
		if f.Rule {
			d.Rules++
		}
		if len(f.Lines) > 0 && (f.Rule || len(f.Lines) <= openFileLines && lines+len(f.Lines) <= openLines) {
			k.Open = true
			lines += len(f.Lines)
		}
		d.Files = append(d.Files, k)
	}
	for _, a := range c.Artifacts {
		if a.State == show.FileSame {
			d.Same++
			continue
		}
		k := diffArtifact{ArtifactDiff: a}
		switch {
		case a.State != show.FileChanged:
			k.Note = string(a.State)
		case a.Why != "":
			k.Note = "which files differ is not known: " + a.Why
		case len(a.Files) == 0:
			k.Note = "no file differs, only how they are packed"
		default:
			k.Note = show.Plural(len(a.Files), "file") + " differ"
			if len(a.Files) == 1 {
				k.Note = "1 file differs"
			}
		}
		d.Artifacts = append(d.Artifacts, k)
	}
	return d
}

// fileNote says of a file what its lines do not.
func fileNote(f show.FileDiff) string {
	note := ""
	add := func(s string) {
		if note != "" {
			note += ", "
		}
		note += s
	}
	switch f.State {
	case show.FileAdded, show.FileRemoved:
		add(string(f.State))
	case show.FileRenamed:
		add("was " + f.From)
	}
	switch {
	case f.OldMode != "":
		add("mode " + f.OldMode + " → " + f.Mode)
	case f.Mode == "160000":
		add("submodule")
	case f.Mode == "120000":
		add("link")
	case f.Mode == "100755" && f.State == show.FileAdded:
		add("executable")
	}
	if f.Binary {
		add("binary")
	}
	return note
}

// Stat is the difference in one line.
func (d *difference) Stat() string {
	return fmt.Sprintf("%s, +%s −%s", show.Plural(d.Changed, "file"), show.Thousands(d.Added), show.Thousands(d.Removed))
}

// Left is how many files are not listed.
func (d *difference) Left() int { return d.Changed - len(d.Files) }

// differences keeps the newest comparisons: two commits differ for ever as they
// do now, and a live page asks again with each redraw. Safe for concurrent use.
type differences struct {
	mu  sync.Mutex // guards the rest
	all map[string]show.Comparison
}

// maxDifferences bounds differences.all.
const maxDifferences = 16

// get is what key names, made by compare if it is not kept. Whoever asks has
// been allowed to read the repository, whose name is part of the key.
func (d *differences) get(key string, compare func() (show.Comparison, error)) (show.Comparison, error) {
	d.mu.Lock()
	c, ok := d.all[key]
	d.mu.Unlock()
	if ok {
		return c, nil
	}
	c, err := compare()
	if err != nil {
		return c, err
	}

	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.all) >= maxDifferences || d.all == nil {
		d.all = map[string]show.Comparison{}
	}
	d.all[key] = c
	return c, nil
}

// releaseDiff is the difference between two releases. A page whose facts stand
// in Git does not fail for it: then it says so.
func (q *request) releaseDiff(repo string, from, to int) *difference {
	c, err := q.differences.get(fmt.Sprintf("%s release %d %d", repo, from, to), func() (show.Comparison, error) {
		return q.Backend.ReleaseDiff(q.r.Context(), q.actor, repo, from, to)
	})
	return q.differenceOr(repo, c, err)
}

// changeDiff is what a revision of a change alters, or alters since revision
// from.
func (q *request) changeDiff(c *show.Change, from, revision int) *difference {
	key := fmt.Sprintf("%s change %d %d %d %s %s", c.Repository, c.Number, from, revision, c.Commit, c.Candidate)
	d, err := q.differences.get(key, func() (show.Comparison, error) {
		return q.Backend.ChangeDiff(q.r.Context(), q.actor, c.Repository, c.Number, from, revision)
	})
	return q.differenceOr(c.Repository, d, err)
}

func (q *request) differenceOr(repo string, c show.Comparison, err error) *difference {
	d := differenceOf(repo, c)
	if err == nil {
		return d
	}
	id := newID()
	q.Log.Warn("left out a difference", "id", id, "repo", repo, "path", q.r.URL.Path, "err", err)
	d.Problem = "the difference could not be worked out; your operator finds why in the journal by the id " + id
	if isForPeople(err) {
		d.Problem = err.Error()
	}
	return d
}

// changeDiffView is the page of what a change alters.
type changeDiffView struct {
	show.Change
	Mark      mark
	Shown     int // the revision
	From      int // the earlier one it is compared with, 0: none
	Against   []link
	Now       string // which of Against is shown
	Diff      *difference
	Proposals []int
}

func changeDiffPage(q *request) (*page, error) {
	r, err := q.repository()
	if err != nil {
		return nil, err
	}
	c, err := q.change(r)
	if err != nil {
		return nil, err
	}
	view := &changeDiffView{Change: c, Mark: markOf(c.State), Shown: c.Revision}
	query := q.r.URL.Query()
	if view.Shown, err = revisionOf(query.Get("revision"), len(c.Revisions), c.Revision); err != nil {
		return nil, err
	}
	if view.From, err = revisionOf(query.Get("from"), view.Shown-1, 0); err != nil {
		return nil, err
	}

	base := changeHref(c) + "/diff"
	address := func(from, revision int) string {
		return fmt.Sprintf("%s?revision=%d&from=%d", base, revision, from)
	}
	view.Against = append(view.Against,
		link{Text: "all of revision " + strconv.Itoa(view.Shown), Href: fmt.Sprintf("%s?revision=%d", base, view.Shown)})
	view.Now = view.Against[0].Text
	for from := view.Shown - 1; from > 0 && len(view.Against) < 20; from-- {
		k := link{Text: fmt.Sprintf("since revision %d", from), Href: address(from, view.Shown)}
		if from == view.From {
			view.Now = k.Text
		}
		view.Against = append(view.Against, k)
	}
	view.Diff = q.changeDiff(&c, view.From, view.Shown)

	n := strconv.Itoa(c.Number)
	p := q.repoPage(r, "changes", fmt.Sprintf("Difference: %d %s", c.Number, cut(c.Subject, 60)),
		crumb{Text: "change " + n, Href: changeHref(c), Keep: true}, crumb{Text: "difference"})
	p.JSON = view.Diff.Comparison
	p.Template, p.Data, p.Live = "change-diff", view, false
	fetch := "git fetch origin refs/changes/" + n + "/log"
	for i, line := range view.Diff.Git {
		if i == 0 {
			line = fetch + " && " + line
		}
		p.Git = append(p.Git, command{"Git", line})
	}
	ssh := "change diff " + r.Name + " " + n
	if view.Shown != c.Revision {
		ssh += fmt.Sprintf(" --revision %d", view.Shown)
	}
	if view.From > 0 {
		ssh += fmt.Sprintf(" --from %d", view.From)
	}
	p.Git = append(p.Git, command{"SSH", q.ssh(ssh)})
	return p, nil
}

// revisionOf reads the number of a revision, otherwise if there is none.
func revisionOf(text string, last, otherwise int) (int, error) {
	if text == "" {
		return otherwise, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 0 || n > last {
		return 0, notFound(fmt.Sprintf("there is no revision %q to compare with", cut(text, 20)), "")
	}
	return n, nil
}

// comparePage is the difference between any two commits.
func comparePage(q *request) (*page, error) {
	r, err := q.repository()
	if err != nil {
		return nil, err
	}
	from, to := q.arg("from"), q.arg("to")
	c, err := q.Backend.Compare(q.r.Context(), q.actor, r.Name, from, to)
	if err != nil {
		return nil, err
	}
	d := differenceOf(r.Name, c)
	title := show.Short(from) + " to " + show.Short(to)
	p := q.repoPage(r, "commits", "Difference, "+title,
		crumb{Text: "commits", Href: "/" + r.Name + "/commits", Keep: true}, crumb{Text: title})
	p.JSON = c
	p.Template, p.Data, p.Live = "compare", d, false
	for _, line := range c.Git {
		p.Git = append(p.Git, command{"Git", line})
	}
	return p, nil
}
