package shell

import (
	"strconv"
	"strings"

	"github.com/headgate-cd/headgate/gitd/show"
)

// Commands about the endpoints that are told what happens.
var eventCommands = []command{
	{
		name: "events list", what: "the endpoints that are told what happens", example: "events list",
		run: func(c *call) error {
			all, err := c.shell.Backend.EventEndpoints(c.ctx, c.actor)
			if err != nil {
				return err
			}
			if c.json {
				return emitAll(c, all)
			}
			if len(all) == 0 {
				c.out.line("no endpoints; they are written as events in server.yaml of the repository headgate")
				return nil
			}
			rows := [][]cell{{plain("ENDPOINT"), plain("STATE"), plain("LAST DELIVERED"), plain("PENDING"),
				plain("PARKED"), plain("URL")}}
			for _, e := range all {
				rows = append(rows, []cell{
					plain(e.Name), c.out.word(e.State), dash(c.out.at(e.LastDelivered, false)), count(e.Pending), count(e.Parked),
					{s: e.URL, cut: true},
				})
			}
			c.out.table(rows)
			return nil
		},
	},
	{
		name: "events show", args: "<endpoint>", what: "how an endpoint is, and its last 200 events",
		example: "events show ops",
		run: func(c *call) error {
			e, err := c.shell.Backend.EventEndpoint(c.ctx, c.actor, c.args["endpoint"])
			if err != nil {
				return err
			}
			all, err := c.shell.Backend.EventDeliveries(c.ctx, c.actor, c.args["endpoint"])
			if err != nil {
				return err
			}
			if c.json {
				return c.emit(struct {
					show.EventEndpoint
					Deliveries []show.EventDelivery `json:"deliveries"`
				}{e, all})
			}
			c.out.wrapped("%s: %s: %s", e.Name, e.URL, e.State)
			if e.Failing != "" {
				c.out.wrapped("failing: %s; next try %s", e.Failing, dash(c.out.at(e.RetryAt, false)).s)
			}
			if e.Unset != "" {
				c.out.line("not set: %s", c.ssh("secret set "+e.Unset+" <file"))
			}
			told := "everything"
			if len(e.Only) > 0 {
				told = strings.Join(e.Only, ", ")
			}
			of := "all repositories"
			if len(e.Repositories) > 0 {
				of = strings.Join(e.Repositories, ", ")
			}
			c.out.table([][]cell{
				{plain("told"), plain(told + " of " + of)},
				{plain("last delivered"), dash(c.out.at(e.LastDelivered, false))},
				{plain("events"), plain(strconv.Itoa(e.Pending) + " pending, " + strconv.Itoa(e.Parked) + " parked, " +
					strconv.Itoa(e.Kept) + " kept")},
			})
			if e.Skipped > 0 {
				c.out.line("skipped: %s that there was no room for", show.Plural(int(e.Skipped), "event"))
			}
			if len(all) == 0 {
				c.out.line("no event yet; try: %s", c.ssh("events test "+e.Name))
				return nil
			}
			rows := [][]cell{{plain("DELIVERY"), plain("EVENT"), plain("AT"), plain("OUTCOME"), plain("ANSWER")}}
			for _, d := range all {
				rows = append(rows, []cell{
					plain(strconv.FormatInt(d.Number, 10)), plain(shortType(d.Type)), plain(c.out.at(d.At, false)), plain(d.Outcome),
					{s: d.Detail, cut: true},
				})
			}
			c.out.table(rows)
			return nil
		},
	},
	{
		name: "events test", args: "<endpoint>", what: "deliver an event that says nothing, and show the answer",
		example: "events test ops",
		run: func(c *call) error {
			return c.act(c.shell.Backend.TestEvents(c.ctx, c.actor, c.args["endpoint"]))
		},
	},
	{
		name: "events replay", args: "<endpoint> [delivery]", what: "deliver an event again, or all that are parked",
		example: "events replay ops 7",
		run: func(c *call) error {
			number := int64(0)
			if given := c.args["delivery"]; given != "" {
				var err error
				if number, err = strconv.ParseInt(given, 10, 64); err != nil || number < 1 {
					return usageError("see: "+c.ssh("events show "+c.args["endpoint"]), "%q is not the number of a delivery", given)
				}
			}
			return c.act(c.shell.Backend.ReplayEvents(c.ctx, c.actor, c.args["endpoint"], number))
		},
	},
}

// shortType is a type without its vendor and version: "change.merged".
func shortType(t string) string {
	t = strings.TrimPrefix(strings.TrimPrefix(t, "dev.cdevents."), "dev.cdeventsx.headgate-")
	if parts := strings.Split(t, "."); len(parts) > 2 {
		return strings.Join(parts[:2], ".")
	}
	return t
}
