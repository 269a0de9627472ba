package shell

import (
	"strings"

	"github.com/headgate-cd/headgate/gitd/access"
	"github.com/headgate-cd/headgate/gitd/show"
)

// Commands about repositories.
var repoCommands = []command{
	{
		name: "repo list", what: "the repositories you may read", example: "repo list",
		run: func(c *call) error {
			all, err := c.shell.Backend.Repositories(c.ctx, c.actor)
			if err != nil {
				return err
			}
			if c.json {
				return emitAll(c, all)
			}
			if len(all) == 0 {
				c.noRepository()
				return nil
			}
			rows := [][]cell{{plain("REPOSITORY"), plain("STATE"), plain("TIP"), plain("RELEASE"), plain("QUEUE"),
				plain("LANDED"), plain("DESCRIPTION")}}
			for _, r := range all {
				about := r.Description
				if r.State == show.Damaged {
					about = r.Reason
				}
				rows = append(rows, []cell{
					plain(r.Name), c.out.word(r.State), dash(show.Short(r.Tip)), count(r.Release), count(len(r.Queue)),
					plain(c.out.at(r.LandedAt, false)), {s: about, cut: r.State != show.Damaged},
				})
			}
			c.out.table(rows)
			c.out.line("%s, times in UTC; clone: git clone %s", show.Plural(len(all), "repository"), all[0].Clone)
			return nil
		},
	},
	{
		name: "repo create", args: "<name> [--description <text>...]", what: "make a repository",
		example: "repo create hello --description says hello",
		options: []option{{"--description", "one line about it; takes all words up to the next option"}},
		run: func(c *call) error {
			return c.act(c.shell.Backend.CreateRepository(c.ctx, c.actor, c.args["name"], c.options["--description"]))
		},
	},
	{
		name: "repo set", args: "<name> <setting>", what: "switch a repository's gate or policies on or off",
		example: "repo set hello gate=off",
		notes: "gate=on: main moves only to what has been built and tested. gate=off: it moves\n" +
			"as it is pushed.\n" +
			"policies=off: the repository's own policies/ do not judge, the server's do: a way\n" +
			"out of rules that deny their own change. policies=on: both do.\n" +
			"Who switched what stays on record.",
		run: func(c *call) error {
			what, value, _ := strings.Cut(c.args["setting"], "=")
			s := access.Switch(what)
			if s != access.Gate && s != access.OwnPolicies || value != "on" && value != "off" {
				return usageError("for example: "+c.ssh(c.command.example),
					"%q is not a setting; there is gate=on, gate=off, policies=on and policies=off", c.args["setting"])
			}
			return c.act(c.shell.Backend.Set(c.ctx, c.actor, c.args["name"], s, value == "on"))
		},
	},
	{
		name: "repo pause", args: "<repo> [branch] [--reason <text>...]",
		what: "let nothing land on a branch until it is resumed", example: "repo pause hello",
		options: []option{{"--reason", "why; takes all words up to the next option"}},
		notes:   "What is pushed is taken and built, and waits. By git, from any clone:\ngit push -o pause -o reason=<text> origin HEAD:refs/for/<branch>",
		run: func(c *call) error {
			return c.act(c.shell.Backend.PauseLanding(c.ctx, c.actor, c.args["repo"], c.args["branch"], c.options["--reason"]))
		},
	},
	{
		name: "repo resume", args: "<repo> [branch] [--reason <text>...]", what: "let changes land on a branch again",
		example: "repo resume hello",
		options: []option{{"--reason", "why; takes all words up to the next option"}},
		notes:   "By git, from any clone: git push -o resume origin HEAD:refs/for/<branch>",
		run: func(c *call) error {
			return c.act(c.shell.Backend.ResumeLanding(c.ctx, c.actor, c.args["repo"], c.args["branch"], c.options["--reason"]))
		},
	},
}

// noRepository says that there is nothing yet, and how there can be something.
func (c *call) noRepository() {
	if !c.standing().Admin {
		c.out.line("no repositories yet that you may read; an administrator can make one or let you in")
		return
	}
	c.out.line("no repositories yet")
	c.out.line("make one: %s", c.ssh("repo create hello"))
}

// act tells what was done.
func (c *call) act(done show.Done, err error) error {
	if err != nil {
		return err
	}
	if c.json {
		return c.emit(done)
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
