package web

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/headgate-cd/headgate/gitd/show"
)

// changeView is the developer's page: the verdict, the log, the story.
type changeView struct {
	show.Change
	Mark    mark
	When    time.Time // of the state
	Verdict verdict
	Tests   *changeTests
	Log     *buildLog
	LogID   string  // finds in the journal why the log could not be read
	NoLog   string  // why there is none
	Needs   []check // what landing still wants
	Next    []string

	DiffHref string
	Diff     *difference
	Revs     []revision
	Story    []storyEntry
}

// verdict is the page's one panel: the answer, then the evidence.
type verdict struct {
	Colour   string
	Headline string
	Facts    []fact
	Details  []string
	Files    []string
	Next     string
}

// fact is one labelled line; Href makes it a link, Mono says it can be pasted.
type fact struct {
	Label, Text, Href string
	Mono              bool
	Mark              *mark
	More              string
}

type revision struct {
	Number  int
	Commit  string
	Mark    mark
	Compare string // the command that shows what changed since the one before
	Href    string // the page that does
}

type storyEntry struct {
	show.Event
	Text string
	Mark mark
}

func changePage(q *request) (*page, error) {
	r, err := q.repository()
	if err != nil {
		return nil, err
	}
	c, err := q.change(r)
	if err != nil {
		return nil, err
	}
	view := &changeView{Change: c, Mark: markOf(c.State), When: c.EndedAt}
	if view.When.IsZero() {
		view.When = c.PushedAt
	}
	view.Verdict = q.verdict(r, &c)
	other := q.otherLog(&c) != ""
	if view.Log, err = q.buildLog(&c); other && isNotFound(err) {
		return nil, &nearby{err: err, nearest: []link{{Text: fmt.Sprintf("change %d", c.Number), Href: changeHref(c)}}}
	} else if err != nil {
		// The verdict is in Git and does not need the log: the page stands without it.
		view.LogID = newID()
		q.Log.Error("could not read a log", "id", view.LogID, "repo", r.Name, "change", c.Number, "err", err)
	}
	view.NoLog = noLog(&c)
	if view.Tests, err = q.changeTests(&c); err != nil {
		q.Log.Warn("left out what tests have said", "repo", r.Name, "change", c.Number, "err", err)
	}
	view.DiffHref = changeHref(c) + "/diff"
	view.Diff = q.changeDiff(&c, 0, c.Revision)
	if c.State != show.Landed && c.State != show.Withdrawn {
		why, err := q.Backend.Why(q.r.Context(), q.actor, r.Name, fmt.Sprint(c.Number))
		if err != nil && !isNotFound(err) {
			q.Log.Warn("left out what landing needs", "repo", r.Name, "change", c.Number, "err", err)
		}
		view.Needs, view.Next = checksOf(why.Checks, q.now), why.Next
	}
	for i, commit := range slices.Backward(c.Revisions) {
		k := revision{Number: i + 1, Commit: commit, Mark: mark{"replaced", "stopped", ""}}
		if i+1 == len(c.Revisions) {
			k.Mark = marked(c.State, strings.ToLower(markOf(c.State).Word))
		}
		if i > 0 {
			k.Compare = "git range-diff " + show.Short(c.Revisions[i-1]) + "..." + show.Short(commit)
			k.Href = fmt.Sprintf("%s/diff?revision=%d&from=%d", changeHref(c), i+1, i)
		}
		view.Revs = append(view.Revs, k)
	}
	for _, e := range slices.Backward(c.Story) {
		k := storyEntry{Event: e, Text: sentence(e.What), Mark: storyMark(e)}
		if e.By != "" {
			k.Text, k.By = e.By+" "+e.What, "" // a user's name is written as the user writes it, and once
		}
		view.Story = append(view.Story, k)
	}
	n := fmt.Sprint(c.Number)
	p := q.repoPage(r, "changes", fmt.Sprintf("%s: %d %s", view.Mark.Word, c.Number, cut(c.Subject, 60)),
		crumb{Text: "change " + n})
	p.JSON = c
	p.Template, p.Data = "change", view
	p.Parts = []string{"change-head", "change-verdict", "change-tests", "change-log", "change-side", "asof"}
	p.Moving = c.Build != nil && c.Build.State == show.Running
	p.Live = p.Live && !other // updates are of the newest build
	if view.Log != nil && !other {
		p.Log = &logTail{Build: view.Log.Build.ID, State: view.Log.Build.State, Events: view.Log.events}
	}
	p.Say = "change " + n + ": " + strings.ToLower(view.Mark.Word)
	p.Git = []command{
		{"Git", "git fetch origin refs/changes/" + n + "/log && git log --first-parent FETCH_HEAD"},
		{"SSH", q.ssh("change show " + r.Name + " " + n)},
	}
	if c.Build != nil {
		p.Git = append(p.Git, command{"Log", q.ssh("change log " + r.Name + " " + n)})
	}
	if c.Build != nil || c.EndedAt.IsZero() {
		p.Git = append(p.Git, command{"Laptop",
			"git fetch origin refs/changes/" + n + "/head && git switch --detach FETCH_HEAD && headgate run"})
	}
	if c.MayWithdraw {
		p.Git = append(p.Git, command{"Withdraw", "git push -o cancel=" + n + " origin HEAD:refs/for/" + c.Branch})
	}
	if c.MayRetry {
		p.Git = append(p.Git, command{"Retry", "git fetch origin refs/changes/" + n +
			"/head && git push -o rebuild origin FETCH_HEAD:refs/for/" + c.Branch})
	}
	return p, nil
}

