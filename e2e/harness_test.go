package e2e

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/crypto/ssh"

	"github.com/headgate-cd/headgate/e2e/forges"
)

// harness is one server with its users, as one story sees them.
type harness struct {
	dir         string // everything of this story is below it
	bin         string // directory of the programs
	users       []string
	user        string // whose key git and ssh use
	cmd         *exec.Cmd
	log         *os.File
	exited      chan error
	SSH         string // host:port
	HTTP        string // http://host:port
	extraEnv    []string
	line        *ssh.Client   // what ask keeps open
	lineOf      string        // whose it is
	forge       forges.People // started by the command forge
	forgeSecret string        // that it signs its webhooks with
	args        []string      // of the server, at each start
}

type harnessKey struct{}

func harnessOf(ts *testscript.TestScript) *harness { return ts.Value(harnessKey{}).(*harness) }

func newHarness(dir string, programs func() (string, error)) (*harness, error) {
	h := &harness{dir: dir}
	var err error
	if h.bin, err = programs(); err != nil {
		return nil, err
	}
	for _, d := range []string{"keys", "home"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o700); err != nil {
			return nil, err
		}
	}
	return h, h.addKey("ada")
}

// prepared is a harness whose server does not run yet, until the test ends.
func prepared(t *testing.T, programs func() (string, error)) *harness {
	t.Helper()
	h, err := newHarness(t.TempDir(), programs)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.finish(t.Errorf) })
	return h
}

// served is a harness whose server runs, until the test ends.
func served(t *testing.T, programs func() (string, error)) *harness {
	t.Helper()
	h := prepared(t, programs)
	if err := h.start(nil); err != nil {
		t.Fatal(err)
	}
	return h
}

// mustOf ends a test at its first error.
func mustOf(t *testing.T) func(error) {
	return func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
}

// asker has ada run commands that succeed, and returns what they print.
func (h *harness) asker(t *testing.T) func(args ...string) string {
	return func(args ...string) string {
		t.Helper()
		out, err := h.ask("ada", args...)
		if err != nil {
			t.Fatalf("ssh %s: %v: %s", strings.Join(args, " "), err, out)
		}
		return out
	}
}

// stopAgent stops the machine's agent, if there is one, and all that it runs.
func (h *harness) stopAgent() error {
	if _, err := os.Stat(h.data()); err != nil {
		return nil
	}
	out, errs, err := within(waitTimeout, h.dir, h.env(), filepath.Join(h.bin, "headgate"), "agent", "stop",
		"--data", h.data())
	if err != nil {
		return fmt.Errorf("%w: %s%s", err, out, errs)
	}
	return nil
}

// endAgent stops the agent, and wants nothing to be left. A server that was killed may
// have started one that has not locked its directory yet: nobody can stop that before it
// has.
func (h *harness) endAgent(complain func(format string, args ...any)) {
	var left []string
	for deadline := time.Now().Add(waitTimeout); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if err := h.stopAgent(); err != nil {
			complain("the agent did not stop well: %v\n%s", err, h.tail())
			break
		}
		left = h.processes()
		if !slices.ContainsFunc(left, func(p string) bool { return strings.Contains(p, " headgate agent --data ") }) {
			break
		}
	}
	if len(left) > 0 {
		complain("processes left over:\n%s", strings.Join(left, "\n"))
	}
}

// finish stops the server and the agent, and wants nothing of them to be left.
func (h *harness) finish(complain func(format string, args ...any)) {
	if err := h.stop(false); err != nil {
		complain("the server did not stop well: %v\n%s", err, h.tail())
	}
	h.endAgent(complain)
	h.abandon()
}

// abandon ends, without asking, whatever runs for this harness.
func (h *harness) abandon() {
	h.hangUp()
	_ = h.stop(true) // a killed server says nothing
	for deadline := time.Now().Add(waitTimeout); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		left := h.processes()
		for _, process := range left {
			pid, _, _ := strings.Cut(process, " ")
			if n, err := strconv.Atoi(pid); err == nil {
				_ = syscall.Kill(n, syscall.SIGKILL) // it may have ended
			}
		}
		if len(left) == 0 {
			return
		}
	}
}

