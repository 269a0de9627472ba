package gitd

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
	gossh "golang.org/x/crypto/ssh"

	"github.com/headgate-cd/headgate/gitd/access"
	"github.com/headgate-cd/headgate/gitd/repo"
	"github.com/headgate-cd/headgate/gitd/transport"
)

func TestMain(m *testing.M) {
	if os.Getenv("GITD_TEST_HOOK") != "" {
		os.Exit(fakeProcReceive())
	}
	goleak.VerifyTestMain(m)
}

// within is how long a test waits for what must happen.
const within = 5 * time.Minute

// harness is a server with users, as tests meet it.
type harness struct {
	t      *testing.T
	server *Server
	addr   string
	keys   map[string]gossh.Signer
	config atomic.Pointer[access.Config]
	text   []byte // server.yaml
	log    *syncBuffer
	dir    string
	stop   func() error
}

type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

func newSigner(t testing.TB) (gossh.Signer, []byte) {
	t.Helper()
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := gossh.NewSignerFromKey(private)
	if err != nil {
		t.Fatal(err)
	}
	block, err := gossh.MarshalPrivateKey(private, "")
	if err != nil {
		t.Fatal(err)
	}
	return signer, pem.EncodeToMemory(block)
}

func public(s gossh.Signer) string {
	return strings.TrimSpace(string(gossh.MarshalAuthorizedKey(s.PublicKey())))
}

