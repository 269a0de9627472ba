package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/headgate-cd/headgate/cmd/internal/server"
	"github.com/headgate-cd/headgate/gitd/repo"
)

// options are what the command line of `serve` and `demo` says.
type options struct {
	server.Options
	plainHTTP bool   // on any address
	keyFile   list   // files with the first administrator's public keys
	logTo     string // file for the server's log; empty: standard error
}

// list is a flag that may be given several times.
type list []string

func (l *list) String() string     { return strings.Join(*l, ",") }
func (l *list) Set(s string) error { *l = append(*l, s); return nil }

func serveFlags(flags *flag.FlagSet) *options {
	o := &options{Options: server.Options{Version: version()}}
	flags.StringVar(&o.Data, "data", "./data", "`directory` that holds everything the server keeps")
	flags.StringVar(&o.SSH, "ssh", "127.0.0.1:2222", "`address` to listen on for SSH; port 0 takes a free one")
	flags.StringVar(&o.HTTP, "http", "127.0.0.1:8080", "`address` to listen on for HTTP; port 0 takes a free one")
	flags.BoolVar(&o.plainHTTP, "plain-http", false,
		"serve HTTP without TLS on other addresses than loopback, as behind a proxy that speaks TLS")
	flags.StringVar(&o.TLSCert, "tls-cert", "", "`file` with the certificate chain for HTTPS; read again when it changes")
	flags.StringVar(&o.TLSKey, "tls-key", "", "`file` with its private key")
	flags.StringVar(&o.ACME, "acme", "",
		"host `name` to get and renew a certificate for, by ACME; --http must be reached as its port 443")
	flags.StringVar(&o.ACMEDirectory, "acme-directory", "",
		"`address` of the certificate authority, whose terms are agreed to, for --acme and services with tls: acme (default with --acme: "+
			server.LetsEncrypt+")")
	flags.StringVar(&o.Name, "name", "", "host `name` people reach the server by (default: the host of --ssh)")
	flags.StringVar(&o.URL, "url", "",
		"base `URL` of the console, behind a proxy (default: http:// and the address of --http)")
	flags.StringVar(&o.Admin, "admin", ownName(), "user `name` of the first administrator; used at the first start only")
	flags.Var(&o.keyFile, "admin-key",
		"`file` with SSH public keys of the first administrator; may be given again (default: your own)")
	flags.IntVar(&o.Containers, "container-workers", 0,
		"`number` of builds that may run in containers besides (default: as many as --workers)")
	flags.IntVar(&o.Workers, "workers", runtime.NumCPU(), "`number` of builds that may run at the same time")
	flags.BoolVar(&o.DropOwnPolicies, "drop-own-policies", false,
		"land a change that removes policies/ from the repository headgate: the way out when its rules deny every change")
	flags.BoolVar(&o.NoAgent, "no-agent", false,
		"start no agent: something else, such as systemd, runs `headgate agent` for the same --data")
	flags.IntVar(&o.Pack, "pack-after", 1000,
		"`number` of loose objects after which a repository is packed, in the background; 0 is never")
	flags.Var((*list)(&o.DeployHere), "deploy-here",
		"`repository` that may deploy on this machine itself with target: hosts, with scripts that run as the server's user; may be given again")
	flags.StringVar(&o.DeployRoot, "deploy-root", "",
		"directory for archives and logs of what is deployed on this machine, where users that runas names may enter (default: hosts in --data)")
	flags.StringVar(&o.Metrics, "metrics", "",
		"`address` where Prometheus reads what the proxy of services counts, as /metrics (default: nowhere)")
	flags.Func(
		"trusted-proxy", "`address` or CIDR of a proxy before services and the console, whose X-Forwarded-* are believed; may be given again", func(s string) error {
			p, err := netip.ParsePrefix(s)
			if err != nil {
				a, aerr := netip.ParseAddr(s)
				if aerr != nil {
					return errors.New("write an address such as 10.0.0.5, or a network such as 10.0.0.0/8")
				}
				p = netip.PrefixFrom(a, a.BitLen())
			}
			o.Proxies = append(o.Proxies, p)
			return nil
		})
	return o
}

// prepare checks the options and makes the data directory.
func (o *options) prepare() error {
	for _, a := range []struct{ flag, addr string }{{"ssh", o.SSH}, {"http", o.HTTP}} {
		if _, _, err := net.SplitHostPort(a.addr); err != nil {
			return usageError{fmt.Sprintf("--%s %q is not an address; write host:port, such as 127.0.0.1:2222", a.flag, a.addr)}
		}
	}
	if _, _, err := net.SplitHostPort(o.Metrics); o.Metrics != "" && err != nil {
		return usageError{fmt.Sprintf("--metrics %q is not an address; write host:port, such as 127.0.0.1:9464", o.Metrics)}
	}
	host, _, _ := net.SplitHostPort(o.HTTP) // which was well-formed
	switch {
	case (o.TLSCert == "") != (o.TLSKey == ""):
		return usageError{"--tls-cert and --tls-key go together"}
	case o.ACME != "" && o.TLSCert != "":
		return usageError{"--acme and --tls-cert exclude each other"}
	case o.ACME != "" && (!strings.Contains(o.ACME, ".") || net.ParseIP(o.ACME) != nil):
		return usageError{fmt.Sprintf("--acme %q is not a host name that an authority can reach", o.ACME)}
	case o.TLSCert == "" && o.ACME == "" && !o.plainHTTP && !loopback(host):
		return usageError{fmt.Sprintf("--http %s would send tokens and sessions unencrypted over the network; "+
			"give --acme or --tls-cert and --tls-key, or --plain-http when a proxy before it speaks TLS", o.HTTP)}
	}
	if o.ACME != "" && o.Name == "" {
		o.Name = o.ACME
	}
	if o.Workers < 1 {
		return usageError{"--workers must be at least 1"}
	}
	if o.Pack < 0 {
		return usageError{"--pack-after must be at least 0"}
	}
	abs, err := filepath.Abs(o.Data)
	if err != nil {
		return err
	}
	o.Data = abs
	for _, dir := range []string{"", "keys", "run", "work", "logs"} {
		if err := repo.MakeDir(filepath.Join(o.Data, dir), 0o700); err != nil {
			return fmt.Errorf("make the data directory: %w", err)
		}
	}
	return nil
}

// loopback reports whether only this machine reaches a host.
func loopback(host string) bool {
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.Unmap().IsLoopback()
}

// adminKeys are the public keys of the first administrator: those of the flag,
// else the user's own, else one made for the purpose (its path is returned).
func (o *options) adminKeys(ctx context.Context) (keys []string, made string, err error) {
	if len(o.keyFile) > 0 {
		keys, err = readPublicKeys(o.keyFile)
		return keys, "", err
	}
	made = filepath.Join(o.Data, "keys", "you")
	_, absent := os.Stat(made) // else it was made at the first start, and is the one that the server knows
	if keys = ownKeys(ctx); len(keys) > 0 && absent != nil {
		return keys, "", nil
	}
	o.Key = made
	key, err := madeKey(made, o.Admin)
	if err != nil {
		return nil, "", errors.Join(errors.New("you have no SSH key, and none could be made"), err)
	}
	return []string{key}, made, nil
}
