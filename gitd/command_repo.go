package gitd

import (
	"strings"

	"github.com/headgate-cd/headgate/gitd/show"
)

// Commands about repositories.
var repoCommands = []command{
	{
		name: "repo list", what: "the repositories you may read", example: "repo list",
		run: func(c *call) error {
			if err := c.wants(0, 0); err != nil {
				return err
			}
			all, err := c.d.Backend.Repositories(c.ctx, c.actor)
			if err != nil {
				return err
			}
			if c.json {
				for _, r := range all {
					c.emit(r)
				}
				return nil
			}
			if len(all) == 0 {
				c.out.line("no repositories yet")
				if c.standing().Admin {
					c.out.line("make one: repo create <name>")
				}
				return nil
			}
			rows := [][]cell{{plain("REPOSITORY"), plain("STATE"), plain("TIP"), plain("RELEASE"), plain("QUEUE"), plain("LANDED"), plain("DESCRIPTION")}}
			for _, r := range all {
				rows = append(rows, []cell{
					plain(r.Name), c.out.word(r.State), dash(short(r.Tip)), count(r.Release), count(len(r.Queue)),
					plain(c.out.at(r.LandedAt, false)), {s: r.Description, cut: true},
				})
			}
			c.out.table(rows)
			c.out.line("%s, times in UTC; clone: git clone %s", plural(len(all), "repository"), all[0].Clone)
			return nil
		},
	},
	{
		name: "repo create", args: "<name> [--description <text>]", what: "make a repository", example: "repo create hello --description says hello",
		options: []option{{name: "--description", value: "text", rest: true, what: "one line about it; takes all words up to the next option"}},
		run: func(c *call) error {
			if err := c.wants(1, 1); err != nil {
				return err
			}
			return c.act(c.d.Backend.CreateRepository(c.ctx, c.actor, c.words[0], c.options["--description"]))
		},
	},
	{
		name: "repo set", args: "<name> gate=on|off", what: "gate a repository's branches, or not", example: "repo set hello gate=off",
		notes: "With the gate on, main moves only to what has been built and tested.\nWith it off, main moves as it is pushed, and who did that stays on record.",
		run: func(c *call) error {
			if err := c.wants(2, 2); err != nil {
				return err
			}
			key, value, _ := strings.Cut(c.words[1], "=")
			if key != "gate" || value != "on" && value != "off" {
				return usage("for example: "+c.command.example, "%q is no setting; there is gate=on and gate=off", c.words[1])
			}
			return c.act(c.d.Backend.SetGate(c.ctx, c.actor, c.words[0], value == "on"))
		},
	},
}

// act tells what was done.
func (c *call) act(done show.Done, err error) error {
	if err != nil {
		return err
	}
	if c.put(done) {
		return nil
	}
	c.out.line("%s", done.What)
	if done.Next != "" {
		c.out.line("%s", done.Next)
	}
	for _, line := range done.More {
		c.out.line("%s", line)
	}
	return nil
}

func dash(s string) cell {
	if s == "" {
		return plain("-")
	}
	return plain(s)
}
