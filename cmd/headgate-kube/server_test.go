package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/headgate-cd/headgate/cmd/headgate-kube/cluster/planetest"
)

// waitTimeout is how long something that must come is waited for.
const waitTimeout = 3 * time.Minute

// built is where the server, and this agent, are built as they are released, once.
var (
	built     string
	buildOnce = sync.OnceValue(func() error {
		for _, b := range []struct{ module, packages string }{
			{"../..", "./cmd/headgate ./cmd/headgate-hook"},
			{".", "."},
		} {
			args := append([]string{"build", "-ldflags", "-s -w", "-o", built + "/"}, strings.Fields(b.packages)...)
			cmd := exec.Command("go", args...)
			cmd.Dir = b.module
			if out, err := cmd.CombinedOutput(); err != nil {
				return fmt.Errorf("build the programs: %w\n%s", err, out)
			}
		}
		return nil
	})
)

func TestMain(m *testing.M) {
	var err error
	if built, err = os.MkdirTemp("", "headgate-kube-"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := planetest.Main(m)
	os.RemoveAll(built)
	os.Exit(code)
}

// programs is the directory of the programs.
func programs(t testing.TB) string {
	t.Helper()
	if err := buildOnce(); err != nil {
		t.Fatal(err)
	}
	return built
}

// server is a Headgate server with one user, who administers it.
type server struct {
	t         testing.TB
	dir, bin  string
	ssh, http string // host:port
	cmd       *exec.Cmd
	exited    chan error
	line      *ssh.Client
}

func serve(t testing.TB, bin string) *server {
	t.Helper()
	s := &server{t: t, dir: t.TempDir(), bin: bin}
	if out, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "ada", "-f",
		s.path("ada")).CombinedOutput(); err != nil {
		t.Fatalf("ssh-keygen: %v: %s", err, out)
	}
	var addresses [2]string
	for i := range addresses {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		addresses[i] = l.Addr().String()
		l.Close()
	}
	s.ssh, s.http = addresses[0], addresses[1]
	if err := os.Mkdir(s.path("home"), 0o700); err != nil {
		t.Fatal(err)
	}
	s.start()
	t.Cleanup(func() {
		s.stop()
		// The machine's own agent outlives its server.
		cmd := exec.Command(filepath.Join(bin, "headgate"), "agent", "stop", "--data", s.path("data"))
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("stop the machine's agent: %v: %s", err, out)
		}
	})
	return s
}

func (s *server) path(name string) string { return filepath.Join(s.dir, name) }

func (s *server) start() {
	s.t.Helper()
	ready := filepath.Join(s.path("data"), "run", "server.json")
	os.Remove(ready)
	log, err := os.OpenFile(s.path("server.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		s.t.Fatal(err)
	}
	defer log.Close()
	s.cmd = exec.Command(filepath.Join(s.bin, "headgate"), "serve", "--data", s.path("data"), "--ssh", s.ssh,
		"--http", s.http, "--admin", "ada", "--admin-key", s.path("ada.pub"))
	s.cmd.Dir, s.cmd.Stdout, s.cmd.Stderr = s.dir, log, log
	s.cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + s.path("home")}
	if err := s.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	s.exited = make(chan error, 1)
	go func(cmd *exec.Cmd, exited chan error) { exited <- cmd.Wait() }(s.cmd, s.exited)
	s.await("the server is up", func() bool {
		_, err := os.Stat(ready)
		return err == nil
	})
}

func (s *server) stop() {
	s.t.Helper()
	if s.line != nil {
		s.line.Close()
		s.line = nil
	}
	_ = s.cmd.Process.Signal(os.Interrupt) // it may be gone
	select {
	case err := <-s.exited:
		if err != nil {
			s.t.Errorf("the server did not end well: %v", err)
		}
	case <-time.After(waitTimeout):
		s.t.Error("the server does not end")
		_ = s.cmd.Process.Kill()
	}
}

// await waits until something is so.
func (s *server) await(what string, ok func() bool) {
	s.t.Helper()
	for late := time.Now().Add(waitTimeout); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(late) {
			log, _ := os.ReadFile(s.path("server.log"))
			s.t.Fatalf("still not: %s\n%s", what, log[max(0, len(log)-5000):])
		}
	}
}

