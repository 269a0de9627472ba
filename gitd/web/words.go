package web

import (
	"fmt"
	"html/template"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/headgate-cd/headgate/gitd/show"
)

// mark is a state as it is drawn: a word, a shape and a colour, never one
// alone. Shape names a symbol of the sprite.
type mark struct{ Word, Shape, Colour string }

// marks gives every state of gitd/show its mark. What is not here is unknown:
// nothing is drawn green that is not known to be.
var marks = map[show.State]mark{
	show.Queued:     {"Queued", "queued", ""},
	show.Running:    {"Running", "running", "water"},
	show.Green:      {"Green", "green", "green"},
	show.Healthy:    {"Healthy", "green", "green"},
	show.Landed:     {"Landed", "landed", "green"},
	show.Refused:    {"Refused", "red", "red"},
	show.Failed:     {"Failed", "red", "red"},
	show.Conflict:   {"Conflict", "conflict", "red"},
	show.Withdrawn:  {"Withdrawn", "stopped", ""},
	show.Skipped:    {"Skipped", "stopped", ""},
	show.NotGated:   {"Not gated", "stopped", ""},
	show.Waits:      {"Waits", "waits", "amber"},
	show.Open:       {"Open", "open", "green"},
	show.Drift:      {"Drift", "drift", "amber"},
	show.Hold:       {"Hold", "hold", "amber"},
	show.Converging: {"Converging", "running", "water"},
	show.Damaged:    {"Damaged", "red", "red"},
	show.Empty:      {"Empty", "queued", ""},
	show.Unknown:    {"Unknown", "unknown", "amber"},
}

func markOf(s show.State) mark {
	if m, ok := marks[s]; ok {
		return m
	}
	if s == "" {
		return marks[show.Unknown]
	}
	return mark{sentence(string(s)), "unknown", "amber"}
}

// marked is the mark of s under another word.
func marked(s show.State, word string) mark {
	m := markOf(s)
	m.Word = word
	return m
}

// Sentence is sentence for a text that may start with what the page is about: names are
// written as they are.
func (q *request) Sentence(s string) string {
	first, _, _ := strings.Cut(s, " ")
	if first == q.actor.User || slices.Contains(strings.Split(q.r.URL.Path, "/"), first) {
		return s
	}
	return sentence(s)
}

// sentence starts s with a capital, unless it starts with what is written as it
// is: the name of a file, a branch, a variable.
func sentence(s string) string {
	first, _, _ := strings.Cut(s, " ")
	if strings.ContainsAny(strings.TrimRight(first, ".,:;"), "./_:=") {
		return s
	}
	r, n := utf8.DecodeRuneInString(s)
	if n == 0 {
		return s
	}
	return string(unicode.ToUpper(r)) + s[n:]
}

// minutes writes a span in prose: 11 min, 40 s, 4 h 02 m.
func minutes(d time.Duration) string {
	switch {
	case d < time.Second:
		return "under 1 s"
	case d < time.Minute:
		return fmt.Sprintf("%d s", d/time.Second)
	case d < time.Hour:
		return fmt.Sprintf("%d min", (d+30*time.Second)/time.Minute)
	}
	return show.Elapsed(d)
}

// since is the time of a log line: 2:51.4 from the build's beginning.
func since(d show.Duration) string {
	t := max(time.Duration(d), 0)
	return fmt.Sprintf("%d:%02d.%d", t/time.Minute, t%time.Minute/time.Second, t%time.Second/(100*time.Millisecond))
}

func sameDay(a, b time.Time) bool {
	ay, am, ad := a.Date()
	by, bm, bd := b.Date()
	return ay == by && am == bm && ad == bd
}

// clock writes t in now's zone: the time for today, with the day before it
// otherwise. Seconds are for events of today only.
func clock(t, now time.Time, seconds, zone bool) string {
	t = t.In(now.Location())
	layout := "15:04"
	switch {
	case sameDay(t, now) && seconds:
		layout = "15:04:05"
	case sameDay(t, now):
	case t.Year() == now.Year():
		layout = "Mon 2 Jan 15:04"
	default:
		layout = "2 Jan 2006 15:04"
	}
	if zone {
		layout += " MST"
	}
	return t.Format(layout)
}

// dayOrClock is the time today, the day otherwise.
func dayOrClock(t, now time.Time) string {
	t = t.In(now.Location())
	switch {
	case sameDay(t, now):
		return t.Format("15:04 MST")
	case t.Year() == now.Year():
		return t.Format("Mon 2 Jan")
	}
	return t.Format("2 Jan 2006")
}

// timeElement wraps what clock wrote; datetime carries UTC.
//
// as names the form for live.js, which writes it again in the viewer's zone.
func timeElement(t time.Time, as, text string) template.HTML {
	if t.IsZero() {
		return `<span class="faint">not known</span>`
	}
	utc := t.UTC()
	return template.HTML(`<time datetime="` + utc.Format(time.RFC3339) + `" title="` +
		utc.Format("Mon 2 Jan 2006 15:04:05 MST") +
		`" data-as="` + as + `">` + template.HTMLEscapeString(text) + `</time>`) //nolint:gosec // digits, and a zone's name, escaped
}

// names joins names as prose: "ada", "ada and jun", "ada, jun and sam".
func names(all []string) string {
	switch len(all) {
	case 0:
		return ""
	case 1:
		return all[0]
	}
	return strings.Join(all[:len(all)-1], ", ") + " and " + all[len(all)-1]
}
