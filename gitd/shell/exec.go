package shell

import (
	"strings"

	"github.com/headgate-cd/headgate/gitd/show"
	"github.com/headgate-cd/headgate/gitd/tty"
)

var execCommand = command{
	name: "exec", args: "[--instance <id>] [repo] <environment> <service> [command...]",
	what: "run a command where a service runs", example: "exec staging web ls -l",
	options:  []option{{"--instance", "which one, as env show names them; without: one that is healthy"}},
	verbatim: true,
	notes: "With ssh -t it has a terminal; without a command it is a shell. ssh joins words with blanks: quote twice, as\n" +
		"in: exec staging web \"sh -c 'echo $HOME'\". It runs as the instance does, sees its secrets, and ends with it.\n" +
		"Policy says who may (the query exec): without rules of your own whoever may write where promotions need no\n" +
		"approval, elsewhere administrators. The answer is on record before anything runs, in refs/decisions/log;\n" +
		"who ran what stands in env logs. It ends with the command's exit status.",
	run: execute,
}

func execute(c *call) error {
	words := c.words
	repository := ""
	if len(words) > 2 {
		e, err := c.shell.Backend.Environment(c.ctx, c.actor, words[0], words[1])
		if err == nil {
			repository, words = e.Repository, words[1:]
		} else if !notFound(err) {
			return err
		}
	}
	if len(words) < 2 {
		return usageError("for example: "+c.ssh(c.command.example), "usage: %s", c.command.usage())
	}
	c.args["repo"], c.args["environment"] = repository, words[0]
	repository, environment, err := c.environment()
	if err != nil {
		return err
	}
	x := show.Exec{
		Service:  words[1],
		Instance: c.options["--instance"],
		Command:  words[2:],
		Streams:  tty.Streams{In: c.in, Out: c.stdout, Err: c.stderr},
	}
	if len(x.Command) > 0 && strings.HasPrefix(x.Command[0], "-") {
		if x.Command[0] != "--" {
			return usageError("options of exec come before the environment; a program of that name after --",
				"%q is not a program", x.Command[0])
		}
		x.Command = x.Command[1:]
	}
	if c.console != nil {
		in, out, terminal := c.console()
		x.In, x.Out, x.Err, x.Terminal = in, out, out, &terminal
	}
	status, err := c.shell.Backend.Exec(c.ctx, c.actor, repository, environment, x)
	if err != nil {
		return err
	}
	return outcome(status)
}