// try runs a command over SSH.
func (s *server) try(words ...string) (string, error) {
	s.t.Helper()
	if s.line == nil {
		text, err := os.ReadFile(s.path("ada"))
		if err != nil {
			s.t.Fatal(err)
		}
		key, err := ssh.ParsePrivateKey(text)
		if err != nil {
			s.t.Fatal(err)
		}
		s.line, err = ssh.Dial("tcp", s.ssh, &ssh.ClientConfig{
			User:            "ada",
			Auth:            []ssh.AuthMethod{ssh.PublicKeys(key)},
			HostKeyCallback: ssh.InsecureIgnoreHostKey(), // git's own client checks it
			Timeout:         waitTimeout,
		})
		if err != nil {
			s.t.Fatal(err)
		}
	}
	session, err := s.line.NewSession()
	if err != nil {
		s.t.Fatal(err)
	}
	defer session.Close()
	out, err := session.CombinedOutput(strings.Join(words, " "))
	return string(out), err
}

// ask is try of what must not fail.
func (s *server) ask(words ...string) string {
	s.t.Helper()
	out, err := s.try(words...)
	if err != nil {
		s.t.Fatalf("ssh %s: %v: %s", strings.Join(words, " "), err, out)
	}
	return out
}

// shows waits until a command's output has all of some texts in it.
func (s *server) shows(command string, texts ...string) (out string) {
	s.t.Helper()
	for late := time.Now().Add(waitTimeout); ; time.Sleep(50 * time.Millisecond) {
		out, _ = s.try(strings.Fields(command)...)
		missing := ""
		for _, text := range texts {
			if !strings.Contains(out, text) {
				missing = text
			}
		}
		if missing == "" {
			return out
		}
		if time.Now().After(late) {
			s.t.Fatalf("%s does not show %q:\n%s", command, missing, out)
		}
	}
}

// git runs git in a directory of the test's.
func (s *server) git(dir string, args ...string) (string, error) {
	_, port, _ := net.SplitHostPort(s.ssh)
	cmd := exec.Command("git", args...)
	cmd.Dir = s.path(dir)
	cmd.Env = append(os.Environ(),
		"HOME="+s.path("home"), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_NOSYSTEM=1",
		"GIT_AUTHOR_NAME=ada", "GIT_AUTHOR_EMAIL=ada@example.com",
		"GIT_COMMITTER_NAME=ada", "GIT_COMMITTER_EMAIL=ada@example.com",
		fmt.Sprintf("GIT_SSH_COMMAND=ssh -F /dev/null -i %s -o IdentitiesOnly=yes -o IdentityAgent=none -o BatchMode=yes "+
			"-o StrictHostKeyChecking=accept-new -o LogLevel=ERROR -o UserKnownHostsFile=%s -p %s",
			s.path("ada"), s.path("known_hosts"), port))
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// repository makes one, and its work tree.
func (s *server) repository(name string) {
	s.t.Helper()
	s.ask("repo", "create", name)
	if err := os.Mkdir(s.path(name), 0o755); err != nil {
		s.t.Fatal(err)
	}
	if out, err := s.git(name, "init", "-q", "-b", "main"); err != nil {
		s.t.Fatalf("git init: %v: %s", err, out)
	}
}

// push commits files of a repository's work tree, an empty one to remove it, and pushes them.
func (s *server) push(name, subject string, files map[string]string) (string, error) {
	s.t.Helper()
	for file, text := range files {
		path := filepath.Join(s.path(name), file)
		err := os.Remove(path)
		if errors.Is(err, os.ErrNotExist) {
			err = nil
		}
		if err == nil && text != "" {
			err = errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o644))
		}
		if err != nil {
			s.t.Fatal(err)
		}
	}
	for _, args := range [][]string{{"add", "-A"}, {"commit", "-qm", subject}} {
		if out, err := s.git(name, args...); err != nil {
			s.t.Fatalf("git %v: %v: %s", args, err, out)
		}
	}
	return s.git(name, "push", "ssh://"+s.ssh+"/"+name, "HEAD:main")
}

// release is a push that must land.
func (s *server) release(name, subject string, files map[string]string) {
	s.t.Helper()
	if out, err := s.push(name, subject, files); err != nil {
		s.t.Fatalf("git push: %v: %s", err, out)
	}
}
