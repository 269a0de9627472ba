package shell

import (
	"errors"
	"strings"
)

// ErrQuote is a command line with a quote that is not closed.
var ErrQuote = errors.New("a quote is not closed")

// quote writes a value as it is pasted into the shell at which ssh is called: once that has
// taken its quotes away, Split reads value.
func quote(value string) string {
	if strings.Trim(strings.ToLower(value), "abcdefghijklmnopqrstuvwxyz0123456789-_./@+:") == "" && value != "" {
		return value
	}
	inner := strings.NewReplacer("\\", "\\\\", "\"", "\\\"").Replace(value)
	return "'\"" + strings.ReplaceAll(inner, "'", `'\''`) + "\"'"
}

// Split cuts a line into words at spaces; single and double quotes keep spaces,
// a backslash keeps the next character. It expands nothing.
func Split(line string) ([]string, error) {
	var words []string
	var word strings.Builder
	var quote rune
	in, escaped := false, false
	for _, c := range line {
		switch {
		case escaped:
			word.WriteRune(c)
			escaped = false
		case c == '\\' && quote != '\'':
			in, escaped = true, true
		case quote != 0 && c == quote:
			quote = 0
		case quote != 0:
			word.WriteRune(c)
		case c == '\'' || c == '"':
			in, quote = true, c
		case c == ' ':
			if in {
				words = append(words, word.String())
				word.Reset()
				in = false
			}
		default:
			in = true
			word.WriteRune(c)
		}
	}
	if quote != 0 || escaped {
		return nil, ErrQuote
	}
	if in {
		words = append(words, word.String())
	}
	return words, nil
}
