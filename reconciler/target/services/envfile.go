package services

import (
	"bytes"
	"fmt"
	"maps"
	"strings"
	"unicode/utf8"

	"github.com/headgate-cd/headgate/gitd/yamlfile"
)

// Bounds of a file of variables.
const (
	maxEnvFile   = 64 << 10 // bytes
	maxVariables = 1000
)

// ofInstance is the value of a variable that only an instance knows. No file has a NUL byte.
const ofInstance = "\x00"

// envFile reads a file of variables as Compose does: NAME=value lines, "export" before
// them or not, # for comments, 'single quotes' for what is meant as it is written, and
// "double quotes" for what may go over several lines and has escapes. What is not in
// single quotes may name variables: earlier ones of the file, of earlier files, and of
// outer, which count before. A raw file has none of that but NAME=value.
func envFile(file string, data []byte, outer, earlier map[string]string, raw bool) (map[string]string, yamlfile.Problems) {
	f := &envReader{file: file, raw: raw, vars: map[string]string{}}
	fail := func(line int, fix, format string, args ...any) yamlfile.Problems {
		return yamlfile.Problems{{File: file, Line: line, What: fmt.Sprintf(format, args...), Fix: fix}}
	}
	switch {
	case len(data) > maxEnvFile:
		return nil, fail(0, "split it", "is %d bytes, over the limit of %d", len(data), maxEnvFile)
	case !utf8.Valid(data):
		return nil, fail(0, "save it as UTF-8", "is not UTF-8 text")
	case bytes.IndexByte(data, 0) >= 0:
		return nil, fail(1+bytes.Count(data[:bytes.IndexByte(data, 0)], []byte("\n")), "remove it", "holds a NUL byte")
	}
	f.rest = strings.ReplaceAll(strings.TrimPrefix(string(data), "\ufeff"), "\r\n", "\n")
	f.seen = map[string]string{}
	maps.Copy(f.seen, earlier)
	maps.Copy(f.seen, outer)
	for f.line = 1; f.rest != ""; {
		line := f.line
		what, fix := f.next(outer)
		if what != "" {
			return nil, fail(line, fix, "%s", what)
		}
		if len(f.vars) > maxVariables {
			return nil, fail(line, "split it", "sets more than %d variables", maxVariables)
		}
	}
	return f.vars, nil
}

type envReader struct {
	file string
	raw  bool
	rest string
	line int
	vars map[string]string
	seen map[string]string // with those of outside
}

// take takes the rest of the line.
func (f *envReader) take() string {
	text, rest, _ := strings.Cut(f.rest, "\n")
	f.rest = rest
	f.line++
	return text
}

// next reads one variable, or a line without one. what is wrong with it, "" nothing.
func (f *envReader) next(outer map[string]string) (what, fix string) {
	text, _, _ := strings.Cut(f.rest, "\n")
	trimmed := strings.TrimSpace(text)
	if trimmed == "" || strings.HasPrefix(trimmed, "#") {
		f.take()
		return "", ""
	}
	name, _, ok := strings.Cut(text, "=")
	if !ok && !f.raw {
		if before, _, colon := strings.Cut(text, ":"); colon && variableName().MatchString(strings.TrimSpace(before)) {
			name, ok = before, true // YAML's form, which Compose takes too
		}
	}
	at := len(name) + 1
	name = strings.TrimSpace(name)
	if !f.raw {
		name = strings.TrimSpace(strings.TrimPrefix(name, "export "))
	}
	switch {
	case !ok:
		return fmt.Sprintf("%s has no value, and nothing is taken from the server's environment", name), `write "NAME=value"`
	case !variableName().MatchString(name):
		return fmt.Sprintf("variable name %q", name), "use letters, digits and _"
	}
	f.rest = f.rest[at:]

	var value string
	quote := byte(0)
	if lead := strings.TrimLeft(f.rest, " \t"); !f.raw && lead != "" && (lead[0] == '\'' || lead[0] == '"') {
		quote = lead[0]
		f.rest = lead[1:]
	}
	switch {
	case f.raw:
		value = f.take()
	case quote == 0:
		value = f.take()
		if i := strings.Index(value, " #"); i >= 0 {
			value = value[:i]
		}
		value = strings.TrimSpace(value)
	default:
		inside, ok := f.quoted(quote)
		if !ok {
			return fmt.Sprintf("the quote of %s is not closed", name), fmt.Sprintf("write a %c at its end", quote)
		}
		if behind := strings.TrimSpace(f.take()); behind != "" && !strings.HasPrefix(behind, "#") {
			return fmt.Sprintf("something follows the quoted value of %s", name),
				"put all of it in quotes, or a # before a comment"
		}
		value = inside
	}
	if !f.raw && quote != '\'' {
		v := variables{of: f.seen, unset: func(name string) error { return fmt.Errorf("$%s is not set", name) }}
		replaced, err := v.replace(value)
		if err != nil {
			return fmt.Sprintf("%s: %v", name, err), `set it before, write "$$" for a dollar sign, or use single quotes`
		}
		if strings.Contains(replaced, ofInstance) {
			return name + " names a variable that is set in environment to what only an instance knows",
				"set it in environment, too"
		}
		value = replaced
	}
	f.vars[name] = value
	if _, ok := outer[name]; !ok {
		f.seen[name] = value
	}
	return "", ""
}

// quoted takes what comes before the closing quote.
func (f *envReader) quoted(quote byte) (string, bool) {
	var out strings.Builder
	for i := 0; i < len(f.rest); i++ {
		c := f.rest[i]
		switch {
		case c == quote:
			f.rest = f.rest[i+1:]
			return out.String(), true
		case c == '\\' && i+1 < len(f.rest) && (quote == '"' || f.rest[i+1] == quote):
			i++
			switch e := f.rest[i]; e {
			case 'n':
				out.WriteByte('\n')
			case 't':
				out.WriteByte('\t')
			case 'r':
				out.WriteByte('\r')
			case '$':
				out.WriteString("$$") // it is a dollar sign
			case '"', '\'', '\\':
				out.WriteByte(e)
			default:
				out.WriteByte('\\')
				out.WriteByte(e)
			}
		default:
			if c == '\n' {
				f.line++
			}
			out.WriteByte(c)
		}
	}
	return "", false
}
