package shell

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/headgate-cd/headgate/gitd/show"
)

// Commands about environments.
var envCommands = []command{
	{
		name: "env list", args: "[repo]", what: "environments: what runs where", example: "env list hello",
		run: envList,
	},
	{
		name: "env show", args: "[repo] <environment>", what: "declared and actual state side by side",
		example: "env show production",
		notes:   "It ends with 0 when the environment is healthy, 1 when it is not, 3 while it converges.",
		run:     envShow,
	},
	{
		name: "env log", args: "[repo] <environment> [--outcome <state>] [--by <user>] [--author <name>] [--path <path>] " +
			"[--from <commit>] [--after <commit>]",
		what: "what was deployed, when and by whom, newest first", example: "env log production",
		options: []option{
			{"--outcome", "only these: " + show.Words(show.Outcomes)},
			{"--by", "that this user approved, chose or rolled back; or policy, alone"},
			{"--author", "that brought what they pushed, or what names them as its author"},
			{"--path", fmt.Sprintf("that change a file or directory; %d are looked at at once", show.MaxLooked)},
			{"--from", "not from the newest on, but from this one"},
			{"--after", "what came after this one"},
		},
		run: envLog,
	},
	logsCommand,
	execCommand,
	{
		name: "scale", args: "[repo] <environment> <service> <count>", what: "have a service run as another count of instances",
		example: "scale hello production web 3",
		notes:   "It proposes the change of the environment's files; when that has landed and is promoted there it is so.",
		run:     scale,
	},
	{
		name: "env rename", args: "<repo> <environment> <name>", what: "give an environment another name",
		example: "env rename hello production live",
		notes:   "It proposes the change of headgate.yaml; what runs and its history go on. By git: push\nheadgate.yaml with the environment under its new name, and was: <old name>.",
		run: func(c *call) error {
			return c.act(c.shell.Backend.RenameEnvironment(c.ctx, c.actor, c.args["repo"], c.args["environment"],
				c.args["name"]))
		},
	},
}

func scale(c *call) error {
	count, err := strconv.Atoi(c.args["count"])
	if err != nil || count < 0 {
		return usageError("for example: "+c.ssh(c.command.example), "%q is not a count of instances", c.args["count"])
	}
	repository, environment, err := c.environment()
	if err != nil {
		return err
	}
	return c.act(c.shell.Backend.Scale(c.ctx, c.actor, repository, environment, c.args["service"], count))
}

func envList(c *call) error {
	var repositories []show.Repository
	if c.args["repo"] != "" {
		r, err := c.shell.Backend.Repository(c.ctx, c.actor, c.args["repo"])
		if err != nil {
			return err
		}
		repositories = append(repositories, r)
	} else {
		all, err := c.shell.Backend.Repositories(c.ctx, c.actor)
		if err != nil {
			return err
		}
		repositories = all
	}
	head := []cell{plain("REPOSITORY"), plain("ENVIRONMENT"), plain("STATE"), plain("RELEASE"), plain("SINCE"),
		plain("BEHIND"), plain("WAITS")}
	several := slices.ContainsFunc(repositories, severalApplications)
	if several {
		head = slices.Insert(head, 1, plain("APPLICATION"))
	}
	rows, first := [][]cell{head}, ""
	for _, r := range repositories {
		for _, e := range r.Environments {
			if c.json {
				if err := c.emit(e); err != nil {
					return err
				}
				continue
			}
			row := []cell{
				plain(r.Name), plain(e.Name), c.out.word(e.State), count(e.Release), plain(c.out.at(e.Since, false)),
				count(e.Behind), {s: waiting(e), cut: true},
			}
			if several {
				row = slices.Insert(row, 1, plain(applicationOf(r, e)))
			}
			rows = append(rows, row)
			first = cmp.Or(first, r.Name+" "+e.Name)
		}
	}
	if c.json {
		return nil
	}
	if len(rows) == 1 {
		c.out.line("no environments yet")
		c.out.line("declare some in headgate.yaml")
		return nil
	}
	c.out.table(rows)
	c.out.line("%s, times in UTC; one of them: %s", show.Plural(len(rows)-1, "environment"), c.ssh("env show "+first))
	return nil
}

// applicationOf is the application of an environment: by default the one that
// bears the repository's name.
func applicationOf(r show.Repository, e show.Environment) string {
	return cmp.Or(e.Application, r.Name)
}

// severalApplications reports whether a repository's environments run more than one.
func severalApplications(r show.Repository) bool {
	return slices.ContainsFunc(r.Environments, func(e show.Environment) bool {
		return applicationOf(r, e) != applicationOf(r, r.Environments[0])
	})
}

// waiting is what stands before an environment.
func waiting(e show.Environment) string {
	switch {
	case e.Held != nil:
		return "held by " + e.Held.By + orNothing(": ", e.Held.Reason)
	case e.Promotion != nil && e.Promotion.Removal:
		return "removal: " + e.Promotion.Summary
	case e.Promotion != nil:
		return fmt.Sprintf("%d: %s", e.Promotion.To, e.Promotion.Summary)
	}
	return e.Reason
}

