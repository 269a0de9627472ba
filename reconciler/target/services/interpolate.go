package services

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// instanceVariables are the variables that an instance is given. A text that is read
// for an instance may name them; they get their values when it is started.
var instanceVariables = []string{
	"PORT",
	"HEADGATE_ENVIRONMENT",
	"HEADGATE_APPLICATION",
	"HEADGATE_RELEASE",
	"HEADGATE_COMMIT",
	"HEADGATE_INSTANCE",
}

// variables are what "$NAME" in a text stands for.
type variables struct {
	of    map[string]string
	known []string                // names that are set, whether or not of has them
	unset func(name string) error // why there is no such variable

	// late leaves the variables of an instance, and "$$", for interpolate to replace.
	late bool
}

// interpolate replaces the variables of an instance as Compose does: $NAME, ${NAME},
// ${NAME:-text}, ${NAME-text}, ${NAME:+text}, ${NAME+text}, ${NAME:?text}, ${NAME?text},
// where text may hold more of them; and $$ by a dollar sign.
func interpolate(text string, vars map[string]string) (string, error) {
	return variables{of: vars, known: instanceVariables, unset: noSuchVariable}.replace(text)
}

func noSuchVariable(name string) error {
	return fmt.Errorf("$%s is not set; an instance has %s", name, "$"+strings.Join(instanceVariables, ", $"))
}

// replace replaces the variables of a text.
func (v variables) replace(text string) (string, error) {
	out, own, err := v.all(text)
	if err == nil && v.late && !own {
		return text, nil // as it was written
	}
	return out, err
}

// all replaces each expression of a text, such as NAME or NAME:-text. own says that
// one of them was not about an instance.
func (v variables) all(text string) (_ string, own bool, err error) {
	var out strings.Builder
	for i := 0; i < len(text); i++ {
		if text[i] != '$' {
			out.WriteByte(text[i])
			continue
		}
		rest := text[i+1:]
		from, to, next := 0, 0, 0
		switch {
		case strings.HasPrefix(rest, "$"):
			out.WriteByte('$')
			if v.late {
				out.WriteByte('$')
			}
			i++
			continue
		case strings.HasPrefix(rest, "{"):
			end := closingBrace(rest)
			if end < 0 {
				return "", false, fmt.Errorf("%q is not closed", text[i:])
			}
			from, to, next = 1, end, end+1
		default:
			to = nameLength(rest)
			next = to
		}
		value, ours, err := v.substitute(rest[from:to])
		if err != nil {
			return "", false, err
		}
		own = own || ours
		out.WriteString(value)
		i += next
	}
	return out.String(), own, nil
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
	for n < len(text) && (text[n] == '_' || text[n] >= 'a' && text[n] <= 'z' || text[n] >= 'A' && text[n] <= 'Z' ||
		n > 0 && text[n] >= '0' && text[n] <= '9') {
		n++
	}
	return n
}

// substitute is what a variable with its operator, such as NAME:-text, stands for.
func (v variables) substitute(expression string) (_ string, own bool, err error) {
	n := nameLength(expression)
	name, operator := expression[:n], expression[n:]
	if name == "" {
		return "", false, errors.New(`a "$" names no variable`)
	}
	value, set := v.of[name]
	set = set || slices.Contains(v.known, name)
	instance := v.late && slices.Contains(instanceVariables, name)
	if v.late {
		value = literal(value)
	}
	operand, orEmpty := strings.CutPrefix(operator, ":")
	if operand == "" {
		operand, orEmpty = operator, false
	}
	if orEmpty {
		set = set && value != ""
	}
	switch {
	case operand == "" && instance:
		return "${" + name + "}", false, nil
	case operand == "" && !set:
		return "", true, v.unset(name)
	case operand == "":
		return value, true, nil
	case !strings.ContainsRune("-+?", rune(operand[0])):
		return "", true, fmt.Errorf("${%s} is not a substitution", expression)
	}
	// What is not taken is checked all the same: a fault does not wait for its day.
	text, own, err := v.all(operand[1:])
	switch {
	case err != nil:
		return "", own, err
	case instance:
		kept := "{" + name + operator[:len(operator)-len(operand)+1] + text + "}"
		if closingBrace(kept) != len(kept)-1 {
			return "", own, fmt.Errorf("a value that is put into ${%s} holds a brace", expression)
		}
		return "$" + kept, own, nil
	case operand[0] == '+' && !set:
		return "", true, nil
	case operand[0] == '?' && !set:
		return "", true, fmt.Errorf("$%s is not set: %s", name, text)
	case operand[0] != '+' && set:
		return value, true, nil
	}
	return text, true, nil
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

// literal is a text that interpolate leaves as it is.
func literal(text string) string { return strings.ReplaceAll(text, "$", "$$") }
