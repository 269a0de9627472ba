package forge

import (
	"strings"
	"unicode"
)

// command is a line of a comment that asks for something: "/land".
type command struct {
	name string
	arg  string // at most one word
}

// Commands that a comment may give.
const (
	cmdLand     = "land"
	cmdHold     = "hold"
	cmdRetry    = "retry"
	cmdPriority = "priority"
	cmdWhy      = "why"
	cmdOkToTest = "ok-to-test"
)

// maxCommands bounds those of one comment; more are not read.
const maxCommands = 10

// commandsOf reads the commands of a comment: each at the very beginning of a line,
// outside quotes and code. Other lines that begin with a slash are somebody else's.
func commandsOf(text string) (list []command) {
	fence := ""
	for line := range strings.Lines(text) {
		line = strings.TrimRightFunc(line, unicode.IsSpace)
		mark := strings.TrimLeft(line, " ")
		if fence != "" {
			if strings.HasPrefix(mark, fence) && strings.Trim(mark, fence[:1]) == "" {
				fence = ""
			}
			continue
		}
		if strings.HasPrefix(mark, "```") || strings.HasPrefix(mark, "~~~") {
			fence = mark[:len(mark)-len(strings.TrimLeft(mark, mark[:1]))]
			continue
		}
		rest, ok := strings.CutPrefix(line, "/")
		if !ok || len(list) == maxCommands {
			continue
		}
		words := strings.Fields(rest)
		if len(words) == 0 || len(words) > 2 || strings.HasPrefix(rest, " ") {
			continue
		}
		c := command{name: words[0]}
		if len(words) == 2 {
			c.arg = words[1]
		}
		switch c.name {
		case cmdLand, cmdHold, cmdRetry, cmdPriority, cmdWhy, cmdOkToTest:
			list = append(list, c)
		}
	}
	return list
}
