package shell

import (
	"context"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"strconv"
	"strings"
	"time"

	"github.com/headgate-cd/headgate/gitd/access"
	"github.com/headgate-cd/headgate/gitd/show"
	"github.com/headgate-cd/headgate/gitd/terminal"
)

// Commands about changes.
var changeCommands = []command{
	{
		name: "change list", args: "[repo] [--state <state>] [--author <name>] [--path <path>] [--before <change>] " +
			"[--after <change>] [--all]",
		what: "the queue, and what became of the last changes", example: "change list hello",
		options: []option{
			{"--state", "only these: " + show.Words(changeStates)},
			{"--author", "pushed by them, or naming them as its author"},
			{"--path", fmt.Sprintf("that change a file or directory; %d are looked at at once", show.MaxLooked)},
			{"--before", "older than this one"},
			{"--after", "newer than this one"},
			{"--all", fmt.Sprintf("not only %d", show.Newest)},
		},
		notes: "Without a repository it lists the changes of all that you may read.",
		run:   changeList,
	},
	{
		name: "change show", args: "[repo] <change>", what: "one change and its story", example: "change show 412",
		notes: "It ends with 0 when the change has landed, 1 when it was refused, 3 while it waits.",
		run:   changeShow,
	},
	{
		name: "change log", args: "[-f] [repo] <change> [--line <n>] [--build <log>]",
		what: "the log of a change's newest build", example: "change log -f 412",
		options: []option{
			{"-f", "follow it to its end, and end with 0 if it is green"},
			{"--line", "the lines around line n"},
			{"--build", "of an earlier build, or of a task of a batch, by the sha256:… that is said of it"},
		},
		run: changeLog,
	},
	{
		name: "change cancel", args: "[repo] <change>", what: "withdraw an open change", example: "change cancel 412",
		notes: "Who pushed it may, and administrators. Nothing moves. By git, from any clone:\n" +
			"git push -o cancel=<change> origin HEAD:refs/for/<branch>",
		run: func(c *call) error {
			name, number, err := c.change()
			if err != nil {
				return err
			}
			return c.act(c.shell.Backend.Withdraw(c.ctx, c.actor, name, number))
		},
	},
	{
		name: "change retry", args: "[repo] <change>", what: "propose a change that did not land once more",
		example: "change retry 412",
		notes: "It is the same commit, under a number of its own. By git, from any clone:\n" +
			"git fetch origin refs/changes/<change>/head && git push -o rebuild origin FETCH_HEAD:refs/for/<branch>",
		run: func(c *call) error {
			name, number, err := c.change()
			if err != nil {
				return err
			}
			return c.act(c.shell.Backend.Retry(c.ctx, c.actor, name, number))
		},
	},
	{
		name: "change tests", args: "[repo] <change> [--all]",
		what: "what the tests of a change's build have said, the failed ones first", example: "change tests 412",
		options: []option{{"--all", fmt.Sprintf("not only the failed ones and the first %d", newestTests)}},
		notes:   "It ends with 0 when none failed, 1 when some did.",
		run:     changeTests,
	},
	{
		name: "change replace", args: "[repo] <change> <by>", what: "let one open change of yours take the place of another",
		example: "change replace 412 418",
		notes:   "Change <by> becomes the next revision of <change>, in its place in the queue.",
		run: func(c *call) error {
			by, err := strconv.Atoi(c.args["by"])
			if err != nil || by < 1 {
				return usageError("for example: "+c.ssh(c.command.example), "%q is not the number of a change", c.args["by"])
			}
			name, number, err := c.change()
			if err != nil {
				return err
			}
			return c.act(c.shell.Backend.Replace(c.ctx, c.actor, name, number, by))
		},
	},
}

var changeStates = []show.State{show.Queued, show.Running, show.Green, show.Waits, show.Landed, show.Refused,
	show.Conflict, show.Withdrawn}

