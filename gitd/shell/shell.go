// Package shell is what people can say to the server: a flat table of commands
// that ask a show.Backend and answer as text or as JSON. It knows nothing of
// SSH: a command is words, a user, two writers and what the far terminal can
// show.
//
//   - Shell runs one command (shell.go). Each family of commands has its own file.
//   - How a command is used is written once, as people read it; that text is what
//     its words are parsed by, and what its errors and its help say (usage.go,
//     help.go).
//   - Answers are laid out in text.go; what others wrote passes gitd/terminal.
package shell

import (
	"bufio"
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/headgate-cd/headgate/gitd/access"
	"github.com/headgate-cd/headgate/gitd/show"
	"github.com/headgate-cd/headgate/gitd/terminal"
	"github.com/headgate-cd/headgate/gitd/tty"
	"github.com/headgate-cd/headgate/gitd/yamlfile"
)

// Shell runs commands. Its fields are set before its first use; it is safe for
// concurrent use.
type Shell struct {
	Backend show.Backend
	// Access is the configuration in force.
	Access func() *access.Config
	// Login makes a one-time code with which user signs a browser in, and says for
	// how long it is good.
	Login func(user string) (code string, valid time.Duration)
	Log   *slog.Logger     // nil: slog.Default
	Now   func() time.Time // nil: time.Now
}

// Invocation is one command of a user.
type Invocation struct {
	Actor    access.Identity
	Words    []string  // none: the overview
	In       io.Reader // what the client sends to the command; nil: nothing
	Out, Err io.Writer
	Terminal Terminal
	// Console gives a command the client's terminal as it is: what is typed, and where to
	// print. nil: the client has none.
	Console func() (in io.Reader, out io.Writer, of tty.Terminal)
}

// Terminal is what the far end can show. The zero Terminal is none: plain ASCII,
// lines of any length.
type Terminal struct {
	Width   int // columns
	Colour  bool
	Unicode bool
}

// command is one command. Its run returns what its exit code and its "error:"
// lines are made of (show.Exit); an outcome when it has said it all.
type command struct {
	name    string   // one or two words
	args    string   // how it is used: "[-f] [repo] <change> [--line <n>]"; see usage
	what    string   // one line for lists
	example string   // shown first in its help
	options []option // what is said of the options in args
	notes   string   // further help
	// verbatim is a command whose words, from the first that is no option on, are its own
	// to read.
	verbatim bool
	run      func(c *call) error
	// incomplete says what to do about an argument that must be given and was
	// not; nil: the usage.
	incomplete func(c *call) error
}

// option says what one option of a command does.
type option struct{ name, what string }

// commands is the table of all of them, in the order of the overview.
func commands() []command {
	return slices.Concat(
		selfCommands, tokenCommands, repoCommands, changeCommands, diffCommands, releaseCommands, envCommands,
		promoteCommands, scheduleCommands, testCommands, searchCommands, whyCommands, decisionCommands, secretCommands, memberCommands,
		agentCommands, forgeCommands, eventCommands,
	)
}

// call is one run of a command.
type call struct {
	ctx     context.Context
	shell   *Shell
	actor   access.Identity
	in      io.Reader // nil: nothing
	out     *text
	command *command
	args    map[string]string // by the names in the command's usage
	options map[string]string // by name with dashes
	words   []string          // of a verbatim command
	json    bool
	stdout  io.Writer // for what is not the shell's, as is stderr
	stderr  io.Writer
	console func() (in io.Reader, out io.Writer, of tty.Terminal) // nil: there is no terminal
	flush   func()                                                // makes what is written so far visible to a client that follows
}

// outcome ends a command whose answer is written with a state's exit code.
type outcome int

func (o outcome) Error() string { return fmt.Sprintf("exit %d", int(o)) }

