package shell

import (
	"fmt"
	"strings"

	"github.com/headgate-cd/headgate/gitd/show"
)

// why is one verb for every "why not".
var whyCommands = []command{{
	name: "why", args: "[repo] <change|environment|commit>", what: "why something has not landed, or is not live",
	example: "why production",
	notes:   "It ends with 0 when the answer is good, 1 when it is not, 3 while something is waited for.",
	run: func(c *call) error {
		thing, repository := c.args["change|environment|commit"], c.args["repo"]
		if repository == "" {
			var err error
			what := fmt.Sprintf("a change, environment or commit %q", thing)
			if repository, err = c.only(what, "repo list", func(r show.Repository) (bool, error) {
				_, err := c.shell.Backend.Why(c.ctx, c.actor, r.Name, thing)
				if notFound(err) {
					return false, nil
				}
				return err == nil, err
			}); err != nil {
				return err
			}
		}
		why, err := c.shell.Backend.Why(c.ctx, c.actor, repository, thing)
		if err != nil {
			return err
		}
		if c.json {
			return c.answer(why, outcomeOf(why.State))
		}
		c.out.line("%s", why.Answer)
		var rows [][]cell
		for _, check := range why.Checks {
			detail := check.Detail
			if !check.Met && len(check.Who) > 0 && !strings.Contains(detail, strings.Join(check.Who, ", ")) {
				detail = strings.TrimPrefix(detail+"; who can: "+strings.Join(check.Who, ", "), "; ")
			}
			if !check.Met && !check.Until.IsZero() {
				detail = strings.TrimPrefix(detail+", until "+c.out.at(show.FullMinute(check.Until), true), ", ")
			}
			rows = append(rows, []cell{{s: c.out.shape(checkState(check)) + " " + check.Title,
				colour: markOf(checkState(check)).colour}, plain(detail)})
		}
		c.out.table(rows)
		rows = nil
		for _, f := range why.Facts {
			rows = append(rows, []cell{plain(f.Label), plain(f.Text)})
		}
		for i, next := range why.Next {
			label := "next"
			if i > 0 {
				label = ""
			}
			rows = append(rows, []cell{plain(label), plain(next)})
		}
		c.out.table(rows)
		return outcomeOf(why.State)
	},
}}

// checkState is how a condition looks: met, going on by itself, or waiting for
// a person.
func checkState(c show.Check) show.State {
	switch {
	case c.Met:
		return show.Green
	case c.UntilPerson:
		return show.Waits
	}
	return show.Running
}