// environment finds the repository of an environment if it was left out.
func (c *call) environment() (repository, environment string, err error) {
	environment = c.args["environment"]
	if repository = c.args["repo"]; repository != "" {
		return repository, environment, nil
	}
	repository, err = c.only("an environment "+environment, "env list", func(r show.Repository) (bool, error) {
		return slices.ContainsFunc(r.Environments, func(e show.Environment) bool { return e.Name == environment }), nil
	})
	return repository, environment, err
}

func envShow(c *call) error {
	repository, environment, err := c.environment()
	if err != nil {
		return err
	}
	e, err := c.shell.Backend.Environment(c.ctx, c.actor, repository, environment)
	if err != nil {
		return err
	}
	if c.json {
		return c.answer(e, outcomeOf(e.State))
	}
	full := repository + " " + environment
	c.out.line("%s", envAnswer(c, e))
	rows := [][]cell{}
	if e.Application != "" {
		rows = append(rows, []cell{plain("runs"), plain("application " + e.Application)})
	}
	if len(e.Formerly) > 0 {
		rows = append(rows, []cell{plain("was"), plain(strings.Join(e.Formerly, ", "))})
	}
	if e.Release > 0 {
		rows = append(rows, []cell{plain("declared"), plain(fmt.Sprint(e.Release)), plain(show.Short(e.Commit)),
			plain("env/" + e.Name + " " + show.Short(e.Declared) + "  " + c.out.at(e.DeclaredAt, true))})
	}
	for _, s := range e.Services {
		if s.Times != nil {
			rows = append(rows, c.timesRows(s)...)
		} else if len(s.Instances) == 0 {
			rows = append(rows, []cell{plain(s.Name), c.out.state(s.State), plain("-"), plain(s.URL)})
		}
		for _, i := range s.Instances {
			row := []cell{plain(i.ID), c.out.state(i.State), count(i.Release)}
			if e.Measured() {
				row = append(row, plain("cpu "+i.CPU()), plain("memory "+i.Memory()))
			}
			rows = append(rows, append(row, plain(i.Says())))
		}
		if s.Message != "" {
			rows = append(rows, []cell{plain(s.Name), plain(s.Message)})
		}
		if traffic := s.Traffic(); traffic != "" {
			rows = append(rows, []cell{plain(s.Name), plain(traffic)})
		}
	}
	for _, s := range e.Strays {
		rows = append(rows, []cell{plain("stray"), c.out.state(show.Drift), plain("-"),
			plain(s.What() + orNothing(" of ", s.Service) + " runs and is on no record")})
	}
	if e.Unhealed {
		rows = append(rows, []cell{plain("drift"), plain("policy says to report it, not to heal it")})
	}
	if p := e.Promotion; p != nil {
		state := show.Waits
		if p.Decision == "deny" || p.Stuck {
			state = show.Refused
		}
		what := fmt.Sprint(p.To)
		if p.Removal {
			what = "removal"
		}
		rows = append(rows, []cell{plain("waits"), c.out.state(state), plain(what),
			plain(p.Summary + ": " + c.ssh("why "+full))})
		if p.Removal {
			rows = append(rows, []cell{plain("means"), plain(p.Means())})
		}
		for _, r := range p.Rules {
			rows = append(rows, []cell{plain("rule"), plain(fmt.Sprintf("%s: %s -> %s", r.Rule, r.Was, r.Is))})
		}
		if !p.FailedAt.IsZero() {
			rows = append(rows, []cell{plain("failed"), c.out.state(show.Failed), plain(fmt.Sprint(p.To)),
				plain("was here before and failed " + c.out.at(p.FailedAt, true) + orNothing(": ", p.Failure))})
		}
		if p.MayApprove {
			rows = append(rows, []cell{plain("you can"), plain(c.ssh("approve " + full))})
		}
	}
	for _, r := range e.Rejected {
		what := "removal"
		if r.Release > 0 {
			what = fmt.Sprint(r.Release)
		}
		rows = append(rows, []cell{plain("no"), c.out.state(show.Refused), plain(what),
			plain("rejected by " + r.By + " " + c.out.at(r.At, true) + orNothing(": ", r.Reason))})
	}
	if h := e.Held; h != nil {
		rows = append(rows, []cell{plain("held"), c.out.state(show.Hold), plain("-"),
			plain("by " + h.By + " " + c.out.at(h.At, true) + orNothing(": ", h.Reason))})
	}
	for _, u := range e.URLs {
		if e.Local(u) {
			u += ", on the server's machine only"
		}
		rows = append(rows, []cell{plain("at"), plain(u)})
	}
	if to := e.RollbackTo; to > 0 && e.MayRollback {
		rows = append(rows, []cell{plain("undo"), plain(c.ssh(fmt.Sprintf("rollback %s %d", full, to)))})
	}
	c.out.table(rows)
	c.lastEvents(e)
	if err := c.lastLines(e); err != nil {
		return err
	}
	return outcomeOf(e.State)
}

