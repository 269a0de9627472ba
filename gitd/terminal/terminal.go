// Package terminal makes text that others wrote fit to be shown. A terminal
// obeys what it is sent, a page can be made to read backwards, and a newline in
// a commit message begins a trailer: so whatever a client, a build or a
// repository says passes one of these functions before it reaches any of them
// .
//
//   - Line and Text are for people at a terminal: nothing is lost, what would be
//     obeyed is spelled out.
//   - Log is for what a program printed, as it is kept; Coloured, Plain and
//     Spans are the ways to show that again.
//   - Message and Cut are for one bounded line of a record.
//   - Page is for HTML, Writer for a stream, JSON for programs.
//   - ASCII is for whoever can show no more.
//
// What is unsafe is said once, by Unsafe. Every result is valid UTF-8, and
// applying a function to its own result changes nothing more.
package terminal

import (
	"bytes"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

const (
	joiner    = '\u200d' // holds an emoji of several together
	nonJoiner = '\u200c' // which Persian and others are spelled with
)

// Unsafe reports whether r is obeyed instead of shown, or makes text read
// otherwise than it is written: control characters (newlines and tabs too),
// what turns the direction of writing, what is invisible, separators of lines
// and paragraphs.
func Unsafe(r rune) bool {
	if r >= ' ' && r < 0x7f || r == joiner || r == nonJoiner {
		return false
	}
	return unicode.In(r, unicode.Cc, unicode.Cf, unicode.Zl, unicode.Zp)
}

// ascii reports whether s holds printable ASCII only: the usual case, in which
// there is nothing to do.
func ascii(s string) bool {
	for i := range len(s) {
		if s[i] < ' ' || s[i] >= 0x7f {
			return false
		}
	}
	return true
}

// Line makes s one line: what is unsafe in it is spelled out, "^[" and
// "<U+202E>", a tab becomes a space.
func Line(s string) string { return spelled(s, " ") }

// Text is Line for text with columns, such as source code: its tabs stay.
func Text(s string) string { return spelled(s, "\t") }

func spelled(s, tab string) string {
	if ascii(s) {
		return s
	}

	var b strings.Builder
	for _, r := range s { // invalid bytes come as U+FFFD
		if r == '\t' {
			b.WriteString(tab)
		} else {
			spell(&b, r)
		}
	}
	return b.String()
}

// spell writes r, or what stands for it: caret notation for C0, the number otherwise.
func spell(b *strings.Builder, r rune) {
	switch {
	case !Unsafe(r):
		b.WriteRune(r)
	case r < ' ':
		b.WriteByte('^')
		b.WriteRune(r + '@')
	case r == 0x7f:
		b.WriteString("^?")
	default:
		fmt.Fprintf(b, "<%U>", r)
	}
}

// Message makes s one line of a commit message of at most max bytes: what is
// unsafe becomes a space, and spaces at its ends go. It cannot begin a trailer
// of its own.
func Message(s string, max int) string {
	if !ascii(s) {
		s = strings.Map(func(r rune) rune {
			if Unsafe(r) {
				return ' '
			}
			return r // invalid bytes come as U+FFFD
		}, s)
	}
	return Cut(strings.TrimSpace(s), max)
}

// Cut shortens s to at most max bytes, the sign of it included, between two
// characters.
func Cut(s string, max int) string {
	const sign = "…"
	s = strings.ToValidUTF8(s, "\uFFFD")
	if len(s) <= max {
		return s
	}

	end := max - len(sign)
	for end > 0 && !utf8.RuneStart(s[end]) {
		end--
	}
	if end <= 0 {
		return ""
	}
	return s[:end] + sign
}

// Page replaces what is unsafe in a page by U+FFFD; newlines and tabs stay. None
// of our own templates has any, so what is replaced came from somebody's data.
func Page(html []byte) []byte {
	return bytes.Map(func(r rune) rune {
		if Unsafe(r) && r != '\n' && r != '\t' && r != '\r' {
			return '\uFFFD'
		}
		return r
	}, html)
}
