package shell

import (
	"fmt"
	"strconv"

	"github.com/headgate-cd/headgate/gitd/show"
)

// Commands about builds that time starts.
var scheduleCommands = []command{
	{
		name: "schedule list", args: "[repo]", what: "builds that time starts: when, and how the last one ended",
		example: "schedule list hello",
		run:     scheduleList,
	},
	{
		name: "schedule show", args: "[repo] <schedule>", what: "one schedule and its runs", example: "schedule show nightly",
		notes: "It ends with 0 when its last run was green, 1 when it failed, 3 while it runs.",
		run:   scheduleShow,
	},
	{
		name: "schedule run", args: "[repo] <schedule>", what: "start a run of a schedule now",
		example: "schedule run nightly",
		notes:   "Its next time stays what it was.",
		run: func(c *call) error {
			repository, name, err := c.schedule()
			if err != nil {
				return err
			}
			return c.act(c.shell.Backend.RunSchedule(c.ctx, c.actor, repository, name))
		},
	},
	{
		name: "schedule log", args: "[-f] [repo] <schedule> [--run <n>]", what: "the log of a schedule's newest run",
		example: "schedule log -f nightly",
		options: []option{
			{"-f", "follow it to its end, and end with 0 if it is green"},
			{"--run", "an earlier run"},
		},
		run: scheduleLog,
	},
}

func scheduleList(c *call) error {
	names, err := c.repositories()
	if err != nil {
		return err
	}
	rows := [][]cell{{plain("REPOSITORY"), plain("SCHEDULE"), plain("STATE"), plain("RUN"), plain("LAST"), plain("NEXT"),
		plain("WHEN"), plain("WHY")}}
	for _, name := range names {
		all, err := c.shell.Backend.Schedules(c.ctx, c.actor, name)
		if c.leaveOut(names, name, err) {
			continue
		}
		if err != nil {
			return err
		}
		if c.json {
			if err := emitAll(c, all); err != nil {
				return err
			}
			continue
		}
		for _, s := range all {
			run, last, why := 0, "-", ""
			if s.Last != nil {
				run, last, why = s.Last.Number, c.out.at(s.Last.Finished, false), s.Last.Reason
			}
			if s.Running != nil {
				run = s.Running.Number
			}
			rows = append(rows, []cell{
				plain(s.Repository), plain(s.Name), c.out.word(s.State), count(run), plain(last), plain(c.out.at(s.Next, false)),
				plain(when(s)), {s: why, cut: true},
			})
		}
	}
	if c.json {
		return nil
	}
	if len(rows) == 1 {
		c.out.line("no schedules yet")
		c.out.line("declare some in headgate.yaml, with schedules:")
		return nil
	}
	c.out.table(rows)
	c.out.line("%s, times in UTC; one of them: %s", show.Plural(len(rows)-1, "schedule"),
		c.ssh("schedule show "+rows[1][0].s+" "+rows[1][1].s))
	return nil
}

// when is a schedule's expression, and its zone.
func when(s show.Schedule) string { return s.Cron + orNothing(" ", s.Zone) }

func scheduleShow(c *call) error {
	repository, name, err := c.schedule()
	if err != nil {
		return err
	}
	s, err := c.shell.Backend.Schedule(c.ctx, c.actor, repository, name)
	if err != nil {
		return err
	}
	if c.json {
		return c.answer(s, outcomeOf(s.State))
	}
	c.out.line("%s of %s is %s", s.Name, s.Repository, stateWord(s.State))
	rows := [][]cell{
		{plain("when"), plain(when(s))},
		{plain("next"), plain(c.out.at(s.Next, true))},
		{plain("builds"), plain(s.Branch + " by " + s.Buildspec)},
	}
	if s.Notify != "" {
		rows = append(rows, []cell{plain("tells"), plain(s.Notify)})
	}
	c.out.table(rows)
	rows = nil
	for _, r := range s.Runs {
		what := "due " + c.out.at(r.At, true)
		if r.By != "" {
			what = "asked for by " + r.By
		}
		if r.Late {
			what += ", for what was missed before too"
		}
		rows = append(rows, []cell{count(r.Number), c.out.state(r.State), plain(show.Short(r.Commit)), plain(what),
			{s: c.build(&r.Build, ""), cut: true}})
	}
	c.out.table(rows)
	return outcomeOf(s.State)
}

func scheduleLog(c *call) error {
	number := 0
	if given := c.options["--run"]; given != "" {
		n, err := strconv.Atoi(given)
		if err != nil || n < 1 {
			return usageError("for example: "+c.ssh("schedule log nightly --run 7"), "%q is not the number of a run", given)
		}
		number = n
	}
	follow := c.has("-f")
	repository, name, err := c.schedule()
	if err != nil {
		return err
	}
	if follow && number == 0 { // another may begin meanwhile
		s, err := c.shell.Backend.Schedule(c.ctx, c.actor, repository, name)
		if err != nil {
			return err
		}
		if len(s.Runs) > 0 {
			number = s.Runs[0].Number
		}
	}
	if _, _, err := c.printLog(c.shell.Backend.ScheduleLog(c.ctx, c.actor, repository, name, number, follow), 0,
		follow); err != nil {
		return err
	}
	if !follow {
		return nil
	}
	s, err := c.shell.Backend.Schedule(c.ctx, c.actor, repository, name)
	if err != nil {
		return err
	}
	for _, r := range s.Runs {
		if r.Number != number {
			continue
		}
		if !c.json {
			c.out.line("run %d of %s is %s%s", r.Number, name, stateWord(r.State), orNothing(": ", r.Reason))
		}
		return outcomeOf(r.State)
	}
	return nil
}

// schedule reads a schedule's name, and finds the repository if it was left out.
func (c *call) schedule() (repository, name string, err error) {
	name = c.args["schedule"]
	if repository = c.args["repo"]; repository != "" {
		return repository, name, nil
	}
	repository, err = c.only(fmt.Sprintf("a schedule %q", name), "schedule list", func(r show.Repository) (bool, error) {
		all, err := c.shell.Backend.Schedules(c.ctx, c.actor, r.Name)
		if err != nil {
			return false, err
		}
		for _, s := range all {
			if s.Name == name {
				return true, nil
			}
		}
		return false, nil
	})
	return repository, name, err
}
