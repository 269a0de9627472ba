package receive

import (
	"strings"
	"unicode/utf8"
)

// width of a line; git puts "remote: " in front of it (DESIGN-UI section 6).
const width = 72

// plain makes s one line of printable ASCII: colour codes go, other control
// characters are written with a caret, what is beyond ASCII is spelled where it
// has a usual spelling (spec/git.md F13). The far terminal is unknown.
func plain(s string) string {
	clean := true
	for i := 0; i < len(s); i++ {
		if s[i] < ' ' || s[i] >= 0x7f {
			clean = false
			break
		}
	}
	if clean {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); {
		if n := colour(s[i:]); n > 0 {
			i += n
			continue
		}
		c, size := utf8.DecodeRuneInString(s[i:])
		i += size
		switch {
		case c == '\t':
			b.WriteString("    ")
		case c < ' ':
			b.WriteByte('^')
			b.WriteByte(byte(c) + '@')
		case c == 0x7f:
			b.WriteString("^?")
		case c < 0x7f:
			b.WriteByte(byte(c))
		case c == utf8.RuneError && size == 1:
			b.WriteByte('?')
		default:
			if spelled, ok := spellings[c]; ok {
				b.WriteString(spelled)
			} else {
				b.WriteByte('?')
			}
		}
	}
	return b.String()
}

// spellings of what build tools like to print.
var spellings = map[rune]string{
	'\u00a0': " ", '–': "-", '—': "-", '‘': "'", '’': "'", '“': `"`, '”': `"`, '…': "...",
	'•': "*", '·': "*", '●': "*", '✓': "ok", '✔': "ok", '✗': "x", '✘': "x", '✖': "x", '→': "->", '←': "<-",
	'ä': "ae", 'ö': "oe", 'ü': "ue", 'Ä': "Ae", 'Ö': "Oe", 'Ü': "Ue", 'ß': "ss",
	'à': "a", 'á': "a", 'â': "a", 'å': "a", 'ç': "c", 'è': "e", 'é': "e", 'ê': "e", 'ë': "e",
	'ì': "i", 'í': "i", 'î': "i", 'ï': "i", 'ñ': "n", 'ò': "o", 'ó': "o", 'ô': "o", 'ø': "o",
	'ù': "u", 'ú': "u", 'û': "u", '│': "|", '─': "-", '└': "`", '├': "|",
}

// colour is the length of a colour code (SGR) at the beginning of s, or 0.
func colour(s string) int {
	if len(s) < 3 || s[0] != 0x1b || s[1] != '[' {
		return 0
	}
	for i := 2; i < len(s) && i < 24; i++ {
		switch c := s[i]; {
		case c == 'm':
			return i + 1
		case c != ';' && (c < '0' || c > '9'):
			return 0
		}
	}
	return 0
}

// cut shortens s to n characters.
func cut(s string, n int) string {
	if len(s) <= n {
		return s
	}
	if n <= 3 {
		return s[:max(0, n)]
	}
	return strings.TrimRight(s[:n-3], " ") + "..."
}

// wrap breaks text at spaces into lines of at most width characters, the first
// after first, the others after next. A word longer than a line is broken:
// nothing is lost.
func wrap(first, next, text string) []string {
	text = plain(text)
	var lines []string
	line := first
	room := func() int { return width - len(line) }
	fresh := true // line holds its prefix only
	flush := func() {
		lines = append(lines, strings.TrimRight(line, " "))
		line, fresh = next, true
	}
	for len(text) > 0 {
		// A run of spaces belongs to the word behind it, so that columns stay.
		spaces := len(text) - len(strings.TrimLeft(text, " "))
		end := strings.IndexByte(text[spaces:], ' ')
		if end < 0 {
			end = len(text)
		} else {
			end += spaces
		}
		word := text[:end]
		text = text[end:]
		if len(word) > room() && !fresh {
			flush()
			word = strings.TrimLeft(word, " ")
		}
		for len(word) > room() {
			n := room()
			line += word[:n]
			word = word[n:]
			flush()
		}
		if word != "" {
			line += word
			fresh = false
		}
	}
	if !fresh || len(lines) == 0 {
		flush()
	}
	return lines
}
