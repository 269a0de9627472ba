// Headgate-kube is the agent of a Kubernetes cluster: it lives in the cluster, or beside it, connects out to a Headgate
// server over SSH, and has the cluster be what environments of target: kubernetes declare. The server holds no
// credentials of clusters.
//
// The manifest that installs it is what `ssh host agent enrol --kubernetes` prints.
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/headgate-cd/headgate/cmd/headgate-kube/cluster"
	"github.com/headgate-cd/headgate/cmd/internal/proof"
	"github.com/headgate-cd/headgate/gitd/repo"
	"github.com/headgate-cd/headgate/reconciler/agent"
	"github.com/headgate-cd/headgate/reconciler/target"
)

// version is stamped in when the program is built.
var version = "unknown"

// options are what the program is started with.
type options struct {
	server, hostKey, signingKey, name string
	namespace, secret, registry       string
	kubeconfig                        string
}

func main() {
	log := slog.New(slog.NewJSONHandler(os.Stderr, nil))
	var o options
	flag.StringVar(&o.server, "server", "", "`address` of the server's SSH, host:port")
	flag.StringVar(&o.hostKey, "host-key", "", "`fingerprint` of the server's host key, SHA256:...")
	flag.StringVar(&o.signingKey, "signing-key", "", "`fingerprint` of the key that the server signs with, SHA256:...")
	flag.StringVar(&o.name, "name", "", "what the agent is called, when the token does not say")
	flag.StringVar(&o.namespace, "namespace", "headgate", "the agent's own `namespace`")
	flag.StringVar(&o.secret, "secret", "headgate-agent",
		"`name` of the Secret there that keeps the agent's key; its token is one, at first")
	flag.StringVar(&o.registry, "registry", "", "`host` of the server's registry, as nodes of the cluster reach it")
	flag.StringVar(&o.kubeconfig, "kubeconfig", "",
		"`file` that says how the cluster is reached (default: the cluster that this runs in)")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, o, log); err != nil && ctx.Err() == nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

func (o options) check() error {
	for _, need := range []struct{ flag, value string }{{"server", o.server}, {"host-key", o.hostKey},
		{"signing-key", o.signingKey}} {
		if need.value == "" {
			return fmt.Errorf("--%s is missing\nhint: it stands in what ssh host agent enrol --kubernetes prints", need.flag)
		}
	}
	return nil
}

// config says how the cluster is reached.
func (o options) config() (config *rest.Config, err error) {
	if o.kubeconfig == "" {
		config, err = rest.InClusterConfig()
	} else {
		config, err = clientcmd.BuildConfigFromFlags("", o.kubeconfig)
	}
	if err != nil {
		return nil, fmt.Errorf("find the cluster: %w", err)
	}
	config.UserAgent = "headgate-kube/" + version
	config.QPS, config.Burst = 50, 100
	return config, nil
}

func run(ctx context.Context, o options, log *slog.Logger) error {
	if err := o.check(); err != nil {
		return err
	}
	keys, err := agent.ParseKeys(o.signingKey)
	if err != nil {
		return fmt.Errorf("--signing-key: %w", err)
	}
	config, err := o.config()
	if err != nil {
		return err
	}
	engine, err := cluster.Connect(config)
	if err != nil {
		return err
	}
	engine.Namespace, engine.Log = o.namespace, log
	engine.Registry = cmp.Or(o.registry, host(o.server))
	dir, err := os.MkdirTemp("", "headgate-kube-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	kept := &cluster.Kept{Client: engine.Client, Namespace: o.namespace, Name: o.secret, Dir: dir}
	uplink, err := join(ctx, o, keys, kept)
	if err != nil {
		return err
	}
	if err := engine.Load(ctx); err != nil {
		return err
	}
	// It is not run: what it does on a machine is done here. What it believes is the same.
	worker := &agent.Worker{Dir: dir, Uplink: uplink, Hosts: engine, Prove: proof.Verify, Log: log}
	began := time.Now()
	uplink.Log = log
	uplink.Handler = &agent.Handler{
		Engine: engine,
		Hello: func() agent.Hello {
			return agent.Hello{
				Version:  agent.Version,
				Program:  version,
				PID:      os.Getpid(),
				Worker:   os.Getpid(),
				Since:    began,
				Unproven: worker.Refused(),
			}
		},
		Settings: func(agent.Settings) error { return nil }, // they are about addresses of a machine
		Control: func(_ context.Context, what, _ string) error {
			return fmt.Errorf("the agent of a cluster does not %s; scale its Deployment", what)
		},
		Prove: func(d *target.Declared, p agent.Proof) error {
			if err := worker.Verify(d, p); err != nil {
				return err
			}
			return kept.Save(ctx) // another key of the server may count by now
		},
		Log: log,
	}
	log.Info("working", "program", version, "server", o.server)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ended := make(chan error, 1)
	go func() {
		ended <- engine.Run(ctx)
		cancel()
	}()
	uplink.Run(ctx)
	cancel()
	return <-ended
}

func host(address string) string {
	name, _, _ := strings.Cut(address, ":")
	return name
}

// join is who the agent is: what it was before, or what its token makes it. Its key is kept before the token is spent.
func join(ctx context.Context, o options, keys agent.Keys, kept *cluster.Kept) (*agent.Uplink, error) {
	token, err := kept.Load(ctx)
	if err != nil {
		return nil, err
	}
	uplink, err := agent.OpenUplink(kept.Dir)
	if err != nil || uplink != nil {
		return uplink, err
	}
	if token == "" {
		return nil, errors.New(
			"the Secret has no token, and the agent has not enrolled yet\nhint: apply another manifest: ssh host agent enrol --kubernetes")
	}
	if _, err := repo.OpenKey(filepath.Join(kept.Dir, cluster.KeyName)); err != nil {
		return nil, err
	}
	if err := kept.Save(ctx); err != nil {
		return nil, err
	}
	name := cmp.Or(o.name, "kubernetes")
	if uplink, err = agent.Join(ctx, kept.Dir, o.server, o.hostKey, keys, name, token); err != nil {
		return nil, err
	}
	return uplink, kept.Save(ctx)
}
