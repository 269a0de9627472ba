package forge

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/headgate-cd/headgate/gitd/access"
	"github.com/headgate-cd/headgate/gitd/repo"
	"github.com/headgate-cd/headgate/gitd/secret"
)

// newPublishTest is a hub that publishes hello to a stand-in, whose repository is empty.
func newPublishTest(t *testing.T, more string) *hubTest {
	t.Helper()
	h := newHubTest(t)
	h.git(h.dir, "update-ref", "-d", "refs/heads/main")
	h.git(h.dir, "config", "http.receivepack", "true")
	h.publish(fmt.Sprintf("{forge: gitea, repository: hello, url: %q, token: token%s}", h.url, more))
	return h
}

// publish has the hub publish as a server.yaml says.
func (h *hubTest) publish(entry string) {
	h.t.Helper()
	config, err := access.Parse("server.yaml", []byte(
		"users: {ada: {keys: [ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIIAaU4pYEWGd/yv4FbWBRCersPHrGngbEzqibRLlmbNX]}}\n"+
			"groups: {administrators: [ada]}\nrepositories: {hello: {}}\npublish: {away: "+entry+"}\n"))
	if err != nil {
		h.t.Fatal(err)
	}
	h.hub.Access = func() *access.Config { return config }
}

// here commits on top of a commit, in the repository of this server, and moves a ref there.
func (h *hubTest) here(ref, subject string, parents ...repo.Hash) repo.Hash {
	h.t.Helper()
	c, err := h.mirror.WriteCommit(repo.NewCommit{Parents: parents, Message: subject, At: time.Unix(1_790_000_000, 0)})
	if err != nil {
		h.t.Fatal(err)
	}
	h.move(ref, c)
	return c
}

func (h *hubTest) move(ref string, to repo.Hash) {
	h.t.Helper()
	at, err := h.mirror.Ref(ref)
	if err == nil {
		err = h.mirror.Move(h.t.Context(), ref, at, to)
	}
	if err != nil {
		h.t.Fatal(err)
	}
}

func (h *hubTest) publishing() Publishing { return h.hub.Publishing("away") }

// has waits until the forge has these refs and no others.
func (h *hubTest) has(want map[string]repo.Hash) {
	h.t.Helper()
	h.eventually("the forge has what is here", func() bool {
		at := map[string]repo.Hash{}
		for line := range strings.Lines(h.git(h.dir, "for-each-ref", "--format=%(refname) %(objectname)")) {
			name, id, _ := strings.Cut(strings.TrimSpace(line), " ")
			at[name], _ = repo.ParseHash(id)
		}
		if len(at) != len(want) {
			return false
		}
		for name, hash := range want {
			if at[name] != hash {
				return false
			}
		}
		return true
	})
}

