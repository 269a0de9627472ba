package shell

import (
	"slices"
	"strings"
)

// The help command needs the table that it stands in, so it joins it late.
func init() {
	selfCommands = append(selfCommands, command{
		name: "help", args: "[command] [subcommand]", what: "how a command is used", example: "help change log",
		run: func(c *call) error {
			first, second := c.args["command"], c.args["subcommand"]
			if first == "" {
				return overview(c)
			}
			if members := family(commands(), first); second == "" && len(members) > 0 {
				return list(c, members)
			}
			words := slices.DeleteFunc([]string{first, second}, func(w string) bool { return w == "" })
			cmd, rest, err := c.find(commands(), words)
			if err != nil {
				return err
			}
			if len(rest) > 0 {
				return usageError("for example: "+c.ssh("help "+cmd.name), "%q is not a subcommand of %s", rest[0], cmd.name)
			}
			return help(c, cmd)
		},
	})
}

// overview is what `ssh host` answers: where, who, and what can be asked.
func overview(c *call) error {
	if c.json {
		return list(c, commands())
	}
	server := c.shell.Backend.Server(c.ctx)
	c.out.wrapped("headgate on %s: you are %s", server.Name, introduction(c))
	if err := list(c, commands()); err != nil {
		return err
	}
	c.out.line("a repository may be left out when only one fits")
	c.out.line("try: %s", c.ssh("change list"))
	c.out.line("each has --json and --help; console: %s", server.HTTP)
	return nil
}

// list writes commands, one a line.
func list(c *call, commands []command) error {
	var rows [][]cell
	for _, cmd := range commands {
		if c.json {
			if err := c.emit(struct {
				Command string `json:"command"`
				Args    string `json:"arguments,omitempty"`
				What    string `json:"what"`
				Example string `json:"example"`
			}{cmd.name, cmd.args, cmd.what, cmd.example}); err != nil {
				return err
			}
			continue
		}
		args := cmd.args // its help has the options
		for strings.HasPrefix(args, "[--") {
			_, args, _ = strings.Cut(args, "] ")
		}
		args, _, _ = strings.Cut(args, " [--")
		rows = append(rows, []cell{
			plain("  " + strings.TrimSpace(cmd.name+" "+args)),
			{s: cmd.what, colour: second, wrap: true},
		})
	}
	c.out.table(rows)
	return nil
}

// help is one command's page, its example first.
func help(c *call, cmd *command) error {
	if c.json {
		return list(c, []command{*cmd})
	}
	c.out.line("example: %s", c.ssh(cmd.example))
	c.out.line("")
	c.out.wrapped("%s", cmd.usage())
	c.out.table([][]cell{{plain(""), {s: cmd.what, wrap: true}}})

	said := map[string]string{}
	for _, o := range slices.Concat(cmd.options, globalOptions) {
		said[o.name] = o.what
	}
	var rows [][]cell
	for _, o := range usageOf(cmd.args + " " + globalArgs).options {
		name := o.name
		if o.value != "" {
			name += " <" + o.value + ">"
		}
		rows = append(rows, []cell{plain("  " + name), {s: said[o.name], colour: second, wrap: true}})
	}
	c.out.table(rows)
	for line := range strings.Lines(cmd.notes) {
		c.out.wrapped("%s", strings.TrimSuffix(line, "\n"))
	}
	c.out.line("exit: 0 yes, 1 no, 2 wrong usage, 3 waits, 75 try again")
	return nil
}
