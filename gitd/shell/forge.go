package shell

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/headgate-cd/headgate/gitd/secret"
	"github.com/headgate-cd/headgate/gitd/show"
)

// Commands about connections to forges.
var forgeCommands = []command{
	{
		name: "forge list", what: "the connections to forges", example: "forge list",
		run: func(c *call) error {
			all, err := c.shell.Backend.Connections(c.ctx, c.actor)
			if err != nil {
				return err
			}
			published, err := c.shell.Backend.Publications(c.ctx, c.actor)
			if err != nil {
				return err
			}
			if c.json {
				return errors.Join(emitAll(c, all), emitAll(c, published))
			}
			if len(all) == 0 && len(published) > 0 {
				listPublications(c, published)
				return nil
			}
			if len(all) == 0 {
				c.out.line("no connections that you may see; they are written in server.yaml of the repository headgate")
				return nil
			}
			rows := [][]cell{{plain("CONNECTION"), plain("STATE"), plain("FORGE"), plain("MIRROR"), plain("LAST DELIVERY"),
				plain("PENDING"), plain("RECOVERED")}}
			for _, f := range all {
				rows = append(rows, []cell{
					plain(f.Name), c.out.word(f.State), plain(f.Forge + " " + f.Repository), plain(f.Mirror),
					dash(c.out.at(f.LastDelivery, false)), count(f.Pending), count(int(f.Recovered)),
				})
			}
			c.out.table(rows)
			if len(published) > 0 {
				c.out.line("")
				listPublications(c, published)
			}
			return nil
		},
	},
	{
		name: "forge show", args: "<connection>", what: "how a connection is, and what to set up at the forge",
		example: "forge show hub",
		run: func(c *call) error {
			published, err := c.shell.Backend.Publications(c.ctx, c.actor)
			if err != nil {
				return err
			}
			for _, p := range published {
				if p.Name == c.args["connection"] {
					return showPublication(c, p)
				}
			}
			f, err := c.shell.Backend.Connection(c.ctx, c.actor, c.args["connection"])
			if err != nil {
				return err
			}
			if c.json {
				return c.emit(f)
			}
			c.out.wrapped("%s: %s of %s, to %s: %s", f.Name, f.Repository, f.Forge, f.Mirror, f.State)
			if f.Failing != "" {
				c.out.wrapped("failing: %s; next try %s", f.Failing, c.out.at(f.RetryAt, false))
			}
			for _, name := range f.Unset {
				c.out.line("not set: %s", c.ssh("secret set "+name+" <file"))
			}
			events := "pushes, branches and tags"
			if f.Follows {
				events += ", requests and comments"
			}
			rows := [][]cell{
				{plain("fetched from"), plain(f.URL)},
				{plain("webhook"), plain("POST " + f.Webhook + ", application/json, of " + events)},
				{plain("last delivery"), plain(lastHeard(f, c.out.at(f.LastDelivery, false)))},
				{plain("last in step"), dash(c.out.at(f.LastSync, false))},
				{plain("next poll"), dash(c.out.at(f.NextPoll, false))},
				{plain("deliveries"), plain(strconv.Itoa(f.Pending) + " pending, " + strconv.Itoa(f.Kept) + " kept, " +
					strconv.FormatInt(f.Dropped, 10) + " dropped")},
				{plain("recovered"), plain(recovered(f, c.out.at(f.LastLost, false)))},
			}
			if len(f.Secrets) > 1 { // they are being rotated
				for _, s := range f.Secrets {
					rows = append(rows, []cell{plain("secret"), plain(s.Name + ": " + secretUse(s, c.out.at(s.Last, false)))})
				}
			}
			if at := f.HookWords(); at != "" {
				rows = append(rows, []cell{plain("at the forge"), plain("the webhook is " + at)})
			}
			if f.Follows {
				rows = append(rows, []cell{plain("requests"), plain(strconv.Itoa(f.Requests) +
					" open; its token or App reads and writes the repository, statuses, requests and comments")})
			}
			for _, t := range f.Tips {
				text := fmt.Sprintf("at %.7s, past the gate: %s", t.Commit, t.State)
				if t.Release > 0 {
					text += fmt.Sprintf(", release %d", t.Release)
				}
				if t.Reason != "" {
					text += ": " + t.Reason
				}
				rows = append(rows, []cell{plain(t.Branch), plain(text)})
			}
			if f.Left > 0 {
				rows = append(rows, []cell{plain("left out"),
					plain(show.Plural(f.Left, "ref") + " with names that are the server's, or that are not mirrored")})
			}
			c.out.table(rows)
			return nil
		},
	},
	{
		name: "forge deliveries", args: "<connection>", what: "the last 200 webhooks, and what became of each",
		example: "forge deliveries hub",
		run: func(c *call) error {
			all, err := c.shell.Backend.Deliveries(c.ctx, c.actor, c.args["connection"])
			if err != nil {
				return err
			}
			if c.json {
				return emitAll(c, all)
			}
			if len(all) == 0 {
				c.out.line("no webhook has come yet; see: %s", c.ssh("forge show "+c.args["connection"]))
				return nil
			}
			rows := [][]cell{{plain("DELIVERY"), plain("EVENT"), plain("AT"), plain("AGAIN"), plain("OUTCOME"), plain("WHY")}}
			for _, d := range all {
				rows = append(rows, []cell{
					plain(strconv.FormatInt(d.Number, 10)), plain(d.EventText()), plain(c.out.at(d.At, false)), count(d.Duplicates),
					plain(d.Outcome), {s: d.Detail, cut: true},
				})
			}
			c.out.table(rows)
			return nil
		},
	},
	{
		name: "forge log", args: "[-f] <connection> [branch]",
		what: "the log of the build of a branch that came past the gate", example: "forge log hub main",
		options: []option{{"-f", "follow it to its end"}},
		run: func(c *call) error {
			follow := c.has("-f")
			_, _, err := c.printLog(c.shell.Backend.TipLog(c.ctx, c.actor, c.args["connection"], c.args["branch"], follow), 0,
				follow)
			return err
		},
	},
	{
		name: "forge replay", args: "<connection> <delivery>", what: "process a webhook again", example: "forge replay hub 7",
		run: func(c *call) error {
			number, err := strconv.ParseInt(strings.TrimPrefix(c.args["delivery"], c.args["connection"]+"/"), 10, 64)
			if err != nil || number < 1 {
				return usageError("see: "+c.ssh("forge deliveries "+c.args["connection"]), "%q is not the number of a delivery",
					c.args["delivery"])
			}
			return c.act(c.shell.Backend.Replay(c.ctx, c.actor, c.args["connection"], number))
		},
	},
	{
		name:    "forge connect",
		args:    "<forge> <repository> [--name <connection>] [--mirror <repo>] [--url <url>] [--token] [--app <id>]",
		what:    "connect a repository of github, gitlab, gitea or forgejo, or say what that takes",
		example: "forge connect github owner/name --token",
		options: []option{
			{"--name", "of the connection; the forge's else"},
			{"--mirror", "the repository here; called as there else"},
			{"--url", "where to clone it from; needed for a forge of your own"},
			{"--token", "a token is on standard input: make the webhook and all that is wanted here"},
			{"--app", "the same by a GitHub App of this App ID, whose private key is on standard input"},
		},
		run: func(c *call) error {
			var token secret.Value
			var app int64
			if id := c.options["--app"]; id != "" {
				var err error
				if app, err = strconv.ParseInt(id, 10, 64); err != nil || app < 1 {
					return usageError("GitHub shows it in the App's settings", "%q is not an App ID", id)
				}
				if c.has("--token") {
					return usageError("leave one of them out", "a token and an App are two ways to connect")
				}
			}
			if c.has("--token") || app != 0 {
				var err error
				if token, err = c.secret(); err != nil {
					return err
				}
			}
			done, err := c.shell.Backend.Connect(c.ctx, c.actor, show.NewConnection{
				Name:       c.options["--name"],
				Forge:      c.args["forge"],
				Repository: c.args["repository"],
				URL:        c.options["--url"],
				Mirror:     c.options["--mirror"],
				App:        app,
			}, token)
			if err != nil {
				return err
			}
			if c.json {
				return c.emit(done)
			}
			if done.Connected {
				c.out.wrapped("connected %s of %s as %s, to %s", done.Repository, done.Forge, done.Name, done.Mirror)
			}
			for i, step := range done.Steps {
				c.out.wrapped("%d. %s", i+1, step)
			}
			return nil
		},
	},
	{
		name: "forge test", args: "<connection>",
		what: "prove a connection both ways: ask the forge, and have it post a webhook; or push a publication now", example: "forge test hub",
		run: func(c *call) error {
			return c.act(c.shell.Backend.TestConnection(c.ctx, c.actor, c.args["connection"]))
		},
	},
}

