package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	gossh "golang.org/x/crypto/ssh"
	"golang.org/x/sync/errgroup"

	"github.com/headgate-cd/headgate/gitd/repo"
	"github.com/headgate-cd/headgate/gitd/show"
	"github.com/headgate-cd/headgate/gitd/socket"
)

// cannotListen says who has an address that is taken.
func cannotListen(flag, addr string, err error) error {
	by := ""
	if _, text, _ := net.SplitHostPort(addr); errors.Is(err, syscall.EADDRINUSE) {
		port, _ := strconv.Atoi(text) // a name of a service's finds nobody
		if by = socket.Holder(port); by != "" {
			by = ", by " + by
		}
	}
	return fmt.Errorf("listen on %s: %w%s\nhint: give another address with --%s", addr, err, by, flag)
}

// listen takes the addresses and says where people find the server.
func (s *Server) listen(hostKey gossh.Signer) (err error) {
	for _, l := range []struct {
		flag, addr string
		on         *net.Listener
	}{{"ssh", s.opts.SSH, &s.sshOn}, {"http", s.opts.HTTP, &s.webOn}} {
		if *l.on, err = net.Listen("tcp", l.addr); err != nil {
			return cannotListen(l.flag, l.addr, err)
		}
	}
	reach := func(l net.Listener, asked string) string {
		host, _, _ := net.SplitHostPort(asked)
		_, port, _ := net.SplitHostPort(l.Addr().String())
		if s.opts.Name != "" {
			host = s.opts.Name
		}
		if host == "" || host == "0.0.0.0" || host == "::" {
			if host, err = os.Hostname(); err != nil {
				host = "localhost"
			}
		}
		return net.JoinHostPort(host, port)
	}
	s.about = show.Server{
		SSH:     reach(s.sshOn, s.opts.SSH),
		HTTP:    s.opts.scheme() + "://" + reach(s.webOn, s.opts.HTTP),
		HostKey: gossh.FingerprintSHA256(hostKey.PublicKey()),
		Version: s.opts.Version,
		Started: s.started,
		Key:     s.opts.Key,
	}
	s.about.GitHTTP = s.about.HTTP
	if at := s.webOn.Addr().(*net.TCPAddr); at.IP.IsLoopback() && s.opts.Name == "" && s.opts.scheme() == "http" {
		s.about.HTTP = "http://" + net.JoinHostPort(show.ConsoleHost, strconv.Itoa(at.Port))
	}
	if s.opts.URL != "" {
		s.about.HTTP = strings.TrimRight(s.opts.URL, "/")
		s.about.GitHTTP = s.about.HTTP
	}
	s.about.Name, _, _ = net.SplitHostPort(s.about.SSH)
	return nil
}

