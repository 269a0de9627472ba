package shell

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/headgate-cd/headgate/gitd/show"
	"github.com/headgate-cd/headgate/gitd/yamlfile"
)

// part reads which part of a numbered list is wanted, of what. More than one of the
// repositories have no numbers in common.
func (c *call) part(what string, names []string) (p show.Part, err error) {
	for _, o := range []struct {
		option string
		number *int
	}{{"--before", &p.Before}, {"--after", &p.After}} {
		text, given := c.options[o.option]
		if !given {
			continue
		}
		if *o.number, err = strconv.Atoi(text); err != nil || *o.number < 1 {
			return p, usageError("for example: "+c.ssh(c.command.name+" hello "+o.option+" 362"),
				"%q is not the number of a %s", text, what)
		}
		if len(names) > 1 {
			example := fmt.Sprintf("%s %s %s %d", c.command.name, names[0], o.option, *o.number)
			return p, usageError("for example: "+c.ssh(example),
				"%s takes a repository: each has numbers of its own", o.option)
		}
	}
	return p, nil
}

// more says by which commands the parts of a list beside one of it are listed, "" when
// that is all; left is whether anything is left out of the lists of several repositories.
func (c *call) more(names []string, beside show.Beside, left bool) string {
	if len(names) != 1 {
		if left {
			return "more: " + c.ssh(c.again("--all"))
		}
		return ""
	}
	var all []string
	if beside.Older > 0 {
		all = append(all, "older: "+c.ssh(c.again(names[0], "--before", strconv.Itoa(beside.Older))))
	}
	if beside.Newer > 0 {
		all = append(all, "newer: "+c.ssh(c.again(names[0], "--after", strconv.Itoa(beside.Newer))))
	}
	return strings.Join(all, "; ")
}

// again is the command once more with words behind its name, as it narrows its list.
func (c *call) again(words ...string) string {
	var narrowed []string
	for _, o := range usageOf(c.command.args).options {
		if value := c.options[o.name]; o.value != "" && value != "" && !slices.Contains(cursors, o.name) {
			narrowed = append(narrowed, o.name, quote(value))
		}
	}
	// The cursor comes last, where the next one is put in its place.
	at := slices.IndexFunc(words, func(w string) bool { return strings.HasPrefix(w, "-") })
	return strings.Join(slices.Concat([]string{c.command.name}, words[:at], narrowed, words[at:]), " ")
}

// cursors are the options that say which part of a list is wanted.
var cursors = []string{"--before", "--after", "--from"}

// state reads an option that takes one of some states.
func (c *call) state(option, what string, states []show.State) (show.State, error) {
	s := show.State(c.options[option])
	if s == "" || slices.Contains(states, s) {
		return s, nil
	}
	hint := "choose one of: " + show.Words(states)
	if near, ok := yamlfile.Nearest(string(s), strings.Split(show.Words(states), ", ")); ok {
		hint = fmt.Sprintf("did you mean %q?", near)
	}
	return "", usageError(hint, "no %s is ever %q", what, s)
}

// gather reads a part of each repository's list and puts them together, without what
// leaveOut leaves out. With one repository, beside is what is beside its part.
func gather[T any](c *call, names []string,
	read func(name string) (part []T, total int, beside show.Beside, err error)) (
	all []T, total int, beside show.Beside, err error) {
	for _, name := range names {
		part, n, next, err := read(name)
		if c.leaveOut(names, name, err) {
			continue
		}
		if err != nil {
			return nil, 0, beside, err
		}
		all, total, beside = append(all, part...), total+n, next
	}
	return all, total, beside, nil
}
