package shell

import (
	"cmp"
	"strconv"
	"strings"
	"time"

	"github.com/headgate-cd/headgate/gitd/show"
)

// Commands about tokens.
var tokenCommands = []command{
	{
		name: "token create", args: "[name] [--repository <repo>,...] [--write] [--approve] [--expires <time>]",
		what: "make a token that clones, or pushes, over HTTP", example: "token create ci --repository hello --expires 30d",
		options: []option{
			{"--repository", "this one alone; may be given again (without: all of yours)"},
			{"--write", "it may push as well"},
			{"--approve", "it may push, and approve and reject promotions in your name"},
			{"--expires", "when it ends: 30d, 12h (without: 90d; at most 365d)"},
		},
		notes: "It is shown once. It is the password of git over HTTP, under any user name, and what\n" +
			"\"Authorization: Bearer\" takes. It may do no more than you may, and ends when you are removed.",
		run: createToken,
	},
	{
		name: "token list", args: "[--all]", what: "your tokens, and when each was last used", example: "token list",
		options: []option{{"--all", "those of everybody, for administrators"}},
		run:     listTokens,
	},
	{
		name: "token revoke", args: "<id>", what: "end a token", example: "token revoke 5f1c2ab90e",
		run: func(c *call) error { return c.act(c.shell.Backend.RevokeToken(c.ctx, c.actor, c.args["id"])) },
	},
}

func createToken(c *call) error {
	r := show.TokenRequest{Name: cmp.Or(c.args["name"], "token"), Write: c.has("--write"), Approve: c.has("--approve")}
	if c.has("--repository") {
		r.Repositories = strings.Split(c.options["--repository"], ",")
	}
	if expires := c.options["--expires"]; expires != "" {
		var ok bool
		if r.Life, ok = life(expires); !ok {
			return usageError("for example: "+c.ssh("token create --expires 30d"),
				"%q is not a time: write days or hours, such as 30d or 12h", expires)
		}
	}
	made, err := c.shell.Backend.CreateToken(c.ctx, c.actor, r)
	if err != nil {
		return err
	}

	server := c.shell.Backend.Server(c.ctx)
	name := "<repository>"
	if len(made.Repositories) > 0 {
		name = made.Repositories[0]
	}
	made.Next = "git clone " + cmp.Or(server.GitHTTP, server.HTTP) + "/" + name
	if c.json {
		return c.emit(made)
	}
	c.out.line("%s", made.Secret)
	c.out.line("token %s (%s) of %s: %s, until %s; it is not shown again", made.ID, made.Name, made.User,
		reach(made.Token), c.out.at(made.Expires, true))
	c.out.line("use it as the password, under any user name: %s", made.Next)
	return nil
}

// life is a duration in which days may be written.
func life(s string) (time.Duration, bool) {
	if days, ok := strings.CutSuffix(s, "d"); ok {
		n, err := strconv.ParseUint(days, 10, 16)
		return time.Duration(n) * 24 * time.Hour, err == nil && n > 0
	}
	d, err := time.ParseDuration(s)
	return d, err == nil && d > 0
}

// reach says what a token may do where.
func reach(t show.Token) string {
	where := "all repositories of " + t.User
	if len(t.Repositories) > 0 {
		where = strings.Join(t.Repositories, ", ")
	}
	if t.Write {
		return "reads and writes " + where
	}
	return "reads " + where
}

func listTokens(c *call) error {
	all, err := c.shell.Backend.Tokens(c.ctx, c.actor, c.has("--all"))
	if err != nil {
		return err
	}
	if c.json {
		return emitAll(c, all)
	}
	if len(all) == 0 {
		c.out.line("no tokens; make one: %s", c.ssh("token create"))
		return nil
	}
	rows := [][]cell{{plain("ID"), plain("NAME"), plain("USER"), plain("CREATED"), plain("EXPIRES"),
		plain("LAST USE"), plain("MAY")}}
	for _, t := range all {
		expires := c.out.at(t.Expires, false)
		if t.Expired {
			expires = "expired"
		}
		used := "never"
		if !t.Used.IsZero() {
			used = c.out.at(t.Used, false)
		}
		rows = append(rows, []cell{
			plain(t.ID), plain(t.Name), plain(t.User), plain(c.out.at(t.Created, false)), plain(expires), plain(used),
			{s: reach(t), cut: true},
		})
	}
	c.out.table(rows)
	c.out.line("%s, times in UTC", show.Plural(len(all), "token"))
	return nil
}