// Run runs the parts until ctx is done, or one of them cannot go on. ready is
// called when the server answers and knows its users; its error ends the server.
func (s *Server) Run(ctx context.Context, ready func(context.Context) error) error {
	// SSH and HTTP stop first; then what they let in is finished; the line to the agent,
	// by which that is told what to run, goes last.
	inner, stopInner := context.WithCancel(context.WithoutCancel(ctx))
	defer stopInner()
	base, stopBase := context.WithCancel(context.WithoutCancel(ctx))
	defer stopBase()
	var front, middle, back errgroup.Group
	failed := make(chan error, 8)
	start := func(g *errgroup.Group, name string, run func() error) {
		g.Go(func() error {
			err := run()
			if err != nil && name != "" {
				err = fmt.Errorf("%s: %w", name, err)
			}
			if err != nil {
				failed <- err
			}
			return err
		})
	}
	start(&back, "hosts", func() error { return s.fleet.Run(base) })
	start(&back, "clusters", func() error { return s.clusters.Run(base) })
	start(&back, "agents", func() error { return s.remotes.run(base) })
	start(&back, "functions", func() error { return s.functions.Run(base) })
	start(&back, "agent", func() error { return s.runAgent(base) })
	start(&back, "agent", func() error { return s.tellAgent(base) })
	start(&middle, "containers", func() error {
		if err := s.containers.Sweep(inner); err != nil { // most machines have no engine; the next build tries again
			s.log.Debug("did not look for containers of builds that an earlier process left", "err", err)
		}
		return nil
	})
	start(&middle, "gate", func() error { return s.gate.Run(inner) })
	start(&middle, "schedules", func() error { return s.schedules.Run(inner) })
	start(&middle, "reconciler", func() error { return s.reconciler.Run(inner) })
	start(&middle, "forges", func() error { return s.forges.Run(inner) })
	if s.opts.Pack > 0 {
		packer := &repo.Packer{Store: s.store, After: s.opts.Pack, Log: s.log}
		start(&middle, "packing", func() error { return packer.Run(inner) })
	}
	start(&middle, "events", func() error { return s.events.Run(inner) })
	start(&middle, "receive", func() error { return s.receive.Run(inner) })

	outer, stopOuter := context.WithCancel(ctx)
	defer stopOuter()
	err := s.configure(outer)
	if err == nil {
		start(&front, "tokens", func() error { return s.tokens.Run(outer) })
		start(&front, "access", func() error { return s.watchAccess(outer) })
		start(&front, "ssh", func() error { return s.ssh.Serve(outer, s.sshOn) })
		start(&front, "http", func() error { return s.serveWeb(outer) })
		if s.authority != nil {
			start(&front, "certificate", func() error { return s.authority.run(outer) })
		}
		if err = s.announce(); err == nil {
			start(&front, "", func() error { return ready(outer) })
			select {
			case <-ctx.Done():
			case err = <-failed:
			}
		}
	}
	if ctx.Err() != nil {
		err = nil
	}
	s.log.Info("stopping")
	_ = os.Remove(s.announcement()) // one that stays names a process that is no more
	stopOuter()
	// Sessions that are about to end may do so; then pushes in flight are told that
	// the server restarts. Their changes are safe.
	grace := time.AfterFunc(50*time.Millisecond, stopInner)
	// What a part returns has gone to failed already; err has the first.
	_ = front.Wait()
	grace.Stop()
	stopInner()
	_ = middle.Wait()
	stopBase()
	_ = back.Wait()
	return err
}

// addresses sends webhooks to the forges, who is to become an agent to the program, and
// everything else to the console. It is no http.ServeMux, which would tidy up paths that the
// console calls ambiguous.
func addresses(console, webhooks, program http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, programPath) {
			program.ServeHTTP(w, r)
			return
		}
		name, ok := strings.CutPrefix(r.URL.Path, "/webhooks/")
		if !ok {
			console.ServeHTTP(w, r)
			return
		}
		r.SetPathValue("connection", name)
		webhooks.ServeHTTP(w, r)
	})
}

// serveWeb serves git and the console until ctx is done. The console's streams end
// then; whoever moves packs gets time, as over SSH.
func (s *Server) serveWeb(ctx context.Context) error {
	console := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		until, cancel := context.WithCancel(r.Context())
		defer cancel()
		defer context.AfterFunc(ctx, cancel)()
		s.console.ServeHTTP(w, r.WithContext(until))
	})
	s.web.Handler = proxied(s.opts.Proxies, s.git.Before(s.registry.Before(console)))

	ended := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(ended)
		late, cancel := context.WithTimeout(context.Background(), drain)
		defer cancel()
		if s.web.Shutdown(late) != nil {
			s.web.Close()
		}
		s.git.Close()
	})
	serve := func() error { return s.web.Serve(s.webOn) }
	if s.web.TLSConfig != nil {
		serve = func() error { return s.web.ServeTLS(s.webOn, "", "") }
	}
	if err := serve(); !errors.Is(err, http.ErrServerClosed) {
		stop()
		return err
	}
	<-ended
	return nil
}

// drain is how long requests may take to end by themselves when the server stops.
const drain = 10 * time.Second

// announce tells other programs, in run/server.json, where the server answers.
func (s *Server) announce() error {
	machine, containers := s.gate.Load()
	data, err := json.Marshal(map[string]any{
		"ssh":      s.about.SSH,
		"http":     s.about.HTTP,
		"pid":      os.Getpid(),
		"host_key": s.about.HostKey,
		// Builds at once:
		"workers":           machine.Workers,
		"container_workers": containers.Workers,
		// For programs of this machine, whatever names and proxies there are:
		"ssh_local":  s.sshOn.Addr().String(),
		"http_local": s.opts.scheme() + "://" + s.webOn.Addr().String(),
	})
	if err != nil {
		return err
	}
	s.log.Info("started", "ssh", s.about.SSH, "http", s.about.HTTP, "version", s.about.Version)
	return repo.WriteFile(s.announcement(), append(data, '\n'), 0o644)
}

func (s *Server) announcement() string { return filepath.Join(s.opts.Data, "run", "server.json") }
