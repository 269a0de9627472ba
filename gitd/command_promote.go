package gitd

import (
	"fmt"
	"strconv"
	"strings"
)

// Commands that act on an environment.
var promoteCommands = []command{
	{
		name: "approve", args: "[repo] <environment> [--tree <tree>] [--reason <text>]", what: "say yes to the open promotion of an environment", example: "approve production",
		options: []option{
			{name: "--tree", value: "tree", what: "the content you have seen; another one is refused"},
			{name: "--reason", value: "text", rest: true, what: "why; takes all words up to the next option"},
		},
		notes: "A yes is for exactly one content: a newer proposal needs another.\nIt ends with 0 when the approval counts, even while other conditions are open.",
		run: func(c *call) error {
			if err := c.wants(1, 2); err != nil {
				return err
			}
			repository, environment, err := c.environment(c.words)
			if err != nil {
				return err
			}
			return c.act(c.d.Backend.Approve(c.ctx, c.actor, repository, environment, c.options["--tree"], c.options["--reason"]))
		},
	},
	{
		name: "rollback", args: "[repo] <environment> <release> [--reason <text>]", what: "promote an earlier release again, and hold", example: "rollback production 182",
		options: []option{{name: "--reason", value: "text", rest: true, what: "why; takes all words up to the next option"}},
		notes:   "It sets a hold: nothing is promoted by itself until someone promotes forward.",
		run:     rollback,
	},
}

func rollback(c *call) error {
	if err := c.wants(1, 3); err != nil {
		return err
	}
	words, release := c.words, 0
	if last := words[len(words)-1]; len(words) > 1 {
		if n, err := strconv.Atoi(last); err == nil && n > 0 {
			words, release = words[:len(words)-1], n
		}
	}
	if len(words) > 2 {
		return usage("see them: env log "+strings.Join(words[:2], " "), "%q is no number of a release", words[2])
	}
	repository, environment, err := c.environment(words)
	if err != nil {
		return err
	}
	if release == 0 {
		e, err := c.d.Backend.Environment(c.ctx, c.actor, repository, environment)
		if err != nil {
			return err
		}
		if to := lastHealthy(e); to > 0 {
			return usage(fmt.Sprintf("rollback %s %s %d", repository, environment, to), "say which release; the last healthy one is %d", to)
		}
		return usage(fmt.Sprintf("see them: env log %s %s", repository, environment), "say which release; no earlier one was healthy")
	}
	return c.act(c.d.Backend.Rollback(c.ctx, c.actor, repository, environment, release, c.options["--reason"]))
}
