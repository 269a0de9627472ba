package bench

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// harness is one Headgate server and, where it is asked for, one sshd, with the
// one client of both.
type harness struct {
	dir         string
	files       map[string]string
	SSH         string `json:"ssh"`
	HTTP        string `json:"http"`
	sshdAddress string
	server      int      // process of Headgate
	stop        func()   // stops it
	godebug     string   // debug switches of the runtime of Headgate
	environment []string // of Headgate, besides what every one has
}

const asClientsCome = "as-clients-come"

func newHarness(b *testing.B) *harness {
	b.Helper()
	w := &harness{dir: b.TempDir()}
	for _, d := range []string{"home", "sshd"} {
		if err := os.MkdirAll(path(w.dir, d), 0o700); err != nil {
			b.Fatal(err)
		}
	}
	w.keygen(b, path(w.dir, "key"))
	// One configuration for every connection of every measure: nothing is
	// multiplexed, and nothing of the user's own configuration counts.
	// The key exchange is one that both servers have: OpenSSH's clients prefer
	// sntrup761 with its own, which costs more than all that is compared here.
	// asClientsCome is a name for the same host with that preference left alone.
	config := fmt.Sprintf("Host 127.0.0.1\nKexAlgorithms curve25519-sha256\nHost "+asClientsCome+
		"\nHostName 127.0.0.1\nHost *\n"+
		"IdentityFile %s\nIdentitiesOnly yes\nIdentityAgent none\nBatchMode yes\nControlMaster no\nControlPath none\n"+
		"StrictHostKeyChecking accept-new\nUserKnownHostsFile %s\nLogLevel ERROR\n", path(w.dir, "key"), path(w.dir,
		"known_hosts"))
	if err := os.WriteFile(path(w.dir, "ssh_config"), []byte(config), 0o600); err != nil {
		b.Fatal(err)
	}
	return w
}

func (w *harness) keygen(b *testing.B, file string) {
	b.Helper()
	w.run(b, w.dir, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "ada", "-f", file)
}

func (w *harness) env() []string {
	return []string{
		"HOME=" + path(w.dir, "home"), "PATH=" + os.Getenv("PATH"), "LC_ALL=C.UTF-8", "TERM=dumb",
		"GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_NOSYSTEM=1", "GIT_TERMINAL_PROMPT=0",
		"GIT_AUTHOR_NAME=ada", "GIT_AUTHOR_EMAIL=ada@example.com", "GIT_COMMITTER_NAME=ada",
		"GIT_COMMITTER_EMAIL=ada@example.com",
		"GIT_SSH_COMMAND=ssh -F " + path(w.dir, "ssh_config"),
	}
}

// run runs a program that must succeed and returns its standard output.
func (w *harness) run(b *testing.B, dir, name string, args ...string) string {
	b.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), waitTimeout)
	defer cancel()
	return w.within(b, ctx, dir, name, args...)
}

// within is run with a limit of its own.
func (w *harness) within(b *testing.B, ctx context.Context, dir, name string, args ...string) string {
	b.Helper()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir, cmd.Env = dir, w.env()
	var out, errs strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &errs
	cmd.WaitDelay = time.Second
	if err := cmd.Run(); err != nil {
		b.Fatalf("%s %v: %v\n%s%s\nserver:\n%s", name, args, err, out.String(), errs.String(), w.tail())
	}
	return out.String()
}

// login is the ssh arguments that run a command at an address.
func (w *harness) login(address string, command ...string) []string {
	host, port, _ := net.SplitHostPort(address)
	return append([]string{"-F", path(w.dir, "ssh_config"), "-p", port, host}, command...)
}

// start starts a daemon that is ended by stop, or with the benchmark.
func start(b *testing.B, cmd *exec.Cmd) (exited <-chan error, stop func()) {
	b.Helper()
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	ended := make(chan error, 1)
	done := make(chan struct{})
	go func() {
		ended <- cmd.Wait()
		close(done)
	}()
	stop = sync.OnceFunc(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM) // it may be gone already
		select {
		case <-done:
		case <-time.After(waitTimeout):
			_ = cmd.Process.Kill()
			<-done
		}
	})
	b.Cleanup(stop)
	return ended, stop
}

