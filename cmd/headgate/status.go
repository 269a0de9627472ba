package main

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/headgate-cd/headgate/gitd/repo"
	"github.com/headgate-cd/headgate/gitd/show"
	"github.com/headgate-cd/headgate/reconciler/agent"
)

func statusCommand() command {
	return command{
		name:  "status",
		short: "say whether a server runs, and what of it does not work",
		long: `
headgate status --data /var/lib/headgate
headgate status --json

Asks the server that runs in a data directory, at the address that it has written
to run/server.json, what does not work: the disk, the repositories, the socket of
the hooks; names the agent that runs what environments declare; says how many
builds may run at once, and which container engine answers; and looks itself at
repositories that are damaged. "headgate doctor" says more about those.

Exit code 1 when the server does not run, or something does not work.`,
		setup: func(flags *flag.FlagSet) func(context.Context, printer, []string) error {
			data := flags.String("data", "./data", "`directory` that holds everything the server keeps")
			asJSON := flags.Bool("json", false, "print one object")
			return func(ctx context.Context, p printer, args []string) error {
				if len(args) > 0 {
					return usageError{fmt.Sprintf("status takes no arguments, got %q", args[0])}
				}
				dir, err := filepath.Abs(*data)
				if err != nil {
					return err
				}
				s, err := statusOf(ctx, dir)
				if err != nil {
					return err
				}
				return s.print(p, *asJSON)
			}
		},
	}
}

// status is what there is to say of a server, as --json prints it.
type status struct {
	Running  bool     `json:"running"`
	SSH      string   `json:"ssh,omitempty"`
	HTTP     string   `json:"http,omitempty"`
	PID      int      `json:"pid,omitempty"`
	Broken   []string `json:"broken"`    // what does not work
	FreeDisk uint64   `json:"free_disk"` // bytes, where the data directory is

	Workers    int    `json:"workers,omitempty"`           // builds at once, on the machine itself
	Containers int    `json:"container_workers,omitempty"` // and in containers, besides
	Engine     string `json:"engine,omitempty"`            // of those
	NoEngine   string `json:"no_engine,omitempty"`         // why there is none

	Agent *agent.Hello `json:"agent,omitempty"` // that runs what environments declare here; none: none runs
}

// statusTimeout is longer than a server waits for a disk that does not answer.
const statusTimeout = 30 * time.Second

func statusOf(ctx context.Context, data string) (*status, error) {
	s := &status{Broken: []string{}}
	if _, err := os.Stat(data); err != nil {
		return nil, fmt.Errorf("look at the data directory: %w\nhint: give the server's --data", err)
	}
	var at struct {
		SSHLocal  string `json:"ssh_local"`
		HTTPLocal string `json:"http_local"`
	}
	text, err := os.ReadFile(filepath.Join(data, "run", "server.json"))
	if err == nil {
		err = errors.Join(json.Unmarshal(text, s), json.Unmarshal(text, &at))
	}
	switch {
	case err == nil: // a server that was killed leaves it too
		alive := syscall.Kill(s.PID, 0)
		s.Running = alive == nil || errors.Is(alive, syscall.EPERM)
	case !errors.Is(err, fs.ErrNotExist):
		s.Broken = append(s.Broken, fmt.Sprintf("where it answers cannot be read: %v", err))
	}
	var disk syscall.Statfs_t
	if err := syscall.Statfs(data, &disk); err == nil {
		s.FreeDisk = disk.Bavail * uint64(disk.Bsize)
	}
	if s.Running {
		s.Broken = append(s.Broken, ask(ctx, at.SSHLocal, at.HTTPLocal)...)
		if s.Engine, err = engineOfMachine(ctx); err != nil {
			s.NoEngine, s.Containers = err.Error(), 0
		}
	}
	client := agent.Client{Dir: agentDir(data)}
	switch h, err := client.Hello(ctx); {
	case err == nil:
		s.Agent = &h
	case s.Running && errors.Is(err, agent.ErrAway) && client.Stopped():
		s.Broken = append(s.Broken, "the agent was stopped, so nothing runs; start it: headgate agent --data "+data)
	case s.Running && errors.Is(err, agent.ErrAway):
		s.Broken = append(s.Broken, "no agent runs: what environments declare goes on unwatched, if it runs; why: "+
			filepath.Join(data, "logs", "agent.log"))
	case !errors.Is(err, agent.ErrAway):
		s.Broken = append(s.Broken, fmt.Sprintf("the agent does not answer: %v", err))
	}
	names, err := repo.NamesIn(filepath.Join(data, "repositories"))
	if err != nil {
		s.Broken = append(s.Broken, err.Error())
	}
	for _, name := range names {
		r, err := repo.OpenClone(filepath.Join(data, "repositories", name+".git"))
		if err != nil {
			s.Broken = append(s.Broken, fmt.Sprintf("%s cannot be opened: %v", name, err))
		} else if d := r.Inspect(); d != nil {
			s.Broken = append(s.Broken, d.Error())
		}
	}
	return s, nil
}

// ask asks the server itself, at the addresses that it listens on.
func ask(ctx context.Context, ssh, url string) []string {
	c, err := net.DialTimeout("tcp", ssh, statusTimeout)
	if err != nil {
		return []string{"SSH does not answer: " + err.Error()}
	}
	c.Close()
	ctx, cancel := context.WithTimeout(ctx, statusTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url+"/healthz", nil)
	if err != nil {
		return []string{err.Error()}
	}
	// The certificate is for a name that others know; what is asked is no secret.
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	resp, err := client.Do(req)
	if err != nil {
		return []string{"HTTP does not answer: " + err.Error()}
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	if err != nil {
		return []string{"HTTP does not answer: " + err.Error()}
	}
	if resp.StatusCode == http.StatusOK {
		return nil
	}
	return strings.Split(strings.TrimSpace(string(text)), "\n")
}

func (s *status) print(p printer, asJSON bool) error {
	if asJSON {
		if err := json.NewEncoder(p.out).Encode(s); err != nil {
			return err
		}
	} else {
		switch {
		case !s.Running:
			fmt.Fprintln(p.out, "no server runs here; start one: headgate serve --data <directory>")
		case len(s.Broken) == 0:
			fmt.Fprintf(p.out, "well: ssh %s, console %s, %d MiB of disk are free\n", s.SSH, s.HTTP, s.FreeDisk>>20)
		default:
			fmt.Fprintf(p.out, "running, but not well: ssh %s, console %s\n", s.SSH, s.HTTP)
		}
		switch {
		case s.Running && s.NoEngine != "":
			fmt.Fprintf(p.out, "builds: %d at once, and none in containers: %s\n", s.Workers, s.NoEngine)
		case s.Running:
			fmt.Fprintf(p.out, "builds: %d at once, and %d in containers, by %s\n", s.Workers, s.Containers, s.Engine)
		}
		if s.Agent != nil {
			fmt.Fprintf(p.out, "agent: process %d runs %s\n", s.Agent.PID, show.Plural(s.Agent.Running, "instance"))
		}
		for _, what := range s.Broken {
			fmt.Fprintln(p.out, "  "+what)
		}
	}
	if !s.Running || len(s.Broken) > 0 {
		return exitCode{1}
	}
	return nil
}