// changeAct withdraws a change, or proposes it once more.
func changeAct(q *request) error {
	r, err := q.repository()
	if err != nil {
		return err
	}
	c, err := q.change(r)
	if err != nil {
		return err
	}

	var d show.Done
	act, where := q.form("act"), changeHref(c)
	switch act {
	case "withdraw":
		d, err = q.Backend.Withdraw(q.r.Context(), q.actor, r.Name, c.Number)
	case "retry":
		where = "/" + r.Name + "/changes"
		d, err = q.Backend.Retry(q.r.Context(), q.actor, r.Name, c.Number)
	default:
		return &show.Error{Kind: show.Usage, What: "choose what to do with the change",
			Hint: "send act=withdraw or act=retry"}
	}
	if err != nil {
		return err
	}
	q.Log.Info("acted from the console", "act", act, "repo", r.Name, "change", c.Number, "user", q.actor.User)
	return q.answer(d, where)
}

// noLog says why a change has no log to show.
func noLog(c *show.Change) string {
	switch {
	case c.EndedAt.IsZero():
		return "No build of this revision yet, so there is no log."
	case c.State == show.Landed:
		return "It landed without a build, so there is no log."
	}
	return "It was never built, so there is no log."
}

// change is the change of the address.
func (q *request) change(r *show.Repository) (show.Change, error) {
	all := link{Text: "all changes of " + r.Name, Href: "/" + r.Name + "/changes"}
	n, ok := q.number()
	if !ok {
		return show.Change{}, &nearby{err: notFound("a change is a number, and "+cut(q.arg("n"), 40)+" is not one", ""),
			nearest: []link{all}}
	}
	c, err := q.Backend.Change(q.r.Context(), q.actor, r.Name, n)
	if err == nil || !isNotFound(err) {
		return c, err
	}
	near := []link{all}
	if found, lerr := q.Backend.Changes(q.r.Context(), q.actor, r.Name, show.ChangeFilter{}); lerr == nil &&
		len(found.Changes) > 0 && n > found.Changes[0].Number {
		newest := found.Changes[0]
		near = append([]link{{Text: fmt.Sprintf("change %d, the newest", newest.Number), Href: changeHref(newest)}}, near...)
	}
	return c, &nearby{err: err, nearest: near}
}

