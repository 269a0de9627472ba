// Command agents is many agents of other machines in one process, for benchmarks: they are
// connected, deploy nothing, and say on standard output when they are told to.
//
//	agents <server's SSH> <host key> <seeds of keys, base64, one a line, on standard input>
package main

import (
	"bufio"
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/headgate-cd/headgate/reconciler/agent"
	"github.com/headgate-cd/headgate/reconciler/target"
)

// idle is the engine of an agent that deploys nothing.
type idle struct {
	agent.Engine
	reports target.Topic
}

func (*idle) Converge(target.Declared)                       { fmt.Println(time.Now().Format(time.RFC3339Nano)) }
func (*idle) Keys() []target.Key                             { return nil }
func (*idle) Fence(target.Key) int                           { return -1 }
func (i *idle) Watch(k target.Key) (<-chan struct{}, func()) { return i.reports.Watch(k) }

func main() {
	if err := run(os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, "agents:", err)
		os.Exit(1)
	}
}

func run(server, hostKey string) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	var all sync.WaitGroup
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		seed, err := base64.StdEncoding.DecodeString(lines.Text())
		if err != nil || len(seed) != ed25519.SeedSize {
			return fmt.Errorf("%q is no seed", lines.Text())
		}
		key, err := ssh.NewSignerFromKey(ed25519.NewKeyFromSeed(seed))
		if err != nil {
			return err
		}
		u := &agent.Uplink{Server: server, HostKey: hostKey, Key: key, Log: slog.New(slog.DiscardHandler)}
		u.Handler = &agent.Handler{
			Engine: &idle{},
			Hello:  func() agent.Hello { return agent.Hello{Version: agent.Version} },
			Prove:  func(*target.Declared, agent.Proof) error { return nil },
			Log:    u.Log,
		}
		all.Go(func() { u.Run(ctx) })
	}
	all.Wait()
	return lines.Err()
}