// serve starts Headgate with a repository "hello"; files is what clones of it
// begin with.
func (w *harness) serve(b *testing.B, files map[string]string) {
	b.Helper()
	w.files = files
	b.Cleanup(func() { // after the server, which the machine's agent outlives
		stop := exec.Command(path(built(b), "headgate"), "agent", "stop", "--data", path(w.dir, "data"))
		if out, err := stop.CombinedOutput(); err != nil {
			b.Errorf("headgate agent stop: %v\n%s", err, out)
		}
	})
	w.launch(b)
	w.run(b, w.dir, "ssh", w.login(w.SSH, "repo", "create", "hello")...)
}

// launch starts Headgate on its data directory, and says how long it took until it
// answered.
func (w *harness) launch(b *testing.B) (took time.Duration) {
	b.Helper()
	data := path(w.dir, "data")
	log, err := os.OpenFile(path(w.dir, "server.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		b.Fatal(err)
	}
	defer log.Close()                   // the child has its own
	at := func(address string) string { // the same one each time, as clones know it
		if address == "" {
			return "127.0.0.1:0"
		}
		// The console's name is one of this machine, and no address to listen on.
		return strings.Replace(strings.TrimPrefix(address, "http://"), "console.localhost:", "127.0.0.1:", 1)
	}
	cmd := exec.Command(path(built(b), "headgate"), "serve", "--data", data, "--ssh", at(w.SSH), "--http", at(w.HTTP),
		"--admin", "ada", "--admin-key", path(w.dir, "key.pub"))
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + path(w.dir, "home")}, passed()...)
	cmd.Env = append(cmd.Env, w.environment...)
	if w.godebug != "" {
		cmd.Env = append(cmd.Env, "GODEBUG="+w.godebug)
	}
	cmd.Dir, cmd.Stdout, cmd.Stderr = w.dir, log, log
	ready := path(data, "run", "server.json")
	if err := os.RemoveAll(ready); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { // it does not end with the server, which is stopped before
		if out, err := exec.Command(path(built(b), "headgate"), "agent", "stop", "--data",
			data).CombinedOutput(); err != nil {
			b.Errorf("stop the agent: %v\n%s", err, out)
		}
	})
	began := time.Now()
	exited, stop := start(b, cmd)
	w.server, w.stop = cmd.Process.Pid, stop
	w.until(b, exited, "Headgate", func() bool {
		text, err := os.ReadFile(ready)
		return err == nil && json.Unmarshal(text, w) == nil && w.SSH != ""
	})
	return time.Since(began)
}

// passed is what of our own environment a server may see: the runtime's debug
// switches, for whoever looks where the time goes.
func passed() (env []string) {
	for _, name := range []string{"GODEBUG", "GOMAXPROCS"} {
		if v, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+v)
		}
	}
	return env
}

