package e2e

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
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
)

// otherMachine is a machine that is to have an agent, as far as a directory of its own
// makes one.
type otherMachine struct {
	t    *testing.T
	h    *harness
	dir  string
	wrap []string // command that has others run there; nil: none
	cmd  *exec.Cmd
	log  *os.File
	done chan error
}

func newMachine(t *testing.T, h *harness, name string) *otherMachine {
	t.Helper()
	m := &otherMachine{t: t, h: h, dir: filepath.Join(h.dir, name)}
	if err := os.Mkdir(m.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		m.stop()
		if t.Failed() && m.done != nil {
			told := m.told()
			t.Logf("the agent of %s:\n%s", name, told[max(0, len(told)-3000):])
		}
	})
	return m
}

func (m *otherMachine) data() string { return filepath.Join(m.dir, "data") }

// there is the command that runs another one on the machine.
func (m *otherMachine) there(words ...string) (name string, args []string) {
	words = slices.Concat(m.wrap, words)
	return words[0], words[1:]
}

func (m *otherMachine) env(env ...string) []string {
	return append(m.h.env(), append([]string{"HOME=" + m.dir}, env...)...)
}

// paste runs the line that `agent enrol` has printed.
func (m *otherMachine) paste(line string, env ...string) (string, error) {
	name, args := m.there("sh", "-c", line+" --data "+m.data())
	out, errs, err := within(waitTimeout, m.dir, m.env(env...), name, args...)
	return out + errs, err
}

// start starts the agent, as the unit would.
func (m *otherMachine) start(env ...string) {
	m.t.Helper()
	var err error
	if m.log, err = os.OpenFile(filepath.Join(m.dir, "agent.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY,
		0o600); err != nil {
		m.t.Fatal(err)
	}
	name, args := m.there(filepath.Join(m.dir, "headgate"), "agent", "--data", m.data())
	m.cmd = exec.Command(name, args...)
	m.cmd.Dir, m.cmd.Env = m.dir, m.env(env...)
	m.cmd.Stdout, m.cmd.Stderr = m.log, m.log
	if err := m.cmd.Start(); err != nil {
		m.t.Fatal(err)
	}
	m.done = make(chan error, 1)
	go func(cmd *exec.Cmd, done chan error) { done <- cmd.Wait() }(m.cmd, m.done)
}

// signal ends the agent's own process, and its worker by that.
func (m *otherMachine) signal(sig syscall.Signal) {
	m.t.Helper()
	if m.cmd == nil {
		return
	}
	_ = m.cmd.Process.Signal(sig) // it may be gone already
	select {
	case <-m.done:
	case <-time.After(waitTimeout):
		m.t.Errorf("the agent of %s does not end", m.dir)
	}
	m.cmd = nil
	m.log.Close()
}

// kill ends the agent's processes, as the loss of its machine's power does.
func (m *otherMachine) kill() {
	m.t.Helper()
	m.signal(syscall.SIGKILL)
	for _, process := range m.h.processes() {
		pid, line, _ := strings.Cut(process, " ")
		if strings.Contains(line, "agent worker --data "+m.data()) {
			n, err := strconv.Atoi(pid)
			if err != nil {
				m.t.Fatal(err)
			}
			_ = syscall.Kill(n, syscall.SIGKILL) // it may have ended
		}
	}
}

func (m *otherMachine) stop() { m.signal(syscall.SIGTERM) }

func (m *otherMachine) told() string {
	data, err := os.ReadFile(filepath.Join(m.dir, "agent.log"))
	if err != nil {
		m.t.Error(err)
	}
	return string(data)
}

// await waits until something is so.
func await(t *testing.T, h *harness, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(waitTimeout); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("still not: %s\n%s", what, h.tail())
		}
	}
}

// connected are the agents that the server hears of now.
func connected(t *testing.T, h *harness) string {
	t.Helper()
	out, err := h.ask("ada", "agent", "list", "--json")
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	var names []string
	for dec := json.NewDecoder(strings.NewReader(out)); dec.More(); {
		var a struct {
			Agent     string
			Connected bool
		}
		if err := dec.Decode(&a); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		if a.Connected {
			names = append(names, a.Agent)
		}
	}
	return strings.Join(names, " ")
}

