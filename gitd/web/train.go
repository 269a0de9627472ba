package web

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/headgate-cd/headgate/gitd/show"
)

// shownBesideTrain is how long a refused change stays beside the train before it
// is only in the list of changes.
const shownBesideTrain = 10 * time.Minute

// train is the queue as it is drawn: main, the gate, and the changes behind it.
type train struct {
	Repo    *show.Repository
	Last    *show.Change // what landed last, if known
	Entries []entry
	More    int    // entries not drawn
	Why     string // what the entries not drawn do
	Next    string // when the next lands, and the last
	Said    string // the whole train as one sentence
	Quiet   bool   // nothing is queued
}

// entry is one change in the train.
type entry struct {
	show.Change
	Mark     mark
	Href     string
	Off      bool // it has left the train
	Waits    bool // nothing is being built for it yet
	Progress *progress
	Elapsed  string // 3:12 of ~4:30
	Lands    string // lands ~14:06
	LogHref  string
	Ended    string // when it left the train
}

// progress is how far a build is as a height, in percent of the entry.
type progress struct{ Y, H int }

func progressOf(fraction float64) *progress {
	h := int(fraction*100 + 0.5)
	h = min(max(h, 2), 100)
	return &progress{Y: 100 - h, H: h}
}

// running says how far the build of c is, as far as that is known.
func running(c *show.Change, now time.Time) (fraction float64, known bool, text string) {
	if c.Build == nil || c.Build.State != show.Running || c.Build.Started.IsZero() {
		return 0, false, ""
	}
	ran, expected := now.Sub(c.Build.Started), time.Duration(c.Expected)
	if expected <= 0 {
		return 0, false, show.Elapsed(ran) + ", no estimate yet"
	}
	if ran > expected {
		usually := show.Elapsed(expected)
		if expected < time.Second {
			usually = minutes(expected)
		}
		return 0.96, true, show.Elapsed(ran) + ", usually " + usually
	}
	return max(ran.Seconds(), 0) / expected.Seconds(), true, show.Elapsed(ran) + " of ~" + show.Elapsed(expected)
}

// landsText is when an open change lands, empty where nothing is known.
func landsText(e show.Estimate, now time.Time, zone bool) string {
	return e.Text(func(at time.Time) string { return clock(at, now, false, zone) })
}

// buildTrain makes the train of a repository. recent are its newest changes: those
// that left a short while ago still stand beside it. At most limit entries are
// drawn, 0 for all.
func buildTrain(r *show.Repository, recent []show.Change, now time.Time, limit int) *train {
	t := &train{Repo: r, Quiet: len(r.Queue) == 0}
	in := map[int]bool{}
	var landing []string
	for _, c := range r.Queue {
		in[c.Number] = true
		t.Entries = append(t.Entries, entryOf(c, now))
		if text := landsText(c.Estimate, now, true); text != "" {
			landing = append(landing, text)
		}
	}
	for _, c := range recent {
		if c.State == show.Landed && c.Branch == r.Branch && (t.Last == nil || c.EndedAt.After(t.Last.EndedAt)) {
			t.Last = &c
		}
		if in[c.Number] || c.Branch != r.Branch || c.State != show.Refused && c.State != show.Conflict ||
			c.EndedAt.IsZero() || now.Sub(c.EndedAt) > shownBesideTrain {
			continue
		}
		place := len(t.Entries)
		for i := range t.Entries {
			if t.Entries[i].Number > c.Number {
				place = i
				break
			}
		}
		t.Entries = slices.Insert(t.Entries, place, entryOf(c, now))
	}
	switch {
	case t.Quiet:
		t.Next = r.Branch + " is still; push to start."
	case len(landing) == 0:
		t.Next = show.Plural(len(r.Queue), "change") + " ahead of " + r.Branch + "; when the next one lands is not known."
	case len(landing) == 1:
		t.Next = fmt.Sprintf("%s ahead of %s. Next landing %s.", show.Plural(len(r.Queue), "change"), r.Branch, landing[0])
	default:
		t.Next = fmt.Sprintf("%s ahead of %s. Next landing %s, the last %s.", show.Plural(len(r.Queue), "change"), r.Branch,
			landing[0], landing[len(landing)-1])
	}
	t.Said = sayQueue(r.Queue)
	if limit > 0 && len(t.Entries) > limit {
		rest := make([]show.Change, 0, len(t.Entries)-limit)
		for _, c := range t.Entries[limit:] {
			rest = append(rest, c.Change)
		}
		t.More, t.Why, t.Entries = len(rest), sayQueue(rest), t.Entries[:limit]
	}
	return t
}