// start runs a server with users ada (administrator, release), jun and sam, and
// repositories hello (everyone's) and vault (ada's).
func start(t *testing.T, change func(*Server)) *harness {
	t.Helper()
	h := &harness{t: t, keys: map[string]gossh.Signer{}, log: &syncBuffer{}, dir: t.TempDir()}
	var users strings.Builder
	for _, name := range []string{"ada", "jun", "sam", "eve"} {
		signer, private := newSigner(t)
		h.keys[name] = signer
		h.write(name, private, 0o600)
		h.write(name+".pub", []byte(public(signer)+"\n"), 0o644)
		if name != "eve" { // whom the server does not know
			fmt.Fprintf(&users, "  %s: {keys: [%q]}\n", name, public(signer))
		}
	}
	h.text = []byte("users:\n" + users.String() + "groups:\n  administrators: [ada]\n  release: [ada]\n" +
		"repositories:\n  hello:\n  vault: {read: [ada], write: [ada]}\n  missing:\n")
	h.configure(h.text)

	signer, err := repo.OpenSigner(filepath.Join(h.dir, "signing"),
		repo.Person{Name: "Headgate", Email: "headgate@tarn.example"})
	if err != nil {
		t.Fatal(err)
	}
	hooks := filepath.Join(h.dir, "hooks")
	if err := os.Mkdir(hooks, 0o755); err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	h.write("hooks/proc-receive", []byte("#!/bin/sh\nGITD_TEST_HOOK=1 exec '"+self+"'\n"), 0o755)
	store, _, err := repo.OpenStore(filepath.Join(h.dir, "repositories"), hooks, signer)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(store.Close)
	for _, name := range []string{"hello", "vault"} {
		if _, err := store.Create(context.Background(), name); err != nil {
			t.Fatal(err)
		}
	}
	hostKey, _ := newSigner(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	h.addr = l.Addr().String()
	h.server = &Server{
		Backend: &backend{},
		Access:  h.config.Load,
		Transport: &transport.Transport{
			Store:  store,
			Access: h.config.Load,
			Begin: func(context.Context, access.Identity, string, string, bool, func()) ([]string, func()) {
				return nil, func() {}
			},
			Log: slog.New(slog.NewTextHandler(h.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
		},
		HostKey: hostKey,
		Logins:  &Logins{},
		Log:     slog.New(slog.NewTextHandler(h.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
		Limits:  Limits{Drain: 5 * time.Second, Login: within},
		now:     func() time.Time { return testNow },
	}
	if change != nil {
		change(h.server)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- h.server.Serve(ctx, l) }()
	h.stop = sync.OnceValue(func() error {
		cancel()
		select {
		case err := <-ended:
			return err
		case <-time.After(2 * within):
			return errors.New("Serve did not return")
		}
	})
	t.Cleanup(func() {
		if err := h.stop(); err != nil {
			t.Errorf("Serve: %v", err)
		}
		if t.Failed() {
			t.Logf("server's log:\n%s", h.log)
		}
	})
	return h
}

func (h *harness) configure(data []byte) {
	h.t.Helper()
	c, err := access.Parse("server.yaml", data)
	if err != nil {
		h.t.Fatal(err)
	}
	h.config.Store(c)
}

func (h *harness) write(name string, data []byte, mode os.FileMode) string {
	h.t.Helper()
	path := filepath.Join(h.dir, name)
	if err := os.WriteFile(path, data, mode); err != nil {
		h.t.Fatal(err)
	}
	return path
}

// dial logs in with keys as an x/crypto client.
func (h *harness) dial(signers ...gossh.Signer) (*gossh.Client, error) {
	return gossh.Dial("tcp", h.addr, &gossh.ClientConfig{
		User:            "git",
		Auth:            []gossh.AuthMethod{gossh.PublicKeys(signers...)},
		HostKeyCallback: gossh.FixedHostKey(h.server.HostKey.PublicKey()),
		Timeout:         within,
	})
}

func (h *harness) login(user string) *gossh.Client {
	h.t.Helper()
	client, err := h.dial(h.keys[user])
	if err != nil {
		h.t.Fatalf("log in as %s: %v", user, err)
	}
	h.t.Cleanup(func() { client.Close() })
	return client
}

type result struct {
	stdout, stderr string
	status         int
}

// run runs one command line.
func (h *harness) run(client *gossh.Client, line string, prepare ...func(*gossh.Session)) result {
	h.t.Helper()
	s, err := client.NewSession()
	if err != nil {
		h.t.Fatalf("open a session: %v", err)
	}
	defer s.Close()
	var stdout, stderr bytes.Buffer
	s.Stdout, s.Stderr = &stdout, &stderr
	for _, p := range prepare {
		p(s)
	}
	err = s.Run(line)
	r := result{stdout.String(), stderr.String(), 0}
	var exit *gossh.ExitError
	switch {
	case errors.As(err, &exit):
		r.status = exit.ExitStatus()
	case err != nil:
		r.status = -1
		r.stderr += "client: " + err.Error()
	}
	return r
}

// ssh is the command of a stock OpenSSH client for a user.
func (h *harness) ssh(user string, more ...string) []string {
	h.t.Helper()
	host, port, _ := net.SplitHostPort(h.addr)
	known := h.write("known_hosts", []byte(fmt.Sprintf("[%s]:%s %s\n", host, port, public(h.server.HostKey))), 0o644)
	return append([]string{"ssh", "-F", "/dev/null", "-p", port, "-i", filepath.Join(h.dir, user),
		"-o", "IdentitiesOnly=yes", "-o", "IdentityAgent=none", "-o", "BatchMode=yes",
		"-o", "UserKnownHostsFile=" + known, "-o", "GlobalKnownHostsFile=/dev/null"}, more...)
}

// gitAs prepares a git client of a user.
func (h *harness) gitAs(user, dir string, args ...string) *exec.Cmd {
	cmd := exec.Command("git", args...)
	cmd.Dir = dir
	cmd.Env = []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + h.dir, "LC_ALL=C.UTF-8", "GIT_CONFIG_NOSYSTEM=1", "GIT_TERMINAL_PROMPT=0",
		"GIT_SSH_COMMAND=" + strings.Join(h.ssh(user), " "),
		"GIT_AUTHOR_NAME=Ada", "GIT_AUTHOR_EMAIL=ada@tarn.example", "GIT_COMMITTER_NAME=Ada",
		"GIT_COMMITTER_EMAIL=ada@tarn.example",
	}
	return cmd
}

func (h *harness) git(user, dir string, args ...string) string {
	h.t.Helper()
	out, err := h.gitAs(user, dir, args...).CombinedOutput()
	if err != nil {
		h.t.Fatalf("git %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

func (h *harness) url(repository string) string { return "ssh://git@" + h.addr + "/" + repository }

// until waits for a condition.
func until(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.After(within)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-deadline:
			t.Fatalf("still not: %s", what)
		case <-tick.C:
		}
	}
}

// fakeProcReceive is a hook that accepts everything: it answers for receive-pack
// and moves the refs itself. Options of the push steer it by the environment.
func fakeProcReceive() int {
	if path := os.Getenv("GITD_TEST_WAIT"); path != "" {
		// A writer opens the fifo when the test wants the push to go on.
		f, err := os.Open(path)
		if err != nil {
			return 1
		}
		io.Copy(io.Discard, f)
		f.Close()
		// More than every pipe on the way holds.
		line := strings.Repeat("x", 99) + "\n"
		for range 10_000 {
			if _, err := io.WriteString(os.Stderr, line); err != nil {
				return 3
			}
		}
	}
	next := func() (string, bool) {
		var head [4]byte
		if _, err := io.ReadFull(os.Stdin, head[:]); err != nil {
			os.Exit(1)
		}
		var n int
		fmt.Sscanf(string(head[:]), "%04x", &n)
		if n < 4 {
			return "", false
		}
		body := make([]byte, n-4)
		if _, err := io.ReadFull(os.Stdin, body); err != nil {
			os.Exit(1)
		}
		return strings.TrimSuffix(string(body), "\n"), true
	}
	say := func(s string) { fmt.Printf("%04x%s", len(s)+4, s) }
	for _, more := next(); more; _, more = next() {
	}
	say("version=1")
	fmt.Print("0000")
	var answers []string
	for line, more := next(); more; line, more = next() {
		f := strings.Fields(line)
		cmd := exec.Command("git", "update-ref", f[2], f[1], f[0])
		if out, err := cmd.CombinedOutput(); err != nil {
			answers = append(answers, "ng "+f[2]+" "+strings.ReplaceAll(string(out), "\n", " "))
			continue
		}
		answers = append(answers, "ok "+f[2])
	}
	fmt.Fprintf(os.Stderr, "token %s\n", os.Getenv("GITD_TEST_TOKEN"))
	for _, a := range answers {
		say(a)
	}
	fmt.Print("0000")
	return 0
}