// until waits for a daemon to come up.
func (w *harness) until(b *testing.B, exited <-chan error, name string, ready func() bool) {
	b.Helper()
	deadline := time.Now().Add(waitTimeout)
	for !ready() {
		select {
		case err := <-exited:
			b.Fatalf("%s ended: %v\n%s", name, err, w.tail())
		case <-time.After(10 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			b.Fatalf("%s did not come up\n%s", name, w.tail())
		}
	}
}

func (w *harness) tail() string {
	var all string
	for _, name := range []string{"server.log", "sshd/log"} {
		data, _ := os.ReadFile(path(w.dir, name))
		all += string(data[max(0, len(data)-4000):])
	}
	return all
}

// sshd starts OpenSSH's daemon for the user that runs this, on a free port.
func (w *harness) sshd(b *testing.B) {
	b.Helper()
	program, err := exec.LookPath("sshd")
	if err != nil {
		if program, err = exec.LookPath("/usr/sbin/sshd"); err != nil {
			b.Fatal(
				"sshd, the baseline, is not installed; install it: apt-get install -y --no-install-recommends openssh-server")
		}
	}
	if os.Geteuid() == 0 { // where it wants to separate its privileges, as its service does
		if err := os.MkdirAll("/run/sshd", 0o755); err != nil {
			b.Fatal(err)
		}
	}
	dir := path(w.dir, "sshd")
	w.keygen(b, path(dir, "host"))
	// sshd cannot be asked for any free port, so the kernel is.
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	w.sshdAddress = free.Addr().String()
	free.Close()
	_, port, _ := net.SplitHostPort(w.sshdAddress)
	// A home without files: bash reads ~/.bashrc under sshd, and what the user
	// keeps there may take longer than the push.
	config := fmt.Sprintf(
		"Port %s\nListenAddress 127.0.0.1\nHostKey %s\nPidFile none\nAuthorizedKeysFile %s\nUsePAM no\nStrictModes no\n"+
			"PasswordAuthentication no\nKbdInteractiveAuthentication no\nPermitRootLogin prohibit-password\nPrintMotd no\nPrintLastLog no\n"+
			"UseDNS no\nLogLevel ERROR\nSetEnv HOME=%s GIT_CONFIG_GLOBAL=/dev/null GIT_CONFIG_NOSYSTEM=1\n", port, path(dir,
			"host"), path(w.dir, "key.pub"), path(w.dir, "home"))
	if err := os.WriteFile(path(dir, "config"), []byte(config), 0o600); err != nil {
		b.Fatal(err)
	}
	cmd := exec.Command(program, "-D", "-f", path(dir, "config"), "-E", path(dir, "log"))
	exited, _ := start(b, cmd)
	w.until(b, exited, "sshd", func() bool {
		conn, err := net.Dial("tcp", w.sshdAddress)
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
}

// clone is a working copy with its remote.
type clone struct {
	w    *harness
	dir  string
	body string // of its commits' messages, after the subject
}

func (w *harness) clone(b *testing.B, name, url string) *clone {
	b.Helper()
	c := &clone{w: w, dir: path(w.dir, "clones", name)}
	for file, content := range w.files {
		file = path(c.dir, file)
		if err := os.MkdirAll(path(file, ".."), 0o755); err != nil {
			b.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(content), 0o644); err != nil {
			b.Fatal(err)
		}
	}
	c.git(b, "init", "-q", "-b", "main")
	c.git(b, "config", "gc.auto", "0") // housekeeping of the client is not measured
	c.git(b, "add", "-A")
	c.git(b, "commit", "-q", "-m", "Say hello")
	c.git(b, "remote", "add", "origin", url)
	return c
}

// headgate is a working copy of the repository on Headgate.
func (w *harness) headgate(b *testing.B, name string) *clone {
	b.Helper()
	return w.clone(b, name, "ssh://"+w.SSH+"/hello")
}

// bare is a working copy of a bare repository of its own behind sshd, which the
// client knows as host.
func (w *harness) bare(b *testing.B, name, host string, config ...string) *clone {
	b.Helper()
	me, err := user.Current()
	if err != nil {
		b.Fatal(err)
	}
	dir := path(w.dir, "bare", name+".git")
	w.run(b, w.dir, "git", "init", "-q", "--bare", "-b", "main", dir)
	for _, kv := range append(config, "gc.auto=0", "receive.autogc=false") {
		key, value, _ := strings.Cut(kv, "=")
		w.run(b, dir, "git", "config", key, value)
	}
	_, port, _ := net.SplitHostPort(w.sshdAddress)
	return w.clone(b, name, "ssh://"+me.Username+"@"+net.JoinHostPort(host, port)+dir)
}

func (c *clone) git(b *testing.B, args ...string) {
	b.Helper()
	c.w.run(b, c.dir, "git", args...)
}

// commit makes the i-th small commit; its tree is like no other.
func (c *clone) commit(b *testing.B, i int) {
	b.Helper()
	if err := os.WriteFile(path(c.dir, "words.txt"), fmt.Appendf(nil, "hello world, time %d\n", i), 0o644); err != nil {
		b.Fatal(err)
	}
	c.git(b, "commit", "-q", "-am", "Say it another way"+c.body)
}

// push is one `git push`, as its user saw it.
type push struct {
	began    time.Time
	took     time.Duration
	packSent time.Time // when the client had handed over the last byte of the pack
	lines    []line
}

type line struct {
	at   time.Time
	text string
}

func (p *push) said() string {
	var all strings.Builder
	for _, l := range p.lines {
		all.WriteString(l.text + "\n")
	}
	return all.String()
}

// at is when the first line with a text came.
func (p *push) at(b *testing.B, text string) time.Time {
	b.Helper()
	for _, l := range p.lines {
		if strings.Contains(l.text, text) {
			return l.at
		}
	}
	b.Fatalf("no line with %q in:\n%s", text, p.said())
	return time.Time{}
}

// stamp is the time, in nanoseconds since 1970, that follows a text.
func (p *push) stamp(b *testing.B, before string) time.Time {
	b.Helper()
	m := regexp.MustCompile(regexp.QuoteMeta(before) + `(\d{19})`).FindStringSubmatch(p.said())
	if m == nil {
		b.Fatalf("no time after %q in:\n%s", before, p.said())
	}
	n, _ := strconv.ParseInt(m[1], 10, 64) // 19 digits that begin with 1 fit
	return time.Unix(0, n)
}

// push pushes, and must succeed.
func (c *clone) push(b *testing.B, refspec string) *push {
	b.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), waitTimeout)
	defer cancel()
	trace := path(c.w.dir, "trace")
	if err := os.RemoveAll(trace); err != nil {
		b.Fatal(err)
	}
	cmd := exec.CommandContext(ctx, "git", "push", "origin", refspec)
	cmd.Dir, cmd.Env = c.dir, append(c.w.env(), "GIT_TRACE2_EVENT="+trace)
	cmd.WaitDelay = time.Second
	stderr, err := cmd.StderrPipe()
	if err != nil {
		b.Fatal(err)
	}
	p := &push{began: time.Now()}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	for lines := bufio.NewScanner(stderr); lines.Scan(); {
		p.lines = append(p.lines, line{time.Now(), lines.Text()})
	}
	err = cmd.Wait()
	p.took = time.Since(p.began)
	if err != nil {
		b.Fatalf("git push: %v\n%s\nserver:\n%s", err, p.said(), c.w.tail())
	}
	p.packSent = packSent(b, trace)
	return p
}

// packSent reads from git's own trace when its pack-objects ended.
func packSent(b *testing.B, trace string) time.Time {
	b.Helper()
	data, err := os.ReadFile(trace)
	if err != nil {
		b.Fatal(err)
	}
	child := -1
	for text := range strings.Lines(string(data)) {
		var e struct {
			Event string
			Child int `json:"child_id"`
			Argv  []string
			Time  time.Time
		}
		if json.Unmarshal([]byte(text), &e) != nil {
			continue
		}
		switch {
		case e.Event == "child_start" && strings.Contains(strings.Join(e.Argv, " "), "pack-objects"):
			child = e.Child
		case e.Event == "child_exit" && e.Child == child:
			return e.Time
		}
	}
	b.Fatalf("no pack-objects in git's trace:\n%s", data)
	return time.Time{}
}

// logged is when the server last logged a message.
func (w *harness) logged(b *testing.B, message string) time.Time {
	b.Helper()
	data, err := os.ReadFile(path(w.dir, "server.log"))
	if err != nil {
		b.Fatal(err)
	}
	var last time.Time
	for text := range strings.Lines(string(data)) {
		var record struct {
			Time time.Time
			Msg  string
		}
		if json.Unmarshal([]byte(text), &record) == nil && record.Msg == message {
			last = record.Time
		}
	}
	if last.IsZero() {
		b.Fatalf("the server never logged %q:\n%s", message, w.tail())
	}
	return last
}

// stagingURL waits until staging has an address that answers.
func (w *harness) stagingURL(b *testing.B) string {
	b.Helper()
	for deadline := time.Now().Add(waitTimeout); ; {
		// Its exit code says whether it is healthy; here only the address counts.
		cmd := exec.Command("ssh", w.login(w.SSH, "env", "show", "hello", "staging", "--json")...)
		cmd.Env = w.env()
		out, _ := cmd.Output()
		var e struct {
			URLs []string `json:"urls"`
		}
		if json.Unmarshal(out, &e) == nil && len(e.URLs) > 0 {
			waitFor(b, e.URLs[0], "release ")
			return e.URLs[0]
		}
		if time.Now().After(deadline) {
			b.Fatalf("staging has no address:\n%s\n%s", out, w.tail())
		}
	}
}

// waitFor asks an address until its answer holds a text, and says when it did.
func waitFor(b *testing.B, url, text string) time.Time {
	b.Helper()
	client := http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	var last string
	for deadline := time.Now().Add(waitTimeout); time.Now().Before(deadline); {
		resp, err := client.Get(url)
		if err == nil {
			body, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<16)) // what is cut off does not match
			resp.Body.Close()
			if last = string(body); resp.StatusCode == http.StatusOK && strings.Contains(last, text) {
				return time.Now()
			}
		}
		time.Sleep(time.Millisecond) // asking without a pause would slow what is measured
	}
	b.Fatalf("%s never answered with %q; last:\n%s", url, text, last)
	return time.Time{}
}

func path(parts ...string) string { return filepath.Join(parts...) }
