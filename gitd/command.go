package gitd

import (
	"bufio"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"

	"github.com/headgate-cd/headgate/gitd/access"
	"github.com/headgate-cd/headgate/gitd/show"
	"github.com/headgate-cd/headgate/gitd/terminal"
	"github.com/headgate-cd/headgate/gitd/yamlfile"
)

// command is one SSH command. Its run returns what its exit code and its
// "error:" lines are made of (show.Exit); errOutcome when it has said it all.
type command struct {
	name    string // one or two words
	args    string // "[repo] <change>"
	what    string // one line for lists
	example string // shown first in its help
	options []option
	notes   string // further help
	run     func(c *call) error
}

// option is one --word of a command.
type option struct {
	name  string // with its dashes
	value string // what it takes, "" for nothing
	rest  bool   // takes all words up to the next option: ssh has joined them
	what  string
}

var globalOptions = []option{
	{name: "--json", what: "one object a line, for programs"},
	{name: "--color", what: "colour and shapes, without a terminal too"},
	{name: "--ascii", what: "neither colour nor Unicode"},
	{name: "--help", what: "this; also -h"},
}

// commands is the table of all of them, in the order of the overview.
func commands() []command {
	return slices.Concat(selfCommands, repoCommands, changeCommands, envCommands, promoteCommands, whyCommands)
}

// call is one run of a command.
type call struct {
	ctx     context.Context
	d       *daemon
	actor   show.Actor
	out     *text
	command *command
	words   []string // positional arguments
	options map[string]string
	json    bool
	flush   func() // makes what is written so far visible to a client that follows
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

func usage(hint, format string, args ...any) *show.Error {
	return &show.Error{Kind: show.Usage, What: fmt.Sprintf(format, args...), Hint: hint}
}

// command runs the words a client sent and returns the exit code.
func (s *session) command(actor show.Actor, words []string) int {
	ctx, cancel := context.WithCancelCause(s.d.commands)
	defer cancel(nil)
	defer context.AfterFunc(s.ended, func() { cancel(errHungUp) })()
	tty := s.tty()
	s.work.Go(func() { s.listen(tty != nil, cancel) })

	var stdout, stderr io.Writer = s, s.Stderr()
	if tty != nil {
		stdout, stderr = returns{s}, returns{s} // one screen, in order
	}
	buffer := bufio.NewWriterSize(stdout, 32<<10)
	c := &call{ctx: ctx, d: s.d, actor: actor, out: s.style(tty, buffer), flush: func() { buffer.Flush() }, options: map[string]string{}}
	err := c.dispatch(words)
	if ferr := buffer.Flush(); ferr != nil {
		return 1 // the client has gone
	}
	var told outcome
	if err == nil || errors.As(err, &told) {
		return int(told)
	}
	var e *show.Error
	switch {
	case errors.Is(context.Cause(ctx), errStopping):
		e = &show.Error{Kind: show.Again, What: errStopping.Error(), Hint: "try again in a moment"}
	case errors.Is(context.Cause(ctx), errHungUp):
		return 130
	case !errors.As(err, &e):
		id := rand.Text()[:8]
		s.d.log.Error("a command failed", "id", id, "user", actor.User, "command", terminal.Line(strings.Join(words, " ")), "err", err)
		e = &show.Error{Kind: show.Again, What: "the server could not answer; it noted the cause as " + id, Hint: "tell an administrator of this server"}
	}
	if c.json {
		terminal.JSON(stderr, e)
	} else {
		io.WriteString(stderr, errorText(e, c.out))
	}
	return show.Exit(e)
}

// listen reads what the client types while a command runs, which is nothing but
// Ctrl-C on a terminal, where no signal is sent.
func (s *session) listen(tty bool, cancel context.CancelCauseFunc) {
	buffer := make([]byte, 512)
	for {
		n, err := s.Read(buffer)
		if tty && slices.ContainsFunc(buffer[:n], func(b byte) bool { return b == 3 || b == 4 }) {
			cancel(errHungUp)
		}
		if err != nil {
			return
		}
	}
}

// style is how the client can be written to (DESIGN-UI section 6).
func (s *session) style(tty *pty, w io.Writer) *text {
	t := &text{w: w, now: s.d.clock().UTC()}
	if tty == nil {
		return t
	}
	t.width = tty.width
	locale := s.env["LC_ALL"]
	for _, name := range []string{"LC_CTYPE", "LANG"} {
		if locale == "" {
			locale = s.env[name]
		}
	}
	locale = strings.ToLower(locale)
	_, plainly := s.env["NO_COLOR"]
	usable := tty.name != "dumb" && tty.name != ""
	t.colour = usable && !plainly
	t.unicode = usable && (strings.HasSuffix(locale, "utf-8") || strings.HasSuffix(locale, "utf8"))
	return t
}

// dispatch finds the command and runs it.
func (c *call) dispatch(words []string) error {
	for _, w := range words { // so that an error about the words is JSON too
		c.json = c.json || w == "--json"
	}
	all := commands()
	if len(words) == 0 {
		return overview(c)
	}
	if asksHelp(words[0]) {
		words = append([]string{"help"}, words[1:]...)
	} else if len(words) > 1 && asksHelp(words[1]) && len(family(all, words[0])) > 0 {
		words = append([]string{"help", words[0]}, words[2:]...)
	}
	cmd, rest, err := find(all, words)
	if err != nil {
		return err
	}
	c.command = cmd
	if err := c.parse(rest); err != nil {
		return err
	}
	if _, ok := c.options["--help"]; ok {
		return help(c, cmd)
	}
	return cmd.run(c)
}

func asksHelp(word string) bool { return word == "--help" || word == "-h" }

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
func find(all []command, words []string) (*command, []string, error) {
	var seconds []string // words of commands that begin alike
	var firsts []string
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
		hint := "see what there is: help"
		if near, ok := yamlfile.Nearest(words[0], firsts); ok {
			hint = fmt.Sprintf("did you mean %q?", near)
		}
		return nil, nil, usage(hint, "there is no command %q", words[0])
	case len(words) == 1 || strings.HasPrefix(words[1], "-"):
		return nil, nil, usage("for example: "+words[0]+" "+seconds[0], "say what to do with %s: %s", words[0], strings.Join(seconds, ", "))
	}
	hint := words[0] + " goes with " + strings.Join(seconds, ", ")
	if near, ok := yamlfile.Nearest(words[1], seconds); ok {
		hint = fmt.Sprintf("did you mean %q?", words[0]+" "+near)
	}
	return nil, nil, usage(hint, "there is no command %q", words[0]+" "+words[1])
}

