package web

import (
	"fmt"
	"time"

	"github.com/headgate-cd/headgate/gitd/show"
)

// stage is main or an environment, as one stretch of the same water.
type stage struct {
	Name     string
	Href     string
	Release  int
	RelHref  string
	Under    string // under the number: how far behind, or what landed
	Moved    string // how the commit got there: landed, or committed where nothing lands
	Commit   string
	At       time.Time
	States   []mark
	More     string
	Since    time.Time
	Link     *link // the promotion that waits
	LinkMore string
	Y        int  // of the water's surface, percent from the top
	Dry      bool // nothing runs here yet
	Gate     bool // there is a gate before it
	Open     bool // and it lets water through
}

// Height is how much of the stage is water.
func (r stage) Height() int { return 100 - r.Y }

// Levels: the surface of main, the drop per release behind, the lowest.
const (
	stageTop  = 12
	stageDrop = 16
	stageLow  = 80
)

// stagesOf is a repository's water: its branch, then each environment in order.
func stagesOf(r *show.Repository, now time.Time) []stage {
	first := stage{Name: r.Branch, Href: "/" + r.Name + "/changes?state=landed", Release: r.Release, Commit: r.Tip,
		At: r.LandedAt, Y: stageTop, States: []mark{markOf(r.State)}, Moved: "landed"}
	if !r.Gated {
		first.Moved = "committed"
	}
	if r.Release > 0 {
		first.RelHref = fmt.Sprintf("/%s/releases/%d", r.Name, r.Release)
	}
	if r.Tree != "" {
		first.More = "tree " + show.Short(r.Tree)
	}
	first.Dry = r.Tip == ""
	all := []stage{first}
	for _, e := range r.Environments {
		k := stage{
			Name: e.Name, Href: envHref(r.Name, e.Name), Release: e.Release, Gate: true,
			Dry: e.Release == 0, Y: min(stageTop+stageDrop*max(r.Release-e.Release, 0), stageLow),
		}
		if e.Release > 0 {
			k.RelHref = fmt.Sprintf("/%s/releases/%d", r.Name, e.Release)
		}
		from := r.Branch
		if e.After != "" {
			from = e.After
		}
		switch {
		case e.Release == 0:
			k.Under = "nothing promoted yet"
		case e.Behind == 0:
			k.Under, k.Open = "level with "+from, true
		default:
			k.Under = show.Plural(e.Behind, "release") + " behind " + from
		}
		k.States, k.More = envMarks(e)
		if e.State == show.Healthy {
			k.Since = e.Since
		}
		if p := e.Promotion; p != nil {
			k.Open = false
			k.Link = &link{Text: promotionLabel(p), Href: promoteHref(r.Name, e.Name)}
			if p.NotBefore.After(now) {
				k.LinkMore = "opens " + clock(show.FullMinute(p.NotBefore), now, false, true) + " at the earliest"
			} else if p.Stuck {
				k.LinkMore = "nobody is there to approve"
			} else if personMissing(p) {
				k.LinkMore = "until a person acts"
			}
		}
		if e.Held != nil {
			k.Open = false
		}
		all = append(all, k)
	}
	return all
}

// envMarks are the states of an environment, the worst news first, and what is
// said under them.
func envMarks(e show.Environment) ([]mark, string) {
	var marks []mark
	if e.State != show.Healthy && e.State != show.Empty {
		marks = append(marks, markOf(e.State))
	}
	if p := e.Promotion; p != nil {
		marks = append(marks, promotionMark(p))
	}
	if e.Held != nil {
		marks = append(marks, marked(show.Hold, "Hold by "+e.Held.By))
	}
	if len(marks) == 0 {
		marks = append(marks, markOf(e.State))
	}
	return marks, e.Reason
}

func personMissing(p *show.Promotion) bool {
	for _, c := range p.Checks {
		if !c.Met && c.UntilPerson {
			return true
		}
	}
	return false
}

// needsSomebody says whether an environment asks for attention: the count
// beside its tab.
func needsSomebody(e show.Environment) bool {
	switch e.State {
	case show.Failed, show.Drift, show.Unknown:
		return true
	}
	return e.Promotion != nil || e.Held != nil
}

func envHref(repo, env string) string     { return "/" + repo + "/env/" + env }
func promoteHref(repo, env string) string { return "/" + repo + "/promote/" + env }
