package web

import (
	"html/template"
	"strings"
	"unicode/utf8"

	"github.com/headgate-cd/headgate/gitd/terminal"
)

// Bounds for one line of a log: what is longer is cut and said to be, and a
// line that changes colour without end loses the colours.
const (
	maxLine    = 4000 // runes shown
	maxColours = 200  // changes of colour
)

// colours maps SGR 30–37 and 90–97 to classes. Black and white become the
// page's own ink: the reader chose the ground, not the build.
var colours = [8]string{"", "c-r", "c-g", "c-y", "c-b", "c-m", "c-c", ""}

// style is how text is drawn, as the SGR codes so far have it.
type style struct {
	colour string
	bold   bool
}

func (s *style) set(code int) {
	switch {
	case code == 0:
		*s = style{}
	case code == 1:
		s.bold = true
	case code == 22:
		s.bold = false
	case code >= 30 && code <= 37:
		s.colour = colours[code-30]
	case code >= 90 && code <= 97:
		s.colour = colours[code-90]
	case code == 39:
		s.colour = ""
	}
}

func (s style) class() string {
	if s.bold {
		return strings.TrimSpace(s.colour + " b")
	}
	return s.colour
}

// ansi turns one line of build output into HTML: colours become classes, and
// all else is escaped text.
func ansi(line string) template.HTML {
	var b strings.Builder
	open, now := "", style{}
	write := func(class, text string) {
		if class != open {
			if open != "" {
				b.WriteString("</span>")
			}
			if class != "" {
				b.WriteString(`<span class="` + class + `">`)
			}
			open = class
		}
		b.WriteString(template.HTMLEscapeString(text))
	}

	left, changes := maxLine, 0
	for codes, text := range terminal.Spans(line) {
		if codes != nil && changes < maxColours {
			changes++
			for _, c := range codes {
				now.set(c)
			}
		}

		n := utf8.RuneCountInString(text)
		if n > left {
			write(now.class(), string([]rune(text)[:left]))
			write("faint", " … cut here, the raw log has the whole line")
			break
		}
		if left -= n; text != "" {
			write(now.class(), text)
		}
	}
	if open != "" {
		b.WriteString("</span>")
	}
	return template.HTML(b.String()) //nolint:gosec // class names are ours, text is escaped
}
