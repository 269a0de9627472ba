package terminal

import (
	"strings"
	"unicode/utf8"
)

// ASCII is Plain for a terminal of which nothing is known: what is beyond ASCII
// is written as people without it would, and with a question mark otherwise.
func ASCII(line string) string {
	line = strings.ReplaceAll(Plain(line), "\t", "    ")
	if ascii(line) {
		return line
	}

	var b strings.Builder
	for _, r := range line {
		spelling, known := spellings[r]
		switch {
		case r < utf8.RuneSelf:
			b.WriteRune(r)
		case known:
			b.WriteString(spelling)
		default:
			b.WriteByte('?')
		}
	}
	return b.String()
}

// spellings of what build tools like to print, and of what people are called.
var spellings = map[rune]string{
	'\u00a0': " ", '–': "-", '—': "-", '‘': "'", '’': "'", '“': `"`, '”': `"`, '…': "...",
	'•': "*", '·': "*", '●': "*", '✓': "ok", '✔': "ok", '✗': "x", '✘': "x", '✖': "x", '→': "->", '←': "<-",
	'ä': "ae", 'ö': "oe", 'ü': "ue", 'Ä': "Ae", 'Ö': "Oe", 'Ü': "Ue", 'ß': "ss",
	'à': "a", 'á': "a", 'â': "a", 'å': "a", 'ç': "c", 'è': "e", 'é': "e", 'ê': "e", 'ë': "e",
	'ì': "i", 'í': "i", 'î': "i", 'ï': "i", 'ñ': "n", 'ò': "o", 'ó': "o", 'ô': "o", 'ø': "o",
	'ù': "u", 'ú': "u", 'û': "u", '│': "|", '─': "-", '└': "`", '├': "|",
}
