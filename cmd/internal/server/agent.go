package server

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"

	"github.com/headgate-cd/headgate/reconciler/agent"
)

// agentClient speaks to the agent of this machine, a process that does not end with
// the server.
func (s *Server) agentClient() agent.Client {
	return agent.Client{Dir: filepath.Join(s.opts.Data, "agent")}
}

// LocalAgent says what goes on running when the server has stopped. The error matches
// agent.ErrAway when there is no agent.
func (s *Server) LocalAgent(ctx context.Context) (agent.Hello, error) {
	return s.agentClient().Hello(ctx)
}

// runAgent speaks to the agent until ctx ends, after it has started one where none
// runs, or had one of another program give way to this one.
func (s *Server) runAgent(ctx context.Context) error {
	if err := s.currentAgent(ctx); err != nil && ctx.Err() == nil {
		// People can do everything else meanwhile, and it is tried again.
		s.log.Error("what environments declare is not run as it should be", "err", err)
	}
	return s.services.Run(ctx)
}

// currentAgent has an agent of this program work.
func (s *Server) currentAgent(ctx context.Context) error {
	start := s.startAgent
	if s.opts.NoAgent {
		start = s.LocalAgent
	}
	h, err := start(ctx)
	if err != nil {
		return err
	}
	own, err := agent.DigestOf("/proc/self/exe")
	if err != nil || own == h.Digest {
		return err
	}
	s.log.Info("the agent works by another program, upgrading it", "program", h.Program, "pid", h.PID)
	// By the process, whatever has the name of its program now.
	if err := s.agentClient().Control(ctx, "upgrade", fmt.Sprintf("/proc/%d/exe", os.Getpid())); err != nil {
		return fmt.Errorf("the agent goes on with the program that it had (%s): %w", h.Program, err)
	}
	return nil
}

func (s *Server) startAgent(ctx context.Context) (agent.Hello, error) {
	return s.agentClient().Start(ctx, filepath.Join(s.opts.Data, "logs", "agent.log"), "agent", "--data", s.opts.Data)
}

// dialAgent connects to the agent, and starts one if it is gone, unless somebody has
// stopped it: a process that was killed is to come back.
func (s *Server) dialAgent(ctx context.Context) (net.Conn, error) {
	client := s.agentClient()
	conn, err := client.Dial(ctx)
	switch {
	case err == nil:
		return conn, nil
	case client.Stopped():
		return nil, errors.New(
			"it was stopped by `headgate agent stop`; `headgate agent` starts it, and so does the next start of the server")
	case s.opts.NoAgent:
		return nil, err
	}
	if _, err := s.startAgent(ctx); err != nil {
		return nil, err
	}
	return client.Dial(ctx)
}

// agentSettings are what the agent has to know besides what is declared. There are
// none before the server knows its users.
func (s *Server) agentSettings() (agent.Settings, bool) {
	config := s.access.Load()
	if config == nil {
		return agent.Settings{}, false
	}
	held, err := s.reconciler.HeldPorts()
	if err != nil {
		s.log.Warn("cannot say which ports environments have", "err", err)
	}
	slices.Sort(held)
	return agent.Settings{
		Host:           s.about.Name,
		Address:        config.Address(),
		HeldPorts:      slices.Compact(held),
		TrustedProxies: s.opts.Proxies,
		Metrics:        s.opts.Metrics,
		ACMEDirectory:  s.opts.authority(),
	}, true
}

// tellAgent tells the agent of settings that have changed, until ctx ends.
func (s *Server) tellAgent(ctx context.Context) error {
	moved, stop := s.store.Watch("")
	defer stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-moved:
			s.services.Changed()
		}
	}
}