func entryOf(c show.Change, now time.Time) entry {
	k := entry{Change: c, Mark: markOf(c.State), Href: changeHref(c),
		Waits: c.State == show.Queued || c.State == show.Waits}
	switch c.State {
	case show.Refused, show.Conflict:
		k.Off = true
		if c.State == show.Refused {
			k.Mark = mark{"Left the train", "off", "red"}
		}
		if !c.EndedAt.IsZero() {
			k.Ended = clock(c.EndedAt, now, true, false)
		}
	case show.Green:
		k.Progress, k.Elapsed = progressOf(1), "waits to land"
	case show.Running:
		if f, known, text := running(&c, now); text != "" {
			k.Elapsed = text
			if known {
				k.Progress = progressOf(f)
			}
		}
	}
	if k.Waits && k.Reason == "" {
		k.Reason = waitsFor(&c)
	}
	switch {
	case c.Build == nil:
	case c.Build.LogLine > 0:
		k.LogHref = fmt.Sprintf("%s#L%d", k.Href, c.Build.LogLine)
	case c.Build.Log != "" || c.Build.State == show.Failed:
		k.LogHref = k.Href + "#log"
	}
	lands := landsText(c.Estimate, now, false)
	switch {
	case lands != "":
		k.Lands = "lands " + lands
	case !k.Off:
		k.Lands = "end not known"
	}
	return k
}

// waitsFor says why nothing is being built for c yet.
func waitsFor(c *show.Change) string {
	switch {
	case c.Reason != "":
		return c.Reason
	case c.Behind > 0:
		return fmt.Sprintf("behind %d", c.Behind)
	}
	return ""
}

// sayQueue tells a queue in words: one running, two queued, one conflicts.
func sayQueue(queue []show.Change) string {
	if len(queue) == 0 {
		return "queue empty"
	}
	var order []show.State
	n := map[show.State]int{}
	for _, c := range queue {
		if n[c.State] == 0 {
			order = append(order, c.State)
		}
		n[c.State]++
	}
	var said []string
	for _, s := range order {
		said = append(said, fmt.Sprintf("%d %s", n[s], strings.ToLower(markOf(s).Word)))
	}
	return strings.Join(said, ", ")
}

func changeHref(c show.Change) string { return fmt.Sprintf("/%s/changes/%d", c.Repository, c.Number) }

// mini is the train small enough for a table: positions in a drawing.
type mini struct {
	Width   int
	Entries []miniEntry
	Said    string
}

type miniEntry struct {
	Shape      string // box or bad
	Coupling   int    // where the coupling begins
	X          int
	Y, H       float64 // of the water inside
	Filled     bool
	InnerX     int
	CouplingTo int
}

// maxMini is how many entries a table shows; the sentence has the number.
const maxMini = 6

func miniOf(queue []show.Change, now time.Time) *mini {
	m := &mini{Said: "queue: " + sayQueue(queue)}
	x := 11
	for i, c := range queue {
		if i == maxMini {
			break
		}
		k := miniEntry{Shape: "box", Coupling: x, CouplingTo: x + 3, X: x + 3, InnerX: x + 4}
		if c.State == show.Refused || c.State == show.Conflict {
			k.Shape, k.CouplingTo = "bad", x+19
		} else if f, known, _ := running(&c, now); known {
			k.Filled, k.H = true, f*13
			k.Y = 16 - k.H
		} else if c.State == show.Green {
			k.Filled, k.Y, k.H = true, 3, 13
		}
		m.Entries = append(m.Entries, k)
		x += 19
	}
	m.Width = x + 3
	return m
}