// TestAgents: other machines enrol by a line that is good once, whatever is killed; they
// are there whenever the server is, can do nothing else, and are gone when their key is.
func TestAgents(t *testing.T) {
	t.Parallel()
	h := served(t, plain)
	ask := h.asker(t)
	enrol := func(args ...string) string {
		line, _, _ := strings.Cut(ask(append([]string{"agent", "enrol"}, args...)...), "\n")
		return line
	}
	first, second := newMachine(t, h, "first"), newMachine(t, h, "second")
	line := enrol("--name", "web-1", "--tag", "role=web", "--tag", "zone=a")
	for _, point := range []string{"join.key-made", "join.accepted", "join.noted"} {
		if out, err := first.paste(line, "HEADGATE_CRASH_AT="+point); err == nil || strings.Contains(out, "error: ") {
			t.Fatalf("it was not killed at %s: %v: %s", point, err, out)
		}
	}
	if out, err := first.paste(line); err == nil ||
		!strings.Contains(out, "has enrolled already: it is an agent of "+h.SSH) {
		t.Errorf("killed when all was done: %v: %s", err, out)
	}
	if out, err := second.paste(line); err == nil || !strings.Contains(out, "unable to authenticate") {
		t.Errorf("the line is good a second time: %v: %s", err, out)
	}
	if out, err := first.paste(enrol("--name", "web-9")); err == nil ||
		!strings.Contains(out, "this machine has enrolled already: it is an agent of ") {
		t.Errorf("%v: %s", err, out)
	}
	first.start("HEADGATE_CRASH_AT=hosts.declared-kept") // its worker dies of the first deployment, and goes on
	await(t, h, "web-1 is there", func() bool { return connected(t, h) == "web-1" })

	// The server is killed when the second machine's token is bound to its key, and comes back.
	h.hangUp()
	if err := h.stop(true); err != nil {
		t.Fatal(err)
	}
	if err := h.start([]string{"HEADGATE_CRASH_AT=enrolment.claimed"}); err != nil {
		t.Fatal(err)
	}
	line = enrol("--name", "web-2", "--tag", "role=web")
	if out, err := second.paste(line); err == nil {
		t.Fatalf("the server was not killed: %s", out)
	}
	if !h.ended(waitTimeout) {
		t.Fatal("the server was not killed")
	}
	h.hangUp()
	if err := h.start(nil); err != nil {
		t.Fatal(err)
	}
	third := newMachine(t, h, "third")
	if out, err := third.paste(line); err == nil || !strings.Contains(out, "not good") {
		t.Errorf("a third machine takes the token of the second: %v: %s", err, out)
	}
	if out, err := second.paste(line); err != nil || !strings.Contains(out, "this machine is web-2") {
		t.Fatalf("%v: %s", err, out)
	}
	second.start()
	await(t, h, "both are there", func() bool { return connected(t, h) == "web-1 web-2" })

	// A machine's key opens nothing else.
	key := filepath.Join(first.data(), "agent", "key")
	args := append(h.sshArgs("ada"), "-i", key, "127.0.0.1", "whoami")
	for i, arg := range args {
		if arg == h.key("ada") {
			args[i] = key
		}
	}
	if out, errs, err := within(waitTimeout, h.dir, h.env(), "ssh", args...); err == nil ||
		err.Error() != "exit status 255" || out != "" {
		t.Errorf("ssh with a machine's key: %v: %s%s", err, out, errs)
	}
	if out, err := h.ask("ada", "agent", "show", "web-1"); err != nil || !strings.Contains(out, "role=web zone=a") {
		t.Errorf("%v: %s", err, out)
	}

	deploysToMachines(t, h, first, second)

	// One whose key is gone, by now, is gone at once, and for good.
	if left := connected(t, h); strings.Contains(left, "web-1") {
		t.Errorf("there are %s", left)
	}
	await(t, h, "web-1 has been refused", func() bool { return strings.Contains(first.told(), "unable to authenticate") })
	if _, err := h.ask("ada", "agent", "show", "web-1"); err == nil {
		t.Error("web-1 is still there")
	}
	if last := connected(t, h); last != "web-2" {
		t.Errorf("there are %q", last)
	}
	noSecrets(t, h, line)
}

