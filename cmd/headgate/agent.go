package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/headgate-cd/headgate/cmd/internal/proof"
	"github.com/headgate-cd/headgate/gitd/agentline"
	"github.com/headgate-cd/headgate/gitd/repo"
	"github.com/headgate-cd/headgate/gitd/sandbox"
	"github.com/headgate-cd/headgate/gitd/show"
	"github.com/headgate-cd/headgate/hooks/build/artifact"
	"github.com/headgate-cd/headgate/reconciler/agent"
	"github.com/headgate-cd/headgate/reconciler/target"
	"github.com/headgate-cd/headgate/reconciler/target/hosts"
	"github.com/headgate-cd/headgate/reconciler/target/hosts/deploy"
	"github.com/headgate-cd/headgate/reconciler/target/services"
)

func agentCommand() command {
	return command{
		name:  "agent",
		args:  "[status | stop | drain | resume | join | trust]",
		short: "run what environments declare on this machine, apart from the server",
		long: `
headgate agent --data /var/lib/headgate
headgate agent status
headgate agent stop
echo <token> | headgate agent join --server git.example.org:22 \
  --host-key SHA256:... --signing-key SHA256:...

Runs the services of this machine until it is interrupted or stopped: then requests in
flight are answered, and everything is stopped. "headgate serve" starts one for its
own machine and does not end it, so that what runs does not notice when the server is
stopped, killed or upgraded. SIGHUP has it go on with the program that has its name
now, without stopping anything.

  status   says what runs here
  stop     stops everything that runs, and the agent; the next start of the server, or
           of the agent, starts it again
  drain    stops everything that runs and starts nothing more, until resume
  resume   starts again what is declared
  join     makes this machine the agent of a server on another one, by the one-time token on
           standard input; "ssh host agent enrol" prints the whole line. From then on
           "headgate agent" connects to that server, with a key of this machine's own,
           and takes no host key but that one for the server's. It deploys nothing that
           is not proven to be signed by that signing key, or one that it signed for.
  trust    has the agent of a server elsewhere take another --host-key or --signing-key,
           for one that was replaced; start the agent again after it

Exit code 1 when no agent runs, or it does not do what it was asked for.`,
		setup: func(flags *flag.FlagSet) func(context.Context, printer, []string) error {
			data := flags.String("data", "./data", "directory that holds everything the server keeps")
			asJSON := flags.Bool("json", false, "print one object; with status")
			j := joining{}
			flags.StringVar(&j.server, "server", "", "`address` of the server's SSH, host:port; with join")
			flags.StringVar(&j.hostKey, "host-key", "", "`fingerprint` of the server's host key, SHA256:...; with join")
			flags.StringVar(&j.signingKey, "signing-key", "", "`fingerprint` of the server's signing key, SHA256:...; with join")
			flags.StringVar(&j.name, "name", "",
				"what the agent is called, when the token does not say (default: the host name); with join")
			return func(ctx context.Context, p printer, args []string) error {
				dir, err := filepath.Abs(*data)
				if err != nil {
					return err
				}
				what := ""
				if len(args) > 0 {
					what = args[0]
				}
				if len(args) > 1 {
					return usageError{fmt.Sprintf("agent takes one word, got %q after it", args[1])}
				}
				if what == "join" {
					return j.join(ctx, p, dir)
				}
				if what == "trust" {
					return j.trust(p, dir)
				}
				if _, err := os.Stat(dir); err != nil {
					return fmt.Errorf("look at the data directory: %w\nhint: give the server's --data", err)
				}
				client := agent.Client{Dir: agentDir(dir)}
				switch what {
				case "":
					return superviseAgent(ctx, dir)
				case "worker":
					return workAsAgent(dir)
				case "status":
					return agentStatus(ctx, p, client, *asJSON)
				case "stop":
					return stopAgent(ctx, p, dir, client)
				case "drain", "resume":
					if err := client.Control(ctx, what, ""); err != nil {
						return err
					}
					fmt.Fprintln(p.out, map[string]string{
						"drain":  "nothing is started here any more, and what runs ends once its requests are answered; to go on: headgate agent resume",
						"resume": "what is declared is started again",
					}[what])
					return nil
				}
				return usageError{fmt.Sprintf(
					"agent: unknown word %q; use status, stop, drain, resume, join or trust, or none to run it", what)}
			}
		},
	}
}

