package shell

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/headgate-cd/headgate/gitd/show"
	"github.com/headgate-cd/headgate/gitd/terminal"
)

const defaultLogLines = 200

var logsCommand = command{
	name: "env logs", args: "[-f] [repo] <environment> [service] [--since <time>] [--lines <n>]",
	what: "what the instances of an environment printed", example: "env logs -f hello staging",
	options: []option{
		{"-f", "go on with what comes, until you end it or your right to read ends"},
		{"--since", "from then on: 10m, 2h, 1d, or a time such as 2026-11-24T14:00:00Z"},
		{"--lines", fmt.Sprintf("the newest so many (without: %d; with --since: all that is kept, at most 10,000)",
			defaultLogLines)},
	},
	notes: "Of each instance the last 1 to 2 MiB are kept, of those that are gone the newest. Headgate's own lines are\n" +
		"marked with *: when an instance started, and how it ended.",
	run: envLogs,
}

func envLogs(c *call) error {
	repository, environment, service, err := c.serviceOf()
	if err != nil {
		return err
	}
	q := show.LogQuery{Service: service, Follow: c.has("-f")}
	if q.Since, err = c.since(); err != nil {
		return err
	}
	if q.Since.IsZero() {
		q.Lines = defaultLogLines
	}
	if s := c.options["--lines"]; s != "" {
		if q.Lines, err = strconv.Atoi(s); err != nil || q.Lines < 1 {
			return usageError("for example: "+c.ssh("env logs --lines 50 "+environment), "%q is not a number of lines", s)
		}
	}

	printed := 0
	for l, err := range c.shell.Backend.InstanceLogs(c.ctx, c.actor, repository, environment, q) {
		if err != nil {
			return err
		}
		printed++
		if c.json {
			if err := c.emit(l); err != nil {
				return err
			}
		} else {
			c.instanceLine(l)
		}
		if q.Follow {
			c.flush()
		}
	}
	if q.Follow && c.ctx.Err() != nil {
		return context.Cause(c.ctx) // it has no end of its own
	}
	if printed == 0 && !q.Follow && !c.json {
		c.out.line("nothing was printed%s", orNothing(" by ", service))
	}
	return nil
}

// instanceLine writes one line that an instance printed; one that a build or an
// instance made up cannot look like headgate's.
func (c *call) instanceLine(l show.InstanceLine) {
	when := l.At.UTC().Format("15:04:05")
	if y, m, d := l.At.UTC().Date(); y != c.out.now.Year() || m != c.out.now.Month() || d != c.out.now.Day() {
		when = l.At.UTC().Format("2006-01-02 15:04:05")
	}
	mark := "|"
	if l.Own {
		mark = "*"
	}
	io.WriteString(c.out.w, c.out.paint(second, when+" "+terminal.Line(l.Instance))+" "+mark+" "+c.out.log(l.Text)+"\n")
}

// serviceOf reads whose logs are wanted. Of two words the second is a service when the
// first is no repository with such an environment.
func (c *call) serviceOf() (repository, environment, service string, err error) {
	if repository, service = c.args["repo"], c.args["service"]; repository != "" && service == "" {
		_, err := c.shell.Backend.Environment(c.ctx, c.actor, repository, c.args["environment"])
		if err == nil {
			return repository, c.args["environment"], "", nil
		}
		if !notFound(err) {
			return "", "", "", err
		}
		first, second := repository, c.args["environment"]
		c.args["repo"], c.args["environment"] = "", first
		if repository, environment, oerr := c.environment(); oerr == nil {
			return repository, environment, second, nil
		}
		return "", "", "", err
	}
	repository, environment, err = c.environment()
	return repository, environment, service, err
}

// since reads --since.
func (c *call) since() (time.Time, error) {
	s := c.options["--since"]
	if s == "" {
		return time.Time{}, nil
	}
	if at, err := time.Parse(time.RFC3339, s); err == nil {
		return at, nil
	}
	if days, ok := strings.CutSuffix(s, "d"); ok {
		if n, err := strconv.Atoi(days); err == nil && n > 0 && n < 10_000 {
			return c.out.now.AddDate(0, 0, -n), nil
		}
	}
	if d, err := time.ParseDuration(s); err == nil && d > 0 {
		return c.out.now.Add(-d), nil
	}
	return time.Time{}, usageError("write 10m, 2h, 1d, or 2026-11-24T14:00:00Z", "%q is not a time", s)
}

// lastLines writes what the services that failed printed last.
func (c *call) lastLines(e show.Environment) error {
	const each = 10
	for _, service := range e.Failing() {
		q := show.LogQuery{Service: service, Lines: each}
		first := true
		for l, err := range c.shell.Backend.InstanceLogs(c.ctx, c.actor, e.Repository, e.Name, q) {
			if err != nil {
				return err
			}
			if first {
				c.out.line("%s printed last, more: %s", service, c.ssh("env logs "+e.Repository+" "+e.Name+" "+service))
				first = false
			}
			c.instanceLine(l)
		}
	}
	return nil
}
