package shell

import (
	"fmt"
	"strconv"
)

// Commands that act on an environment.
var promoteCommands = []command{
	{
		name: "approve", args: "[repo] <environment> [--tree <tree>] [--reason <text>...]",
		what: "say yes to the open promotion of an environment", example: "approve production",
		options: []option{
			{"--tree", "the content you have seen; another one is refused"},
			{"--reason", "why; takes all words up to the next option"},
		},
		notes: "A yes is for exactly one content: a newer proposal needs another.\nIt ends with 0 when the approval counts, even while other conditions are open.",
		run: func(c *call) error {
			repository, environment, err := c.environment()
			if err != nil {
				return err
			}
			return c.act(c.shell.Backend.Approve(c.ctx, c.actor, repository, environment, c.options["--tree"],
				c.options["--reason"]))
		},
	},
	{
		name: "reject", args: "[repo] <environment> [--tree <tree>] [--reason <text>...]",
		what: "say no to the open promotion of an environment", example: "reject production",
		options: []option{
			{"--tree", "the content you have seen; another one is left alone"},
			{"--reason", "why; takes all words up to the next option"},
		},
		notes: "That release is not proposed again until somebody says promote. By git, from any\nclone: git push -o reason=<text> origin :promote/<environment>",
		run: func(c *call) error {
			repository, environment, err := c.environment()
			if err != nil {
				return err
			}
			return c.act(c.shell.Backend.Reject(c.ctx, c.actor, repository, environment, c.options["--tree"],
				c.options["--reason"]))
		},
	},
	{
		name: "promote", args: "[repo] <environment> <release>", what: "propose a release that you choose for an environment",
		example: "promote production 185",
		notes:   "Any release newer than what is declared there, rejected ones too; \"removal\" for an\nenvironment that headgate.yaml names no more. It is judged like any other: approve says yes.",
		run:     promote,
	},
	{
		name: "rollback", args: "[repo] <environment> <release> [--reason <text>...]",
		what: "promote an earlier release again, and hold", example: "rollback production 182",
		options:    []option{{"--reason", "why; takes all words up to the next option"}},
		notes:      "It sets a hold: nothing is promoted by itself until someone promotes forward.",
		run:        rollback,
		incomplete: whichRelease,
	},
	{
		name: "pause", args: "[repo] <environment> [--reason <text>...]", what: "have a deployment go no further",
		example: "pause production",
		options: []option{{"--reason", "why; takes all words up to the next option"}},
		notes:   "What serves goes on serving. continue lets it go on, rollback stops it.",
		run: func(c *call) error {
			repository, environment, err := c.environment()
			if err != nil {
				return err
			}
			return c.act(c.shell.Backend.Pause(c.ctx, c.actor, repository, environment, c.options["--reason"]))
		},
	},
	{
		name: "continue", args: "[repo] <environment>", what: "let a deployment go on that is paused, or waits for a person",
		example: "continue production",
		run: func(c *call) error {
			repository, environment, err := c.environment()
			if err != nil {
				return err
			}
			return c.act(c.shell.Backend.Continue(c.ctx, c.actor, repository, environment))
		},
	},
	{
		name: "stop", args: "[repo] <environment> [--reason <text>...]", what: "end a deployment to hosts",
		example: "stop production --reason checkout answers slowly",
		options: []option{{"--reason", "why; takes all words up to the next option"}},
		notes:   "Hosts that are at it come to an end, no other one begins. It is rolled back by itself,\nunless hosts.yaml says rollback: false; then retry lets it go on.",
		run: func(c *call) error {
			repository, environment, err := c.environment()
			if err != nil {
				return err
			}
			return c.act(c.shell.Backend.StopDeployment(c.ctx, c.actor, repository, environment, c.options["--reason"]))
		},
	},
	{
		name: "retry", args: "[repo] <environment> [--host <name>]", what: "deploy again to hosts that failed",
		example: "retry production --host web-1",
		options: []option{{"--host", "this one only, which may also be one that was skipped"}},
		notes:   "What was stopped goes on.",
		run: func(c *call) error {
			repository, environment, err := c.environment()
			if err != nil {
				return err
			}
			return c.act(c.shell.Backend.RetryDeployment(c.ctx, c.actor, repository, environment, c.options["--host"]))
		},
	},
	{
		name: "skip", args: "[repo] <environment> <host>", what: "leave a host out of a deployment",
		example: "skip production web-3",
		notes:   "It keeps what it has and is not counted, until retry names it or something else is\ndeclared. To leave it out for longer: agent drain",
		run: func(c *call) error {
			repository, environment, err := c.environment()
			if err != nil {
				return err
			}
			return c.act(c.shell.Backend.SkipHost(c.ctx, c.actor, repository, environment, c.args["host"]))
		},
	},
}

func promote(c *call) error {
	text := c.args["release"]
	release, err := strconv.Atoi(text)
	if text == "removal" {
		release, err = 0, nil
	} else if err != nil || release < 1 {
		return notARelease(c, text)
	}
	repository, environment, err := c.environment()
	if err != nil {
		return err
	}
	return c.act(c.shell.Backend.Choose(c.ctx, c.actor, repository, environment, release))
}

func rollback(c *call) error {
	release, err := strconv.Atoi(c.args["release"])
	if err != nil || release < 1 {
		if c.args["repo"] == "" { // "rollback hello production": what was meant is known
			c.args["repo"], c.args["environment"] = c.args["environment"], c.args["release"]
			return whichRelease(c)
		}
		list := c.ssh("env log " + c.args["repo"] + " " + c.args["environment"])
		return usageError("see them: "+list, "%q is not the number of a release", c.args["release"])
	}
	repository, environment, err := c.environment()
	if err != nil {
		return err
	}
	return c.act(c.shell.Backend.Rollback(c.ctx, c.actor, repository, environment, release, c.options["--reason"]))
}

// whichRelease says what one can roll back to.
func whichRelease(c *call) error {
	if c.args["environment"] == "" {
		return usageError("for example: "+c.ssh(c.command.example), "usage: %s", c.command.usage())
	}
	repository, environment, err := c.environment()
	if err != nil {
		return err
	}
	e, err := c.shell.Backend.Environment(c.ctx, c.actor, repository, environment)
	if err != nil {
		return err
	}
	if to := e.RollbackTo; to > 0 {
		again := c.ssh(fmt.Sprintf("rollback %s %s %d", repository, environment, to))
		return usageError(again, "choose a release; the last healthy one is %d", to)
	}
	return usageError("see them: "+c.ssh("env log "+repository+" "+environment),
		"choose a release; no earlier one was healthy")
}
