package gitd

import (
	"errors"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/headgate-cd/headgate/gitd/repo"
	"github.com/headgate-cd/headgate/gitd/shell"
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
	errLine       = errors.New("this is not a command line of this server")
	errRepository = errors.New("this is not the name of a repository")
	errLFS        = errors.New(
		"this server does not keep files of Git LFS: keep them in Git (git lfs migrate export), or name a server that does (git config lfs.url)")
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
	words, err := shell.Split(line)
	if err != nil {
		return execLine{}, err
	}
	if len(words) > 0 && (words[0] == "git-lfs-authenticate" || words[0] == "git-lfs-transfer") {
		return execLine{}, errLFS
	}
	if len(words) > 0 && (words[0] == "git" || strings.HasPrefix(words[0], "git-")) {
		return execLine{}, errLine
	}
	return execLine{words: words}, nil
}

// repositoryArgument reads " '/hello.git'", as git writes it, or the same
// without quotes: one space, one word, one optional slash on either side, one
// optional ".git".
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
	path = strings.TrimSuffix(strings.TrimPrefix(path, "/"), "/")
	name = strings.TrimSuffix(path, ".git")
	// A name is of letters, digits and "._-": no quote or space can be left.
	return name, repo.CheckName(name) == nil
}