// verdict words the state of a change as an answer with its evidence.
func (q *request) verdict(r *show.Repository, c *show.Change) verdict {
	d := verdict{Colour: markOf(c.State).Colour, Details: c.Details, Files: c.Files, Next: c.Hint}
	if c.MoreFiles > 0 {
		d.Details = append(slices.Clip(d.Details), show.Plural(c.MoreFiles, "more file"))
	}
	because := func(head string) string {
		if c.Reason == "" {
			return head
		}
		return head + ": " + c.Reason
	}
	if c.TestedWith != "" && c.State != show.Landed {
		d.Facts = append(d.Facts, fact{Label: "Tested as", Text: c.TestedWith, Mono: true})
	}
	switch c.State {
	case show.Landed:
		d.Headline = "Landed as " + show.Short(c.Candidate) + " on " + c.Branch
		if c.Release > 0 {
			d.Facts = append(d.Facts, fact{Label: "Release", Text: fmt.Sprint(c.Release),
				Href: fmt.Sprintf("/%s/releases/%d", r.Name, c.Release)})
		}
		if len(c.RunsIn) > 0 {
			d.Facts = append(d.Facts, fact{Label: "Runs in", Text: names(c.RunsIn)})
		} else if len(r.Environments) > 0 {
			d.Facts = append(d.Facts, fact{Label: "Runs in", Text: "no environment yet", More: "or no longer"})
		}
		if !c.EndedAt.IsZero() {
			d.Facts = append(d.Facts, fact{Label: "Took", Text: minutes(c.EndedAt.Sub(c.PushedAt)), More: "from the push"})
		}
		if b := c.Build; b != nil && b.Reused {
			d.Facts = append(d.Facts, fact{Label: "Build", Text: "none needed",
				More: "tree " + show.Short(b.Tree) + " was green already"})
		}
	case show.Refused:
		d.Headline = because("Refused")
		d.Next = strings.TrimSpace(d.Next)
	case show.Conflict:
		d.Headline = conflictText(c)
		if c.EndedAt.IsZero() {
			d.Colour = "amber"
		}
	case show.Running:
		d.Headline = "Building"
		if _, _, text := running(c, q.now); text != "" {
			d.Headline = "Building, " + text
		}
		d.Colour = "water"
	case show.Green:
		d.Headline = because("Green, waits to land")
	case show.Queued:
		d.Headline = because(fmt.Sprintf("Queued at place %d", c.Place))
	case show.Waits:
		d.Headline = because("Waits")
	case show.Withdrawn:
		d.Headline = because("Withdrawn")
	default:
		d.Headline = because(markOf(c.State).Word)
	}
	if c.Behind > 0 && c.State != show.Landed {
		d.Facts = append(d.Facts, fact{Label: "Behind", Text: fmt.Sprintf("change %d", c.Behind),
			Href: fmt.Sprintf("/%s/changes/%d", r.Name, c.Behind), More: "which lands or fails first"})
	}
	if b := c.Build; b != nil && b.State == show.Failed {
		if b.Command != "" {
			text := b.Command
			if b.Phase != "" {
				text = b.Phase + ": " + text
			}
			f := fact{Label: "Command", Text: text, Mono: true}
			if b.Exit != 0 {
				f.More = fmt.Sprintf("exit status %d", b.Exit)
			}
			d.Facts = append(d.Facts, f)
		}
		if b.LogLine > 0 {
			d.Facts = append(d.Facts, fact{Label: "Where", Text: fmt.Sprintf("log line %d", b.LogLine),
				Href: fmt.Sprintf("#L%d", b.LogLine)})
		}
		if b.Reason != "" && b.Reason != c.Reason {
			d.Facts = append(d.Facts, fact{Label: "Build says", Text: b.Reason})
		}
	}
	if c.Tip != "" {
		d.Facts = append(d.Facts, fact{Label: c.Branch, Text: "stays at " + show.Short(c.Tip)})
	}
	if text := landsText(c.Estimate, q.now, true); text != "" {
		d.Facts = append(d.Facts, fact{Label: "Lands", Text: text, More: "if it is green"})
	} else if c.State == show.Queued || c.State == show.Running {
		d.Facts = append(d.Facts, fact{Label: "Lands", Text: "when is not known"})
	}
	return d
}

// conflictText says that a change conflicts, and with what where that is known.
func conflictText(c *show.Change) string {
	if c.Reason == "" {
		return "Conflict"
	}
	return sentence(c.Reason)
}

// storyMark chooses the shape beside an entry of the story. What it does not
// recognise gets a neutral one: nothing templates green by accident.
func storyMark(e show.Event) mark {
	switch e.Kind {
	case "pushed":
		return markOf(show.Queued)
	case "tested":
		return markOf(show.Green)
	case "waits", "landed", "refused", "conflict", "withdrawn":
		return markOf(show.State(e.Kind))
	}
	return mark{"", "queued", ""}
}

// check is a condition of a gate as a row of the checklist.
type check struct {
	show.Check
	Mark  mark
	Until string
	Bar   int // percent, of a condition of time
}

// checksOf draws conditions: open ones first, each with until when or until a
// person acts, met ones with when.
func checksOf(list []show.Check, now time.Time) []check {
	var open, met []check
	for _, c := range list {
		k := check{Check: c, Mark: markOf(show.Waits)}
		switch {
		case c.Met:
			k.Mark = mark{"met", "green", "green"}
			if !c.Until.IsZero() {
				k.Until = clock(show.FullMinute(c.Until), now, false, true)
			}
			met = append(met, k)
			continue
		case c.UntilPerson && len(c.Who) == 0:
			k.Mark = markOf(show.Refused)
			k.Until = "nobody is there to act"
		case c.UntilPerson:
			k.Until = "until a person acts"
		case !c.Until.IsZero():
			k.Mark = markOf(show.Running)
			k.Until = "until " + clock(show.FullMinute(c.Until), now, false, true)
		default:
			k.Until = "until when is not known"
		}
		k.Mark.Word = "open"
		if k.Who = c.Who; slices.IndexFunc(c.Who, func(name string) bool { return !strings.Contains(c.Detail, name) }) < 0 {
			k.Who = nil // the detail names them already
		}
		if c.Progress > 0 {
			k.Bar = int(min(c.Progress, 1)*100 + 0.5)
		}
		open = append(open, k)
	}
	return append(open, met...)
}