// shows waits until production of the shop says all of that.
func shows(t *testing.T, h *harness, what ...string) {
	t.Helper()
	var out string
	for deadline := time.Now().Add(waitTimeout); ; time.Sleep(20 * time.Millisecond) {
		out, _ = h.ask("ada", "env", "show", "shop", "production")
		if !slices.ContainsFunc(what, func(w string) bool { return !strings.Contains(out, w) }) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("production is not %q:\n%s\n%s", what, out, h.tail())
		}
	}
}

// shop is what is deployed to other machines. Its scripts note what they did beside the
// data directory of the machine that runs them.
var shop = map[string]string{
	"buildspec.yml":     "version: 0.2\nphases: {build: {commands: [\"true\"]}}\nartifacts: {files: [scripts/*, version]}\n",
	"headgate.yaml":     "environments: {production: {target: hosts, path: deploy}}\n",
	"deploy/hosts.yaml": "tags: {role: [web, api]}\ndeployment: OneAtATime\n",
	"deploy/appspec.yml": "version: 0.0\nos: linux\nhooks:\n" +
		"  ApplicationStart: [{location: scripts/start.sh, timeout: 300}]\n",
	"scripts/start.sh": `#!/bin/sh
machine=${0%%/data/*}
version=$(cat "${0%/*}/../version")
echo "starting $version"
echo "$version" >>$machine/ran
[ ! -e $machine/hold-$version ] || exec sleep 1000
`,
}

