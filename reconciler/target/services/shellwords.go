package services

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// words splits a command line as a shell would, without running one: quotes and
// backslashes are understood, variables are left for expand.
func words(line string) (argv []string, err error) {
	var word strings.Builder
	began := false
	end := func() {
		if began {
			argv = append(argv, word.String())
			word.Reset()
			began = false
		}
	}
	for i := 0; i < len(line); i++ {
		switch c := line[i]; c {
		case ' ', '\t', '\n', '\r':
			end()
		case '\'':
			n := strings.IndexByte(line[i+1:], '\'')
			if n < 0 {
				return nil, errors.New("a single quote is not closed")
			}
			word.WriteString(line[i+1 : i+1+n])
			i, began = i+1+n, true
		case '"':
			began = true
			for i++; ; i++ {
				if i >= len(line) {
					return nil, errors.New("a double quote is not closed")
				}
				if line[i] == '"' {
					break
				}
				if line[i] == '\\' && i+1 < len(line) && (line[i+1] == '"' || line[i+1] == '\\') {
					i++
				}
				word.WriteByte(line[i])
			}
		case '\\':
			if i++; i >= len(line) {
				return nil, errors.New("ends with a backslash")
			}
			word.WriteByte(line[i])
			began = true
		default:
			word.WriteByte(c)
			began = true
		}
	}
	end()
	return argv, nil
}

// instanceVariables are the variables that an instance is given, and the only
// ones that $NAME in a compose.yaml may mean.
var instanceVariables = []string{"PORT", "HEADGATE_ENVIRONMENT", "HEADGATE_APPLICATION", "HEADGATE_RELEASE", "HEADGATE_COMMIT", "HEADGATE_INSTANCE"}

// expand replaces $NAME, ${NAME}, ${NAME:-default} and ${NAME-default} by the
// instance's variables, and $$ by a dollar sign. A nil vars only checks.
func expand(text string, vars map[string]string) (string, error) {
	var out strings.Builder
	for i := 0; i < len(text); i++ {
		if text[i] != '$' {
			out.WriteByte(text[i])
			continue
		}
		rest := text[i+1:]
		if strings.HasPrefix(rest, "$") {
			out.WriteByte('$')
			i++
			continue
		}
		var name, fallback string
		hasFallback := false
		if strings.HasPrefix(rest, "{") {
			n := strings.IndexByte(rest, '}')
			if n < 0 {
				return "", fmt.Errorf("%q is not closed", text[i:])
			}
			name = rest[1:n]
			i += n + 1
			if before, after, ok := strings.Cut(name, "-"); ok {
				name, fallback, hasFallback = strings.TrimSuffix(before, ":"), after, true
			}
		} else {
			n := 0
			for n < len(rest) && (rest[n] == '_' || rest[n] >= 'a' && rest[n] <= 'z' || rest[n] >= 'A' && rest[n] <= 'Z' || n > 0 && rest[n] >= '0' && rest[n] <= '9') {
				n++
			}
			name = rest[:n]
			i += n
		}
		switch {
		case name == "":
			return "", errors.New(`a "$" names no variable`)
		case slices.Contains(instanceVariables, name):
			value := vars[name]
			if value == "" && hasFallback {
				value = fallback
			}
			out.WriteString(value)
		case hasFallback:
			out.WriteString(fallback)
		default:
			return "", fmt.Errorf("$%s is not set; an instance has %s", name, "$"+strings.Join(instanceVariables, ", $"))
		}
	}
	return out.String(), nil
}