// outcomeOf is the exit code of a command that told a state: 0 yes, 1 no, 3 waits.
func outcomeOf(s show.State) error {
	switch s {
	case show.Refused, show.Failed, show.Conflict, show.Withdrawn, show.Drift, show.Unknown:
		return outcome(1)
	case show.Waits, show.Queued, show.Running, show.Converging, show.Hold:
		return outcome(3)
	}
	return nil
}

func usageError(hint, format string, args ...any) *show.Error {
	return &show.Error{Kind: show.Usage, What: fmt.Sprintf(format, args...), Hint: hint}
}

// Run runs a command and returns its exit code. When ctx is done the command
// ends; if the cause is a *show.Error, the user is told, otherwise they have gone.
func (s *Shell) Run(ctx context.Context, in Invocation) (status int) {
	log := s.Log
	if log == nil {
		log = slog.Default()
	}
	now := time.Now
	if s.Now != nil {
		now = s.Now
	}

	buffer := bufio.NewWriterSize(in.Out, 32<<10)
	c := &call{
		ctx:     ctx,
		shell:   s,
		actor:   in.Actor,
		in:      in.In,
		out:     &text{w: buffer, Terminal: in.Terminal, now: now().UTC()},
		options: map[string]string{},
		args:    map[string]string{},
		stdout:  in.Out,
		stderr:  in.Err,
		console: in.Console,
		flush:   func() { buffer.Flush() },
	}
	err := c.dispatch(in.Words)
	if ferr := buffer.Flush(); ferr != nil {
		return 1 // the client has gone
	}

	var told outcome
	if err == nil || errors.As(err, &told) {
		return int(told)
	}
	var e *show.Error
	switch {
	case ctx.Err() != nil && !errors.As(context.Cause(ctx), &e):
		return 130
	case ctx.Err() != nil:
		// Cause has told why.
	case !errors.As(err, &e):
		id := rand.Text()[:8]
		log.Error("a command failed", "id", id, "user", in.Actor.User, "command",
			terminal.Line(strings.Join(in.Words, " ")), "err", err)
		e = &show.Error{
			Kind: show.Again,
			What: "the server could not answer; it noted the cause as " + id,
			Hint: "tell an administrator of this server",
		}
	}
	if c.json {
		err = terminal.JSON(in.Err, e)
	} else {
		_, err = io.WriteString(in.Err, errorText(e, s.Backend.Server(context.WithoutCancel(ctx)).Login(), c.out))
	}
	if err != nil {
		log.Debug("could not say why a command failed", "err", err) // the client has gone
	}
	return show.Exit(e)
}

// dispatch finds the command and runs it.
func (c *call) dispatch(words []string) error {
	for _, w := range words { // so that an error about the words is JSON too
		c.json = c.json || w == "--json"
	}
	all := commands()
	if len(words) > 0 && words[0] == "--version" {
		words = append([]string{"version"}, words[1:]...)
	}

	switch {
	case len(words) == 0:
		return overview(c)
	case asksHelp(words[0]):
		words = append([]string{"help"}, words[1:]...)
	case len(words) > 1 && asksHelp(words[1]) && len(family(all, words[0])) > 0:
		words = append([]string{"help", words[0]}, words[2:]...)
	}
	cmd, rest, err := c.find(all, words)
	if err != nil {
		return err
	}
	own := rest // words that are the shell's to read
	if cmd.verbatim {
		if i := slices.IndexFunc(rest, func(w string) bool { return !strings.HasPrefix(w, "-") }); i >= 0 {
			own = rest[:i]
		}
		c.json = slices.Contains(own, "--json")
	}
	if slices.ContainsFunc(own, asksHelp) {
		return help(c, cmd)
	}
	c.command = cmd
	if err := c.parse(rest); err != nil {
		return err
	}
	return cmd.run(c)
}

// family is the commands of two words that begin with first.
func family(all []command, first string) (members []command) {
	for _, cmd := range all {
		if strings.HasPrefix(cmd.name, first+" ") {
			members = append(members, cmd)
		}
	}
	return members
}

