// Headgate takes a team from git push to a running production.
//
// This program is the server (serve, demo) and the tools that people run
// elsewhere: init, check, run, deploy and verify need nothing but a work tree or a clone.
// Each command is a few lines here or in the file named for it; what they
// start is joined in cmd/internal/server.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"

	"github.com/headgate-cd/headgate/cmd/internal/server"
	"github.com/headgate-cd/headgate/gitd/yamlfile"
	"github.com/headgate-cd/headgate/policies"
)

// command is one word after `headgate`.
type command struct {
	name  string
	args  string // after the name, in the usage line
	short string
	long  string // shown by -h: examples first
	setup func(flags *flag.FlagSet) func(ctx context.Context, p printer, args []string) error
}

// printer is where a command writes: data to out, everything else to err.
type printer struct {
	out, err io.Writer
}

// usageError makes a command exit with 2 and point to its help.
type usageError struct{ what string }

func (e usageError) Error() string { return e.what }

// exitCode is returned by a command that has itself printed what is wrong.
type exitCode struct{ code int }

func (s exitCode) Error() string { return fmt.Sprintf("exit %d", s.code) }

func commands() []command {
	return []command{
		serveCommand(), agentCommand(), installCommand(), demoCommand(), initCommand(), checkCommand(), runCommand(),
		deployCommand(), verifyCommand(), statusCommand(), doctorCommand(),
		backupCommand(), restoreCommand(), keyCommand(), versionCommand(),
	}
}

func main() {
	if len(os.Args) == 2 && os.Args[1] == server.PolicyWorker {
		policies.Work()
		return
	}
	keepInherited()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	// The first signal ends ctx and lets everything finish; from then on the
	// default action holds again, so that a second one ends the process.
	context.AfterFunc(ctx, stop)
	os.Exit(execute(ctx, printer{os.Stdout, os.Stderr}, os.Args[1:]))
}

// keepInherited keeps descriptors that whoever started the program left open (a
// log, a directory, make's job server) from the programs that it starts: sandboxes
// for one, which would reach through them what lies outside.
func keepInherited() {
	open, _ := os.ReadDir("/proc/self/fd") // without /proc there are no sandboxes either
	for _, d := range open {
		if fd, err := strconv.Atoi(d.Name()); err == nil && fd > 2 {
			syscall.CloseOnExec(fd)
		}
	}
}

// execute runs one command line and returns its exit code: 0 yes, 1 no, 2 wrong
// usage.
func execute(ctx context.Context, p printer, args []string) int {
	if len(args) == 0 {
		usage(p.err)
		return 2
	}
	asksHelp := func(word string) bool { return word == "help" || word == "-h" || word == "--help" }
	if args[0] == "--version" {
		args = []string{"version"}
	}
	if asksHelp(args[0]) {
		if len(args) > 1 && !asksHelp(args[1]) {
			return execute(ctx, p, []string{args[1], "-h"})
		}
		usage(p.out)
		return 0
	}
	for _, c := range commands() {
		if c.name != args[0] {
			continue
		}
		flags := flag.NewFlagSet(c.name, flag.ContinueOnError)
		flags.SetOutput(io.Discard)
		run := c.setup(flags)
		operands, err := parse(flags, args[1:])
		if errors.Is(err, flag.ErrHelp) {
			help(p.out, c, flags)
			return 0
		}
		if err != nil {
			err = usageError{strings.ReplaceAll(err.Error(), ": -", ": --")}
		} else {
			err = run(ctx, p, operands)
		}
		return exit(p, c.name, err)
	}
	fmt.Fprintf(p.err, "error: unknown command %q\n", args[0])
	var names []string
	for _, c := range commands() {
		names = append(names, c.name)
	}
	if near, ok := yamlfile.Nearest(args[0], names); ok {
		fmt.Fprintf(p.err, "hint: did you mean `headgate %s`?\n", near)
	} else {
		fmt.Fprintln(p.err, "hint: headgate -h lists the commands")
	}
	return 2
}

// parse reads flags before, between and after the operands, up to a "--".
func parse(flags *flag.FlagSet, args []string) (operands []string, err error) {
	for len(args) > 0 {
		if err := flags.Parse(args); err != nil {
			return nil, err
		}
		read := len(args) - flags.NArg()
		if read > 0 && args[read-1] == "--" {
			return append(operands, flags.Args()...), nil
		}
		if args = flags.Args(); len(args) > 0 {
			operands, args = append(operands, args[0]), args[1:]
		}
	}
	return operands, nil
}

func exit(p printer, name string, err error) int {
	var u usageError
	var s exitCode
	switch {
	case err == nil:
		return 0
	case errors.As(err, &s):
		return s.code
	case errors.As(err, &u):
		fmt.Fprintf(p.err, "error: %s\nhint: headgate %s -h\n", u.what, name)
		return 2
	}
	for i, line := range strings.Split(err.Error(), "\n") {
		if i == 0 {
			line = "error: " + line
		}
		fmt.Fprintln(p.err, line)
	}
	return 1
}

func usage(w io.Writer) {
	fmt.Fprintln(w, "Headgate takes a team from git push to a running production.")
	fmt.Fprintln(w, "\n  headgate demo                start a server with a sample repository and watch it work")
	fmt.Fprintln(
		w, "  headgate serve --data /var/lib/headgate --ssh :22 --http :443 --tls-cert chain.pem --tls-key key.pem")
	fmt.Fprintln(w, "\nCommands:")
	for _, c := range commands() {
		fmt.Fprintf(w, "  %-9s %s\n", c.name, c.short)
	}
	fmt.Fprintln(w, "\nheadgate <command> -h shows examples and flags.")
	fmt.Fprintln(w, "Exit codes: 0 yes, 1 no (refused, wrong, unproven), 2 wrong usage.")
}

func help(w io.Writer, c command, flags *flag.FlagSet) {
	fmt.Fprintln(w, strings.TrimSpace(c.long))
	fmt.Fprintf(w, "\nUsage: headgate %s", c.name)
	has := false
	flags.VisitAll(func(*flag.Flag) { has = true })
	if has {
		fmt.Fprint(w, " [flags]")
	}
	if c.args != "" {
		fmt.Fprint(w, " "+c.args)
	}
	fmt.Fprintln(w)
	if has {
		fmt.Fprintln(w)
		flags.VisitAll(func(f *flag.Flag) {
			if len(f.Name) > 1 { // its long name says so
				fmt.Fprint(w, flagHelp(f))
			}
		})
	}
}

// helpWidth is what the texts of commands are written for.
const helpWidth = 84

// flagHelp is a flag as people write it, and below it what it does.
func flagHelp(f *flag.Flag) string {
	kind, what := flag.UnquoteUsage(f)
	if kind != "" {
		kind = " <" + kind + ">"
	}
	bare, _ := f.Value.(interface{ IsBoolFlag() bool })
	isBare := bare != nil && bare.IsBoolFlag()
	if f.DefValue != "" && f.DefValue != "0" && !isBare && !strings.Contains(what, "(default") {
		what += fmt.Sprintf(" (default %s)", f.DefValue)
	}

	var b strings.Builder
	fmt.Fprintf(&b, "  --%s%s\n", f.Name, kind)
	line := "     "
	for _, word := range strings.Fields(what) {
		if len(line)+1+len(word) > helpWidth {
			b.WriteString(line + "\n")
			line = "     "
		}
		line += " " + word
	}
	return b.String() + line + "\n"
}