// agentDir is where the agent of a server's own machine keeps what it has to know.
func agentDir(data string) string { return filepath.Join(data, "agent") }

func agentLogger() *slog.Logger { return slog.New(slog.NewJSONHandler(os.Stderr, nil)) }

// superviseAgent is `headgate agent`.
func superviseAgent(ctx context.Context, data string) error {
	program, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find this program: %w", err)
	}
	s := &agent.Supervisor{
		Program:   program,
		Dir:       agentDir(data),
		Arguments: []string{"agent", "worker", "--data", data},
		Log:       agentLogger(),
	}
	return s.Run(ctx)
}

// agentEngine is what an agent converges with.
func agentEngine(data string, log *slog.Logger) *services.Target {
	store := artifact.In(filepath.Join(data, "artifacts"))
	e := services.New(agentDir(data), filepath.Join(data, "logs", "services"), store.Unpack)
	e.Archive = store.WriteArchive
	e.CertificateDir = filepath.Join(data, "certificates")
	e.Log = log
	return e
}

// workAsAgent is what a supervisor starts.
func workAsAgent(data string) error {
	log := agentLogger()
	uplink, err := agent.OpenUplink(agentDir(data))
	if err != nil {
		return err
	}
	w := &agent.Worker{
		Dir:     agentDir(data),
		Engine:  agentEngine(data, log),
		Program: version(),
		Uplink:  uplink,
		Prove:   proof.Verify,
		Log:     log,
	}
	if uplink != nil {
		if w.Hosts, err = remoteHosts(data, uplink, log); err != nil {
			return err
		}
		w.Receive = func(ctx context.Context, digest string, size int64) (string, error) {
			return receiveProgram(ctx, data, uplink, digest, size)
		}
	}
	return w.Run()
}

// remoteHosts is what an agent deploys with for a server elsewhere, from which it gets
// artifacts.
func remoteHosts(data string, uplink *agent.Uplink, log *slog.Logger) (*hosts.Target, error) {
	store, err := artifact.Open(filepath.Join(data, "artifacts"))
	if err != nil {
		return nil, err
	}
	var receiving sync.Mutex
	h := hosts.New(filepath.Join(data, "hosts"), func(ctx context.Context, digest, dir string) error {
		receiving.Lock()
		defer receiving.Unlock()
		var known artifact.Known
		for _, laid := range deploy.Archives(filepath.Join(data, "hosts")) {
			if index, err := os.ReadFile(filepath.Join(filepath.Dir(laid), indexName)); err == nil {
				_ = known.Add(index, laid) // else its files come again
			}
		}
		var index []byte
		err := uplink.Fetch(ctx, func(ctx context.Context) (err error) {
			index, err = store.LayOut(ctx, digest, dir, func(ctx context.Context, part string, offset int64) (io.ReadCloser, error) {
				return uplink.Blob(ctx, digest, part, offset)
			}, &known)
			return err
		})
		if err != nil {
			return err
		}
		if index != nil {
			if err := os.WriteFile(filepath.Join(filepath.Dir(dir), indexName), index, 0o600); err != nil {
				return err
			}
		}
		return store.Clear()
	})
	h.Keep = filepath.Join(agentDir(data), "hosts")
	h.Name = cmp.Or(uplink.Name, h.Name)
	h.Log = log
	return h, h.Load()
}

// indexName is the file beside an archive that says which files the artifact has that it is
// made of.
const indexName = "files.json"