// TestPublishes: branches and tags go there as they move here, by force and deletions too;
// what is the server's own does not, and what somebody has put there stays.
func TestPublishes(t *testing.T) {
	t.Parallel()
	h := newPublishTest(t, "")
	first := h.here("refs/heads/main", "first")
	stop := h.run()
	h.has(map[string]repo.Hash{"refs/heads/main": first})

	second := h.here("refs/heads/main", "second", first)
	h.here("refs/heads/env/production", "declared")
	h.here("refs/notes/verdicts", "green")
	h.move("refs/tags/v1", first)
	h.move("refs/heads/work", first)
	h.has(map[string]repo.Hash{"refs/heads/main": second, "refs/tags/v1": first, "refs/heads/work": first})

	forced := h.here("refs/heads/work", "forced")
	h.move("refs/tags/v1", repo.Zero)
	want := map[string]repo.Hash{"refs/heads/main": second, "refs/heads/work": forced}
	h.has(want)

	// Somebody has moved one of ours there, and made one of their own.
	theirs, _ := repo.ParseHash(strings.TrimSpace(h.git(h.clone, "rev-parse", "HEAD")))
	h.git(h.clone, "push", "-q", "-f", "origin", "HEAD:work", "HEAD:theirs")
	third := h.here("refs/heads/main", "third", second)
	h.here("refs/heads/work", "again", forced)
	want = map[string]repo.Hash{"refs/heads/main": third, "refs/heads/work": theirs, "refs/heads/theirs": theirs}
	h.has(want)
	h.eventually("it says so", func() bool {
		s := h.publishing()
		return len(s.Diverged) == 1 && s.Diverged[0] == "refs/heads/work" && s.Refs == 2 && s.Failing == ""
	})
	// Taken away there, it is put back; a branch of theirs that has only what is here goes on.
	h.git(h.dir, "update-ref", "-d", "refs/heads/work")
	h.git(h.dir, "update-ref", "refs/heads/main", second.String())
	h.hub.Publish("away")
	work, err := h.mirror.Ref("refs/heads/work")
	if err != nil {
		t.Fatal(err)
	}
	h.has(map[string]repo.Hash{"refs/heads/main": third, "refs/heads/work": work, "refs/heads/theirs": theirs})
	h.eventually("nothing diverged", func() bool { return len(h.publishing().Diverged) == 0 })

	// What was put there is known after a restart, and what moved meanwhile goes there; so is
	// what was being put when the server was killed.
	stop()
	h.here("refs/heads/work", "put when it was killed")
	half, err := h.mirror.Ref("refs/heads/work")
	if err != nil {
		t.Fatal(err)
	}
	h.git(h.clone, "fetch", "-q", h.mirror.Dir(), half.String())
	h.git(h.clone, "push", "-q", "-f", "origin", half.String()+":refs/heads/work")
	file := filepath.Join(h.hub.Dir, "away.published.json")
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	data = []byte(strings.Replace(string(data), `"at":"`+work.String()+`"`,
		`"at":"`+work.String()+`","next":"`+half.String()+`"`, 1))
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
	moved := h.here("refs/heads/work", "forced while it was down")
	h.hub = &Hub{Dir: h.hub.Dir, Store: h.hub.Store, Access: h.hub.Access, Secrets: h.hub.Secrets, Log: h.hub.Log}
	defer h.run()()
	h.has(map[string]repo.Hash{"refs/heads/main": third, "refs/heads/work": moved, "refs/heads/theirs": theirs})
	h.move("refs/heads/work", repo.Zero)
	h.has(map[string]repo.Hash{"refs/heads/main": third, "refs/heads/theirs": theirs})
	if strings.Contains(h.log.String(), fetchToken) {
		t.Errorf("the log holds a token:\n%s", h.log)
	}
}

