package buildlog

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// clean makes a line that a command printed fit to be shown: text, tabs and SGR
// colour codes pass; other control characters are shown in caret notation,
// invalid UTF-8 as U+FFFD, and what turns the direction of writing by its number
// (spec/git.md F13). Of a line that was overprinted with carriage returns, the
// last print is kept.
func clean(line []byte) string {
	if n := len(line); n > 0 && line[n-1] == '\r' {
		line = line[:n-1]
	}
	if i := strings.LastIndexByte(string(line), '\r'); i >= 0 {
		line = line[i+1:]
	}
	plain := true
	for _, c := range line {
		if c < ' ' && c != '\t' || c >= 0x7f {
			plain = false
			break
		}
	}
	if plain {
		return string(line)
	}
	var b strings.Builder
	for len(line) > 0 {
		if n := sgr(line); n > 0 {
			b.Write(line[:n])
			line = line[n:]
			continue
		}
		r, n := utf8.DecodeRune(line)
		switch {
		case r == utf8.RuneError && n == 1:
			b.WriteRune(utf8.RuneError)
		case r == '\t':
			b.WriteByte('\t')
		case r < ' ':
			b.WriteByte('^')
			b.WriteRune(r + '@')
		case r == 0x7f:
			b.WriteString("^?")
		case r < 0xa0 && r >= 0x80, r >= 0x202a && r <= 0x202e, r >= 0x2066 && r <= 0x2069, r == 0x200e, r == 0x200f, r == 0x2028, r == 0x2029:
			fmt.Fprintf(&b, "<U+%04X>", r)
		default:
			b.WriteRune(r)
		}
		line = line[n:]
	}
	return b.String()
}

// sgr is the length of the colour code that b begins with, 0 if with none.
func sgr(b []byte) int {
	if len(b) < 3 || b[0] != 0x1b || b[1] != '[' {
		return 0
	}
	for i := 2; i < len(b) && i < 32; i++ {
		switch c := b[i]; {
		case c == 'm':
			return i + 1
		case c != ';' && (c < '0' || c > '9'):
			return 0
		}
	}
	return 0
}
