package show

import (
	"io"
	"strings"
)

// Unfinished writes the line that a command has begun and not ended, for readers to
// whom what is written stays written: first what there is of it, later the rest.
// Its zero value is ready.
type Unfinished struct {
	shown string // of the line that stands open
	open  bool
}

// Write writes what an event of a log says of a line that is not finished, or of
// one that was shown so; text prepares a line's text. When it reports false
// the event is still to be written, on a line of its own.
func (u *Unfinished) Write(w io.Writer, e LogEvent, prefix string, text func(string) string) (done bool, err error) {
	rest, continues := strings.CutPrefix(e.Text, u.shown)
	continues = continues && u.open
	var out string
	switch {
	case e.Kind == LogPart && continues:
		out = text(rest)
	case e.Kind == LogPart:
		out = prefix + text(e.Text)
		if u.open {
			out = "\n" + out
		}
	case e.Kind == LogOut && continues:
		out = text(rest) + "\n"
	case u.open:
		out = "\n"
	}
	done = e.Kind == LogPart || e.Kind == LogOut && continues
	u.open, u.shown = e.Kind == LogPart, ""
	if u.open {
		u.shown = e.Text
	}
	if out != "" {
		_, err = io.WriteString(w, out)
	}
	return done, err
}