// receiveProgram gets a program of a server elsewhere.
func receiveProgram(ctx context.Context, data string, uplink *agent.Uplink, digest string, size int64) (path string, err error) {
	store, err := artifact.Open(filepath.Join(agentDir(data), "programs"))
	if err != nil {
		return "", err
	}
	err = uplink.Fetch(ctx, func(ctx context.Context) error {
		path, err = store.ReceiveBlob(ctx, digest, size,
			func(ctx context.Context, part string, offset int64) (io.ReadCloser, error) {
				return uplink.Blob(ctx, agentline.Program, part, offset)
			})
		return err
	})
	if err != nil {
		return "", err
	}
	return path, os.Chmod(path, 0o500)
}

// joining is one run of `agent join`.
type joining struct{ server, hostKey, signingKey, name string }

// maxToken bounds what is read of standard input.
const maxToken = 4 << 10

func (j joining) join(ctx context.Context, p printer, data string) error {
	if _, _, err := net.SplitHostPort(j.server); err != nil {
		return usageError{fmt.Sprintf("--server %q is not an address; write host:port, such as git.example.org:22", j.server)}
	}
	if j.hostKey == "" || j.signingKey == "" {
		return usageError{"join needs --host-key and --signing-key; `ssh host agent enrol` prints the whole line"}
	}
	keys, err := j.keys()
	if err != nil {
		return err
	}
	if j.name == "" {
		host, err := os.Hostname()
		if err != nil {
			return fmt.Errorf("find the host name: %w\nhint: give a name with --name", err)
		}
		j.name = host
	}
	if _, err := os.Stat(filepath.Join(data, "keys", "host")); err == nil {
		return fmt.Errorf(
			"%s is the data directory of a server, whose machine has an agent of its own\nhint: give another --data", data)
	}
	// Users that runas names pass through it, and read nothing of it.
	if err := repo.MakeDir(data, 0o711); err != nil {
		return fmt.Errorf("make the data directory: %w", err)
	}
	token, err := io.ReadAll(io.LimitReader(os.Stdin, maxToken))
	if err != nil {
		return fmt.Errorf("read the token from standard input: %w", err)
	}
	u, err := agent.Join(ctx, agentDir(data), j.server, j.hostKey, keys, j.name, string(token))
	if err != nil {
		return err
	}
	fmt.Fprintf(p.out, "this machine is %s\n", u)
	fmt.Fprintf(
		p.out, "start it: headgate agent --data %s; or as a unit, with the machine: headgate install --agent --data %s\n", data, data)
	return nil
}

// keys checks the fingerprints that are given, and reads those of signing keys.
func (j joining) keys() (keys agent.Keys, err error) {
	if j.hostKey != "" && !strings.HasPrefix(j.hostKey, "SHA256:") {
		return keys, usageError{"--host-key takes the fingerprint of the server's host key, SHA256:..., which `ssh host agent enrol` prints"}
	}
	if j.signingKey == "" {
		return keys, nil
	}
	if keys, err = agent.ParseKeys(j.signingKey); err != nil {
		return keys, usageError{"--signing-key: " + err.Error() + ", which `ssh host agent enrol` prints"}
	}
	return keys, nil
}

// trust is `agent trust`.
func (j joining) trust(p printer, data string) error {
	if j.hostKey == "" && j.signingKey == "" {
		return usageError{"trust needs --host-key or --signing-key, the fingerprint of the server's other key"}
	}
	keys, err := j.keys()
	if err != nil {
		return err
	}
	u, err := agent.Trust(agentDir(data), j.hostKey, keys)
	if err != nil {
		return err
	}
	fmt.Fprintf(p.out, "%s believes the host key %s and the signing key %s\n", u, u.HostKey, u.Keys.Signing)
	fmt.Fprintln(p.out, "it does so from its next start on: restart its unit, or headgate agent")
	return nil
}

// agentState is what `agent status --json` prints.
type agentState struct {
	Running      bool              `json:"running"`
	Agent        *agent.Hello      `json:"agent,omitempty"`
	Applications []target.Observed `json:"applications"`
}

