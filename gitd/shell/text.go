package shell

import (
	"fmt"
	"io"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/headgate-cd/headgate/gitd/show"
	"github.com/headgate-cd/headgate/gitd/terminal"
)

// text writes a command's answer for people: lines and aligned columns. Every
// string that reaches it is cleaned of what a terminal would obey.
type text struct {
	Terminal
	w   io.Writer
	now time.Time // in UTC
}

// mark is how a state looks: its word is always written too.
type mark struct {
	ascii, shape string
	colour       string // SGR
}

const (
	water  = "36"
	green  = "32"
	amber  = "33"
	red    = "31"
	second = "2"
)

var marks = map[show.State]mark{
	show.Queued:     {"o", "○", second},
	show.Running:    {">", "◐", water},
	show.Converging: {">", "◐", water},
	show.Green:      {"+", "●", green},
	show.Healthy:    {"+", "●", green},
	show.Landed:     {"+", "■", green},
	show.Refused:    {"x", "✗", red},
	show.Failed:     {"x", "✗", red},
	show.Conflict:   {"!", "△", red},
	show.Withdrawn:  {"-", "⊘", second},
	show.Skipped:    {"-", "⊘", second},
	show.NotGated:   {"-", "⊘", second},
	show.Waits:      {"?", "◇", amber},
	show.Open:       {"=", "◆", green},
	show.Drift:      {"#", "≠", amber},
	show.Hold:       {"H", "‖", amber},
	show.Damaged:    {"x", "✗", red},
	show.Empty:      {"o", "○", second},
	show.Unknown:    {".", "◌", amber},
}

func markOf(s show.State) mark {
	if m, ok := marks[s]; ok {
		return m
	}
	return marks[show.Unknown]
}

// cell is one entry of a table, or a piece of a line.
type cell struct {
	s      string
	colour string
	cut    bool // may be cut to fit the terminal's width; identifiers never are
	wrap   bool // goes on in the next line instead; the last of its row only
}

func plain(s string) cell { return cell{s: s} }

func count(n int) cell {
	if n == 0 {
		return plain("-")
	}
	return plain(fmt.Sprint(n))
}

// shape is a state's shape alone; the word stands beside it.
func (t *text) shape(s show.State) string {
	if t.Unicode {
		return markOf(s).shape
	}
	return markOf(s).ascii
}

// stateWord is a state as people write it.
func stateWord(s show.State) string { return strings.ReplaceAll(string(s), "-", " ") }

// state is a state's shape and word.
func (t *text) state(s show.State) cell {
	return cell{s: t.shape(s) + " " + stateWord(s), colour: markOf(s).colour}
}

// word is a state's word alone, as lists have it.
func (t *text) word(s show.State) cell { return cell{s: stateWord(s), colour: markOf(s).colour} }

// line writes one line.
func (t *text) line(format string, args ...any) {
	io.WriteString(t.w, terminal.Line(fmt.Sprintf(format, args...))+"\n")
}

// table writes rows in columns, two spaces apart. The last piece of a row takes
// what room there is, so a row with fewer pieces widens no column with its text.
func (t *text) table(rows [][]cell) {
	widths := map[int]int{}
	for _, row := range rows {
		for i, c := range row[:max(0, len(row)-1)] {
			widths[i] = max(widths[i], utf8.RuneCountInString(terminal.Line(c.s)))
		}
	}
	for _, row := range rows {
		for len(row) > 1 && row[len(row)-1].s == "" {
			row = row[:len(row)-1]
		}
		var b strings.Builder
		at := 0
		for i, c := range row {
			s := terminal.Line(c.s)
			n := utf8.RuneCountInString(s)
			switch {
			case t.Width == 0 || at+n <= t.Width:
			case c.cut:
				s = t.shorten(s, max(t.Width-at, 8))
			case c.wrap:
				lines := wrap(s, max(t.Width-at, 20))
				for _, line := range lines[:len(lines)-1] {
					b.WriteString(t.paint(c.colour, line) + "\n" + strings.Repeat(" ", at))
				}
				s = lines[len(lines)-1]
			}
			b.WriteString(t.paint(c.colour, s))
			if i < len(row)-1 {
				b.WriteString(strings.Repeat(" ", max(0, widths[i]-n)+2))
				at += max(widths[i], n) + 2
			}
		}
		io.WriteString(t.w, b.String()+"\n")
	}
}

// wrap breaks s at spaces into lines of at most width characters, where it can.
func wrap(s string, width int) (lines []string) {
	line := ""
	for word := range strings.FieldsSeq(s) {
		if line != "" && utf8.RuneCountInString(line)+1+utf8.RuneCountInString(word) > width {
			lines = append(lines, line)
			line = ""
		}
		line = strings.TrimPrefix(line+" "+word, " ")
	}
	return append(lines, line)
}

// wrapped writes text, and breaks its lines where the terminal ends.
func (t *text) wrapped(format string, args ...any) {
	t.table([][]cell{{{s: fmt.Sprintf(format, args...), wrap: true}}})
}

func (t *text) shorten(s string, n int) string {
	end := "..."
	if t.Unicode {
		end = "…"
	}
	runes := []rune(s)
	return strings.TrimRight(string(runes[:max(0, n-utf8.RuneCountInString(end))]), " ") + end
}

func (t *text) paint(colour, s string) string {
	if !t.Colour || colour == "" || s == "" {
		return s
	}
	return "\x1b[" + colour + "m" + s + "\x1b[0m"
}

// at writes a moment in UTC: the time for today, with the day before it otherwise.
func (t *text) at(when time.Time, zone bool) string {
	if when.IsZero() {
		return "-"
	}
	when = when.UTC()
	layout := "15:04"
	y, m, d := when.Date()
	ny, nm, nd := t.now.Date()
	switch {
	case y == ny && m == nm && d == nd:
	case y == ny:
		layout = "Mon 2 Jan 15:04"
	default:
		layout = "2 Jan 2006 15:04"
	}
	if zone {
		layout += " MST"
	}
	return when.Format(layout)
}

// ErrorText is an error in its form for terminals: error, where, hint.
func ErrorText(e *show.Error, login string) string { return errorText(e, login, &text{}) }

func errorText(e *show.Error, login string, t *text) string {
	var b strings.Builder
	b.WriteString(t.paint(red, "error:") + " " + terminal.Line(e.What) + "\n")
	for _, w := range e.Where {
		b.WriteString("  " + terminal.Line(w) + "\n")
	}
	if hint := e.Advice(login); hint != "" {
		b.WriteString(t.paint(water, "hint:") + " " + terminal.Line(hint) + "\n")
	}
	return b.String()
}

// log is a line of build output: its colours stay where there is colour at all.
func (t *text) log(line string) string {
	if t.Colour {
		return terminal.Coloured(line)
	}
	return terminal.Plain(line)
}