func changeShow(c *call) error {
	name, number, err := c.change()
	if err != nil {
		return err
	}
	ch, err := c.shell.Backend.Change(c.ctx, c.actor, name, number)
	if err != nil {
		return err
	}
	if c.json {
		return c.answer(ch, outcomeOf(ch.State))
	}
	c.out.line("%s", c.changeAnswer(ch))
	rows := [][]cell{
		{plain("subject"), {s: ch.Subject, cut: true}},
		{plain("pushed"), plain(fmt.Sprintf("by %s at %s, revision %d, for %s of %s", ch.By, c.out.at(ch.PushedAt, true),
			ch.Revision, ch.Branch, ch.Repository))},
		{plain("commit"), plain(show.Short(ch.Commit) + orNothing(", written by ", ch.Author))},
	}
	if ch.TestedWith != "" || ch.Tree != "" {
		rows = append(rows, []cell{plain("tested"),
			plain(strings.TrimPrefix(ch.TestedWith+orNothing(", tree ", show.Short(ch.Tree)), ", "))})
	}
	if b := ch.Build; b != nil {
		rows = append(rows, []cell{plain("build"), c.out.state(b.State), plain(c.build(b, ch.Reason))})
	}
	for _, f := range ch.Files {
		rows = append(rows, []cell{plain("conflict"), plain(f)})
	}
	if ch.MoreFiles > 0 {
		rows = append(rows, []cell{plain("conflict"), plain("and " + show.Plural(ch.MoreFiles, "more file"))})
	}
	if ch.Tip != "" {
		rows = append(rows, []cell{plain(ch.Branch), plain("stays at " + show.Short(ch.Tip))})
	}
	if len(ch.RunsIn) > 0 {
		rows = append(rows, []cell{plain("runs in"), plain(strings.Join(ch.RunsIn, ", "))})
	}
	c.out.table(rows)
	for _, d := range ch.Details {
		c.out.line("  %s", d)
	}
	if len(ch.Story) > 0 {
		rows = nil
		for _, e := range ch.Story {
			what := e.What
			if e.By != "" {
				what = e.By + " " + what
			}
			rows = append(rows, []cell{{s: e.At.UTC().Format("02 Jan 15:04:05"), colour: second}, plain(what), plain(e.More)})
		}
		c.out.table(rows)
	}
	if ch.Hint != "" {
		c.out.line("next: %s", ch.Hint)
	}
	return outcomeOf(ch.State)
}

// changeAnswer is a change in one sentence.
func (c *call) changeAnswer(ch show.Change) string {
	s := fmt.Sprintf("%d %s", ch.Number, stateVerb(ch.State))
	switch ch.State {
	case show.Landed:
		s += fmt.Sprintf(" on %s as %s at %s", ch.Branch, show.Short(ch.Candidate), c.out.at(ch.EndedAt, true))
		if ch.Release > 0 {
			s += fmt.Sprintf(": release %d", ch.Release)
		}
		return s
	case show.Queued, show.Running, show.Green:
		if ch.Place > 0 {
			s += fmt.Sprintf(" at place %d", ch.Place)
		}
		if eta := c.lands(ch); eta != "-" {
			s += ", lands " + eta
			if !ch.LandsSoon {
				s += " UTC"
			}
		}
		if ch.Behind > 0 {
			s += fmt.Sprintf(", behind %d", ch.Behind)
		}
	}
	if ch.State == show.Conflict && ch.Reason != "" { // "conflicts with …"
		return fmt.Sprintf("%d %s", ch.Number, ch.Reason)
	}
	return s + orNothing(": ", ch.Reason)
}

func stateVerb(s show.State) string {
	switch s {
	case show.Refused, show.Withdrawn:
		return "was " + string(s)
	case show.Landed, show.Waits:
		return string(s)
	case show.Conflict:
		return "conflicts"
	}
	return "is " + string(s)
}

// build is a build in one line; reason is what is said of it already.
func (c *call) build(b *show.Build, reason string) string {
	var parts []string
	switch {
	case b.Reused:
		parts = append(parts, "identical tree, green since "+c.out.at(b.Finished, true))
	case !b.Started.IsZero() && !b.Finished.IsZero():
		parts = append(parts, "took "+show.Elapsed(b.Finished.Sub(b.Started)))
	case !b.Started.IsZero():
		parts = append(parts, "since "+c.out.at(b.Started, true))
	}
	if b.Command != "" {
		what := strings.TrimPrefix(b.Phase+": "+b.Command, ": ")
		if b.Exit != 0 {
			what += fmt.Sprintf(" (exit %d)", b.Exit)
		}
		parts = append(parts, what)
	}
	if b.Reason != "" && b.Reason != reason {
		parts = append(parts, b.Reason)
	}
	if b.LogLine > 0 {
		parts = append(parts, fmt.Sprintf("line %d of the log", b.LogLine))
	}
	return strings.Join(parts, ", ")
}

func changeLog(c *call) error {
	around := 0
	if s := c.options["--line"]; s != "" {
		n, err := strconv.Atoi(s)
		if err != nil || n < 1 {
			return usageError("for example: "+c.ssh("change log 411 --line 1086"), "%q is not the number of a line", s)
		}
		around = n
	}
	follow := c.has("-f")
	name, number, err := c.change()
	if err != nil {
		return err
	}
	events := c.shell.Backend.Log(c.ctx, c.actor, name, number, follow)
	if log := c.options["--build"]; log != "" {
		if follow {
			return usageError("leave out -f", "the log of a build that has ended is not followed")
		}
		events = c.shell.Backend.BuildLog(c.ctx, c.actor, name, number, log)
	}
	shown, last, err := c.printLog(events, around, follow)
	if err != nil {
		return err
	}
	if around > 0 && shown == 0 {
		return &show.Error{Kind: show.NotFound,
			What: fmt.Sprintf("the log has no line %d: it has %s", around, show.Plural(last, "line"))}
	}
	if !follow {
		return nil
	}
	ch, err := c.shell.Backend.Change(c.ctx, c.actor, name, number)
	if err != nil {
		return err
	}
	if !c.json {
		c.out.line("%s", c.changeAnswer(ch))
	}
	if ch.Build != nil && (ch.Build.State == show.Green || ch.Build.State == show.Failed) {
		return outcomeOf(ch.Build.State)
	}
	return outcomeOf(ch.State)
}