func (h *harness) data() string { return filepath.Join(h.dir, "data") }

// console is the base URL of the console, which has a name of its own.
func (h *harness) console() string {
	return strings.Replace(h.HTTP, "127.0.0.1", "console.localhost", 1)
}

func (h *harness) key(user string) string { return filepath.Join(h.dir, "keys", user) }

func (h *harness) addKey(user string) error {
	if slices.Contains(h.users, user) {
		return nil
	}
	if _, err := os.Stat(h.key(user)); err != nil {
		_, errs, err := within(waitTimeout, h.dir, os.Environ(), "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", user,
			"-f", h.key(user))
		if err != nil {
			return fmt.Errorf("ssh-keygen: %w: %s", err, errs)
		}
	}
	h.users = append(h.users, user)
	if h.user == "" {
		h.user = user
	}
	return nil
}

// sshArgs reach the server as user.
func (h *harness) sshArgs(user string) []string {
	_, port, _ := strings.Cut(h.SSH, ":")
	return []string{"-F", "/dev/null", "-i", h.key(user), "-o", "IdentitiesOnly=yes", "-o", "IdentityAgent=none", "-o",
		"BatchMode=yes",
		"-o", "StrictHostKeyChecking=accept-new", "-o", "LogLevel=ERROR", "-o", "UserKnownHostsFile=" +
			filepath.Join(h.dir, "known_hosts"), "-p", port}
}

func (h *harness) env() []string {
	env := []string{
		"HOME=" + filepath.Join(h.dir, "home"),
		"PATH=" + h.bin + ":" + os.Getenv("PATH"),
		"LC_ALL=C.UTF-8", "TERM=dumb",
		"GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_NOSYSTEM=1", "GIT_TERMINAL_PROMPT=0", "GIT_ADVICE=0",
		"GIT_AUTHOR_NAME=" + h.user, "GIT_AUTHOR_EMAIL=" + h.user + "@example.com",
		"GIT_COMMITTER_NAME=" + h.user, "GIT_COMMITTER_EMAIL=" + h.user + "@example.com",
		"GIT_SSH_COMMAND=ssh " + strings.Join(h.sshArgs(h.user), " "),
		"SERVER=ssh://" + h.SSH, "HTTP=" + h.HTTP, "DATA=" + h.data(), "HELD=" + h.held(),
	}
	return append(env, h.extraEnv...)
}

// sync puts what has changed in the harness into the story's environment.
func (h *harness) sync(ts *testscript.TestScript) {
	for _, kv := range h.env() {
		k, v, _ := strings.Cut(kv, "=")
		ts.Setenv(k, v)
	}
}

// start starts the server and waits until it says that it is up.
func (h *harness) start(extraEnv []string, args ...string) error {
	if h.cmd != nil {
		return errors.New("the server is running")
	}
	ready := filepath.Join(h.data(), "run", "server.json")
	os.Remove(ready)
	var err error
	if h.log, err = os.OpenFile(filepath.Join(h.dir, "server.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY,
		0o600); err != nil {
		return err
	}
	// The ports are chosen once: a server that comes back is where it was.
	if h.SSH == "" {
		port, err := freePorts(2)
		if err != nil {
			return err
		}
		h.SSH, h.HTTP = fmt.Sprintf("127.0.0.1:%d", port), fmt.Sprintf("http://127.0.0.1:%d", port+1)
	}
	h.cmd = exec.Command(filepath.Join(h.bin, "headgate"),
		append([]string{"serve", "--data", h.data(), "--ssh", h.SSH, "--http", strings.TrimPrefix(h.HTTP, "http://"),
			"--admin", "ada", "--admin-key", h.key("ada") + ".pub"}, slices.Concat(h.args, args)...)...)
	h.cmd.Env = append([]string{
		"PATH=" + os.Getenv("PATH"),
		"HOME=" + filepath.Join(h.dir, "home"),
		"SECRET_OF_THE_SERVER=do-not-leak",
		"GORACE=halt_on_error=1 atexit_sleep_ms=0",
	}, extraEnv...)
	h.cmd.Dir = h.dir
	h.cmd.Stdout, h.cmd.Stderr = h.log, h.log
	if err := h.cmd.Start(); err != nil {
		return err
	}
	exited := make(chan error, 1)
	h.exited = exited
	go func(cmd *exec.Cmd) { exited <- cmd.Wait() }(h.cmd)
	deadline := time.Now().Add(waitTimeout)
	for {
		data, err := os.ReadFile(ready)
		if err == nil && json.Valid(data) {
			return nil
		}
		select {
		case err := <-exited:
			h.cmd = nil
			return fmt.Errorf("the server ended: %v\n%s", err, h.tail())
		case <-time.After(10 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			h.stop(true)
			return fmt.Errorf("the server did not come up\n%s", h.tail())
		}
	}
}

// held is a command that takes until letGo: for builds that must still run when
// the story goes on. No other server's story has the same one.
func (h *harness) held() string {
	_, port, _ := strings.Cut(h.SSH, ":")
	return "sleep 9" + port
}

// letGo ends the held command, once it runs.
func (h *harness) letGo() error {
	cmdline := strings.ReplaceAll(h.held(), " ", "\x00") + "\x00"
	for deadline := time.Now().Add(waitTimeout); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		processes, _ := filepath.Glob("/proc/[0-9]*/cmdline")
		for _, p := range processes {
			if text, err := os.ReadFile(p); err == nil && string(text) == cmdline {
				pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(p))) // the glob leaves nothing but digits
				return syscall.Kill(pid, syscall.SIGKILL)
			}
		}
	}
	return fmt.Errorf("no build came to run %q", h.held())
}

