package forge

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"

	"github.com/headgate-cd/headgate/gitd/secret"
)

// keyAgent lets one git child log in over ssh with a private key, which is in this
// process alone: ssh asks it for signatures at a socket in a directory of its own. The
// directory also says which keys the host may have, and is gone when it is closed.
type keyAgent struct {
	dir      string
	listener net.Listener
	served   sync.WaitGroup

	mu     sync.Mutex
	closed bool
	lines  map[net.Conn]bool
}

// openKeyAgent makes an agent for a remote at address.
func openKeyAgent(address string, key secret.Value, hostKeys []string) (*keyAgent, error) {
	private, err := ssh.ParseRawPrivateKey(key.Reveal())
	if err != nil { // which never repeats what it has read
		return nil, errors.New("the secret is not a private key without a passphrase, as ssh-keygen writes it")
	}
	ring := agent.NewKeyring()
	if err := ring.Add(agent.AddedKey{PrivateKey: private}); err != nil {
		return nil, fmt.Errorf("use the private key: %w", err)
	}
	u, err := url.Parse(address)
	if err != nil {
		return nil, err
	}
	host := u.Hostname()
	if port := u.Port(); port != "" && port != "22" {
		host = "[" + host + "]:" + port
	}
	var known strings.Builder
	for _, line := range hostKeys {
		fmt.Fprintf(&known, "%s %s\n", host, line)
	}

	a := &keyAgent{lines: map[net.Conn]bool{}}
	if a.dir, err = os.MkdirTemp("", "headgate-ssh-"); err != nil { // 0700
		return nil, err
	}
	if err = os.WriteFile(filepath.Join(a.dir, "hosts"), []byte(known.String()), 0o600); err == nil {
		a.listener, err = net.Listen("unix", filepath.Join(a.dir, "agent"))
	}
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(a.dir))
	}
	a.served.Go(func() { a.serve(ring) })
	return a, nil
}

func (a *keyAgent) serve(ring agent.Agent) {
	for {
		line, err := a.listener.Accept()
		if err != nil {
			return
		}
		a.mu.Lock()
		if a.closed {
			line.Close()
			a.mu.Unlock()
			return
		}
		a.lines[line] = true
		a.mu.Unlock()
		a.served.Go(func() {
			_ = agent.ServeAgent(ring, line) // ends as ssh does
			line.Close()
		})
	}
}

// command is the ssh that git is to use: with nothing of whoever runs this server, and
// to no host but the one that is meant.
func (a *keyAgent) command() string {
	return strings.Join([]string{
		"ssh", "-F", "none", "-a", "-x", "-T",
		"-o", "BatchMode=yes",
		"-o", "StrictHostKeyChecking=yes",
		"-o", "UserKnownHostsFile=" + filepath.Join(a.dir, "hosts"),
		"-o", "GlobalKnownHostsFile=/dev/null",
		"-o", "UpdateHostKeys=no",
		"-o", "IdentityFile=none",
		"-o", "IdentityAgent=" + filepath.Join(a.dir, "agent"),
		"-o", "PreferredAuthentications=publickey",
		"-o", "ConnectTimeout=30",
		"-o", "ServerAliveInterval=20",
		"-o", "ServerAliveCountMax=3",
		"-o", "LogLevel=ERROR",
	}, " ")
}

func (a *keyAgent) close() {
	a.mu.Lock()
	a.closed = true
	a.listener.Close()
	for line := range a.lines {
		line.Close()
	}
	a.mu.Unlock()
	a.served.Wait()
	_ = os.RemoveAll(a.dir) // it holds no secret
}