// TestPublishingFails: a forge that is away, or lets one branch not be moved, is told later,
// and what it does take it has.
func TestPublishingFails(t *testing.T) {
	t.Parallel()
	h := newPublishTest(t, ", branches: [main, 'release/*']")
	hook := filepath.Join(h.dir, "hooks", "update")
	if err := os.MkdirAll(filepath.Dir(hook), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(hook, []byte(
		"#!/bin/sh\ntest $1 != refs/heads/main || { echo it is protected >&2; exit 1; }\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	main := h.here("refs/heads/main", "first")
	h.move("refs/heads/release/1", main)
	h.move("refs/heads/work", main)
	h.down.Store(true)
	defer h.run()()
	h.eventually("it is away", func() bool { return strings.Contains(h.publishing().Failing, "503") })
	h.down.Store(false)
	h.eventually("it says what is refused", func() bool {
		s := h.publishing()
		return strings.Contains(s.Failing, "push refs/heads/main to the forge") && !s.RetryAt.IsZero() && s.LastStep.IsZero()
	})
	h.has(map[string]repo.Hash{"refs/heads/release/1": main})
	if err := os.Remove(hook); err != nil {
		t.Fatal(err)
	}
	h.hub.Retry()
	h.has(map[string]repo.Hash{"refs/heads/release/1": main, "refs/heads/main": main})
	h.eventually("it says that all is there",
		func() bool { s := h.publishing(); return s.Failing == "" && !s.LastStep.IsZero() })
}

// sshForge has a stand-in's repositories served over ssh, to who has a key.
func sshForge(t *testing.T, root string, allowed ssh.PublicKey) (address, hostKey string) {
	t.Helper()
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	host, err := ssh.NewSignerFromKey(private)
	if err != nil {
		t.Fatal(err)
	}
	conf := &ssh.ServerConfig{PublicKeyCallback: func(c ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
		if c.User() != "git" || string(key.Marshal()) != string(allowed.Marshal()) {
			return nil, fmt.Errorf("no")
		}
		return nil, nil
	}}
	conf.AddHostKey(host)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	go func() {
		for {
			line, err := listener.Accept()
			if err != nil {
				return
			}
			go serveGit(line, conf, root)
		}
	}()
	return "ssh://git@" + listener.Addr().String() + "/owner/name.git",
		strings.TrimSpace(string(ssh.MarshalAuthorizedKey(host.PublicKey())))
}

// serveGit has one connection run git's own commands.
func serveGit(line net.Conn, conf *ssh.ServerConfig, root string) {
	defer line.Close()
	conn, channels, requests, err := ssh.NewServerConn(line, conf)
	if err != nil {
		return
	}
	defer conn.Close()
	go ssh.DiscardRequests(requests)
	for c := range channels {
		channel, asked, err := c.Accept()
		if err != nil {
			return
		}
		for r := range asked {
			_ = r.Reply(r.Type == "exec" || r.Type == "env", nil)
			if r.Type != "exec" {
				continue
			}
			verb, _, _ := strings.Cut(string(r.Payload[4:]), " ")
			cmd := exec.Command("git", strings.TrimPrefix(verb, "git-"), filepath.Join(root, "owner", "name.git"))
			cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=/nonexistent", "GIT_CONFIG_NOSYSTEM=1"}
			cmd.Stdout, cmd.Stderr = channel, channel.Stderr()
			in, err := cmd.StdinPipe()
			if err != nil || cmd.Start() != nil {
				return
			}
			go func() {
				buffer := make([]byte, 32<<10)
				for {
					n, err := channel.Read(buffer)
					if _, wrong := in.Write(buffer[:n]); wrong != nil || err != nil {
						in.Close()
						return
					}
				}
			}()
			status := byte(0)
			if cmd.Wait() != nil {
				status = 1
			}
			_, _ = channel.SendRequest("exit-status", false, []byte{0, 0, 0, status})
			channel.Close()
		}
	}
}

// TestOverSSH: a deploy key pushes and fetches, to the host whose key is pinned and to no
// other; the key is in no file and in no log.
func TestOverSSH(t *testing.T) {
	t.Parallel()
	h := newPublishTest(t, "")
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKey(private, "deploy")
	if err != nil {
		t.Fatal(err)
	}
	key := string(pem.EncodeToMemory(block))
	for name, value := range map[string]string{"deploy": key, "garbled": "-----BEGIN OPENSSH PRIVATE KEY-----\ncanary\n"} {
		if err := h.hub.Secrets.Set(secret.ID{Name: name}, secret.NewValue([]byte(value)), "ada", time.Now()); err != nil {
			t.Fatal(err)
		}
	}
	allowed, err := ssh.NewPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	address, hostKey := sshForge(t, filepath.Dir(filepath.Dir(h.dir)), allowed)
	entry := func(key, host string) string {
		return fmt.Sprintf("{forge: gitea, repository: hello, url: %q, key: %s, host_keys: [%q]}", address, key, host)
	}
	main := h.here("refs/heads/main", "first")

	const other = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIIAaU4pYEWGd/yv4FbWBRCersPHrGngbEzqibRLlmbNX"
	h.publish(entry("deploy", other))
	stop := h.run()
	h.eventually("another host is not believed",
		func() bool { return strings.Contains(h.publishing().Failing, "the host has another key") })
	h.publish(entry("garbled", hostKey))
	h.hub.Wake()
	h.eventually("what is no key is named",
		func() bool { return strings.Contains(h.publishing().Failing, "not a private key") })
	h.publish(entry("deploy", hostKey))
	h.hub.Wake()
	h.has(map[string]repo.Hash{"refs/heads/main": main})
	stop()

	// And the other way: a connection follows over ssh.
	config, err := access.Parse("server.yaml", []byte(
		"users: {ada: {keys: ["+other+"]}}\ngroups: {administrators: [ada]}\nrepositories: {hello: {}}\n"+
			"connections: {hub: {forge: gitea, repository: owner/name, mirror: hello, secrets: [hook], "+
			entry("deploy", hostKey)[len("{forge: gitea, repository: hello, "):]+"}\n"))
	if err != nil {
		t.Fatal(err)
	}
	h.commit("theirs")
	h.git(h.clone, "push", "-q", "-f", "origin", "HEAD:main")
	h.hub = &Hub{Dir: h.hub.Dir, Store: h.hub.Store, Access: func() *access.Config { return config },
		Secrets: h.hub.Secrets, Log: h.hub.Log}
	defer h.run()()
	h.inStep()
	if logged := h.log.String(); strings.Contains(logged, strings.Split(key, "\n")[2]) ||
		strings.Contains(logged, "canary") {
		t.Errorf("the log holds a key:\n%s", logged)
	}
}
