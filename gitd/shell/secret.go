package shell

import (
	"bytes"
	"fmt"
	"io"
	"strings"

	"github.com/headgate-cd/headgate/gitd/secret"
	"github.com/headgate-cd/headgate/gitd/show"
)

// Commands about secrets. A value comes on standard input only: the words of a
// command can be seen by everybody on the machine where it is typed.
var secretCommands = []command{
	{
		name: "secret set", args: "<name>", what: "keep a secret, given on standard input", example: "secret set hub-webhook",
		notes: "The value is what comes on standard input: secret set hub-webhook <secret.txt\n" +
			"A name is of the server, or of one repository as repository:name. One newline at the end is not part of the secret.\n" +
			"It is kept encrypted in the server's data directory, outside Git, and never shown again.",
		run: func(c *call) error {
			id, err := secretID(c.args["name"])
			if err != nil {
				return err
			}
			value, err := c.secret()
			if err != nil {
				return err
			}
			return c.act(c.shell.Backend.SetSecret(c.ctx, c.actor, id, value))
		},
	},
	{
		name: "secret list", args: "[repo]", what: "the secrets that you may set, without their values",
		example: "secret list hello",
		run: func(c *call) error {
			all, err := c.shell.Backend.Secrets(c.ctx, c.actor, c.args["repo"])
			if err != nil {
				return err
			}
			if c.json {
				return emitAll(c, all)
			}
			if len(all) == 0 {
				c.out.line("no secrets that you may set")
				return nil
			}
			rows := [][]cell{{plain("SECRET"), plain("SET"), plain("BY")}}
			for _, s := range all {
				rows = append(rows, []cell{plain(s.String()), dash(c.out.at(s.At, false)), dash(s.By)})
			}
			c.out.table(rows)
			return nil
		},
	},
	{
		name: "secret remove", args: "<name>", what: "forget a secret", example: "secret remove hello:registry-token",
		run: func(c *call) error {
			id, err := secretID(c.args["name"])
			if err != nil {
				return err
			}
			return c.act(c.shell.Backend.RemoveSecret(c.ctx, c.actor, id))
		},
	},
}

// secretID reads "name" or "repository:name".
func secretID(s string) (secret.ID, error) {
	id := secret.ID{Name: s}
	if repository, name, ok := strings.Cut(s, ":"); ok {
		id = secret.ID{Repository: repository, Name: name}
		if repository == "" {
			return id, usageError("write repository:name, or the name alone for one of the server", "%q names no repository", s)
		}
	}
	if err := id.Check(); err != nil {
		return id, &show.Error{Kind: show.Usage, What: err.Error()}
	}
	return id, nil
}

// secret reads what the client gives on standard input.
func (c *call) secret() (secret.Value, error) {
	give := "for example: " + c.ssh(c.command.example) + " <secret.txt"
	if c.in == nil {
		return secret.Value{}, usageError(give,
			"a secret is not typed on a terminal, which would show it: give it on standard input")
	}
	data, err := io.ReadAll(io.LimitReader(c.in, secret.MaxValue+2))
	if err != nil {
		return secret.Value{}, fmt.Errorf("read standard input: %w", err)
	}
	if rest, ok := bytes.CutSuffix(data, []byte("\n")); ok {
		data = bytes.TrimSuffix(rest, []byte("\r"))
	}
	switch {
	case len(data) == 0:
		return secret.Value{}, usageError(give, "the secret is empty: give it on standard input")
	case len(data) > secret.MaxValue:
		return secret.Value{}, usageError("", "the secret is over %d KiB", secret.MaxValue>>10)
	}
	return secret.NewValue(data), nil
}