// stop ends the server: with SIGKILL, or politely, and waits for it.
func (h *harness) stop(kill bool) error {
	if h.cmd == nil {
		return nil
	}
	sig := syscall.SIGTERM
	if kill {
		sig = syscall.SIGKILL
	}
	_ = h.cmd.Process.Signal(sig) // it may be gone already
	var err error
	select {
	case err = <-h.exited:
	case <-time.After(waitTimeout):
		_ = h.cmd.Process.Kill()
		<-h.exited
		err = errors.New("the server did not end")
	}
	h.cmd = nil
	h.log.Close()
	if kill {
		return nil
	}
	return err
}

// ended waits for the server to end by itself, as at a crash point.
func (h *harness) ended(d time.Duration) bool {
	select {
	case <-h.exited:
		h.cmd = nil
		h.log.Close()
		return true
	case <-time.After(d):
		return false
	}
}

func (h *harness) tail() string {
	data, _ := os.ReadFile(filepath.Join(h.dir, "server.log"))
	agent, _ := os.ReadFile(filepath.Join(h.data(), "logs", "agent.log"))
	return string(data[max(0, len(data)-4000):]) + "\nagent:\n" + string(agent[max(0, len(agent)-4000):])
}

// serverCmd: server start [flags] | stop | kill; what runs goes on in any case
func serverCmd(ts *testscript.TestScript, neg bool, args []string) {
	h := harnessOf(ts)
	if len(args) == 0 {
		ts.Fatalf("usage: server start|stop|kill")
	}
	var err error
	switch args[0] {
	case "start":
		err = h.start(nil, args[1:]...)
		h.sync(ts)
	case "stop":
		err = h.stop(false)
	case "kill":
		err = h.stop(true)
	default:
		ts.Fatalf("server: unknown word %q", args[0])
	}
	if (err != nil) != neg {
		ts.Fatalf("server %v: %v", args, err)
	}
}

// agentCmd: agent WORDS… runs `headgate agent WORDS… --data $DATA`.
func agentCmd(ts *testscript.TestScript, neg bool, args []string) {
	h := harnessOf(ts)
	err := ts.Exec(filepath.Join(h.bin, "headgate"), append(append([]string{"agent"}, args...), "--data", h.data())...)
	if (err != nil) != neg {
		ts.Fatalf("agent %v: %v", args, err)
	}
}

// userCmd: user NAME [GROUP…] makes a key and adds the user by a push to headgate.git.
func userCmd(ts *testscript.TestScript, neg bool, args []string) {
	h := harnessOf(ts)
	if len(args) == 0 || neg {
		ts.Fatalf("usage: user NAME [GROUP…]")
	}
	ts.Check(h.addUser(args[0], args[1:]...))
}