// find matches the first one or two words.
func (c *call) find(all []command, words []string) (*command, []string, error) {
	var firsts, seconds []string // first words of all; second words of those that begin alike
	for i := range all {
		first, second, _ := strings.Cut(all[i].name, " ")
		if !slices.Contains(firsts, first) {
			firsts = append(firsts, first)
		}
		if first != words[0] {
			continue
		}
		if second == "" {
			return &all[i], words[1:], nil
		}
		if len(words) > 1 && words[1] == second {
			return &all[i], words[2:], nil
		}
		seconds = append(seconds, second)
	}

	switch {
	case seconds == nil:
		hint := "see what there is: " + c.ssh("help")
		if near, ok := yamlfile.Nearest(words[0], firsts); ok {
			hint = fmt.Sprintf("did you mean %q?", near)
		}
		return nil, nil, usageError(hint, "there is no command %q", words[0])
	case len(words) == 1 || strings.HasPrefix(words[1], "-"):
		return nil, nil, usageError("for example: "+c.ssh(words[0]+" "+seconds[0]), "%s takes one of: %s", words[0],
			strings.Join(seconds, ", "))
	}
	hint := words[0] + " takes one of: " + strings.Join(seconds, ", ")
	if near, ok := yamlfile.Nearest(words[1], seconds); ok {
		hint = fmt.Sprintf("did you mean %q?", words[0]+" "+near)
	}
	return nil, nil, usageError(hint, "there is no command %q", words[0]+" "+words[1])
}

// has reports whether an option was given.
func (c *call) has(name string) bool { _, ok := c.options[name]; return ok }

// emit writes v as a line of JSON.
func (c *call) emit(v any) error { return terminal.JSON(c.out.w, v) }

// answer writes v as a line of JSON, and ends with what it says.
func (c *call) answer(v any, outcome error) error {
	if err := c.emit(v); err != nil {
		return err
	}
	return outcome
}

// emitAll writes each of vs as a line of JSON.
func emitAll[T any](c *call, vs []T) error {
	for _, v := range vs {
		if err := c.emit(v); err != nil {
			return err
		}
	}
	return nil
}

// only finds the one repository that fits, for a command that did not name one.
// what says what it must have, list the command that shows what there is.
func (c *call) only(what, list string, fits func(show.Repository) (bool, error)) (string, error) {
	all, err := c.shell.Backend.Repositories(c.ctx, c.actor)
	if err != nil {
		return "", err
	}
	var found []string
	var unread error // of one that may have fitted; the others are not less there for it
	for _, r := range all {
		if r.State == show.Damaged {
			continue // it is shown where it is asked for by name
		}
		ok, err := fits(r)
		if err != nil {
			unread = cmp.Or(unread, err)
			continue
		}
		if ok {
			found = append(found, r.Name)
		}
	}
	if len(found) == 2 { // who means the server's own configuration says so
		found = slices.DeleteFunc(found, func(name string) bool { return name == access.Own })
	}

	switch len(found) {
	case 0:
		if unread != nil {
			return "", unread
		}
		return "", &show.Error{
			Kind: show.NotFound,
			What: "no repository of yours has " + what,
			Hint: "see what there is: " + c.ssh(list),
		}
	case 1:
		return found[0], nil
	}
	const shown = 10
	names := strings.Join(found[:min(len(found), shown)], ", ")
	if len(found) > shown {
		names += fmt.Sprintf(" and %d more", len(found)-shown)
	}
	return "", usageError("for example: "+c.ssh(c.command.with("repo", found[0], c.args)),
		"%s have %s: choose one", names, what)
}

// notFound reports whether err says that something is not there, for this actor.
func notFound(err error) bool {
	var e *show.Error
	return errors.As(err, &e) && e.Kind == show.NotFound
}

// ssh is a command as it is typed, to be pasted.
func (c *call) ssh(command string) string {
	return c.shell.Backend.Server(c.ctx).Command(command)
}

// version says which server this is.
func version(server show.Server) string { return cmp.Or(server.Version, "of no known version") }
