package terminal

import (
	"iter"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Bounds of an escape sequence; what is longer is none, and shown as text.
const (
	maxCodes  = 64   // bytes of parameters
	maxString = 4096 // bytes of a title or a link
)

const reset = "\x1b[0m"

// Log makes a line that a program printed fit to be kept and shown: colours
// (SGR) and tabs stay; what moves the cursor within the line is acted on, as far
// as programs use it to print a line again; other escape sequences (titles,
// links, erasing) are dropped; what else is unsafe is spelled out.
func Log(line string) string {
	line = strings.TrimRight(line, "\r")
	if ascii(line) {
		return line
	}

	var b []byte
	text := 0 // where the text behind the last colour begins
	for line != "" {
		if n, kind := sequence(line); n > 0 {
			switch kind {
			case colour:
				b = append(b, line[:n]...)
				text = len(b)
			case home:
				b, text = b[:0], 0
			}
			line = line[n:]
			continue
		}

		r, n := utf8.DecodeRuneInString(line)
		line = line[n:]
		switch r {
		case '\t':
			b = append(b, '\t')
		case '\r':
			b, text = b[:0], 0
		case '\b': // takes a character back, not a colour
			if len(b) > text {
				_, n := utf8.DecodeLastRune(b)
				b = b[:len(b)-n]
			}
		case '\a': // a bell shows nothing
		default:
			var one strings.Builder
			spell(&one, r)
			b = append(b, one.String()...)
		}
	}
	return string(b)
}

// Coloured makes a line fit for a terminal with colours: as Log, and what it
// colours ends with it.
func Coloured(line string) string {
	line = Log(line)
	if strings.IndexByte(line, 0x1b) < 0 {
		return line
	}
	return strings.TrimSuffix(line, reset) + reset
}

// Plain is Log without colours.
func Plain(line string) string {
	line = Log(line)
	if strings.IndexByte(line, 0x1b) < 0 {
		return line
	}

	var b strings.Builder
	for _, text := range Spans(line) {
		b.WriteString(text)
	}
	return b.String()
}

// Spans yields the text of a line with the SGR codes that are set before it,
// nil for none. A palette colour's own numbers are no codes and are left out.
func Spans(line string) iter.Seq2[[]int, string] {
	return func(yield func([]int, string) bool) {
		rest := Log(line)
		for rest != "" {
			var codes []int
			for {
				n, kind := sequence(rest)
				if kind != colour {
					break
				}
				codes = append(codes, numbers(rest[2:n-1])...)
				rest = rest[n:]
			}

			// What is left of escapes after Log are colours.
			end := strings.IndexByte(rest, 0x1b)
			if end < 0 {
				end = len(rest)
			}
			if !yield(codes, rest[:end]) {
				return
			}
			rest = rest[end:]
		}
	}
}

// numbers reads the parameters of an SGR sequence.
func numbers(parameters string) (codes []int) {
	for p := range strings.SplitSeq(parameters, ";") {
		code, err := strconv.Atoi(p)
		switch {
		case p == "":
			code = 0
		case err != nil: // "4:3", a kind of underline
			continue
		case code == 38 || code == 48:
			return codes
		}
		codes = append(codes, code)
	}
	return codes
}

// kind says what an escape sequence does.
type kind int

const (
	other  kind = iota
	colour      // SGR
	home        // the line is printed again from its beginning
)

// sequence measures the escape sequence that s begins with; 0 when it begins
// with none, or with one that does not end within its bounds.
func sequence(s string) (n int, k kind) {
	if len(s) < 2 || s[0] != 0x1b {
		return 0, other
	}
	switch c := s[1]; {
	case c == '[':
		return control(s)
	case strings.IndexByte("]P^_X", c) >= 0:
		return stringSequence(s), other
	case c >= 0x20 && c <= 0x2f: // chooses a character set
		for i := 2; i < min(len(s), maxCodes); i++ {
			if s[i] >= 0x30 && s[i] <= 0x7e {
				return i + 1, other
			}
			if s[i] < 0x20 || s[i] > 0x2f {
				return 0, other
			}
		}
	case c >= 0x30 && c <= 0x7e:
		return 2, other
	}
	return 0, other
}

// control measures CSI … final.
func control(s string) (n int, k kind) {
	private := false
	for i := 2; i < min(len(s), maxCodes+2); i++ {
		c := s[i]
		switch {
		case c >= '0' && c <= '9' || c == ';' || c == ':':
			continue
		case c >= 0x20 && c < 0x40:
			private = true
			continue
		case c < 0x40 || c > 0x7e:
			return 0, other
		}

		parameters := s[2:i]
		switch {
		case c == 'm' && !private:
			return i + 1, colour
		case c == 'G' && (parameters == "" || parameters == "1"), c == 'K' && parameters == "2":
			return i + 1, home
		}
		return i + 1, other
	}
	return 0, other
}

// stringSequence measures a title, a link and their like, up to BEL or ST.
func stringSequence(s string) int {
	for i := 2; i < min(len(s), maxString); i++ {
		switch {
		case s[i] == 0x07:
			return i + 1
		case s[i] == 0x1b && i+1 < len(s) && s[i+1] == '\\':
			return i + 2
		case s[i] < 0x20:
			return 0
		}
	}
	return 0
}
