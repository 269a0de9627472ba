package shell

import (
	"net/url"
	"slices"
	"strings"

	"github.com/headgate-cd/headgate/gitd/access"
	"github.com/headgate-cd/headgate/gitd/show"
)

// Commands about who asks, and about the server itself.
var selfCommands = []command{
	{
		name: "whoami", what: "who you are here, and by which rights", example: "whoami",
		run: func(c *call) error {
			if c.json {
				standing := c.standing()
				return c.emit(struct {
					Name   string     `json:"name"`
					Groups []string   `json:"groups,omitempty"`
					Admin  bool       `json:"administrator,omitempty"`
					Via    access.Via `json:"via"`
				}{standing.Name, standing.Groups, standing.Admin, c.actor.Via})
			}
			c.out.line("%s", introduction(c))
			return nil
		},
	},
	{
		name: "login", what: "sign a browser in to the console", example: "login",
		notes: "The code is good for two minutes and for one sign-in. Give it to nobody: it acts as you.",
		run: func(c *call) error {
			code, valid := c.shell.Login(c.actor.User)
			base := c.shell.Backend.Server(c.ctx).HTTP
			page := base + "/sign-in?code=" + url.QueryEscape(code)
			if c.json {
				return c.emit(struct {
					Code string `json:"code"`
					URL  string `json:"url"`
					For  int64  `json:"valid_ms"`
				}{code, page, valid.Milliseconds()})
			}
			c.out.line("%s", page)
			c.out.line("code %s, for one sign-in as %s, within %s", code, c.actor.User,
				show.Plural(int(valid.Minutes()), "minute"))
			return nil
		},
	},
	{
		name: "signers", what: "the allowed-signers file that verifies this server's commits",
		example: "signers > allowed-signers",
		notes:   "git config gpg.ssh.allowedSignersFile \"$PWD/allowed-signers\"\ngit log --show-signature origin/env/production",
		run: func(c *call) error {
			signers := c.shell.Backend.Server(c.ctx).Signers
			if c.json {
				return c.emit(struct {
					Signers string `json:"signers"`
				}{signers})
			}
			for line := range strings.Lines(signers) {
				c.out.line("%s", strings.TrimSuffix(line, "\n"))
			}
			return nil
		},
	},
	{
		name: "version", what: "which server this is", example: "version",
		run: func(c *call) error {
			server := c.shell.Backend.Server(c.ctx)
			if c.json {
				return c.emit(struct {
					Name    string `json:"name"`
					Version string `json:"version"`
				}{server.Name, version(server)})
			}
			c.out.line("headgate %s", version(server))
			return nil
		},
	},
}

// standing is how the caller stands to the server itself.
func (c *call) standing() access.Standing { return c.shell.Access().Standing(c.actor, access.Own) }

func introduction(c *call) string {
	s, standing := c.actor.User, c.standing()
	if others := slices.DeleteFunc(standing.Groups,
		func(g string) bool { return g == access.Administrators }); len(others) > 0 {
		s += " (" + strings.Join(others, ", ") + ")"
	}
	if standing.Admin {
		s += ", administrator"
	}
	return s
}