func agentStatus(ctx context.Context, p printer, client agent.Client, asJSON bool) error {
	state := agentState{Applications: []target.Observed{}}
	h, err := client.Hello(ctx)
	switch {
	case err == nil:
		state.Running, state.Agent = true, &h
		if all, err := client.Observed(ctx); err != nil {
			return err
		} else if all != nil {
			state.Applications = all
		}
	case !errors.Is(err, agent.ErrAway):
		return err
	}
	if asJSON {
		if err := json.NewEncoder(p.out).Encode(state); err != nil {
			return err
		}
	} else {
		printAgent(p, state)
	}
	if !state.Running {
		return exitCode{1}
	}
	return nil
}

func printAgent(p printer, state agentState) {
	if !state.Running {
		fmt.Fprintln(
			p.out, "no agent runs here; what it has started goes on unwatched; start it: headgate agent, or the server")
		return
	}
	h := state.Agent
	fmt.Fprintf(p.out, "agent %s runs as process %d, since %s, with %s\n", h.Program, h.PID, h.Since.Format(time.DateTime),
		show.Plural(h.Running, "instance"))
	if h.Drained {
		fmt.Fprintln(p.out, "it is drained: nothing is started; to go on: headgate agent resume")
	}
	for _, r := range h.Unproven {
		fmt.Fprintf(p.out, "refused for %s/%s in %s, commit %s: %s\n", r.Repository, r.Application, r.Environment,
			show.Short(r.Commit), r.Why)
	}
	for _, o := range state.Applications {
		fmt.Fprintf(p.out, "%s/%s in %s: %s", o.Repository, o.Application, o.Environment, o.State)
		if o.Message != "" {
			fmt.Fprintf(p.out, ": %s", o.Message)
		}
		fmt.Fprintln(p.out)
		for _, u := range o.Units {
			if u.Message != "" {
				fmt.Fprintf(p.out, "  %s: %s\n", u.Name, u.Message)
			}
			for _, in := range u.Instances {
				fmt.Fprintf(p.out, "  %-12s %-10s release %d, process %d, port %d, %s\n", in.ID, in.Phase, in.Release, in.PID,
					in.Port, show.Plural(in.Restarts, "restart"))
			}
		}
	}
}

// stopAgent stops everything that runs, whether an agent looks after it or not.
func stopAgent(ctx context.Context, p printer, data string, client agent.Client) error {
	before, err := client.Hello(ctx)
	switch {
	case errors.Is(err, agent.ErrAway):
		return stopUnwatched(ctx, p, data)
	case err != nil:
		return err
	}
	supervisor, err := sandbox.Find(before.PID)
	if err != nil {
		return fmt.Errorf("look at the agent: %w", err)
	}
	held, err := supervisor.Hold()
	if err != nil {
		return fmt.Errorf("look at the agent: %w", err)
	}
	if err := client.Control(ctx, "stop", ""); err != nil {
		return errors.Join(err, held.Close())
	}
	interrupted := context.AfterFunc(ctx, func() { held.Close() })
	err = held.Wait()
	if !interrupted() {
		return errors.New("it is stopping still, and goes on doing so")
	}
	if err := errors.Join(err, held.Close()); err != nil {
		return err
	}
	fmt.Fprintf(p.out, "stopped the agent, and %s\n", show.Plural(before.Running, "instance"))
	return nil
}

// stopUnwatched stops what an agent that is no more has left.
func stopUnwatched(ctx context.Context, p printer, data string) error {
	if _, err := os.Stat(agentDir(data)); err != nil {
		fmt.Fprintln(p.out, "no agent runs here, and none ever has")
		return nil
	}
	lock, err := agent.Lock(agentDir(data))
	if err != nil {
		return err
	}
	defer lock.Close()
	engine := agentEngine(data, slog.New(slog.DiscardHandler))
	n, err := engine.StopAll(ctx)
	if err != nil {
		return err
	}
	fmt.Fprintf(p.out, "no agent runs here; stopped %s that one had left\n", show.Plural(n, "instance"))
	return nil
}