// maxTimesRuns is how many runs of a service are shown; --json has all that are remembered.
const maxTimesRuns = 3

// timesRows are those about a service that runs at times.
func (c *call) timesRows(s show.Service) [][]cell {
	when := "runs at " + s.Times.When()
	if !s.Times.Next.IsZero() {
		when += ", next " + c.out.at(s.Times.Next, true)
	}
	rows := [][]cell{{plain(s.Name), c.out.state(s.State), count(s.Release), plain(when)}}
	for _, r := range s.Times.Runs[:min(len(s.Times.Runs), maxTimesRuns)] {
		rows = append(rows, []cell{plain(s.Name), c.out.state(r.State), count(r.Release),
			plain("for " + c.out.at(r.At, true) + orNothing(": ", r.Says()))})
	}
	return rows
}

// maxEvents is how many of the last events of each service are shown; --json has all that
// are remembered.
const maxEvents = 3

// lastEvents are what happened to services lately.
func (c *call) lastEvents(e show.Environment) {
	var rows [][]cell
	for _, s := range e.Services {
		for _, event := range s.Events[:min(len(s.Events), maxEvents)] {
			rows = append(rows, []cell{plain("event"), plain(c.out.at(event.At, true)), plain(s.Name), plain(event.Says())})
		}
	}
	if len(rows) > 0 {
		c.out.table(rows)
	}
}

// envAnswer is an environment in one sentence.
func envAnswer(c *call, e show.Environment) string {
	s := e.Name + ": "
	if e.Release > 0 {
		s += fmt.Sprintf("release %d, ", e.Release)
	}
	s += string(e.State)
	var all, well int
	for _, service := range e.Services {
		for _, i := range service.Instances {
			if i.Drained {
				continue
			}
			if all++; i.State == show.Healthy {
				well++
			}
		}
	}
	switch {
	case !e.Removed.IsZero():
		s += ", removed " + c.out.at(e.Removed, true)
	case e.State == show.Empty:
		s += ", nothing has been promoted yet"
	case all > 0:
		s += fmt.Sprintf(" on %d of %d", well, all)
	}
	if !e.Since.IsZero() && e.State != show.Empty {
		s += " since " + c.out.at(e.Since, true)
	}
	if e.Behind > 0 {
		after := e.After
		if after == "" {
			after = "main"
		}
		s += fmt.Sprintf(", %d behind %s", e.Behind, after)
	}
	if e.State != show.Healthy && e.State != show.Empty {
		s += orNothing(": ", e.Reason)
	}
	return s
}

func envLog(c *call) error {
	outcome, err := c.state("--outcome", "deployment", show.Outcomes)
	if err != nil {
		return err
	}
	repository, environment, err := c.environment()
	if err != nil {
		return err
	}
	f := show.DeploymentFilter{
		From:    c.options["--from"],
		After:   c.options["--after"],
		Outcome: outcome,
		By:      c.options["--by"],
		Author:  c.options["--author"],
		Path:    strings.Trim(c.options["--path"], "/"),
	}
	found, err := c.shell.Backend.Deployments(c.ctx, c.actor, repository, environment, f)
	if err != nil {
		return err
	}
	if c.json {
		return emitAll(c, found.Deployments)
	}
	var beside []string
	for _, b := range []struct{ word, cursor, at string }{
		{"older", "--from", found.Older}, {"newer", "--after", found.Newer},
	} {
		if b.at != "" {
			beside = append(beside, b.word+": "+c.ssh(c.again(repository, environment, b.cursor, show.Short(b.at))))
		}
	}
	if len(found.Deployments) == 0 {
		if found.Total == 0 {
			c.out.line("nothing has been promoted to %s yet", environment)
		} else {
			c.out.line("no deployment of %s %s is like that", repository, environment)
		}
		for _, b := range beside {
			c.out.line("%s", b)
		}
		return nil
	}
	rows := [][]cell{{plain("AT"), plain("RELEASE"), plain("OUTCOME"), plain("DECLARED"), plain("BY"), plain("SUBJECT")}}
	for _, d := range found.Deployments {
		by := d.By + orNothing(", chosen by ", d.Chosen)
		for i, a := range d.Approvals {
			by += []string{", approved by ", ", "}[min(i, 1)] + a.By
		}
		rows = append(rows, []cell{
			plain(c.out.at(d.At, false)), count(d.Release), c.out.word(d.Outcome), plain(show.Short(d.Commit)), plain(by),
			{s: d.Subject + orNothing(" - ", d.Message), cut: true},
		})
	}
	c.out.table(rows)
	tail := show.Plural(len(found.Deployments), "deployment")
	if len(found.Deployments) < found.Total {
		tail = fmt.Sprintf("%d of %s", len(found.Deployments), show.Plural(found.Total, "deployment"))
	}
	tail += " of " + repository + " " + environment + ", times in UTC"
	c.out.line("%s", strings.Join(append([]string{tail}, beside...), "; "))
	return nil
}