// deploysToMachines tells how environments come to web-1 and web-2, which are first and
// second.
func deploysToMachines(t *testing.T, h *harness, first, second *otherMachine) {
	t.Helper()
	if out, err := h.ask("ada", "repo", "create", "shop"); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	work := filepath.Join(h.dir, "shop")
	git := func(args ...string) {
		t.Helper()
		if out, errs, err := within(waitTimeout, work, h.env(), "git", args...); err != nil {
			t.Fatalf("git %v: %v: %s%s", args, err, out, errs)
		}
	}
	release := func(version string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(work, "version"), []byte(version+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		git("add", "-A")
		git("commit", "-qm", "Version "+version)
		git("push", "-q", "ssh://"+h.SSH+"/shop", "HEAD:main")
	}
	for name, text := range shop {
		path := filepath.Join(work, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o755)); err != nil {
			t.Fatal(err)
		}
	}
	git("init", "-q", "-b", "main")
	ran := func(m *otherMachine) string {
		data, err := os.ReadFile(filepath.Join(m.dir, "ran"))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
		return strings.Join(strings.Fields(string(data)), " ")
	}
	// Both get it, by their tags.
	release("one")
	shows(t, h, "release 1, healthy", "web-1", "web-2")
	if ran(first) != "one" || ran(second) != "one" {
		t.Errorf("there ran %q and %q", ran(first), ran(second))
	}
	if !strings.Contains(first.told(), "signal: killed") {
		t.Errorf("the worker of web-1 was not killed:\n%s", first.told())
	}
	if out, err := h.ask("ada", "env", "logs", "shop", "production"); err != nil ||
		strings.Count(out, "starting one") != 2 {
		t.Errorf("logs: %v: %s", err, out)
	}
	if out, err := h.ask("ada", "agent", "list"); err != nil ||
		strings.Count(out, "shop in production: release 1, healthy") != 2 {
		t.Errorf("%v: %s", err, out)
	}

	// One that is away is waited for, since one of two has to stay; and gets it when it is back.
	second.kill()
	await(t, h, "web-2 is away", func() bool { return connected(t, h) == "web-1" })
	release("two")
	shows(t, h, "waiting for web-2, which cannot be reached")
	if ran(first) != "one" {
		t.Errorf("web-1 ran %q while web-2 was away", ran(first))
	}
	second.start()
	shows(t, h, "release 2, healthy")
	if ran(first) != "one two" || ran(second) != "one two" {
		t.Errorf("there ran %q and %q", ran(first), ran(second))
	}
	if !strings.Contains(first.told(), "signal: killed") {
		t.Errorf("the worker of web-1 was not killed:\n%s", first.told())
	}

	// One that is drained gets nothing new, and the others need not wait for it.
	if out, err := h.ask("ada", "agent", "drain", "web-2"); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if out, err := h.ask("ada", "agent", "list"); err != nil ||
		!regexp.MustCompile(`web-2 +now, since .*, drained `).MatchString(out) {
		t.Errorf("%v: %s", err, out)
	}
	release("two-and-a-half")
	shows(t, h, "release 3, healthy on 1 of 1 ", "drained: nothing new is deployed to it")
	if ran(first) != "one two two-and-a-half" || ran(second) != "one two" {
		t.Errorf("there ran %q and %q", ran(first), ran(second))
	}
	if out, err := h.ask("ada", "agent", "resume", "web-2"); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	await(t, h, "web-2 has it", func() bool { return ran(second) == "one two two-and-a-half" })

	// An agent that is killed while a script runs does not run it again. It has failed, and
	// what was there comes back by a commit, on both.
	if err := os.WriteFile(filepath.Join(first.dir, "hold-three"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	release("three")
	await(t, h, "web-1 is at it", func() bool { return ran(first) == "one two two-and-a-half three" })
	first.kill()
	await(t, h, "web-1 is away", func() bool { return connected(t, h) == "web-2" })
	first.start()
	shows(t, h, "release 3, healthy", "hold")
	if strings.Count(ran(first), "three") != 1 || strings.Contains(ran(second), "three") {
		t.Errorf("there ran %q and %q", ran(first), ran(second))
	}
	if !strings.Contains(first.told(), "signal: killed") {
		t.Errorf("the worker of web-1 was not killed:\n%s", first.told())
	}

	// A server that comes back finds everything as it was, and deploys nothing again.
	before := ran(first) + ", " + ran(second)
	h.hangUp()
	if err := h.stop(true); err != nil {
		t.Fatal(err)
	}
	if err := h.start(nil); err != nil {
		t.Fatal(err)
	}
	shows(t, h, "release 3, healthy", "hold")
	if after := ran(first) + ", " + ran(second); after != before {
		t.Errorf("there had run %q, and now %q", before, after)
	}
	await(t, h, "both are back", func() bool { return connected(t, h) == "web-1 web-2" })

	// The key of one is taken away in the middle of a deployment: the others get it.
	if err := os.WriteFile(filepath.Join(first.dir, "hold-four"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	release("four")
	if out, err := h.ask("ada", "promote", "shop", "production", "5"); err != nil { // which ends the hold
		t.Fatalf("%v: %s", err, out)
	}
	await(t, h, "ada approves", func() bool {
		_, err := h.ask("ada", "approve", "shop", "production")
		return err == nil
	})
	await(t, h, "web-1 is at it", func() bool { return strings.HasSuffix(ran(first), " four") })
	if out, err := h.ask("ada", "agent", "remove", "web-1"); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	shows(t, h, "release 5, healthy on 1 of 1 ")
	if strings.Count(ran(first), "four") != 1 || !strings.HasSuffix(ran(second), " four") {
		t.Errorf("there ran %q and %q", ran(first), ran(second))
	}
}

// noSecrets wants the token of a line nowhere on the disks of server and machines.
func noSecrets(t *testing.T, h *harness, line string) {
	t.Helper()
	_, token, _ := strings.Cut(line, "hgenrol_")
	token, _, _ = strings.Cut(token, " ")
	if len(token) != 43 {
		t.Fatalf("no token in %s", line)
	}
	err := filepath.WalkDir(h.dir, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) || err == nil && !d.Type().IsRegular() || d != nil && d.Name() == "headgate" {
			return nil
		}
		data, err := os.ReadFile(path)
		if bytes.Contains(data, []byte(token)) {
			return fmt.Errorf("%s holds a token", path)
		}
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}