func listPublications(c *call, list []show.Publication) {
	rows := [][]cell{{plain("PUBLICATION"), plain("STATE"), plain("OF"), plain("TO"), plain("LAST IN STEP"), plain("MOVED")}}
	for _, p := range list {
		rows = append(rows, []cell{plain(p.Name), c.out.word(p.State), plain(p.Repository), plain(p.URL),
			dash(c.out.at(p.LastStep, false)), count(int(p.Moved))})
	}
	c.out.table(rows)
}

func showPublication(c *call, p show.Publication) error {
	if c.json {
		return c.emit(p)
	}
	c.out.wrapped("%s: %s, pushed to %s: %s", p.Name, p.Repository, p.Forge, p.State)
	if p.Failing != "" {
		c.out.wrapped("failing: %s; next try %s", p.Failing, c.out.at(p.RetryAt, false))
	}
	for _, name := range p.Unset {
		c.out.line("not set: %s", c.ssh("secret set "+name+" <file"))
	}
	for _, ref := range p.Diverged {
		c.out.wrapped("left alone: somebody has moved %s there to what is not here; take it away there, and it is put back",
			strings.TrimPrefix(strings.TrimPrefix(ref, "refs/heads/"), "refs/"))
	}
	rows := [][]cell{
		{plain("pushed to"), plain(p.URL)},
		{plain("last in step"), dash(c.out.at(p.LastStep, false))},
		{plain("next look"), dash(c.out.at(p.NextLook, false))},
		{plain("published"), plain(show.Plural(p.Refs, "ref") + "; " +
			strconv.FormatInt(p.Moved, 10) + " moves since the server started")},
	}
	if p.Left > 0 {
		rows = append(rows, []cell{plain("left out"), plain(show.Plural(p.Left, "ref") + " with names that no forge is given")})
	}
	c.out.table(rows)
	return nil
}

// recovered says how many webhooks were lost.
func recovered(f show.Connection, last string) string {
	if f.Recovered == 0 {
		return "nothing that no webhook told of"
	}
	return show.Plural(int(f.Recovered), "event") + " that no webhook told of, the last seen at " + last
}

// secretUse says whether a secret signs anything still.
func secretUse(s show.SecretUse, last string) string {
	if s.Used == 0 {
		return "none of the last 200 deliveries is signed with it"
	}
	return show.Plural(s.Used, "delivery") + " of the last 200, the newest at " + last
}

// lastHeard says when a connection was last heard of.
func lastHeard(f show.Connection, at string) string {
	if f.LastDelivery.IsZero() {
		return "never"
	}
	return at + ", silent for " + time.Duration(f.Silent).Round(time.Second).String()
}
