package reconciler

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

func plural(n int) string {
	if n == 1 {
		return ""
	}
	return "s"
}

func lowerFirst(s string) string {
	r, n := utf8.DecodeRuneInString(s)
	return string(unicode.ToLower(r)) + s[n:]
}

// join writes a list in a sentence.
func join(parts []string) string {
	if n := len(parts); n > 1 {
		return strings.Join(parts[:n-1], ", ") + " and " + parts[n-1]
	}
	return strings.Join(parts, "")
}

// maxNames bounds a list of people in a sentence.
const maxNames = 8

func list(names []string) string {
	if len(names) == 0 {
		return "nobody"
	}
	if n := len(names); n > maxNames {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:maxNames], ", "), n-maxNames)
	}
	return strings.Join(names, ", ")
}
