package gitd

import (
	"net/url"
	"slices"
	"strings"

	"github.com/headgate-cd/headgate/gitd/access"
)

// Commands about who asks, and about the server itself.
var selfCommands = []command{
	{
		name: "whoami", what: "who you are here, and by which rights", example: "whoami",
		run: func(c *call) error {
			if err := c.wants(0, 0); err != nil {
				return err
			}
			standing := c.standing()
			if c.put(struct {
				Name   string     `json:"name"`
				Groups []string   `json:"groups,omitempty"`
				Admin  bool       `json:"administrator,omitempty"`
				Via    access.Via `json:"via"`
			}{standing.Name, standing.Groups, standing.Admin, c.actor.Via}) {
				return nil
			}
			c.out.line("%s", introduction(c))
			return nil
		},
	},
	{
		name: "login", what: "sign a browser in to the console", example: "login",
		notes: "The code is good for two minutes and for one sign-in. Give it to nobody: it acts as you.",
		run: func(c *call) error {
			if err := c.wants(0, 0); err != nil {
				return err
			}
			code := c.d.Logins.New(c.actor.User)
			base := c.d.Backend.Server(c.ctx).HTTP
			page := base + "/sign-in?code=" + url.QueryEscape(code)
			if c.put(struct {
				Code string `json:"code"`
				URL  string `json:"url"`
				For  int64  `json:"valid_ms"`
			}{code, page, codeLife.Milliseconds()}) {
				return nil
			}
			c.out.line("%s", page)
			c.out.line("code %s, for one sign-in as %s, within 2 minutes", code, c.actor.User)
			return nil
		},
	},
	{
		name: "signers", what: "the allowed-signers file that verifies this server's commits", example: "signers > allowed-signers",
		notes: "git config gpg.ssh.allowedSignersFile \"$PWD/allowed-signers\"\ngit log --show-signature origin/env/production",
		run: func(c *call) error {
			if err := c.wants(0, 0); err != nil {
				return err
			}
			signers := c.d.Backend.Server(c.ctx).Signers
			if c.put(struct {
				Signers string `json:"signers"`
			}{signers}) {
				return nil
			}
			for line := range strings.Lines(signers) {
				c.out.line("%s", strings.TrimSuffix(line, "\n"))
			}
			return nil
		},
	},
}

// The help command needs the table that it stands in, so it joins it late.
func init() {
	selfCommands = append(selfCommands, command{
		name: "help", args: "[command]", what: "how a command is used", example: "help change log",
		run: func(c *call) error {
			if len(c.words) == 0 {
				return overview(c)
			}
			if members := family(commands(), c.words[0]); len(c.words) == 1 && len(members) > 0 {
				list(c, members)
				return nil
			}
			cmd, rest, err := find(commands(), c.words)
			if err != nil {
				return err
			}
			if len(rest) > 0 {
				return usage("for example: help "+cmd.name, "help is about one command")
			}
			return help(c, cmd)
		},
	})
}

// standing is how the caller stands to the server itself.
func (c *call) standing() access.Standing { return c.d.Access().Standing(c.actor, access.Own) }

func introduction(c *call) string {
	s, standing := c.actor.User, c.standing()
	if others := slices.DeleteFunc(standing.Groups, func(g string) bool { return g == access.Administrators }); len(others) > 0 {
		s += " (" + strings.Join(others, ", ") + ")"
	}
	if standing.Admin {
		s += ", administrator"
	}
	return s
}

// overview is what `ssh host` answers: where, who, and what can be asked.
func overview(c *call) error {
	server := c.d.Backend.Server(c.ctx)
	if c.json {
		list(c, commands())
		return nil
	}
	c.out.line("headgate on %s: you are %s", server.Name, introduction(c))
	list(c, commands())
	c.out.line("a repository may be left out when only one fits")
	c.out.line("try: ssh %s change list", sshTarget(server))
	c.out.line("each has --json and --help; console: %s", server.HTTP)
	return nil
}

// list writes commands, one a line.
func list(c *call, commands []command) {
	var rows [][]cell
	for _, cmd := range commands {
		if c.put(struct {
			Command string `json:"command"`
			Args    string `json:"arguments,omitempty"`
			What    string `json:"what"`
			Example string `json:"example"`
		}{cmd.name, cmd.args, cmd.what, cmd.example}) {
			continue
		}
		args, _, _ := strings.Cut(cmd.args, " [--") // its help has the options
		rows = append(rows, []cell{plain("  " + strings.TrimSpace(cmd.name+" "+args)), {s: cmd.what, colour: second, cut: true}})
	}
	c.out.table(rows)
}

// help is one command's page, its example first.
func help(c *call, cmd *command) error {
	if c.json {
		list(c, []command{*cmd})
		return nil
	}
	server := c.d.Backend.Server(c.ctx)
	c.out.line("example: ssh %s %s", sshTarget(server), cmd.example)
	c.out.line("")
	c.out.line("%s", strings.TrimSpace(cmd.name+" "+cmd.args))
	c.out.line("  %s", cmd.what)
	var rows [][]cell
	for _, o := range slices.Concat(cmd.options, globalOptions) {
		name := o.name
		if o.value != "" {
			name += " <" + o.value + ">"
		}
		rows = append(rows, []cell{plain("  " + name), {s: o.what, colour: second}})
	}
	c.out.table(rows)
	for line := range strings.Lines(cmd.notes) {
		c.out.line("%s", strings.TrimSuffix(line, "\n"))
	}
	c.out.line("exit: 0 yes, 1 no, 2 wrong usage, 3 waits, 75 try again")
	return nil
}
