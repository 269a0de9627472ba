package shell

import (
	"github.com/headgate-cd/headgate/gitd/show"
)

// search looks through everything that its caller may read.
var searchCommands = []command{{
	name: "search", args: "<text...>", what: "find repositories, changes and commits", example: "search round tax",
	notes: "It looks in names, descriptions, subjects, authors and the beginnings of commits.\nIt ends with 1 when nothing was found.",
	run: func(c *call) error {
		found, err := c.shell.Backend.Search(c.ctx, c.actor, c.args["text"])
		if err != nil {
			return err
		}
		var end error
		if len(found.Repositories)+len(found.Changes)+len(found.Commits) == 0 {
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
		return nil
	},
}}
