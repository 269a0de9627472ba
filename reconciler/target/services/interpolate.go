package services

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// instanceVariables are the variables that an instance is given, and the only
// ones that are set where a compose.yaml says $NAME.
var instanceVariables = []string{
	"PORT",
	"HEADGATE_ENVIRONMENT",
	"HEADGATE_APPLICATION",
	"HEADGATE_RELEASE",
	"HEADGATE_COMMIT",
	"HEADGATE_INSTANCE",
}

// interpolate replaces variables as Compose does: $NAME, ${NAME}, ${NAME:-text},
// ${NAME-text}, ${NAME:+text}, ${NAME+text}, ${NAME:?text}, ${NAME?text}, where text
// may hold more of them; and $$ by a dollar sign. With nil variables it only checks
// what can be known before there is an instance.
func interpolate(text string, vars map[string]string) (string, error) {
	var out strings.Builder
	for i := 0; i < len(text); i++ {
		if text[i] != '$' {
			out.WriteByte(text[i])
			continue
		}
		rest := text[i+1:]
		switch {
		case strings.HasPrefix(rest, "$"):
			out.WriteByte('$')
			i++
		case strings.HasPrefix(rest, "{"):
			end := closingBrace(rest)
			if end < 0 {
				return "", fmt.Errorf("%q is not closed", text[i:])
			}
			value, err := substitute(rest[1:end], vars)
			if err != nil {
				return "", err
			}
			out.WriteString(value)
			i += end + 1
		default:
			n := nameLength(rest)
			value, err := substitute(rest[:n], vars)
			if err != nil {
				return "", err
			}
			out.WriteString(value)
			i += n
		}
	}
	return out.String(), nil
}

// closingBrace finds the "}" of the "{" that text begins with; -1 if there is none.
func closingBrace(text string) int {
	depth := 0
	for i := 0; i < len(text); i++ {
		switch {
		case i == 0, strings.HasPrefix(text[i:], "${"):
			depth++
			if i > 0 {
				i++
			}
		case text[i] == '}':
			if depth--; depth == 0 {
				return i
			}
		}
	}
	return -1
}

func nameLength(text string) (n int) {
	for n < len(text) && (text[n] == '_' || text[n] >= 'a' && text[n] <= 'z' || text[n] >= 'A' && text[n] <= 'Z' || n > 0 && text[n] >= '0' && text[n] <= '9') {
		n++
	}
	return n
}

// substitute is what a variable with its operator, such as NAME:-text, stands for.
func substitute(expression string, vars map[string]string) (string, error) {
	n := nameLength(expression)
	name, operator := expression[:n], expression[n:]
	if name == "" {
		return "", errors.New(`a "$" names no variable`)
	}
	set := slices.Contains(instanceVariables, name)
	value := vars[name]
	if orEmpty, ok := strings.CutPrefix(operator, ":"); ok && orEmpty != "" {
		operator = orEmpty
		set = set && (value != "" || vars == nil)
	}
	if operator == "" {
		if !set {
			return "", fmt.Errorf("$%s is not set; an instance has %s", name, "$"+strings.Join(instanceVariables, ", $"))
		}
		return value, nil
	}
	// What is not taken is checked all the same: a fault does not wait for its day.
	text, err := interpolate(operator[1:], vars)
	if err != nil {
		return "", err
	}
	switch operator[0] {
	case '-':
		if set {
			text = value
		}
	case '+':
		if !set {
			text = ""
		}
	case '?':
		if !set {
			return "", fmt.Errorf("$%s is not set: %s", name, text)
		}
		text = value
	default:
		return "", fmt.Errorf("${%s} is not a substitution", expression)
	}
	return text, nil
}

// interpolateAll interpolates every word of a command line.
func interpolateAll(argv []string, vars map[string]string) ([]string, error) {
	out := make([]string, len(argv))
	for i, w := range argv {
		var err error
		if out[i], err = interpolate(w, vars); err != nil {
			return nil, err
		}
	}
	return out, nil
}
