package e2e

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/headgate-cd/headgate/e2e/power"
)

// inMachine runs a test once more as the first process of a machine of its own, with which
// all that it starts ends: process, mount and what other namespaces the flags name.
func inMachine(t *testing.T, flags uintptr, env ...string) ([]byte, error) {
	machine := exec.Command("/proc/self/exe", "-test.run=^"+t.Name()+"$", "-test.v")
	machine.Env = append(os.Environ(), env...)
	machine.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWPID | flags,
		Pdeathsig:  syscall.SIGKILL,
	}
	return machine.CombinedOutput()
}

// ownMounts has mounts of this machine be its own, and its processes be seen.
func ownMounts() error {
	return errors.Join(unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""), unix.Mount("proc", "/proc", "proc", 0, ""))
}

// The network: the server's address, which no link's end carries with it, and where a
// machine's link begins and ends.
const (
	networkVariable = "HEADGATE_NETWORK" // set in the machine that has it
	serverAddress   = "10.77.0.1"
	shopSize        = 4 << 20 // bytes of what is deployed
)

// quickTCP has a connection notice within a second that a link is back, where the kernel can.
const quickTCP = " find /proc/sys/net/ipv4/tcp_rto_max_ms -exec sysctl -qw net.ipv4.tcp_rto_max_ms=1000 ;"

// linked is a machine with a network of its own, to which one link leads.
type linked struct {
	*otherMachine
	holder *exec.Cmd // has its namespaces
	link   string
}

// newLinked makes the nth machine. As another user it may write in its own directory
// and in its /srv, which is below it.
func newLinked(t *testing.T, h *harness, n int, user ...string) *linked {
	t.Helper()
	m := &linked{otherMachine: newMachine(t, h, fmt.Sprintf("web-%d", n)), link: fmt.Sprintf("hg%d", n)}
	m.holder = exec.Command("sleep", "infinity")
	m.holder.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWNS,
		Pdeathsig:  syscall.SIGKILL,
	}
	if err := m.holder.Start(); err != nil {
		t.Fatal(err)
	}
	pid := strconv.Itoa(m.holder.Process.Pid)
	srv := filepath.Join(m.dir, "srv")
	if err := os.Mkdir(srv, 0o755); err != nil {
		t.Fatal(err)
	}
	inside := []string{"nsenter", "--target", pid, "--net", "--mount", "--wdns=" + m.dir, "--"}
	here, there := fmt.Sprintf("10.77.%d.1", n), fmt.Sprintf("10.77.%d.2/24", n)
	for _, line := range []string{
		"ip link add " + m.link + " type veth peer name eth0 netns " + pid,
		"ip address add " + here + "/24 dev " + m.link,
		"ip link set " + m.link + " up",
		strings.Join(inside, " ") + " ip address add " + there + " dev eth0",
		strings.Join(inside, " ") + " ip link set eth0 up",
		strings.Join(inside, " ") + " ip route add default via " + here,
		strings.Join(inside, " ") + " mount --bind " + srv + " /srv",
	} {
		m.run(line)
	}
	m.wrap = inside
	m.run(strings.Join(inside, " ") + quickTCP)
	if len(user) > 0 {
		m.run("chown " + user[0] + " " + m.dir + " " + srv)
		m.wrap = append(m.wrap, "setpriv", "--reuid", user[0], "--regid", "nogroup", "--clear-groups", "--")
	}
	return m
}

// run runs a command of the test's own.
func (m *linked) run(line string) {
	m.t.Helper()
	runs(m.t, m.h, line)
}

func runs(t *testing.T, h *harness, line string) {
	t.Helper()
	words := strings.Fields(line)
	if out, errs, err := within(waitTimeout, h.dir, h.env(), words[0], words[1:]...); err != nil {
		t.Fatalf("%s: %v: %s%s", line, err, out, errs)
	}
}

func (m *linked) cut()     { m.run("ip link set " + m.link + " down") }
func (m *linked) restore() { m.run("ip link set " + m.link + " up") }

// received is how many bytes have come to the machine.
func (m *linked) received() int {
	m.t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/dev", m.holder.Process.Pid))
	found := regexp.MustCompile(`eth0: *(\d+)`).FindStringSubmatch(string(data))
	if err != nil || found == nil {
		m.t.Fatalf("%v: %s", err, data)
	}
	n, err := strconv.Atoi(found[1])
	if err != nil {
		m.t.Fatal(err)
	}
	return n
}