// parse sorts words into options and positional arguments.
func (c *call) parse(words []string) error {
	known := slices.Concat(c.command.options, globalOptions)
	for len(words) > 0 {
		word := words[0]
		words = words[1:]
		if word == "-h" {
			word = "--help"
		}
		if !strings.HasPrefix(word, "-") || word == "-" {
			c.words = append(c.words, word)
			continue
		}
		name, value, given := strings.Cut(word, "=")
		i := slices.IndexFunc(known, func(o option) bool { return o.name == name })
		if i < 0 {
			var names []string
			for _, o := range known {
				names = append(names, o.name)
			}
			hint := "see: help " + c.command.name
			if near, ok := yamlfile.Nearest(name, names); ok {
				hint = fmt.Sprintf("did you mean %q?", near)
			}
			return usage(hint, "%s has no option %q", c.command.name, name)
		}
		switch o := known[i]; {
		case o.value == "" && given:
			return usage("", "option %s takes no value", name)
		case o.rest:
			var taken []string
			if given {
				taken = append(taken, value)
			}
			for len(words) > 0 && !strings.HasPrefix(words[0], "--") {
				taken = append(taken, words[0])
				words = words[1:]
			}
			value = strings.Join(taken, " ")
			fallthrough
		case o.value != "":
			if value == "" && !given && !o.rest && len(words) > 0 {
				value, words = words[0], words[1:]
			}
			if value == "" {
				return usage("see: help "+c.command.name, "option %s needs %s", name, o.value)
			}
		}
		if _, twice := c.options[name]; twice {
			return usage("", "option %s stands twice", name)
		}
		c.options[name] = value
	}
	if _, ok := c.options["--ascii"]; ok {
		c.out.colour, c.out.unicode = false, false
	} else if _, ok := c.options["--color"]; ok {
		c.out.colour, c.out.unicode = true, true
	}
	return nil
}

// has reports whether an option without value was given.
func (c *call) has(name string) bool { _, ok := c.options[name]; return ok }

// wants checks the number of positional arguments.
func (c *call) wants(least, most int) error {
	if n := len(c.words); n < least || n > most {
		return usage("for example: "+c.command.example, "say it like this: %s", strings.TrimSpace(c.command.name+" "+c.command.args))
	}
	return nil
}

// emit writes v as a line of JSON.
func (c *call) emit(v any) {
	if err := terminal.JSON(c.out.w, v); err != nil {
		// Either the client has gone, which the last flush finds, or v cannot be
		// JSON, which is a mistake of ours.
		c.d.log.Debug("could not write an object", "command", c.command.name, "err", err)
	}
}

// put writes v as JSON when that is asked for, and says whether it was.
func (c *call) put(v any) bool {
	if c.json {
		c.emit(v)
	}
	return c.json
}

// only finds the one repository that fits, for a command that did not name one.
// what says what it must have, list the command that shows what there is.
func (c *call) only(what, list string, fits func(show.Repository) (bool, error)) (string, error) {
	all, err := c.d.Backend.Repositories(c.ctx, c.actor)
	if err != nil {
		return "", err
	}
	var found []string
	for _, r := range all {
		ok, err := fits(r)
		if err != nil {
			return "", err
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
		return "", &show.Error{Kind: show.NotFound, What: "no repository of yours has " + what, Hint: "see what there is: " + list}
	case 1:
		return found[0], nil
	}
	const shown = 10
	names := strings.Join(found[:min(len(found), shown)], ", ")
	if len(found) > shown {
		names += fmt.Sprintf(" and %d more", len(found)-shown)
	}
	return "", usage("name it: "+strings.TrimSpace(c.command.name+" "+found[0]+" "+strings.Join(c.words, " ")), "%s have %s: say which", names, what)
}

// notFound reports whether err says that something is not there, for this actor.
func notFound(err error) bool {
	var e *show.Error
	return errors.As(err, &e) && e.Kind == show.NotFound
}

// sshTarget is what stands behind "ssh" to reach the server.
func sshTarget(server show.Server) string {
	host, port, err := net.SplitHostPort(server.SSH)
	switch {
	case err != nil:
		return server.SSH
	case port == "22":
		return host
	}
	return "-p " + port + " " + host
}
