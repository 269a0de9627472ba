package shell

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/headgate-cd/headgate/gitd/show"
)

func changeList(c *call) error {
	state, err := c.state("--state", "change", changeStates)
	if err != nil {
		return err
	}
	names, err := c.repositories()
	if err != nil {
		return err
	}
	filter := show.ChangeFilter{
		State:  state,
		Author: c.options["--author"],
		Path:   strings.Trim(c.options["--path"], "/"),
		All:    c.has("--all"),
	}
	if filter.Part, err = c.part("change", names); err != nil {
		return err
	}
	changes, total, beside, err := gather(c, names, func(name string) ([]show.Change, int, show.Beside, error) {
		found, err := c.shell.Backend.Changes(c.ctx, c.actor, name, filter)
		return found.Changes, found.Total, found.Beside, err
	})
	if err != nil {
		return err
	}
	if len(names) > 1 {
		slices.SortStableFunc(changes, func(a, b show.Change) int { return b.PushedAt.Compare(a.PushedAt) })
		if !filter.All {
			changes = changes[:min(len(changes), show.Newest)]
		}
	}
	more := c.more(names, beside, len(changes) < total && !filter.All)
	if c.json {
		return emitAll(c, changes)
	}
	if err := c.sayPaused(names); err != nil {
		return err
	}
	if len(changes) == 0 {
		c.noChange(names, filter, total)
		if more != "" {
			c.out.line("%s", more)
		}
		return nil
	}

	rows := [][]cell{{plain("CHANGE"), plain("STATE"), plain("PLACE"), plain("LANDS"), plain("BY"), plain("SUBJECT")}}
	for _, ch := range changes {
		rows = append(rows, []cell{
			plain(strconv.Itoa(ch.Number)),
			c.out.word(ch.State),
			count(ch.Place),
			plain(c.lands(ch)),
			plain(ch.By),
			{s: ch.Subject, cut: true},
		})
	}
	if len(names) > 1 {
		rows[0] = slices.Insert(rows[0], 0, plain("REPOSITORY"))
		for i, ch := range changes {
			rows[i+1] = slices.Insert(rows[i+1], 0, plain(ch.Repository))
		}
	}
	c.out.table(rows)
	tail := fmt.Sprintf("%d of %s, times in UTC", len(changes), show.Thousands(total))
	if more != "" {
		tail += "; " + more
	}
	c.out.line("%s", tail)
	return nil
}

// sayPaused says on which branches of repositories nothing lands.
func (c *call) sayPaused(names []string) error {
	for _, name := range names {
		all, err := c.shell.Backend.Paused(c.ctx, c.actor, name)
		if c.leaveOut(names, name, err) {
			continue
		}
		if err != nil {
			return err
		}
		for _, p := range all {
			in := ""
			if len(names) > 1 {
				in = name + ": "
			}
			c.out.line("%s%s; to resume: %s", in, p, c.ssh("repo resume "+name+" "+p.Branch))
		}
	}
	return nil
}

// noChange says what there is instead of changes, and how to have one.
func (c *call) noChange(names []string, filter show.ChangeFilter, total int) {
	if len(names) == 0 {
		c.noRepository()
		return
	}
	what := "no change"
	if filter.State != "" {
		what += " is " + string(filter.State)
	}
	if filter.State == "" && total > 0 {
		c.out.line("no change in %s is like that", severalOr(names))
		return
	}
	c.out.line("%s in %s", what, severalOr(names))
	if total == 0 {
		c.out.line("propose one: git push origin main")
	}
}

// lands is when a change has landed, or is expected to.
func (c *call) lands(ch show.Change) string {
	switch ch.State {
	case show.Landed:
		return c.out.at(ch.EndedAt, false)
	case show.Queued, show.Running:
		if text := ch.Estimate.Text(func(at time.Time) string { return at.UTC().Format("15:04") }); text != "" {
			return text
		}
	}
	return "-"
}