func (h *harness) addUser(name string, groups ...string) error {
	if err := h.addKey(name); err != nil {
		return err
	}
	key, err := os.ReadFile(h.key(name) + ".pub")
	if err != nil {
		return err
	}
	return h.configure(func(yaml string) string {
		yaml = strings.Replace(yaml, "users:\n", fmt.Sprintf("users:\n  %s:\n    email: [%s@example.com]\n    keys: [%q]\n",
			name, name, strings.TrimSpace(string(key))), 1)
		for _, g := range groups {
			if line := regexp.MustCompile(`(?m)^  ` + g + `: \[(.*)\]`); line.MatchString(yaml) {
				yaml = line.ReplaceAllString(yaml, "  "+g+": [$1, "+name+"]")
			} else {
				yaml = strings.Replace(yaml, "groups:\n", "groups:\n  "+g+": ["+name+"]\n", 1)
			}
		}
		return yaml
	})
}

// configure changes server.yaml by a push, as an administrator does.
func (h *harness) configure(edit func(yaml string) string) error {
	was := h.user
	h.user = "ada"
	defer func() { h.user = was }()
	clone, err := os.MkdirTemp(h.dir, "config-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(clone)
	run := func(args ...string) error {
		if _, errs, err := within(waitTimeout, clone, h.env(), "git", args...); err != nil {
			return fmt.Errorf("git %v: %w\n%s\n%s", args, err, errs, h.tail())
		}
		return nil
	}
	if err := run("clone", "-q", "ssh://"+h.SSH+"/headgate", "."); err != nil {
		return err
	}
	path := filepath.Join(clone, "server.yaml")
	yaml, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if err := os.WriteFile(path, []byte(edit(string(yaml))), 0o600); err != nil {
		return err
	}
	if err := run("commit", "-qam", "Change the server's configuration"); err != nil {
		return err
	}
	return run("push", "-q", "origin", "HEAD:main")
}

// letgoCmd: letgo ends the command $HELD in the build that has come to it.
func letgoCmd(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 0 || neg {
		ts.Fatalf("usage: letgo")
	}
	ts.Check(harnessOf(ts).letGo())
}

// asCmd: as NAME makes git and ssh act as that user from here on.
func asCmd(ts *testscript.TestScript, neg bool, args []string) {
	h := harnessOf(ts)
	if len(args) != 1 || neg {
		ts.Fatalf("usage: as NAME")
	}
	ts.Check(h.addKey(args[0])) // a key the server may never have seen
	h.user = args[0]
	h.sync(ts)
}

// hgCmd: hg WORDS… runs `ssh server WORDS…`; its output is stdout and stderr.
func hgCmd(ts *testscript.TestScript, neg bool, args []string) {
	h := harnessOf(ts)
	err := ts.Exec("ssh", append(append(h.sshArgs(h.user), "127.0.0.1"), args...)...)
	if (err != nil) != neg {
		ts.Fatalf("ssh server %v: %v", args, err)
	}
}

// eventuallyCmd: eventually REGEXP COMMAND… runs a program (or `hg …`, or
// `get URL`) again and again until its standard output matches.
func eventuallyCmd(ts *testscript.TestScript, neg bool, args []string) {
	h := harnessOf(ts)
	if len(args) < 2 {
		ts.Fatalf("usage: eventually REGEXP COMMAND…")
	}
	want, err := regexp.Compile("(?m)" + args[0])
	ts.Check(err)
	var last string
	for deadline := time.Now().Add(waitTimeout); time.Now().Before(deadline); time.Sleep(30 * time.Millisecond) {
		switch args[1] {
		case "hg":
			last, _ = h.ask(h.user, args[2:]...)
		case "get":
			last, _ = get(args[2])
		default:
			out, errs, _ := within(waitTimeout, ts.MkAbs("."), h.env(), args[1], args[2:]...)
			last = out + errs
		}
		if want.MatchString(last) != neg {
			fmt.Fprint(ts.Stdout(), last)
			return
		}
	}
	ts.Fatalf("never matched %q; last:\n%s\nserver:\n%s", args[0], last, h.tail())
}

func get(url string) (string, error) {
	client := http.Client{Timeout: waitTimeout}
	resp, err := client.Get(url)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	return resp.Status + "\n" + string(body), err
}

// sampleCmd: sample NAME makes a local repository NAME with a build that runs
// test.sh, two environments, and a remote `origin` on the server; it pushes nothing.
func sampleCmd(ts *testscript.TestScript, neg bool, args []string) {
	h := harnessOf(ts)
	if len(args) != 1 || neg {
		ts.Fatalf("usage: sample NAME")
	}
	ts.Check(h.sample(filepath.Join(ts.MkAbs("."), args[0]), args[0]))
}

func (h *harness) sample(dir, name string) error {
	for path, content := range sampleFiles {
		file := filepath.Join(dir, path)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(file, []byte(content), 0o644); err != nil {
			return err
		}
	}
	for _, args := range [][]string{
		{"init", "-q", "-b", "main"}, {"add", "-A"}, {"commit", "-q", "-m", "Say hello"},
		{"remote", "add", "origin", "ssh://" + h.SSH + "/" + name},
	} {
		if _, errs, err := within(waitTimeout, dir, h.env(), "git", args...); err != nil {
			return fmt.Errorf("git %v: %w: %s", args, err, errs)
		}
	}
	return nil
}

var sampleFiles = map[string]string{
	"test.sh":                        "echo testing\ngrep -q hello words.txt\n",
	"words.txt":                      "hello world\n",
	"serve.pl":                       serviceProgram,
	"buildspec.yml":                  "version: 0.2\nphases:\n  build:\n    commands:\n      - sh test.sh\nartifacts:\n  files:\n    - serve.pl\n    - words.txt\n",
	"headgate.yaml":                  "environments:\n  staging: {target: services, path: deploy/staging}\n  production: {target: services, path: deploy/production, after: staging, approvals: 1}\n",
	"deploy/staging/compose.yaml":    composeFile,
	"deploy/production/compose.yaml": composeFile,
}

const composeFile = "services:\n  web:\n    command: perl serve.pl\n    ports: [\"127.0.0.1:0:80\"]\n    x-headgate: {health: /}\n    healthcheck: {interval: 200ms, timeout: 1m, start_period: 10m}\n"

// serviceProgram answers every request with words.txt and where it runs.
const serviceProgram = `use strict; use warnings; use IO::Socket::INET;
open my $f, '<', 'words.txt' or die; my $words = <$f>;
my $s = IO::Socket::INET->new(LocalAddr => '127.0.0.1', LocalPort => $ENV{PORT}, Listen => 64, ReuseAddr => 1) or die "listen: $@";
$SIG{TERM} = sub { exit 0 };
while (1) {
    my $c = $s->accept or next;
    while (my $h = <$c>) { last if $h =~ /^\r?\n$/ }
    my $body = $words . "in $ENV{HEADGATE_ENVIRONMENT}, release $ENV{HEADGATE_RELEASE}, pid $$\n";
    print $c "HTTP/1.1 200 OK\r\nContent-Length: " . length($body) . "\r\nConnection: close\r\n\r\n" . $body;
    close $c;
}
`

// jsonCmd: jsonget VAR KEY reads the last stdout's first JSON object (keys
// joined by dots, list places as numbers) into an environment variable.
func jsonCmd(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 2 || neg {
		ts.Fatalf("usage: jsonget VAR KEY")
	}
	var v any
	dec := json.NewDecoder(bytes.NewReader([]byte(ts.ReadFile("stdout"))))
	dec.UseNumber()
	ts.Check(dec.Decode(&v))
	for _, k := range strings.Split(args[1], ".") {
		switch x := v.(type) {
		case map[string]any:
			v = x[k]
		case []any:
			var i int
			_, err := fmt.Sscan(k, &i)
			ts.Check(err)
			if i >= len(x) {
				ts.Fatalf("no place %d in %v", i, x)
			}
			v = x[i]
		default:
			ts.Fatalf("%q: nothing below %v", k, x)
		}
	}
	ts.Setenv(args[0], fmt.Sprint(v))
}

// dumpCmd: dump shows the server's log, for whoever debugs a story.
func dumpCmd(ts *testscript.TestScript, _ bool, _ []string) { ts.Logf("%s", harnessOf(ts).tail()) }
