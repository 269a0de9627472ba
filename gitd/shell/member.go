package shell

import (
	"fmt"
	"io"
	"strings"

	"github.com/headgate-cd/headgate/gitd/show"
)

// Commands about users and groups.
var memberCommands = []command{
	{
		name: "user list", what: "the users of this server, their groups and keys", example: "user list",
		run: listUsers,
	},
	{
		name: "user add", args: "<name>", what: "make a user, by the public keys on standard input", example: "user add bob",
		notes: "The keys are lines of .pub files: user add bob <bob.pub\nA user who is there gets them in addition.\n" +
			configured,
		run: func(c *call) error {
			keys, err := c.publicKeys()
			if err != nil {
				return err
			}
			return c.act(c.shell.Backend.AddUser(c.ctx, c.actor, c.args["name"], keys))
		},
	},
	{
		name: "user remove", args: "<name>", what: "remove a user, with keys and tokens, from all groups",
		example: "user remove bob",
		notes:   configured,
		run:     func(c *call) error { return c.act(c.shell.Backend.RemoveUser(c.ctx, c.actor, c.args["name"])) },
	},
	{
		name: "group list", what: "the groups of this server", example: "group list",
		run: func(c *call) error {
			all, err := c.shell.Backend.Groups(c.ctx, c.actor)
			if err != nil {
				return err
			}
			if c.json {
				return emitAll(c, all)
			}
			rows := [][]cell{{plain("GROUP"), plain("USERS")}}
			for _, g := range all {
				rows = append(rows, []cell{plain(g.Name), {s: strings.Join(g.Members, ", "), wrap: true}})
			}
			c.out.table(rows)
			return nil
		},
	},
	{
		name: "group add", args: "<group> <user>", what: "add a user to a group; a new one is made",
		example: "group add release bob",
		notes:   configured,
		run: func(c *call) error {
			return c.act(c.shell.Backend.AddMember(c.ctx, c.actor, c.args["group"], c.args["user"]))
		},
	},
	{
		name: "group remove", args: "<group> <user>", what: "take a user out of a group", example: "group remove release bob",
		notes: configured,
		run: func(c *call) error {
			return c.act(c.shell.Backend.RemoveMember(c.ctx, c.actor, c.args["group"], c.args["user"]))
		},
	},
}

const configured = "For administrators. It is a change of server.yaml in the repository headgate, as if it had been pushed."

func listUsers(c *call) error {
	all, err := c.shell.Backend.Users(c.ctx, c.actor)
	if err != nil {
		return err
	}
	if c.json {
		return emitAll(c, all)
	}
	rows := [][]cell{{plain("USER"), plain("GROUPS"), plain("KEYS")}}
	for _, u := range all {
		name, groups := u.Name, strings.Join(u.Groups, ", ")
		if len(u.Keys) == 0 {
			rows = append(rows, []cell{plain(name), dash(groups), plain("-")})
		}
		for _, k := range u.Keys {
			rows = append(rows, []cell{plain(name), dash(groups), plain(strings.TrimSpace(k.Fingerprint + " " + k.Comment))})
			name, groups = "", ""
		}
	}
	c.out.table(rows)
	c.out.line("%s; another: %s <their.pub", show.Plural(len(all), "user"), c.ssh("user add bob"))
	return nil
}

// Bounds of the keys that one command gives.
const (
	maxKeyBytes = 64 << 10
	maxKeys     = 50
)

// publicKeys reads public keys, a line each, from standard input.
func (c *call) publicKeys() ([]string, error) {
	give := "for example: " + c.ssh(c.command.example) + " <bob.pub"
	if c.in == nil {
		return nil, usageError(give, "the public keys come on standard input")
	}
	data, err := io.ReadAll(io.LimitReader(c.in, maxKeyBytes+1))
	if err != nil {
		return nil, fmt.Errorf("read standard input: %w", err)
	}
	var keys []string
	for line := range strings.Lines(string(data)) {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
			keys = append(keys, line)
		}
	}
	switch {
	case len(keys) == 0:
		return nil, usageError(give, "no public key came on standard input")
	case len(data) > maxKeyBytes || len(keys) > maxKeys:
		return nil, usageError("", "these are more than %d keys or %d KiB", maxKeys, maxKeyBytes>>10)
	}
	return keys, nil
}
