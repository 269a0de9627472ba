package shell

import (
	"fmt"
	"slices"
	"strings"

	"github.com/headgate-cd/headgate/gitd/yamlfile"
)

// usage is what the text of a command's args says:
//
//	<change>              an argument that must be given
//	[repo]                one that may be left out
//	<text...>             one that takes all words that are left; the last one
//	[-f]                  an option
//	[--line <n>]          an option with a value
//	[--reason <text>...]  an option that takes all words up to the next one: ssh
//	                      has joined them, quotes and all
//	[--repository <repo>,...]  one that takes several values, with commas or given again
type usage struct {
	arguments []argument
	options   []optionUsage
}

type argument struct {
	name     string
	optional bool
	rest     bool
}

type optionUsage struct {
	name  string // with its dashes
	value string // what it takes, "" for nothing
	rest  bool
	many  bool
}

// globalArgs are the options that every command has.
const globalArgs = "[--json] [--color] [--ascii] [--help]"

var globalOptions = []option{
	{"--json", "one object a line, for programs"},
	{"--color", "colour and shapes, without a terminal too"},
	{"--ascii", "neither colour nor Unicode"},
	{"--help", "this; also -h"},
}

// usageOf reads args. It panics when they are not as described at usage, which a
// test finds.
func usageOf(args string) (u usage) {
	for args = strings.TrimSpace(args); args != ""; args = strings.TrimSpace(args) {
		optional, closing := args[0] == '[', byte('>')
		if optional {
			closing = ']'
		}
		end := strings.IndexByte(args, closing)
		if end < 0 || !optional && args[0] != '<' {
			panic("usage: " + args)
		}
		inner := args[1:end]
		args = args[end+1:]

		if !strings.HasPrefix(inner, "-") {
			name, rest := strings.CutSuffix(inner, "...")
			u.arguments = append(u.arguments, argument{name, optional, rest})
			continue
		}
		name, value, _ := strings.Cut(inner, " ")
		value, many := strings.CutSuffix(value, ",...")
		value, rest := strings.CutSuffix(value, "...")
		u.options = append(u.options, optionUsage{name, strings.Trim(value, "<>"), rest, many})
	}
	return u
}

// usage is how a command is called, its name first.
func (cmd *command) usage() string { return strings.TrimSpace(cmd.name + " " + cmd.args) }

// with is a command as it would be with one more argument.
func (cmd *command) with(name, value string, args map[string]string) string {
	words := []string{cmd.name}
	for _, a := range usageOf(cmd.args).arguments {
		switch {
		case a.name == name:
			words = append(words, value)
		case args[a.name] != "":
			words = append(words, args[a.name])
		}
	}
	return strings.Join(words, " ")
}

func asksHelp(word string) bool { return word == "--help" || word == "-h" }

// parse sorts words into options and arguments.
func (c *call) parse(words []string) error {
	u := usageOf(c.command.args + " " + globalArgs)
	var given []string
	for len(words) > 0 {
		word := words[0]
		words = words[1:]
		if !strings.HasPrefix(word, "-") || word == "-" {
			if c.command.verbatim {
				c.words = append([]string{word}, words...)
				return nil
			}
			given = append(given, word)
			continue
		}
		var err error
		if words, err = c.option(u, word, words); err != nil {
			return err
		}
	}
	if c.has("--ascii") {
		c.out.Colour, c.out.Unicode = false, false
	} else if c.has("--color") {
		c.out.Colour, c.out.Unicode = true, true
	}
	return c.arguments(u, given)
}

// option takes one option and its value, and returns the words behind them.
func (c *call) option(u usage, word string, words []string) ([]string, error) {
	name, value, given := strings.Cut(word, "=")
	i := slices.IndexFunc(u.options, func(o optionUsage) bool { return o.name == name })
	if i < 0 {
		var names []string
		for _, o := range u.options {
			names = append(names, o.name)
		}
		hint := "see: " + c.ssh("help "+c.command.name)
		if near, ok := yamlfile.Nearest(name, names); ok {
			hint = fmt.Sprintf("did you mean %q?", near)
		}
		return nil, usageError(hint, "%s has no option %q", c.command.name, name)
	}

	switch o := u.options[i]; {
	case o.value == "" && given:
		return nil, usageError("write it as "+name, "option %s takes no value", name)
	case o.value == "":
	case o.rest:
		var taken []string
		if given {
			taken = append(taken, value)
		}
		for len(words) > 0 && !strings.HasPrefix(words[0], "--") {
			taken = append(taken, words[0])
			words = words[1:]
		}
		value = strings.Join(taken, " ")
	case !given && len(words) > 0:
		value, words = words[0], words[1:]
	}
	if o := u.options[i]; o.value != "" && value == "" {
		return nil, usageError("see: "+c.ssh("help "+c.command.name), "option %s needs a value: %s <%s>", name, name, o.value)
	}
	if before := c.options[name]; u.options[i].many && before != "" {
		value = before + "," + value
	} else if c.has(name) {
		return nil, usageError("leave one of them out", "option %s is given twice", name)
	}
	c.options[name] = value
	return words, nil
}

// arguments gives each word its name. Those that may be left out get one, from
// the left, when there are more words than must be.
func (c *call) arguments(u usage, words []string) error {
	spare := len(words)
	for _, a := range u.arguments {
		if !a.optional {
			spare--
		}
	}
	rest := words
	for _, a := range u.arguments {
		if a.optional && spare <= 0 || len(rest) == 0 {
			continue
		}
		if a.optional {
			spare--
		}
		taken := 1
		if a.rest {
			taken = len(rest)
		}
		c.args[a.name] = strings.Join(rest[:taken], " ")
		rest = rest[taken:]
	}
	if spare < 0 && c.command.incomplete != nil {
		return c.command.incomplete(c)
	}
	if spare < 0 || len(rest) > 0 {
		return usageError("for example: "+c.ssh(c.command.example), "usage: %s", c.command.usage())
	}
	return nil
}
