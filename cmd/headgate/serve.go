package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"time"

	"golang.org/x/term"

	"github.com/headgate-cd/headgate/cmd/internal/server"
	"github.com/headgate-cd/headgate/hooks/build/host"
)

func serveCommand() command {
	return command{
		name: "serve", short: "run the server",
		long: `
headgate serve
headgate serve --data /var/lib/headgate --ssh :22 --http 127.0.0.1:8080 --name git.example.org

Runs the server until it is interrupted. At the first start it makes the data
directory and the repository "headgate", in which you are the administrator, with
the SSH keys of which you have the private half, and says so; everything else is configured there, by pushing.`,
		setup: func(flags *flag.FlagSet) func(context.Context, printer, []string) error {
			o := serveFlags(flags)
			return func(ctx context.Context, p printer, args []string) error {
				if len(args) > 0 {
					return usageError{fmt.Sprintf("serve takes no arguments, got %q", args[0])}
				}
				if err := o.prepare(); err != nil {
					return err
				}
				keys, made, err := o.adminKeys(ctx)
				if err != nil {
					return err
				}
				o.Keys = keys
				return serve(ctx, p, *o, func(ctx context.Context, s *server.Server) error {
					about := s.Server(ctx)
					fmt.Fprintf(p.err, "headgate is up: ssh %s, console %s\n", about.SSH, about.HTTP)
					fmt.Fprintf(p.err, "host key %s\n", about.HostKey)
					for _, line := range s.Appointed() {
						fmt.Fprintln(p.err, line)
					}
					if _, known := s.Operator(keys[0]); known && made != "" {
						fmt.Fprintf(p.err, "you have no SSH key, so one was made: use ssh -i %s\n", made)
					}
					if err := (&host.Host{}).Probe(ctx); err != nil {
						fmt.Fprintf(p.err, "warning: %v\n", err) // people can be let in, and repositories made, all the same
					}
					return nil
				})
			}
		},
	}
}

// serve runs a server until ctx is done. ready is called once it answers; an
// error of ready ends the server.
func serve(ctx context.Context, p printer, o options, ready func(context.Context, *server.Server) error) error {
	logger, closeLog, err := o.logger()
	if err != nil {
		return err
	}
	defer closeLog()
	s, err := server.Open(ctx, o.Options, logger)
	if err != nil {
		return err
	}
	defer s.Close()
	if err := s.Run(ctx, func(ctx context.Context) error { return ready(ctx, s) }); err != nil {
		return err
	}
	// What runs is not the server's to end.
	asking, cancel := context.WithTimeout(context.WithoutCancel(ctx), agentTimeout)
	defer cancel()
	if h, err := s.LocalAgent(asking); err == nil && h.Running > 0 {
		fmt.Fprintf(p.err, "%s on (agent, process %d); to stop them: headgate agent stop --data %s\n",
			goOn(h.Running), h.PID, o.Data)
	}
	return nil
}

// agentTimeout is how long the agent may take to say what runs.
const agentTimeout = 5 * time.Second

func goOn(instances int) string {
	if instances == 1 {
		return "1 instance goes"
	}
	return fmt.Sprintf("%d instances go", instances)
}

// logger writes the server's log: text for a person at a terminal, JSON lines
// otherwise.
func (o *options) logger() (*slog.Logger, func(), error) {
	var to io.Writer = os.Stderr
	closing := func() {}
	if o.logTo != "" {
		f, err := os.OpenFile(o.logTo, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
		if err != nil {
			return nil, nil, fmt.Errorf("open the server's log: %w", err)
		}
		to, closing = f, func() { f.Close() }
	}
	if to == os.Stderr && term.IsTerminal(int(os.Stderr.Fd())) {
		return slog.New(slog.NewTextHandler(to, nil)), closing, nil
	}
	return slog.New(slog.NewJSONHandler(to, nil)), closing, nil
}
