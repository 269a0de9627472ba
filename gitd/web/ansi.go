package web

import (
	"html/template"
	"strconv"
	"strings"
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

// ansi turns one line of build output into HTML: the colour codes 30–37,
// 90–97, 1 and 0 become classes, every other escape is dropped, the rest is
// escaped text.
func ansi(line string) template.HTML {
	var b strings.Builder
	class, open, changes, runes := "", "", 0, 0
	var style struct {
		colour string
		bold   bool
	}
	text := func(s string) {
		if s == "" {
			return
		}
		if class != open {
			if open != "" {
				b.WriteString("</span>")
			}
			if class != "" {
				b.WriteString(`<span class="` + class + `">`)
			}
			open = class
		}
		b.WriteString(template.HTMLEscapeString(s))
	}
	var run strings.Builder
	flush := func() { text(run.String()); run.Reset() }
	for i := 0; i < len(line); {
		if line[i] == 0x1b {
			codes, n := escape(line[i:])
			i += n
			if codes == nil || changes >= maxColours {
				continue
			}
			flush()
			changes++
			for _, c := range codes {
				switch {
				case c == 0:
					style.colour, style.bold = "", false
				case c == 1:
					style.bold = true
				case c == 22:
					style.bold = false
				case c >= 30 && c <= 37:
					style.colour = colours[c-30]
				case c >= 90 && c <= 97:
					style.colour = colours[c-90]
				case c == 39:
					style.colour = ""
				}
			}
			class = style.colour
			if style.bold {
				class = strings.TrimSpace(class + " b")
			}
			continue
		}
		next := i + 1
		for next < len(line) && line[next]&0xc0 == 0x80 {
			next++
		}
		if runes++; runes > maxLine {
			flush()
			class = "faint"
			text(" … cut here, the raw log has the whole line")
			break
		}
		run.WriteString(line[i:next])
		i = next
	}
	flush()
	if open != "" {
		b.WriteString("</span>")
	}
	return template.HTML(b.String()) //nolint:gosec // class names are ours, text is escaped
}

// plain is ansi for a terminal or a file: text without any escape or control.
func plain(line string) string {
	var b strings.Builder
	for i := 0; i < len(line); {
		if line[i] == 0x1b {
			_, n := escape(line[i:])
			i += n
			continue
		}
		next := i + 1
		for next < len(line) && line[next]&0xc0 == 0x80 {
			next++
		}
		for _, r := range line[i:next] {
			if tricky(r) || r == '\n' || r == '\r' {
				r = '\uFFFD'
			}
			b.WriteRune(r)
		}
		i = next
	}
	return b.String()
}

// escape measures the escape sequence at the start of s and, if it sets
// colours (CSI … m), returns their codes, at least one.
func escape(s string) (codes []int, n int) {
	if len(s) < 2 {
		return nil, len(s)
	}
	switch s[1] {
	case '[':
		i := 2
		for i < len(s) && s[i] >= 0x20 && s[i] < 0x40 {
			i++
		}
		if i == len(s) {
			return nil, i
		}
		if s[i] != 'm' || i-2 > 64 {
			return nil, i + 1
		}
		for c := range strings.SplitSeq(s[2:i], ";") {
			if c == "38" || c == "48" {
				break // a palette colour: its own numbers follow and are no codes
			}
			k, err := strconv.Atoi(c)
			if c == "" {
				k, err = 0, nil
			}
			if err == nil {
				codes = append(codes, k)
			}
		}
		if codes == nil {
			codes = []int{}
		}
		return codes, i + 1
	case ']', 'P', '^', '_', 'X': // OSC and other strings: up to BEL or ST
		for i := 2; i < len(s); i++ {
			if s[i] == 0x07 {
				return nil, i + 1
			}
			if s[i] == 0x1b && i+1 < len(s) && s[i+1] == '\\' {
				return nil, i + 2
			}
		}
		return nil, len(s)
	}
	return nil, 2
}