// printLog writes a log: all of it, or what is around a line; as it grows, with
// follow.
func (c *call) printLog(events iter.Seq2[show.LogEvent, error], around int, follow bool) (shown, last int, err error) {
	const lines = 20 // on either side
	var unfinished show.Unfinished
	command := ""
	for e, err := range events {
		if err != nil {
			return shown, last, err
		}
		if e.Kind == "step" {
			command = strings.TrimPrefix(e.Phase+": "+e.Command, ": ")
		}
		last = max(last, e.Line)
		if around > 0 && (e.Line == 0 || e.Line < around-lines || e.Line > around+lines) {
			continue
		}
		shown++
		if e.Kind == "note" && e.About == show.NoteCommand && around == 0 && !c.json {
			continue // the step's own line follows
		}
		if c.json {
			if err := c.emit(e); err != nil {
				return shown, last, err
			}
		} else if done, err := unfinished.Write(c.out.w, e, "| ", c.out.log); err != nil {
			return shown, last, err
		} else if !done {
			c.logLine(e, terminal.Line(command), around > 0)
		}
		if follow {
			c.flush()
		}
	}
	if c.ctx.Err() != nil {
		return shown, last, context.Cause(c.ctx)
	}
	return shown, last, nil
}

// logLine writes one entry of a log as a push shows it: "|" is the build's own.
// command is that of the step it belongs to.
func (c *call) logLine(e show.LogEvent, command string, numbered bool) {
	t := c.out
	if numbered {
		fmt.Fprintf(t.w, "%6d ", e.Line)
	}
	switch e.Kind {
	case "step":
		m := marks[show.Running]
		io.WriteString(t.w, t.paint(m.colour, t.shape(show.Running))+" "+command+"\n")
	case "end":
		state := show.Green
		took := show.Elapsed(time.Duration(e.Took))
		if e.Exit != 0 {
			state, took = show.Failed, took+fmt.Sprintf(" (exit %d)", e.Exit)
		}
		fmt.Fprintf(t.w, "%s %s  %s\n", t.paint(marks[state].colour, t.shape(state)), command, took)
	case "out":
		fmt.Fprintf(t.w, "| %s\n", t.log(e.Text))
	default:
		if e.Text != "" {
			fmt.Fprintf(t.w, "%s\n", t.log(e.Text))
		}
	}
}

// change reads a change's number, and finds the repository if it was left out.
func (c *call) change() (name string, number int, err error) {
	if number, err = strconv.Atoi(c.args["change"]); err != nil || number < 1 {
		list := strings.TrimSpace("change list " + c.args["repo"])
		return "", 0, usageError("see them: "+c.ssh(list), "%q is not the number of a change", c.args["change"])
	}
	if name = c.args["repo"]; name != "" {
		return name, number, nil
	}
	name, err = c.only(fmt.Sprintf("a change %d", number), "change list", func(r show.Repository) (bool, error) {
		_, err := c.shell.Backend.Change(c.ctx, c.actor, r.Name, number)
		if notFound(err) {
			return false, nil
		}
		return err == nil, err
	})
	return name, number, err
}

// repositories is the one that was named, or all that may be read; the server's
// own is among them only if there is no other, and one that is damaged never.
func (c *call) repositories() (names []string, err error) {
	if name := c.args["repo"]; name != "" {
		return []string{name}, nil
	}
	all, err := c.shell.Backend.Repositories(c.ctx, c.actor)
	if err != nil {
		return nil, err
	}
	for _, r := range all {
		if r.State == show.Damaged {
			continue // repo list says so; the others are shown
		}
		if r.Name != access.Own || len(all) == 1 {
			names = append(names, r.Name)
		}
	}
	return names, nil
}

// leaveOut reports whether an error in the repository name keeps only that one from a
// list of several, and says so.
func (c *call) leaveOut(names []string, name string, err error) bool {
	if err == nil || len(names) < 2 || c.ctx.Err() != nil {
		return false
	}
	log := c.shell.Log
	if log == nil {
		log = slog.Default()
	}
	log.Error("a repository cannot be listed", "repo", name, "err", err)
	if !c.json {
		c.out.line("%s cannot be read, and is left out; the server's log says why", name)
	}
	return true
}

func orNothing(before, s string) string {
	if s == "" {
		return ""
	}
	return before + s
}
