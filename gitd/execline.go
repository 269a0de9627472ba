package gitd

import (
	"errors"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/headgate-cd/headgate/gitd/repo"
	"github.com/headgate-cd/headgate/gitd/transport"
)

// maxLine is the length of a command line in bytes.
const maxLine = 4096

// execLine is what a client asked a session to run: one git verb on one
// repository, or the words of a command.
type execLine struct {
	service    transport.Service // of git; empty for a command
	repository string            // that git is to serve
	words      []string
}

var (
	errLine       = errors.New("this is no command line of this server")
	errRepository = errors.New("this names no repository of this server")
	errQuote      = errors.New("a quote is not closed")
)

// parseExec reads a command line. It expands nothing: there is no shell.
func parseExec(line string) (execLine, error) {
	if len(line) > maxLine || !utf8.ValidString(line) {
		return execLine{}, errLine
	}
	for _, c := range line {
		if unicode.IsControl(c) {
			return execLine{}, errLine
		}
	}
	for _, service := range transport.Services {
		if rest, ok := strings.CutPrefix(line, string(service)); ok {
			name, ok := repositoryArgument(rest)
			if !ok {
				return execLine{}, errRepository
			}
			return execLine{service: service, repository: name}, nil
		}
	}
	words, err := split(line)
	if err != nil {
		return execLine{}, err
	}
	if len(words) > 0 && (words[0] == "git" || strings.HasPrefix(words[0], "git-")) {
		return execLine{}, errLine
	}
	return execLine{words: words}, nil
}

// repositoryArgument reads " '/hello.git'", as git writes it, or the same
// without quotes: one space, one word, one optional slash, one optional ".git".
func repositoryArgument(rest string) (name string, ok bool) {
	path, ok := strings.CutPrefix(rest, " ")
	if !ok {
		return "", false
	}
	if inner, quoted := strings.CutPrefix(path, "'"); quoted {
		if path, ok = strings.CutSuffix(inner, "'"); !ok {
			return "", false
		}
	}
	name = strings.TrimSuffix(strings.TrimPrefix(path, "/"), ".git")
	// A name is of letters, digits and "._-": no quote or space can be left.
	return name, repo.CheckName(name) == nil
}

// split cuts a line into words at spaces; single and double quotes keep spaces,
// a backslash keeps the next character.
func split(line string) ([]string, error) {
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
		return nil, errQuote
	}
	if in {
		words = append(words, word.String())
	}
	return words, nil
}
