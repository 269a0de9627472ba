package shell

import (
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/headgate-cd/headgate/gitd/show"
	"github.com/headgate-cd/headgate/gitd/terminal"
)

// Commands that look through everything that their caller may read.
var searchCommands = []command{{
	name: "search", args: "<text...>", what: "find repositories, changes, commits and lines of logs", example: "search round tax",
	notes: "It looks in names, descriptions, subjects, authors, the beginnings of commits, and the logs of what was built lately\n" +
		"(log search looks through all of them). It ends with 1 when nothing was found.",
	run: func(c *call) error {
		found, err := c.shell.Backend.Search(c.ctx, c.actor, c.args["text"])
		if err != nil {
			return err
		}
		var end error
		if len(found.Repositories)+len(found.Changes)+len(found.Commits)+len(found.Lines) == 0 {
			end = outcome(1)
		}
		if c.json {
			return c.answer(found, end)
		}
		if end != nil {
			c.out.line("nothing was found for %q", found.Query)
			if found.Cut {
				c.out.line("time was up before all was looked through")
			}
			return end
		}

		var rows [][]cell
		for _, r := range found.Repositories {
			rows = append(rows, []cell{plain("repository"), plain(r.Name), plain(""), plain(""), {s: r.Description, cut: true}})
		}
		for _, ch := range found.Changes {
			rows = append(rows, []cell{plain("change"), plain(ch.Repository), count(ch.Number), c.out.word(ch.State),
				{s: ch.Subject, cut: true}})
		}
		for _, k := range found.Commits {
			rows = append(rows, []cell{plain("commit"), plain(k.Repository), plain(show.Short(k.ID)), plain(k.Author),
				{s: k.Subject, cut: true}})
		}
		c.out.table(rows)
		if found.Cut {
			c.out.line("there is more: search for more words, or in a clone")
		}
		var of foundIn
		for _, l := range found.Lines {
			c.foundLine(&of, l)
		}
		if found.LinesCut != "" {
			c.out.line("of logs, %s; more: %s", found.LinesCut, c.ssh("log search <repo> <text>"))
		}
		return nil
	},
}, {
	name: "log search", args: "[--lines <n>] <repo> <text...>", what: "find lines in the logs of all builds",
	example: "log search hello no relation",
	options: []option{{"--lines", "at most so many (without: 500, which is the most)"}},
	notes: "Whatever the case, in what changes and schedules have built, the newest first, for half a minute at most; lines\n" +
		"come as they are found. It ends with 1 when nothing was found, 3 when it did not look through all.",
	run: logSearch,
}}

func logSearch(c *call) error {
	q := show.LogSearch{Repository: c.args["repo"], Text: c.args["text"]}
	if s := c.options["--lines"]; s != "" {
		var err error
		if q.Lines, err = strconv.Atoi(s); err != nil || q.Lines < 1 {
			return usageError("for example: "+c.ssh("log search --lines 20 hello error"), "%q is not a number of lines", s)
		}
	}
	var of foundIn
	lines := 0
	for l, err := range c.shell.Backend.SearchLogs(c.ctx, c.actor, q) {
		if cut := (*show.SearchCut)(nil); errors.As(err, &cut) {
			if c.json {
				return errors.Join(c.emit(map[string]string{"cut": cut.Error()}), outcome(3))
			}
			c.out.line("%s", cut.Error())
			return outcome(3)
		}
		if err != nil {
			return err
		}
		lines++
		if c.json {
			err = c.emit(l)
		} else {
			c.foundLine(&of, l)
		}
		if err != nil {
			return err
		}
		c.flush()
	}
	if lines > 0 {
		return nil
	}
	if !c.json {
		c.out.line("no log of %s has %q in it", q.Repository, q.Text)
	}
	return outcome(1)
}

// foundIn is the build and the step that the last found line was of.
type foundIn struct {
	build string
	step  int
}

// foundLine writes a line that was found, and what it is of where that is not what the one
// before is of.
func (c *call) foundLine(of *foundIn, l show.FoundLine) {
	if of.build != l.Build {
		*of = foundIn{build: l.Build}
		c.out.line("%s, built %s: %s", l.Of(), c.out.at(l.BuiltAt, true), l.URL)
	}
	if of.step != l.Step && l.Command != "" {
		c.out.line("  %s", strings.TrimPrefix(terminal.Line(l.Phase+": "+l.Command), ": "))
	}
	of.step = l.Step
	io.WriteString(c.out.w, fmt.Sprintf("%6d | ", l.Line)+c.out.log(l.Text)+"\n")
}