// in is a path of its /srv.
func (m *linked) in(name string) string { return filepath.Join(m.dir, "srv", name) }

func (m *linked) holds(name string) string {
	data, _ := os.ReadFile(m.in(name)) // what is not there holds nothing
	return strings.Join(strings.Fields(string(data)), " ")
}

// arrived is how much of an artifact that is fetched just now has come.
func (m *linked) arrived() (n int64) {
	parts, _ := filepath.Glob(filepath.Join(m.data(), "artifacts", "blobs", "sha256", ".part-*"))
	for _, part := range parts {
		if info, err := os.Stat(part); err == nil {
			n += info.Size()
		}
	}
	return n
}

// TestCutLinks: two machines with networks of their own, one whose agent is an ordinary
// user's, lose their links in the middle of a deployment. Each goes on with what it can,
// and heals itself, while the server says that nobody knows; with the links back what was
// in flight goes on where it was, and no script runs twice. What does not change is not sent
// again.
func TestCutLinks(t *testing.T) {
	if os.Getenv(networkVariable) == "" {
		t.Parallel()
		dir := t.TempDir()
		// An ordinary user's way to what is below.
		if err := errors.Join(os.Chmod(dir, 0o711), os.Chmod(filepath.Dir(dir), 0o711)); err != nil {
			t.Fatal(err)
		}
		bin, err := plain()
		if err != nil {
			t.Fatal(err)
		}
		out, err := inMachine(t, unix.CLONE_NEWNET, networkVariable+"=1", "HEADGATE_DIR="+dir, "HEADGATE_BIN="+bin)
		t.Logf("%s", out)
		if err != nil && len(out) == 0 {
			power.Needs(t, err) // root, as there
		}
		if err != nil {
			t.Fatal(err)
		}
		return
	}
	if err := ownMounts(); err != nil {
		t.Fatal(err)
	}
	h, err := newHarness(os.Getenv("HEADGATE_DIR"), func() (string, error) { return os.Getenv("HEADGATE_BIN"), nil })
	if err != nil {
		t.Fatal(err)
	}
	runs(t, h, "ip link set lo up")
	runs(t, h, "ip address add "+serverAddress+"/32 dev lo")
	runs(t, h, quickTCP)
	h.SSH, h.HTTP = serverAddress+":2222", "http://"+serverAddress+":8080"
	h.args = []string{"--plain-http"}
	t.Cleanup(func() { h.finish(t.Errorf) })
	if err := h.start(nil); err != nil {
		t.Fatal(err)
	}
	web := []*linked{newLinked(t, h, 1), newLinked(t, h, 2, "nobody")}
	for i, m := range web {
		line, err := h.ask("ada", "agent", "enrol", "--name", fmt.Sprintf("web-%d", i+1), "--tag", "role=web")
		line, _, _ = strings.Cut(line, "\n")
		if err != nil || !strings.HasPrefix(line, "curl ") {
			t.Fatalf("%v: %s", err, line)
		}
		if out, err := m.paste(line); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		m.start()
	}
	await(t, h, "both are there", func() bool { return connected(t, h) == "web-1 web-2" })
	s := newShop(t, h)
	s.noise(1)
	s.release("one")
	shows(t, h, "release 1, healthy")

	// web-1 is in a script, web-2 has half of what it is to run, and both lose their links.
	if err := unix.Mkfifo(web[0].in("hold-two"), 0o600); err != nil {
		t.Fatal(err)
	}
	web[1].run("tc qdisc add dev " + web[1].link + " root tbf rate 8mbit burst 64k latency 400ms")
	before := web[1].received()
	s.noise(2)
	s.release("two")
	await(t, h, "web-1 is at it", func() bool { return web[0].holds("ran") == "one two" })
	await(t, h, "web-2 has half of it", func() bool { // or all, where nobody has looked for seconds
		return web[1].arrived() > shopSize/2 || web[1].holds("ran") == "one two"
	})
	for _, m := range web {
		m.cut()
	}
	await(t, h, "nobody is heard", func() bool { return connected(t, h) == "" })
	shows(t, h, "unknown", "web-1, web-2 cannot be reached, and what runs there goes on")

	gate, err := os.OpenFile(web[0].in("hold-two"), os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	gate.Close()
	await(t, h, "web-1 has it", func() bool { return strings.Contains(web[0].status(), "in production: healthy") })
	heals := func() {
		t.Helper()
		if err := os.WriteFile(web[0].in("shop/version"), []byte("by hand\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		await(t, h, "web-1 heals itself", func() bool { return web[0].holds("shop/version") == "two" })
	}
	heals()
	for _, m := range web {
		m.kill()
		m.start()
	}
	heals()

	for _, m := range web {
		m.restore()
	}
	await(t, h, "both are back", func() bool { return connected(t, h) == "web-1 web-2" })
	await(t, h, "web-2 has it", func() bool { return web[1].holds("ran") == "one two" })
	shows(t, h, "release 2, healthy on 2 of 2")
	for i, m := range web {
		if ran := m.holds("ran"); ran != "one two" || m.holds("shop/version") != "two" {
			t.Errorf("on web-%d there ran %q", i+1, ran)
		}
	}
	if came := web[1].received() - before; came > shopSize*5/4 {
		t.Errorf("%d bytes came to web-2 for an artifact of %d", came, shopSize)
	}

	// Of a release that differs in one file, that one moves.
	before = web[1].received()
	s.release("three")
	shows(t, h, "release 3, healthy")
	await(t, h, "web-2 has it", func() bool { return web[1].holds("ran") == "one two three" })
	if came := web[1].received() - before; came > shopSize/8 {
		t.Errorf("%d bytes came to web-2 for one small file", came)
	}
	if info, err := os.Stat(web[1].in("shop/version")); err != nil || info.Sys().(*syscall.Stat_t).Uid == 0 {
		t.Errorf("what an ordinary user's agent has installed: %v, %v", info, err)
	}
}

// status is what the agent says to people on its machine.
func (m *otherMachine) status() string {
	m.t.Helper()
	name, args := m.there(filepath.Join(m.dir, "headgate"), "agent", "status", "--data", m.data())
	out, _, _ := within(waitTimeout, m.dir, m.env(), name, args...) // none may run just now
	return out
}

// siteShop is a shop that is installed below /srv, where its script notes what it did.
type siteShop struct {
	t    *testing.T
	h    *harness
	work string
}

func newShop(t *testing.T, h *harness) *siteShop {
	t.Helper()
	s := &siteShop{t, h, filepath.Join(h.dir, "shop")}
	if out, err := h.ask("ada", "repo", "create", "shop"); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for name, text := range map[string]string{
		"buildspec.yml":     "version: 0.2\nphases: {build: {commands: [\"true\"]}}\nartifacts: {files: [scripts/*, site/*]}\n",
		"headgate.yaml":     "environments: {production: {target: hosts, path: deploy}}\n",
		"deploy/hosts.yaml": "tags: {role: web}\ndeployment: AllAtOnce\n",
		"deploy/appspec.yml": "version: 0.0\nos: linux\nfiles: [{source: site, destination: /srv/shop}]\nhooks:\n" +
			"  ApplicationStart: [{location: scripts/start.sh, timeout: 300}]\n",
		"scripts/start.sh": "#!/bin/sh\nversion=$(cat /srv/shop/version)\necho $version >>/srv/ran\n" +
			"[ ! -p /srv/hold-$version ] || read go </srv/hold-$version || true\n",
	} {
		path := filepath.Join(s.work, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o755)); err != nil {
			t.Fatal(err)
		}
	}
	s.git("init", "-q", "-b", "main")
	return s
}

// noise has what is deployed be large, and differ from what was before.
func (s *siteShop) noise(seed byte) {
	s.t.Helper()
	noise := make([]byte, shopSize)
	_, _ = rand.NewChaCha8([32]byte{seed}).Read(noise) // it never fails, says its documentation
	path := filepath.Join(s.work, "site", "noise")
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, noise, 0o644)); err != nil {
		s.t.Fatal(err)
	}
}

func (s *siteShop) git(args ...string) {
	s.t.Helper()
	if out, errs, err := within(waitTimeout, s.work, s.h.env(), "git", args...); err != nil {
		s.t.Fatalf("git %v: %v: %s%s", args, err, out, errs)
	}
}

func (s *siteShop) release(version string) {
	s.t.Helper()
	if err := os.WriteFile(filepath.Join(s.work, "site", "version"), []byte(version+"\n"), 0o644); err != nil {
		s.t.Fatal(err)
	}
	s.git("add", "-A")
	s.git("commit", "-qm", "Version "+version)
	s.git("push", "-q", "ssh://"+s.h.SSH+"/shop", "HEAD:main")
}
